"""Where work meets hardware: device mesh, sharding, batching and compilation.

Everything that is independent along its leading axis (classes, networks of an
ensemble, images to classify) is spread over a one-dimensional mesh of all devices.
Library functions elsewhere are pure and know nothing of devices. The number of devices
never changes a result: keys belong to the class or the network, not to the device.

The devices may belong to several processes (see `processes`). Arrays are then global:
every process holds the parts of its own devices, and `to_host` gathers what all need.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from d4a_jax.devices.memory import items_that_fit, memory_for_items

AXIS = "items"


@dataclasses.dataclass(frozen=True)
class Layout:
    """The devices and how many items each of them computes at once.

    Attributes:
      mesh: one-dimensional mesh over which items are spread.
      chunk: items batched together on a device; zero batches as many as fit. CPUs are
        fastest with one at a time, because a batched kernel gradient needs several
        times the memory and gains nothing.
      memory: bytes that items may take that are batched, by `memory.peak_bytes`.
    """

    mesh: Mesh
    chunk: int
    memory: float = math.inf

    @property
    def num_devices(self) -> int:
        return self.mesh.size

    def padded(self, count: int) -> int:
        """The next multiple of the number of devices."""
        return math.ceil(count / self.num_devices) * self.num_devices


def make_layout(devices: int = 0, chunk: int = 0) -> Layout:
    """Lays the work out over the devices of all processes.

    Args:
      devices: how many to use; zero for all.
      chunk: items batched together on one device; zero leaves it to the backend (one
        on CPU, as many as fit on accelerators).

    Raises:
      ValueError: if there are fewer devices than asked for, or a process would be left
        without one.
    """
    available = jax.devices()
    used = available[: devices or len(available)]
    if devices > len(available):
        raise ValueError(
            f"runtime.devices is {devices}; there are {len(available)} "
            f"{available[0].platform} devices."
        )
    if len({d.process_index for d in used}) < jax.process_count():
        raise ValueError(
            f"runtime.devices is {devices}; each of the {jax.process_count()} "
            f"processes must have one of them, so it must be 0 or {len(available)}."
        )
    mesh = jax.make_mesh(
        (len(used),), (AXIS,), axis_types=(AxisType.Auto,), devices=used
    )
    if not chunk and available[0].platform == "cpu":
        chunk = 1
    return Layout(mesh, chunk, memory_for_items(mesh))


def spread(layout: Layout, tree: Any) -> Any:
    """Puts arrays on the devices, split along their leading axis.

    Leading axes that the number of devices does not divide are padded by repeating
    the last item.
    """

    def put(array):
        missing = layout.padded(len(array)) - len(array)
        if missing:
            tail = array[-1:]
            stack = jnp if isinstance(array, jax.Array) else np
            array = stack.concatenate([array] + [tail] * missing)
        return _place(array, NamedSharding(layout.mesh, P(AXIS)))

    return jax.tree.map(put, tree)


def spread_rows(
    layout: Layout,
    read: Callable[[np.ndarray], np.ndarray],
    rows: np.ndarray,
    shape: tuple[int, ...],
) -> jax.Array:
    """Like `spread`, of items that are read only by the process that holds them.

    Args:
      layout: the devices.
      read: from rows `[..., m]` to uint8 `[..., m, *shape]`.
      rows: `[n, m]`, row numbers of every item.
      shape: of what stands in a row.

    Returns:
      uint8 `[padded n, m, *shape]`.
    """
    last = len(rows) - 1
    whole = (layout.padded(len(rows)), *rows.shape[1:], *shape)

    def part(index):
        items = np.minimum(np.arange(whole[0])[index[0]], last)
        return read(rows[items])

    sharding = NamedSharding(layout.mesh, P(AXIS))
    return jax.make_array_from_callback(whole, sharding, part)


def replicate(layout: Layout, tree: Any) -> Any:
    """Puts a copy of every array on every device."""
    sharding = NamedSharding(layout.mesh, P())
    return jax.tree.map(lambda array: _place(array, sharding), tree)


def _place(array, sharding):
    if isinstance(array, jax.Array):
        if sharding.is_fully_addressable:
            return jax.device_put(array, sharding)
        return jax.jit(_identity, out_shardings=sharding)(array)
    array = np.asarray(array)
    return jax.make_array_from_callback(array.shape, sharding, lambda i: array[i])


def local_parts(array: jax.Array) -> list[np.ndarray]:
    """What the devices of this process hold of an array."""
    return [np.asarray(shard.data) for shard in array.addressable_shards]


def _identity(array):
    return array


def to_host(tree: Any) -> Any:
    """Whole arrays as NumPy arrays, in every process."""

    def fetch(array):
        if not isinstance(array, jax.Array) or array.is_fully_addressable:
            return np.asarray(array)
        return multihost_utils.process_allgather(array, tiled=True)

    return jax.tree.map(fetch, tree)


def map_items(
    layout: Layout,
    function: Callable[[Any, Any, jax.Array], Any],
    shared: Any,
    items: Any,
) -> Any:
    """Applies a function to every item along the leading axis.

    The function receives all items of its device and the index of the one to work on,
    so that it can gather the few rows it needs: slicing whole items out would copy a
    class's images in every step.

    Args:
      layout: devices and chunk.
      function: of (shared, items on this device, index) for one item.
      shared: tree that all items use.
      items: tree of arrays whose leading axis is a multiple of the number of devices.

    Returns:
      The results, stacked along a leading axis.
    """

    def on_device(shared, items):
        count = len(jax.tree.leaves(items)[0])
        one = lambda index: function(shared, items, index)
        return map_indices(layout, one, count)

    return on_each_device(layout, on_device, shared, items)


def map_classes(layout: Layout, function: Callable, shared: Any, items: Any) -> Any:
    """`map_items` of a function of (shared, item): of one class and its own data."""

    def of_item(shared, items, index):
        return function(shared, jax.tree.map(lambda x: x[index], items))

    return map_items(layout, of_item, shared, items)


def map_indices(layout: Layout, one: Callable[[jax.Array], Any], count: int) -> Any:
    """Applies a function to 0 ... count - 1, on one device, as many at once as fit.

    Args:
      layout: its chunk and memory.
      one: of an index.
      count: at least 1.

    Returns:
      The results, stacked along a leading axis.
    """
    if count == 1:  # Without a batch axis, which would change the convolutions.
        return jax.tree.map(lambda x: x[None], one(jnp.int32(0)))
    together, indices = jax.vmap(one), jnp.arange(count)
    chunk = layout.chunk or items_that_fit(together, count, layout.memory)
    if chunk == 1:
        return lax.map(one, indices)
    evenly = math.ceil(count / math.ceil(count / chunk))
    return map_batches(together, indices, evenly)


def on_each_device(
    layout: Layout, function: Callable[[Any, Any], Any], shared: Any, items: Any
) -> Any:
    """Runs a function on every device's share of the items, without communication."""
    if layout.num_devices == 1:
        return function(shared, items)

    # Nothing is communicated, so every derivative is that of the device's own items.
    # With `check_vma` the one with respect to `shared` would be summed over devices.
    return jax.shard_map(
        function,
        mesh=layout.mesh,
        in_specs=(P(), P(AXIS)),
        out_specs=P(AXIS),
        check_vma=False,
    )(shared, items)


