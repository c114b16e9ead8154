"""The networks at which images are matched: fresh ones, moved on by SGD.

IDC moves them on real images, DC and DSA on the synthetic images in the making; PDD
first trains them on the earlier segments.
"""

import jax
import jax.numpy as jnp
from jax import lax

from d4a_jax import rng
from d4a_jax.devices.parallel import split_batch
from d4a_jax.devices.streaming import owned_rows
from d4a_jax.formation import form_tiles
from d4a_jax.real_data import Pool, draw_images, draw_positions
from d4a_jax.surrogates.base import SurrogateContext, Task
from d4a_jax.training import (
    Batch,
    NetworkState,
    sgd,
    start,
    step_decay,
    train_step,
)

# Images drawn at once while pretraining; bounds the memory, not the result.
_PRETRAINING_BATCHES = 16


def fresh_network(
    key: jax.Array, outer: int | jax.Array, context: SurrogateContext, task: Task
) -> NetworkState:
    """The random network of an outer iteration, pretrained where the config says so.

    Args:
      key: key of the segment.
      outer: number of the outer iteration.
      context: static surroundings; `network_training.stage_epochs` counts passes over
        each union of earlier segments, and then `pretrain_epochs` passes over as many
        images as the real set has.
      task: where the training images come from.
    """
    training = context.config.network_training
    optimizer = sgd(training, training.learning_rate)
    state = start(rng.stream(key, "network", outer), context.network, optimizer)
    if training.stage_epochs and context.has_previous:
        key_of_stages = rng.stream(key, "stages", outer)
        state = _train_on_stages(key_of_stages, context, state, task)
    if not training.pretrain_epochs:
        return state
    key = rng.stream(key, "pretraining", outer)
    size = _PRETRAINING_BATCHES * training.batch_size
    calls = -(-jnp.sum(task.data.counts) * training.pretrain_epochs // size)
    return lax.fori_loop(
        0,
        calls,
        lambda i, state: _train(
            rng.stream(key, "call", i),
            context,
            state,
            lambda key: _draw_real(key, context, task, size),
        ),
        state,
    )


def train_between_steps(
    key: jax.Array,
    context: SurrogateContext,
    state: NetworkState,
    pixels: jax.Array,
    task: Task,
) -> NetworkState:
    """SGD on `images_per_step` training images, rounded up to whole batches.

    Args:
      key: typed key.
      context: static surroundings.
      state: the network.
      pixels: the segment in the making, `[C, n, h, w, c]`.
      task: where the other training images come from.
    """
    training = context.config.network_training
    if not training.images_per_step:
        return state
    size = _images_between_steps(training)

    def draw(key):
        if training.data == "synthetic":
            return _draw_all_segments(key, context, pixels, task, size)
        return _draw_real(key, context, task, size)

    return _train(key, context, state, draw)


def reads_between_steps(
    key: jax.Array, context: SurrogateContext, task: Task
) -> jax.Array | None:
    """Rows `[devices, k]` of images on the host that `train_between_steps` reads."""
    training = context.config.network_training
    pool = None if training.data == "synthetic" else _pool(context, task)
    if not training.images_per_step or pool is None:
        return None
    size = _images_between_steps(training)
    drawn = draw_positions(rng.stream(key, "draw"), pool, size)
    return owned_rows(task.data.images, *drawn)


def _images_between_steps(training):
    """`images_per_step`, rounded up to whole batches."""
    return -(-training.images_per_step // training.batch_size) * training.batch_size


def _train_on_stages(key, context, state, task):
    """Trains on S_1, then on S_1 u S_2 ... to S_<k, each with the full decay (PDD)."""
    config, training = context.config, context.config.network_training
    ends = jnp.cumsum(jnp.array(config.segment_sizes[:-1]))
    optimizer = lambda steps: sgd(training, step_decay(training.learning_rate, steps))

    def stage(number, state):
        count = _formed_counts(context, task, ends[number])
        batches = -(-jnp.sum(count) // training.batch_size)
        begun = ends[number] <= task.num_previous
        steps = jnp.where(begun, training.stage_epochs * batches, 0)

        def one(step, state):
            size, here = training.batch_size, rng.stream(key, "stage", number, step)
            draw = lambda key: _draw_formed(
                key, context, task, task.previous, count, size
            )
            return _train(here, context, state, draw, optimizer(steps))

        fresh = state._replace(opt_state=optimizer(steps).init(state.params))
        trained = lax.fori_loop(0, steps, one, fresh)
        return trained._replace(opt_state=state.opt_state)

    return lax.fori_loop(0, len(ends), stage, state)


def _train(key, context, state, draw, optimizer=None):
    training = context.config.network_training
    optimizer = optimizer or sgd(training, training.learning_rate)
    images, labels = draw(rng.stream(key, "draw"))
    steps = len(labels) // training.batch_size

    def one(state, step):
        index, images, labels = step
        batch = Batch(images, labels, jnp.ones(len(labels)))
        state, _ = train_step(
            rng.stream(key, "step", index),
            context.network,
            optimizer,
            training,
            context.normalize,
            state,
            split_batch(context.layout, batch),
        )
        return state, None

    grouped = lambda x: x.reshape(steps, training.batch_size, *x.shape[1:])
    inputs = (jnp.arange(steps), grouped(images), grouped(labels))
    return lax.scan(one, state, inputs)[0]


def _draw_real(key, context, task, size):
    """Training images (uint8, or float32 in [0, 1] if formed) and their labels."""
    pool = _pool(context, task)
    if pool is None:
        count = _formed_counts(context, task, task.num_previous)
        return _draw_formed(key, context, task, task.previous, count, size)
    return draw_images(key, task.data, pool, size)


def _pool(context, task):
    """The real images that networks are trained on; None for earlier segments."""
    source = context.config.network_training.data
    if source == "earlier" and context.has_previous:
        return None
    if source == "filtered":
        return task.pool
    classes, capacity = task.pool.positions.shape
    everything = jnp.broadcast_to(jnp.arange(capacity), (classes, capacity))
    return Pool(everything, task.data.counts)


def _draw_all_segments(key, context, pixels, task, size):
    """Formed images of the segment in the making and of all earlier ones."""
    available, stored = pixels.shape[1], pixels
    if context.has_previous:
        available += task.num_previous
        earlier = task.previous.astype(jnp.float32) / 255.0
        stored = jnp.concatenate([pixels, earlier], axis=1)
    count = _formed_counts(context, task, available)
    return _draw_formed(key, context, task, stored, count, size)


def _formed_counts(context, task, stored):
    """Formed images of each class; none of those that pad the devices' shares."""
    formed = stored * context.config.synthetic.factor**2
    return jnp.where(task.data.counts > 0, formed, 0)


def _draw_formed(key, context, task, stored, count, size):
    """Formed images of stored ones, with replacement only between epochs.

    Args:
      key: typed key.
      context: static surroundings.
      task: the classes' labels.
      stored: `[C, p, h, w, c]`, uint8 or float32 in [0, 1].
      count: int32 `[C]`, from how many formed images of each class to draw.
      size: how many to draw.
    """
    factor = context.config.synthetic.factor
    classes, places = stored.shape[:2]
    ends = jnp.cumsum(count)
    capacity = classes * places * factor**2
    ranks = rng.sample_without_replacement(key, ends[-1], capacity, size)
    group = jnp.searchsorted(ends, ranks, side="right")
    within = ranks - (ends - count)[group]
    images = stored[group, within // factor**2]
    if images.dtype == jnp.uint8:
        images = images.astype(jnp.float32) / 255.0
    return form_tiles(images, within % factor**2, factor), task.data.labels[group]
