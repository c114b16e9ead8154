"""Tests of how values become pixels, in arrays and in folders, and of what is said."""

import logging

import numpy as np
import pytest
from PIL import Image

from d4a_jax import data
from d4a_jax.config import from_dict
from d4a_jax.distillation import distill
from d4a_jax.selection.baselines import random_images

LABELS = np.arange(8) % 2


def _dataset(train, test=None, **arguments):
    test = train if test is None else test
    return data.from_arrays("mine", train, LABELS, test, LABELS, **arguments)


def _values(low, high, dtype, seed=0):
    """Images that reach from `low` to `high`."""
    values = np.random.default_rng(seed).integers(low, high + 1, (8, 6, 5, 1))
    values[0, 0, 0], values[-1, -1, -1] = low, high
    return values.astype(dtype)


def _scaled(values, low, high):
    return np.rint((values.astype(float) - low) * 255 / (high - low)).astype(np.uint8)


@pytest.mark.parametrize(
    ("low", "high", "dtype", "expected"),
    [
        (0, 4095, np.uint16, (0, 4095)),
        (40, 4071, np.uint16, (40, 4071)),
        (-1024, 3071, np.int16, (-1024, 3071)),
        (3, 250, np.uint16, None),
        (0, 255, np.int64, None),
        (100, 60000, np.uint16, (0, 65535)),
        (0, 1, np.int32, (0, 1)),
        (0, 1, np.uint8, (0, 1)),
        (0, 1, bool, (0, 1)),
        (0, 16, np.uint8, None),
        (0, 2**31, np.uint32, (0, 2**31)),
    ],
)
def test_integers_are_scaled_by_the_range_that_is_found(low, high, dtype, expected):
    values = _values(low, high, dtype)
    dataset = _dataset(values)
    assert dataset.train_images.dtype == np.uint8
    assert dataset.pixel_range == expected
    scaled = _scaled(values, *(expected or (0, 255)))
    np.testing.assert_array_equal(dataset.train_images, scaled)
    noted = any("scaled to 0 to 255" in note for note in dataset.understood)
    assert noted == (expected is not None)


def test_the_range_is_that_of_both_splits():
    train, test = _values(0, 1000, np.uint16), _values(0, 4000, np.uint16, seed=1)
    dataset = _dataset(train, test)
    assert dataset.pixel_range == (0, 4000)
    np.testing.assert_array_equal(dataset.train_images, _scaled(train, 0, 4000))
    np.testing.assert_array_equal(dataset.test_images, _scaled(test, 0, 4000))
    # Zeros and ones beside a brighter split are dark pixels.
    dataset = _dataset(_values(0, 1, np.uint8), _values(0, 255, np.uint8))
    assert dataset.pixel_range is None and dataset.train_images.max() == 1


def test_full_pixels_keep_their_fingerprint():
    """That of a set made before values were scaled, so that its runs continue."""
    images = np.arange(8 * 6 * 5, dtype=np.uint8).reshape(8, 6, 5, 1)
    expected = "75c4a03bd9b02c0cc2f87fd573c96f2c55d50a751b023edf58ab2f327c69b7e3"
    assert _dataset(images).fingerprint == expected
    assert _dataset(images.astype(np.uint16)).fingerprint == expected
    assert _dataset(images / np.float32(255)).fingerprint == expected


@pytest.mark.parametrize(
    ("low", "high", "dtype", "message"),
    [
        (0, 17, np.uint16, "only 18 different pixels: values 0 to 17 scaled"),
        (0, 1, np.uint8, "only 2 different pixels: values 0 to 1 scaled"),
        (0, 16, np.uint8, "reach only 16 of 255"),
        (0, 4095, np.uint16, None),
        (0, 255, np.uint8, None),
    ],
)
def test_few_levels_are_a_warning(caplog, low, high, dtype, message):
    values = np.linspace(low, high, 8 * 30).reshape(8, 6, 5, 1).astype(dtype)
    with caplog.at_level(logging.WARNING, "d4a_jax"):
        _dataset(values)
    assert (message in caplog.text) if message else not caplog.text


def test_black_and_white_images_are_no_cause_for_a_warning(caplog):
    _dataset(255 * _values(0, 1, np.uint8))
    assert not caplog.text


