"""The segment loop as a whole, on a tiny data set."""

import dataclasses

import chex
import jax
import numpy as np
import pytest

from d4a_jax import config as configs
from d4a_jax.artifact import load_distilled
from d4a_jax.data import from_arrays
from d4a_jax.distillation import DivergenceError, Interrupted, distill
from d4a_jax.distillation.run import check_fit, prepare
from d4a_jax.distillation.run_state import first_state, segment_key, segment_task
from d4a_jax.distillation.segments import finish
from d4a_jax.metrics import read_metrics
from d4a_jax.metrics.journal import Journal

CLASSES = 3

VALUES = {
    "network": "convnet:width=4",
    "synthetic": {"images_per_class": 3, "segments": [2, 1], "factor": 2},
    "matching": {
        "batch_real": 4,
        "learning_rate": 1.0,
        "outer_iterations": 2,
        "inner_iterations": 2,
    },
    "network_training": {"images_per_step": 8, "batch_size": 8},
    "filter": {"networks": 2, "min_per_class": 3},
    "regularizer": {"name": "union", "weight": 0.5},
    "evaluation": {"repeats": 2, "max_steps": 6, "batch_size": 8},
    "runtime": {"devices": 1, "checkpoint_seconds": 0.0},
}


@pytest.fixture(scope="module")
def dataset():
    rng = np.random.default_rng(0)
    centers = rng.integers(40, 215, (CLASSES, 8, 8, 3))

    def split(per_class):
        labels = np.repeat(np.arange(CLASSES), per_class)
        noise = rng.normal(0, 40, (len(labels), 8, 8, 3))
        images = np.clip(centers[labels] + noise, 0, 255).astype(np.uint8)
        return images, labels.astype(np.int32)

    return from_arrays("blobs", *split(12), *split(5))


def make_config(**sections):
    values = {key: value for key, value in VALUES.items()}
    for name, changes in sections.items():
        old = values.get(name)
        values[name] = old | changes if isinstance(old, dict) else changes
    return configs.from_dict(values)


@pytest.fixture(scope="module")
def undisturbed(dataset):
    return distill(dataset, make_config())


