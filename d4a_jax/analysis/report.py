"""One HTML file about a run that opens offline, and its figures as PNG and CSV."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from d4a_jax import __version__
from d4a_jax.analysis import charts, figures, showcase, study_charts, tables
from d4a_jax.analysis.answers import prefixes
from d4a_jax.analysis.forgetting import load_masks
from d4a_jax.analysis.methods import distilled_directory
from d4a_jax.artifact import DistilledDataset, load_distilled
from d4a_jax.data import Dataset
from d4a_jax.metrics import read_metrics
from d4a_jax.storage.fileio import write_bytes_atomic

_TEMPLATE = "report.html.jinja"


class Picture(NamedTuple):
    """A chart within the page, for a light and for a dark one."""

    title: str
    description: str
    light: str
    dark: str


def write_report(
    source: str | Path,
    analysis: Mapping[str, Any] | None = None,
    dataset: Dataset | None = None,
    per_group: int = 10,
    most_classes: int = 20,
    output: str | Path | None = None,
) -> Path:
    """Writes `report.html` and `report/` about a run or a distilled set alone.

    Args:
      source: the run's directory, with its `distilled`, or that of a distilled set.
      analysis: of this and other sets, from `document.load_analysis`, or None.
      dataset: what was distilled; without it no real images are shown.
      per_group: most images of a kind for each class and segment.
      most_classes: most classes in the gallery.
      output: directory to write to; by default `source`.

    Returns:
      The path of the page.

    Raises:
      ArtifactError: there is no intact distilled set.
      ValueError: the analysis or the data set is of other data.
    """
    source, output = Path(source), Path(output or source)
    distilled = load_distilled(distilled_directory(source))
    _check_belongs(distilled, analysis, dataset)
    drawn = _charts(distilled, read_metrics(source), analysis)
    charts.save_charts(list(drawn.values()), output / "report")
    count = _train_count(analysis, dataset)
    masks = count and load_masks(source / "filter", distilled.num_segments, count)
    classes = showcase.shown_classes(distilled, per_group, most_classes)
    groups = showcase.groups(distilled, classes, per_group, dataset, masks)
    text = render(distilled, analysis, drawn, list(groups), count)
    path = output / "report.html"
    write_bytes_atomic(path, text.encode())
    return path


def render(
    distilled: DistilledDataset,
    analysis: Mapping[str, Any] | None,
    drawn: Mapping[str, charts.Chart],
    groups: list[showcase.Group],
    train_count: int | None = None,
) -> str:
    """The page as text.

    Args:
      distilled: the set.
      analysis: its figures, or None.
      drawn: charts by name.
      groups: the gallery.
      train_count: real training images, where that is known.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("d4a_jax.analysis"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    metadata = distilled.metadata
    history, names = metadata.get("history", []), metadata["class_names"]
    return environment.get_template(_TEMPLATE).render(
        version=__version__,
        written=time.strftime("%Y-%m-%d"),
        headline=_headline(distilled, analysis),
        facts=_facts(distilled, train_count),
        protocol=_protocol(metadata, analysis),
        analysis=analysis,
        analysis_networks=_networks(analysis),
        several=any(r["distillations"] > 1 for r in (analysis or {}).get("rows", ())),
        signed=tables.signed,
        prefix_table=tables.prefix_table(distilled, analysis),
        kept_table=tables.kept_table(history, names),
        filter_table=tables.filter_table(history),
        **_analysis_tables(analysis),
        pictures={name: _picture(chart) for name, chart in drawn.items()},
        groups=groups,
        class_names=names,
        shown=sorted({group.label for group in groups}),
        image_shape=distilled.images.shape[1:],
        num_segments=distilled.num_segments,
        factor=distilled.factor,
        guard=_option(metadata, "filter", "guard"),
        config=_flat(metadata.get("config", {})),
        versions=metadata.get("versions", {}),
    )


def _charts(distilled, metrics, analysis):
    history = distilled.metadata.get("history", [])
    names = distilled.metadata["class_names"]
    found = [charts.loss_chart(metrics), charts.kept_chart(history, names)]
    if analysis is not None and analysis["rows"]:
        found += study_charts.study_charts(analysis)
    elif any("evaluation" in entry for entry in history):
        found.append(charts.accuracy_chart(_history_rows(distilled)))
    return {chart.name: chart for chart in found if chart is not None}


def _history_rows(distilled):
    """The run's own tests as rows of an analysis, for the chart of accuracies."""
    return [
        {
            "label": "this run",
            "kind": "artifact",
            "augmented": True,
            "distillations": 1,
            "test_best": None,
            "images_per_class": entry["images_per_class"],
            "factor": distilled.factor,
            "steps": entry["evaluation"]["steps"],
            "networks": entry["evaluation"]["repeats"],
            "test": {
                "mean": entry["evaluation"]["top1"] / 100,
                "std": entry["evaluation"]["top1_std"] / 100,
            },
        }
        for entry in distilled.metadata["history"]
        if "evaluation" in entry
    ]


def _analysis_tables(analysis):
    if analysis is None or not analysis["rows"]:
        names = ("difficulty", "saturation", "forgetting", "flips", "transfer",
                 "judging", "architecture")  # fmt: skip
        return {f"{name}_tables": [] for name in names}
    names = analysis["class_names"]
    found = {
        "difficulty": [tables.difficulty_table(analysis, s) for s in ("train", "test")],
        "saturation": [tables.saturation_table(analysis)],
        "forgetting": [tables.forgetting_table(e) for e in analysis["forgetting"]],
        "flips": [tables.flips_table(e, names) for e in analysis["forgetting"]],
        "transfer": [tables.transfer_table(analysis["forgetting"])],
        "judging": [tables.judging_table(analysis)],
        "architecture": [tables.architecture_table(analysis["architectures"])],
    }
    return {f"{name}_tables": list(filter(None, t)) for name, t in found.items()}


def _headline(distilled, analysis):
    """Name, size and accuracy; the accuracy is that of the whole set, last step."""
    metadata = distilled.metadata
    segments, per_class = distilled.num_segments, _per_class(distilled)
    headline = {
        "method": _method(metadata, segments),
        "dataset": metadata.get("dataset", "own data"),
        "per_class": f"{per_class:g}",
        "classes": distilled.num_classes,
        "segments": segments,
        "accuracy": None,
    }
    last = (metadata.get("history") or [{}])[-1].get("evaluation")
    if last and len(metadata["history"]) == segments:
        result = {"mean": last["top1"], "std": last["top1_std"]} | {
            key: last.get(key) for key in ("repeats", "steps", "network")
        }
        return headline | {"accuracy": result}
    row = _own_row(distilled, analysis)
    if row is None:
        return headline
    test = {key: 100 * row["test"][key] for key in ("mean", "std")}
    extra = {"repeats": row["networks"], "steps": row["steps"]}
    return headline | {"accuracy": test | extra | {"network": analysis["network"]}}


def _method(metadata, segments):
    if "imported" in metadata:
        return f"Imported ({metadata['imported']['name']})"
    return "D4A" if segments > 1 else "IDC (one segment)"


def _own_row(distilled, analysis):
    digest = next(prefixes("", "", distilled)).digest
    rows = [] if analysis is None else analysis["rows"]
    own = [r for r in rows if digest in r["sets"] and r["stage"] == r["stages"]]
    return next((r for r in own if r["augmented"]), None)


def _facts(distilled, train_count):
    """Short figures below the headline: (value, what it is)."""
    height, width, channels = distilled.images.shape[1:]
    stored = len(distilled.images)
    facts = [
        (f"{stored:,}", "stored images"),
        (_bytes(distilled.stored_bytes), "of pixels, uncompressed"),
        (f"{stored * distilled.factor**2:,}", "training images formed of them"),
        (f"{height} × {width} × {channels}", "pixels and channels"),
    ]
    if train_count:
        share = f"{100 * stored / train_count:.2g} %"
        facts.insert(1, (share, f"as many as {train_count:,} real images"))
    return facts


def _protocol(metadata, analysis):
    """How the run tested and how the analysis did, as sentences; None where unknown."""
    run = metadata.get("protocol")
    lengths = [
        (protocol["epochs"], protocol["max_steps"])
        for protocol in (run, analysis and analysis["protocol"])
        if protocol
    ]
    return {
        "same_length": len(set(lengths)) == 1,
        "run": _sentence(run) if run else None,
        "analysis": _sentence(analysis["protocol"]) if analysis else None,
    }


def _sentence(protocol):
    mix = protocol["cutmix_probability"]
    mixing = f"CutMix with probability {mix:g}" if mix else "no CutMix"
    return (
        f"SGD {protocol['learning_rate']:g}, momentum {protocol['momentum']:g}, weight "
        f"decay {protocol['weight_decay']:g}, batches of {protocol['batch_size']}, "
        "learning rate × 0.2 after 2/3 and 5/6 of training; augmentation "
        f"{protocol['augmentation'].replace('_', ', ') or 'none'}; {mixing}; "
        "hard labels"
    )


def _networks(analysis):
    """How many networks the analysis trained on a set, and for how long."""
    rows = [] if analysis is None else analysis["rows"]
    if not rows:
        return ""
    networks = sorted({row["networks"] for row in rows})
    steps = sorted({row["steps"] for row in rows})
    span = f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"
    return f"{'/'.join(map(str, networks))} networks per set, {span} steps each."


def _picture(chart):
    images = {
        name: showcase.data_uri(figures.to_png(chart.draw(theme)))
        for name, theme in figures.THEMES.items()
    }
    return Picture(chart.title, chart.description, **images)


def _check_belongs(distilled, analysis, dataset):
    made_from = distilled.metadata.get("dataset_fingerprint")
    others = {
        "analysis": analysis and analysis["dataset_fingerprint"],
        "data set": dataset and dataset.fingerprint,
    }
    for name, fingerprint in others.items():
        if made_from and fingerprint and fingerprint != made_from:
            raise ValueError(
                f"The {name} is of other images than those that were distilled: the "
                "fingerprints differ."
            )


def _train_count(analysis, dataset):
    if dataset is not None:
        return len(dataset.train_labels)
    return analysis["train_images"] if analysis else None


def _per_class(distilled):
    whole = len(distilled.labels) / distilled.num_classes
    return distilled.metadata.get("images_per_class", whole)


def _option(metadata, *names):
    value: Any = metadata.get("config", {})
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _flat(values, prefix=""):
    """Nested mappings as (dotted name, value) pairs."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _bytes(count):
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            break
        count /= 1000
    else:
        unit = "GB"
    return f"{count:.3g} {unit}"
