"""Cross-fitted difficulty: held out only, balanced, and computed once."""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import dataclasses
import json

import jax
import numpy as np
import pytest

from d4a_jax import difficulty as difficulty_module
from d4a_jax.config import from_dict
from d4a_jax.data.dataset import from_arrays
from d4a_jax.devices.parallel import make_layout
from d4a_jax.difficulty import (
    Difficulty,
    Observation,
    RealDifficulty,
    Trajectory,
    cross_fit,
    load_or_cross_fit,
    measure_difficulty,
    measures,
)

PER_CLASS, MISLABELED = 12, 5


def _dataset():
    """Class 0 is red and class 1 is blue, but for one red image of class 1."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 80, (2 * PER_CLASS, 8, 8, 3), dtype=np.uint8)
    labels = np.tile([0, 1], PER_CLASS)
    images[labels == 0, ..., 0] += 150
    images[labels == 1, ..., 2] += 150
    labels[2 * MISLABELED] = 1
    return from_arrays("planted", images, labels, images[:4], np.array([0, 1, 0, 1]))


def _config(**difficulty):
    return from_dict(
        {
            "network": "convnet:width=4:depth=1",
            "evaluation": {
                "batch_size": 4,
                "learning_rate": 0.05,
                "augmentation": "none",
                "cutmix_probability": 0.0,
            },
            "difficulty": {
                "folds": 2,
                "networks": 2,
                "epochs": 20,
                "checkpoints": 4,
                "late_checkpoints": 2,
            }
            | difficulty,
        }
    )


@pytest.fixture(scope="module")
def dataset():
    return _dataset()


@pytest.fixture(scope="module")
def layout():
    return make_layout(1)


@pytest.fixture(scope="module")
def measured(dataset, layout):
    return cross_fit(jax.random.key(0), dataset, _config(), layout)


def test_the_mislabeled_image_is_the_hardest(measured):
    planted = 2 * MISLABELED
    train = measured.train
    assert np.argmin(train.margin) == planted and train.margin[planted] < 0
    assert np.argmax(train.loss) == planted
    assert np.argmax(train.el2n) == planted
    assert np.argmin(train.aum) == planted
    assert train.accuracy[planted] == 0.0
    others = np.delete(train.learnable, planted)
    assert others.all() and not train.learnable[planted]
    for name in Difficulty._fields:
        hardness = train.hardness(name)
        assert hardness[planted] == hardness.max()


def test_measures_are_per_image(measured, dataset):
    for split, labels in (
        ("train", dataset.train_labels),
        ("test", dataset.test_labels),
    ):
        for values in getattr(measured, split):
            assert values.shape == labels.shape
            assert np.isfinite(values).all()
    # Test image 0 is training image 0; 2 and 3 are easy ones.
    assert measured.test.accuracy[2] == 1.0


def test_an_unknown_measure_is_refused(measured):
    with pytest.raises(ValueError, match="measure is 'lost'.*loss"):
        measured.train.hardness("lost")


def test_a_trajectory_by_hand():
    """Three images, two networks, four checkpoints of which two are late."""
    rights = np.array(
        [
            [[1, 0], [0, 0], [1, 1]],
            [[0, 1], [0, 0], [1, 0]],
            [[1, 0], [0, 0], [1, 1]],
            [[0, 1], [0, 1], [1, 1]],
        ],
        np.float32,
    )
    trajectory = Trajectory(late=2)
    for turn, correct in enumerate(rights):
        loss = np.full((3, 2), turn, np.float32)
        margin = np.stack([np.arange(3) + turn, np.zeros(3)], 1).astype(np.float32)
        trajectory.add(Observation(loss, 2 * loss, margin, correct))
    both = trajectory.difficulty(np.ones((3, 2), bool))
    np.testing.assert_allclose(both.loss, [2.5, 2.5, 2.5])
    np.testing.assert_allclose(both.el2n, [5.0, 5.0, 5.0])
    np.testing.assert_allclose(both.margin, (np.arange(3) + 2.5) / 2)
    np.testing.assert_allclose(both.aum, (np.arange(3) + 1.5) / 2)
    np.testing.assert_allclose(both.accuracy, [0.5, 0.25, 1.0])
    # Network 0 never gets image 1 right, which counts as the four checkpoints.
    np.testing.assert_allclose(both.forgetting, [(2 + 1) / 2, (4 + 0) / 2, (0 + 1) / 2])
    judges = np.array([[True, False], [False, True], [True, False]])
    one = trajectory.difficulty(judges)
    np.testing.assert_allclose(one.forgetting, [2.0, 0.0, 0.0])
    np.testing.assert_allclose(one.accuracy, [0.5, 0.5, 1.0])


def test_measures_equal_numpy():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(2, 6, 4)).astype(np.float32)
    labels = rng.integers(0, 4, 6)
    found = jax.jit(measures)(logits, labels)
    for e in range(2):
        for i, label in enumerate(labels):
            x = logits[e, i].astype(float)
            p = np.exp(x) / np.exp(x).sum()
            one_hot = np.eye(4)[label]
            wanted = (
                -np.log(p[label]),
                np.linalg.norm(p - one_hot),
                x[label] - np.delete(x, label).max(),
                float(x.argmax() == label),
            )
            for values, value in zip(found, wanted):
                np.testing.assert_allclose(values[i, e], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("folds, networks", [(2, 1), (3, 2)])
def test_only_networks_that_did_not_see_an_image_judge_it(
    monkeypatch, dataset, layout, folds, networks
):
    """With predictions that are 1 exactly where a network was trained on the image."""
    seen = {}

    def fit(self, key, training, subsets, *rest, observe, observe_at):
        seen["subsets"] = subsets
        for stop in observe_at:
            observe(stop, {})

    def predict(self, variables, images, labels, reduce):
        rows, counts = seen["subsets"]
        was_seen = np.zeros((len(labels), len(counts)), np.float32)
        if len(labels) == len(dataset.train_labels):
            for e, count in enumerate(counts):
                was_seen[rows[e, :count], e] = 1.0
            seen["array"] = was_seen
        return Observation(*[was_seen] * 4)

    monkeypatch.setattr(difficulty_module.Ensemble, "fit", fit)
    monkeypatch.setattr(difficulty_module.Ensemble, "predict", predict)
    config = _config(folds=folds, networks=networks)
    result = cross_fit(jax.random.key(0), dataset, config, layout)
    for name in ("loss", "el2n", "margin", "accuracy", "aum"):
        np.testing.assert_array_equal(getattr(result.train, name), 0.0)
    # Every image is left out by one fold's networks and seen by all others.
    np.testing.assert_array_equal(seen["array"].sum(1), (folds - 1) * networks)


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_folds_are_balanced_within_every_class(folds):
    labels = np.random.default_rng(2).integers(0, 4, 90)
    fold = difficulty_module._folds(jax.random.key(1), labels, folds)
    assert set(fold) == set(range(folds))
    for label in range(4):
        sizes = np.bincount(fold[labels == label], minlength=folds)
        assert sizes.max() - sizes.min() <= 1


def test_folds_are_random():
    labels = np.zeros(40, int)
    folds = [difficulty_module._folds(jax.random.key(k), labels, 2) for k in range(2)]
    assert (folds[0] != folds[1]).any()


def test_the_cache_is_used_for_the_same_data_and_settings_only(
    monkeypatch, tmp_path, dataset, layout
):
    calls = []

    def count(key, dataset, *rest):
        calls.append(key)
        values = np.full(len(dataset.train_labels), len(calls), np.float32)
        train = Difficulty(*(values + k / 8 for k in range(6)))
        return RealDifficulty(train, Difficulty(*(x[:4] + 0.5 for x in train)))

    monkeypatch.setattr(difficulty_module, "cross_fit", count)
    load = lambda data, config: load_or_cross_fit(data, config, layout, tmp_path / "x")
    first, again = load(dataset, _config()), load(dataset, _config())
    assert len(calls) == 1
    jax.tree.map(np.testing.assert_array_equal, first, again)
    (record,) = (tmp_path / "x").glob("*.json")
    assert json.loads(record.read_bytes())["fingerprint"] == dataset.fingerprint
    for config in (_config(epochs=21), _config(folds=3)):
        load(dataset, config)
    other = dataclasses.replace(dataset, fingerprint="f" * 64)
    assert load(other, _config()).train.loss[0] == 4
    load(dataset, dataclasses.replace(_config(), network="convnet:width=8:depth=1"))
    assert len(calls) == 5
    assert load(dataset, _config()).train.loss[0] == 1 and len(calls) == 5
    # The seed, the layout and how a distilled set is tested have no part in it.
    config = dataclasses.replace(_config(), seed=9)
    tested = dataclasses.replace(config.evaluation, repeats=9, max_steps=7)
    load(dataset, dataclasses.replace(config, evaluation=tested))
    assert len(calls) == 5


def test_the_difficulty_lies_beside_the_data(monkeypatch, tmp_path, dataset, measured):
    monkeypatch.setattr(difficulty_module, "cross_fit", lambda *unused: measured)
    found = measure_difficulty(dataset, _config(), tmp_path)
    jax.tree.map(np.testing.assert_array_equal, found, measured)
    assert len(list((tmp_path / "difficulty").glob("difficulty-*.npz"))) == 1
