"""Tests of d4a_jax.analysis: difficulty segments, forgetting, judging, studies."""

import contextlib
import csv
import json
import math

import numpy as np
import pytest

from d4a_jax.analysis import (
    charts,
    deciles,
    forgetting,
    judging,
    methods,
    study,
    study_charts,
    tables,
)
from d4a_jax.analysis.answers import Answers, Examiner, prefixes, whole_data
from d4a_jax.analysis.document import load_analysis
from d4a_jax.artifact import save_distilled
from d4a_jax.config import EvaluationConfig, RuntimeConfig
from d4a_jax.data import from_arrays
from d4a_jax.difficulty import Difficulty, RealDifficulty
from d4a_jax.selection.baselines import random_images
from d4a_jax.storage import fileio


def _dataset(per_class=6, classes=2, side=8):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), per_class)
    images = rng.integers(0, 256, (len(labels), side, side, 1)).astype(np.uint8)
    return from_arrays("toy", images, labels, images[::2], labels[::2], flip=False)


def _distilled(dataset, sizes=(1, 1), factor=1, seed=0):
    return random_images(dataset, sizes, factor, seed)


# Difficulty segments.


def test_segments_are_equal_and_ordered():
    segments = deciles.segments_by_difficulty(
        np.array([5.0, 1, np.inf, 2, 4, 3]), bins=3
    )
    np.testing.assert_array_equal(segments, [2, 0, 2, 0, 1, 1])
    assert segments.dtype == np.int32
    sizes = np.bincount(deciles.segments_by_difficulty(np.arange(23.0)))
    assert len(sizes) == 10
    assert set(sizes) == {2, 3}


def test_harder_never_lies_in_an_easier_segment():
    difficulty = np.random.default_rng(1).normal(size=101)
    segments = deciles.segments_by_difficulty(difficulty, bins=7)
    assert (np.diff(segments[np.argsort(difficulty)]) >= 0).all()


def test_segments_per_class_hold_every_class_equally():
    labels = np.repeat([0, 1], 10)
    difficulty = np.where(labels == 1, 100.0, 0.0) + np.arange(20)
    whole = deciles.segments_by_difficulty(difficulty, labels, 2)
    each = deciles.segments_by_difficulty(difficulty, labels, 2, per_class=True)
    np.testing.assert_array_equal(whole, labels)
    np.testing.assert_array_equal(each, np.tile(np.repeat([0, 1], 5), 2))


def test_ties_do_not_follow_the_order_of_the_data_set():
    segments = deciles.segments_by_difficulty(np.zeros(1000), bins=2)
    assert 200 < segments[:500].sum() < 300
    again = deciles.segments_by_difficulty(np.zeros(1000), bins=2)
    np.testing.assert_array_equal(segments, again)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"difficulty": np.array([1.0, np.nan])}, "NaN for 1 of 2"),
        ({"difficulty": np.arange(3.0)}, "bins is 10, but there are 3"),
        ({"difficulty": np.arange(3.0), "bins": 0}, "bins is 0"),
        ({"difficulty": np.arange(30.0), "per_class": True}, "labels is None"),
    ],
)
def test_impossible_segments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        deciles.segments_by_difficulty(**arguments)


def test_several_distillations_spread_by_their_means():
    values = np.array([[0.1], [0.3], [0.6], [0.8]])
    one = deciles.spread_over_networks(values, np.zeros(4, int))
    np.testing.assert_allclose(one.std, values.std(0, ddof=1))
    two = deciles.spread_over_networks(values, np.array([0, 0, 1, 1]))
    np.testing.assert_allclose(two.mean, [0.45])
    np.testing.assert_allclose(two.std, np.std([0.2, 0.7], ddof=1))


def test_accuracy_by_segment():
    correct = np.array([[1, 1, 0, 0], [1, 0, 0, 1]], bool)
    result = deciles.accuracy_by_segment(correct, np.array([0, 0, 1, 1]), 3)
    np.testing.assert_allclose(result.mean, [0.75, 0.25, np.nan])
    half = np.std([0.5, 1.0], ddof=1)
    np.testing.assert_allclose(result.std[:2], [half, half])
    one = deciles.accuracy_by_segment(correct[:1], np.array([0, 0, 1, 1]), 2)
    np.testing.assert_array_equal(one.std, [0, 0])
    assert deciles.coverage(correct) == 0.75
    assert deciles.coverage(correct[:1]) == 0.5


