"""Sweeps: budgets that are counted, rows that are never repeated, honest tables."""

import dataclasses
import json
import re

import numpy as np
import pytest

from d4a_jax.artifact import load_distilled
from d4a_jax.config import ConfigError, from_dict
from d4a_jax.data import from_arrays
from d4a_jax.distillation import DivergenceError, Interrupted
from d4a_jax.evaluation import Evaluation
from d4a_jax.regularizers import REGULARIZERS
from d4a_jax.selection.baselines import random_images
from d4a_jax.storage.fileio import WorkdirLock
from experiments import budget, rows, sweep, sweep_table
from experiments.sweeps.ablation import ablation

PER_CLASS, CLASSES, SIDE, BATCH = 12, 2, 8, 4
BASE = {
    "data": {"name": "digits", "classes": 2},
    "network": "convnet:depth=1:width=4",
    "synthetic": {"images_per_class": 4, "factor": 1},
    "matching": {
        "batch_real": 3,
        "learning_rate": 5e-3,
        "outer_iterations": 4,
        "inner_iterations": 5,
        "augmentation": "none",
    },
    "network_training": {"images_per_step": 8, "batch_size": 8},
    "filter": {"networks": 2},
    "difficulty": {"epochs": 1, "networks": 1, "checkpoints": 1},
    "evaluation": {
        "repeats": 2,
        "max_steps": 6,
        "batch_size": BATCH,
        "augmentation": "none",
    },
}


@pytest.fixture(scope="module")
def dataset():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(CLASSES), PER_CLASS)
    images = rng.integers(0, 256, (len(labels), SIDE, SIDE, 1)).astype(np.uint8)
    return from_arrays("toy", images, labels, images[::2], labels[::2], flip=False)


# --- budgets -------------------------------------------------------------------------

