"""Tests of the data set, its checks, and the selection of classes."""

import numpy as np
import pytest

from d4a_jax import data
from d4a_jax.data import dataset as dataset_lib
from d4a_jax.data import statistics


def _arrays(channels=3, classes=3, per_class=4, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.tile(np.arange(classes), per_class)
    shape = (len(labels), 6, 5, channels)
    return {
        "train_images": rng.integers(0, 256, shape, np.uint8),
        "train_labels": labels,
        "test_images": rng.integers(0, 256, shape, np.uint8),
        "test_labels": labels[::-1].copy(),
    }


@pytest.mark.parametrize("channels", [1, 3])
def test_from_arrays_keeps_the_arrays_and_computes_their_statistics(channels):
    arrays = _arrays(channels)
    dataset = data.from_arrays("mine", **arrays)
    np.testing.assert_array_equal(dataset.train_images, arrays["train_images"])
    np.testing.assert_array_equal(dataset.test_labels, arrays["test_labels"])
    assert dataset.train_labels.dtype == np.int32
    pixels = arrays["train_images"] / 255
    np.testing.assert_allclose(dataset.mean, pixels.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(dataset.std, pixels.std((0, 1, 2)), rtol=1e-12)
    assert dataset.num_classes == 3
    assert dataset.image_shape == (6, 5, channels)
    assert dataset.class_names == ("0", "1", "2")
    assert dataset.flip


def test_floats_in_the_unit_interval_are_rounded():
    arrays = _arrays()
    expected = arrays["train_images"]
    arrays["train_images"] = (expected / 255).astype(np.float32)
    dataset = data.from_arrays("mine", **arrays)
    assert dataset.train_images.dtype == np.uint8
    np.testing.assert_array_equal(dataset.train_images, expected)


def test_a_constant_channel_has_a_std_to_divide_by():
    arrays = _arrays()
    arrays["train_images"][..., 1] = 77
    dataset = data.from_arrays("mine", **arrays)
    assert dataset.std[1] == 1.0
    assert dataset.mean[1] == pytest.approx(77 / 255)


def test_the_fingerprint_identifies_name_names_and_pixels():
    arrays = _arrays()
    same = [data.from_arrays("mine", **_arrays()).fingerprint for _ in range(2)]
    assert same[0] == same[1]
    assert len(same[0]) == 64
    changed = _arrays()
    changed["test_images"][-1, -1, -1, -1] ^= 1
    others = {
        data.from_arrays("other", **arrays).fingerprint,
        data.from_arrays("mine", **arrays, class_names=["a", "b", "c"]).fingerprint,
        data.from_arrays("mine", **changed).fingerprint,
    }
    assert len(others | {same[0]}) == 4


def _replaced(**changes):
    return _arrays() | changes


_BAD_ARRAYS = {
    "rank": (_replaced(train_images=np.zeros((4, 6, 5), np.uint8)), "3 dimensions"),
    "empty": (_replaced(test_images=np.zeros((0, 6, 5, 3), np.uint8)), "is empty"),
    "channels": (_replaced(train_images=np.zeros((12, 6, 5, 4), np.uint8)), "4 chan"),
    "dtype": (_replaced(train_images=np.zeros((12, 6, 5, 3), complex)), "complex128"),
    "nan": (_replaced(train_images=np.full((12, 6, 5, 3), np.nan)), "NaN"),
    "range": (_replaced(train_images=np.full((12, 6, 5, 3), 256.0)), r"in \[0, 1\]"),
    "mixed channels": (
        _replaced(test_images=np.zeros((12, 6, 5, 1), np.uint8)),
        "3 channels and the test images 1",
    ),
    "mixed sizes": (
        _replaced(test_images=np.zeros((12, 7, 5, 3), np.uint8)),
        "they must agree",
    ),
    "labels' length": (_replaced(train_labels=np.zeros(5, int)), "one label per image"),
    "labels' dtype": (_replaced(train_labels=np.full(12, 0.5)), "integers are needed"),
    "negative label": (_replaced(test_labels=np.full(12, -1)), "the label -1"),
    "label too high": (_replaced(test_labels=np.full(12, 3)), "label 3 in its test"),
    "missing class": (
        _replaced(train_labels=np.tile([0, 2], 6)),
        "Class '1' .* has no train images",
    ),
    "one class": (_replaced(train_labels=np.zeros(12, int)), "at least 2"),
    "same names": (_replaced(class_names=["a", "b", "a"]), "two classes named 'a'"),
}


@pytest.mark.parametrize("case", _BAD_ARRAYS)
def test_bad_arrays_are_refused(case):
    arrays, message = _BAD_ARRAYS[case]
    with pytest.raises(data.DatasetError, match=message):
        data.from_arrays("mine", **arrays)


def test_selected_classes_are_relabelled_in_the_order_given():
    arrays = _arrays(classes=4)
    whole = data.from_arrays("mine", **arrays, class_names=["a", "b", "c", "d"])
    part = dataset_lib.select_classes(whole, (3, 1))
    assert part.class_names == ("d", "b")
    rows = np.flatnonzero(np.isin(whole.train_labels, [3, 1]))
    np.testing.assert_array_equal(part.train_images, whole.train_images[rows])
    expected = [{3: 0, 1: 1}[label] for label in whole.train_labels[rows]]
    np.testing.assert_array_equal(part.train_labels, expected)
    pixels = whole.train_images[rows] / 255
    np.testing.assert_allclose(part.mean, pixels.mean((0, 1, 2)), rtol=1e-12)
    assert part.fingerprint != whole.fingerprint
    first = dataset_lib.select_classes(whole, 2)
    assert first.class_names == ("a", "b")
    assert first.fingerprint == dataset_lib.select_classes(whole, (0, 1)).fingerprint
    assert dataset_lib.select_classes(whole, None) is whole


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (1, "from 2 to 3"),
        (4, "from 2 to 3"),
        ((0, 3), "the label 3"),
        ((0, -1), "the label -1"),
        ((1, 1), "2 different labels"),
        ((), "2 different labels"),
    ],
)
def test_wrong_classes_are_refused(classes, message):
    whole = data.from_arrays("mine", **_arrays())
    with pytest.raises(data.DatasetError, match=message):
        dataset_lib.select_classes(whole, classes)


def test_statistics_do_not_depend_on_the_pieces(monkeypatch):
    images = _arrays()["train_images"]
    counts, digest = statistics.histogram(images), statistics.digest(images)
    monkeypatch.setattr(statistics, "_CHUNK_BYTES", 200)
    assert len(list(statistics.chunks(images))) > 3
    np.testing.assert_array_equal(statistics.histogram(images), counts)
    assert statistics.digest(images) == digest
    assert statistics.digest(images[:, ::-1]) != digest


def test_unknown_names_and_arguments():
    with pytest.raises(data.DatasetError, match="did you mean cifar10"):
        data.load_dataset("cifar-10")
    with pytest.raises(data.DatasetError, match="choose one of cifar10, cifar100"):
        data.load_dataset("zzzz")
    with pytest.raises(data.DatasetError, match="needs path"):
        data.load_dataset("image_folder")
    with pytest.raises(data.DatasetError, match="takes no path"):
        data.load_dataset("digits", path="x")
    with pytest.raises(data.DatasetError, match="size=0"):
        data.load_dataset("digits", size=0)
    with pytest.raises(data.DatasetError, match="manual directory .* does not exist"):
        data.load_dataset("cifar10", manual_dir="/nonexistent")
    assert {"cifar10", "imagenet10", "digits"} <= set(data.dataset_names())
