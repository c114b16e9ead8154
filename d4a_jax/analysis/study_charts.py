"""The figures of a study: by difficulty, over segments, on other architectures."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from d4a_jax.analysis import figures
from d4a_jax.analysis.charts import (
    Chart,
    accuracy_chart,
    ends,
    mean,
    numbered,
    percent,
)
from d4a_jax.analysis.figures import Series


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


def _segment_charts(rows, split, settings):
    rows = [row for row in rows if row["augmented"]]
    bins, key = settings["bins"], f"{split}_by_segment"
    names = [row["name"] for row in rows]
    means = percent([row[key]["mean"] for row in rows])
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
            percent(row[key]["mean"]),
            percent(row[key]["std"]),
            row["kind"],
        )
        for row in whole
    ]
    ticks = {segment + 1: column for segment, column in enumerate(columns)}
    yield Chart(
        f"difficulty-curves-{split}",
        f"The whole sets, {kind} images",
        f"Accuracy in percent on the {kind} images by difficulty: " + ends(lines),
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
            percent(entry["test"]["hard_accuracy"]),
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
        + ends(lines),
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
        "Matrix: accuracy in percent on the images first discarded after a segment, "
        "for networks trained on that and later prefixes. The table has the numbers.",
        lambda theme: figures.heat_map(
            percent(matrix), rows, columns, "first discarded", theme
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
            percent(forgotten), rows, shown, "class", theme, (0.0, highest)
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
    limit = max(1.0, np.nanmax(percent(values)))
    return Chart(
        "forgetting",
        "Forgetting, set by set",
        "Matrix: share in percent of the training images that became wrong and right "
        "from one segment to the next, and backward transfer in points.",
        lambda theme: figures.heat_map(
            percent(values), names, columns, "", theme, (0.0, limit), "{:.1f}"
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


def _wrapped(names):
    return [name.replace(", ", ",\n") for name in names]


def _slug(label):
    return re.sub(r"[^a-z0-9]+", "-", str(label).lower()).strip("-") or "set"
