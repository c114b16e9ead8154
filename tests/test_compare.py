"""Comparisons: merging, budgets, tables, and a small one from start to end."""

import csv
import io
import json
import logging
import os
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pytest

from d4a_jax.artifact import load_distilled, save_distilled
from d4a_jax.config import ConfigError, from_dict
from d4a_jax.cost import total_passes
from d4a_jax.data import from_arrays
from d4a_jax.distillation import DivergenceError, Interrupted
from d4a_jax.evaluation import Evaluation
from d4a_jax.selection.baselines import random_images
from d4a_jax.storage.fileio import WorkdirLock
from experiments import cli, compare, rows, selections, spread
from experiments.compare import Cell, Comparison, lines_of, markdown, row_of
from experiments.published import published
from experiments.stopping import until_stopped

TINY = Comparison(
    methods={
        "random": {"baseline": "random"},
        "dm": {"config": "cifar10_dm", "matching": {"learning_rate": 0.5}},
        "d4a": {"config": "cifar10_ipc10", "filter": {"guard": False}},
    },
    datasets={
        "blobs": {
            "data": {"name": "blobs"},
            "matching": {"batch_real": 4, "learning_rate": 0.25},
            "evaluation": {"repeats": 2, "max_steps": 4},
            "runtime": {"devices": 1},
        }
    },
    images_per_class=(2,),
    networks=("convnet:width=4", "convnet:width=5"),
    passes=500,
)
BLOBS = SimpleNamespace(flip=True, num_classes=3, train_labels=range(30))
DM, RANDOM = Cell("blobs", 2, "dm"), Cell("blobs", 2, "random")


def test_method_goes_before_data_set_and_data_set_before_configuration():
    config = from_dict(row_of(TINY, DM, BLOBS))
    assert config.matching.learning_rate == 0.5  # the method's
    assert config.matching.batch_real == 4  # the data set's
    assert config.method_name == "distribution_matching"  # the configuration's
    assert config.synthetic.images_per_class == 2
    assert config.network == "convnet:width=4"


def test_segments_never_outnumber_images():
    assert row_of(TINY, Cell("blobs", 2, "d4a"), BLOBS)["synthetic"]["segments"] == 2


@pytest.mark.parametrize("method", ["dm", "d4a"])
def test_budget_is_used_and_kept(method):
    comparison = TINY._replace(passes=2e7)
    config = from_dict(row_of(comparison, Cell("blobs", 2, method), BLOBS))
    spent = total_passes(config, 3, 30)
    one = spent / config.matching.outer_iterations
    assert 2e7 - one < spent <= 2e7
    longer = TINY._replace(passes=None)
    published_length = from_dict(row_of(longer, Cell("blobs", 2, "dm"), BLOBS))
    assert published_length.matching.outer_iterations == 20_000


def test_methods_may_distill_with_a_network_of_their_own():
    own = TINY.methods["dm"] | {"network": "convnet:width=4:norm=batch"}
    config = from_dict(row_of(TINY._replace(methods={"dm": own}), DM, BLOBS))
    assert config.network == "convnet:width=4:norm=batch"
    assert config.evaluation.network == "convnet:width=4"


def test_budget_of_a_single_teacher_is_spent_on_its_images():
    methods = {"sre2l": {"config": "cifar10_sre2l", "network": "convnet:norm=batch"}}
    comparison = TINY._replace(methods=methods, passes=10_000)
    config = from_dict(row_of(comparison, Cell("blobs", 2, "sre2l"), BLOBS))
    assert config.matching.outer_iterations == 1
    # A teacher takes 3 passes for 50 epochs of 30 images, a step 2 for each image.
    assert config.matching.inner_iterations == (10_000 - 3 * 50 * 30) // (2 * 2 * 3)


def test_flips_are_left_out_where_they_change_the_label():
    unflipped = SimpleNamespace(**vars(BLOBS) | {"flip": False})
    config = from_dict(row_of(TINY, DM, unflipped))
    assert config.matching.augmentation == "color_crop_cutout_scale_rotate"
    assert config.evaluation.augmentation == "color_crop_scale_rotate"
    flipped = from_dict(row_of(TINY, DM, BLOBS))
    assert "flip" in flipped.matching.augmentation