def split_batch(layout: Layout, tree: Any) -> Any:
    """Asks for a batch to be split over the devices where its size allows it.

    Numbers among the arrays stay as they are.
    """

    def constrain(array):
        if layout.num_devices == 1 or not array.ndim:
            return array
        if len(array) % layout.num_devices:
            return array
        sharding = NamedSharding(layout.mesh, P(AXIS))
        return lax.with_sharding_constraint(array, sharding)

    return jax.tree.map(constrain, tree)


def map_batches(function: Callable[[Any], Any], arrays: Any, batch_size: int) -> Any:
    """Applies a function to consecutive batches and joins what it returns.

    Args:
      function: of a tree of batches `[b, ...]`, returning a tree of `[b, ...]`.
      arrays: tree of arrays `[n, ...]`.
      batch_size: largest b.

    Returns:
      Tree of `[n, ...]`. Nothing is padded: the last batch overlaps the one before.
    """
    count = len(jax.tree.leaves(arrays)[0])
    size = min(batch_size, count)
    batches = math.ceil(count / size)
    if batches == 1:
        return function(arrays)
    starts = jnp.minimum(jnp.arange(batches) * size, count - size)

    def one(start):
        cut = lambda x: lax.dynamic_slice_in_dim(x, start, size)
        return function(jax.tree.map(cut, arrays))

    def join(parts):
        tail = parts[-1][size - (count - (batches - 1) * size) :]
        head = parts[:-1].reshape(-1, *parts.shape[2:])
        return jnp.concatenate([head, tail])

    return jax.tree.map(join, lax.map(one, starts))


def compiled(
    function: Callable, donate: tuple[str, ...] = (), static: tuple[str, ...] = ()
) -> Callable:
    """Compiles a function.

    Args:
      function: a pure function.
      donate: names of arguments whose buffers are reused for the results.
      static: names of arguments that the program is specialized to.
    """
    return jax.jit(function, donate_argnames=donate, static_argnames=static)