def test_saturation():
    assert deciles.hard_accuracy([0.9, 0.4, 0.2, 0.3]) == pytest.approx(0.3)
    images = [5, 10, 20]
    straight = deciles.saturation(images, [0.1, 0.2, 0.4])
    assert straight.per_image == pytest.approx(0.02)
    logarithmic = deciles.saturation(images, [0.1, 0.15, 0.2])
    assert logarithmic.per_doubling == pytest.approx(0.05)
    flat = deciles.saturation(images, [0.3, 0.3, 0.3])
    assert flat == pytest.approx((0.0, 0.0))
    assert deciles.saturation([5, 5], [0.1, 0.2]) == (None, None)


# Forgetting.


def _masks():
    easy = np.array([[1, 1, 0, 0, 1], [1, 0, 1, 0, 1]], bool)
    kept = np.array([[0, 0, 1, 0, 1], [0, 1, 0, 1, 0]], bool)
    return forgetting.FilterMasks(kept, easy)


def test_groups_are_what_was_first_discarded_for_being_right():
    # Image 3 was removed by the guard alone, image 4 was kept at first by the floor.
    np.testing.assert_array_equal(forgetting.first_discarded(_masks()), [1, 1, 2, 0, 2])


def test_forgetting_matrix_by_hand():
    groups = np.array([1, 1, 2, 0])
    stages = [
        np.array([[1, 1, 0, 0], [1, 1, 0, 0]], bool),
        np.array([[1, 0, 1, 0], [1, 1, 1, 0]], bool),
        np.array([[0, 0, 1, 1], [1, 0, 0, 1]], bool),
    ]
    result = forgetting.measure_forgetting(stages, groups)
    nan = np.nan
    expected = [[1.0, nan], [0.75, 1.0], [0.25, 0.5]]
    np.testing.assert_allclose(result.accuracy, expected)
    np.testing.assert_array_equal(result.sizes, [2, 1])
    # The first column: the best of 1 and 0.75 before the end, minus 0.25 at the end.
    np.testing.assert_allclose(result.forgetting, [0.75, 0.5])
    assert result.backward_transfer == pytest.approx((-0.75 - 0.5) / 2)
    assert result.std[1, 0] == pytest.approx(np.std([0.5, 1.0], ddof=1))
    assert math.isnan(result.std[0, 1])


def test_nothing_forgotten_and_empty_groups():
    stages = [np.ones((2, 3), bool)] * 3
    result = forgetting.measure_forgetting(stages, np.array([1, 1, 0]))
    np.testing.assert_array_equal(result.forgetting, [0.0, np.nan])
    assert result.backward_transfer == 0.0
    nobody = forgetting.measure_forgetting(stages, np.zeros(3, int))
    assert math.isnan(nobody.backward_transfer)
    single = forgetting.measure_forgetting(stages[:1], np.zeros(3, int))
    assert single.accuracy.shape == (1, 0)


def test_flips_count_majorities_per_class():
    before = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]], bool)
    after = np.array([[0, 1, 1, 0], [0, 1, 1, 0], [1, 1, 0, 0]], bool)
    flips = forgetting.count_flips([before, after], np.array([0, 0, 1, 1]), 2)
    np.testing.assert_allclose(flips.forgotten, [[0.5, 0.0]])
    np.testing.assert_allclose(flips.learned, [[0.0, 0.5]])
    tie = np.array([[1], [0]], bool)
    assert not forgetting.majority(tie)[0]
    none = forgetting.count_flips([before], np.array([0, 0, 1, 1]), 2)
    assert none.forgotten.shape == (0, 2)


