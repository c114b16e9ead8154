"""Tests of d4a_jax.metrics."""

import glob
import json
import math
import sys
import time

import numpy as np
import pytest

from d4a_jax import metrics
from d4a_jax.log import logger
from d4a_jax.metrics import progress as progress_lib


def _lines(workdir):
    return (workdir / "metrics.jsonl").read_text().splitlines()


def _refuse(constant):
    raise AssertionError(f"{constant} is not JSON")


def test_records(tmp_path):
    with metrics.MetricsWriter(tmp_path / "run") as writer:
        before = time.time()
        writer.write(3, {"loss": np.float32(0.5), "accuracy": 1}, segment=2, kind="a")
        assert len(_lines(tmp_path / "run")) == 1  # Visible before closing.
        writer.write(4, {"loss": 0.25})
    first, second = metrics.read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert before <= first.pop("time") <= time.time()
    expected = {"step": 3, "segment": 2, "kind": "a", "loss": 0.5, "accuracy": 1.0}
    assert first == expected
    assert second["step"] == 4
    assert metrics.read_metrics(tmp_path / "run")[1] == second


def test_numbers_that_are_not_finite_stay_strict_json(tmp_path):
    values = {"a": math.nan, "b": math.inf, "c": -math.inf}
    with metrics.MetricsWriter(tmp_path) as writer:
        writer.write(0, values)
    (line,) = _lines(tmp_path)
    strict = json.loads(line, parse_constant=_refuse)
    assert [strict[k] for k in "abc"] == ["nan", "inf", "-inf"]
    (record,) = metrics.read_metrics(tmp_path)
    assert math.isnan(record["a"])
    assert record["b"] == math.inf
    assert record["c"] == -math.inf


def test_a_name_occurs_once(tmp_path):
    with metrics.MetricsWriter(tmp_path) as writer:
        with pytest.raises(ValueError, match="'step' occurs twice"):
            writer.write(0, {"step": 1.0})
        with pytest.raises(ValueError, match="'loss' occurs twice"):
            writer.write(0, {"loss": 1.0}, loss="x")
    assert _lines(tmp_path) == []


def test_a_torn_last_line_is_dropped(tmp_path):
    with metrics.MetricsWriter(tmp_path) as writer:
        writer.write(0, {"loss": 1.0})
        writer.write(1, {"loss": 2.0})
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    assert [r["step"] for r in metrics.read_metrics(path)] == [0]
    with metrics.MetricsWriter(tmp_path) as writer:
        writer.write(1, {"loss": 3.0})
    assert [r["loss"] for r in metrics.read_metrics(path)] == [1.0, 3.0]


