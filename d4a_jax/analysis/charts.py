"""Figures with their numbers as tables: what is shared, and those of a run."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from d4a_jax.analysis import figures
from d4a_jax.analysis.figures import Series, Theme

_MOST_POINTS = 300
_EPSILON = 1e-12


class Chart(NamedTuple):
    """A figure with its numbers.

    Attributes:
      name: file name without extension.
      title: one line above it.
      description: what it shows, for those who cannot see it.
      draw: draws it in a theme.
      header: columns of its numbers.
      rows: its numbers; None where there is none.
    """

    name: str
    title: str
    description: str
    draw: Callable[[Theme], Figure]
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]


def save_charts(charts: Sequence[Chart], directory: str | Path) -> None:
    """Writes every chart as PNG and CSV."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for chart in charts:
        figure = chart.draw(figures.LIGHT)
        figures.save(directory / chart.name, figure, (chart.header, chart.rows))


def accuracy_chart(rows: Sequence[Mapping[str, Any]]) -> Chart:
    """Test accuracy against stored images per class; rows as in `analysis.json`."""
    lines = []
    for label in dict.fromkeys(row["label"] for row in rows if row["augmented"]):
        own = [row for row in rows if row["label"] == label and row["augmented"]]
        own.sort(key=lambda row: row["images_per_class"])
        lines.append(
            Series(
                label,
                [row["images_per_class"] for row in own],
                [100 * row["test"]["mean"] for row in own],
                [100 * row["test"]["std"] for row in own],
                own[0]["kind"],
            )
        )
    header = ("set", "images_per_class", "factor", "augmented", "distillations",
              "networks", "steps", "test_mean", "test_std", "coverage_of_train",
              "best_checkpoint_on_test")  # fmt: skip
    table = [
        [row[key] for key in ("label", *header[1:7])]
        + [row["test"]["mean"], row["test"]["std"], row.get("coverage")]
        + [row["test_best"] and row["test_best"]["mean"]]
        for row in rows
    ]
    return Chart(
        "accuracy",
        "Test accuracy by images per class",
        "Test accuracy in percent against stored images per class: " + ends(lines),
        lambda theme: figures.lines(
            lines, "stored images per class", "test accuracy, %", theme, x_log=True
        ),
        header,
        table,
    )


def loss_chart(metrics: Sequence[Mapping[str, Any]]) -> Chart | None:
    """Matching loss of every segment; None where none was recorded.

    Args:
      metrics: records of `metrics.jsonl`.
    """
    records = [r for r in metrics if r.get("phase") == "matching"]
    records = [r for r in records if np.isfinite(r.get("matching_loss", np.nan))]
    if not records:
        return None
    lines, table = [], []
    start = 0
    for segment in sorted({r["segment"] for r in records}):
        own = [r for r in records if r["segment"] == segment]
        points = np.array([(r["step"] - start, r["matching_loss"]) for r in own])
        start = own[-1]["step"]
        points = _thin(points)
        lines.append(Series(f"S{segment + 1}", *points.T))
        table += [[segment + 1, *point] for point in points.tolist()]
    positive = min(min(line.mean) for line in lines) > _EPSILON
    return Chart(
        "matching-loss",
        "Matching loss",
        "Matching loss against the step within the segment: " + ends(lines, "{:.3g}"),
        lambda theme: figures.lines(
            lines, "matching step of the segment", "loss per class", theme,
            y_log=positive, markers=False,
        ),
        ("segment", "step", "matching_loss"),
        table,
    )  # fmt: skip


def kept_chart(
    history: Sequence[Mapping[str, Any]], class_names: Sequence[str]
) -> Chart | None:
    """Share of the real images that the filter kept, by class; None without filter."""
    entries = [entry for entry in history if "filter" in entry]
    if not entries:
        return None
    rows = [f"for S{entry['segment'] + 2}" for entry in entries]
    values = [
        [entry["filter"]["kept"], *entry["filter"]["kept_per_class"]]
        for entry in entries
    ]
    columns = ["all", *(str(name)[:10] for name in class_names)]
    return Chart(
        "kept",
        "Kept by the filter",
        "Heat map: share in percent of the real training images that the filter kept "
        "for each segment, overall and by class. The same numbers are in the table.",
        lambda theme: figures.heat_map(percent(values), rows, columns, "class", theme),
        ("for_segment", "all", *class_names),
        [[entry["segment"] + 2, *line] for entry, line in zip(entries, values)],
    )


def mean(values: Sequence[float | None]) -> float | None:
    """Mean of what is there; None where nothing is."""
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else None


def numbered(labels):
    """Labels, with a number where one comes more than once."""
    counts = [labels[: place + 1].count(label) for place, label in enumerate(labels)]
    return [
        f"{label} #{count}" if labels.count(label) > 1 else label
        for label, count in zip(labels, counts)
    ]


def percent(values):
    """Fractions, nested as they are, to percentages; None becomes NaN."""
    return (100 * np.array(values, float)).tolist()


def ends(lines, form="{:.1f}"):
    """First and last value of every line, as text."""
    parts = []
    for line in lines:
        first, last = form.format(line.mean[0]), form.format(line.mean[-1])
        change = first if len(line.mean) == 1 else f"from {first} to {last}"
        parts.append(f"{line.label} {change}")
    return "; ".join(parts) + "."


def _thin(points):
    """Averages neighbors where there are more points than a chart can show."""
    parts = np.array_split(points, min(len(points), _MOST_POINTS))
    return np.stack([part.mean(0) for part in parts])
