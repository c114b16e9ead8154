"""The test split of data that come without one: a tenth of every class."""

import numpy as np

from d4a_jax.data.errors import DatasetError

_FRACTION = 0.1
_SEED = 0


def held_out(label: int, count: int) -> np.ndarray:
    """Which images of a class are the test split; always the same ones.

    Args:
      label: of the class.
      count: number n of its images, at least 2.

    Returns:
      bool `[n]`, True for a tenth of them, at least one, drawn with a fixed seed.
    """
    order = np.random.RandomState([_SEED, label]).permutation(count)
    chosen = np.zeros(count, bool)
    chosen[order[: max(1, round(_FRACTION * count))]] = True
    return chosen


def held_out_rows(labels: np.ndarray) -> np.ndarray:
    """`held_out` of every class: bool `[n]` for integer labels `[n]` from 0.

    Raises:
      DatasetError: a class has a single image.
    """
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        if len(rows) < 2:
            raise DatasetError(
                f"Label {label} has only image {rows[0]}; 2 are needed to hold one out "
                "for testing."
            )
        chosen[rows] = held_out(int(label), len(rows))
    return chosen
