"""The real set on the devices, class by class, and the part of it that is matched."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from d4a_jax import rng
from d4a_jax.devices.parallel import Layout, map_items, spread
from d4a_jax.devices.streaming import Images, owned_rows, place, take


class ClassIndex(NamedTuple):
    """Where each class's images stand in the data set (host arrays).

    Attributes:
      rows: int64 `[C, m]`, row numbers of each class's images in their order, padded
        by repeating the class's first row; m is the size of the largest class.
      counts: int32 `[C]`, images per class.
    """

    rows: np.ndarray
    counts: np.ndarray

    @property
    def valid(self) -> np.ndarray:
        """bool `[C, m]`, False where `rows` is padding."""
        return np.arange(self.rows.shape[1]) < self.counts[:, None]

    def to_rows(self, values: np.ndarray) -> np.ndarray:
        """Reorders per-image values `[C, m, ...]` to the order of the data set."""
        out = np.empty((int(self.counts.sum()), *values.shape[2:]), values.dtype)
        out[self.rows[self.valid]] = values[self.valid]
        return out

    def to_classes(self, values: np.ndarray) -> np.ndarray:
        """Reorders values in the order of the data set to `[C, m, ...]`."""
        return np.asarray(values)[self.rows]


class RealData(NamedTuple):
    """The real training set, grouped by class and spread over the devices.

    Attributes:
      images: uint8 `[C, m, h, w, c]`; left on the host where they are too many.
      labels: int32 `[C]`, the class of each group.
      counts: int32 `[C]`, images per class; positions beyond are padding.
    """

    images: Images
    labels: jax.Array
    counts: jax.Array


class Pool(NamedTuple):
    """The images that are matched: for each class, positions within the class.

    Attributes:
      positions: int32 `[C, m]`, the kept ones first.
      counts: int32 `[C]`, how many are kept; zero only for padding classes.
    """

    positions: jax.Array
    counts: jax.Array


class ClassRows(NamedTuple):
    """Real images that every class draws for itself.

    Attributes:
      positions: int32 `[C, b]`, within the class.
    """

    positions: jax.Array


class SetRows(NamedTuple):
    """Real images drawn from the whole set.

    Attributes:
      groups: int32 `[k]`, the class of each; -1 where no image is wanted.
      positions: int32 `[k]`, within the class.
    """

    groups: jax.Array
    positions: jax.Array


class LabelledImages(NamedTuple):
    """The images of `SetRows`: uint8 `[k, h, w, c]` and int32 `[k]`."""

    images: jax.Array
    labels: jax.Array


def index_classes(labels: np.ndarray, num_classes: int) -> ClassIndex:
    """Groups the rows of a data set by class, keeping their order.

    Raises:
      ValueError: if a class has no image.
    """
    counts = np.bincount(labels, minlength=num_classes)
    if not counts.all():
        empty = int(np.argmin(counts))
        raise ValueError(f"class {empty} has no training image; every class needs one.")
    rows = np.empty((num_classes, counts.max()), np.int64)
    for label in range(num_classes):
        members = np.flatnonzero(labels == label)
        rows[label] = members[0]
        rows[label, : len(members)] = members
    return ClassIndex(rows, counts.astype(np.int32))


def load_real_data(
    images: np.ndarray,
    index: ClassIndex,
    layout: Layout,
    budget_gb: float | None = None,
) -> RealData:
    """Puts a data set on the devices, each holding the images of its own classes.

    Args:
      images: uint8 `[n, h, w, c]`, possibly memory-mapped.
      index: the classes' rows.
      layout: the devices. Padding classes repeat the last one with a count of zero.
      budget_gb: see `streaming.place`.
    """
    num_classes = len(index.counts)
    grouped = place(images, index.rows, layout, budget_gb)
    labels = spread(layout, np.arange(num_classes, dtype=np.int32))
    return RealData(grouped, labels, spread(layout, _padded(index.counts, layout)))


def make_pool(kept: np.ndarray, layout: Layout) -> Pool:
    """The pool of the images marked True in bool `[C, m]`."""
    order = np.argsort(~kept, axis=1, kind="stable").astype(np.int32)
    return spread_pool(order, kept.sum(1).astype(np.int32), layout)


def spread_pool(positions: np.ndarray, counts: np.ndarray, layout: Layout) -> Pool:
    """A pool given as host arrays, its padding classes empty."""
    return Pool(*spread(layout, (positions, _padded(counts, layout))))


def _padded(counts, layout):
    """Counts with zeros for the classes that only fill the devices."""
    return np.pad(counts, (0, layout.padded(len(counts)) - len(counts)))


def everything(data: RealData) -> Pool:
    """The pool of all real images."""
    classes, capacity = data.images.shape[:2]
    positions = jnp.broadcast_to(jnp.arange(capacity), (classes, capacity))
    return Pool(positions, data.counts)


def draw_rows(key: jax.Array, pool: Pool, size: int) -> SetRows:
    """Draws `size` images uniformly from a pool over all classes, without replacement.

    Where there are fewer, all are taken and repeated in turn.
    """
    classes, capacity = pool.positions.shape
    ends = jnp.cumsum(pool.counts)
    ranks = rng.sample_without_replacement(key, ends[-1], classes * capacity, size)
    groups = jnp.searchsorted(ends, ranks, side="right")
    within = ranks - (ends - pool.counts)[groups]
    return SetRows(groups, pool.positions[groups, within])


def draw_images(
    key: jax.Array, data: RealData, pool: Pool, size: int
) -> LabelledImages:
    """The images of `draw_rows`."""
    groups, positions = draw_rows(key, pool, size)
    return LabelledImages(take(data.images, groups, positions), data.labels[groups])


def _is_rows(node):
    return isinstance(node, (ClassRows, SetRows))


def read_rows(layout: Layout, data: RealData, rows: Any) -> Any:
    """Gathers the images that a step draws.

    Args:
      layout: the devices over which the data are spread.
      data: the real images.
      rows: tree of `ClassRows` and `SetRows`.

    Returns:
      The tree with uint8 `[C, b, h, w, c]` for each `ClassRows`, and `LabelledImages`
      for each `SetRows`.
    """

    def read(node):
        if isinstance(node, SetRows):
            images = take(data.images, *node)
            return LabelledImages(images, data.labels[node.groups])
        of_class = lambda _, items, index: items[0][index, items[1][index]]
        return map_items(layout, of_class, (), (data.images, node.positions))

    return jax.tree.map(read, rows, is_leaf=_is_rows)


def host_rows(data: RealData, rows: Any) -> Any:
    """The rows on the host `[..., k]` that `read_rows` reads of `HostImages`."""

    def of(node):
        if isinstance(node, SetRows):
            return owned_rows(data.images, *node)
        return jnp.take_along_axis(data.images.rows, node.positions, axis=1)

    return jax.tree.map(of, rows, is_leaf=_is_rows)
