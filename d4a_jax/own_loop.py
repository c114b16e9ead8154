"""Pieces of a distillation loop, for those who write their own.

    import d4a_jax, jax, optax
    from d4a_jax import own_loop

    key, optimizer = jax.random.key(0), optax.sgd(0.1)
    data = d4a_jax.load_dataset("digits")
    setting = own_loop.make_setting(data, d4a_jax.networks.ConvNet(depth=2, width=64))
    method = d4a_jax.methods.GradientMatching().build(setting)
    task = own_loop.make_task(data)
    params = {"images": own_loop.init_images(key, task, images_per_class=10, factor=2)}
    state, opt_state = method.init(key, task), optimizer.init(params)

    @jax.jit
    def step(i, params, state, opt_state):
        batch = own_loop.draw_batch(method, key, i, task)
        gradient, state, figures = method.update(key, i, state, params, batch)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), state, opt_state, figures

Everything works on one device here; `distill` adds the devices, the filter between
segments, checkpoints and reports. With the keys of `distill` and its optimizer the
images are the same.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from d4a_jax.config import Config, SyntheticConfig
from d4a_jax.data import Dataset
from d4a_jax.devices.parallel import make_layout
from d4a_jax.distillation.segments import initial_pixels
from d4a_jax.methods import Batch, Method, Setting, Task
from d4a_jax.networks import create_network, spec_of
from d4a_jax.real_data import index_classes, load_real_data, make_pool, read_rows
from d4a_jax.training import Normalization


def make_setting(dataset: Dataset, network: nn.Module | str, **values: Any) -> Setting:
    """The plain values from which a method is built.

    Args:
      dataset: its classes, image shape, mean and standard deviation are taken.
      network: a flax module or a specification string.
      **values: other fields of `Setting`, such as `factor` or `regularizer`.
    """
    spec = spec_of(network) if isinstance(network, nn.Module) else network
    return Setting(
        create_network(spec, dataset.num_classes, dataset.image_shape),
        Normalization(dataset.mean, dataset.std),
        **values,
    )


def make_task(
    dataset: Dataset, kept: np.ndarray | None = None, previous: np.ndarray | None = None
) -> Task:
    """The real images on one device, and the earlier segments.

    Args:
      dataset: the real data.
      kept: bool `[n]`, the training images that are matched; all by default. Every
        class keeps at least one.
      previous: uint8 `[C, p, h, w, c]`, stored images of earlier segments.
    """
    layout = make_layout(1)
    index = index_classes(np.asarray(dataset.train_labels), dataset.num_classes)
    chosen = index.valid
    if kept is not None:
        chosen = chosen & index.to_classes(np.asarray(kept, bool))
    if not chosen.any(1).all():
        empty = dataset.class_names[int(np.argmin(chosen.any(1)))]
        raise ValueError(f"kept has no image of class {empty!r}; it needs at least one.")
    if previous is None:
        previous = np.zeros((dataset.num_classes, 1, *dataset.image_shape), np.uint8)
        count = 0
    else:
        count = previous.shape[1]
    return Task(
        load_real_data(dataset.train_images, index, layout),
        make_pool(chosen, layout),
        jnp.asarray(previous),
        jnp.int32(count),
    )


def init_images(
    key: jax.Array,
    task: Task,
    images_per_class: int,
    factor: int = 1,
    init: str = "real",
) -> jax.Array:
    """The first stored images of a segment.

    Args:
      key: typed key.
      task: whose kept images are drawn.
      images_per_class: stored images n of each class.
      factor: each one is a mosaic of `factor**2` downscaled real images.
      init: "real" images or "noise".

    Returns:
      float32 `[C, n, h, w, c]` in [0, 1].
    """
    config = Config(synthetic=SyntheticConfig(factor=factor, init=init))
    return initial_pixels(key, task, images_per_class, config, make_layout(1))


def draw_batch(
    method: Method, key: jax.Array, step: jax.Array | int, task: Task
) -> Batch:
    """The data of a step of methods that feed nothing from the host.

    Args:
      method: says which real images the step reads.
      key: of the segment.
      step: number of the step in the segment.
      task: with the real images.
    """
    rows = method.draw(key, step, task)
    return Batch(task, read_rows(make_layout(1), task.data, rows))
