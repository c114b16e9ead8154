"""Selection rules against brute force, and the sets made of what they choose."""

import itertools

import numpy as np
import pytest

from d4a_jax import baselines, coresets
from d4a_jax.baselines import select_images
from d4a_jax.config import from_dict
from d4a_jax.data import from_arrays

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
    features = baselines.embeddings(dataset, config)
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


def test_mosaics_hold_factor_squared_images(dataset, config):
    found = select_images(dataset, "random", 3, 2, config)
    assert found.images.shape == (3 * CLASSES, 8, 8, 3) and found.factor == 2


@pytest.mark.parametrize("name", ["rando", "window", "window=2", "window=x", "random=1"])
def test_unknown_selections_are_refused(dataset, name):
    with pytest.raises(ValueError, match="selection is .*k_center.*window=0.3"):
        select_images(dataset, name, 1)


def test_too_few_images_are_refused(dataset):
    with pytest.raises(ValueError, match="takes 16 images; .* has 12"):
        select_images(dataset, "random", 4, 2)
