"""One segment: its pixels, their optimizer and the loop of matching steps.

Which surrogate objective moves the pixels is unknown here; see `surrogates`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from d4a_jax import rng
from d4a_jax.config import Config
from d4a_jax.devices.parallel import Layout, compiled, map_items, split_batch
from d4a_jax.formation import compose
from d4a_jax.selection.beginnings import frozen_images, vary_copies
from d4a_jax.surrogates import Surrogate, Task

_ADAM_SECOND_BETA = 0.9  # SRe2L's.

# The metric that says which classes are no longer finite.
DIVERGED = "diverged"


class SegmentState(NamedTuple):
    """A segment in the making.

    Attributes:
      pixels: float32 `[C, n, h, w, c]`, stored images, nominally in [0, 1].
      opt_state: of the pixel optimizer.
      surrogate: state of the surrogate, such as its current network.
    """

    pixels: jax.Array
    opt_state: Any
    surrogate: Any


def pixel_learning_rate(config: Config, size: int, side: int) -> float:
    """IDC's rule: base * (images per class / 10) * (side / 32)**2; or the base itself.

    Args:
      config: `matching.learning_rate` is the base; `learning_rate_scaling` says whether
        the images per class are the segment's or the total, or "none" for no rule.
      size: images per class of the segment.
      side: height of the images.
    """
    if config.matching.learning_rate_scaling == "none":
        return config.matching.learning_rate
    total = config.matching.learning_rate_scaling == "total"
    images = config.synthetic.images_per_class if total else size
    return config.matching.learning_rate * (images / 10) * (side / 32) ** 2


def pixel_optimizer(
    config: Config,
    learning_rate: optax.ScalarOrSchedule,
    num_classes: int,
    std: tuple[float, ...],
) -> optax.GradientTransformation:
    """The optimizer of the pixels, as the methods of the field take it.

    Args:
      config: of `matching`, `optimizer` and `momentum`; `steps`, "joint" for one step
        on all classes (DC, DM) or "per_class" as in `per_class_sgd` (IDC); `pixels`,
        what moves.
      learning_rate: of one step.
      num_classes: number of classes.
      std: of every channel. Normalized pixels are z = (x - mean) / std, so dL/dz is std
        dL/dx, and dx is std dz.
    """
    matching = config.matching
    if matching.optimizer == "adam":
        decay = optax.cosine_decay_schedule(1.0, config.steps_per_segment)
        rate = learning_rate if callable(learning_rate) else lambda _: learning_rate
        decayed = lambda step: rate(step) * decay(step)
        optimizer = optax.adam(decayed, matching.momentum, _ADAM_SECOND_BETA)
    elif matching.steps == "joint":
        optimizer = optax.sgd(learning_rate, momentum=matching.momentum or None)
    else:
        optimizer = per_class_sgd(learning_rate, matching.momentum, num_classes)
    if matching.pixels == "unit":
        return optimizer
    scaling = optax.stateless(lambda gradient, _: gradient * jnp.array(std))
    return optax.chain(scaling, optimizer, scaling)


def per_class_sgd(
    learning_rate: optax.ScalarOrSchedule, momentum: float, num_classes: int
) -> optax.GradientTransformation:
    """IDC's optimizer in closed form, for all classes at once.

    IDC steps one momentum SGD over a tensor of all C classes after every class, so a
    class is also moved by C - 1 steps without a gradient of its own. Between two of
    its turns its velocity v decays by m^C and its images move by
    lr (1 + m + ... + m^(C-1)) v. Seen at the moments of its turns, that is exactly
    momentum SGD with momentum m^C and learning rate lr (1 - m^C) / (1 - m): for
    m = 0.5 and ten classes or more, plain SGD at twice the rate.
    """
    decay = momentum**num_classes
    in_closed_form = lambda rate: rate * (1 - decay) / (1 - momentum)
    if callable(learning_rate):
        rate = lambda step: in_closed_form(learning_rate(step))
    else:
        rate = in_closed_form(learning_rate)
    return optax.sgd(rate, momentum=decay if decay > 1e-7 else None)


def initial_pixels(
    key: jax.Array, task: Task, size: int, config: Config, layout: Layout
) -> jax.Array:
    """The first images of a segment: mosaics of real images, see `beginnings`.

    Multi-formation's mosaics hold factor**2 downscaled images each (IDC), drawn for
    each class without replacement from `task.beginning`, or taken in its order for a
    window; or noise around gray. Where a class has too few, copies differ by noise.

    Returns:
      float32 `[C, size, h, w, c]` in [0, 1].
    """
    factor = config.synthetic.factor
    count = size * factor**2

    def of_class(key, items, index):
        data, beginning = items
        label = data.labels[index]
        key = jax.random.fold_in(key, label)
        if config.synthetic.init == "noise":
            shape = (size, *data.images.shape[2:])
            return jnp.clip(jax.random.normal(key, shape) / 4 + 0.5, 0.0, 1.0)
        positions = beginning.positions[index]
        available = jnp.maximum(beginning.counts[index], 1)
        if config.synthetic.init == "window":
            drawn = jnp.arange(count) % available
        else:
            drawn = rng.sample_without_replacement(
                key, available, len(positions), count
            )
        images = data.images[index, positions[drawn]].astype(jnp.float32) / 255.0
        return compose(vary_copies(key, images, available), factor)

    beginning = task.pool if task.beginning is None else task.beginning
    return map_items(layout, of_class, key, (task.data, beginning))


def segment_functions(
    config: Config,
    surrogate: Surrogate,
    optimizer: optax.GradientTransformation,
    layout: Layout,
    size: int,
) -> tuple[Callable, Callable]:
    """The pair of functions that make a segment.

    Args:
      config: the run.
      surrogate: the objective.
      optimizer: of the pixels.
      layout: devices.
      size: images per class of the segment.

    Returns:
      `init`: (key, task) -> SegmentState, and
      `advance`: (key, first step, steps, state, task, fed) -> (SegmentState, metrics),
      where `steps` is static, `fed` what the surrogate's `feed` returned and metrics
      are arrays `[steps]`, but for `diverged`, bool `[steps, C]`: classes whose pixels,
      gradient or learned labels are no longer finite. Learned labels are zero until
      `begin` puts the first ones there. A step depends on the key and its number alone,
      so any division into calls gives the same result.
    """
    matching = config.matching
    moves = jnp.arange(size) >= frozen_images(config.synthetic, size)

    def init(key: jax.Array, task: Task) -> SegmentState:
        pixels = initial_pixels(rng.stream(key, "pixels"), task, size, config, layout)
        inner = surrogate.init(key, task)
        if surrogate.labels is not None:
            # Room for what `begin` puts there.
            shape = (*pixels.shape[:2], *surrogate.labels.shape)
            inner = surrogate.labels.put(inner, jnp.zeros(shape))
        # Placed as every step leaves it, or the second call would be compiled anew.
        opt_state = split_batch(layout, optimizer.init(pixels))
        return SegmentState(pixels, opt_state, inner)

    def one(key, step, state, task):
        # IDC keeps images in range only when a new network starts.
        starts = (matching.clip == "step") | (step % matching.inner_iterations == 0)
        pixels = jnp.where(starts, jnp.clip(state.pixels, 0.0, 1.0), state.pixels)
        result, inner = surrogate.update(key, step, state.surrogate, pixels, task)
        gradient = jnp.where(moves[:, None, None, None], result.gradient, 0.0)
        updates, opt_state = optimizer.update(gradient, state.opt_state)
        pixels = optax.apply_updates(pixels, updates)
        diverged = ~(_finite(pixels) & _finite(result.gradient))
        if surrogate.labels is not None:
            diverged |= ~_finite(finish_labels(surrogate.labels.get(inner)))
        metrics = {**result.metrics, DIVERGED: diverged}
        return SegmentState(pixels, opt_state, inner), metrics

    def advance(key, first, steps: int, state: SegmentState, task: Task, fed=None):
        def step(state, inputs):
            number, own = inputs
            return one(key, number, state, task._replace(fed=own))

        return lax.scan(step, state, (first + jnp.arange(steps), fed))

    return init, advance


def begin(
    init: Callable, surrogate: Surrogate, key: jax.Array, task: Task
) -> SegmentState:
    """The state before the first step, with the first labels where they are learned.

    Args:
      init: from `segment_functions`, compiled.
      surrogate: the objective that it was made for.
      key: of the segment.
      task: what it is matched to.
    """
    segment = init(key, task)
    if surrogate.labels is None:
        return segment
    logits = surrogate.labels.first(segment.pixels, task)
    inner = compiled(surrogate.labels.put)(segment.surrogate, logits)
    return segment._replace(surrogate=inner)


def _finite(pixels: jax.Array) -> jax.Array:
    """bool `[C]`: whether everything of a class is finite."""
    return jnp.isfinite(pixels).all(axis=tuple(range(1, pixels.ndim)))


def finish(pixels: jax.Array) -> jax.Array:
    """What is stored and seen by everything after: uint8, rounded and clipped."""
    return jnp.round(jnp.clip(pixels, 0.0, 1.0) * 255.0).astype(jnp.uint8)


def finish_labels(logits: jax.Array) -> jax.Array:
    """What is stored of learned labels and seen by everything after: float16."""
    return logits.astype(jnp.float16)
