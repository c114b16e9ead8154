"""Exports as folders of PNG files."""

import re
from collections.abc import Iterator
from pathlib import Path

from d4a_jax.artifact import gallery
from d4a_jax.export import content
from d4a_jax.export.content import ExportData


def export_imagefolder(data: ExportData, path: Path) -> None:
    """Writes `train/<label>_<class>/<number>_s<segment>.png`; folders sort by label."""
    for _ in write_pngs(data, path / "train"):
        pass
    content.describe(data, path)


def write_pngs(data: ExportData, root: Path) -> Iterator[str]:
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