def test_masks_are_read_as_the_run_wrote_them(tmp_path):
    masks = _masks()
    assert forgetting.load_masks(tmp_path, 3, 5) is None
    for name in ("kept", "easy"):
        for k in (1, 2):
            path = tmp_path / f"{name}-after-{k}.npy"
            fileio.save_sealed_array(path, getattr(masks, name)[k - 1])
    found = forgetting.load_masks(tmp_path, 3, 5)
    np.testing.assert_array_equal(found.kept, masks.kept)
    np.testing.assert_array_equal(found.easy, masks.easy)
    assert forgetting.load_masks(tmp_path, 4, 5) is None
    assert forgetting.load_masks(tmp_path, 1, 5) is None
    with pytest.raises(ValueError, match="not of 6 images"):
        forgetting.load_masks(tmp_path, 3, 6)
    np.save(tmp_path / "easy-after-2.npy", masks.easy[1])
    with pytest.raises(ValueError, match="easy-after-2.npy is damaged"):
        forgetting.load_masks(tmp_path, 3, 5)


# Judging.


def test_judging_figures_by_hand():
    assert judging.hard_label_recovery(0.84, 0.67) == pytest.approx(0.17)
    assert judging.improvement_over_random(0.67, 0.55) == pytest.approx(0.12)
    denominator = math.e - 1 / math.e
    middle = (1 - 1 / math.e) / denominator
    assert judging.label_robust_score(0.0, 0.0) == pytest.approx(middle)
    expected = (math.exp(0.5 * 0.12 - 0.5 * 0.17) - 1 / math.e) / denominator
    assert judging.label_robust_score(0.17, 0.12) == pytest.approx(expected)
    assert judging.label_robust_score(-1.0, 1.0) == pytest.approx(1.0)
    assert judging.label_robust_score(1.0, -1.0) == pytest.approx(0.0)
    assert judging.label_robust_score(0.9, 1.0, weight=1.0) == pytest.approx(1.0)
    score = judging.augmentation_robust_score(0.6, 0.5, 0.4, 0.5)
    assert score == pytest.approx(middle)
    assert judging.augmentation_robust_score(0.6, 0.5, 0.5, 0.5) > score


def test_better_sets_score_better():
    scores = [judging.label_robust_score(0.8 - a, a - 0.4) for a in (0.5, 0.6, 0.7)]
    assert scores == sorted(scores)


def test_percentages_are_refused():
    with pytest.raises(ValueError, match="full is 84.*fraction"):
        judging.hard_label_recovery(84.0, 0.67)
    with pytest.raises(ValueError, match="weight is 2"):
        judging.label_robust_score(0.1, 0.1, weight=2.0)


def test_storage_counts_pixels_and_labels():
    distilled = _distilled(_dataset(), (1, 2))
    assert judging.storage(distilled) == (6 * 8 * 8, 6 * 4)


# Studies.


def test_prefixes_share_arrays_and_grow():
    distilled = _distilled(_dataset(), (1, 2))
    first, second = prefixes("D4A", "artifact", distilled)
    assert (first.count, second.count) == (2, 6)
    assert first.digest == second.digest
    np.testing.assert_array_equal(first.images[:2], distilled.prefix(1).images)
    assert first.name == "D4A, 1 per class"
    assert second.images_per_class == 3
    assert second.stages == 2


def test_sets_of_a_study():
    dataset = _dataset(per_class=12)
    d4a = methods.Method("D4A", _distilled(dataset, (1, 2), factor=2))
    idc = methods.Method("IDC", _distilled(dataset, (3,), factor=2, seed=1))
    sets = methods.training_sets(
        dataset, [d4a, idc], random=True, full=True, not_augmented=True
    )
    names = [item.name for item in sets]
    assert names == [
        "D4A, 1 per class",
        "D4A, 3 per class",
        "IDC, 3 per class",
        "Random images, 1 per class",
        "Random images, 3 per class",
        "Random 2×2 mosaics, 1 per class",
        "Random 2×2 mosaics, 3 per class",
        "D4A, 3 per class, not augmented",
        "IDC, 3 per class, not augmented",
        "Random images, 3 per class, not augmented",
        "All real images",
    ]
    assert len(methods.training_sets(dataset, [d4a])) == 2


