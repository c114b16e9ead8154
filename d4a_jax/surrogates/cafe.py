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

import functools

import jax
import jax.numpy as jnp

from d4a_jax.devices.parallel import map_items
from d4a_jax.surrogates.base import StepResult, Surrogate, SurrogateContext
from d4a_jax.surrogates.class_matching import (
    Classes,
    ClassStep,
    match_class,
    mean_over_classes,
    network_of_step,
    reads_of_step,
    step_constants,
)
from d4a_jax.surrogates.network_updates import fresh_network
from d4a_jax.surrogates.statistics import feature_statistic


def cafe(context: SurrogateContext) -> Surrogate:
    """Builds the surrogate of CAFE with D4A's regularizer."""
    matching = context.config.matching
    statistic = functools.partial(
        feature_statistic, kind="all", early_weight=matching.early_weight
    )

    def init(key, task):
        return fresh_network(key, 0, context, task)

    def match(shared, items, index):
        classes, slopes = items

        def slope_term(matched):
            # Only the slope of the discrimination loss counts here, not its value.
            embedding = matched[-1]
            change = embedding - jax.lax.stop_gradient(embedding)
            return matching.discrimination * jnp.vdot(slopes[index], change)

        return match_class(context, statistic, shared, classes, index, slope_term)

    def update(key, step, state, pixels, task):
        state = network_of_step(key, step, context, state, pixels, task)
        shared = step_constants(key, step, state, task)
        classes = Classes(pixels, task.data, task.pool, task.previous)
        centers, real = map_items(
            context.layout,
            lambda shared, items, i: _embeddings(context, shared, items, i),
            shared,
            classes,
        )
        valid = task.data.counts > 0
        value, slopes = jax.value_and_grad(discrimination)(centers, real, valid)
        losses, gradient = map_items(context.layout, match, shared, (classes, slopes))
        loss = mean_over_classes(losses, task)
        loss += matching.discrimination * value / jnp.sum(valid)
        return StepResult(gradient, {"matching_loss": loss}), state

    return Surrogate(init, update, reads=reads_of_step(context))


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


def _embeddings(context, shared, classes, index):
    """Mean embedding of a class's synthetic images, and those of its real batch."""
    label = classes.data.labels[index]
    step = ClassStep(context, jax.random.fold_in(shared.key, label))
    embed = lambda x: context.network.features(shared.variables, x, True)[-1]
    synthetic = embed(step.formed(classes.pixels[index]))
    return jnp.mean(synthetic, axis=0), embed(step.real("real", classes, index))
