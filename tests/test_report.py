"""Tests of d4a_jax.analysis.report: the page about a run."""

import base64
import html.parser
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from d4a_jax.analysis import charts, report, showcase, tables
from d4a_jax.analysis.answers import prefixes
from d4a_jax.analysis.forgetting import FilterMasks
from d4a_jax.artifact import ArtifactError, DistilledDataset, save_distilled
from d4a_jax.config import Config
from d4a_jax.data import from_arrays
from d4a_jax.storage.fileio import save_sealed_array

_NAMES = ("<b>cat</b>", "dog\"'&", "eel")


class _Page(html.parser.HTMLParser):
    """Collects what the tests look at, and checks that tags are balanced."""

    _VOID = {"meta", "link", "img", "input", "source", "br"}

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses, self.images, self.tags = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            if name in attrs:
                self.addresses.append(attrs[name])
        if tag == "img":
            self.images.append(attrs)
        if tag not in self._VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def _dataset(side=8, channels=3):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 8)
    images = rng.integers(0, 256, (24, side, side, channels)).astype(np.uint8)
    return from_arrays("toy", images, labels, images, labels, _NAMES)


def _history():
    entries = []
    for k in range(2):
        test = {"top1": 40.0 + 5 * k, "top1_std": 1.5, "repeats": 4, "steps": 300}
        test |= {"network": "convnet:width=8", "top1_each": [0.4] * 4}
        entries.append({"segment": k, "images_per_class": 2 * (k + 1)})
        entries[k]["evaluation"] = test
    entries[0]["filter"] = {
        "real_accuracy": 0.5, "kept": 0.25, "kept_per_class": [0.125, 0.25, 0.375],
        "learned": 0.5, "forgotten": 0.0, "topped_up_images": 3, "topped_up_classes": 1,
    }  # fmt: skip
    return entries


def _distilled(dataset, segments=2, factor=2, history=True):
    rng = np.random.default_rng(1)
    count = 3 * 2 * segments
    shape = (count, *dataset.image_shape)
    metadata = {
        "dataset": dataset.name,
        "dataset_fingerprint": dataset.fingerprint,
        "class_names": list(_NAMES),
        "mean": list(dataset.mean),
        "std": list(dataset.std),
        "factor": factor,
        "images_per_class": 2 * segments,
        "segment_sizes": [2] * segments,
        "protocol": Config().to_dict()["evaluation"],
        "config": Config().identity(),
        "history": _history()[:segments] if history else [],
        "versions": {"jax": "1.2.3"},
    }
    return DistilledDataset(
        rng.integers(0, 256, shape).astype(np.uint8),
        np.tile(np.repeat(np.arange(3, dtype=np.int32), 2), segments),
        np.repeat(np.arange(segments, dtype=np.int32), 6),
        metadata,
    )


def _row(item, mean, label="D4A", kind="artifact"):
    spread = {"mean": [mean, mean / 2], "std": [0.01, 0.02]}
    name = label if kind == "full" else f"{label}, {item} per class"
    return {
        "name": name, "label": label, "kind": kind, "sets": ["other"], "stage": 1,
        "stages": 1, "images_per_class": item, "factor": 2, "augmented": True,
        "distillations": 1, "test_best": None,
        "networks": 3, "steps": 100,
        "test": {"mean": mean, "std": 0.02, "each": [mean]},
        "train": {"mean": mean, "std": 0.01}, "coverage": 0.9,
        "coverage_by_segment": [1.0, 0.8], "train_by_segment": spread,
        "test_by_segment": spread, "seconds": 1.0,
    }  # fmt: skip


