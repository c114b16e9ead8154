"""Trajectory matching: windows, student batches, one step, and whole runs."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from d4a_jax import rng
from d4a_jax.config import ConfigError, from_dict
from d4a_jax.data import from_arrays
from d4a_jax.devices.parallel import make_layout
from d4a_jax.distillation import Interrupted, distill
from d4a_jax.distillation.run import check_fit, prepare, setting_of
from d4a_jax.methods import Batch, Task, TrajectoryMatching
from d4a_jax.methods.student import draw_batches
from d4a_jax.methods.trajectory import ExpertPair, draw_starts, window
from d4a_jax.metrics import read_metrics
from d4a_jax.metrics.journal import Journal
from d4a_jax.networks import create_network
from d4a_jax.networks.flattening import flattening
from d4a_jax.real_data import RealData
from d4a_jax.training import Normalization
from d4a_jax.trajectories import Judgement

CLASSES, SHAPE, STEPS = 3, (8, 8, 3), 3
KEY = jax.random.key(3)
NORMALIZE = Normalization((0.5, 0.4, 0.3), (0.2, 0.3, 0.25))


# --- the window ----------------------------------------------------------------------


def test_window_widens_with_the_steps():
    options = TrajectoryMatching(
        min_start_epoch=1,
        first_max_start_epoch=10,
        max_start_epoch=20,
        expansion_steps=1000,
    )
    low, high = window(np.array([0, 99, 100, 550, 999, 1000, 9000]), options, 0, 50)
    assert low.tolist() == [1] * 7
    assert high.tolist() == [10, 10, 11, 15, 19, 20, 20]


@pytest.mark.parametrize(
    "shift, low, high", [(0, 2, 6), (3, 5, 9), (9, 5, 9), (-1, 1, 5), (-7, 0, 4)]
)
def test_window_moves_as_far_as_there_are_epochs(shift, low, high):
    options = TrajectoryMatching(min_start_epoch=2, max_start_epoch=6, expert_epochs=2)
    found = window(np.arange(2), options, shift, 10)
    np.testing.assert_array_equal(found, [[low, low], [high, high]])


def test_starts_fill_the_window_and_depend_on_the_step_alone():
    options = TrajectoryMatching(min_start_epoch=2, max_start_epoch=6)
    experts, epochs = draw_starts(KEY, np.arange(400), options, 1, 5, 10)
    assert set(experts) == set(range(5)) and set(epochs) == {3, 4, 5, 6}
    assert np.bincount(epochs)[3:].min() > 70
    later = draw_starts(KEY, np.arange(300, 400), options, 1, 5, 10)
    np.testing.assert_array_equal(later, (experts[300:], epochs[300:]))


# --- the student's batches -----------------------------------------------------------


def make_config(**changes):
    options = {
        "name": "trajectory_matching",
        "student_steps": STEPS,
        "step_size": 0.2,
        "step_size_learning_rate": 0.01,
    }
    return from_dict(
        {
            "network": "convnet:width=4:depth=1",
            "synthetic": {"images_per_class": 2, "factor": 2},
            "matching": {"augmentation": "none"},
            "method": options | changes,
        }
    )


def make_setting(config):
    network = create_network("convnet:width=4:depth=1", CLASSES, SHAPE)
    return setting_of(config, network, NORMALIZE, make_layout(1), True)


def make_task(num_previous):
    """Three classes and one that only pads; room for two earlier images per class."""
    rng = np.random.default_rng(0)
    previous = rng.integers(0, 256, (CLASSES + 1, 2, *SHAPE), dtype=np.uint8)
    labels = jnp.array([0, 1, 2, 2])
    data = RealData(None, labels, jnp.array([4, 4, 4, 0]))
    return Task(data, None, jnp.asarray(previous), num_previous, None, 0)


def make_pixels():
    rng = np.random.default_rng(1)
    return jnp.asarray(rng.random((CLASSES + 1, 1, *SHAPE)), jnp.float32)


@pytest.mark.parametrize(
    "num_previous, filled", [(0, [2]), (1, [0, 2]), (2, [0, 1, 2])]
)
def test_a_pass_visits_every_formed_image_of_the_union_once(num_previous, filled):
    setting, task = make_setting(make_config()), make_task(num_previous)
    params = {"images": make_pixels()}
    student = jax.jit(lambda: draw_batches(KEY, setting, 9, 5, params, task))()
    count = CLASSES * len(filled) * 4
    per_pass = -(-count // 5)
    formed = np.asarray(student.rows * 4 + student.tiles)
    own = np.asarray(student.weights) == 1
    wanted = [
        (label * 3 + place) * 4 + tile
        for label in range(CLASSES)
        for place in filled
        for tile in range(4)
    ]
    for first in range(0, 9 - per_pass + 1, per_pass):
        steps = slice(first, first + per_pass)
        assert sorted(formed[steps][own[steps]]) == wanted
        assert own[steps].sum(1).tolist()[:-1] == [5] * (per_pass - 1)
    np.testing.assert_array_equal(student.labels, np.repeat([0, 1, 2, 2], 3))
    np.testing.assert_array_equal(student.inputs.images[2::3], make_pixels()[:, 0])
    np.testing.assert_array_equal(
        student.inputs.images[1], np.float32(task.previous[0, 1]) / np.float32(255)
    )


# --- one step ------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[0.0, 0.5], ids=["hard", "soft"])
def step(request):
    """The method's step on a union, and a student of three steps."""
    config = make_config(batch_syn=7, label_learning_rate=request.param)
    setting = make_setting(config)
    params = {"images": make_pixels(), "step_size": jnp.float32(0.2)}
    task = make_task(1)
    size, _ = flattening(setting.network)
    rng = np.random.default_rng(2)
    start = jnp.asarray(rng.normal(0, 0.3, size), jnp.float32)
    target = start + jnp.asarray(rng.normal(0, 0.05, size), jnp.float32)
    if request.param:
        draw = lambda places: rng.normal(0, 2, (CLASSES + 1, places, 4, CLASSES))
        task = task._replace(previous_labels=jnp.asarray(draw(2), jnp.float16))
        params["labels"] = jnp.asarray(draw(1), jnp.float32)
    batch = Batch(task, None, ExpertPair(start, target, jnp.int32(4)))
    return config, setting, batch, params, take_step(config, setting, params, batch)


