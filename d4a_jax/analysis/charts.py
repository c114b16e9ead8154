"""Which figures there are of a study and of a run, with their numbers as tables."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
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


def study_charts(analysis: Mapping[str, Any]) -> Iterator[Chart]:
    """The figures of a study.

    Args:
      analysis: what `Study.summary` returns.
    """
    rows = analysis["rows"]
    if not rows:
        return
    yield accuracy_chart(rows)
    for split in ("train", "test"):
        yield from _segment_charts(rows, split, analysis["settings"])
    yield _hard_chart(analysis)
    slugs: list[str] = []
    for entry in analysis["forgetting"]:
        slug = _slug(entry["label"])
        again = slugs.count(slug)
        slugs.append(slug)
        slug = f"{slug}-{again + 1}" if again else slug
        yield _forgetting_chart(entry, slug)
        yield _flips_chart(entry, slug, analysis["class_names"])
    if analysis["forgetting"]:
        yield _transfer_chart(analysis["forgetting"])
    if analysis["architectures"]:
        yield _architecture_chart(analysis["architectures"])


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
        "Test accuracy in percent against stored images per class: " + _ends(lines),
        lambda theme: figures.lines(
            lines, "stored images per class", "test accuracy, %", theme, x_log=True
        ),
        header,
        table,
    )


def _segment_charts(rows, split, settings):
    rows = [row for row in rows if row["augmented"]]
    bins, key = settings["bins"], f"{split}_by_segment"
    names = [row["name"] for row in rows]
    means = _percent([row[key]["mean"] for row in rows])
    columns = [str(segment + 1) for segment in range(bins)]
    header = ["set", "distillations", "networks"]
    header += [*(f"mean_{c}" for c in columns), *(f"std_{c}" for c in columns)]
    table = [
        [row["name"], row["distillations"], row["networks"]]
        + [*row[key]["mean"], *row[key]["std"]]
        for row in rows
    ]
    kind = {"train": "training", "test": "test"}[split]
    axis = "difficulty segment, easy → hard"
    yield Chart(
        f"difficulty-{split}",
        f"Accuracy by difficulty, {kind} images",
        f"Heat map: accuracy in percent on {bins} segments of the real {kind} images, "
        f"from easy to hard, for {len(rows)} sets. The same numbers are in the table.",
        lambda theme: figures.heat_map(means, names, columns, axis, theme),
        header,
        table,
    )
    whole = [row for row in rows if row["stage"] == row["stages"]]
    lines = [
        Series(
            row["name"],
            range(1, bins + 1),
            _percent(row[key]["mean"]),
            _percent(row[key]["std"]),
            row["kind"],
        )
        for row in whole
    ]
    ticks = {segment + 1: column for segment, column in enumerate(columns)}
    yield Chart(
        f"difficulty-curves-{split}",
        f"The whole sets, {kind} images",
        f"Accuracy in percent on the {kind} images by difficulty: " + _ends(lines),
        lambda theme: figures.lines(lines, axis, "accuracy, %", theme, ticks),
        header,
        [row for row, item in zip(table, rows) if item["stage"] == item["stages"]],
    )


def _hard_chart(analysis):
    hardest, bins = (analysis["settings"][key] for key in ("hardest", "bins"))
    lines = [
        Series(
            entry["label"],
            entry["images_per_class"],
            _percent(entry["test"]["hard_accuracy"]),
            None,
            entry["kind"],
        )
        for entry in analysis["saturation"]
    ]
    table = [
        [entry["label"], split, *point, entry[split]["per_image"],
         entry[split]["per_doubling"]]
        for entry in analysis["saturation"]
        for split in ("train", "test")
        for point in zip(entry["images_per_class"], entry[split]["hard_accuracy"])
    ]  # fmt: skip
    return Chart(
        "saturation",
        f"Hard test images only (the last {hardest} of {bins} segments)",
        "Accuracy in percent on the hard test images against stored images per class: "
        + _ends(lines),
        lambda theme: figures.lines(
            lines, "stored images per class", "accuracy, %", theme, x_log=True
        ),
        ("set", "split", "images_per_class", "hard_accuracy", "slope_per_image",
         "slope_per_doubling"),
        table,
    )  # fmt: skip


def _forgetting_chart(entry, slug):
    matrix, std = entry["accuracy"], entry["std"]
    rows = [f"S1…S{s + 1}" if s else "S1" for s in range(len(matrix))]
    columns = [f"after S{t + 1}" for t in range(len(matrix[0]))]
    table = [
        [s + 1, t + 1, entry["sizes"][t], value, std[s][t], entry["forgetting"][t]]
        for s, line in enumerate(matrix)
        for t, value in enumerate(line)
        if value is not None
    ]
    return Chart(
        f"forgetting-{slug}",
        f"Images discarded early, later on: {entry['label']}",
        "Matrix: accuracy in percent on the images first discarded after a segment, for "
        "networks trained on that and later prefixes. The same numbers are in the table.",
        lambda theme: figures.heat_map(
            _percent(matrix), rows, columns, "first discarded", theme
        ),
        ("trained_on_first_segments", "discarded_after", "images", "accuracy", "std",
         "forgetting"),
        table,
    )  # fmt: skip


def _flips_chart(entry, slug, class_names):
    forgotten, learned = entry["flips"]["forgotten"], entry["flips"]["learned"]
    rows = [f"S{s + 1} → S{s + 2}" for s in range(len(forgotten))]
    highest = max(1.0, *(100 * value for line in forgotten for value in line))
    table = [
        [s + 1, name, forgotten[s][label], learned[s][label]]
        for s in range(len(forgotten))
        for label, name in enumerate(class_names)
    ]
    shown = [str(name)[:10] for name in class_names]
    return Chart(
        f"flips-{slug}",
        f"Right, then wrong, by class: {entry['label']}",
        "Heat map: share in percent of each class's training images that were right "
        "and became wrong from one segment to the next.",
        lambda theme: figures.heat_map(
            _percent(forgotten), rows, shown, "class", theme, (0.0, highest)
        ),
        ("from_segment", "class", "forgotten", "learned"),
        table,
    )


def _transfer_chart(entries):
    names = numbered([entry["label"] for entry in entries])
    columns = ("became wrong", "became right", "backward transfer")
    values = [
        [mean(entry["forgotten_share"]), mean(entry["learned_share"]),
         entry["backward_transfer"]]
        for entry in entries
    ]  # fmt: skip
    limit = max(1.0, np.nanmax(_percent(values)))
    return Chart(
        "forgetting",
        "Forgetting, set by set",
        "Matrix: share in percent of the training images that became wrong and right "
        "from one segment to the next, and backward transfer in points.",
        lambda theme: figures.heat_map(
            _percent(values), names, columns, "", theme, (0.0, limit), "{:.1f}"
        ),
        ("set", "regularizer", "filter", "forgotten_per_segment", "learned_per_segment",
         "backward_transfer", "mean_forgetting"),
        [
            [name, entry["regularizer"], entry["filter"], *line,
             mean(entry["forgetting"])]
            for name, entry, line in zip(names, entries, values)
        ],
    )  # fmt: skip


def _architecture_chart(entries):
    networks = list(dict.fromkeys(entry["network"] for entry in entries))
    sets = list(dict.fromkeys(entry["name"] for entry in entries))
    found = {(entry["network"], entry["name"]): entry["test"] for entry in entries}
    means = [
        [100 * found[n, s]["mean"] if (n, s) in found else np.nan for s in sets]
        for n in networks
    ]
    top = max(1.0, np.nanmax(means))
    return Chart(
        "architectures",
        "Other architectures",
        "Matrix: test accuracy in percent of networks of several architectures.",
        lambda theme: figures.heat_map(
            means, networks, _wrapped(sets), "", theme, (0.0, top), "{:.1f}"
        ),
        ("network", "set", "images_per_class", "steps", "networks", "mean", "std"),
        [
            [e["network"], e["label"], e["images_per_class"], e["steps"], e["networks"],
             e["test"]["mean"], e["test"]["std"]]
            for e in entries
        ],
    )  # fmt: skip


def mean(values: Sequence[float | None]) -> float | None:
    """Mean of what is there; None where nothing is."""
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else None


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
        "Matching loss against the step within the segment: " + _ends(lines, "{:.3g}"),
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
        lambda theme: figures.heat_map(_percent(values), rows, columns, "class", theme),
        ("for_segment", "all", *class_names),
        [[entry["segment"] + 2, *line] for entry, line in zip(entries, values)],
    )


def _percent(values):
    """Fractions, nested as they are, to percentages; None becomes NaN."""
    return (100 * np.array(values, float)).tolist()


def _ends(lines, form="{:.1f}"):
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


def numbered(labels):
    """Labels, with a number where one comes more than once."""
    counts = [labels[: place + 1].count(label) for place, label in enumerate(labels)]
    return [
        f"{label} #{count}" if labels.count(label) > 1 else label
        for label, count in zip(labels, counts)
    ]


def _wrapped(names):
    return [name.replace(", ", ",\n") for name in names]


def _slug(label):
    return re.sub(r"[^a-z0-9]+", "-", str(label).lower()).strip("-") or "set"