def _analysis(dataset, distilled):
    rows = [_row(2, 0.41), _row(4, 0.47), _row(4, 0.44, "IDC")]
    rows += [_row(4, 0.3, "Random images", "random")]
    rows += [_row(8, 0.8, "All real images", "full")]
    for stage, row in enumerate(rows[:2], start=1):
        digest = next(prefixes("", "", distilled)).digest
        row |= {"sets": [digest], "stage": stage, "stages": 2}
    slope = {"hard_accuracy": [0.2, 0.3], "per_image": 0.05, "per_doubling": 0.1}
    flips = [[0.1, 0.0, 0.2]]
    return {
        "format": "d4a_jax.analysis", "schema_version": 1, "dataset": "toy",
        "dataset_fingerprint": dataset.fingerprint, "class_names": list(_NAMES),
        "train_images": 24, "test_images": 24, "network": "convnet:width=8",
        "settings": {"bins": 2, "measure": "loss", "per_class": False, "hardest": 1},
        "rows": rows, "seconds": 3.0, "hardware": "1 × cpu", "seed": 0,
        "reference": {"folds": 2}, "protocol": Config().to_dict()["evaluation"],
        "saturation": [
            {"label": "D4A", "kind": "artifact", "images_per_class": [2, 4],
             "train": slope, "test": slope}
        ],
        "forgetting": [
            {"label": "D4A", "set": "x", "groups": "filter", "accuracy": [[0.9], [0.7]],
             "std": [[0.01], [0.02]], "sizes": [12], "forgetting": [0.2],
             "backward_transfer": -0.2, "flips": {"forgotten": flips, "learned": flips},
             "forgotten_share": [0.1], "learned_share": [0.1], "filter": None,
             "regularizer": "anchor, λ 1"}
        ],
        "judging": [
            {"label": "D4A", "images_per_class": 4, "test": 0.47, "pixel_bytes": 2304,
             "label_bytes": 48, "hlr": 0.33, "ior": 0.17, "lrs": 0.24, "ars": None,
             "over_mosaics": 0.05, "test_std": 0.01, "test_best": 0.5}
        ],
        "architectures": [
            {"network": "vit", "label": "D4A", "name": "D4A, 4 per class",
             "images_per_class": 4, "kind": "artifact", "steps": 9, "networks": 2,
             "test": {"mean": 0.31, "std": 0.01, "each": [0.3, 0.32]}}
        ],
        "best_of": 0,
    }  # fmt: skip


def _write(tmp_path, analysis=False, with_data=True, **options):
    dataset = _dataset()
    distilled = _distilled(dataset, **options)
    save_distilled(tmp_path / "distilled", distilled, with_gallery=False)
    records = [
        {"step": step + 4 * segment, "phase": "matching", "segment": segment,
         "matching_loss": 5.0 / step, "time": 0.0}
        for segment in range(distilled.num_segments)
        for step in (1, 2, 3, 4)
    ]  # fmt: skip
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (tmp_path / "metrics.jsonl").write_text(lines)
    (tmp_path / "filter").mkdir()
    kept = np.tile([True, False, False, False], 6)
    for name, mask in (("kept", kept), ("easy", ~kept)):
        save_sealed_array(tmp_path / "filter" / f"{name}-after-1.npy", mask)
    path = report.write_report(
        tmp_path,
        _analysis(dataset, distilled) if analysis else None,
        dataset if with_data else None,
    )
    return path.read_text(encoding="utf-8")


def _check_page(text):
    page = _Page(text)
    external = [a for a in page.addresses if not re.match(r"data:|#", a)]
    assert external == []
    assert not re.search(r"(https?:)?//[a-z0-9.-]+\.[a-z]", text, re.I)
    assert "@import" not in text
    assert page.images
    assert all(image.get("alt") for image in page.images)
    headers = [attrs for tag, attrs in page.tags if tag == "th"]
    assert all(attrs.get("scope") in ("row", "col") for attrs in headers)
    return page


@pytest.mark.parametrize("analysis", [False, True])
def test_the_page_stands_alone_and_escapes_names(tmp_path, analysis):
    text = _write(tmp_path, analysis)
    assert any(tag == "th" for tag, _ in _check_page(text).tags)
    assert "<b>cat" not in text
    assert "&lt;b&gt;cat&lt;/b&gt;" in text
    assert 'dog"' not in text


def test_the_headline_names_protocol_and_uncertainty(tmp_path):
    text = re.sub(r"\s+", " ", _write(tmp_path))
    assert "<strong>45.0<span> ± 1.5 %</span>" in text
    assert "4 networks" in text
    assert "300 steps" in text
    assert "Last step; mean ± standard deviation" in text
    assert "SGD 0.01, momentum 0.9, weight decay 0.0005, batches of 64" in text
    assert "CutMix with probability 0.5; hard labels" in text


def test_sections_follow_what_is_known(tmp_path):
    plain = _write(tmp_path / "plain")
    for name in ("accuracy", "images", "filter", "loss", "setting"):
        assert f'<section id="{name}">' in plain
    for name in ("difficulty", "forgetting", "judging"):
        assert f'<section id="{name}">' not in plain
        assert f'href="#{name}"' not in plain
    whole = _write(tmp_path / "whole", analysis=True)
    for name in ("difficulty", "forgetting", "judging"):
        assert f'<section id="{name}">' in whole
    assert "−20.0 points" in whole
    assert "44.0 ± 2.0" in whole


