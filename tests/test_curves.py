"""The curves of `experiments/scaling.py`: what does not need a compiled step."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments import scaling
from experiments.benchmark import curves


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(curves, "_LARGE", (4, 4, 3))


def test_every_point_of_a_curve_is_measured(small):
    result = curves.measure("reading", curves.ON_CPU, 3)
    for line in result.lines:
        assert line.x == [64, 256, 1024]
        assert len(line.seconds) == 3 and min(line.seconds) > 0
    assert result.to_dict()["lines"][0]["label"] == "file in the page cache"
    table = scaling.show([result])
    assert table.count("\n") == 1 + 3 * len(result.lines)


def test_median_counts_a_turn_and_not_a_call(monkeypatch):
    calls = []
    point = curves.Point(lambda: calls.append(1), 4, 1000)
    make = lambda scale, folder: {"line": [(7, point)]}
    monkeypatch.setitem(curves.CURVES, "made up", ("x", make))
    times = {("line", 7): [8.0, 4.0, 400.0]}
    monkeypatch.setattr(curves, "in_turns", lambda *unused: times)
    (line,) = curves.measure("made up", curves.ON_CPU, 3).lines
    assert (line.x, line.seconds, line.memory_bytes) == ([7], [2.0], [1000])
    assert len(calls) == 1  # Once before the rounds, to be warm.


def test_plot_has_a_column_for_every_curve(tmp_path: Path):
    line = curves.Line("a step", [1, 2, 4], [0.1, 0.2, 0.4], [10, 20, 40])
    results = [curves.Result(str(i), "classes", [line]) for i in range(2)]
    widths = []
    for count in (1, 2):
        curves.draw(results[:count], tmp_path / "plot.png")
        image = np.asarray(Image.open(tmp_path / "plot.png").convert("L"))
        assert image.min() < 128  # Something is drawn.
        widths.append(image.shape[1])
    assert widths[1] == 2 * widths[0]
