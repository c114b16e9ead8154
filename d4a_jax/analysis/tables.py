"""Tables of a report, with a shade for every number of a heat map."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from d4a_jax.analysis import charts, figures
from d4a_jax.artifact import DistilledDataset


class Cell(NamedTuple):
    """A number on a shade.

    Attributes:
      text: the number; empty where there is none.
      note: small text below it.
      shade: how strongly it is colored, in [0, 1]; None for no color.
      span: columns that it takes.
    """

    text: str
    note: str = ""
    shade: float | None = None
    span: int = 1

    @property
    def classes(self) -> str:
        """CSS classes; those that swap the text's color on a light or a dark page."""
        shade = self.shade or 0.0
        swaps = [
            f" on-{name}" for name, t in figures.THEMES.items() if shade > t.switch
        ]
        return "shade" + "".join(swaps)


class Table(NamedTuple):
    """A table with named rows and columns.

    Attributes:
      caption: what it shows.
      corner: heading of the first column.
      columns: the other headings.
      rows: (heading, cells) pairs.
    """

    caption: str
    corner: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]


def percent(mean: float | None, std: float | None = None, digits: int = 1) -> str:
    """A fraction as percentage, with its deviation where that is given."""
    if mean is None:
        return ""
    text = f"{100 * mean:.{digits}f}"
    return text if std is None else f"{text} ± {100 * std:.{digits}f}"


def signed(value: float, digits: int = 1) -> str:
    """A number with its sign, a proper minus."""
    return f"{value:+.{digits}f}".replace("-", "−")


def shaded(mean: float | None, std: float | None = None, highest: float = 1.0) -> Cell:
    """A fraction as percentage on its shade."""
    if mean is None:
        return Cell("")
    note = "" if std is None else f"± {100 * std:.1f}"
    return Cell(f"{100 * mean:.1f}", note, min(1.0, mean / highest))


def prefix_table(
    distilled: DistilledDataset, analysis: Mapping[str, Any] | None
) -> Table | None:
    """Test accuracy of every prefix, and of the analysis's other sets beside it."""
    history = distilled.metadata.get("history", [])
    measured = {
        entry["images_per_class"]: entry["evaluation"]
        for entry in history
        if "evaluation" in entry
    }
    rows = [r for r in (analysis or {}).get("rows", ()) if r["augmented"]]
    own = list(dict.fromkeys(r["label"] for r in rows if r["kind"] != "full"))
    sizes = {*measured, *(r["images_per_class"] for r in rows if r["kind"] != "full")}
    columns = (["at distillation"] if measured else []) + own
    table = []
    for size in sorted(sizes):
        cells = []
        if measured:
            result = measured.get(size)
            cells.append(
                Cell(f"{result['top1']:.1f} ± {result['top1_std']:.1f}")
                if result
                else Cell("")
            )
        for label in own:
            cells.append(_accuracy(rows, label, size))
        table.append((f"{size:g}", cells))
    for row in (r for r in rows if r["kind"] == "full"):
        text = percent(row["test"]["mean"], row["test"]["std"])
        table.append((row["label"], [Cell(text, span=len(columns))]))
    caption = "Test accuracy in percent, by stored images per class"
    return Table(caption, "images per class", columns, table) if table else None


def _accuracy(rows, label, size):
    found = [r for r in rows if r["label"] == label and r["images_per_class"] == size]
    if not found:
        return Cell("")
    return Cell(percent(found[0]["test"]["mean"], found[0]["test"]["std"]))


def kept_table(
    history: Sequence[Mapping[str, Any]], class_names: Sequence[str]
) -> Table | None:
    """Share of the real images that the filter kept, a row per class."""
    filters = [entry for entry in history if "filter" in entry]
    if not filters:
        return None
    columns = [f"for S{entry['segment'] + 2}" for entry in filters]
    rows = [("All classes", [shaded(entry["filter"]["kept"]) for entry in filters])]
    for label, name in enumerate(class_names):
        cells = [shaded(entry["filter"]["kept_per_class"][label]) for entry in filters]
        rows.append((name, cells))
    caption = "Share of the real training images kept for the next segment, in percent"
    return Table(caption, "class", columns, rows)


def filter_table(history: Sequence[Mapping[str, Any]]) -> Table | None:
    """What the networks behind the filter know of the real set, stage by stage."""
    filters = [entry for entry in history if "filter" in entry]
    if not filters:
        return None
    keys = ("real_accuracy", "learned", "forgotten", "kept")
    rows = []
    for entry in filters:
        cells = [Cell(percent(entry["filter"][key])) for key in keys]
        if entry is filters[0]:
            cells[1] = cells[2] = Cell("–")
        cells.append(Cell(f"{int(entry['filter']['topped_up_images'])}"))
        rows.append((_prefix_name(entry["segment"] + 1), cells))
    columns = ["right", "newly right", "forgotten", "kept", "topped up (images)"]
    caption = "Real training images under the filter's networks, in percent"
    return Table(caption, "networks trained on", columns, rows)


def difficulty_table(analysis: Mapping[str, Any], split: str) -> Table:
    """Figure 1 as a table: accuracy by difficulty."""
    bins = analysis["settings"]["bins"]
    rows = [
        (
            row["name"],
            [
                shaded(mean, std)
                for mean, std in zip(
                    row[f"{split}_by_segment"]["mean"],
                    row[f"{split}_by_segment"]["std"],
                )
            ]
            + [Cell(percent(row["coverage"]))] * (split == "train"),
        )
        for row in analysis["rows"]
        if row["augmented"]
    ]
    columns = [str(segment + 1) for segment in range(bins)]
    columns[0], columns[-1] = "1 easy", f"{bins} hard"
    kind = {"train": "training", "test": "test"}[split]
    caption = f"Accuracy in percent on the real {kind} images, by difficulty segment"
    extra = ["ever right"] if split == "train" else []
    return Table(caption, "networks trained on", columns + extra, rows)


