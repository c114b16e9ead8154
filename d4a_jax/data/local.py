"""Data sets that are read straight into memory."""

import dataclasses
from pathlib import Path

import numpy as np

from d4a_jax.data import decode
from d4a_jax.data.dataset import Dataset, check_labels, from_arrays
from d4a_jax.data.errors import DatasetError
from d4a_jax.data.holdout import held_out_rows

_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
_UNSPLIT = ("images", "labels")
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
    `from_arrays`, or only `images` and `labels`; then a tenth of each class, drawn with
    a fixed seed, is the test split. It may hold `class_names`, an array of strings.

    Args:
      path: of the file.
      size: side to resize to, or None.
      **unused: arguments of other data sets.

    Raises:
      DatasetError: the file or an array in it cannot be used.
    """
    if not path.is_file():
        raise DatasetError(f"There is no file {path}; path must name a .npz file.")
    arrays = {}
    try:
        file = np.load(path, allow_pickle=False)
        if isinstance(file, np.ndarray):
            raise DatasetError(f"{path} is a single array; an .npz file is needed.")
        with file:
            for key in (*_ARRAYS, *_UNSPLIT, "class_names"):
                if key in file:
                    arrays[key] = file[key]
    except DatasetError:
        raise
    except Exception as error:  # pylint: disable=broad-except
        # NumPy parses headers as Python: damage shows as nearly anything.
        raise DatasetError(f"{path} cannot be read as an .npz file: {error}.") from None
    class_names = arrays.pop("class_names", None)
    arrays = _split(path, arrays)
    if class_names is not None:
        if class_names.ndim != 1 or class_names.dtype.kind not in "US":
            raise DatasetError(f"class_names in {path} must be a list of strings.")
        class_names = class_names.astype(str).tolist()
    dataset = from_arrays(path.stem, **arrays, class_names=class_names)
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


def _split(path: Path, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The four arrays of both splits, the test split held out where there is none."""
    if arrays.keys() == set(_UNSPLIT):
        images, labels = (np.asarray(arrays[key]) for key in _UNSPLIT)
        labels = check_labels(f"labels in {path}", labels, len(np.atleast_1d(images)))
        is_test = held_out_rows(labels)
        parts = (images[~is_test], labels[~is_test], images[is_test], labels[is_test])
        return dict(zip(_ARRAYS, parts))
    if missing := [key for key in _ARRAYS if key not in arrays]:
        raise DatasetError(
            f"{path} lacks the array {missing[0]!r} (it may hold only 'images' and "
            "'labels' instead, to have a tenth held out)."
        )
    return {key: arrays[key] for key in _ARRAYS}