def take_step(config, setting, params, batch):
    """The gradient of all that is learned, and the figures."""
    method = config.method.build(setting)
    gradient, _, figures = jax.jit(method.update)(KEY, 6, (), params, batch)
    return gradient, figures


def explicit_loss(setting, batch, params):
    """The student written out step by step, differentiable as a whole."""
    task, learned = batch.task, params.get("labels")
    _, unflatten = flattening(setting.network)
    start = unflatten(batch.fed.start)["params"]
    target = unflatten(batch.fed.target)["params"]
    key, images = rng.stream(KEY, "student", 6), {"images": params["images"]}
    student = draw_batches(key, setting, STEPS, 7, images, task)
    step_size = params["step_size"]
    params = start
    for i in range(STEPS):
        rows, tiles = student.rows[i], student.tiles[i]
        stored = student.inputs.images[rows]
        # Tiles of 4 x 4 pixels, enlarged bilinearly with half-pixel centers.
        cut = stored.reshape(-1, 2, 4, 2, 4, 3)
        cut = cut[jnp.arange(len(cut)), tiles // 2, :, tiles % 2]
        formed = jax.image.resize(cut, (len(cut), *SHAPE), "bilinear")
        images = (formed - jnp.array(NORMALIZE.mean)) / jnp.array(NORMALIZE.std)

        def loss(params):
            logits, _ = setting.network.apply({"params": params}, images, True)
            labels = jax.nn.one_hot(student.labels[student.rows[i]], CLASSES)
            if learned is not None:
                earlier = task.previous_labels.astype(jnp.float32)
                union = jnp.concatenate([earlier, learned], 1).reshape(-1, 4, CLASSES)
                labels = jax.nn.softmax(union[student.rows[i], tiles])
            losses = -jnp.sum(jax.nn.log_softmax(logits) * labels, 1)
            return jnp.sum(losses * student.weights[i]) / jnp.sum(student.weights[i])

        gradient = jax.grad(loss)(params)
        params = jax.tree.map(lambda p, g: p - step_size * g, params, gradient)
    far = lambda a, b: sum(
        jnp.sum((x - y) ** 2) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b))
    )
    return far(params, target) / far(start, target)