def saturation_table(analysis: Mapping[str, Any]) -> Table | None:
    """Slopes of the accuracy on hard images."""
    rows = []
    for entry in analysis["saturation"]:
        if entry["test"]["per_doubling"] is None:
            continue
        cells = [
            Cell(signed(100 * entry[split][key], 2))
            for split in ("train", "test")
            for key in ("per_image", "per_doubling")
        ]
        rows.append((entry["label"], cells))
    columns = [
        "train, per image",
        "train, per doubling",
        "test, per image",
        "test, per doubling",
    ]
    caption = (
        "Gain on hard images in points, for one more image per class and for twice"
    )
    return Table(caption, "set", columns, rows) if rows else None


def forgetting_table(entry: Mapping[str, Any]) -> Table:
    """The forgetting matrix with sizes above and forgetting below."""
    columns = [f"after S{t + 1}" for t in range(len(entry["sizes"]))]
    rows = [("images", [Cell(f"{size:,}") for size in entry["sizes"]])]
    for s, line in enumerate(entry["accuracy"]):
        cells = [shaded(value, entry["std"][s][t]) for t, value in enumerate(line)]
        rows.append((_prefix_name(s + 1), cells))
    lost = [Cell(percent(value)) for value in entry["forgetting"]]
    rows.append(("forgetting", lost))
    caption = (
        f"{entry['label']}: accuracy in percent on the images first discarded after a "
        "segment"
    )
    return Table(caption, "networks trained on", columns, rows)


def flips_table(entry: Mapping[str, Any], class_names: Sequence[str]) -> Table:
    """Right -> wrong (and wrong -> right) from prefix to prefix, a row per class."""
    forgotten = np.array(entry["flips"]["forgotten"], float)
    learned = np.array(entry["flips"]["learned"], float)
    columns = [f"S{s + 1} → S{s + 2}" for s in range(len(forgotten))]
    highest = max(forgotten.max(), 1e-9)
    rows = []
    for label, name in enumerate(class_names):
        cells = []
        for lost, gained in zip(forgotten[:, label], learned[:, label]):
            cell = shaded(float(lost), None, highest)
            cells.append(cell._replace(note=f"+ {100 * gained:.1f}"))
        rows.append((name, cells))
    caption = (
        f"{entry['label']}: share of each class's training images that became wrong, "
        "in percent; below, the share that became right"
    )
    return Table(caption, "class", columns, rows)


def transfer_table(entries: Sequence[Mapping[str, Any]]) -> Table | None:
    """Forgetting of every set in one line: with which regularizer, how much."""
    names = charts.numbered([entry["label"] for entry in entries])
    rows = []
    for name, entry in zip(names, entries):
        shares = [charts.mean(entry[f"{x}_share"]) for x in ("forgotten", "learned")]
        points = (charts.mean(entry["forgetting"]), entry["backward_transfer"])
        rows.append(
            (
                name,
                [Cell(entry["filter"] or "–"), Cell(entry["regularizer"] or "–")]
                + [Cell(percent(share)) for share in shares]
                + [Cell("–" if x is None else signed(100 * x)) for x in points],
            )
        )
    columns = [
        "filter keeps",
        "regularizer",
        "became wrong, %",
        "became right, %",
        "forgetting, points",
        "backward transfer, points",
    ]
    caption = "From one segment to the next, mean over segments"
    return Table(caption, "set", columns, rows) if rows else None


def architecture_table(entries: Sequence[Mapping[str, Any]]) -> Table | None:
    """Test accuracy by architecture, a row for each."""
    sets = list(dict.fromkeys(entry["name"] for entry in entries))
    found = {(entry["network"], entry["name"]): entry["test"] for entry in entries}
    rows = []
    for network in dict.fromkeys(entry["network"] for entry in entries):
        tests = [found.get((network, name)) for name in sets]
        cells = [Cell(percent(t["mean"], t["std"])) if t else Cell("") for t in tests]
        rows.append((network, cells))
    caption = "Test accuracy in percent, by architecture"
    return Table(caption, "network", sets, rows) if rows else None


def judging_table(analysis: Mapping[str, Any]) -> Table | None:
    """The figures by which sets are compared; a dash where an accuracy is missing."""
    names = ("hlr", "ior", "over_mosaics", "lrs", "ars")
    columns = [
        "test, %, last step",
        "HLR\N{NO-BREAK SPACE}↓",
        "IOR\N{NO-BREAK SPACE}↑",
        "over mosaics\N{NO-BREAK SPACE}↑",
        "LRS\N{NO-BREAK SPACE}↑",
        "ARS\N{NO-BREAK SPACE}↑",
    ]
    columns += ["pixel bytes", "label bytes"]
    with_best = any(entry["test_best"] is not None for entry in analysis["judging"])
    columns += ["test, %, best checkpoint chosen on test"] * with_best
    rows = []
    for entry in analysis["judging"]:
        cells = [Cell(percent(entry["test"], entry["test_std"]))]
        cells += [_score(entry[name]) for name in names]
        cells += [Cell(f"{entry[f'{part}_bytes']:,}") for part in ("pixel", "label")]
        cells += [Cell(percent(entry["test_best"]) or "–")] * with_best
        rows.append(
            (f"{entry['label']}, {entry['images_per_class']:g} per class", cells)
        )
    caption = "Judging figures (accuracies as fractions) and storage"
    return Table(caption, "set", columns, rows) if rows else None


def _score(value):
    return Cell("–" if value is None else f"{value:.3f}".replace("-", "−"))


def _prefix_name(stage):
    return "S1" if stage == 1 else f"S1…S{stage}"
