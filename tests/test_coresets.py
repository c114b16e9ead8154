"""Coresets: windows chosen on held-out training images, prototypes, their cost."""

import dataclasses
import importlib
import json

import numpy as np
import pytest

from d4a_jax.artifact import save_distilled
from d4a_jax.config import ConfigError, from_dict
from d4a_jax.data import DatasetError, from_arrays
from d4a_jax.data.holdout import held_out_rows
from d4a_jax.difficulty import Difficulty, RealDifficulty
from d4a_jax.selection import coresets, rules, windows, work
from d4a_jax.selection.baselines import SELECTIONS, select_images
from experiments import budget, compare, rows, selections, sweep_table
from experiments.compare import Cell, Comparison
from experiments.worth import worth

# --- prototypes ----------------------------------------------------------------------


def test_k_means_takes_the_member_nearest_to_each_center_by_hand():
    """Three groups on a line with means 1, 11 and 30, the largest first."""
    line = np.array([30.5, 0.0, 10.0, 1.1, 29.5, 1.9, 11.2, 11.8, 1.0, 1.0])
    line = np.append(line, 29.9)[:, None]
    # The mean of 0, 1.1, 1.9, 1 and 1 is 1: row 8 before its equal in row 9. That of
    # 10, 11.2 and 11.8 is 11: row 6. That of 30.5, 29.5 and 29.9 is 29.97: row 10.
    found = coresets.k_means(line, 3)
    assert found[0] == 8 and sorted(found[1:]) == [6, 10]


def test_a_prototype_belongs_to_its_cluster():
    """The image nearest to a center may be in another cluster, and is not taken."""
    # Twelve images at 3 from their center 0, and 21 on an axis of their own between 1.9
    # and 3.1 from it: some of these are nearer to that center than all of the twelve.
    ring = 3 * np.concatenate([np.eye(6, 7), -np.eye(6, 7)])
    group = np.linspace(1.9, 3.1, 21)[:, None] * np.eye(7)[6]
    found = coresets.k_means(np.concatenate([ring, group]), 2)
    assert found[0] == 12 + 10  # The middle of the larger cluster.
    assert found[1] < 12


@pytest.mark.parametrize("count", [1, 3, 5])
def test_k_means_of_equal_embeddings_takes_distinct_images(count):
    features = np.array([[0.0], [0.0], [5.0], [5.0], [5.0]])
    found = coresets.k_means(features, count)
    assert len(set(found)) == count
    if count > 1:
        assert set(features[found[:2], 0]) == {0.0, 5.0} and features[found[0]] == 5.0


def test_k_means_of_one_image_is_nearest_to_the_mean():
    features = np.random.default_rng(1).normal(size=(9, 3))
    nearest = np.argmin(np.linalg.norm(features - features.mean(0), axis=1))
    assert coresets.k_means(features, 1) == [nearest]


# --- windows -------------------------------------------------------------------------


def test_the_best_window_by_hand():
    accuracy = np.array([[0.25, 0.75], [0.5, 0.75], [0.75, 0.5], [0.5, 0.5]])
    found = windows.best_window((0.0, 0.25, 0.5, 1.0), accuracy)
    # Shares 0.25 and 0.5 are equally good; the easier window is taken.
    assert found.skip_hardest == 0.5
    assert found.accuracy == (0.5, 0.625, 0.625, 0.5)
    # Sums of the same terms in another order.
    uneven = np.array([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1], [0.0, 0.0, 0.0]])
    assert windows.best_window((0.0, 0.5, 1.0), uneven).skip_hardest == 0.5


CLASSES, PER_CLASS, SIDE = 2, 20, 8
CONFIG = {
    "network": "convnet:depth=1:width=4",
    "synthetic": {"images_per_class": 3, "factor": 1},
    "difficulty": {"max_steps": 4, "epochs": 2, "checkpoints": 2},
    "evaluation": {
        "batch_size": 8,
        "max_steps": 40,
        "learning_rate": 0.05,
        "repeats": 3,
        "prefix_repeats": 2,
        "augmentation": "none",
        "cutmix_probability": 0.0,
    },
    "runtime": {"devices": 1},
}