def test_a_step_has_the_gradient_of_the_written_out_student(step):
    _, setting, batch, params, (gradient, figures) = step
    value, wanted = jax.jit(
        jax.value_and_grad(lambda params: explicit_loss(setting, batch, params))
    )(params)
    chex.assert_trees_all_equal_shapes(gradient, params)
    np.testing.assert_allclose(figures["matching_loss"], value, rtol=1e-4)
    for name, found in gradient.items():
        scale = np.abs(wanted[name]).max()
        np.testing.assert_allclose(found, wanted[name], atol=1e-3 * scale + 1e-6)
        if name != "step_size":
            np.testing.assert_array_equal(found[CLASSES], 0.0)
    assert figures["start_epoch"] == 4 and figures["step_size"] == params["step_size"]


def test_a_loss_above_the_limit_moves_nothing(step):
    config, setting, batch, params, (_, figures) = step
    limit = float(figures["matching_loss"]) * 0.99
    options = dataclasses.replace(config.method, skip_loss_above=limit)
    config = dataclasses.replace(config, method=options)
    lost = batch.fed._replace(start=batch.fed.start * jnp.nan)
    for fed in (batch.fed, lost):
        skipped, figures = take_step(config, setting, params, batch._replace(fed=fed))
        chex.assert_trees_all_equal(skipped, jax.tree.map(jnp.zeros_like, params))
    assert figures["matching_loss"] == np.float32(limit)


def test_the_step_size_moves_by_momentum_and_stays_above_its_bound(step):
    config, setting, _, params, _ = step
    optimizer = config.method.build(setting).learned["step_size"].optimizer
    size, state = params["step_size"], optimizer.init(params["step_size"])
    for gradient, wanted in ((2.0, 0.18), (2.0, 0.15), (1e6, 0.002), (0.0, 0.002)):
        updates, state = optimizer.update(jnp.float32(gradient), state, size)
        size = size + updates
        np.testing.assert_allclose(size, wanted, rtol=1e-5)


# --- whole runs ----------------------------------------------------------------------


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


def run_config(folder, **sections):
    values = {
        "data": {"data_dir": str(folder)},
        "network": "convnet:width=4:depth=1",
        "synthetic": {"images_per_class": 3, "segments": [2, 1], "factor": 1},
        "matching": {
            "augmentation": "color_crop",
            "learning_rate": 1.0,
            "learning_rate_scaling": "none",
            "steps": "joint",
            "outer_iterations": 4,
            "inner_iterations": 1,
        },
        "experts": {"count": 2, "epochs": 4, "batch_size": 16},
        "method": {
            "name": "trajectory_matching",
            "max_start_epoch": 2,
            "student_steps": 3,
            "step_size_learning_rate": 1e-6,
        },
        "filter": {"networks": 2, "min_per_class": 3},
        "evaluation": {"repeats": 2, "max_steps": 6, "batch_size": 8},
        "runtime": {"devices": 1, "checkpoint_seconds": 0.0},
    }
    for name, changes in sections.items():
        values[name] = values.get(name, {}) | changes
    return from_dict(values)


@pytest.fixture(scope="module")
def undisturbed(dataset, folder):
    return distill(dataset, run_config(folder))


def test_interrupted_run_continues_to_the_same_result(
    dataset, undisturbed, folder, tmp_path
):
    calls = iter(range(100))
    with pytest.raises(Interrupted):
        distill(dataset, run_config(folder), tmp_path, lambda: next(calls) == 5)
    resumed = distill(dataset, run_config(folder), tmp_path)
    np.testing.assert_array_equal(resumed.images, undisturbed.images)
    assert resumed.metadata["history"] == undisturbed.metadata["history"]
    records = [r for r in read_metrics(tmp_path) if r["phase"] == "matching"]
    assert [r["step"] for r in records] == list(range(1, 9))
    sizes = [r["step_size"] for r in records]
    # Learned within a segment, and begun anew with the next one.
    assert sizes[0] == sizes[4] == pytest.approx(0.01)
    assert len(set(sizes[:4])) == 4 and min(sizes) > 0
    assert len(list((folder / "experts").iterdir())) == 1


