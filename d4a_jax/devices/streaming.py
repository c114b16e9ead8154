"""Real images that do not fit on the devices: read from the host when they are drawn.

`HostImages` stands for an array of images. On the devices lie row numbers; indexing it
calls the host, which gathers the rows from a memory-mapped array. Draws are made by the
program as ever, so every result is the one of images on the devices, bit for bit.

Waiting for the disk is avoided by `ReadAhead`: which rows a step draws follows from its
key alone, so a small program finds those of the next call, and threads gather them
while the devices are busy with this one.
"""

import dataclasses
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from d4a_jax.devices.memory import exceeds_memory
from d4a_jax.devices.parallel import (
    Layout,
    local_parts,
    on_each_device,
    spread,
    spread_rows,
)

# Reading waits for the disk and copying for the memory: more than one does not wait.
_THREADS = 4


class HostReader:
    """Gathers rows of a host array, ahead of time where it was told which.

    Args:
      images: uint8 `[n, h, w, c]`, memory-mapped where it is large.
    """

    def __init__(self, images: np.ndarray):
        self._images = np.asarray(images)
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="images")
        # Rows of this call and of the next one, by their bytes.
        self._now: dict[bytes, Future] = {}
        self._next: dict[bytes, Future] = {}

    @property
    def image_shape(self) -> tuple[int, ...]:
        return self._images.shape[1:]

    def read(self, rows: jax.Array) -> jax.Array:
        """uint8 `[..., h, w, c]` at int32 rows `[...]`, within a program."""
        shape = (*rows.shape, *self.image_shape)
        result = jax.ShapeDtypeStruct(shape, np.uint8)
        return jax.pure_callback(self.gather, result, rows, vmap_method="broadcast_all")

    def gather(self, rows: Any) -> np.ndarray:
        """uint8 `[..., h, w, c]` at rows `[...]`; zeros where a row is negative."""
        rows = np.asarray(rows)
        lists = rows.reshape(-1, rows.shape[-1] if rows.ndim else 1)
        parts = [self._found(part) or self._submit(part) for part in lists]
        out = parts[0].result()
        if len(parts) > 1:
            out = np.stack([part.result() for part in parts])
        return out.reshape(*rows.shape, *self.image_shape)

    def prefetch(self, lists: Iterable[np.ndarray]) -> None:
        """Starts to gather lists of rows for the call after the present one."""
        self._now, self._next = self._next, {}
        for rows in lists:
            self._next[rows.tobytes()] = self._submit(rows)

    def _found(self, rows):
        key = rows.tobytes()
        # It stays for a second reader in the same step, such as CAFE's.
        return self._now.get(key) or self._next.get(key)

    def _submit(self, rows):
        return self._pool.submit(self._gather, rows)

    def _gather(self, rows):
        # Unlike indexing, this lets other threads run.
        out = np.take(self._images, rows, axis=0, mode="clip")
        if (rows < 0).any():
            out[rows < 0] = 0
        return out


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class HostImages:
    """Images on the host, indexed like an array of them on the devices.

    Attributes:
      rows: int32 `[...]`, the row of every image on the host.
      reader: of the host's images.
      layout: the devices over which rows may be spread by their leading axis.
    """

    rows: jax.Array
    reader: HostReader = dataclasses.field(metadata={"static": True})
    layout: Layout = dataclasses.field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        """The rows' shape and that of an image."""
        return (*self.rows.shape, *self.reader.image_shape)

    def __getitem__(self, index: Any) -> jax.Array:
        """Reads uint8 images."""
        return self.reader.read(self.rows[index])


Images = jax.Array | HostImages


def place(
    images: np.ndarray, rows: np.ndarray, layout: Layout, budget_gb: float | None
) -> Images:
    """Spreads images over the devices, or leaves them on the host if they are too many.

    Args:
      images: uint8 `[n, h, w, c]`, possibly memory-mapped. A process reads the images
        of its own devices only.
      rows: `[k, ...]`, which of them; padded like `parallel.spread`.
      layout: the devices.
      budget_gb: see `memory.exceeds_memory`.

    Returns:
      uint8 `[padded k, ..., h, w, c]`.
    """
    share = layout.padded(len(rows)) // layout.num_devices
    size = share * int(np.prod(rows.shape[1:])) * int(np.prod(images.shape[1:]))
    if exceeds_memory(layout.mesh, size, budget_gb):
        rows = spread(layout, rows.astype(np.int32))
        return HostImages(rows, HostReader(images), layout)
    read = lambda rows: np.asarray(images[rows])
    return spread_rows(layout, read, rows, images.shape[1:])


def place_everywhere(
    images: np.ndarray, layout: Layout, budget_gb: float | None
) -> np.ndarray | HostImages:
    """Images that every device needs: as they are, or left on the host.

    Args:
      images: uint8 `[n, h, w, c]`.
      layout: the devices.
      budget_gb: see `memory.exceeds_memory`.
    """
    if exceeds_memory(layout.mesh, images.size, budget_gb):
        rows = np.arange(len(images), dtype=np.int32)
        return HostImages(rows, HostReader(images), layout)
    return np.asarray(images)


def take(images: Images, groups: jax.Array, positions: jax.Array) -> jax.Array:
    """`images[groups, positions]` where any group may lie on any device.

    Args:
      images: uint8 `[C, m, h, w, c]`, spread over the devices.
      groups: int32 `[k]`.
      positions: int32 `[k]`.

    Returns:
      uint8 `[k, h, w, c]`. On the host every process reads the rows of its own groups.
    """
    if not isinstance(images, HostImages):
        return images[groups, positions]
    rows = owned_rows(images, groups, positions)
    read = lambda _, rows: images.reader.read(rows)
    parts = on_each_device(images.layout, read, (), rows)
    # Each image was read by one device and is zero on the others.
    return jnp.sum(parts, axis=0, dtype=jnp.uint8)


def owned_rows(
    images: HostImages, groups: jax.Array, positions: jax.Array
) -> jax.Array:
    """int32 `[devices, k]`: what `take` reads on each device; -1 for others' rows."""

    def local(shared, items):
        (groups, positions), (rows, numbers) = shared, items
        own = groups - numbers[0]
        mine = (own >= 0) & (own < len(rows))
        found = rows[jnp.clip(own, 0, len(rows) - 1), positions]
        return jnp.where(mine, found, -1)[None]

    numbers = jnp.arange(len(images.rows))
    return on_each_device(
        images.layout, local, (groups, positions), (images.rows, numbers)
    )


class ReadAhead:
    """Tells a reader what the next call of a program will draw.

    Args:
      reads: compiled function of (key, first, task, steps) to a tree of rows `[..., k]`
        that the steps from `first` on read together, `steps` being static.
      reader: of the images.
    """

    def __init__(self, reads: Callable[..., Any], reader: HostReader):
        self._reads = reads
        self._reader = reader
        self._told = None

    def __call__(self, key: jax.Array, first: int, steps: int, task: Any) -> None:
        """To be called before the program is, with its arguments."""
        if self._told != first:
            self._tell(key, first, steps, task)
        self._tell(key, first + steps, steps, task)
        self._told = first + steps

    def _tell(self, key, first, steps, task):
        rows = self._reads(key, first, task, steps=steps)
        self._reader.prefetch(
            line
            for leaf in jax.tree.leaves(rows)
            for part in local_parts(leaf)
            for line in part.reshape(-1, part.shape[-1])
        )
