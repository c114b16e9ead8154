"""Data sets that are read straight into memory."""

import dataclasses
from pathlib import Path

import numpy as np

from d4a_jax.data import decode
from d4a_jax.data.arrays import read_labels
from d4a_jax.data.dataset import Dataset, from_arrays
from d4a_jax.data.errors import DatasetError, shorten
from d4a_jax.data.holdout import held_out_rows

_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
_UNSPLIT = ("images", "labels")
# Of Keras's files.
_OTHER_NAMES = {
    "x_train": "train_images",
    "y_train": "train_labels",
    "x_test": "test_images",
    "y_test": "test_labels",
}
_NORMALIZATION = ("mean", "std")
_SPLIT_SEED = 0
_TEST_FRACTION = 0.2


def load_digits(*, size: int | None, **unused) -> Dataset:
    """Loads the 8 x 8 handwritten digits that come with scikit-learn.

    1,797 greyscale images `[n, 8, 8, 1]`, whose values 0..16 are scaled to 0..255. A
    fixed fifth of each class, drawn with a seed, is the test split.

    Args:
      size: side to resize to, or None.
      **unused: arguments of other data sets.
    """
    try:
        from sklearn import datasets
    except ImportError:
        raise DatasetError("Data set 'digits' needs scikit-learn installed.") from None
    digits = datasets.load_digits()
    images = np.rint(digits.images[..., None] * (255 / 16)).astype(np.uint8)
    images = decode.resize_arrays(images, size)
    labels = digits.target.astype(np.int32)
    order = np.random.RandomState(_SPLIT_SEED).permutation(len(labels))
    is_test = np.zeros(len(labels), bool)
    for label in range(10):
        members = order[labels[order] == label]
        is_test[members[: round(_TEST_FRACTION * len(members))]] = True
    return from_arrays(
        "digits",
        images[~is_test],
        labels[~is_test],
        images[is_test],
        labels[is_test],
        class_names=[str(label) for label in range(10)],
        flip=False,
    )


def load_npz(*, path: Path, size: int | None, **unused) -> Dataset:
    """Loads a `.npz` file.

    It holds `train_images`, `train_labels`, `test_images`, `test_labels` as for
    `from_arrays` (the names of MedMNIST's files; `x_train` and so on, as in Keras's,
    are read as well), or only `images` and `labels`; then a tenth of each class, drawn
    with a fixed seed, is the test split. It may hold `class_names`, an array of
    strings, and `mean` and `std` of normalized images. Others are not used.

    Args:
      path: of the file.
      size: side to resize to, or None.
      **unused: arguments of other data sets.

    Raises:
      DatasetError: the file or an array in it cannot be used.
    """
    arrays, others = _read_npz(path)
    class_names = arrays.pop("class_names", None)
    if class_names is not None:
        if class_names.ndim != 1 or class_names.dtype.kind not in "US":
            raise DatasetError(f"class_names in {path} must be a list of strings.")
        class_names = class_names.astype(str).tolist()
    normalization = {key: arrays.pop(key, None) for key in _NORMALIZATION}
    notes = [f"arrays not used: {shorten(sorted(others))}"] if others else []
    if arrays.keys() == set(_UNSPLIT):
        arrays, class_names, more = _hold_out(path, arrays, class_names)
        notes += more
    if missing := [key for key in _ARRAYS if key not in arrays]:
        raise DatasetError(
            f"{path} lacks the array {missing[0]!r} (it may hold only 'images' and "
            "'labels' instead, to have a tenth held out)."
        )
    arrays = {key: arrays[key] for key in _ARRAYS}
    if _is_normalized(arrays["train_images"]):
        arrays |= normalization
    dataset = from_arrays(path.stem, **arrays, class_names=class_names)
    understood = (*notes, *dataset.understood)
    dataset = dataclasses.replace(dataset, understood=understood)
    if size is None:
        return dataset
    resized = from_arrays(
        dataset.name,
        decode.resize_arrays(dataset.train_images, size),
        dataset.train_labels,
        decode.resize_arrays(dataset.test_images, size),
        dataset.test_labels,
        class_names=dataset.class_names,
    )
    # Resized pixels are no source values: they say nothing about how those were read.
    return dataclasses.replace(
        resized, pixel_range=dataset.pixel_range, understood=dataset.understood
    )


def _read_npz(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """The arrays of a data set by our names, and the names of the others."""
    if not path.is_file():
        raise DatasetError(f"There is no file {path}; path must name a .npz file.")
    wanted = {*_ARRAYS, *_UNSPLIT, *_NORMALIZATION, "class_names"}
    arrays, others = {}, []
    try:
        file = np.load(path, allow_pickle=False)
        if isinstance(file, np.ndarray):
            raise DatasetError(f"{path} is a single array; an .npz file is needed.")
        with file:
            for key in file.files:
                name = _OTHER_NAMES.get(key, key)
                if name in wanted and name not in arrays:
                    arrays[name] = file[key]
                else:
                    others.append(key)
    except DatasetError:
        raise
    except Exception as error:  # pylint: disable=broad-except
        # NumPy parses headers as Python: damage shows as nearly anything.
        raise DatasetError(f"{path} cannot be read as an .npz file: {error}.") from None
    return arrays, others


def _is_normalized(images: np.ndarray) -> bool:
    """Whether images can need their mean and std, which tell nothing of others."""
    return images.dtype.kind == "f" and images.size > 0 and bool(images.min() < 0)


def _hold_out(path, arrays, class_names):
    """The four arrays of both splits, class names and notes on the labels."""
    images, what = arrays["images"], f"labels in {path}"
    length = len(np.atleast_1d(images))
    read = read_labels({what: arrays["labels"]}, {what: length}, class_names)
    labels = read.arrays[what]
    is_test = held_out_rows(labels)
    parts = (images[~is_test], labels[~is_test], images[is_test], labels[is_test])
    return dict(zip(_ARRAYS, parts)), read.class_names, read.notes
