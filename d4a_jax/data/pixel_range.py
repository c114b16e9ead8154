"""How values become pixels 0..255: decided once, for all images of a data set.

Floats lie in [0, 1], or are pixels 0..255, or are normalized by a mean and a standard
deviation that the caller gives. For integers a `PixelRange` names the two source values
that become 0 and 255. Eight-bit pixels are taken as they are, unless they hold nothing
but 0 and 1. Other integers, such as 12-bit images of a scanner in 16-bit files, are
scaled by the range that is found over all images together; a range that spans at least
half of 8 or of 16 bits is taken as all of it, so that such images keep their
brightness.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from d4a_jax.data import statistics
from d4a_jax.data.errors import DatasetError

FEW_LEVELS = 32
_DEPTHS = (2**8 - 1, 2**16 - 1)
# A float beside [0, 1] by no more than this was rounded there.
_OVERSHOOT = 1e-5
# Half of a level of 255: what rounding to 8 bits forgives.
_HALF_LEVEL = 0.5 / 255
# Floats are pixels 0..255 where the brightest is above this.
_BRIGHT = 128


class PixelRange(NamedTuple):
    """The source values that become 0 and 255."""

    low: float
    high: float

    @property
    def is_8_bit(self) -> bool:
        """Whether the values already are pixels."""
        return self == (0, 255)

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}"


def find(arrays: Iterable[np.ndarray]) -> PixelRange:
    """The smallest and the largest value of all arrays together."""
    lows, highs = [], []
    for array in arrays:
        for chunk in statistics.chunks(array):
            lows.append(chunk.min())
            highs.append(chunk.max())
    return PixelRange(float(min(lows)), float(max(highs)))


def of_integers(found: PixelRange, is_wide: bool) -> PixelRange:
    """The range by which integers are scaled.

    Args:
      found: smallest and largest value of all images of the data set.
      is_wide: whether they come in more than 8 bits.
    """
    if (found.low, found.high) == (0, 1):
        return found
    if not is_wide:
        return PixelRange(0, 255)
    if found.low == found.high:
        return PixelRange(min(found.low, 0), max(found.high, 255))
    for depth in _DEPTHS:
        fits = found.low >= 0 and found.high <= depth
        if fits and found.high - found.low > depth / 2:
            return PixelRange(0, depth)
    return found


def scale(images: np.ndarray, pixel_range: PixelRange) -> np.ndarray:
    """Scales images of any shape and real dtype to uint8, rounded and clipped."""
    if pixel_range.is_8_bit and images.dtype == np.uint8:
        return images
    low, high = pixel_range
    scaled, start = np.empty(images.shape, np.uint8), 0
    for chunk in statistics.chunks(images):
        values = (chunk.astype(np.float64) - low) * (255 / (high - low))
        part = scaled[start : start + len(chunk)]
        part[...] = np.clip(np.rint(values), 0, 255)
        start += len(chunk)
    return scaled


def read_pixels(
    arrays: Mapping[str, np.ndarray],
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
) -> tuple[dict[str, np.ndarray], PixelRange | None, tuple[str, ...]]:
    """Turns all images of a data set to uint8 by one rule.

    Args:
      arrays: images `[n, h, w, c]` by the name of their array, real numbers.
      mean: by which floats are normalized, one per channel or one for all, of pixels
        in [0, 1] or in [0, 255]; None where they are not.
      std: the standard deviation beside it.

    Returns:
      The images as uint8; the range by which integers were scaled, None where they are
      8-bit pixels; and notes on how the values were understood.

    Raises:
      DatasetError: the values are no real numbers, or their meaning is not certain; the
        message names the likely one.
    """
    for what, images in arrays.items():
        if images.dtype.kind not in "buif":
            raise DatasetError(
                f"{what} has dtype {images.dtype}; integers, or floats in [0, 1], are "
                "needed."
            )
    floats = {k: images for k, images in arrays.items() if images.dtype.kind == "f"}
    others = {k: images for k, images in arrays.items() if k not in floats}
    if (mean is None) != (std is None):
        raise DatasetError("mean and std belong together; give both of them or none.")
    if mean is not None and others:
        what, images = next(iter(others.items()))
        raise DatasetError(
            f"mean and std are given, but {what} has dtype {images.dtype}; only floats "
            "can be normalized by them."
        )
    read, pixel_range, notes = _read_integers(others)
    if floats and pixel_range is not None:
        what = next(iter(floats))
        raise DatasetError(
            f"{what} has floats, but {', '.join(others)} has integers from "
            f"{pixel_range}; give all images in one type."
        )
    found, more = _read_floats(floats, mean, std)
    return read | found, pixel_range, notes + more


def _read_integers(arrays):
    if not arrays:
        return {}, None, ()
    arrays = {
        name: images.view(np.uint8) if images.dtype == bool else images
        for name, images in arrays.items()
    }
    is_wide = any(images.dtype != np.uint8 for images in arrays.values())
    pixel_range = of_integers(find(arrays.values()), is_wide)
    pixels = {name: scale(images, pixel_range) for name, images in arrays.items()}
    if pixel_range.is_8_bit:
        return pixels, None, ()
    return pixels, pixel_range, (describe(pixel_range),)


def _read_floats(arrays, mean, std):
    if not arrays:
        return {}, ()
    for what, images in arrays.items():
        _check_finite(what, images)
    if mean is not None:
        return _denormalize(arrays, mean, std)
    low, high = found = find(arrays.values())
    if -_OVERSHOOT <= low and high <= 1 + _OVERSHOOT:
        return _each(arrays, lambda x: np.clip(x, 0, 1) * 255), ()
    if low >= -_OVERSHOOT and _BRIGHT < high <= 255.5:
        note = f"floats {found} as pixels 0 to 255"
        return _each(arrays, lambda x: np.clip(x, 0, 255)), (note,)
    raise DatasetError(
        f"{' and '.join(arrays)} has floats from {low:g} to {high:g}; they must lie "
        f"in [0, 1]. {_likely(low, high)}"
    )


def _check_finite(what, images):
    start = 0
    for chunk in statistics.chunks(images):
        finite = np.isfinite(chunk)
        if not finite.all():
            first = start + int(np.argwhere(~finite)[0][0])
            raise DatasetError(
                f"{what} has NaN or infinite values, first in image {first}."
            )
        start += len(chunk)


def _each(arrays, to_255):
    """Applies a map to [0, 255] in the arrays' own precision, and rounds."""
    read = {}
    for name, images in arrays.items():
        read[name], start = np.empty(images.shape, np.uint8), 0
        for chunk in statistics.chunks(images):
            read[name][start : start + len(chunk)] = np.rint(to_255(chunk))
            start += len(chunk)
    return read


