"""CAFE (Wang et al. 2022): mean features of all layers, and a discrimination loss.

    L = sum_c [ sum_l w_l || mean f_l(S_c) - mean f_l(B_c) ||^2 + lambda Reg_c ]
        + beta sum_{i in B} -log softmax_c( <psi(x_i), mean psi(S_c)> )_{y_i}

with f_l the map of stage l, psi the embedding (also among the f_l), S_c and B_c formed
and augmented as in `class_matching`. The second line (eq. 5 and 6 there) asks the mean
embeddings of the synthetic classes to classify the real images. It ties the classes
together, so a step has three parts: embeddings, class by class; the loss and its
slope at the mean embeddings, over all classes; pixel gradients, class by class.

The authors decide by two thresholds on accuracies when a network is trained on and when
a new one is taken; here both happen at fixed intervals, as in DC. Their maps of the
early stages are those before the pooling.
"""

import dataclasses

import jax
import jax.numpy as jnp

from d4a_jax.methods.base import Method, MethodOptions, Passes, Setting
from d4a_jax.methods.class_matching import (
    Matching,
    class_items,
    class_step,
    match_class,
    mean_over_classes,
    rows_of_step,
    step_constants,
)
from d4a_jax.methods.features import feature_problems
from d4a_jax.methods.inner_networks import fresh_network, network_of_step
from d4a_jax.methods.statistics import feature_statistic
from d4a_jax.options import option


@dataclasses.dataclass(frozen=True)
class Cafe(MethodOptions):
    """Options of CAFE.

    Attributes:
      distance: D of two tuples of mean features, "mse" or "l1".
      early_weight: weight of the maps of all stages but the last.
      discrimination: beta, weight of the discrimination loss.
      union: match a segment together with the earlier ones (PDD).
    """

    distance: str = option("mse", choices=("mse", "l1"))
    early_weight: float = option(0.1, low=0.0)
    discrimination: float = option(0.01, low=0.0)
    union: bool = False

    # As distribution matching, after another forward pass of both.
    passes = Passes(real=2, synthetic=3, constant=1)

    @property
    def uses_previous(self) -> bool:
        return self.union

    def problems(self, config):
        return feature_problems(config)

    def build(self, setting: Setting) -> Method:
        """The method of CAFE with D4A's regularizer."""

        def statistic(variables, label):
            del label  # Features need none.
            return feature_statistic(
                setting.network, variables, "all", self.early_weight
            )

        matching = Matching(setting, statistic, self.distance, self.union)

        def match(shared, item):
            item, slope = item

            def slope_term(matched):
                # Only the slope of the discrimination loss counts here, not its value.
                embedding = matched[-1]
                change = embedding - jax.lax.stop_gradient(embedding)
                return self.discrimination * jnp.vdot(slope, change)

            return match_class(matching, shared, item, slope_term)

        def update(key, step, state, params, batch):
            task, pixels = batch.task, params["images"]
            state = network_of_step(key, step, setting, state, pixels, batch)
            shared = step_constants(key, step, state, task)
            items = class_items(pixels, batch)
            centers, real = setting.map_classes(
                lambda shared, item: _embeddings(setting, shared, item), shared, items
            )
            valid = task.data.counts > 0
            value, slopes = jax.value_and_grad(discrimination)(centers, real, valid)
            losses, gradient = setting.map_classes(match, shared, (items, slopes))
            loss = mean_over_classes(losses, task)
            loss += self.discrimination * value / jnp.sum(valid)
            return {"images": gradient}, state, {"matching_loss": loss}

        return Method(
            lambda key, task: fresh_network(key, 0, setting, task),
            lambda key, step, task: rows_of_step(key, step, setting, task),
            update,
        )


def discrimination(
    centers: jax.Array, embeddings: jax.Array, valid: jax.Array
) -> jax.Array:
    """Cross-entropy of real images classified by the synthetic classes' means, summed.

    Args:
      centers: `[C, d]`, mean embedding of each class's synthetic images.
      embeddings: `[C, b, d]`, of real images of each class.
      valid: bool `[C]`, False for classes that only pad the devices' shares.
    """
    logits = jnp.einsum("cbd,kd->cbk", embeddings, centers)
    logits = jnp.where(valid, logits, -jnp.inf)
    own = jnp.einsum("cbd,cd->cb", embeddings, centers)
    losses = jax.nn.logsumexp(logits, axis=-1) - own
    return jnp.sum(jnp.where(valid[:, None], losses, 0.0))


def _embeddings(setting, shared, item):
    """Mean embedding of a class's synthetic images, and those of its real batch."""
    step = class_step(setting, shared, item)
    embed = lambda x: setting.network.features(shared.variables, x, True)[-1]
    synthetic = embed(step.formed(item.pixels))
    return jnp.mean(synthetic, axis=0), embed(step.augment(item.real["kept"]))
