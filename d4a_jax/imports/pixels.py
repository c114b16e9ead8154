"""Pixels in any usual form become uint8 with the channels last."""

from collections.abc import Sequence

import numpy as np

from d4a_jax.artifact import ArtifactError
from d4a_jax.imports.whitening import Whitening, looks_whitened

# The rounding of a normalization and its inverse is no overshoot.
_TOLERANCE = 1e-4
# Floats whose largest value lies between these two are neither of [0, 1] nor of 0..255.
_LEAST_OF_BYTES = 16

# By which the repositories of DC, DSA, DM and MTT normalize.
FIELD_STATISTICS = {
    "mnist": ((0.1307,), (0.3081,)),
    "fashion_mnist": ((0.2861,), (0.3530,)),
    "svhn_cropped": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
    "tiny_imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


def channels_last(
    images: np.ndarray,
    shape: tuple[int, ...] | None = None,
    channels_first: bool | None = None,
) -> np.ndarray:
    """Moves the channels of images to the end.

    Args:
      images: `[n, h, w]`, `[n, h, w, c]` or `[n, c, h, w]`, c 1 or 3.
      shape: `(h, w, c)` that the images should have, or None.
      channels_first: whether they come first; found out if None.

    Returns:
      `[n, h, w, c]`.

    Raises:
      ArtifactError: the shape has no channels or two readings, or differs from `shape`.
    """
    found = list(images.shape)
    if images.ndim == 3:
        images = images[..., None]
    elif images.ndim != 4 or 0 in images.shape:
        raise ArtifactError(
            f"The images have the shape {found}; [n, h, w, c] or [n, c, h, w] with 1 "
            "or 3 channels is needed."
        )
    else:
        images = _move(images, shape, channels_first)
    if shape is not None and images.shape[1:] != tuple(shape):
        raise ArtifactError(
            f"The images have the shape {found}, so they are {_sides(images.shape[1:])}"
            f"; those of the data set are {_sides(shape)}. Name the data set, or its "
            "size, that the set was made from."
        )
    return images


def _move(images, shape, channels_first):
    last = images.shape[3] in (1, 3) and channels_first is not True
    first = images.shape[1] in (1, 3) and channels_first is not False
    moved = images.transpose(0, 2, 3, 1)
    if first and last and shape is not None:
        last = images.shape[1:] == tuple(shape)
        first = moved.shape[1:] == tuple(shape)
    if first == last:
        kind = "two readings" if first else "no 1 or 3 channels"
        raise ArtifactError(
            f"The images have the shape {list(images.shape)}, which has {kind}; "
            "[n, h, w, c] or [n, c, h, w] with 1 or 3 channels is needed."
        )
    return moved if first else images


def _sides(shape):
    return " x ".join(map(str, shape))


def to_bytes(
    images: np.ndarray,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    whitening: Whitening | None = None,
    whitened: bool | None = None,
    dataset: str | None = None,
) -> tuple[np.ndarray, list[str]]:
    """Brings pixels to 0..255.

    Args:
      images: `[n, h, w, c]`: uint8, integers in 0..255, floats in [0, 1], floats in
        0..255, or floats that were normalized by `mean` and `std`.
      mean: per channel or one for all, of pixels in [0, 1]; None where pixels are not
        normalized. With `std`, or neither.
      std: the same.
      whitening: how to undo a ZCA whitening, which is done before `mean` and `std`.
      whitened: whether the images are whitened; found out if None.
      dataset: name of the data set, for a message.

    Returns:
      uint8 `[n, h, w, c]` and the meaning in sentences.

    Raises:
      ArtifactError: the values have another or no certain meaning.
    """
    if images.dtype.kind not in "iuf":
        raise ArtifactError(f"The images are {images.dtype}; numbers are needed.")
    if not np.isfinite(images).all():
        raise ArtifactError("The images have NaN or infinite values.")
    if (mean is None) != (std is None):
        raise ArtifactError("mean and std must be given together.")
    if images.dtype.kind in "iu":
        return _integers(images, mean, whitening)
    images, notes = images.astype(np.float32), []
    if whitening is not None:
        images = whitening.undo(images)
        notes.append("The ZCA whitening is undone by the matrix given.")
        if mean is None:
            mean, std = (0.0,), (1.0,)
    elif whitened or (whitened is None and looks_whitened(images)):
        raise ArtifactError(_whitened_message(images))
    if mean is not None:
        unit, more = _undo_normalization(images, mean, std)
        return _rounded(unit), notes + more
    return _floats(images, dataset)


def _integers(images, mean, whitening):
    if mean is not None or whitening is not None:
        raise ArtifactError(
            f"The images are integers ({images.dtype}), so they are neither normalized "
            "nor whitened; leave mean, std and the matrix out."
        )
    low, high = int(images.min()), int(images.max())
    if low < 0 or high > 255:
        raise ArtifactError(
            f"The images have integers from {low} to {high}; 0 to 255 are needed."
        )
    return images.astype(np.uint8), ["Pixels are integers from 0 to 255."]


def _floats(images, dataset):
    low, high = float(images.min()), float(images.max())
    if low >= -_TOLERANCE and high <= 1 + _TOLERANCE:
        return _rounded(images), ["Pixels are floats in [0, 1]."]
    if low >= 0 and _LEAST_OF_BYTES <= high <= 255:
        return _rounded(images / 255), ["Pixels are floats from 0 to 255."]
    hint = ""
    if dataset in FIELD_STATISTICS:
        usual = "; ".join(map(_list, FIELD_STATISTICS[dataset]))
        hint = f" (for {dataset} usually {usual})"
    raise ArtifactError(
        f"The images have floats from {low:.4g} to {high:.4g}. Most likely they are "
        f"normalized: give the mean and std that they were normalized by{hint}, or "
        "mean 0 and std 1 where they are pixels in [0, 1] that go beyond."
    )


def _list(values):
    return ",".join(f"{value:g}" for value in values)


def _undo_normalization(images, mean, std):
    mean, std = (np.atleast_1d(np.asarray(x, np.float32)) for x in (mean, std))
    for name, values in (("mean", mean), ("std", std)):
        if values.shape not in ((1,), images.shape[-1:]):
            raise ArtifactError(
                f"{name} has {values.size} entries; 1 or {images.shape[-1]} (one for "
                "each channel) are needed."
            )
    if not (std > 0).all():
        raise ArtifactError(f"std is {std.tolist()}; it must be above 0.")
    unit = images * std + mean
    outside = float(((unit < -_TOLERANCE) | (unit > 1 + _TOLERANCE)).mean())
    notes = [
        f"Pixels are floats that were normalized by mean {_list(mean)} and std "
        f"{_list(std)}."
    ]
    if outside:
        notes.append(
            f"{100 * outside:.3g} % of the values lay outside of [0, 1] and are cut "
            "off there."
        )
    return unit, notes


def _rounded(unit):
    return np.rint(np.clip(unit, 0, 1) * 255).astype(np.uint8)


def _whitened_message(images):
    return (
        f"The images have floats from {images.min():.3g} to {images.max():.3g} "
        f"(standard deviation {images.std():.2g}) that neighbours hardly share: they "
        "are ZCA-whitened, and no pixels can be made of them without the matrix. "
        "Give the whitening's inverse matrix and mean, or the same set not whitened "
        "(MTT writes it as images_zca_*.pt), or say that they are not whitened."
    )
