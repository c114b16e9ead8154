"""Exports for the Hugging Face Hub: a folder that `upload_folder` takes as it is."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from d4a_jax.artifact import gallery
from d4a_jax.export import content
from d4a_jax.export.content import ExportData
from d4a_jax.export.folders import write_pngs
from d4a_jax.storage import fileio

_GALLERY = "gallery.png"
# What the Hub calls the number of images, by its upper end.
_SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 10**6: "100K<n<1M"}


def export_huggingface(data: ExportData, path: Path) -> None:
    """Writes an image folder with a card that `datasets.load_dataset(path)` reads.

    The card's header holds what the Hub shows and searches for; below it are the
    gallery and the accuracies with their protocol.
    """
    rows = []
    for index, file in enumerate(write_pngs(data, path / "train")):
        row = {"file_name": file, "label": int(data.labels[index])}
        rows.append(json.dumps(row | {"segment": int(data.segments[index])}) + "\n")
    (path / "train" / "metadata.jsonl").write_text("".join(rows), encoding="utf-8")
    names = data.metadata["class_names"]
    gallery.save_gallery(
        path / _GALLERY, data.images, data.labels, names, data.segments
    )
    # JSON is YAML, and needs no rules for quoting the names of classes.
    header = [
        f"{key}: {json.dumps(value, ensure_ascii=False)}"
        for key, value in _card_header(data).items()
    ]
    card = "\n".join(["---", *header, "---", "", ""])
    content.describe(data, path, card, _body(data))


def _card_header(data: ExportData) -> dict[str, Any]:
    names = content.unique_names(data.metadata["class_names"])
    labels = {str(label): name for label, name in enumerate(names)}
    features = [
        {"name": "image", "dtype": "image"},
        {"name": "label", "dtype": {"class_label": {"names": labels}}},
        {"name": "segment", "dtype": "int32"},
    ]
    # `datasets` looks its cache up by path and configuration: a name that stands for
    # the content keeps it from serving what lay at the same path before.
    digests = (fileio.sha256_array(array) for array in (data.images, data.labels))
    name = "-".join(["d4a", *(digest[:8] for digest in digests)])
    files = [{"split": "train", "path": "train/**"}]
    config = {"config_name": name, "data_files": files, "features": features}
    count = len(data.images)
    size = next((s for end, s in _SIZES.items() if count < end), "n>1M")
    return {
        "license": data.license,
        "pretty_name": content.title(data),
        "task_categories": ["image-classification"],
        "task_ids": ["multi-class-image-classification"],
        "size_categories": [size],
        "tags": ["dataset-distillation", "d4a"],
        "configs": [config],
        "dataset_info": {"config_name": name, "features": features},
    }


def _body(data: ExportData) -> str:
    return f"""
![Distilled images, a row per class]({_GALLERY})

{_accuracies(data)}
Read it as a distilled set, with all its metadata:

```python
import d4a_jax

distilled = d4a_jax.load_distilled("hf://owner/name")  # where this folder lies
images, labels = distilled.formed()
```
"""


def _accuracies(data: ExportData) -> str:
    """The accuracies of networks trained on the set, with how they were trained."""
    tested = data.results or _recorded_results(data)
    if not tested:
        return "No accuracy of networks trained on this set is recorded.\n"
    lines = [
        "Test accuracy of networks trained from scratch on it, at the last step:",
        "",
        "| network | images per class | top-1 (%) | networks | steps |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for row in tested["results"]:
        images = f"{row['images'] / len(data.metadata['class_names']):g}"
        accuracy = f"{row['top1']:.2f} ± {row['top1_std']:.2f}"
        cells = [row["network"], images, accuracy, row["repeats"], f"{row['steps']:,}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    facts = ", ".join(f"{k} {v}" for k, v in (tested.get("protocol") or {}).items())
    return "\n".join([*lines, "", f"Protocol: {facts or 'not recorded'}.", ""])


def _recorded_results(data: ExportData) -> Mapping[str, Any] | None:
    """What the run tested itself, after every segment."""
    rows = []
    for entry in data.metadata.get("history", []):
        if "evaluation" in entry:
            images = entry["images_per_class"] * len(data.metadata["class_names"])
            rows.append(entry["evaluation"] | {"images": images})
    protocol = data.metadata.get("protocol")
    return {"results": rows, "protocol": protocol} if rows else None
