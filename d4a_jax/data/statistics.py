"""Exact pixel statistics and digests of arrays that may be larger than memory."""

import hashlib
from collections.abc import Iterator

import numpy as np

_CHUNK_BYTES = 1 << 26


def chunks(array: np.ndarray) -> Iterator[np.ndarray]:
    """Yields an array in pieces along its first axis, each of about 64 MiB."""
    row_bytes = max(1, array.nbytes // max(1, len(array)))
    rows = max(1, _CHUNK_BYTES // row_bytes)
    for start in range(0, len(array), rows):
        yield np.ascontiguousarray(array[start : start + rows])


def histogram(images: np.ndarray) -> np.ndarray:
    """Counts the values of each channel.

    Args:
      images: uint8 `[n, h, w, c]`.

    Returns:
      int64 `[c, 256]`.
    """
    counts = np.zeros((images.shape[-1], 256), np.int64)
    for chunk in chunks(images):
        for channel in range(len(counts)):
            values = chunk[..., channel].ravel()
            counts[channel] += np.bincount(values, minlength=256)
    return counts


def mean_and_std(counts: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, pixels taken in [0, 1].

    Args:
      counts: int64 `[c, 256]` from `histogram`.

    Returns:
      Mean and std. The std of a constant channel is 1, so that one can divide by it.
    """
    values = np.arange(256) / 255
    weights = counts / counts.sum(axis=1, keepdims=True)
    mean = weights @ values
    variance = (weights * (values - mean[:, None]) ** 2).sum(axis=1)
    constant = (counts > 0).sum(axis=1) == 1
    std = np.where(constant, 1.0, np.sqrt(variance))
    return tuple(mean.tolist()), tuple(std.tolist())


def digest(array: np.ndarray) -> str:
    """SHA-256 of an array's dtype, shape and values, as 64 hexadecimal digits."""
    sha = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    for chunk in chunks(array):
        sha.update(chunk.data)
    return sha.hexdigest()
