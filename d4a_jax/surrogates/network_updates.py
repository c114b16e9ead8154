"""The networks at which gradients are matched: fresh ones, moved on by SGD (IDC)."""

import jax
import jax.numpy as jnp
from jax import lax

from d4a_jax import rng
from d4a_jax.formation import form_tiles
from d4a_jax.parallel import split_batch
from d4a_jax.real_data import Pool, draw_images, draw_positions
from d4a_jax.streaming import owned_rows
from d4a_jax.surrogates.base import SurrogateContext, Task
from d4a_jax.training import Batch, NetworkState, sgd, start, train_step

# Images drawn at once while pretraining; bounds the memory, not the result.
_PRETRAINING_BATCHES = 16


def fresh_network(
    key: jax.Array, outer: int | jax.Array, context: SurrogateContext, task: Task
) -> NetworkState:
    """The random network of an outer iteration, pretrained where the config says so.

    Args:
      key: key of the segment.
      outer: number of the outer iteration.
      context: static surroundings; `network_training.pretrain_epochs` counts passes
        over as many images as the real set has.
      task: where the training images come from.
    """
    training = context.config.network_training
    optimizer = sgd(training, training.learning_rate)
    state = start(rng.stream(key, "network", outer), context.network, optimizer)
    if not training.pretrain_epochs:
        return state
    key = rng.stream(key, "pretraining", outer)
    size = _PRETRAINING_BATCHES * training.batch_size
    calls = -(-jnp.sum(task.data.counts) * training.pretrain_epochs // size)
    return lax.fori_loop(
        0,
        calls,
        lambda i, state: _train(rng.stream(key, "call", i), context, state, task, size),
        state,
    )


def train_between_steps(
    key: jax.Array, context: SurrogateContext, state: NetworkState, task: Task
) -> NetworkState:
    """SGD on `images_per_step` training images, rounded up to whole batches."""
    training = context.config.network_training
    if not training.images_per_step:
        return state
    return _train(key, context, state, task, _images_between_steps(training))


def reads_between_steps(
    key: jax.Array, context: SurrogateContext, task: Task
) -> jax.Array | None:
    """Rows `[devices, k]` of images on the host that `train_between_steps` reads."""
    training = context.config.network_training
    pool = _pool(context, task)
    if not training.images_per_step or pool is None:
        return None
    size = _images_between_steps(training)
    drawn = draw_positions(rng.stream(key, "draw"), pool, size)
    return owned_rows(task.data.images, *drawn)


def _images_between_steps(training):
    """`images_per_step`, rounded up to whole batches."""
    return -(-training.images_per_step // training.batch_size) * training.batch_size


def _train(key, context, state, task, size):
    training = context.config.network_training
    optimizer = sgd(training, training.learning_rate)
    images, labels = _draw(rng.stream(key, "draw"), context, task, size)
    steps = size // training.batch_size

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


def _draw(key, context, task, size):
    """Training images (uint8, or float32 in [0, 1] if formed) and their labels."""
    pool = _pool(context, task)
    if pool is None:
        return _draw_previous(key, context, task, size)
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


def _draw_previous(key, context, task, size):
    """Formed images of the earlier segments, with replacement only between epochs."""
    factor = context.config.synthetic.factor
    classes, places = task.previous.shape[:2]
    count = jnp.where(task.data.counts > 0, task.num_previous * factor**2, 0)
    ends = jnp.cumsum(count)
    capacity = classes * places * factor**2
    ranks = rng.sample_without_replacement(key, ends[-1], capacity, size)
    group = jnp.searchsorted(ends, ranks, side="right")
    within = ranks - (ends - count)[group]
    stored = task.previous[group, within // factor**2].astype(jnp.float32) / 255.0
    return form_tiles(stored, within % factor**2, factor), task.data.labels[group]
