"""Matching of BatchNorm statistics (SRe2L, Yin et al. 2023): inverting a teacher.

A network with batch norm is trained once for a segment, by `pretrain_epochs`, on all
real images or those that the filter kept (`network_training.data`). Then, for every
batch x of about a hundred images, as many of each class, with the labels y,

    L(x) = CE(f(A_w(x)), y) + r sum_l ( |mu_l(A_w(x)) - mu_l| + |s_l(A_w(x)) - s_l| )

with mu_l and s_l the running mean and variance of batch norm l and Euclidean norms over
channels (eq. 7 and 8 there). No real image takes part, and what an earlier segment
holds does not matter; D4A's part is the filter, which decides what the teacher learns.
"""

import jax
import jax.numpy as jnp
import optax

from d4a_jax import rng
from d4a_jax.augment import siamese_augment
from d4a_jax.formation import decode
from d4a_jax.networks.layers import BATCH_NORM_MOMENTUM
from d4a_jax.surrogates.base import StepResult, Surrogate, SurrogateContext
from d4a_jax.surrogates.network_updates import fresh_network

# Images of a batch there; more where there are more classes, one of each.
_BATCH = 100


def inversion(context: SurrogateContext) -> Surrogate:
    """Builds the surrogate of SRe2L."""
    config = context.config

    def init(key, task):
        return fresh_network(key, 0, context, task)

    def update(key, step, state, pixels, task):
        classes = context.network.num_classes
        key = rng.stream(key, "matching", step)

        def loss_of(pixels):
            batches, labels = _batches(_formed(pixels, config), task.data.labels)
            numbers = jnp.arange(len(batches))
            keys = jax.vmap(lambda k: rng.stream(key, "batch", k))(numbers)
            one = lambda batch: batch_loss(context, state.variables, *batch, labels)
            losses = jax.lax.map(one, (keys, batches))
            return jnp.sum(losses), jnp.mean(losses)

        # Classes that pad the devices' shares would spoil a batch's statistics.
        gradient, loss = jax.grad(loss_of, has_aux=True)(pixels[:classes])
        padding = [(0, len(pixels) - classes)] + [(0, 0)] * (pixels.ndim - 1)
        figures = {"matching_loss": loss}
        return StepResult(jnp.pad(gradient, padding), figures), state

    return Surrogate(init, update)


def batch_loss(
    context: SurrogateContext,
    variables: dict,
    key: jax.Array,
    images: jax.Array,
    labels: jax.Array,
) -> jax.Array:
    """L of one batch: `images` float `[b, h, w, c]` in [0, 1], `labels` int `[b]`."""
    matching = context.config.matching
    augmented = siamese_augment(
        rng.stream(key, "augment"),
        context.normalize(images),
        matching.augmentation,
        shared=False,
    )
    old = variables["batch_stats"]
    logits, new = context.network.apply(variables, augmented, True)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    share = 1.0 - BATCH_NORM_MOMENTUM
    # Training moves the running statistics by this share towards those of the batch.
    distances = jax.tree.map(
        lambda new, old: optax.safe_norm((new - old) / share, 1e-12), new, old
    )
    return jnp.mean(losses) + matching.statistics_weight * optax.tree.sum(distances)


def _formed(pixels, config):
    """Formed images `[C, m, h, w, c]` of all classes."""
    synthetic, bound = config.synthetic, config.matching.batch_syn_max
    one = lambda x: decode(x, synthetic.factor, synthetic.decode, bound)
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