def _denormalize(arrays, mean, std):
    channels = next(iter(arrays.values())).shape[-1]
    mean, std = (np.asarray(x, np.float64).reshape(-1) for x in (mean, std))
    if not {mean.size, std.size} <= {1, channels} or not (std > 0).all():
        raise DatasetError(
            f"mean is {mean.tolist()} and std is {std.tolist()}; one number, or one "
            f"for each of the {channels} channels, is needed, and std must be positive."
        )
    if mean.max() > 1:
        mean, std = mean / 255, std / 255
    chunks = itertools.chain.from_iterable(map(statistics.chunks, arrays.values()))
    found = find(chunk * std + mean for chunk in chunks)
    if found.low < -_HALF_LEVEL or found.high > 1 + _HALF_LEVEL:
        raise DatasetError(
            f"With this mean and std the pixels are {found.low:g} to {found.high:g}; "
            "they must lie in [0, 1]. The images are probably normalized by others."
        )
    values = lambda x: np.clip(x * std + mean, 0, 1) * 255
    note = f"floats normalized by mean {mean.tolist()} and std {std.tolist()}"
    return _each(arrays, values), (note,)


def _likely(low, high):
    """What floats outside of [0, 1] probably are, and what to do with them."""
    if -1 - _OVERSHOOT <= low < 0 and high <= 1 + _OVERSHOOT:
        return "They are probably scaled to [-1, 1]: give mean=0.5 and std=0.5."
    if low < 0:
        return "They are probably normalized: give mean and std as they were then."
    if high <= _BRIGHT:
        return f"They are probably brightness up to {high:g}: divide by the largest."
    return "They are probably of more than 8 bits: give them as integers."


def describe(pixel_range: PixelRange) -> str:
    """A note on the scaling, for those who look at the plan of a run."""
    return f"values {pixel_range[0]:g} to {pixel_range[1]:g} scaled to 0 to 255"


def few_levels(
    name: str, counts: np.ndarray, pixel_range: PixelRange | None
) -> str | None:
    """A warning where scaled or dark images have few different pixels, or None.

    Args:
      name: of the data set.
      counts: int `[c, 256]`, how often each pixel occurs; see `statistics.histogram`.
      pixel_range: by which the images were scaled; None where they are 8-bit pixels.
    """
    present = np.flatnonzero(counts.sum(0))
    if pixel_range is not None and len(present) < FEW_LEVELS:
        return (
            f"The images of {name} have only {len(present)} different pixels: "
            f"{describe(pixel_range)}."
        )
    if pixel_range is None and 1 < present[-1] < FEW_LEVELS:
        return (
            f"The pixels of {name} reach only {present[-1]} of 255; scale the images "
            f"where {present[-1]} is white."
        )
    return None
