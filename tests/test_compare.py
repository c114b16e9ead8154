"""Comparisons: merging, budgets, tables, and a small one from start to end."""

import csv
import io
import json

import numpy as np
import pytest

from d4a_jax.config import ConfigError, from_dict
from d4a_jax.cost import total_passes
from d4a_jax.data import from_arrays
from experiments import compare, rows, spread
from experiments.compare import Cell, Comparison, lines_of, markdown, row_of
from experiments.published import published

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
DM, RANDOM = Cell("blobs", 2, "dm"), Cell("blobs", 2, "random")


def test_method_goes_before_data_set_and_data_set_before_configuration():
    config = from_dict(row_of(TINY, DM, True, 3))
    assert config.matching.learning_rate == 0.5  # the method's
    assert config.matching.batch_real == 4  # the data set's
    assert config.matching.surrogate == "distribution"  # the configuration's
    assert config.synthetic.images_per_class == 2
    assert config.network == "convnet:width=4"


def test_segments_never_outnumber_images():
    assert row_of(TINY, Cell("blobs", 2, "d4a"), True, 3)["synthetic"]["segments"] == 2


@pytest.mark.parametrize("method", ["dm", "d4a"])
def test_budget_is_used_and_kept(method):
    comparison = TINY._replace(passes=2e7)
    config = from_dict(row_of(comparison, Cell("blobs", 2, method), True, 3))
    spent = total_passes(config, 3)
    one = spent / config.matching.outer_iterations
    assert 2e7 - one < spent <= 2e7
    longer = TINY._replace(passes=None)
    published_length = from_dict(row_of(longer, Cell("blobs", 2, "dm"), True, 3))
    assert published_length.matching.outer_iterations == 20_000


def test_flips_are_left_out_where_they_change_the_label():
    config = from_dict(row_of(TINY, DM, False, 3))
    assert config.matching.augmentation == "color_crop_cutout_scale_rotate"
    assert config.evaluation.augmentation == "color_crop_scale_rotate"
    flipped = from_dict(row_of(TINY, DM, True, 3))
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


@pytest.mark.parametrize("name", ["digits", "cifar10_cpu"])
def test_comparison_files_are_valid(name):
    found, comparison = compare.load_comparison(f"comparisons/{name}.py")
    assert found == name
    for dataset in comparison.datasets:
        for method in comparison.methods:
            row = row_of(comparison, Cell(dataset, 10, method), False, 10)
            apart = {key: row.pop(key, None) for key in rows.ROW_KEYS}
            config = from_dict(row)
            if not apart["baseline"]:
                spent = total_passes(config, 10)
                assert 0.7 * comparison.passes < spent <= comparison.passes


def test_missing_comparisons_are_named():
    with pytest.raises(ConfigError, match="comparisons/nothing.py"):
        compare.load_comparison("comparisons/nothing.py")