def test_segments_of_both_splits_follow_the_measure():
    dataset = _dataset(per_class=4)
    count, tests = len(dataset.train_labels), len(dataset.test_labels)
    fields = len(Difficulty._fields)
    up = Difficulty(*[np.arange(count, dtype=float)] * fields)
    down = Difficulty(*[-np.arange(tests, dtype=float)] * fields)
    hard = RealDifficulty(up, down)
    settings = study.Settings(bins=2, hardest=1)
    train, test = study.order_by_difficulty(dataset, hard, settings)
    np.testing.assert_array_equal(train, [0] * 4 + [1] * 4)
    np.testing.assert_array_equal(test, [1, 1, 0, 0])
    # A small margin is hard; per class, both classes have both segments.
    settings = study.Settings(2, "margin", True, 1)
    train, _ = study.order_by_difficulty(dataset, hard, settings)
    np.testing.assert_array_equal(train, [1, 1, 0, 0] * 2)
    with pytest.raises(ValueError, match="hardest is 3.*2 segments"):
        study.Settings(bins=2, hardest=3)


def test_methods_are_read_from_a_run_or_a_set(tmp_path):
    dataset = _dataset()
    distilled = _distilled(dataset, (1, 1))
    save_distilled(tmp_path / "distilled", distilled, with_gallery=False)
    (tmp_path / "filter").mkdir()
    for name in ("kept", "easy"):
        path = tmp_path / "filter" / f"{name}-after-1.npy"
        fileio.save_sealed_array(path, np.ones(12, bool))
    for path in (tmp_path, tmp_path / "distilled"):
        found = methods.load_method("D4A", path, dataset)
        np.testing.assert_array_equal(found.distilled.images, distilled.images)
        assert found.masks.kept.shape == (1, 12)
    with pytest.raises(ValueError, match="fingerprints differ"):
        methods.load_method("D4A", tmp_path, _dataset(per_class=5))


class _Oracle:
    """Stands for an examiner: networks get right what their set's size allows."""

    def __init__(self, dataset):
        self.dataset, self.asked = dataset, []

    def find(self, item):
        return self._answers(item) if item.name in self.asked else None

    def ask(self, item, hook):
        hook(1, 1, {"loss": 0.0})
        self.asked.append(item.name)
        return self._answers(item)

    def _answers(self, item):
        good = 1.0 if item.kind == "full" else min(1.0, item.images_per_class / 4)
        good *= 0.5 if item.kind == "random" else 1.0
        parts = [
            np.arange(len(labels)) < np.array([[good], [good]]) * len(labels)
            for labels in (self.dataset.train_labels, self.dataset.test_labels)
        ]
        best = np.array([0.9, 1.0])
        return Answers(*parts, steps=10, seconds=0.5, best=best)


def _run_study(dataset, found, oracle, **options):
    segments = [
        deciles.segments_by_difficulty(np.arange(len(labels), dtype=float), bins=3)
        for labels in (dataset.train_labels, dataset.test_labels)
    ]
    settings = study.Settings(bins=3, hardest=1)
    result = study.Study(dataset, found, *segments, settings, {"network": "toy"})
    seen = []

    def report(item, answers, known):
        result.finished.append((item, answers))
        seen.append((item.name, known))

    study.run(
        oracle,
        methods.training_sets(dataset, found, **options),
        report,
        lambda item: contextlib.nullcontext(lambda *args: None),
    )
    return result, seen