def assert_same(left, right):
    for name in ("images", "labels", "segments"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
    assert left.metadata["history"] == right.metadata["history"]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_steps_on_several_devices_keep_their_layout(dataset, optimizer):
    """Otherwise the second call would be compiled again."""
    config = make_config(
        matching={"optimizer": optimizer, "momentum": 0.9},
        runtime={"devices": 2},
        filter={"enabled": False},
    )
    run = prepare(config, dataset, Journal(None), None)
    state = first_state(run)
    _, advance = run.programs(2, False)
    before = jax.tree.map(lambda x: x.sharding, state.segment)
    segment, _ = advance(
        segment_key(run, state),
        0,
        steps=1,
        state=state.segment,
        task=segment_task(run, state),
    )
    same = jax.tree.map(
        lambda x, old: x.sharding.is_equivalent_to(old, x.ndim), segment, before
    )
    assert all(jax.tree.leaves(same)), same


def test_result_has_every_segment_class_and_figure(undisturbed, dataset):
    chex.assert_shape(undisturbed.images, (9, 8, 8, 3))
    assert undisturbed.labels.tolist() == [0, 0, 1, 1, 2, 2, 0, 1, 2]
    assert undisturbed.segments.tolist() == [0] * 6 + [1] * 3
    assert undisturbed.metadata["dataset_fingerprint"] == dataset.fingerprint
    first, second = undisturbed.metadata["history"]
    assert (first["images_per_class"], second["images_per_class"]) == (2, 3)
    assert len(second["evaluation"]["top1_each"]) == 2
    figures = first["filter"]
    assert 3 / 12 <= figures["kept"] <= 1
    assert figures["real_accuracy"] == pytest.approx(figures["learned"])
    assert "filter" not in second


def test_images_move_away_from_their_beginning(dataset):
    """More steps change more pixels, and none leaves its range."""
    short = make_config(matching={"outer_iterations": 1, "inner_iterations": 1})
    long = make_config(matching={"outer_iterations": 4})
    quiet = {"evaluation": {"enabled": False}, "filter": {"enabled": False}}
    results = [
        distill(dataset, configs.from_dict(c.to_dict() | {**_merge(c, quiet)})).images
        for c in (short, long)
    ]
    assert (results[0] != results[1]).mean() > 0.5


def _merge(config, sections):
    values = config.to_dict()
    return {name: values[name] | change for name, change in sections.items()}


@pytest.mark.parametrize("stop_after", [1, 3, 4, 5, 6, 8])
def test_interrupted_run_continues_to_the_same_result(
    dataset, undisturbed, tmp_path, stop_after
):
    calls = iter(range(100))
    with pytest.raises(Interrupted):
        distill(dataset, make_config(), tmp_path, lambda: next(calls) + 1 >= stop_after)
    # The fifth question comes while networks are trained on the first segment.
    done = stop_after - (stop_after > 4)
    steps = [r["step"] for r in read_metrics(tmp_path) if r["phase"] == "matching"]
    assert steps == list(range(1, done + 1))
    resumed = distill(dataset, make_config(), tmp_path)
    assert_same(resumed, undisturbed)
    assert_same(load_distilled(tmp_path / "distilled"), undisturbed)
    steps = [r["step"] for r in read_metrics(tmp_path) if r["phase"] == "matching"]
    assert steps == list(range(1, 9))
    phases = [r["phase"] for r in read_metrics(tmp_path)]
    assert phases.count("evaluation") == 2 and phases.count("filter") == 1


def test_complete_run_is_not_repeated(dataset, undisturbed, tmp_path):
    distill(dataset, make_config(), tmp_path)
    records = read_metrics(tmp_path)
    again = distill(dataset, make_config(), tmp_path)
    assert_same(again, undisturbed)
    assert read_metrics(tmp_path) == records


def test_another_seed_gives_another_result(dataset, undisturbed):
    other = distill(dataset, dataclasses.replace(make_config(), seed=1))
    assert (other.images != undisturbed.images).mean() > 0.5


@pytest.mark.parametrize("calls", [1, 2, 4])
def test_steps_per_call_do_not_matter(dataset, undisturbed, calls):
    result = distill(dataset, make_config(runtime={"steps_per_call": calls}))
    np.testing.assert_array_equal(result.images, undisturbed.images)


def test_number_of_devices_does_not_matter(dataset, undisturbed):
    """Three classes on one, two and eight devices: uneven counts included."""
    if jax.device_count() < 8:
        pytest.skip(
            "needs 8 devices (XLA_FLAGS=--xla_force_host_platform_device_count=8)"
        )
    for devices in (2, 8):
        result = distill(dataset, make_config(runtime={"devices": devices}))
        difference = result.images.astype(int) - undisturbed.images
        assert np.abs(difference).max() <= 1
        assert (difference != 0).mean() < 0.02
        for ours, theirs in zip(
            result.metadata["history"], undisturbed.metadata["history"]
        ):
            assert ours["evaluation"]["top1"] == pytest.approx(
                theirs["evaluation"]["top1"], abs=7
            )


def test_first_segment_is_idc(dataset):
    """Filter and regularizer begin with the second segment."""
    size = {"images_per_class": 2, "segments": 1}
    plain = make_config(
        synthetic=size, regularizer={"name": "none"}, filter={"enabled": False}
    )
    d4a = make_config()
    idc, first = distill(dataset, plain), distill(dataset, d4a).prefix(1)
    np.testing.assert_array_equal(idc.images, first.images)


def test_diverging_loss_ends_with_advice_and_saves_nothing(dataset, tmp_path):
    wild = make_config(matching={"learning_rate": 1e38})
    with pytest.raises(DivergenceError, match="matching.learning_rate"):
        distill(dataset, wild, tmp_path)
    assert not (tmp_path / "distilled").exists()


@pytest.mark.parametrize("source", ["filtered", "earlier"])
def test_networks_can_train_on_other_data(dataset, undisturbed, source):
    result = distill(dataset, make_config(network_training={"data": source}))
    assert np.isfinite(result.metadata["history"][-1]["evaluation"]["top1"])
    first, same = result.prefix(1).images, undisturbed.prefix(1).images
    # Without a filter's decision or an earlier segment all sources are the same.
    np.testing.assert_array_equal(first, same)
    assert (result.images[6:] != undisturbed.images[6:]).any()


def test_guard_and_easiest_share_work_in_the_loop(dataset, tmp_path):
    config = make_config(
        data={"data_dir": str(tmp_path)},
        filter={"guard": True, "keep_easiest": 0.5},
        difficulty={"max_steps": 6},
    )
    result = distill(dataset, config)
    assert 3 / 12 <= result.metadata["history"][0]["filter"]["kept"] <= 1
    assert len(list((tmp_path / "difficulty").glob("*.npz"))) == 1


def test_pretraining_changes_the_networks(dataset, undisturbed):
    result = distill(dataset, make_config(network_training={"pretrain_epochs": 1}))
    assert (result.images != undisturbed.images).any()


def test_problems_of_fit_are_reported_together(dataset):
    config = make_config(
        network="convnet:depth=5",
        synthetic={"factor": 5},
        evaluation={"network": "resnet19", "augmentation": "color_flop"},
    )
    with pytest.raises(configs.ConfigError) as error:
        check_fit(config, dataset)
    text = "\n".join(error.value.problems)
    assert len(error.value.problems) == 4
    for part in ("synthetic.factor", "resnet19", "flop", "network:"):
        assert part in text


def test_flip_is_refused_where_it_changes_the_label(dataset):
    digits = dataclasses.replace(dataset, flip=False)
    config = make_config()
    assert "flip" in config.evaluation.augmentation
    with pytest.raises(configs.ConfigError, match="without 'flip'"):
        check_fit(config, digits)


def test_finish_rounds_and_clips():
    pixels = np.array([[-1.0, 0.0, 0.4999 / 255, 0.501 / 255, 1.0, 2.0]])
    np.testing.assert_array_equal(finish(pixels), [[0, 0, 0, 1, 255, 255]])