def test_published_figures_need_the_same_data_and_network():
    assert published("dm", "cifar10", None, 10, "convnet").top1 == 48.9
    assert published("dm", "cifar10", 16, 10, "convnet") is None
    assert published("dm", "cifar10_jpeg", None, 10, "convnet") is None
    assert published("dm", "cifar10", None, 10, "convnet:width=32") is None
    assert published("dm", "cifar10", None, 11, "convnet") is None


def fake_run(accuracies, **changes):
    return {
        "tests": {"convnet": accuracies},
        "stored_bytes": 30_720,
        "passes": 2_000_000,
        "selection_passes": None,
        "minutes": 1.5,
    } | changes


def test_tables_have_uncertainty_published_figures_and_bytes():
    data = {"cifar10": {"data": {"name": "cifar10"}}}
    comparison = TINY._replace(datasets=data)
    runs = [fake_run([0.5, 0.52]), fake_run([0.54, 0.56], minutes=2.5)]
    (line,) = lines_of(comparison, Cell("cifar10", 10, "dm"), runs)
    assert line["top1"] == pytest.approx(53.0)
    assert line["std_over_seeds"] == pytest.approx(np.std([51, 55], ddof=1))
    assert line["std_over_networks"] == pytest.approx(np.std([50, 52], ddof=1))
    worse = line | {"method": "dc", "top1": 40.0, "published": None}
    text = markdown([worse, line], {Cell("cifar10", 10, "idc"): 1})
    assert "## cifar10, 10 images per class, convnet" in text
    assert "53.00 ± 2.83" in text and "48.9 (PAD)" in text and "30,720" in text
    assert text.index("| dm") < text.index("| dc")
    assert "idc diverged in 1 run(s)" in text
    (read,) = csv.DictReader(io.StringIO(compare.as_csv([line])))
    assert float(read["top1"]) == pytest.approx(53.0) and read["seeds"] == "2"


def test_a_method_that_always_diverges_has_no_line():
    assert lines_of(TINY, DM, [{"failed": "no", "config": {}}]) == []


def test_summary_by_hand():
    mean, over, within = spread.summary([[0.1, 0.3], [0.4, 0.4]])
    assert mean == pytest.approx(30.0)
    assert over == pytest.approx(np.std([20, 40], ddof=1))
    assert within == pytest.approx(np.std([10, 30], ddof=1) / 2)
    assert spread.summary([[0.5]]) == (50.0, None, 0.0)


def load_blobs(**values):
    assert values == {"name": "blobs"}
    rng = np.random.default_rng(0)
    labels = np.tile(np.arange(3, dtype=np.int32), 8)
    images = rng.integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)
    return from_arrays("blobs", images, labels, images, labels)


def test_a_comparison_runs_and_is_not_repeated(tmp_path, monkeypatch):
    text = compare.compare(TINY, tmp_path, [0], ["random", "dm"], load_blobs)
    assert (tmp_path / "table.md").read_text() == text
    lines = list(csv.DictReader((tmp_path / "table.csv").open()))
    networks = ["convnet:width=4", "convnet:width=5"]
    assert [line["network"] for line in lines] == networks * 2
    assert {line["stored_bytes"] for line in lines} == {str(2 * 3 * 8 * 8 * 3)}
    assert lines[0]["passes"] == "0" and 0 < int(lines[2]["passes"]) <= 500

    def refuse(*arguments):
        raise AssertionError("a finished row was repeated")

    monkeypatch.setattr(rows, "distill", refuse)
    monkeypatch.setattr(rows, "evaluate", refuse)
    again = compare.compare(TINY, tmp_path, [0], ["random", "dm"], load_blobs)
    assert again == text
    row = json.loads((DM.directory(tmp_path, 0) / "row.json").read_text())
    assert len(row["tests"][networks[1]]) == 2
    other = TINY._replace(passes=400)
    with pytest.raises(ConfigError, match=r"dm.* differs in .*outer_iterations"):
        compare.compare(other, tmp_path, [0], ["dm"], load_blobs)