def test_a_study_computes_every_figure_and_never_repeats_a_set(tmp_path):
    dataset, oracle = _dataset(), None
    masks = forgetting.FilterMasks(np.arange(12)[None] >= 6, np.arange(12)[None] < 6)
    d4a = methods.Method("D4A", _distilled(dataset, (2, 2)), masks)
    oracle = _Oracle(dataset)
    options = {"random": True, "full": True, "not_augmented": True}
    result, seen = _run_study(dataset, [d4a], oracle, **options)
    assert not any(known for _, known in seen)
    _, again = _run_study(dataset, [d4a], oracle, **options)
    assert all(known for _, known in again)
    assert len(oracle.asked) == len(seen) == 7

    summary = result.summary()
    json.dumps(summary, allow_nan=False)
    rows = {row["name"]: row for row in summary["rows"]}
    half = rows["D4A, 2 per class"]
    assert half["test"]["mean"] == pytest.approx(0.5)
    assert half["test"]["std"] == 0
    assert half["test_best"]["mean"] == pytest.approx(0.95)
    assert half["coverage"] == 0.5
    np.testing.assert_allclose(half["train_by_segment"]["mean"], [1.0, 0.5, 0.0])
    np.testing.assert_allclose(half["coverage_by_segment"], [1.0, 0.5, 0.0])

    (entry,) = summary["forgetting"]
    assert entry["groups"] == "filter"
    assert entry["accuracy"] == [[1.0], [1.0]]
    assert entry["backward_transfer"] == 0.0
    assert entry["flips"]["learned"] == [[0.0, 1.0]]

    (score,) = summary["judging"]
    assert score["hlr"] == 0.0
    assert score["ior"] == pytest.approx(0.5)
    assert score["over_mosaics"] is None
    assert score["test_best"] == pytest.approx(0.95)
    assert score["lrs"] == pytest.approx(judging.label_robust_score(0.0, 0.5))
    assert score["ars"] == pytest.approx(
        judging.augmentation_robust_score(1.0, 0.5, 1.0, 0.5)
    )
    slopes = {e["label"]: e["train"] for e in summary["saturation"]}
    assert slopes["D4A"]["per_doubling"] == pytest.approx(1.0)
    assert slopes["All real images"]["per_image"] is None

    drawn = list(study_charts.study_charts(summary))
    charts.save_charts(drawn, tmp_path)
    names = {chart.name for chart in drawn}
    assert {"accuracy", "difficulty-train", "saturation", "forgetting-d4a"} <= names
    for name in names:
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    with open(tmp_path / "difficulty-train.csv", encoding="utf-8") as file:
        table = list(csv.reader(file))
    assert table[0][:5] == ["set", "distillations", "networks", "mean_1", "mean_2"]
    assert table[1][:6] == ["D4A, 2 per class", "1", "2", "1.0", "0.5", "0.0"]


def test_figures_that_need_what_is_missing_are_left_out():
    dataset = _dataset()
    idc = methods.Method("IDC", _distilled(dataset, (4,)))
    result, _ = _run_study(dataset, [idc], _Oracle(dataset))
    summary = result.summary()
    assert summary["forgetting"] == []
    (score,) = summary["judging"]
    assert [score[name] for name in ("hlr", "ior", "lrs", "ars")] == [None] * 4
    assert list(study_charts.study_charts(summary))


def test_without_a_filter_record_the_answers_make_the_groups():
    dataset = _dataset()
    d4a = methods.Method("D4A", _distilled(dataset, (2, 2)))
    result, _ = _run_study(dataset, [d4a], _Oracle(dataset))
    (entry,) = result.summary()["forgetting"]
    assert entry["groups"] == "answers"
    assert entry["sizes"] == [6]


def test_sets_of_one_label_are_distillations_of_one_method(tmp_path):
    dataset = _dataset()
    found = [
        methods.Method("D4A", _distilled(dataset, (2, 2), seed=seed)) for seed in (0, 1)
    ]
    result, _ = _run_study(dataset, found, _Oracle(dataset))
    # The second distillation is worse: its networks get nothing of the test right.
    for place, (item, answers) in enumerate(result.finished):
        if item.digest == found[1].digest:
            worse = answers._replace(test=np.zeros_like(answers.test))
            result.finished[place] = (item, worse)
    summary = result.summary()
    small, large = summary["rows"]
    assert small["distillations"] == 2
    assert small["networks"] == 4
    assert large["test"]["mean"] == pytest.approx(0.5)
    assert large["test"]["std"] == pytest.approx(np.std([0, 1], ddof=1))
    assert large["train"]["std"] == 0
    assert [e["label"] for e in summary["forgetting"]] == ["D4A", "D4A"]
    (score,) = summary["judging"]
    assert score["test"] == pytest.approx(0.5)
    drawn = list(study_charts.study_charts(summary))
    names = [chart.name for chart in drawn]
    assert len(names) == len(set(names))
    assert "forgetting-d4a-2" in names
    (table,) = [chart.rows for chart in drawn if chart.name == "forgetting"]
    assert [row[0] for row in table] == ["D4A #1", "D4A #2"]


