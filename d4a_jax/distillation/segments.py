"""One segment: what is learned, its optimizer and the loop of matching steps.

Which method moves the pixels is unknown here; see `methods`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from d4a_jax import rng
from d4a_jax.config import Config
from d4a_jax.devices.parallel import Layout, map_items, split_batch
from d4a_jax.formation import compose
from d4a_jax.methods import Batch, Method, Params, Task
from d4a_jax.real_data import read_rows
from d4a_jax.selection.beginnings import frozen_images, vary_copies

_ADAM_SECOND_BETA = 0.9  # SRe2L's.

# The metric that says which classes are no longer finite.
DIVERGED = "diverged"


class SegmentState(NamedTuple):
    """A segment in the making.

    Attributes:
      params: all that is learned; "images" are float32 `[C, n, h, w, c]`, stored
        images, nominally in [0, 1].
      opt_state: of the optimizer of all that.
      method: state of the method, such as its current network.
    """

    params: Params
    opt_state: Any
    method: Any


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
    scaling = optax.stateless_with_tree_map(lambda leaf, _: leaf * jnp.array(std))
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

    beginning = task.kept if task.beginning is None else task.beginning
    return map_items(layout, of_class, key, (task.data, beginning))


def optimizer_of(
    method: Method, pixels: optax.GradientTransformation
) -> optax.GradientTransformation:
    """One optimizer of all that a method learns.

    Args:
      method: names what it learns beside the images.
      pixels: moves the images.
    """
    parts = {"images": pixels}
    parts |= {name: learned.optimizer for name, learned in method.learned.items()}
    return optax.partition(parts, {name: name for name in parts})


def segment_functions(
    config: Config,
    method: Method,
    pixels: optax.GradientTransformation,
    layout: Layout,
    size: int,
) -> tuple[Callable, Callable]:
    """The pair of functions that make a segment.

    Args:
      config: the run.
      method: whose gradient moves what is learned.
      pixels: optimizer of the images.
      layout: devices.
      size: images per class of the segment.

    Returns:
      `init`: (key, task) -> SegmentState, and
      `advance`: (key, first step, steps, state, task, fed) -> (SegmentState, metrics),
      where `steps` is static, `fed` is the tree of the method's `feed`, and metrics are
      arrays `[steps]`, but for `diverged`, bool `[steps, C]`: classes whose pixels,
      gradient or learned labels are no longer finite. Learned things are zero until
      `begin` puts their first values there. A step depends on the key and its number
      alone, so any division into calls gives the same result.
    """
    matching, optimizer = config.matching, optimizer_of(method, pixels)
    moves = jnp.arange(size) >= frozen_images(config.synthetic, size)

    def init(key: jax.Array, task: Task) -> SegmentState:
        images = initial_pixels(rng.stream(key, "pixels"), task, size, config, layout)
        state = method.init(key, task)
        # Room for what `begin` puts there.
        rest = {
            name: jnp.zeros(learned.shape(images, task))
            for name, learned in method.learned.items()
        }
        params = {"images": images, **split_batch(layout, rest)}
        # Placed as every step leaves it, or the second call would be compiled anew.
        opt_state = split_batch(layout, optimizer.init(params))
        return SegmentState(params, opt_state, state)

    def one(key, step, state, task, fed):
        # IDC keeps images in range only when a new network starts.
        starts = (matching.clip == "step") | (step % matching.inner_iterations == 0)
        images = state.params["images"]
        images = jnp.where(starts, jnp.clip(images, 0.0, 1.0), images)
        params = {**state.params, "images": images}
        real = read_rows(layout, task.data, method.draw(key, step, task))
        gradient, inner, figures = method.update(
            key, step, state.method, params, Batch(task, real, fed)
        )
        found = gradient["images"]
        still = jnp.where(moves[:, None, None, None], found, 0.0)
        updates, opt_state = optimizer.update(
            {**gradient, "images": still}, state.opt_state, params
        )
        params = optax.apply_updates(params, updates)
        diverged = ~(_finite(params["images"]) & _finite(found))
        for name, learned in method.learned.items():
            if learned.stored is not None:
                diverged |= ~_finite(learned.stored(params[name]))
        metrics = {**figures, DIVERGED: diverged}
        return SegmentState(params, opt_state, inner), metrics

    def advance(key, first, steps: int, state: SegmentState, task: Task, fed=None):
        def step(state, inputs):
            number, own = inputs
            return one(key, number, state, task, own)

        return lax.scan(step, state, (first + jnp.arange(steps), fed))

    return init, advance


def begin(init: Callable, method: Method, key: jax.Array, task: Task) -> SegmentState:
    """The state before the first step, with the first values of all that is learned.

    Args:
      init: from `segment_functions`, compiled.
      method: that it was made for.
      key: of the segment.
      task: what the segment is matched to.
    """
    segment = init(key, task)
    params = dict(segment.params)
    for name, learned in method.learned.items():
        first = learned.first(segment.params["images"], task)
        params[name] = jax.device_put(first, segment.params[name].sharding)
    return segment._replace(params=params)


def _finite(pixels: jax.Array) -> jax.Array:
    """bool `[C]`: whether everything of a class is finite."""
    return jnp.isfinite(pixels).all(axis=tuple(range(1, pixels.ndim)))


def finish(pixels: jax.Array) -> jax.Array:
    """What is stored and seen by everything after: uint8, rounded and clipped."""
    return jnp.round(jnp.clip(pixels, 0.0, 1.0) * 255.0).astype(jnp.uint8)
