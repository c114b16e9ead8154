"""The in-memory form of every data set, and the checks on it."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from d4a_jax.data import arrays, pixel_range, statistics
from d4a_jax.data.errors import DatasetError, shorten
from d4a_jax.log import logger


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A labelled image data set with a training and a test split.

    Attributes:
      name: catalogue name, or the name given to `from_arrays`.
      train_images: uint8 `[n, h, w, c]`, values 0..255, possibly memory-mapped.
      train_labels: int32 `[n]`, values 0..num_classes-1.
      test_images: uint8 `[m, h, w, c]`.
      test_labels: int32 `[m]`.
      class_names: one name per label.
      mean: mean of the training pixels per channel, pixels taken in [0, 1].
      std: their standard deviation; 1 for a channel that is constant.
      flip: whether a horizontal flip keeps the label (False for digits).
      fingerprint: 64 hexadecimal digits that identify these exact arrays and how they
        were made.
      source: `name`, `path`, `size` and `classes` with which `load_dataset` finds the
        data again; None where they were given as arrays.
      pixel_range: the two source values that became 0 and 255, where pixels of more
        than 8 bits, or of nothing but 0 and 1, were scaled; else None.
      understood: notes on how the source was read, where that was not plain.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool
    fingerprint: str
    source: dict[str, Any] | None = None
    pixel_range: tuple[float, float] | None = None
    understood: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def own_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of the training pixels, measured again."""
        return statistics.mean_and_std(statistics.histogram(self.train_images))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image."""
        return tuple(int(side) for side in self.train_images.shape[1:])


def make_fingerprint(**parts) -> str:
    """Returns the SHA-256 of the parts, which are plain values, as JSON."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def from_arrays(
    name: str,
    train_images: np.ndarray,
    train_labels: np.ndarray,
    test_images: np.ndarray,
    test_labels: np.ndarray,
    class_names: Sequence[str] | None = None,
    flip: bool = True,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
) -> Dataset:
    """Makes a data set from arrays, after checking all of them.

    Args:
      name: any name; part of the fingerprint.
      train_images: `[n, h, w, c]` with c = 1 or 3, channels first, or `[n, h, w]`:
        uint8; other integers, which are scaled by the range found in all images, see
        `pixel_range`; or floats in [0, 1] or [0, 255], which are rounded to uint8.
      train_labels: integers `[n]` from 0 or from 1, or another form of
        `arrays.read_labels`; every class has a training image.
      test_images: `[m, h, w, c]` of the same image shape.
      test_labels: labels `[m]` of the same form.
      class_names: one different name per class; by default the labels themselves,
        where those are strings in their sorted order.
      flip: whether a horizontal flip keeps the label.
      mean: by which float images are normalized, one per channel or one for all, of
        pixels in [0, 1] or in [0, 255]; None where they are not.
      std: the standard deviation beside it.

    Returns:
      The data set; its `understood` says how the arrays were read.

    Raises:
      DatasetError: an array has a wrong type, shape or value.
    """
    images, layouts = _read_layouts(
        name,
        {"train_images": train_images, "test_images": test_images},
        (train_labels, test_labels),
    )
    labels = arrays.read_labels(
        {"train_labels": train_labels, "test_labels": test_labels},
        {
            "train_labels": len(images["train_images"]),
            "test_labels": len(images["test_images"]),
        },
        class_names,
    )
    train_labels, test_labels = labels.arrays.values()
    class_names = labels.class_names
    if class_names is None:
        class_names = [str(label) for label in range(int(train_labels.max()) + 1)]
    class_names = check_class_names(name, class_names)
    check_label_range(name, "train", train_labels, class_names, every_class=True)
    check_label_range(name, "test", test_labels, class_names)
    images, scaled_by, values = pixel_range.read_pixels(images, mean, std)
    train_images, test_images = images["train_images"], images["test_images"]
    counts = statistics.histogram(train_images)
    if warning := pixel_range.few_levels(name, counts, scaled_by):
        logger.warning(warning)
    mean, std = statistics.mean_and_std(counts)
    digests = [
        statistics.digest(array)
        for array in (train_images, train_labels, test_images, test_labels)
    ]
    return Dataset(
        name=name,
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        class_names=class_names,
        mean=mean,
        std=std,
        flip=bool(flip),
        fingerprint=make_fingerprint(
            name=name, version="arrays", classes=class_names, digests=digests
        ),
        pixel_range=scaled_by,
        understood=(*layouts, *values, *labels.notes),
    )


def _read_layouts(name, given, labels):
    """Images of both splits as `[n, h, w, c]` of one shape, and notes on that."""
    images, notes = {}, []
    for (what, array), own in zip(given.items(), labels, strict=True):
        count = np.shape(own)[0] if np.ndim(own) else 1
        images[what], note = arrays.read_layout(what, array, count)
        if note and note not in notes:
            notes.append(note)
    train, test = (array.shape[1:] for array in images.values())
    if train[2] != test[2]:
        raise DatasetError(
            f"Data set {name!r}: the training images have {train[2]} channels and the "
            f"test images {test[2]}; they must agree."
        )
    if train != test:
        raise DatasetError(
            f"Data set {name!r}: the training images are {train} and the test images "
            f"{test}; they must agree."
        )
    return images, notes


