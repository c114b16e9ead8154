"""Reads arrays in the forms that people have them: images of any layout, any labels.

Each function reads one form and returns what it found with a note on it, or None where
the array has another form. A form is read where its meaning is certain; where it is
not, the error names the likely meaning. How values become pixels is decided in
`pixel_range`.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from d4a_jax.data.errors import DatasetError, shorten

_CHANNELS = (1, 3)
_MAX_LABEL = np.iinfo(np.int32).max
_FLAT_SIDES = (8, 16, 28, 32, 64, 96, 128, 224)


def read_layout(
    what: str, images: np.ndarray, count: int
) -> tuple[np.ndarray, str | None]:
    """Brings images to `[n, h, w, c]`.

    Args:
      what: name of the array, for messages.
      images: `[n, h, w, c]`, `[n, c, h, w]` or `[n, h, w]`; with c = 1 or 3.
      count: number of labels, which tells n.

    Returns:
      The images and a note on another layout than the first.

    Raises:
      DatasetError: the array is empty or has another layout.
    """
    images = np.asanyarray(images)
    if 0 in images.shape:
        raise DatasetError(f"{what} is empty: its shape is {images.shape}.")
    if images.ndim == 3 and len(images) == count:
        return images[..., None], "images of shape [n, height, width], one channel"
    if images.ndim != 4:
        raise DatasetError(
            f"{what} has {images.ndim} dimensions, shape {images.shape}; "
            f"[n, height, width, channels] is needed.{_likely_layout(images, count)}"
        )
    if images.shape[3] in _CHANNELS:
        return images, None
    if images.shape[1] in _CHANNELS and len(images) == count:
        moved = np.ascontiguousarray(np.moveaxis(images, 1, -1))
        return moved, "images with channels first, [n, channels, height, width]"
    raise DatasetError(
        f"{what} has {images.shape[3]} channels, shape {images.shape}; the last "
        f"dimension must be 1 or 3.{_likely_layout(images, count)}"
    )


def _likely_layout(images, count):
    """What images of another layout probably are, as the end of a message."""
    shape = images.shape
    if images.ndim == 2 and shape[0] == count:
        for channels in _CHANNELS:
            side = round((shape[1] / channels) ** 0.5)
            if side in _FLAT_SIDES and side * side * channels == shape[1]:
                form = f"(-1, {side}, {side}, {channels})"
                return f" They are probably flat: reshape them to {form}."
        return " They are probably flat: reshape them."
    if images.ndim == 3 and count == 1:
        return " It is probably a single image: add a first dimension."
    if images.ndim == 4 and shape[3] == count and shape[2] in _CHANNELS:
        return " Their number is probably last: np.moveaxis(images, -1, 0)."
    if images.ndim == 4 and shape[3] == 4:
        return " They are probably RGBA: lay them over a background, or drop the alpha."
    if images.ndim == 5 or (images.ndim == 4 and min(shape[1:]) > 4):
        return " They are probably volumes or videos: take single slices or frames."
    return ""


class Labels(NamedTuple):
    """Labels of both splits as they are used.

    Attributes:
      arrays: int32 `[n]` by the name of their array, counted from 0.
      class_names: one per class; None where the labels say nothing of it.
      notes: how they were read.
    """

    arrays: dict[str, np.ndarray]
    class_names: Sequence[str] | None
    notes: tuple[str, ...]


def read_labels(
    arrays: Mapping[str, np.ndarray],
    lengths: Mapping[str, int],
    class_names: Sequence[str] | None = None,
) -> Labels:
    """Reads the labels of a data set, all arrays in the same way.

    Args:
      arrays: by name, the training labels first: `[n]` or `[n, 1]` integers from 0 or
        from 1, whole floats, strings, or `[n, classes]` one-hot.
      lengths: number of images of each.
      class_names: as the caller gives them.

    Raises:
      DatasetError: the labels have another form, or their meaning is not certain.
    """
    notes = []
    labels = {}
    for what, array in arrays.items():
        labels[what] = _as_column(what, np.asarray(array), lengths[what])
    if any(array.ndim == 2 for array in labels.values()):
        labels, width = _read_one_hot(labels)
        class_names = class_names or [str(label) for label in range(width)]
        notes.append(f"one-hot labels of {width} classes")
    if all(array.dtype.kind in "USO" for array in labels.values()):
        labels, class_names = _read_strings(labels, class_names)
        notes.append(f"labels as class names: {shorten(class_names)}")
    labels = {what: _as_integers(what, array) for what, array in labels.items()}
    last = max(int(array.max()) for array in labels.values())
    if _counts_from_one(labels, last, class_names):
        class_names = class_names or [str(label) for label in range(1, last + 1)]
        labels = {what: array - 1 for what, array in labels.items()}
        notes.append(f"labels that count from 1 to {last}")
    for what, array in labels.items():
        _check_values(what, array)
    if class_names is None:
        _check_numbers(*next(iter(labels.items())))
    labels = {what: array.astype(np.int32) for what, array in labels.items()}
    return Labels(labels, class_names, tuple(notes))


def _as_column(what, labels, length):
    """Labels `[n]`, or `[n, classes]` where each image has a row."""
    while labels.ndim > 1 and labels.shape[-1] == 1:
        labels = labels[..., 0]
    if labels.shape[:1] != (length,) or labels.ndim > 2:
        raise DatasetError(
            f"{what} has shape {labels.shape}; one label per image, shape ({length},), "
            "is needed."
        )
    return labels


def _read_one_hot(labels):
    """Class of each row, and the number of classes."""
    widths = {array.shape[1] if array.ndim == 2 else None for array in labels.values()}
    if len(widths) > 1:
        shapes = " and ".join(f"{k} {array.shape}" for k, array in labels.items())
        raise DatasetError(f"The labels have different shapes: {shapes}.")
    for what, array in labels.items():
        if array.dtype.kind not in "buif":
            raise DatasetError(
                f"{what} has dtype {array.dtype} and shape {array.shape}; one label "
                "per image is needed."
            )
        binary, sums = np.isin(array, (0, 1)).all(), array.sum(1)
        if not binary:
            raise DatasetError(
                f"{what} of shape {array.shape} has rows of values other than 0 and 1. "
                "They are probably probabilities or logits of a network: take "
                "labels.argmax(1)."
            )
        if (sums != 1).any():
            row = int(np.argmax(sums != 1))
            raise DatasetError(
                f"{what} of shape {array.shape} marks {int(sums[row])} classes for "
                f"image {row}. The images probably have several labels each: one label "
                "per image is needed."
            )
    return {k: array.argmax(1) for k, array in labels.items()}, widths.pop()


def _read_strings(labels, class_names):
    """The place of each string among the names, and the names."""
    texts = {what: _as_text(what, array) for what, array in labels.items()}
    if class_names is None:
        found = set(next(iter(texts.values())))
        is_number = all(name.isdecimal() for name in found)
        class_names = sorted(found, key=int if is_number else None)
    class_names = [str(name) for name in class_names]
    places = {name: place for place, name in enumerate(class_names)}
    for what, array in texts.items():
        if unknown := sorted(set(array) - places.keys()):
            raise DatasetError(
                f"{what} has the label {unknown[0]!r}; the classes are "
                f"{shorten(class_names)}."
            )
    read = {k: np.array([places[text] for text in array]) for k, array in texts.items()}
    return read, class_names


def _as_text(what, labels):
    texts = [t.decode() if isinstance(t, bytes) else t for t in labels.tolist()]
    if wrong := [text for text in texts if not isinstance(text, str)]:
        raise DatasetError(
            f"{what} has the label {wrong[0]!r} beside strings; integers or strings "
            "are needed."
        )
    return texts


def _as_integers(what, labels):
    if labels.dtype.kind == "f" and (np.rint(labels) == labels).all():
        # Clipped as int64 cannot hold what is refused later anyway.
        labels = np.clip(labels, -1, _MAX_LABEL + 1).astype(np.int64)
    if labels.dtype.kind not in "bui":
        raise DatasetError(f"{what} has dtype {labels.dtype}; integers are needed.")
    return labels.astype(np.int64) if labels.dtype.kind != "u" else labels


def _counts_from_one(labels, last, class_names):
    """Whether the labels are 1 to the number of classes, each with a training image."""
    first = min(int(array.min()) for array in labels.values())
    trained = np.unique(next(iter(labels.values())))
    is_complete = len(trained) == last and last >= 2
    fits = class_names is None or len(class_names) == last
    return first == 1 and is_complete and fits


def _check_values(what, labels):
    if labels.min() >= 0 and labels.max() <= _MAX_LABEL:
        return
    wrong = labels.min() if labels.min() < 0 else labels.max()
    likely = ""
    if set(np.unique(labels).tolist()) == {-1, 1}:
        likely = " They are probably two classes: take (labels > 0).astype(int)."
    raise DatasetError(f"{what} has the label {wrong}; labels count from 0.{likely}")


def _check_numbers(what, labels):
    """Refuses numbers that are no labels, before there is a class for each of them."""
    if labels.max() >= len(labels):
        raise DatasetError(
            f"{what} has the label {labels.max()}, but {len(labels)} images, too few "
            "for one of each class; labels count from 0 and leave out no number. Take "
            "np.unique(labels, return_inverse=True)[1]."
        )