def test_neither_calls_nor_devices_matter(dataset, undisturbed, folder):
    """Three classes on two devices: one class of the second device only pads."""
    if jax.device_count() < 2:
        pytest.skip("needs two devices")
    config = run_config(folder, runtime={"devices": 2, "steps_per_call": 4})
    difference = distill(dataset, config).images.astype(int) - undisturbed.images
    assert np.abs(difference).max() <= 1
    assert (difference != 0).mean() < 0.02


def test_frozen_images_of_a_window_are_the_hardest_after_the_skipped(dataset, folder):
    synthetic = {
        "segments": 1,
        "init": "window",
        "skip_hardest": 1.0,
        "frozen_share": 0.34,
    }
    config = run_config(
        folder,
        synthetic=synthetic,
        difficulty={"max_steps": 6},
        evaluation={"enabled": False},
    )
    result = distill(dataset, config)
    losses = np.load(next((folder / "difficulty").glob("*.npz")))["train_loss"]
    for label in range(CLASSES):
        members = np.flatnonzero(dataset.train_labels == label)
        ranked = members[np.argsort(-losses[members], kind="stable")]
        own = result.images[result.labels == label]
        np.testing.assert_array_equal(own[0], dataset.train_images[ranked[3]])
        assert (own[1] != dataset.train_images[ranked[4]]).any()
        moved = own[1].astype(int) - dataset.train_images[ranked[4]]
        assert np.abs(moved).mean() < 40


def test_experts_choose_the_beginning_and_the_shift(dataset, folder):
    """With a planted judgement: image i of a class is learned after i / 4 epochs."""
    config = run_config(folder, synthetic={"init": "correct"})
    run = prepare(config, dataset, Journal(None), None)
    place = np.tile(np.arange(12), CLASSES)
    vars(run)["judgement"] = Judgement(place / 4, (place < 5).astype(float))
    kept = np.tile(np.arange(12) >= 3, (CLASSES, 1))
    beginning = run.beginning(kept, 2)
    assert beginning.counts.tolist() == [2] * CLASSES
    np.testing.assert_array_equal(beginning.positions[:, :2], [[3, 4]] * CLASSES)
    assert run.epoch_shift(np.ones_like(kept)) == 0
    # Their mean places are 7 and 10.5 instead of 5.5: 0.375 and 1.25 epochs later.
    assert run.epoch_shift(kept) == 0
    assert run.epoch_shift(np.tile(np.arange(12) >= 10, (CLASSES, 1))) == 1
    still = run_config(folder, method={"epochs_follow_filter": False})
    run = prepare(still, dataset, Journal(None), None)
    assert run.epoch_shift(kept) == 0


# --- bad input -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "values, words",
    [
        ({"experts": {"epochs": 20}}, "epochs is 20.*at least 21"),
        ({"method": {"min_start_epoch": 20}}, "is 20; it must be below 20"),
        ({"method": {"first_max_start_epoch": 30}}, "is 30; it must be at most"),
        (
            {"regularizer": {"name": "anchor"}},
            "regularizer.name is 'anchor'.*must be 'none'",
        ),
        (
            {"synthetic": {"frozen_share": 0.5, "init": "noise"}},
            "frozen_share is 0.5.*must be 0",
        ),
    ],
)
def test_contradictions_are_named(values, words):
    method = {"name": "trajectory_matching"} | values.get("method", {})
    with pytest.raises(ConfigError, match=words):
        from_dict(values | {"method": method})


def test_what_does_not_fit_is_refused_before_anything_is_trained(dataset, folder):
    config = run_config(folder, experts={"count": 10**7, "max_gigabytes": 1.0})
    upright = dataclasses.replace(dataset, flip=False)
    with pytest.raises(ConfigError) as error:
        check_fit(config, upright)
    text = "\n".join(error.value.problems)
    assert "experts.augmentation" in text and "max_gigabytes is 1" in text
