"""ZCA whitening: recognized by its values, undone where the matrix is given.

A set that was distilled from whitened data (MTT, DATM) is whitened itself: its values
are no pixels, and networks that see pixels learn little from them.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from d4a_jax.artifact import ArtifactError

# Of CIFAR-10 (kornia's whitening with eps 0.1): standard deviation 0.25 for pixels in
# [0, 1] and 0.47 for normalized ones, against 1.2 of plain normalized ones; correlation
# of neighbours 0.63 and 0.38, against 0.93.
_MOST_STD = 0.75
_MOST_CORRELATION = 0.7
_MOST_MEAN = 0.25  # In standard deviations.

_INVERSES = ("inverse", "transform_inv")
_MATRICES = ("matrix", "transform_matrix")
_MEANS = ("mean", "mean_vector")


class Whitening(NamedTuple):
    """What undoes a ZCA whitening `(x - mean) @ matrix` of flat images.

    Attributes:
      inverse: `[d, d]`, the inverse of the matrix; d counts channels, rows, columns, in
        this order.
      mean: `[d]`.
    """

    inverse: np.ndarray
    mean: np.ndarray

    def undo(self, images: np.ndarray) -> np.ndarray:
        """Undoes the whitening of float32 `[n, h, w, c]` images.

        Raises:
          ArtifactError: the matrix is for images of another size.
        """
        count, height, width, channels = images.shape
        size = height * width * channels
        if self.inverse.shape != (size, size) or self.mean.shape != (size,):
            raise ArtifactError(
                f"The matrix of the whitening has the shape {list(self.inverse.shape)} "
                f"and its mean {list(self.mean.shape)}; the images need "
                f"[{size}, {size}] and [{size}]."
            )
        flat = images.transpose(0, 3, 1, 2).reshape(count, size).astype(np.float64)
        flat = flat @ self.inverse.astype(np.float64) + self.mean
        plain = flat.reshape(count, channels, height, width).transpose(0, 2, 3, 1)
        return plain.astype(np.float32)


def as_whitening(values: Any, path: Path | None = None) -> Whitening:
    """Makes a `Whitening` of arrays by name.

    Args:
      values: a mapping with `inverse` or `transform_inv`, or with `matrix` or
        `transform_matrix`, which is inverted; and `mean` or `mean_vector`. The names
        are those of kornia's `ZCAWhitening` and plain ones.
      path: where they come from, for a message.

    Raises:
      ArtifactError: an array is missing, or the matrix has no inverse.
    """
    place = f" in {path}" if path else ""
    if not hasattr(values, "get"):
        raise ArtifactError(f"A whitening is needed as arrays by name{place}.")
    find = lambda names: next((values[n] for n in names if n in values), None)
    inverse, matrix, mean = find(_INVERSES), find(_MATRICES), find(_MEANS)
    if mean is None or (inverse is None and matrix is None):
        raise ArtifactError(
            f"There is no whitening{place}: 'mean' and 'inverse' (or 'matrix') are "
            f"needed, but it has {', '.join(map(repr, values)) or 'nothing'}."
        )
    if inverse is None:
        try:
            inverse = np.linalg.inv(np.asarray(matrix, np.float64))
        except np.linalg.LinAlgError as error:
            raise ArtifactError(f"The whitening{place}: {error}.") from None
    return Whitening(np.asarray(inverse), np.asarray(mean).reshape(-1))


def looks_whitened(images: np.ndarray) -> bool:
    """Whether float `[n, h, w, c]` images have the values of whitened ones.

    They lie around zero, have a small range and neighbours that differ.
    """
    deviation = float(images.std())
    if images.min() >= 0 or not 0 < deviation < _MOST_STD:
        return False
    if abs(float(images.mean())) > _MOST_MEAN * deviation:
        return False
    return _neighbour_correlation(images) < _MOST_CORRELATION


def _neighbour_correlation(images):
    """Correlation of pixels with those to their right and below, the mean of both."""
    pairs = (
        (images[:, :, :-1], images[:, :, 1:]),
        (images[:, :-1], images[:, 1:]),
    )
    found = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in pairs if a.size > 1]
    return float(np.mean(found)) if found else 1.0