def test_a_damaged_line_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n{"step": \n{"step": 2}\n')
    with pytest.raises(ValueError, match="metrics.jsonl is damaged: line 2 is"):
        metrics.read_metrics(tmp_path)


def test_no_file_has_no_records(tmp_path):
    assert metrics.read_metrics(tmp_path / "metrics.jsonl") == []
    assert metrics.read_metrics(tmp_path) == []


def test_rewind(tmp_path):
    with metrics.MetricsWriter(tmp_path) as writer:
        for step in range(5):
            writer.write(step, {"loss": math.nan if step == 1 else step}, segment=0)
    kept = _lines(tmp_path)[:3]
    with metrics.MetricsWriter(tmp_path) as writer:
        assert writer.rewind(lambda record: record["step"] < 3) == 2
        assert _lines(tmp_path) == kept
        assert writer.rewind(lambda record: record["step"] < 3) == 0
        writer.write(3, {"loss": 30.0}, segment=0)
    records = metrics.read_metrics(tmp_path)
    assert [r["step"] for r in records] == [0, 1, 2, 3]
    assert records[-1]["loss"] == 30.0
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["metrics.jsonl"]


def _scalars(workdir):
    """Reads the event files with tensorboardX's own message definitions."""
    from tensorboardX.proto import event_pb2

    found = []
    for path in sorted(glob.glob(f"{workdir}/tensorboard/**/events*", recursive=True)):
        content = open(path, "rb").read()
        while content:  # A length of 8 bytes, its checksum, the event, its checksum.
            size = int.from_bytes(content[:8], "little")
            event = event_pb2.Event.FromString(content[12 : 12 + size])
            content = content[16 + size :]
            for value in event.summary.value:
                kind = value.WhichOneof("value")
                number = value.simple_value if kind == "simple_value" else kind
                found.append((value.tag, event.step, number))
    return found


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboardX")
    with metrics.MetricsWriter(tmp_path) as writer:
        writer.write(1, {"train/loss": 0.5}, segment=2)
        writer.write(2, {"train/loss": 0.25, "x y": 1.0}, segment=2)
        writer.image("grid", np.zeros((4, 6, 3), np.uint8), 2)
        writer.image("gray", np.zeros((4, 6), np.uint8), 2)
    assert set(_scalars(tmp_path)) == {
        ("segment_2/train/loss", 1, 0.5),
        ("segment_2/train/loss", 2, 0.25),
        ("segment_2/x_y", 2, 1.0),
        ("grid", 2, "image"),
        ("gray", 2, "image"),
    }


def test_rewinding_rewrites_tensorboard(tmp_path):
    pytest.importorskip("tensorboardX")
    with metrics.MetricsWriter(tmp_path) as writer:
        for step in range(3):
            writer.write(step, {"loss": step})
        writer.image("grid", np.zeros((4, 6, 3), np.uint8), 0)
        writer.rewind(lambda record: record["step"] < 2)
        writer.write(2, {"loss": 5.0})
    assert _scalars(tmp_path).count(("grid", 0, "image")) == 1
    scalars = [s for s in _scalars(tmp_path) if s[0] == "loss"]
    assert scalars == [("loss", 0, 0.0), ("loss", 1, 1.0), ("loss", 2, 5.0)]


def test_without_tensorboardx(tmp_path, monkeypatch):
    lines = []
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    monkeypatch.setattr(logger, "info", lambda *a: lines.append(a))
    with metrics.MetricsWriter(tmp_path) as writer:
        writer.write(1, {"loss": 0.5})
        writer.write(2, {"loss": 0.5})
        writer.image("grid", np.zeros((4, 6, 3), np.uint8), 2)
    assert len(_lines(tmp_path)) == 2
    assert len(lines) == 1
    assert not (tmp_path / "tensorboard").exists()


class _Clock:
    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


def _no_display(monkeypatch):
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)


def test_progress_in_a_log_is_throttled(monkeypatch):
    lines, clock = [], _Clock()
    _no_display(monkeypatch)
    monkeypatch.setattr(progress_lib, "time", clock)
    monkeypatch.setattr(logger, "info", lambda form, *a: lines.append(form % a))
    with metrics.Progress(total=7305, initial=100, label="segment 1") as progress:
        clock.now += 60  # Compilation is not part of the rate.
        progress.update(105, loss=0.12345678)
        for done in range(106, 206):
            clock.now += 0.5
            progress.update(done, loss=0.12345678)
    assert lines == [
        "segment 1: 105/7305, loss 0.1235",
        "segment 1: 125/7305, 2 steps/s, 0:59:50 left, loss 0.1235",
        "segment 1: 145/7305, 2 steps/s, 0:59:40 left, loss 0.1235",
        "segment 1: 165/7305, 2 steps/s, 0:59:30 left, loss 0.1235",
        "segment 1: 185/7305, 2 steps/s, 0:59:20 left, loss 0.1235",
        "segment 1: 205/7305, 2 steps/s, 0:59:10 left, loss 0.1235",
    ]


def test_progress_on_a_terminal_is_a_bar(monkeypatch, capsys):
    _no_display(monkeypatch)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with metrics.Progress(total=4, initial=1, label="segment 1") as progress:
        progress.update(2, loss=0.5)
        progress.update(4, loss=0.25)
    shown = capsys.readouterr().err
    assert "segment 1" in shown
    assert "4/4" in shown
    assert "loss=0.25" in shown


def test_progress_before_any_step_does_not_fail(monkeypatch):
    _no_display(monkeypatch)
    with metrics.Progress(total=0, interval=0.0) as progress:
        progress.update(0)