def test_figures_lie_beside_the_page(tmp_path):
    _write(tmp_path, analysis=True)
    names = {path.stem for path in (tmp_path / "report").iterdir()}
    assert names == {
        "accuracy", "difficulty-train", "difficulty-curves-train", "difficulty-test",
        "difficulty-curves-test", "saturation", "forgetting-d4a", "flips-d4a", "kept",
        "matching-loss", "forgetting", "architectures",
    }  # fmt: skip
    for name in names:
        assert Image.open(tmp_path / "report" / f"{name}.png").width > 300
        lines = (tmp_path / "report" / f"{name}.csv").read_text().splitlines()
        assert len(lines) > 1
    loss = (tmp_path / "report" / "matching-loss.csv").read_text().splitlines()
    assert loss[:2] == ["segment,step,matching_loss", "1,1.0,5.0"]
    assert loss[5] == "2,1.0,5.0"


def test_one_segment_without_history_or_filter(tmp_path):
    text = _write(tmp_path, segments=1, factor=1, history=False, with_data=False)
    page = _check_page(text)
    assert "has not been tested yet" in text
    assert "IDC (one segment)" in text
    kinds = {a.get("data-kind") for tag, a in page.tags if a.get("data-kind")}
    assert kinds == {"stored"}


def test_other_data_are_refused(tmp_path):
    with pytest.raises(ArtifactError):
        report.write_report(tmp_path)
    dataset = _dataset()
    save_distilled(tmp_path / "distilled", _distilled(dataset), with_gallery=False)
    other = _dataset(channels=1)
    with pytest.raises(ValueError, match="data set is of other images"):
        report.write_report(tmp_path, None, other)
    analysis = _analysis(other, _distilled(dataset))
    with pytest.raises(ValueError, match="analysis is of other images"):
        report.write_report(tmp_path, analysis)


def _pixels(source):
    content = base64.b64decode(source.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(content)))


def test_the_gallery_shows_what_it_says():
    dataset = _dataset()
    distilled = _distilled(dataset)
    kept = np.zeros((1, 24), bool)
    kept[0, [8, 11]] = True
    masks = FilterMasks(kept, ~kept)
    groups = list(showcase.groups(distilled, [0, 1], 3, dataset, masks))
    assert [(g.label, g.segment) for g in groups] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    stored, formed, real = groups[3].strips
    assert [s.kind for s in groups[3].strips] == ["stored", "formed", "real"]
    assert (len(stored.sources), stored.total) == (2, 2)
    assert (len(formed.sources), formed.total) == (3, 8)
    assert (len(real.sources), real.total) == (2, 2)
    rows = np.flatnonzero((distilled.labels == 1) & (distilled.segments == 1))
    np.testing.assert_array_equal(_pixels(stored.sources[0]), distilled.images[rows[0]])
    shown = [_pixels(source) for source in real.sources]
    np.testing.assert_array_equal(shown, dataset.train_images[[8, 11]])
    assert groups[2].strips[2].total == 8  # The first segment is matched to all.
    assert groups[1].strips[2].sources == []  # Nothing of class 0 was kept.
    # The first part of the first image, enlarged, comes first.
    middle = distilled.images[rows[0], :4, :4].mean()
    assert _pixels(formed.sources[0]).mean() == pytest.approx(middle, abs=12)


def test_large_sets_are_shown_in_part():
    dataset = _dataset(side=64)
    distilled = _distilled(dataset)
    assert showcase.shown_classes(distilled, 10, 20) == [0, 1, 2]
    assert showcase.shown_classes(distilled, 10, 2) == [0, 2]
    assert showcase.shown_classes(distilled, 2000, 20) == [0]
    big = _distilled(_dataset(side=128), factor=1)
    (strip,) = next(showcase.groups(big, [0], 1)).strips
    assert _pixels(strip.sources[0]).shape == (96, 96, 3)


def test_shades_swap_the_color_of_text():
    assert tables.shaded(0.05).classes == "shade"
    assert tables.shaded(0.7).classes == "shade on-dark"
    assert tables.shaded(0.95).classes == "shade on-light on-dark"
    assert tables.shaded(0.5, 0.02) == ("50.0", "± 2.0", 0.5, 1)
    assert tables.shaded(None).text == ""
    assert tables.signed(-1.25) == "−1.2"


def test_long_loss_curves_are_thinned():
    records = [
        {"phase": "matching", "segment": 0, "step": step, "matching_loss": 2.0}
        for step in range(1, 1001)
    ]
    chart = charts.loss_chart(records)
    assert len(chart.rows) == 300
    assert {row[2] for row in chart.rows} == {2.0}
    assert charts.loss_chart([]) is None
    assert charts.kept_chart([{"segment": 0}], _NAMES) is None
