"""Cross-fitted difficulty: held out only, balanced, and computed once."""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import dataclasses

import jax
import numpy as np
import pytest

from d4a_jax import difficulty as difficulty_module
from d4a_jax.config import from_dict
from d4a_jax.data.dataset import from_arrays
from d4a_jax.difficulty import Difficulty, cross_fit, load_or_cross_fit, measures
from d4a_jax.parallel import make_layout

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
            "difficulty": {"folds": 2, "networks": 2, "epochs": 20} | difficulty,
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
    assert np.argmin(measured.margin) == planted and measured.margin[planted] < 0
    assert np.argmax(measured.loss) == planted
    assert np.argmax(measured.el2n) == planted
    assert measured.accuracy[planted] == 0.0
    others = np.delete(measured.learnable, planted)
    assert others.all() and not measured.learnable[planted]


def test_measures_are_per_image(measured, dataset):
    for values in measured:
        assert values.shape == dataset.train_labels.shape
        assert np.isfinite(values).all()


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
    """With predictions that are 1 exactly where the network was trained on the image."""
    seen = {}

    def fit(self, key, training, subsets, *rest):
        seen["subsets"] = subsets
        return {}

    def predict(self, variables, images, labels, reduce):
        rows, counts = seen["subsets"]
        was_seen = np.zeros((len(labels), len(counts)), np.float32)
        for e, count in enumerate(counts):
            was_seen[rows[e, :count], e] = 1.0
        seen["array"] = was_seen
        return Difficulty(*[was_seen] * 4)

    monkeypatch.setattr(difficulty_module.Ensemble, "fit", fit)
    monkeypatch.setattr(difficulty_module.Ensemble, "predict", predict)
    config = _config(folds=folds, networks=networks)
    result = cross_fit(jax.random.key(0), dataset, config, layout)
    for values in result:
        np.testing.assert_array_equal(values, 0.0)
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
        return Difficulty(values, values + 0.25, values + 0.5, values + 0.75)

    monkeypatch.setattr(difficulty_module, "cross_fit", count)
    load = lambda data, config: load_or_cross_fit(data, config, layout, tmp_path / "x")
    first, again = load(dataset, _config()), load(dataset, _config())
    assert len(calls) == 1
    for left, right in zip(first, again):
        np.testing.assert_array_equal(left, right)
    for config in (_config(epochs=21), _config(folds=3)):
        load(dataset, config)
    other = dataclasses.replace(dataset, fingerprint="f" * 64)
    assert load(other, _config()).loss[0] == 4
    load(dataset, dataclasses.replace(_config(), network="convnet:width=8:depth=1"))
    assert len(calls) == 5
    assert load(dataset, _config()).loss[0] == 1 and len(calls) == 5
    # The seed and the layout of a run have no part in it.
    load(dataset, dataclasses.replace(_config(), seed=9))
    assert len(calls) == 5