def planted(test_shift=0):
    """Class 0 is dark and class 1 is bright, but for the wrong labels of the hardest.

    Returns:
      The data set and a hardness, by which the first fifth of every class is hardest.
    """
    rng = np.random.default_rng(0)
    labels = np.tile(np.arange(CLASSES, dtype=np.int32), PER_CLASS)
    rank = np.repeat(np.arange(PER_CLASS), CLASSES)
    wrong = rank < PER_CLASS // 5
    images = rng.integers(0, 60, (len(labels), SIDE, SIDE, 1))
    images += 150 * (labels ^ wrong)[:, None, None, None]
    images = images.astype(np.uint8)
    tests = images[::3] + np.uint8(test_shift)
    data = from_arrays("planted", images, labels, tests, labels[::3], flip=False)
    return data, -rank.astype(np.float64)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    data = {"data_dir": str(tmp_path_factory.mktemp("data"))}
    return from_dict(CONFIG | {"data": data})


def test_wrong_labels_are_left_out_by_the_chosen_window(config):
    dataset, hardness = planted()
    shares = (0.0, 0.5, 1.0)
    found = windows.choose_window(dataset, hardness, 3, 1, config, shares=shares)
    assert found.shares == shares
    # Three of the four hardest images have wrong labels, so networks learn the reverse.
    assert found.accuracy[0] < 0.5 < found.accuracy[1]
    assert found.skip_hardest > 0.0
    again = windows.choose_window(dataset, hardness, 3, 1, config, shares=shares)
    assert again == found


def test_the_test_split_has_no_part_in_the_choice(config):
    dataset, hardness = planted()
    shares = (0.0, 1.0)
    first = windows.choose_window(dataset, hardness, 3, 1, config, shares=shares)
    reversed_labels = dataclasses.replace(
        dataset, test_labels=1 - dataset.test_labels, test_images=None
    )
    other = windows.choose_window(
        reversed_labels, hardness, 3, 1, config, shares=shares
    )
    assert other == first


def test_windows_are_tried_without_the_images_that_are_held_out(monkeypatch, config):
    dataset, hardness = planted()
    seen = {}

    def accuracy(held_out, training, subsets, factor, config, seed):
        seen.update(held_out=held_out, training=training, subsets=subsets)
        return np.linspace(0.0, 1.0, len(subsets.counts))

    monkeypatch.setattr(windows, "_held_out_accuracy", accuracy)
    shares = (0.0, 1.0)
    found = windows.choose_window(dataset, hardness, 3, 1, config, shares=shares)
    # Two networks a window: 0 and 1/3, 2/3 and 1.
    np.testing.assert_allclose(found.accuracy, [1 / 6, 5 / 6])
    held_out = held_out_rows(dataset.train_labels)
    np.testing.assert_array_equal(
        seen["held_out"].test_images, dataset.train_images[held_out]
    )
    np.testing.assert_array_equal(
        seen["held_out"].test_labels, dataset.train_labels[held_out]
    )
    training, subsets = seen["training"], seen["subsets"]
    assert subsets.counts.tolist() == [6] * 4
    for network, skip in enumerate((0.0, 0.0, 1.0, 1.0)):
        images = training.images[subsets.rows[network]]
        wanted = []
        for label in range(CLASSES):
            free = np.flatnonzero((dataset.train_labels == label) & ~held_out)
            chosen = coresets.difficulty_window(hardness[free], 3, skip)
            wanted.append(dataset.train_images[free[chosen]])
        np.testing.assert_array_equal(images, np.concatenate(wanted))
        shown = training.labels[subsets.rows[network]]
        np.testing.assert_array_equal(shown, [0, 0, 0, 1, 1, 1])


