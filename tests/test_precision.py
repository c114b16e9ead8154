"""The measure of rounding: against float64 itself, and its table."""

import numpy as np
import pytest

from d4a_jax.config import from_dict
from d4a_jax.data import from_arrays
from experiments import precision

CONFIG = from_dict(
    {
        "network": "convnet:width=8:depth=2",
        "synthetic": {"images_per_class": 1, "factor": 2},
        "matching": {"batch_real": 4},
        "runtime": {"devices": 1},
    }
)


@pytest.fixture(scope="module")
def dataset():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(2), 8)
    images = rng.integers(0, 256, (16, 8, 8, 3), dtype=np.uint8)
    return from_arrays("noise", images, labels, images, labels)


def test_cosine_and_ratio_by_hand():
    exact = np.array([3.0, 4.0])
    assert precision.compare(exact, 2 * exact) == pytest.approx((1.0, 2.0))
    assert precision.compare(exact, np.array([-4.0, 3.0])) == pytest.approx((0.0, 1.0))


def test_batches_are_of_one_class_and_normalized(dataset):
    real, formed = precision.batches(dataset, CONFIG, 1)
    assert real.dtype == formed.dtype == np.float64
    expected = np.asarray(dataset.train_images[8:12]) / 255
    mean, std = np.array(dataset.mean), np.array(dataset.std)
    np.testing.assert_allclose(real, (expected - mean) / std, rtol=1e-5, atol=1e-6)
    assert formed.shape == (4, 8, 8, 3)


@pytest.mark.parametrize("steps", [0, 2])
def test_single_precision_is_close_and_half_is_not_as_close(dataset, steps):
    rows = precision.measure(dataset, CONFIG, steps, 1)
    assert [row[:2] for row in rows] == [
        [str(steps), name] for name in precision.DISTANCES
    ]
    for row in rows:
        single, ratio, half, _ = map(float, row[2:])
        assert single > 0.99999 and ratio == pytest.approx(1.0, abs=1e-4)
        assert 0.5 < half < single
