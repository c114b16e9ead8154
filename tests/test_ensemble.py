"""Ensembles: what each network sees, and that layout and calls change nothing."""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from d4a_jax import ensemble as ensemble_module
from d4a_jax.config import EvaluationConfig
from d4a_jax.devices.parallel import Layout, make_layout, spread
from d4a_jax.ensemble import (
    Ensemble,
    Subsets,
    TrainingImages,
    checkpoints,
    everything,
)
from d4a_jax.networks import create_network
from d4a_jax.training import NetworkState, Normalization

SHAPE, CLASSES = (8, 8, 3), 3
RECIPE = EvaluationConfig(
    batch_size=4, learning_rate=0.05, augmentation="color_crop_flip"
)
NORMALIZE = Normalization((0.5, 0.4, 0.3), (0.2, 0.3, 0.25))
KEY = jax.random.key(5)


def _layout(devices, chunk=1):
    if jax.device_count() < devices:
        pytest.skip(f"needs {devices} (fake) devices")
    return Layout(make_layout(devices).mesh, chunk)


def _ensemble(layout, factor=1, recipe=RECIPE):
    network = create_network("convnet:width=4:depth=1", CLASSES, SHAPE)
    return Ensemble(network, recipe, NORMALIZE, factor, layout, 3)


def _images(count, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, *SHAPE), dtype=np.uint8)
    return TrainingImages(images, (np.arange(count) % CLASSES).astype(np.int32))


# --- how long, and what is seen ------------------------------------------------------


@pytest.mark.parametrize(
    "count, factor, epochs, cap, steps",
    [
        (4, 1, 1, None, 1),
        (5, 1, 3, None, 6),
        (1, 1, 7, None, 7),
        (5, 2, 3, None, 15),
        (5, 2, 3, 10, 10),
        (5, 2, 3, 15, 15),
        (5, 2, 3, 1000, 15),
    ],
)
def test_total_steps(count, factor, epochs, cap, steps):
    assert _ensemble(_layout(1), factor).total_steps(count, epochs, cap) == steps


def test_everything():
    subsets = everything(3, 5, 2)
    np.testing.assert_array_equal(subsets.rows, [range(5), range(5)])
    np.testing.assert_array_equal(subsets.counts, [3, 3])


def _coded_images(count, factor):
    """Every tile of every image has a color of its own, its number among all tiles."""
    side = SHAPE[0] // factor
    numbers = np.arange(count * factor**2, dtype=np.uint8)
    tiles = numbers.reshape(count, factor, 1, factor, 1)
    images = np.broadcast_to(tiles, (count, factor, side, factor, side))
    images = images.reshape(count, *SHAPE[:2], 1).repeat(3, 3)
    return TrainingImages(images, np.arange(count, dtype=np.int32))