def test_mosaics_are_tried_as_they_are_stored(monkeypatch, config):
    dataset, hardness = planted()
    seen = {}

    def accuracy(held_out, training, subsets, factor, config, seed):
        seen.update(images=training.images, factor=factor)
        return np.zeros(len(subsets.counts))

    monkeypatch.setattr(windows, "_held_out_accuracy", accuracy)
    found = windows.choose_window(dataset, hardness, 2, 2, config, shares=(0.0, 1.0))
    assert found.skip_hardest == 1.0  # Nothing is better than the easiest.
    assert seen["factor"] == 2
    # Two windows of two mosaics of both classes.
    assert seen["images"].shape == (2 * 2 * CLASSES, SIDE, SIDE, 1)


def test_a_class_of_one_image_cannot_choose(config):
    images = np.zeros((3, SIDE, SIDE, 1), np.uint8)
    dataset = from_arrays("tiny", images, [0, 0, 1], images, [0, 0, 1])
    with pytest.raises(DatasetError, match="Label 1 has only image 2"):
        windows.choose_window(dataset, np.zeros(3), 1, 1, config)


# --- rules ---------------------------------------------------------------------------


@pytest.fixture
def measured(monkeypatch):
    """Difficulty with another order for every measure, and no networks."""
    dataset, hardness = planted()
    orders = np.random.default_rng(3).normal(size=(6, len(hardness)))
    train = Difficulty(*orders.astype(np.float32))
    calls = []

    def load(*unused):
        calls.append("difficulty")
        return RealDifficulty(train, train)

    def choose(dataset, hardness, images_per_class, factor, config, seed):
        calls.append("windows")
        return windows.Window(0.25, (0.0, 0.25), (0.5, 0.75))

    def embed(dataset, config, seed):
        calls.append("embeddings")
        return orders.T

    monkeypatch.setattr(rules, "load_or_cross_fit", load)
    monkeypatch.setattr(rules.windows, "choose_window", choose)
    monkeypatch.setattr(rules.teachers, "embeddings", embed)
    return dataset, train, orders.T, calls


@pytest.mark.parametrize("measure, sign", [("loss", 1), ("el2n", 1), ("aum", -1)])
def test_the_chosen_window_is_taken_of_each_measure(measured, config, measure, sign):
    dataset, train, _, _ = measured
    found = select_images(dataset, f"{measure}_window", 3, 1, config)
    for label in range(CLASSES):
        members = np.flatnonzero(dataset.train_labels == label)
        harder_first = members[np.argsort(-sign * getattr(train, measure)[members])]
        # A quarter of 20 is left out, of the whole training set.
        np.testing.assert_array_equal(
            found.images[found.labels == label],
            dataset.train_images[harder_first[5:8]],
        )
    assert found.metadata["window"] == {
        "measure": measure,
        "skip_hardest": 0.25,
        "shares": (0.0, 0.25),
        "accuracy": (0.5, 0.75),
    }


def test_k_means_prototypes_are_those_of_each_class(measured, config):
    dataset, _, features, _ = measured
    found = select_images(dataset, "k_means", 4, 1, config, seed=2)
    for label in range(CLASSES):
        members = np.flatnonzero(dataset.train_labels == label)
        chosen = members[coresets.k_means(features[members], 4, seed=2)]
        np.testing.assert_array_equal(
            found.images[found.labels == label], dataset.train_images[chosen]
        )


@pytest.mark.parametrize("name", SELECTIONS)
def test_every_rule_is_described_and_needs_what_it_says(measured, config, name):
    dataset, _, _, calls = measured
    rule = rules.RULES[name]
    assert rule.choose.__doc__
    full = f"{name}=0.5" if rule.takes_share else name
    for factor in (1, 2):
        calls.clear()
        found = select_images(dataset, full, 2, factor, config)
        assert sorted(calls) == sorted(rule.needs)
        # The same storage with and without mosaics.
        assert found.images.shape == (2 * CLASSES, SIDE, SIDE, 1)
        assert found.factor == factor


def test_windows_take_no_share():
    with pytest.raises(ValueError, match="selection is 'el2n_window=0.3'.*k_means"):
        select_images(planted()[0], "el2n_window=0.3", 1)


