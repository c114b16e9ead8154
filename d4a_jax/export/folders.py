"""Exports as folders of PNG files: image folders and Hugging Face's."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from d4a_jax.artifact import gallery
from d4a_jax.export import content
from d4a_jax.export.content import ExportData
from d4a_jax.storage import fileio


def export_imagefolder(data: ExportData, path: Path) -> None:
    """Writes `train/<label>_<class>/<number>_s<segment>.png`; folders sort by label."""
    for _ in _write_pngs(data, path / "train"):
        pass
    content.describe(data, path)


def export_huggingface(data: ExportData, path: Path) -> None:
    """Writes an image folder with a card that `datasets.load_dataset(path)` reads."""
    rows = []
    for index, file in enumerate(_write_pngs(data, path / "train")):
        row = {"file_name": file, "label": int(data.labels[index])}
        rows.append(json.dumps(row | {"segment": int(data.segments[index])}) + "\n")
    (path / "train" / "metadata.jsonl").write_text("".join(rows), encoding="utf-8")
    # JSON is YAML, and needs no rules for quoting the names of classes.
    header = [
        f"{key}: {json.dumps(value, ensure_ascii=False)}"
        for key, value in _card_header(data).items()
    ]
    content.describe(data, path, card="\n".join(["---", *header, "---", "", ""]))


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
    return {
        "pretty_name": content.title(data),
        "task_categories": ["image-classification"],
        "tags": ["dataset-distillation"],
        "configs": [config],
        "dataset_info": {"config_name": name, "features": features},
    }


def _write_pngs(data: ExportData, root: Path) -> Iterator[str]:
    """Writes a PNG per image; yields their paths below `root`, in order."""
    digits = len(str(len(data.metadata["class_names"]) - 1))
    folders = []
    for label, name in enumerate(data.metadata["class_names"]):
        plain = re.sub(r"[^A-Za-z0-9.-]+", "_", name).strip("._") or "class"
        folders.append(f"{label:0{digits}d}_{plain}"[:100])
        (root / folders[-1]).mkdir(parents=True)
    for index, image in enumerate(data.images):
        folder = folders[data.labels[index]]
        file = f"{folder}/{index:06d}_s{data.segments[index]}.png"
        (root / file).write_bytes(gallery.encode_png(image))
        yield file
