"""Soft labels learned by trajectory matching (DATM, Guo et al. 2024, section 3.3).

Every image that a student trains on, which is each tile of a stored image where there
are several, has label logits z of its own; its label is softmax(z). They begin with
what the experts say of the segment's first images after their last epoch, averaged over
those experts that are right,

    z = mean of z_e over the experts e with argmax z_e = y,

and are learned together with the images: dL / dz is as exact as the pixels' gradient
(see `matching.unroll`), and SGD with momentum moves them. They are no teacher's labels
of stored crops (see `soft_labels`): an image has one, and is augmented and mixed as
images with hard labels are.

What DATM leaves open or does not have: where no expert is right, z is the mean over all
of them with its largest logit and that of the class y exchanged, so that no label is
wrong at first. A finished segment's logits are stored in float16; students of later
segments train on these, as they do on its rounded pixels. Images that `frozen_share`
leaves alone have labels that are learned.
"""

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import optax

from d4a_jax.formation import form
from d4a_jax.methods.base import Learned, Setting, Task

if TYPE_CHECKING:
    from d4a_jax.trajectories import Experts

# Experts that are asked at once.
_TOGETHER = 10


def learned_labels(
    setting: Setting, optimizer: optax.GradientTransformation
) -> Learned:
    """Label logits `[C, n, factor**2, classes]` that are learned with the images.

    Args:
      setting: its experts say the first ones.
      optimizer: moves them.
    """
    per_image = (setting.factor**2, setting.network.num_classes)

    def first(pixels, task):
        return first_logits(setting.experts(), pixels, task, setting.factor)

    return Learned(
        lambda pixels, task: (*pixels.shape[:2], *per_image),
        first,
        optimizer,
        lambda logits: logits.astype(jnp.float16),
    )


def first_logits(
    experts: "Experts", pixels: jax.Array, task: Task, factor: int
) -> jax.Array:
    """The logits that a segment's labels begin with.

    Args:
      experts: all of them are asked, after their last epoch.
      pixels: float32 `[C, n, h, w, c]` in [0, 1], the first stored images.
      task: with the classes' labels.
      factor: tiles along a side of a stored image.

    Returns:
      float32 `[C, n, factor**2, classes]`.
    """
    images, labels = jax.jit(_formed, static_argnames="factor")(
        pixels, task.data.labels, factor=factor
    )
    add, total = jax.jit(optax.tree.add), None
    for first in range(0, experts.count, _TOGETHER):
        group = range(first, min(first + _TOGETHER, experts.count))
        said = experts.ensemble.predict(experts.last(group), images, labels, opinion)
        total = said if total is None else add(total, said)
    return jax.jit(_of_stored, static_argnames=("count", "size"))(
        total, labels, count=experts.count, size=pixels.shape[1]
    )


class Opinion(NamedTuple):
    """The opinion of experts on images, summed over the experts.

    Attributes:
      of_right: float32 `[..., classes]`, logits of those that are right.
      right: float32 `[...]`, how many are right.
      of_all: float32 `[..., classes]`, logits of all.
    """

    of_right: jax.Array
    right: jax.Array
    of_all: jax.Array


def opinion(logits: jax.Array, labels: jax.Array) -> Opinion:
    """The sums over experts of logits `[E, b, classes]`, for `Ensemble.predict`."""
    logits = logits.astype(jnp.float32)
    right = jnp.argmax(logits, axis=-1) == labels
    of_right = jnp.sum(logits, axis=0, where=right[..., None])
    return Opinion(of_right, jnp.sum(right, axis=0, dtype=jnp.float32), logits.sum(0))


def agreed(total: Opinion, labels: jax.Array, count: int) -> jax.Array:
    """The logits `[..., classes]` that labels begin with.

    Args:
      total: of all experts.
      labels: int32 `[...]`, the classes.
      count: how many experts there are.
    """
    of_right = total.of_right / jnp.maximum(total.right, 1.0)[..., None]
    of_all, number = total.of_all / count, jnp.arange(total.of_all.shape[-1])
    own, best = labels[..., None], jnp.argmax(of_all, axis=-1, keepdims=True)
    largest = jnp.take_along_axis(of_all, best, axis=-1)
    exchanged = jnp.where(number == best, jnp.take_along_axis(of_all, own, -1), of_all)
    exchanged = jnp.where(number == own, largest, exchanged)
    return jnp.where(total.right[..., None] > 0, of_right, exchanged)


def _formed(pixels, labels, factor):
    """Formed images `[C, factor**2 n, h, w, c]`, tile by tile, and their labels."""
    formed = jax.vmap(lambda stored: form(stored, factor))(pixels)
    return formed, jnp.broadcast_to(labels[:, None], formed.shape[:2])


def _of_stored(total, labels, count, size):
    """The first logits, grouped by the stored images of a class."""
    logits = agreed(total, labels, count)
    grouped = logits.reshape(len(labels), -1, size, logits.shape[-1])
    return grouped.swapaxes(1, 2)