# One convolution, 3 x 3 x 1 x 4 on 8 x 8, and after pooling to 4 x 4 a linear layer.
CONVOLUTION = 2 * 9 * 4 * SIDE**2
LINEAR = 2 * 4 * (SIDE // 2) ** 2 * CLASSES
FORWARD = CONVOLUTION + LINEAR
# Both layers' gradients with respect to kernel and input, but for that of the images.
TRAINING = 3 * FORWARD - CONVOLUTION
# The classifier's kernel is not matched.
MATCHED = TRAINING - LINEAR
# A gradient, that of the images included, and its derivative along another one.
SYNTHETIC = 2 * (MATCHED + CONVOLUTION)


def test_a_budget_is_what_the_shapes_say(dataset):
    config = from_dict(BASE)
    found = budget.count(config, dataset)
    assert found.steps == 20
    step = CLASSES * (3 * MATCHED + 4 * SYNTHETIC) + 8 * TRAINING
    assert found.matching == 20 * step
    assert found.filtering == found.difficulty == 0
    assert found.total == found.matching


def test_the_filter_and_the_guard_are_counted_by_hand(dataset):
    rows = ablation(BASE, segments=2)
    plain = budget.count(from_dict(rows["d4a-filter-none"]), dataset)
    images = len(dataset.train_labels)
    # Two networks: six steps of four images, and a pass over the real set.
    assert plain.filtering == 2 * (6 * BATCH * TRAINING + images * FORWARD)
    assert plain.difficulty == 0
    guarded = budget.count(from_dict(rows["d4a-guard-none"]), dataset)
    # Two folds: three steps on half of the set, one look at everything.
    looks = (images + len(dataset.test_labels)) * FORWARD
    assert guarded.difficulty == 2 * (3 * BATCH * TRAINING + looks)
    assert guarded.matching == plain.matching
    without = budget.count(from_dict(rows["segments-no-filter"]), dataset)
    assert without.filtering == without.difficulty == 0


def test_smaller_segments_make_cheaper_steps_and_regularizers_cost(dataset):
    rows = ablation(BASE, segments=2)
    cost = {
        name: budget.count(from_dict(rows[name]), dataset)
        for name in ("idc", "d4a-guard-none", "d4a-guard-anchor")
    }
    assert len({found.steps for found in cost.values()}) == 1
    none, anchor = cost["d4a-guard-none"], cost["d4a-guard-anchor"]
    assert none.matching < cost["idc"].matching
    # In the second half of the steps three more real images of both classes.
    extra = 10 * CLASSES * 3 * MATCHED
    assert anchor.matching - none.matching == extra


def test_as_many_iterations_as_the_budget_pays_for(dataset):
    config = from_dict(ablation(BASE, segments=2)["d4a-guard-none"])
    limit = 3 * budget.count(config, dataset).total
    more = budget.with_flops(config, dataset, limit)
    assert budget.count(more, dataset).total <= limit
    matching = dataclasses.replace(
        more.matching, outer_iterations=more.matching.outer_iterations + 1
    )
    beyond = dataclasses.replace(more, matching=matching)
    assert budget.count(beyond, dataset).total > limit
    with pytest.raises(ValueError, match="does not pay for one outer iteration"):
        budget.with_flops(config, dataset, 1000)


# --- rows ----------------------------------------------------------------------------


def test_the_ablation_holds_what_it_promises():
    rows = {
        name: from_dict(
            {k: v for k, v in row.items() if k not in ("baseline", "budget")}
        )
        for name, row in ablation(BASE, segments=2).items()
    }
    configs = rows.values()
    assert {c.regularizer.name for c in configs} == set(REGULARIZERS)
    for name in set(REGULARIZERS) - {"none"}:
        weights = {c.regularizer.weight for c in configs if c.regularizer.name == name}
        assert len(weights) >= 3
    assert len({len(c.segment_sizes) for c in configs}) >= 2
    assert {c.filter.scope for c in configs} == {"full", "cumulative"}
    assert {c.filter.networks for c in configs} >= {1, 2, 5}
    assert {c.filter.guard for c in configs} == {False, True}
    assert {c.filter.enabled for c in configs} == {False, True}
    assert len({c.filter.max_discard for c in configs}) >= 3
    assert {c.network_training.data for c in configs} == {"all", "filtered", "earlier"}
    scalings = {c.matching.learning_rate_scaling for c in configs}
    assert scalings == {"segment", "total"}
    idc = [c for name, c in rows.items() if name.startswith("idc-lr")]
    assert {c.matching.learning_rate / 5e-3 for c in idc} == {0.5, 2.0, 4.0}
    steps = {
        name: c.steps_per_segment * len(c.segment_sizes) for name, c in rows.items()
    }
    special = ("full", "idc-steps", "flops", "random")
    others = {n: s for n, s in steps.items() if not any(x in n for x in special)}
    assert set(others.values()) == {20}
    assert steps["d4a-full-guard-anchor"] == steps["idc-steps-times-segments"] == 40


@pytest.fixture
def small(tmp_path, monkeypatch, dataset):
    """A sweep of three rows with stand-ins for distilling and testing."""
    file = tmp_path / "small.py"
    file.write_text(
        f"BASE = {BASE!r}\n"
        "ROWS = {'random': BASE | {'baseline': 'random_mosaic',"
        " 'synthetic': {'images_per_class': 3, 'factor': 2}}, 'idc': BASE,"
        " 'd4a': BASE | {'synthetic': {'images_per_class': 4, 'segments': 2,"
        " 'factor': 1}, 'matching': BASE['matching'] | {'outer_iterations': 2}}}\n"
    )
    calls = []

    def distill(dataset, config, workdir, should_stop):
        calls.append((len(config.segment_sizes), config.seed))
        if should_stop():
            raise Interrupted
        made = random_images(dataset, config.segment_sizes, seed=config.seed)
        filtered = {"kept": 0.25, "learned": 0.5, "forgotten": 0.0}
        history = [
            {
                "images_per_class": 2 * (k + 1),
                "evaluation": {"top1_each": [0.5 + 0.1 * k, 0.6 + 0.01 * config.seed]},
            }
            for k in range(len(config.segment_sizes))
        ]
        for entry in history[:-1]:
            entry["filter"] = filtered
        made.metadata["history"] = history
        return made

    def evaluate(distilled, dataset, networks, *unused):
        return [Evaluation(networks[0], (0.4, 0.42), (), 6)]

    monkeypatch.setattr(rows, "distill", distill)
    monkeypatch.setattr(rows, "evaluate", evaluate)
    monkeypatch.setattr(sweep, "load_dataset", lambda **unused: dataset)
    return sweep.load_sweep(str(file)), calls, tmp_path / "work"


def test_a_sweep_never_repeats_a_row(small):
    found, calls, workdir = small
    names = found.names(None)
    assert names == ["random", "idc", "d4a"]
    text = sweep.run_sweep(found, names, [0, 1], workdir)
    assert sorted(calls) == [(1, 0), (1, 1), (2, 0), (2, 1)]
    again = sweep.run_sweep(found, names, [0, 1], workdir)
    assert len(calls) == 4
    assert again == text == (workdir / "table.md").read_text()
    rows = json.loads((workdir / "table.json").read_text())
    assert [run["seed"] for run in rows["d4a"]] == [0, 1]
    assert rows["d4a"][0]["kept"] == [0.25]
    saved = load_distilled(workdir / "random-seed1" / "distilled")
    assert (saved.factor, len(saved.images)) == (2, 6)
    assert re.search(r"\| random +\| +2 \| +41.00 ± 0.00 \|", text)
    assert re.search(r"minutes in all, on \d+ × ", text)


def test_a_stopped_row_goes_on_with_its_clock(small):
    found, calls, workdir = small
    with pytest.raises(Interrupted):
        sweep.run_sweep(found, ["idc"], [0], workdir, lambda: True)
    assert not (workdir / "idc-seed0" / "row.json").exists()
    clock = workdir / "idc-seed0" / "clock.json"
    assert json.loads(clock.read_text())["seconds"] < 60
    clock.write_text('{"seconds": 600.0}')
    sweep.run_sweep(found, ["idc"], [0], workdir)
    (record,) = json.loads((workdir / "table.json").read_text())["idc"]
    assert 10 <= record["minutes"] < 11
    assert len(calls) == 2


def test_a_row_of_another_configuration_is_refused(small):
    found, _, workdir = small
    sweep.run_sweep(found, ["idc"], [0], workdir)
    matching = BASE["matching"] | {"learning_rate": 0.5}
    found.values["idc"] = BASE | {"matching": matching}
    with pytest.raises(ConfigError, match="differs in matching.learning_rate"):
        sweep.run_sweep(found, ["idc"], [0], workdir)


def _older_row(config, fingerprint, prefixes, baseline=None):
    """A row as sweeps wrote it at first, before some options were there."""
    values = config.identity()
    del values["experts"], values["filter"]["guard"], values["method"]["union"]
    segments = len(prefixes) - 1
    return {
        "prefixes": prefixes, "kept": [0.25] * segments, "learned": [0.5] * segments,
        "forgotten": [0.125] * segments, "minutes": 7.5, "hardware": "1 × old cpu",
        "cost": None if baseline else
            {"steps": 20, "matching": 9, "filtering": 1, "difficulty": 0, "total": 10},
        "baseline": baseline, "dataset_fingerprint": fingerprint, "config": values,
    }  # fmt: skip


def test_rows_of_older_sweeps_are_not_repeated(small, dataset, monkeypatch):
    found, calls, workdir = small

    def older_row(name, *values):
        return _older_row(found.row(name, 0).config, dataset.fingerprint, *values)

    older = {
        "random": older_row("random", [[3, [0.25, 0.5]]], "random_mosaic"),
        "idc": older_row("idc", [[4, [0.5, 0.5]]]),
        "d4a": older_row("d4a", [[2, [0.25]], [4, [0.75, 0.5]]]),
    }
    for name, record in older.items():
        (workdir / f"{name}-seed0").mkdir(parents=True)
        (workdir / f"{name}-seed0" / "row.json").write_text(json.dumps(record))

    def refuse(*unused):
        raise AssertionError("a finished row was tested again")

    monkeypatch.setattr(rows, "evaluate", refuse)
    text = sweep.run_sweep(found, list(older), [0], workdir)
    assert not calls
    results = json.loads((workdir / "table.json").read_text())
    for name, record in older.items():
        # The file stays as it is; what was read has the same figures, and more.
        kept = json.loads((workdir / f"{name}-seed0" / "row.json").read_text())
        assert kept == record
        (read,) = results[name]
        assert {key: read[key] for key in record if key != "config"} == {
            key: value for key, value in record.items() if key != "config"
        }
        assert read["tests"] == {BASE["network"]: record["prefixes"][-1][1]}
    assert re.search(r"\| d4a +\| +1 \| +62.50 \| +17.68 \|", text)
    assert "22.5 minutes in all, on 1 × old cpu." in text


def test_an_option_that_a_row_lacks_had_its_default(small, dataset):
    found, _, workdir = small
    config = found.row("idc", 0).config
    record = _older_row(config, dataset.fingerprint, [[4, [0.5]]])
    (workdir / "idc-seed0").mkdir(parents=True)
    (workdir / "idc-seed0" / "row.json").write_text(json.dumps(record))
    found.values["idc"] = BASE | {"filter": BASE["filter"] | {"guard": True}}
    with pytest.raises(ConfigError, match="differs in filter.guard; choose"):
        sweep.run_sweep(found, ["idc"], [0], workdir)
    found.values["idc"] = BASE | {"baseline": "random"}
    with pytest.raises(ConfigError, match="differs in baseline; choose"):
        sweep.run_sweep(found, ["idc"], [0], workdir)


def test_rows_that_are_busy_or_diverge_are_left_out(small, monkeypatch):
    found, _, workdir = small
    with WorkdirLock(workdir / "idc-seed0"):
        text = sweep.run_sweep(found, ["random", "idc"], [0], workdir)
    assert "| idc" not in text and "| random" in text

    diverged = []

    def diverge(dataset, config, *unused):
        diverged.append(config.seed)
        raise DivergenceError("not finite")

    monkeypatch.setattr(rows, "distill", diverge)
    for _ in range(2):
        text = sweep.run_sweep(found, ["idc", "random"], [0], workdir)
        assert "| idc" not in text and "| random" in text
    assert diverged == [0]
    record = json.loads((workdir / "idc-seed0" / "row.json").read_text())
    assert record["failed"] == "not finite"


def test_a_stop_after_a_row_leaves_the_others(small):
    found, calls, workdir = small
    with pytest.raises(Interrupted):
        sweep.run_sweep(found, ["random", "idc"], [0], workdir, lambda: True)
    assert not calls
    assert list(json.loads((workdir / "table.json").read_text())) == ["random"]


def test_wrong_rows_are_named(small, tmp_path):
    found, *_ = small
    assert found.names(["*d*"]) == ["random", "idc", "d4a"]
    with pytest.raises(ConfigError, match="'nothing\\*' is not one of random, idc"):
        found.names(["nothing*"])
    found.values["idc"] = BASE | {"budget": "hours"}
    with pytest.raises(ConfigError, match="budget is 'hours'"):
        found.row("idc", 0)
    found.values["idc"] = BASE | {"baseline": "best"}
    with pytest.raises(ConfigError, match="baseline is 'best'"):
        found.row("idc", 0)
    with pytest.raises(ConfigError, match="no such file"):
        sweep.load_sweep("sweeps/absent.py")
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(ConfigError, match="defines no ROWS"):
        sweep.load_sweep(str(tmp_path / "empty.py"))


# --- tables --------------------------------------------------------------------------


def _record(seed, accuracy, total, prefixes=1, baseline=None):
    cost = None if total is None else {"total": total, "steps": 800}
    return {
        "seed": seed, "prefixes": [[20, [accuracy]]] * prefixes, "cost": cost,
        "kept": [0.5] * (prefixes - 1), "forgotten": [0.1] * (prefixes - 1),
        "minutes": 1.0, "hardware": "1 × cpu", "baseline": baseline,
    }  # fmt: skip


def _results():
    both = lambda low, total, **more: [
        _record(seed, low + 0.01 * seed, total, **more) for seed in (0, 1)
    ]
    return {
        "random": both(0.30, None, baseline="random"),
        "idc": both(0.40, 10e12),
        "idc-lr-half": both(0.42, 10e12),
        "idc-long": both(0.50, 30e12),
        "d4a": both(0.45, 8e12, prefixes=2),
        "d4a-full": both(0.45, 20e12, prefixes=2),
        "d4a-huge": both(0.60, 90e12, prefixes=2),
    }


def test_a_row_is_compared_with_the_best_baseline_of_enough_compute():
    results = _results()
    assert sweep_table.baseline_of("d4a", results) == "idc-lr-half"
    assert sweep_table.baseline_of("d4a-full", results) == "idc-long"
    assert sweep_table.baseline_of("d4a-huge", results) is None


def test_the_plan_says_what_rows_cost():
    text = sweep_table.plan({"random": None, "d4a": budget.Budget(800, 10**12, 10**11)})
    lines = [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines()]
    assert lines[2] == ["random", *["–"] * 7]
    assert lines[3] == ["d4a", "800", "1.1", "1", "0.1", "0", "0", "0"]


def test_the_table_pairs_seeds():
    text = sweep_table.markdown(_results(), "idc")
    (line,) = [line for line in text.splitlines() if line.startswith("| d4a ")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[2] == "45.50 ± 0.71"
    assert cells[4] == "+3.00 ± 0.00 (idc-lr-half)"
    assert cells[6:8] == ["8", "80 %"]
    assert cells[8:10] == ["50", "10"]
    assert "14.0 minutes in all, on 1 × cpu." in text
