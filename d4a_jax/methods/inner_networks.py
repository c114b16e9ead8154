"""The networks at which images are matched: fresh ones, moved on by SGD.

IDC moves them on real images, DC and DSA on the synthetic images in the making; PDD
first trains them on the earlier segments.
"""

import jax
import jax.numpy as jnp
import optax
from jax import lax

from d4a_jax import rng
from d4a_jax import training as recipes
from d4a_jax.formation import form_tiles
from d4a_jax.methods.base import Batch, Setting, Task
from d4a_jax.real_data import (
    LabelledImages,
    Pool,
    SetRows,
    draw_images,
    draw_rows,
    everything,
)
from d4a_jax.training import NetworkState, sgd, start, step_decay, train_step

# Images drawn at once while pretraining; bounds the memory, not the result.
_PRETRAINING_BATCHES = 16


def fresh_network(
    key: jax.Array, outer: int | jax.Array, setting: Setting, task: Task
) -> NetworkState:
    """The random network of an outer iteration, pretrained where the setting says so.

    Args:
      key: key of the segment.
      outer: number of the outer iteration.
      setting: `network_training.stage_epochs` counts passes over each union of earlier
        segments, and then `pretrain_epochs` passes over as many images as the real set
        has.
      task: where the training images come from.
    """
    training = setting.network_training
    optimizer = sgd(training, training.learning_rate)
    state = start(rng.stream(key, "network", outer), setting.network, optimizer)
    if training.stage_epochs and setting.has_previous:
        key_of_stages = rng.stream(key, "stages", outer)
        state = _train_on_stages(key_of_stages, setting, state, task)
    if not training.pretrain_epochs:
        return state
    key = rng.stream(key, "pretraining", outer)
    size = _PRETRAINING_BATCHES * training.batch_size
    calls = -(-jnp.sum(task.data.counts) * training.pretrain_epochs // size)

    def call(i, state):
        here = rng.stream(key, "call", i)
        images = _draw_for_pretraining(rng.stream(here, "draw"), setting, task, size)
        return _train(here, setting, state, images)

    return lax.fori_loop(0, calls, call, state)


def train_between_steps(
    key: jax.Array,
    setting: Setting,
    state: NetworkState,
    pixels: jax.Array,
    batch: Batch,
    real: LabelledImages | None,
) -> NetworkState:
    """SGD on `images_per_step` training images, rounded up to whole batches.

    Args:
      key: typed key.
      setting: the plain values.
      state: the network.
      pixels: the segment in the making, `[C, n, h, w, c]`.
      batch: of the step.
      real: the images of `rows_between_steps`.
    """
    training, task = setting.network_training, batch.task
    if not training.images_per_step:
        return state
    if real is None:
        size = _images_between_steps(training)
        draw = rng.stream(key, "draw")
        if training.data == "synthetic":
            real = _draw_all_segments(draw, setting, pixels, task, size)
        else:
            real = _draw_earlier_segments(draw, setting, task, size)
    return _train(key, setting, state, real)


def rows_between_steps(key: jax.Array, setting: Setting, task: Task) -> SetRows | None:
    """The real images on which `train_between_steps` trains; None for synthetic ones.

    Args:
      key: the key that `train_between_steps` gets.
      setting: the plain values.
      task: with the real set.
    """
    training = setting.network_training
    pool = None if training.data == "synthetic" else _pool(setting, task)
    if not training.images_per_step or pool is None:
        return None
    return draw_rows(rng.stream(key, "draw"), pool, _images_between_steps(training))


def _images_between_steps(training):
    """`images_per_step`, rounded up to whole batches."""
    return -(-training.images_per_step // training.batch_size) * training.batch_size


def _train_on_stages(key, setting, state, task):
    """Trains on S_1, then on S_1 u S_2 ... to S_<k, each with the full decay (PDD)."""
    training = setting.network_training
    ends = jnp.cumsum(jnp.array(setting.segment_sizes[:-1]))
    optimizer = lambda steps: sgd(training, step_decay(training.learning_rate, steps))

    def stage(number, state):
        count = _formed_counts(setting, task, ends[number])
        batches = -(-jnp.sum(count) // training.batch_size)
        begun = ends[number] <= task.num_previous
        steps = jnp.where(begun, training.stage_epochs * batches, 0)

        def one(step, state):
            size, here = training.batch_size, rng.stream(key, "stage", number, step)
            draw = rng.stream(here, "draw")
            images = _draw_formed(draw, setting, task, task.previous, count, size)
            return _train(here, setting, state, images, optimizer(steps))

        fresh = state._replace(opt_state=optimizer(steps).init(state.params))
        trained = lax.fori_loop(0, steps, one, fresh)
        return trained._replace(opt_state=state.opt_state)

    return lax.fori_loop(0, len(ends), stage, state)


def _train(
    key: jax.Array,
    setting: Setting,
    state: NetworkState,
    drawn: LabelledImages,
    optimizer: optax.GradientTransformation | None = None,
) -> NetworkState:
    """SGD steps on drawn images, batch by batch."""
    training = setting.network_training
    optimizer = optimizer or sgd(training, training.learning_rate)
    steps = len(drawn.labels) // training.batch_size

    def one(state, step):
        index, images, labels = step
        batch = recipes.Batch(images, labels, jnp.ones(len(labels)))
        state, _ = train_step(
            rng.stream(key, "step", index),
            setting.network,
            optimizer,
            training,
            setting.normalize,
            state,
            setting.split_batch(batch),
        )
        return state, None

    grouped = lambda x: x.reshape(steps, training.batch_size, *x.shape[1:])
    inputs = (jnp.arange(steps), grouped(drawn.images), grouped(drawn.labels))
    return lax.scan(one, state, inputs)[0]


def _pool(setting: Setting, task: Task) -> Pool | None:
    """The real images that networks are trained on; None for earlier segments."""
    source = setting.network_training.data
    if source == "earlier" and setting.has_previous:
        return None
    return task.kept if source == "filtered" else everything(task.data)


def _draw_for_pretraining(key, setting, task, size):
    pool = _pool(setting, task)
    if pool is None:
        return _draw_earlier_segments(key, setting, task, size)
    return draw_images(key, task.data, pool, size)


def _draw_earlier_segments(key, setting, task, size):
    count = _formed_counts(setting, task, task.num_previous)
    return _draw_formed(key, setting, task, task.previous, count, size)


def _draw_all_segments(key, setting, pixels, task, size):
    """Formed images of the segment in the making and of all earlier ones."""
    available, stored = pixels.shape[1], pixels
    if setting.has_previous:
        available += task.num_previous
        earlier = task.previous.astype(jnp.float32) / 255.0
        stored = jnp.concatenate([pixels, earlier], axis=1)
    count = _formed_counts(setting, task, available)
    return _draw_formed(key, setting, task, stored, count, size)


def _formed_counts(setting, task, stored):
    """Formed images of each class; none of those that pad the devices' shares."""
    return jnp.where(task.data.counts > 0, stored * setting.factor**2, 0)


def _draw_formed(
    key: jax.Array,
    setting: Setting,
    task: Task,
    stored: jax.Array,
    count: jax.Array,
    size: int,
) -> LabelledImages:
    """Formed images of stored ones, with replacement only between epochs.

    Args:
      key: typed key.
      setting: with the factor.
      task: the classes' labels.
      stored: `[C, p, h, w, c]`, uint8 or float32 in [0, 1].
      count: int32 `[C]`, from how many formed images of each class to draw.
      size: how many to draw.
    """
    factor = setting.factor
    classes, places = stored.shape[:2]
    ends = jnp.cumsum(count)
    capacity = classes * places * factor**2
    ranks = rng.sample_without_replacement(key, ends[-1], capacity, size)
    group = jnp.searchsorted(ends, ranks, side="right")
    within = ranks - (ends - count)[group]
    images = stored[group, within // factor**2]
    if images.dtype == jnp.uint8:
        images = images.astype(jnp.float32) / 255.0
    formed = form_tiles(images, within % factor**2, factor)
    return LabelledImages(formed, task.data.labels[group])



def network_of_step(
    key: jax.Array,
    step: jax.Array,
    setting: Setting,
    state: NetworkState,
    pixels: jax.Array,
    batch: Batch,
) -> NetworkState:
    """The network of a step: a fresh one, or that of the step before, trained on.

    Args:
      key: key of the segment.
      step: number of the step in the segment.
      setting: `inner_iterations` says when a fresh network comes.
      state: the network of the step before.
      pixels: the segment in the making, `[C, n, h, w, c]`.
      batch: of the step, whose real images include those of `network_rows`.
    """
    inner, real = setting.inner_iterations, batch.real["network"]
    return lax.cond(
        step % inner == 0,
        lambda: fresh_network(key, step // inner, setting, batch.task),
        lambda: train_between_steps(
            _key_between_steps(key, step), setting, state, pixels, batch, real
        ),
    )


def network_rows(
    key: jax.Array, step: jax.Array, setting: Setting, task: Task
) -> SetRows | None:
    """The real images that `network_of_step` trains on; none for a fresh network."""
    rows = rows_between_steps(_key_between_steps(key, step), setting, task)
    if rows is None:
        return None
    fresh = step % setting.inner_iterations == 0
    return rows._replace(groups=jnp.where(fresh, -1, rows.groups))


def _key_between_steps(key, step):
    return rng.stream(key, "network_batches", step - 1)
