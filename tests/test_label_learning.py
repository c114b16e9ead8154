"""Soft labels learned with the images: the first ones, whole runs, and training."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from d4a_jax.analysis.answers import prefixes
from d4a_jax.artifact import DistilledDataset, load_distilled
from d4a_jax.config import EvaluationConfig, from_dict
from d4a_jax.data import from_arrays
from d4a_jax.devices.parallel import make_layout
from d4a_jax.distillation import Interrupted, distill
from d4a_jax.distillation.run import prepare
from d4a_jax.distillation.run_state import distilled_so_far, empty_state, first_state
from d4a_jax.distillation.stages import train_on_prefix
from d4a_jax.ensemble import Ensemble, TrainingImages, everything
from d4a_jax.methods.label_learning import agreed, opinion
from d4a_jax.metrics.journal import Journal
from d4a_jax.networks import create_network
from d4a_jax.training import Normalization

CLASSES, SHAPE = 3, (8, 8, 3)


# --- the first labels ----------------------------------------------------------------


def test_labels_begin_with_the_mean_of_the_experts_that_are_right():
    """Three experts and images of class 1 that two, one and none of them get right."""
    logits = np.array(
        [
            [[0, 4, 1], [9, 0, 0], [5, 1, 0]],
            [[1, 2, 0], [0, 3, 2], [3, 0, 1]],
            [[7, 0, 0], [8, 1, 1], [1, 2, 8]],
        ],
        np.float32,
    )
    labels = jnp.array([1, 1, 1])
    total = opinion(jnp.asarray(logits), labels)
    np.testing.assert_array_equal(total.right, [2, 1, 0])
    # The last mean is (3, 1, 3): the first largest one and that of the class exchanged.
    wanted = [[0.5, 3, 0.5], [0, 3, 2], [1, 3, 3]]
    np.testing.assert_allclose(agreed(total, labels, 3), wanted, rtol=1e-6)


@pytest.fixture(scope="module")
def dataset():
    rng = np.random.default_rng(0)
    centers = rng.integers(40, 215, (CLASSES, *SHAPE))

    def split(per_class):
        labels = np.repeat(np.arange(CLASSES), per_class)
        noise = rng.normal(0, 60, (len(labels), *SHAPE))
        images = np.clip(centers[labels] + noise, 0, 255).astype(np.uint8)
        return images, labels.astype(np.int32)

    return from_arrays("blobs", *split(12), *split(5))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


def make_config(folder, **sections):
    values = {
        "data": {"data_dir": str(folder)},
        "network": "convnet:width=4:depth=1",
        "synthetic": {"images_per_class": 2, "segments": 2, "factor": 1},
        "matching": {
            "augmentation": "color_crop",
            "learning_rate": 1.0,
            "learning_rate_scaling": "none",
            "steps": "joint",
            "outer_iterations": 3,
            "inner_iterations": 1,
        },
        "experts": {"count": 2, "epochs": 4, "batch_size": 16},
        "method": {
            "name": "trajectory_matching",
            "max_start_epoch": 2,
            "student_steps": 2,
            "step_size_learning_rate": 1e-6,
            "label_learning_rate": 5.0,
        },
        "filter": {"networks": 2, "min_per_class": 3},
        "evaluation": {"repeats": 2, "max_steps": 4, "batch_size": 8},
        "runtime": {"devices": 1, "checkpoint_seconds": 0.0},
    }
    for name, changes in sections.items():
        values[name] = values.get(name, {}) | changes
    return from_dict(values)


def test_every_tile_begins_with_what_the_experts_say_of_it(dataset, folder):
    config = make_config(folder, synthetic={"factor": 2, "images_per_class": 4})
    run = prepare(config, dataset, Journal(None), None)
    segment = first_state(run).segment
    pixels, found = segment.params["images"], segment.params["labels"]
    assert found.shape == (CLASSES, 2, 4, CLASSES)
    network = run.experts.ensemble.network
    for label, image, tile in np.ndindex(CLASSES, 2, 4):
        row, column = 4 * (tile // 2), 4 * (tile % 2)
        cut = pixels[label, image, row : row + 4, column : column + 4]
        formed = jax.image.resize(cut, SHAPE, "bilinear")
        inputs = (formed - jnp.array(dataset.mean)) / jnp.array(dataset.std)
        said = np.stack(
            [
                network.apply(jax.tree.map(lambda x: x[-1], variables), inputs[None])[0]
                for variables in map(run.experts.trajectory, range(2))
            ]
        )[:, 0]
        right = said.argmax(-1) == label
        wanted = said[right].mean(0) if right.any() else said.mean(0)
        if not right.any():
            best = wanted.argmax()
            wanted[[label, best]] = wanted[[best, label]]
        np.testing.assert_allclose(found[label, image, tile], wanted, atol=2e-5)
        assert found[label, image, tile].argmax() == label


# --- whole runs ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(dataset, folder):
    return distill(dataset, make_config(folder))


def test_labels_are_learned_and_stored(dataset, folder, undisturbed):
    logits = undisturbed.label_logits
    assert logits.dtype == np.float16 and logits.shape == (2 * CLASSES, CLASSES)
    run = prepare(make_config(folder), dataset, Journal(None), None)
    first = np.asarray(first_state(run).segment.params["labels"])[:, 0, 0]
    moved = np.abs(logits[:CLASSES] - first)
    assert moved.max() > 1e-3 and moved.max() < 10
    assert undisturbed.label_bytes == 2 * CLASSES * CLASSES * 2


def test_interrupted_run_continues_to_the_same_labels(
    dataset, undisturbed, folder, tmp_path
):
    calls = iter(range(100))
    # In the middle of the second segment, whose student sees the first one's labels.
    with pytest.raises(Interrupted):
        distill(dataset, make_config(folder), tmp_path, lambda: next(calls) == 5)
    published = load_distilled(tmp_path / "distilled")
    resumed = distill(dataset, make_config(folder), tmp_path)
    np.testing.assert_array_equal(resumed.images, undisturbed.images)
    np.testing.assert_array_equal(resumed.label_logits, undisturbed.label_logits)
    np.testing.assert_array_equal(
        resumed.prefix(1).label_logits, published.label_logits
    )
    stored = load_distilled(tmp_path / "distilled")
    np.testing.assert_array_equal(stored.label_logits, undisturbed.label_logits)


def test_devices_do_not_matter(dataset, undisturbed, folder):
    """Three classes on two devices: one class of the second device only pads."""
    if jax.device_count() < 2:
        pytest.skip("needs two devices")
    found = distill(dataset, make_config(folder, runtime={"devices": 2})).label_logits
    assert found.shape == undisturbed.label_logits.shape
    np.testing.assert_allclose(found, undisturbed.label_logits, rtol=5e-3, atol=5e-3)


def test_every_tile_keeps_its_label_in_every_order(dataset, folder):
    """Planted images name their class and place, and logits their tile as well."""
    synthetic = {"factor": 2, "images_per_class": 3, "segments": [2, 1]}
    config = make_config(folder, synthetic=synthetic)
    run = prepare(config, dataset, Journal(None), None)
    state = empty_state(run)
    label, place, tile = np.indices((CLASSES, 3, 4))
    state.finished[...] = (10 * label + place)[:, :, 0, None, None, None]
    state.finished_labels[...] = (100 * label + 10 * place + tile)[..., None]
    seen = []
    vars(run)["ensemble"] = types.SimpleNamespace(
        total_steps=lambda *_: 1, fit=lambda _, training, *more: seen.append(training)
    )
    train_on_prefix(run, state, 2)
    for found in (seen[0], distilled_so_far(run, state._replace(stage=2))):
        names = found.images[:, 0, 0, 0].astype(int)
        assert sorted(names) == sorted((10 * label + place)[:, :, 0].ravel())
        np.testing.assert_array_equal(found.labels, names // 10)
        by_tile = found.label_logits.reshape(4, 3 * CLASSES, CLASSES)
        for number in range(4):
            np.testing.assert_array_equal(by_tile[number, :, 0], 10 * names + number)


# --- training on them ----------------------------------------------------------------


def make_ensemble(factor):
    recipe = EvaluationConfig(batch_size=8, learning_rate=0.1, cutmix_probability=0.7)
    network = create_network("convnet:width=4:depth=1", CLASSES, SHAPE)
    normalize = Normalization((0.5,) * 3, (0.25,) * 3)
    return Ensemble(network, recipe, normalize, factor, make_layout(1), 8)


def test_certain_labels_train_as_hard_ones_do():
    """With a label for each tile: every tile of an image has another class."""
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (5, *SHAPE), dtype=np.uint8)
    labels = rng.integers(0, CLASSES, 5).astype(np.int32)
    ensemble, everyone = make_ensemble(2), everything(5, 5, 1)
    logits = 40 * np.eye(CLASSES, dtype=np.float16)[np.tile(labels, 4)]
    hard = TrainingImages(images, labels)
    soft = TrainingImages(images, labels, label_logits=logits)
    key = jax.random.key(0)
    first, second = (ensemble.fit(key, part, everyone, 6) for part in (hard, soft))
    for x, y in zip(jax.tree.leaves(first), jax.tree.leaves(second)):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)
    # The labels that count are those of the tiles, not the images'.
    other = TrainingImages(images, (labels + 1) % CLASSES, label_logits=logits)
    third = ensemble.fit(key, other, everyone, 6)
    jax.tree.map(np.testing.assert_array_equal, second, third)


def test_studies_take_the_labels_in_the_order_of_their_images():
    rng = np.random.default_rng(2)
    names = np.arange(6)
    images = np.broadcast_to(names[:, None, None, None], (6, *SHAPE)).astype(np.uint8)
    codes = 10 * names + np.arange(4)[:, None]
    metadata = {"class_names": list("abc"), "factor": 2, "mean": [0.5] * 3}
    distilled = DistilledDataset(
        images,
        np.tile(np.arange(3, dtype=np.int32), 2),
        rng.permutation(np.repeat(np.arange(2, dtype=np.int32), 3)),
        metadata | {"std": [0.2] * 3},
        label_logits=np.repeat(codes.reshape(-1, 1), 3, 1).astype(np.float16),
    )
    first, both = prefixes("learned", "artifact", distilled)
    assert first.digest == both.digest and first.count == 3
    by_tile = both.label_logits.reshape(4, 6, 3)[..., 0]
    shown = both.images[:, 0, 0, 0].astype(int)
    assert shown.tolist() != names.tolist()
    np.testing.assert_array_equal(by_tile, 10 * shown + np.arange(4)[:, None])
    hard = dataclasses.replace(distilled, label_logits=None)
    found = next(iter(prefixes("hard", "artifact", hard)))
    assert found.label_logits is None and found.digest != first.digest
