"""Selection rules against brute force, and the sets made of what they choose."""

import itertools

import numpy as np
import pytest

from d4a_jax.config import from_dict
from d4a_jax.data import from_arrays
from d4a_jax.formation import form
from d4a_jax.selection import coresets, teachers
from d4a_jax.selection.baselines import random_images, select_images

FEATURES = np.random.default_rng(0).normal(size=(9, 3))


def test_herding_takes_the_best_next_image():
    chosen = coresets.herding(FEATURES, 4)
    assert len(set(chosen)) == 4
    for k in range(4):
        before = FEATURES[chosen[:k]].sum(0)
        means = (before + FEATURES) / (k + 1)
        errors = np.linalg.norm(means - FEATURES.mean(0), axis=1)
        errors[chosen[:k]] = np.inf
        assert chosen[k] == np.argmin(errors)


def test_herding_of_everything_is_a_permutation():
    assert sorted(coresets.herding(FEATURES, 9)) == list(range(9))


def test_k_center_on_a_line_by_hand():
    # The mean is 4.6: 4.1 comes first; then 12, 0 and 7 lie farthest in turn.
    line = np.array([[0.0], [4.0], [0.5], [12.0], [7.0], [4.1]])
    np.testing.assert_array_equal(coresets.k_center(line, 4), [5, 3, 0, 4])


def test_k_center_covers_within_twice_the_optimum():
    """The guarantee of the greedy choice, against all subsets."""
    distance = np.linalg.norm(FEATURES[:, None] - FEATURES, axis=-1)
    radius = lambda subset: distance[:, list(subset)].min(1).max()
    best = min(radius(s) for s in itertools.combinations(range(9), 3))
    assert radius(coresets.k_center(FEATURES, 3)) <= 2 * best + 1e-12


def test_k_center_never_repeats_equal_images():
    assert sorted(coresets.k_center(np.zeros((4, 2)), 4)) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "skip, wanted", [(0.0, [3, 0]), (0.4, [4, 2]), (0.5, [4, 2]), (1.0, [2, 1])]
)
def test_difficulty_window_by_hand(skip, wanted):
    difficulty = [8.0, 0.0, 1.0, 9.0, 5.0]
    found = coresets.difficulty_window(difficulty, 2, skip)
    np.testing.assert_array_equal(found, wanted)


def test_difficulty_window_refuses_a_wrong_share():
    with pytest.raises(ValueError, match="skip_hardest is 1.5"):
        coresets.difficulty_window(FEATURES[:, 0], 2, 1.5)


# --- sets ----------------------------------------------------------------------------

CLASSES, PER_CLASS = 3, 12
CONFIG = {
    "network": "convnet:width=4",
    "difficulty": {"max_steps": 4},
    "evaluation": {"batch_size": 8},
    "runtime": {"devices": 1},
}


@pytest.fixture(scope="module")
def dataset():
    rng = np.random.default_rng(0)
    labels = np.tile(np.arange(CLASSES, dtype=np.int32), PER_CLASS)
    images = rng.integers(0, 256, (len(labels), 8, 8, 3), dtype=np.uint8)
    return from_arrays("noise", images, labels, images[:3], labels[:3])


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    data = {"data_dir": str(tmp_path_factory.mktemp("data"))}
    return from_dict(CONFIG | {"data": data})


def positions(dataset, distilled):
    """Row of every stored image in the data set."""
    rows = []
    for image in distilled.images:
        rows.append(np.flatnonzero((dataset.train_images == image).all((1, 2, 3)))[0])
    return np.array(rows)


@pytest.mark.parametrize(
    "selection", ["random", "herding", "k_center", "easiest", "hardest", "window=0.5"]
)
def test_sets_hold_distinct_real_images_of_each_class(dataset, config, selection):
    found = select_images(dataset, selection, 4, 1, config)
    rows = positions(dataset, found)
    assert len(set(rows)) == 4 * CLASSES
    np.testing.assert_array_equal(dataset.train_labels[rows], found.labels)
    np.testing.assert_array_equal(found.labels, np.repeat(np.arange(CLASSES), 4))
    assert found.metadata["method"] == f"{selection} real images"
    again = select_images(dataset, selection, 4, 1, config)
    np.testing.assert_array_equal(again.images, found.images)


def test_selections_follow_what_was_measured(dataset, config):
    features = teachers.embeddings(dataset, config)
    assert features.shape == (len(dataset.train_labels), 2 * 2 * 4)
    members = np.flatnonzero(dataset.train_labels == 1)
    rows = positions(dataset, select_images(dataset, "herding", 4, 1, config))
    chosen = members[coresets.herding(features[members], 4)]
    np.testing.assert_array_equal(rows[4:8], chosen)


def test_easiest_and_hardest_are_the_two_ends(dataset, config):
    easy, hard = (
        set(positions(dataset, select_images(dataset, name, PER_CLASS // 2, 1, config)))
        for name in ("easiest", "hardest")
    )
    assert easy | hard == set(range(CLASSES * PER_CLASS))


@pytest.mark.parametrize(
    "name", ["rando", "window", "window=2", "window=x", "random=1"]
)
def test_unknown_selections_are_refused(dataset, name):
    with pytest.raises(ValueError, match="selection is .*k_center.*window=0.3"):
        select_images(dataset, name, 1)


# --- random sets -----------------------------------------------------------------


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