def _folder(root, images):
    for i, image in enumerate(images):
        path = root / ("train", "test")[i // 4 % 2] / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


def _load(tmp_path, **arguments):
    return data.load_dataset(
        "image_folder", path=tmp_path / "x", data_dir=tmp_path / "data", **arguments
    )


def _order(images):
    """The images of `_folder` as a data set has them: by split, class and number."""
    return np.stack([images[i] for i in (0, 2, 1, 3, 4, 6, 5, 7)])[..., None]


@pytest.mark.parametrize(
    ("low", "high", "dtype", "expected"),
    [
        (0, 4095, np.uint16, (0, 4095)),
        (30, 3000, np.uint16, (30, 3000)),
        (0, 255, np.uint16, None),
        (9, 65500, np.uint16, None),
        (0, 1, np.uint16, (0, 1)),
        (0, 1, np.uint8, (0, 1)),
        (0, 255, np.uint8, None),
    ],
)
def test_folders_are_scaled_by_the_range_of_all_files(
    tmp_path, low, high, dtype, expected
):
    images = _values(low, high, dtype)[..., 0]
    _folder(tmp_path / "x", images)
    dataset = _load(tmp_path)
    found = np.concatenate([dataset.train_images, dataset.test_images])
    used = expected or ((0, 65535) if high > 255 else (0, 255))
    np.testing.assert_array_equal(found, _order(_scaled(images, *used)))
    assert dataset.pixel_range == expected
    again = _load(tmp_path)
    assert again.fingerprint == dataset.fingerprint
    assert again.pixel_range == expected and again.understood == dataset.understood
    assert bool(dataset.understood) == (expected is not None)


def test_folders_of_few_levels_are_a_warning_each_time(tmp_path, caplog):
    images = np.linspace(0, 17, 8 * 30).reshape(8, 6, 5).astype(np.uint16)
    _folder(tmp_path / "x", images)
    for _ in range(2):
        caplog.clear()
        _load(tmp_path)
        assert "different pixels: values 0 to 17 scaled" in caplog.text


def test_one_folder_of_two_depths_is_read_or_refused(tmp_path):
    eight, sixteen = _values(0, 255, np.uint8)[..., 0], _values(0, 4095, np.uint16)
    images = [*eight[:4], *sixteen[4:, ..., 0]]
    _folder(tmp_path / "x", images)
    dataset = _load(tmp_path)
    np.testing.assert_array_equal(dataset.train_images, _order(images[:4] * 2)[:4])
    assert dataset.test_images.max() == 255
    binary = [*eight[:4], *_values(0, 1, np.uint16)[4:, ..., 0]]
    _folder(tmp_path / "x", binary)
    with pytest.raises(data.DatasetError, match="one depth"):
        _load(tmp_path)


def _config(rate=0.01, **sections):
    values = {
        "network": "convnet:width=4:depth=1",
        "synthetic": {"images_per_class": 2, "segments": 1, "factor": 1},
        "matching": {
            "learning_rate": rate,
            "learning_rate_scaling": "none",
            "outer_iterations": 1,
            "inner_iterations": 2,
            "batch_real": 4,
            "augmentation": "color",
        },
        "network_training": {"augmentation": "color", "images_per_step": 4},
        "evaluation": {"enabled": False},
        "filter": {"enabled": False},
    }
    return from_dict(values | sections)


def test_a_distilled_set_records_the_range():
    dataset = _dataset(_values(0, 4095, np.uint16))
    assert random_images(dataset, 1).metadata["pixel_range"] == [0, 4095]
    distilled = distill(dataset, _config())
    assert distilled.metadata["pixel_range"] == [0, 4095]
    plain = _dataset(_values(0, 255, np.uint8))
    assert random_images(plain, 1).metadata["pixel_range"] is None


@pytest.mark.parametrize(
    ("high", "rate", "is_saturated"),
    [(255, 1e5, True), (255, 1e-3, False), (1, 1e-3, False)],
)
def test_saturated_pixels_are_said_and_recorded(caplog, high, rate, is_saturated):
    """Not so where the real images are black and white themselves."""
    values = 255 // high * _values(0, high, np.uint8)
    with caplog.at_level(logging.WARNING, "d4a_jax"):
        distilled = distill(_dataset(values), _config(rate))
    (entry,) = distilled.metadata["history"]
    assert ("saturated" in entry) == is_saturated
    assert ("matching.learning_rate" in caplog.text) == is_saturated
    if is_saturated:
        share = np.isin(distilled.images, (0, 255)).mean()
        assert entry["saturated"] == pytest.approx(share) and share > 0.5
