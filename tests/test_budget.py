"""Counted FLOPs: of every method, and of experts by hand."""

import importlib

import numpy as np
import pytest

from d4a_jax.config import from_dict
from d4a_jax.cost import total_passes
from d4a_jax.data import from_arrays
from d4a_jax.methods import METHODS
from d4a_jax.trajectories import experts
from experiments import budget, compare, sweep
from experiments.rows import make_row

PER_CLASS, CLASSES, SIDE = 6, 3, 8
NETWORK = "convnet:depth=1:width=4"

# Every method of the comparisons; `cifar10_cpu` and the others have the same ones.
_, COMPARISON = compare.load_comparison("comparisons/digits.py")
DISTILLED = [n for n, m in COMPARISON.methods.items() if "baseline" not in m]


@pytest.fixture(scope="module")
def dataset():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(CLASSES), PER_CLASS)
    images = rng.integers(0, 256, (len(labels), SIDE, SIDE, 3), np.uint8)
    return from_arrays("toy", images, labels, images[::2], labels[::2])


@pytest.fixture(autouse=True)
def nothing_is_trained(monkeypatch):
    def refuse(*unused):
        raise AssertionError("experts were trained to count what they cost")

    monkeypatch.setattr(experts, "_train", refuse)


def values_of(name, **sections):
    module = importlib.import_module(f"experiments.configs.{name}")
    return compare.merged(module.get_config("smoke").to_dict(), sections)


def check(config, dataset):
    found = budget.count(config, dataset)
    assert found.steps == config.steps_per_segment * len(config.segment_sizes)
    assert found.matching > 0
    assert (found.experts > 0) == config.uses_experts
    assert found.total == sum(found[1:])
    assert total_passes(config, CLASSES, PER_CLASS * CLASSES) > 0


def test_the_comparisons_have_a_row_of_every_method(dataset):
    rows = [row_of(name, dataset).config for name in DISTILLED]
    assert {c.method_name for c in rows} == set(METHODS)


def row_of(method, dataset):
    (data, *_), size = COMPARISON.datasets, COMPARISON.images_per_class[0]
    tiny = COMPARISON._replace(networks=(NETWORK,))
    values = compare.row_of(tiny, compare.Cell(data, size, method), dataset)
    return make_row(method, values, 0)


@pytest.mark.parametrize("method", DISTILLED)
def test_a_row_of_every_method_is_counted(method, dataset):
    check(row_of(method, dataset).config, dataset)


@pytest.mark.parametrize("name", ["digits", "folder", "cifar10_ipc10"])
def test_configurations_are_counted(name, dataset):
    check(from_dict(values_of(name, network=NETWORK)), dataset)


