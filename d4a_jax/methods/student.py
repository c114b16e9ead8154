"""The student of trajectory matching: its images, labels, batches and loss."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from d4a_jax import rng
from d4a_jax.augment import siamese_augment
from d4a_jax.formation import form_tiles
from d4a_jax.methods.base import Params, Setting, Task


class StudentInputs(NamedTuple):
    """The learned inputs of a student, of all classes and segments.

    Attributes:
      images: float32 `[s, h, w, c]`, stored images.
      logits: float32 `[s, factor**2, classes]`, logits of the labels of the images that
        are formed from them; None where labels are hard.
    """

    images: jax.Array
    logits: jax.Array | None = None


class StudentBatches(NamedTuple):
    """The training set of a student and its batches.

    Attributes:
      inputs: stored images of all classes and segments, and learned labels.
      labels: int32 `[s]`, hard ones.
      rows: int32 `[N, b]`, which images are in the batch of each step.
      tiles: int32 `[N, b]`, which of its tiles is formed.
      weights: float32 `[N, b]`, zero for the images that only fill up a batch.
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
    setting: Setting,
    steps: int,
    batch_syn: int | None,
    params: Params,
    task: Task,
) -> StudentBatches:
    """The union of all segments so far, and the batches of a student's steps.

    Every image is seen once before any is seen again; the last batch of such a pass
    may be smaller.

    Args:
      key: of the step.
      setting: the plain values.
      steps: N.
      batch_syn: formed images of a batch; None for all.
      params: "images" of the segment in the making and, where they are learned, the
        logits of its "labels" `[C, n, factor**2, classes]`.
      task: with the earlier segments.
    """
    tiles = setting.factor**2
    own = StudentInputs(params["images"], params.get("labels"))
    union, filled = _union(setting, own, task)
    places = filled.shape[1]
    # Nothing here may depend on how many classes only fill up the devices.
    everything = setting.network.num_classes * places * tiles
    size = min(batch_syn or everything, everything)
    count = jnp.sum(filled) * tiles
    per_pass = -(-count // size)

    def of_step(step):
        order = _order(rng.stream(key, "order", step // per_pass), task, filled, tiles)
        positions = step % per_pass * size + jnp.arange(size)
        drawn = order[positions % count]
        return drawn // tiles, drawn % tiles, positions < count

    numbers = jnp.arange(steps)
    rows, tile, own = lax.map(of_step, numbers)
    return StudentBatches(
        jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:]), union),
        jnp.repeat(task.data.labels, places),
        rows,
        tile,
        own.astype(jnp.float32),
        jax.vmap(lambda step: rng.stream(key, "augment", step))(numbers),
    )


def _order(key, task, filled, tiles):
    """Formed images of all classes in random order, those of filled places first."""
    shape = (filled.shape[1], tiles)
    draw = lambda label: jax.random.uniform(jax.random.fold_in(key, label), shape)
    priority = jax.vmap(draw)(task.data.labels)
    priority = jnp.where(filled[..., None], priority, 2.0)
    return jnp.argsort(priority.ravel()).astype(jnp.int32)


def _union(setting, own, task):
    """Inputs `[C, p + n, ...]` of all segments so far, and which places count."""
    real = task.data.counts > 0
    if not setting.has_previous:
        return own, jnp.broadcast_to(real[:, None], own.images.shape[:2])
    previous = StudentInputs(task.previous.astype(jnp.float32) / 255.0)
    if own.logits is not None:
        previous = previous._replace(logits=task.previous_labels.astype(jnp.float32))
    join = lambda earlier, new: jnp.concatenate([earlier, new], axis=1)
    number = jnp.arange(task.previous.shape[1] + own.images.shape[1])
    filled = (number < task.num_previous) | (number >= task.previous.shape[1])
    return jax.tree.map(join, previous, own), real[:, None] & filled


def student_loss(
    setting: Setting,
    variables: dict,
    student: StudentBatches,
    batch: StudentInputs,
    index: jax.Array,
) -> jax.Array:
    """Mean cross-entropy of the batch of a student's step, its images augmented.

    Where labels are learned they are the softmax of the batch's logits (DATM, Guo et
    al. 2024, section 3.3), and the loss depends on these as on the images.
    """
    formed = form_tiles(batch.images, student.tiles[index], setting.factor)
    augmented = siamese_augment(
        student.keys[index],
        setting.normalize(formed),
        setting.augmentation,
        shared=False,
    )
    augmented = setting.split_batch(augmented)
    logits, _ = setting.network.apply(variables, augmented, True)
    if batch.logits is None:
        labels = student.labels[student.rows[index]]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    else:
        own = jax.vmap(lambda of_tiles, tile: of_tiles[tile])
        labels = jax.nn.softmax(own(batch.logits, student.tiles[index]))
        losses = optax.softmax_cross_entropy(logits, labels)
    weights = student.weights[index]
    return jnp.sum(losses * weights) / jnp.sum(weights)