@pytest.mark.parametrize("factor, devices", [(1, 1), (2, 1), (1, 8)])
def test_every_image_is_seen_once_per_epoch(monkeypatch, factor, devices):
    """With steps that only count: what they see, how often, and with which label."""
    capacity = 6
    tiles = capacity * factor**2

    def start(*_):
        params = {"seen": jnp.zeros(tiles), "wrong": jnp.zeros(())}
        return NetworkState(params, {}, ())

    def train_step(key, network, optimizer, recipe, normalize, state, batch, _):
        numbers = jnp.round(batch.images.mean((1, 2, 3)) * 255).astype(jnp.int32)
        mislabeled = jnp.sum(batch.labels != numbers // factor**2)
        params = {
            "seen": state.params["seen"].at[numbers].add(batch.weights),
            "wrong": state.params["wrong"] + mislabeled,
        }
        return state._replace(params=params), jnp.zeros(())

    monkeypatch.setattr(ensemble_module, "start", start)
    monkeypatch.setattr(ensemble_module, "train_step", train_step)
    ensemble = _ensemble(_layout(devices), factor)
    training = _coded_images(capacity, factor)
    rows = np.array([[0, 1, 2, 3, 4, 5], [5, 3, 1, 0, 0, 0], [2, 0, 0, 0, 0, 0]])
    counts = np.array([6, 3, 1])
    subsets = Subsets(rows.astype(np.int32), counts.astype(np.int32))

    def seen_after(epochs, member):
        steps = ensemble.total_steps(int(counts[member]), epochs, None)
        params = ensemble.fit(KEY, training, subsets, steps, steps_per_call=2)["params"]
        assert not np.asarray(params["wrong"]).any()
        return np.asarray(params["seen"])[member]

    for member, epochs in [(0, 1), (0, 3), (1, 1), (1, 2), (2, 2)]:
        wanted = np.zeros((capacity, factor**2))
        wanted[rows[member, : counts[member]]] = epochs
        np.testing.assert_array_equal(seen_after(epochs, member), wanted.ravel())


def test_networks_and_epochs_are_shuffled_differently(monkeypatch):
    """Steps that write down the order in which images come."""

    def start(*_):
        return NetworkState({"order": jnp.zeros(24), "at": jnp.int32(0)}, {}, ())

    def train_step(key, network, optimizer, recipe, normalize, state, batch, _):
        at = state.params["at"]
        numbers = batch.images.mean((1, 2, 3)) * 255
        order = jax.lax.dynamic_update_slice(state.params["order"], numbers, (at,))
        return state._replace(params={"order": order, "at": at + 4}), jnp.zeros(())

    monkeypatch.setattr(ensemble_module, "start", start)
    monkeypatch.setattr(ensemble_module, "train_step", train_step)
    training = _coded_images(12, 1)
    params = _ensemble(_layout(1)).fit(KEY, training, everything(12, 12, 2), 6)[
        "params"
    ]
    orders = np.round(np.asarray(params["order"])).astype(int).reshape(4, 12)
    assert all(sorted(order) == list(range(12)) for order in orders.tolist())
    assert len({tuple(order) for order in orders.tolist()}) == 4


# --- networks ------------------------------------------------------------------------

COUNT, CAPACITY, NETWORKS, STEPS = 5, 7, 2, 7


@pytest.fixture(scope="module")
def single():
    return _ensemble(_layout(1))


@pytest.fixture(scope="module")
def trained(single):
    """Five images in a padded array of seven, with the last two garbage."""
    return single.fit(
        KEY, _images(CAPACITY), everything(COUNT, CAPACITY, NETWORKS), STEPS
    )


def test_networks_differ_and_have_moved(single, trained):
    other = single.fit(KEY, _images(CAPACITY), everything(COUNT, CAPACITY, NETWORKS), 0)
    kernel = lambda v: np.asarray(v["params"]["block0"]["conv"]["kernel"])
    chex.assert_shape(kernel(trained), (NETWORKS, 3, 3, 3, 4))
    assert np.abs(kernel(trained)[0] - kernel(trained)[1]).max() > 1e-2
    assert np.abs(kernel(trained) - kernel(other)).max() > 1e-3


@pytest.mark.parametrize("steps_per_call", [1, 3])
def test_division_into_calls_changes_no_bit(single, trained, steps_per_call):
    reports = []
    again = single.fit(
        KEY,
        _images(CAPACITY),
        everything(COUNT, CAPACITY, NETWORKS),
        STEPS,
        lambda done, total, figures: reports.append((done, total, figures["loss"])),
        steps_per_call,
    )
    chex.assert_trees_all_equal(again, trained)
    assert [done for done, *_ in reports] == [
        *range(steps_per_call, STEPS, steps_per_call),
        STEPS,
    ]
    assert {total for _, total, _ in reports} == {STEPS}
    assert all(np.isfinite(loss) for *_, loss in reports)


def test_networks_can_be_observed_without_an_effect(single, trained):
    seen = {}

    def observe(step, variables):
        seen[step] = jax.tree.map(np.asarray, variables)

    arguments = (KEY, _images(CAPACITY), everything(COUNT, CAPACITY, NETWORKS))
    again = single.fit(*arguments, STEPS, observe=observe, observe_at=(2, 5, STEPS))
    assert list(seen) == [2, 5, STEPS]
    chex.assert_trees_all_equal(again, trained)
    chex.assert_trees_all_equal(seen[STEPS], trained)
    kernel = lambda v: v["params"]["block0"]["conv"]["kernel"]
    assert np.abs(kernel(seen[2]) - kernel(trained)).max() > 1e-4


@pytest.mark.parametrize(
    "total, count, steps",
    [(10, 5, (2, 4, 6, 8, 10)), (7, 3, (3, 5, 7)), (2, 5, (1, 2)), (4, 1, (4,))],
)
def test_checkpoints_are_even_and_end_at_the_end(total, count, steps):
    assert checkpoints(total, count) == steps


def test_padding_of_the_images_changes_nothing(single, trained):
    training = _images(CAPACITY)
    short = TrainingImages(training.images[:COUNT], training.labels[:COUNT])
    exact = single.fit(KEY, short, everything(COUNT, COUNT, NETWORKS), STEPS)
    chex.assert_trees_all_close(exact, trained, rtol=1e-4, atol=1e-6)
    garbage = training.images.copy()
    garbage[COUNT:] = 255 - garbage[COUNT:]
    labels = training.labels.copy()
    labels[COUNT:] = 0
    padded = single.fit(
        KEY,
        TrainingImages(garbage, labels),
        everything(COUNT, CAPACITY, NETWORKS),
        STEPS,
    )
    chex.assert_trees_all_equal(padded, trained)


def test_rows_point_into_the_images(single, trained):
    """The same five images elsewhere in the array give the same networks."""
    training = _images(CAPACITY)
    moved = TrainingImages(np.roll(training.images, 2, 0), np.roll(training.labels, 2))
    rows = np.tile((np.arange(CAPACITY) + 2) % CAPACITY, (NETWORKS, 1)).astype(np.int32)
    again = single.fit(
        KEY, moved, Subsets(rows, np.full(NETWORKS, COUNT, np.int32)), STEPS
    )
    chex.assert_trees_all_equal(again, trained)


@pytest.mark.parametrize("devices, chunk", [(8, 1), (1, 0)])
def test_layout_changes_nothing(trained, devices, chunk):
    again = _ensemble(_layout(devices, chunk)).fit(
        KEY, _images(CAPACITY), everything(COUNT, CAPACITY, NETWORKS), STEPS
    )
    chex.assert_trees_all_close(again, trained, rtol=2e-3, atol=2e-5)


# --- prediction ----------------------------------------------------------------------


def _per_image(logits, labels):
    return logits.swapaxes(0, 1), labels


@pytest.fixture(scope="module")
def logits(trained):
    """Logits of seven images by each network, computed directly: `[7, E, classes]`."""
    network = create_network("convnet:width=4:depth=1", CLASSES, SHAPE)
    normalized = NORMALIZE(jnp.asarray(_images(7, seed=1).images))
    apply = jax.jit(lambda v: network.apply(v, normalized, False)[0])
    each = [apply(jax.tree.map(lambda x: x[e], trained)) for e in range(NETWORKS)]
    return np.stack(each, 1)


@pytest.mark.parametrize("devices, chunk", [(1, 1), (1, 0), (8, 1)])
def test_prediction_in_batches_equals_direct_application(
    trained, logits, devices, chunk
):
    layout = _layout(devices, chunk)
    ensemble = _ensemble(layout)
    images, labels, *_ = _images(7, seed=1)
    placed = spread(layout, (images, labels))
    found, same_labels = ensemble.predict(trained, *placed, _per_image)
    chex.assert_shape(found, (layout.padded(7), NETWORKS, CLASSES))
    np.testing.assert_allclose(found[:7], logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(same_labels[:7], labels)


def test_prediction_grouped_by_class_keeps_the_groups(single, trained, logits):
    images = _images(7, seed=1).images[:6].reshape(2, 3, *SHAPE)
    labels = np.arange(6, dtype=np.int32).reshape(2, 3)
    found, same_labels = single.predict(trained, images, labels, _per_image)
    wanted = logits[:6].reshape(2, 3, NETWORKS, CLASSES)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(same_labels, labels)
