"""Random sets: real images of their class, in the storage of a distilled set."""

import numpy as np
import pytest

from d4a_jax.baselines import random_images
from d4a_jax.data import from_arrays
from d4a_jax.formation import form


def _dataset(per_class=6, classes=2, side=8):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), per_class)
    images = rng.integers(0, 256, (len(labels), side, side, 1)).astype(np.uint8)
    return from_arrays("toy", images, labels, images[::2], labels[::2], flip=False)


def test_random_images_are_nested_real_and_of_their_class():
    dataset = _dataset()
    drawn = random_images(dataset, (1, 2), seed=3)
    assert drawn.metadata["segment_sizes"] == [1, 2]
    np.testing.assert_array_equal(drawn.labels, [0, 1, 0, 0, 1, 1])
    np.testing.assert_array_equal(drawn.segments, [0, 0, 1, 1, 1, 1])
    rows = [
        np.flatnonzero((dataset.train_images == image).all((1, 2, 3)))[0]
        for image in drawn.images
    ]
    assert len(set(rows)) == 6
    np.testing.assert_array_equal(dataset.train_labels[rows], drawn.labels)
    smaller = random_images(dataset, 1, seed=3)
    np.testing.assert_array_equal(smaller.images, drawn.prefix(1).images)
    other = random_images(dataset, (1, 2), seed=4)
    assert (other.images != drawn.images).any()


def test_mosaics_hold_shrunk_images_of_their_class():
    gray = np.repeat(np.array([10, 20, 30, 40, 50, 60, 70, 80], np.uint8), 64)
    images = gray.reshape(8, 8, 8, 1)
    dataset = from_arrays("gray", images, [0] * 4 + [1] * 4, images, [0] * 8)
    drawn = random_images(dataset, 1, factor=2)
    assert drawn.factor == 2
    assert drawn.images.shape == (2, 8, 8, 1)
    for image, values in zip(drawn.images, ({10, 20, 30, 40}, {50, 60, 70, 80})):
        formed = np.rint(255 * np.asarray(form(image[None] / 255.0, 2))).astype(int)
        assert {int(tile[0, 0, 0]) for tile in formed} == values
        assert (formed == formed[:, :1, :1]).all()


def test_images_come_again_where_a_class_has_too_few():
    dataset = _dataset(per_class=2)
    drawn = random_images(dataset, 5)
    for label in (0, 1):
        own = drawn.images[drawn.labels == label].reshape(5, -1)
        found, counts = np.unique(own, axis=0, return_counts=True)
        assert len(found) == 2
        assert sorted(counts) == [2, 3]


@pytest.mark.parametrize("sizes, factor", [((1, 0), 1), (0, 1), (2, 0)])
def test_impossible_sizes_are_refused(sizes, factor):
    with pytest.raises(ValueError, match="must be at least 1"):
        random_images(_dataset(), sizes, factor)