def check_class_names(name: str, class_names: Sequence[str]) -> tuple[str, ...]:
    """Returns the names as strings, after checking that there are two different ones.

    Raises:
      DatasetError: fewer than two classes, or a name that comes twice.
    """
    class_names = tuple(str(class_name) for class_name in class_names)
    if len(class_names) < 2:
        raise DatasetError(
            f"Data set {name!r} has {len(class_names)} class; at least 2 are needed."
        )
    repeated = [c for c in class_names if class_names.count(c) > 1]
    if repeated:
        raise DatasetError(f"Data set {name!r} has two classes named {repeated[0]!r}.")
    return class_names


def check_label_range(
    name: str,
    split: str,
    labels: np.ndarray,
    class_names: Sequence[str],
    every_class: bool = False,
) -> None:
    """Checks that labels lie below the number of classes.

    Args:
      name: of the data set, for the message.
      split: of the data set, for the message.
      labels: int `[n]`, not negative.
      class_names: one per class.
      every_class: whether every class must occur.

    Raises:
      DatasetError: a label is too high, or a class does not occur.
    """
    counts = np.bincount(labels, minlength=len(class_names))
    if len(counts) > len(class_names):
        raise DatasetError(
            f"Data set {name!r} has the label {len(counts) - 1} in its {split} split, "
            f"but only {len(class_names)} classes, 0 to {len(class_names) - 1}."
        )
    if every_class and not counts.all():
        label = int(np.argmin(counts))
        raise DatasetError(
            f"Class {class_names[label]!r} (label {label}) of data set {name!r} has no "
            f"{split} images; labels count from 0 and leave out no number."
        )


def select_classes(dataset: Dataset, classes: int | tuple[int, ...] | None) -> Dataset:
    """Keeps some classes of a data set, relabelled 0..k-1 in the order given.

    The kept images are copied into memory, in their order; mean and std are those of
    the kept training images.

    Args:
      dataset: the whole data set.
      classes: the first so many classes, or their labels; None keeps all.

    Raises:
      DatasetError: a class does not exist or comes twice, or fewer than 2 are left.
    """
    if classes is None:
        return dataset
    labels = _check_classes(dataset, classes)
    relabel = np.full(dataset.num_classes, -1, np.int32)
    relabel[list(labels)] = np.arange(len(labels))
    kept = {}
    for split in ("train", "test"):
        new_labels = relabel[getattr(dataset, f"{split}_labels")]
        rows = np.flatnonzero(new_labels >= 0)
        if not len(rows):
            raise DatasetError(
                f"Data set {dataset.name!r} has no {split} images of the classes "
                f"{labels}."
            )
        kept[f"{split}_images"] = np.asarray(getattr(dataset, f"{split}_images")[rows])
        kept[f"{split}_labels"] = new_labels[rows]
    mean, std = statistics.mean_and_std(statistics.histogram(kept["train_images"]))
    class_names = tuple(dataset.class_names[label] for label in labels)
    return dataclasses.replace(
        dataset,
        class_names=class_names,
        understood=(*dataset.understood, f"the classes {shorten(class_names)}"),
        mean=mean,
        std=std,
        fingerprint=make_fingerprint(whole=dataset.fingerprint, labels=labels),
        source=_source_of_classes(dataset.source, classes, labels),
        **kept,
    )


def _source_of_classes(source, classes, labels):
    """The source of some classes of data that may be a choice of classes themselves."""
    if source is None:
        return None
    if isinstance(source["classes"], list):
        classes = [source["classes"][label] for label in labels]
    elif not isinstance(classes, (int, np.integer)):
        classes = list(labels)
    return source | {"classes": classes}


def _check_classes(dataset: Dataset, classes: int | tuple[int, ...]) -> tuple[int, ...]:
    available = dataset.num_classes
    if isinstance(classes, (int, np.integer)):
        if not 2 <= classes <= available:
            raise DatasetError(
                f"classes={classes}, but data set {dataset.name!r} has {available} "
                f"classes; give a number from 2 to {available}."
            )
        return tuple(range(int(classes)))
    labels = tuple(int(label) for label in classes)
    wrong = [label for label in labels if not 0 <= label < available]
    if wrong:
        raise DatasetError(
            f"classes has the label {wrong[0]}, but data set {dataset.name!r} has the "
            f"labels 0 to {available - 1}."
        )
    if len(set(labels)) != len(labels) or len(labels) < 2:
        raise DatasetError(f"classes={labels} must be at least 2 different labels.")
    return labels