def as_older(directory):
    """Turns a finished selection into what comparisons of older versions kept."""
    row = json.loads((directory / "row.json").read_text())
    for key in ("learned", "hardware", "dataset_fingerprint"):
        del row[key]
    row["config"] |= {key: row.pop(key) for key in rows.ROW_KEYS}
    del row["config"]["experts"], row["config"]["filter"]["guard"]
    (directory / "row.json").write_text(json.dumps(row))
    (directory / "distilled").rename(directory / "stored")
    shutil.rmtree(directory / "checkpoints", ignore_errors=True)
    return row


def test_rows_of_older_comparisons_are_not_repeated(tmp_path, monkeypatch):
    one = TINY._replace(networks=TINY.networks[:1])
    text = compare.compare(one, tmp_path, [0], ["random"], load_blobs)
    older = as_older(RANDOM.directory(tmp_path, 0))

    def refuse(*arguments):
        raise AssertionError("a finished row was made again")

    monkeypatch.setattr(selections, "select_images", refuse)
    assert compare.compare(one, tmp_path, [0], ["random"], load_blobs) == text
    file = RANDOM.directory(tmp_path, 0) / "row.json"
    assert json.loads(file.read_text()) == older
    # Only the network that came since is tested, on the images as they are stored.
    compare.compare(TINY, tmp_path, [0], ["random"], load_blobs)
    tests = json.loads(file.read_text())["tests"]
    assert tests[TINY.networks[0]] == older["tests"][TINY.networks[0]]
    assert len(tests[TINY.networks[1]]) == 2
    other = {"random": {"baseline": "random_mosaic", "filter": {"guard": True}}}
    with pytest.raises(ConfigError, match="differs in baseline, filter.guard; choose"):
        changed = TINY._replace(methods=other)
        compare.compare(changed, tmp_path, [0], ["random"], load_blobs)


def test_an_interrupted_comparison_goes_on_where_it_stopped(tmp_path):
    plain = {"config": "cifar10_dm", "matching": {"augmentation": "none"}}
    small = TINY._replace(methods={"dm": plain}, networks=("convnet:depth=1:width=4",))
    with pytest.raises(Interrupted):
        compare.compare(small, tmp_path, [0], ["dm"], load_blobs, lambda: True)
    directory = DM.directory(tmp_path, 0)
    assert any((directory / "checkpoints").iterdir())
    assert not (directory / "row.json").exists()
    (directory / "clock.json").write_text('{"seconds": 600.0}')
    compare.compare(small, tmp_path, [0], ["dm"], load_blobs)
    lines = list(csv.DictReader((tmp_path / "table.csv").open()))
    assert 10 <= float(lines[0]["minutes"]) < 20


