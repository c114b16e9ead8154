"""The student of trajectory matching: its images, labels, batches and loss."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from d4a_jax import rng
from d4a_jax.augment import siamese_augment
from d4a_jax.devices.parallel import split_batch
from d4a_jax.formation import form_tiles
from d4a_jax.surrogates.base import SurrogateContext, Task


class StudentInputs(NamedTuple):
    """What a student sees and what is learned, of all classes and segments.

    Attributes:
      images: float32 `[s, h, w, c]`, stored images.
      logits: float32 `[s, factor**2, classes]`, logits of the labels of what is formed
        from them; None where labels are hard.
    """

    images: jax.Array
    logits: jax.Array | None = None


class StudentBatches(NamedTuple):
    """What a student trains on.

    Attributes:
      inputs: stored images of all classes and segments, and learned labels.
      labels: int32 `[s]`, hard ones.
      rows: int32 `[N, b]`, which images are in the batch of each step.
      tiles: int32 `[N, b]`, which of its tiles is formed.
      weights: float32 `[N, b]`, zero for what fills up a batch.
      keys: typed keys `[N]`, of the augmentation.
    """

    inputs: StudentInputs
    labels: jax.Array
    rows: jax.Array
    tiles: jax.Array
    weights: jax.Array
    keys: jax.Array


def draw_batches(
    key: jax.Array,
    context: SurrogateContext,
    pixels: jax.Array,
    task: Task,
    logits: jax.Array | None = None,
) -> StudentBatches:
    """The union of all segments so far, and the batches of a student's steps.

    Every image is seen once before any is seen again; the last batch of such a pass
    may be smaller.

    Args:
      key: of the step.
      context: the surroundings.
      pixels: float32 `[C, n, h, w, c]`, the segment in the making.
      task: with the earlier segments.
      logits: float32 `[C, n, factor**2, classes]`, of the segment's labels; None for
        hard labels.
    """
    settings, tiles = context.config.trajectory, context.config.synthetic.factor**2
    union, filled = _union(context, StudentInputs(pixels, logits), task)
    places = filled.shape[1]
    # Nothing here may depend on how many classes only fill up the devices.
    everything = context.network.num_classes * places * tiles
    size = min(settings.batch_syn or everything, everything)
    count = jnp.sum(filled) * tiles
    per_pass = -(-count // size)

    def of_step(step):
        order = _order(rng.stream(key, "order", step // per_pass), task, filled, tiles)
        positions = step % per_pass * size + jnp.arange(size)
        drawn = order[positions % count]
        return drawn // tiles, drawn % tiles, positions < count

    steps = jnp.arange(settings.student_steps)
    rows, tile, own = lax.map(of_step, steps)
    return StudentBatches(
        jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:]), union),
        jnp.repeat(task.data.labels, places),
        rows,
        tile,
        own.astype(jnp.float32),
        jax.vmap(lambda step: rng.stream(key, "augment", step))(steps),
    )


def _order(key, task, filled, tiles):
    """Formed images of all classes in random order, those of filled places first."""
    shape = (filled.shape[1], tiles)
    draw = lambda label: jax.random.uniform(jax.random.fold_in(key, label), shape)
    priority = jax.vmap(draw)(task.data.labels)
    priority = jnp.where(filled[..., None], priority, 2.0)
    return jnp.argsort(priority.ravel()).astype(jnp.int32)


def _union(context, own, task):
    """Inputs `[C, p + n, ...]` of all segments so far, and which places count."""
    real = task.data.counts > 0
    if not context.has_previous:
        return own, jnp.broadcast_to(real[:, None], own.images.shape[:2])
    previous = StudentInputs(task.previous.astype(jnp.float32) / 255.0)
    if own.logits is not None:
        previous = previous._replace(logits=task.previous_logits.astype(jnp.float32))
    join = lambda earlier, new: jnp.concatenate([earlier, new], axis=1)
    number = jnp.arange(task.previous.shape[1] + own.images.shape[1])
    filled = (number < task.num_previous) | (number >= task.previous.shape[1])
    return jax.tree.map(join, previous, own), real[:, None] & filled


def student_loss(
    context: SurrogateContext,
    variables: dict,
    student: StudentBatches,
    batch: StudentInputs,
    index: jax.Array,
) -> jax.Array:
    """Mean cross-entropy of the batch of a student's step, its images augmented.

    Where labels are learned they are the softmax of the batch's logits (DATM, Guo et
    al. 2024, section 3.3), and the loss depends on these as on the images.
    """
    factor = context.config.synthetic.factor
    formed = form_tiles(batch.images, student.tiles[index], factor)
    augmented = siamese_augment(
        student.keys[index],
        context.normalize(formed),
        context.config.matching.augmentation,
        shared=False,
    )
    augmented = split_batch(context.layout, augmented)
    logits, _ = context.network.apply(variables, augmented, True)
    if batch.logits is None:
        labels = student.labels[student.rows[index]]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    else:
        own = jax.vmap(lambda of_tiles, tile: of_tiles[tile])
        labels = jax.nn.softmax(own(batch.logits, student.tiles[index]))
        losses = optax.softmax_cross_entropy(logits, labels)
    weights = student.weights[index]
    return jnp.sum(losses * weights) / jnp.sum(weights)
