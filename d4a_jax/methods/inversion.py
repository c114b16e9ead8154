"""Matching of BatchNorm statistics (SRe2L, Yin et al. 2023): inverting a teacher.

A network with batch norm is trained once for a segment, by `pretrain_epochs`, on all
real images or those that the filter kept (`network_training.data`). Then, for every
batch x of about a hundred images, as many of each class, with the labels y,

    L(x) = CE(f(A_w(x)), y) + r sum_l ( |mu_l(A_w(x)) - mu_l| + |s_l(A_w(x)) - s_l| )

with mu_l and s_l the running mean and variance of batch norm l and Euclidean norms over
channels (eq. 7 and 8 there). No real image takes part, and what an earlier segment
holds does not matter; D4A's part is the filter, which decides what the teacher learns.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from d4a_jax import rng
from d4a_jax.augment import siamese_augment
from d4a_jax.formation import decode
from d4a_jax.methods.base import Method, MethodOptions, Passes, Setting
from d4a_jax.methods.inner_networks import fresh_network
from d4a_jax.networks.layers import BATCH_NORM_MOMENTUM
from d4a_jax.options import option

# Images of a batch there; more where there are more classes, one of each.
_BATCH = 100


@dataclasses.dataclass(frozen=True)
class Inversion(MethodOptions):
    """Options of the inversion of a teacher.

    Attributes:
      statistics_weight: r, weight of the statistics of batch norm.
    """

    statistics_weight: float = option(1.0, low=0.0)

    passes = Passes(real=0, synthetic=2, constant=0)
    single_network = True

    def problems(self, config):
        if config.has_regularizer:
            yield (
                f"regularizer.name is {config.shown_regularizer} with method.name "
                f"{config.method_name!r}; it takes no account of earlier segments, so "
                "it must be 'none'."
            )
        if not config.network_training.pretrain_epochs:
            yield (
                "network_training.pretrain_epochs is 0 with method.name "
                f"{config.method_name!r}; the teacher has to be trained, so it must be "
                "at least 1."
            )
        if config.matching.outer_iterations > 1:
            yield (
                f"matching.outer_iterations is {config.matching.outer_iterations} with "
                f"method.name {config.method_name!r}; a segment has one teacher, so it "
                "must be 1."
            )

    def network_problems(self, network, spec):
        if not jax.eval_shape(network.init, jax.random.key(0))["batch_stats"]:
            yield (
                f"network is {spec!r} with a method that inverts batch norm; it must "
                "have batch norm, as in 'convnet:norm=batch'."
            )

    def build(self, setting: Setting) -> Method:
        """The method of SRe2L."""

        def update(key, step, state, params, batch):
            pixels, task = params["images"], batch.task
            classes = setting.network.num_classes
            key = rng.stream(key, "matching", step)

            def loss_of(pixels):
                batches, labels = _batches(_formed(pixels, setting), task.data.labels)
                numbers = jnp.arange(len(batches))
                keys = jax.vmap(lambda k: rng.stream(key, "batch", k))(numbers)
                one = lambda batch: batch_loss(
                    setting, self.statistics_weight, state.variables, *batch, labels
                )
                losses = jax.lax.map(one, (keys, batches))
                return jnp.sum(losses), jnp.mean(losses)

            # Classes that pad the devices' shares would spoil a batch's statistics.
            gradient, loss = jax.grad(loss_of, has_aux=True)(pixels[:classes])
            padding = [(0, len(pixels) - classes)] + [(0, 0)] * (pixels.ndim - 1)
            gradient = jnp.pad(gradient, padding)
            return {"images": gradient}, state, {"matching_loss": loss}

        return Method(
            lambda key, task: fresh_network(key, 0, setting, task),
            lambda key, step, task: None,
            update,
        )


def batch_loss(
    setting: Setting,
    statistics_weight: float,
    variables: dict,
    key: jax.Array,
    images: jax.Array,
    labels: jax.Array,
) -> jax.Array:
    """L of one batch: `images` float `[b, h, w, c]` in [0, 1], `labels` int `[b]`."""
    augmented = siamese_augment(
        rng.stream(key, "augment"),
        setting.normalize(images),
        setting.augmentation,
        shared=False,
    )
    old = variables["batch_stats"]
    logits, new = setting.network.apply(variables, augmented, True)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    share = 1.0 - BATCH_NORM_MOMENTUM
    # Training moves the running statistics by this share towards those of the batch.
    distances = jax.tree.map(
        lambda new, old: optax.safe_norm((new - old) / share, 1e-12), new, old
    )
    return jnp.mean(losses) + statistics_weight * optax.tree.sum(distances)


def _formed(pixels, setting):
    """Formed images `[C, m, h, w, c]` of all classes."""
    one = lambda x: decode(x, setting.factor, setting.decode, setting.batch_syn_max)
    return jax.vmap(one)(pixels)


def _batches(formed, labels):
    """Batches `[k, b, h, w, c]`, each of as many images of every class, and its labels.

    Args:
      formed: `[C, m, h, w, c]`.
      labels: `[C]` and what pads the devices' shares.
    """
    classes, count = formed.shape[:2]
    most = max(1, _BATCH // classes)
    each = max(n for n in range(1, min(most, count) + 1) if count % n == 0)
    batches = formed.swapaxes(0, 1).reshape(count // each, -1, *formed.shape[2:])
    return batches, jnp.tile(labels[:classes], each)