def test_a_row_of_another_process_is_left_to_it(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(rows.logger, "propagate", True)
    one = TINY._replace(networks=TINY.networks[:1])
    with WorkdirLock(DM.directory(tmp_path, 0)), caplog.at_level(logging.WARNING):
        text = compare.compare(one, tmp_path, [0], ["dm", "random"], load_blobs)
    assert "| random" in text and "| dm" not in text
    assert "blobs/ipc2/dm is left out: The working directory" in caplog.text


def test_a_diverged_row_is_recorded_once(tmp_path, monkeypatch):
    calls = []

    def diverge(*arguments):
        calls.append(arguments)
        raise DivergenceError("not finite")

    monkeypatch.setattr(rows, "distill", diverge)
    for _ in range(2):
        text = compare.compare(TINY, tmp_path, [0], ["dm"], load_blobs)
        assert text == "dm diverged in 1 run(s) on blobs, 2 images per class.\n"
    assert len(calls) == 1
    # As comparisons of older versions recorded it.
    file = DM.directory(tmp_path, 0) / "row.json"
    row = json.loads(file.read_text())
    config = row["config"] | {key: row[key] for key in rows.ROW_KEYS}
    file.write_text(json.dumps({"config": config, "failed": "not finite"}))
    assert compare.compare(TINY, tmp_path, [0], ["dm"], load_blobs) == text
    assert len(calls) == 1


def test_every_method_of_the_comparisons_gets_a_row(tmp_path, monkeypatch):
    """Trajectories and inversions are counted by other rules than matched classes."""
    made = {}

    def distill(dataset, config, workdir, should_stop):
        size = config.synthetic.images_per_class
        made[config.method_name] = config
        images = random_images(dataset, size, config.synthetic.factor, config.seed)
        images.metadata["history"] = []
        save_distilled(workdir / "distilled", images)
        return images

    monkeypatch.setattr(rows, "distill", distill)
    methods = {name: {"config": f"cifar10_{name}"} for name in ("mtt", "sre2l", "cafe")}
    one = TINY._replace(methods=methods, networks=TINY.networks[:1], passes=None)
    text = compare.compare(one, tmp_path, [0], list(methods), load_blobs)
    assert {"trajectory_matching", "inversion", "cafe"} == set(made)
    assert all(f"| {name} " in text for name in methods)


def test_a_signal_ends_a_command_with_a_sentence(capsys):
    numbers = (signal.SIGTERM, signal.SIGINT)
    handlers = {number: signal.getsignal(number) for number in numbers}

    def work(should_stop):
        assert not should_stop()
        os.kill(os.getpid(), signal.SIGTERM)
        if should_stop():
            raise Interrupted

    try:
        assert until_stopped(work) == 128 + signal.SIGTERM
        assert until_stopped(lambda should_stop: None) == 0
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert capsys.readouterr().out == cli.STOPPED + "\n"


def test_soft_labels_are_tested_and_selections_stay_readable(tmp_path, monkeypatch):
    tested = []

    def evaluate(distilled, dataset, networks, *unused):
        tested.append((distilled.soft_logits is not None, *networks))
        return [Evaluation(network, (0.5, 0.75), (), 4) for network in networks]

    monkeypatch.setattr(rows, "evaluate", evaluate)
    methods = {"soft": {"baseline": "random", "soft_label_epochs": 1}}
    one = TINY._replace(methods=methods, networks=TINY.networks[:1])
    compare.compare(one, tmp_path, [0], ["soft"], load_blobs)
    both = one._replace(networks=TINY.networks)
    compare.compare(both, tmp_path, [0], ["soft"], load_blobs)
    assert tested == [(True, TINY.networks[0]), (True, TINY.networks[1])]
    directory = Cell("blobs", 2, "soft").directory(tmp_path, 0)
    assert load_distilled(directory / "distilled").soft_logits is None
    row = json.loads((directory / "row.json").read_text())
    assert row["stored_bytes"] == load_distilled(directory / "stored").stored_bytes
    assert row["prefixes"] == [[2, [0.5, 0.75]]]


def test_wrong_baselines_are_named():
    with pytest.raises(ConfigError, match="^blobs: baseline is 'best'; it must be"):
        rows.make_row("blobs", {"baseline": "best"}, 0)
    row = rows.make_row("blobs", {"baseline": "window=0.5_mosaic"}, 3)
    assert (row.baseline, row.config.seed) == ("window=0.5_mosaic", 3)


@pytest.mark.parametrize(
    "name", ["digits", "digits_longer", "cifar10_cpu", "cifar10_remedies"]
)
def test_comparison_files_are_valid(name):
    found, comparison = compare.load_comparison(f"comparisons/{name}.py")
    assert found == name
    count = 1_400 if "digits" in name else 50_000
    ten_classes = SimpleNamespace(flip=False, num_classes=10, train_labels=range(count))
    for dataset in comparison.datasets:
        for method in comparison.methods:
            row = row_of(comparison, Cell(dataset, 10, method), ten_classes)
            apart = {key: row.pop(key, None) for key in rows.ROW_KEYS}
            config = from_dict(row)
            if not apart["baseline"]:
                spent = total_passes(config, 10, count)
                assert 0.7 * comparison.passes < spent <= comparison.passes


def test_missing_comparisons_are_named():
    with pytest.raises(ConfigError, match="comparisons/nothing.py"):
        compare.load_comparison("comparisons/nothing.py")
