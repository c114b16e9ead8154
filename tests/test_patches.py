"""RDED's patches: crops by direct interpolation, the choice and the mosaics by hand."""

import jax
import numpy as np
import pytest

from d4a_jax import formation
from d4a_jax.config import from_dict
from d4a_jax.data import from_arrays
from d4a_jax.selection import patches

SIDE = 8


def test_crops_of_a_ramp_are_ramps_of_a_part_of_it():
    """A linear image keeps its slope per source pixel, wherever it is cut."""
    ramp = np.tile(np.arange(0, 240, 30, dtype=np.uint8)[:, None, None], (1, SIDE, 1))
    found = patches.random_crops(jax.random.key(0), ramp[None], 100, 4)
    assert found.shape == (1, 100, 4, 4, 1)
    inner = np.diff(np.asarray(found)[0, :, 1:3, 1, 0], axis=1)[:, 0] * 255 / 30
    sides = inner * 4  # source pixels in the crop
    small = sides[sides < 3.9]  # those that are enlarged, without antialiasing
    assert len(small) > 5
    np.testing.assert_allclose(small, np.round(small), atol=1e-3)
    # The smallest area is 8 %, a side of 2.26 pixels.
    assert small.min() >= 2
    np.testing.assert_allclose(found[0, :, :, 0], found[0, :, :, 3], atol=1e-6)


def test_a_crop_of_everything_is_the_image():
    """Where the image is one pixel, every crop is that pixel."""
    image = np.full((1, 1, 1, 3), 77, np.uint8)
    found = patches.random_crops(jax.random.key(1), image, 3, 2)
    np.testing.assert_allclose(found, 77 / 255, atol=1e-6)


def test_most_realistic_by_hand():
    losses = np.array([[3.0, 1.0], [0.5, 0.9], [2.0, 2.5], [0.1, 9.0]])
    images, crops = patches.most_realistic(losses, 3)
    np.testing.assert_array_equal(images, [3, 1, 0])
    np.testing.assert_array_equal(crops, [0, 0, 1])


def test_mosaics_decode_to_their_patches():
    """Multi-formation finds the tiles where they were put, enlarged."""
    tiles = np.random.default_rng(0).uniform(size=(8, 4, 4, 3)).astype(np.float32)
    joined = patches.mosaics(tiles, 2, (SIDE, SIDE, 3))
    assert joined.shape == (2, SIDE, SIDE, 3)
    formed = np.asarray(formation.form(joined, 2))
    wanted = jax.image.resize(tiles, (8, SIDE, SIDE, 3), "bilinear", antialias=False)
    # Tile t of mosaic i is at 2 t + i.
    np.testing.assert_allclose(formed[3], wanted[4 + 1], atol=1e-5)
    np.testing.assert_allclose(formed[6], wanted[3], atol=1e-5)


@pytest.fixture(scope="module")
def dataset():
    draw = np.random.default_rng(0)
    labels = np.tile(np.arange(3, dtype=np.int32), 8)
    images = draw.integers(0, 256, (24, SIDE, SIDE, 3), dtype=np.uint8)
    return from_arrays("noise", images, labels, images, labels)


def test_the_set_has_the_storage_of_a_distilled_one(dataset):
    config = from_dict(
        {
            "network": "convnet:width=4",
            "difficulty": {"max_steps": 3},
            "evaluation": {"batch_size": 8},
            "runtime": {"devices": 1},
        }
    )
    found = patches.realistic_patches(dataset, 2, 2, config, candidates=8, crops=2)
    assert found.images.shape == (6, SIDE, SIDE, 3) and found.factor == 2
    np.testing.assert_array_equal(found.labels, [0, 0, 1, 1, 2, 2])
    assert found.images.std() > 10
    again = patches.realistic_patches(dataset, 2, 2, config, candidates=8, crops=2)
    np.testing.assert_array_equal(found.images, again.images)


def test_too_few_candidates_are_refused(dataset):
    with pytest.raises(ValueError, match="crops of 12 images; there are 8"):
        patches.realistic_patches(dataset, 3, 2)