# --- cost ----------------------------------------------------------------------------

CONVOLUTION = 2 * 9 * 4 * SIDE**2
FORWARD = CONVOLUTION + 2 * 4 * (SIDE // 2) ** 2 * CLASSES
TRAINING = 3 * FORWARD - CONVOLUTION
TRAIN, TESTS = CLASSES * PER_CLASS, 14


def test_the_cost_of_choosing_by_hand(config):
    dataset, _ = planted()
    assert len(dataset.test_labels) == TESTS
    of = lambda name, factor=1: work.selection_work(name, factor, config, dataset)
    network = CONFIG["network"]
    assert of("random") == []
    # Training stops after 4 steps of 8 images; all 40 are embedded.
    embedding = work.Work("embeddings", network, 4 * 8, TRAIN)
    assert of("herding") == of("k_center") == of("k_means") == [embedding]
    # Two folds of two networks: 4 steps on 20 images, looked at twice.
    difficulty = work.Work("difficulty", network, 4 * 4 * 8, 4 * 2 * (TRAIN + TESTS))
    assert of("easiest") == of("window=0.5") == [difficulty]
    # Two networks on each of 11 windows, 40 steps, asked about 2 images of each class.
    chosen = work.Work("windows", network, 22 * 40 * 8, 22 * 4)
    assert of("el2n_window") == [difficulty, chosen]
    # Five crops of all 20 images of each class.
    assert of("rded") == [work.Work("patches", network, 4 * 8, CLASSES * 20 * 5)]
    assert work.passes([embedding]) == 3 * 32 + 40


def test_the_cost_of_windows_grows_with_what_is_stored(config):
    dataset, _ = planted()
    recipe = dataclasses.replace(config.evaluation, max_steps=None, epochs=5)
    config = dataclasses.replace(config, evaluation=recipe)
    trained = lambda factor: work.selection_work(
        "loss_window", factor, config, dataset
    )[1].trained
    # 6 stored images make one batch of 8, as mosaics 24 images make three.
    assert trained(1) == 22 * 5 * 8 and trained(2) == 22 * 5 * 3 * 8


def test_the_difficulty_is_counted_as_that_of_the_filter(config):
    dataset, _ = planted()
    segments = dataclasses.replace(config.synthetic, segments=3)
    guard = dataclasses.replace(config.filter, guard=True)
    distilled = dataclasses.replace(config, synthetic=segments, filter=guard)
    counted = budget.count_selection("hardest", 1, config, dataset)
    assert counted.difficulty == budget.count(distilled, dataset).difficulty
    assert counted.steps == counted.matching == counted.selection == 0


def test_flops_of_choosing_by_hand(config):
    dataset, _ = planted()
    assert budget.count_selection("random", 2, config, dataset) is None
    found = budget.count_selection("herding", 1, config, dataset)
    assert found.total == found.selection == 32 * TRAINING + TRAIN * FORWARD
    window = budget.count_selection("aum_window", 1, config, dataset)
    assert window.selection == 22 * (40 * 8 * TRAINING + 4 * FORWARD)
    assert window.total == window.selection + window.difficulty


# --- rows and tables -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["window", "el2n_window=0.5_mosaic", "window=2"])
def test_rows_with_wrong_shares_are_refused_before_anything_is_made(name):
    with pytest.raises(ConfigError, match=f"^x: baseline is '{name}'; it must be rded"):
        rows.make_row("x", {"baseline": name}, 0)


@pytest.mark.parametrize("name", ["digits", "cifar10_cpu"])
def test_comparisons_hold_strong_coresets_with_and_without_mosaics(name):
    methods = importlib.import_module(f"experiments.comparisons.{name}").METHODS
    wanted = ("loss_window", "el2n_window", "aum_window", "herding", "k_means")
    for method in wanted:
        plain, mosaic = methods[method], methods[f"{method}_mosaic"]
        assert plain == {"baseline": method}
        assert mosaic["baseline"] == f"{method}_mosaic"
        assert mosaic["synthetic"]["factor"] == 2
        for row in (plain, mosaic):
            rows.make_row(method, row, 0)


def test_a_comparison_runs_coresets_and_states_their_cost(tmp_path, monkeypatch):
    dataset, _ = planted()

    def distill(dataset, config, workdir, should_stop):
        made = select_images(dataset, "random", config.synthetic.images_per_class)
        made.metadata["history"] = []
        save_distilled(workdir / "distilled", made)
        return made

    monkeypatch.setattr(rows, "distill", distill)
    sections = {key: value for key, value in CONFIG.items() if key != "network"}
    sections["evaluation"] = CONFIG["evaluation"] | {"max_steps": 3}
    sections["data"] = {"name": "planted", "data_dir": str(tmp_path / "data")}
    methods = {
        "el2n_window": {"baseline": "el2n_window"},
        "k_means_mosaic": {"baseline": "k_means_mosaic", "synthetic": {"factor": 2}},
        "random": {"baseline": "random"},
        "dm": {"config": "cifar10_dm"},
    }
    comparison = Comparison(
        methods, {"planted": sections}, (2,), (CONFIG["network"],), 500
    )
    load = lambda **unused: dataset
    text = compare.compare(comparison, tmp_path, [0], list(methods), load)
    records = {}
    for method in methods:
        place = Cell("planted", 2, method).directory(tmp_path, 0)
        records[method] = json.loads((place / "row.json").read_text())
    passes = lambda name: records[name]["selection_passes"]
    # Two folds of two networks, and two networks on each of 11 windows.
    difficulty = 3 * 4 * 4 * 8 + 4 * 2 * (TRAIN + TESTS)
    assert passes("el2n_window") == difficulty + 3 * 22 * 3 * 8 + 22 * 4
    assert passes("k_means_mosaic") == 3 * 32 + TRAIN
    assert passes("random") == 0 and passes("dm") is None
    stored = {record["stored_bytes"] for record in records.values()}
    assert stored == {2 * CLASSES * SIDE**2}
    assert "| to select, M |" in text and "The best distilled set, dm, has " in text
    for method in ("el2n_window", "k_means_mosaic"):
        config = from_dict(records[method]["config"])
        wanted = selections.passes(method, config, dataset)
        assert passes(method) == wanted


def _line(method, top1, passes, selection_passes, std=None):
    return {"method": method, "top1": top1, "std_over_seeds": std, "passes": passes,
            "selection_passes": selection_passes}  # fmt: skip


def test_the_worth_of_distillation_in_words():
    ranked = [
        _line("d4a", 60.0, 3_000_000, None, 0.25),
        _line("el2n_window", 58.5, 0, 1_500_000),
        _line("dm", 50.0, 3_000_000, None),
        _line("random", 40.0, 0, 0),
    ]
    assert worth(ranked) == (
        "The best distilled set, d4a, has 60.00 ± 0.25 % for 3.0 M passes. The best "
        "real images, el2n_window, have 58.50 % for 1.50 M passes to select them. "
        "Distillation leads by 1.50."
    )
    assert worth(ranked[1:]).endswith("Distillation is behind by 8.50.")
    assert worth(ranked[::2]) is worth(ranked[1::2]) is None


def test_selections_compete_but_set_no_budget():
    """A costly selection does not shut out the IDC of the row's budget."""

    def runs(accuracy, total, prefixes=1, baseline=None):
        return [{"seed": 0, "prefixes": [[20, [accuracy]]] * prefixes,
                 "baseline": baseline, "cost": {"total": total}}]  # fmt: skip

    results = {
        "d4a": runs(0.5, 8, prefixes=2),
        "idc": runs(0.4, 10),
        "window": runs(0.3, 9, baseline="loss_window"),
    }
    assert sweep_table.baseline_of("d4a", results) == "idc"
    results["window"] = runs(0.45, 9, baseline="loss_window")
    assert sweep_table.baseline_of("d4a", results) == "window"
    results["window"] = runs(0.45, 11, baseline="loss_window")
    assert sweep_table.baseline_of("d4a", results) == "idc"