def test_other_architectures_make_a_table(tmp_path):
    dataset = _dataset()
    method = methods.Method("IDC", _distilled(dataset, (4,)))
    oracle = _Oracle(dataset)
    result, _ = _run_study(dataset, [method], oracle, random=True)
    for network in ("vgg11", "vit"):
        for item, answers in result.finished:
            result.transfers.append((network, item, answers))
    summary = result.summary()
    found = {(e["network"], e["label"]): e["test"]["mean"] for e in
             summary["architectures"]}  # fmt: skip
    assert found[("vit", "IDC")] == 1.0
    assert found[("vgg11", "Random images")] == 0.5
    (chart,) = [
        c for c in study_charts.study_charts(summary) if c.name == "architectures"
    ]
    assert chart.rows[0][:3] == ["vgg11", "IDC", 4.0]
    charts.save_charts([chart], tmp_path)
    text = tables.architecture_table(summary["architectures"])
    assert [row[0] for row in text.rows] == ["vgg11", "vit"]
    assert text.columns == ["IDC, 4 per class", "Random images, 4 per class"]


def test_analysis_files_are_checked(tmp_path):
    with pytest.raises(ValueError, match="no analysis that can be read"):
        load_analysis(tmp_path)
    (tmp_path / "analysis.json").write_text('{"format": "other", "schema_version": 1}')
    with pytest.raises(ValueError, match="schema version"):
        load_analysis(tmp_path)


def test_the_examiner_trains_and_keeps_its_answers(tmp_path):
    # Two classes of plain brightness, which any network learns at once.
    labels = np.repeat([0, 1], 6)
    images = np.full((12, 8, 8, 1), 20, np.uint8)
    images[labels == 1] = 230
    images += np.arange(12, dtype=np.uint8)[:, None, None, None]
    dataset = from_arrays("light", images, labels, images[1::2], labels[1::2])
    recipe = EvaluationConfig(
        repeats=2, max_steps=8, batch_size=4, augmentation="none",
        cutmix_probability=0.0, learning_rate=0.1,
    )  # fmt: skip
    runtime = RuntimeConfig(devices=1)
    make = lambda best_of=0: Examiner(
        dataset,
        "convnet:width=4:depth=1",
        recipe,
        recipe,
        runtime,
        0,
        tmp_path,
        best_of,
    )
    distilled = _distilled(dataset, (1, 1))
    small, large = prefixes("D4A", "artifact", distilled)
    examiner = make()
    assert examiner.find(large) is None
    calls = []
    answers = examiner.ask(large, lambda *args: calls.append(args))
    assert answers.train.shape == (2, 12)
    assert answers.test.shape == (2, 6)
    assert answers.train.all()
    assert answers.steps == 8
    assert answers.best is None
    assert calls
    found = make().find(large)
    np.testing.assert_array_equal(found.train, answers.train)
    np.testing.assert_array_equal(found.test, answers.test)
    assert found.steps == 8
    assert make().find(small) is None
    # A course of test accuracies was not recorded, so it is trained again for one.
    assert make(best_of=3).find(large) is None
    again = make(best_of=3).ask(large)
    np.testing.assert_array_equal(again.test, answers.test)
    assert (again.best >= again.test.mean(1)).all()
    np.testing.assert_array_equal(make(best_of=3).find(large).best, again.best)
    assert make().find(large).best is None
    assert make().find(whole_data(dataset)) is None


def test_a_torn_record_is_no_answer(tmp_path):
    dataset = _dataset()
    item = next(prefixes("D4A", "artifact", _distilled(dataset)))
    recipe = EvaluationConfig(max_steps=1, augmentation="none")
    examiner = Examiner(
        dataset, "convnet:width=4:depth=1", recipe, recipe, RuntimeConfig(devices=1), 0,
        tmp_path,
    )  # fmt: skip
    record, bits = examiner._files(item)
    np.save(bits, np.zeros((5, 3), np.uint8))
    assert examiner.find(item) is None
    assert not record.exists()