# Trajectory matching, one convolution of width 4 and no augmentation.
TRAJECTORY = {
    "network": NETWORK,
    "synthetic": {"images_per_class": 2, "segments": 1, "factor": 1, "init": "real"},
    "matching": {"augmentation": "none", "outer_iterations": 3, "inner_iterations": 1},
    "experts": {"count": 2, "epochs": 4, "batch_size": 16},
    "method": {"max_start_epoch": 3, "student_steps": 2, "batch_syn": None},
}
CONVOLUTION = 2 * 9 * 3 * 4 * SIDE**2
LINEAR = 2 * 4 * (SIDE // 2) ** 2 * CLASSES
FORWARD = CONVOLUTION + LINEAR
TRAINING = 3 * FORWARD - CONVOLUTION


def trajectory(**sections):
    values = compare.merged(values_of("cifar10_mtt"), TRAJECTORY)
    return from_dict(compare.merged(values, sections))


def test_a_student_costs_what_its_images_and_steps_say(dataset):
    one, two, wide = (
        budget.count(trajectory(**sections), dataset).matching
        for sections in (
            {"method": {"student_steps": 1}},
            {"method": {"student_steps": 2}},
            {"synthetic": {"images_per_class": 4}},
        )
    )
    # A step's gradient on the way forward; on the way back it again, with that of the
    # pixels, and its derivative: between four and five training steps of six images.
    assert 4 * TRAINING < one / (3 * 6) < 5 * TRAINING
    assert two == 2 * one
    assert wide == pytest.approx(2 * two, rel=0.01)


def test_experts_are_counted_by_hand(dataset):
    # Two batches of sixteen hold the eighteen images.
    training = 2 * 4 * 2 * 16 * TRAINING
    assert budget.count(trajectory(), dataset).experts == training
    labels = trajectory(method={"label_learning_rate": 1.0})
    of_labels = 2 * 2 * CLASSES * FORWARD
    assert budget.count(labels, dataset).experts == training + of_labels
    asked = 2 * (1 + 4) * CLASSES * PER_CLASS * FORWARD
    correct = trajectory(synthetic={"init": "correct"})
    assert budget.count(correct, dataset).experts == training + asked
    followed = trajectory(synthetic={"segments": 2}, filter={"enabled": True})
    assert budget.count(followed, dataset).experts == training + asked


def test_labels_that_are_learned_in_segments_are_counted(dataset):
    changes = {
        "synthetic": {"segments": 2},
        "filter": {"enabled": False},
        "method": {"label_learning_rate": 1.0},
    }
    learned = budget.count(trajectory(**changes), dataset)
    del changes["method"]
    assert learned.matching == budget.count(trajectory(**changes), dataset).matching


def test_a_budget_pays_for_iterations_of_trajectory_matching(dataset):
    config = trajectory()
    limit = budget.count(config, dataset).total
    assert budget.with_flops(config, dataset, limit) == config


def test_training_on_stages_is_counted_by_hand(dataset):
    """PDD: three segments of two formed images per class, in batches of four."""
    changes = {
        "synthetic": {"images_per_class": 6, "segments": 3, "factor": 1},
        "network_training": {"stage_epochs": 5, "batch_size": 4},
        "matching": {"outer_iterations": 7},
    }
    config = from_dict(values_of("cifar10_pdd", network=NETWORK, **changes))
    changes["network_training"]["stage_epochs"] = 0
    without = from_dict(values_of("cifar10_pdd", network=NETWORK, **changes))
    found, less = (budget.count(c, dataset).matching for c in (config, without))
    # The second segment's networks see 6 images, the third's 6 and 12.
    assert found - less == 7 * 5 * (2 + 2 + 3) * 4 * TRAINING


def test_the_trials_of_a_range_test_are_counted(dataset):
    """Twelve rates take both steps of a segment and two more to look at them."""
    changes = {
        "network": NETWORK,
        "matching": {"outer_iterations": 2, "inner_iterations": 1},
        "synthetic": {"segments": 1},
        "network_training": {"images_per_step": 0},
    }
    config = from_dict(values_of("cifar10_ipc10", **changes))
    changes["matching"]["learning_rate"] = None
    tried = from_dict(values_of("cifar10_ipc10", **changes))
    found, given = (budget.count(c, dataset).matching for c in (tried, config))
    assert found == (1 + 12 * 4 // 2) * given


def test_a_sweep_makes_a_row_of_trajectory_matching(dataset, tmp_path, monkeypatch):
    """The figures are counted after the distillation, whose stand-in is a selection."""
    values = trajectory(synthetic={"init": "noise"}).to_dict()
    file = tmp_path / "mtt.py"
    file.write_text(f"ROWS = {{'mtt': {values!r}}}\nREFERENCE = 'mtt'\n")
    monkeypatch.setattr(sweep, "load_dataset", lambda **unused: dataset)
    found = sweep.load_sweep(str(file))
    row = found.row("mtt", 0)
    cost = sweep._cost(found, row)
    counted = budget.count(row.config, dataset)
    assert cost == counted._asdict() | {"total": counted.total}
    assert cost["experts"] > 0
