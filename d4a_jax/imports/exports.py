"""Exports of this library, recognized by their metadata and read back."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from d4a_jax.artifact import ArtifactError, DistilledDataset
from d4a_jax.artifact.directory import is_export
from d4a_jax.data import decode
from d4a_jax.imports.content import OwnExport

# What an exporter adds; `sha256` is of files that are not here.
_ADDED = ("formed", "decoding", "stored_factor", "layout", "sha256")
_TFDS_INFO = "dataset_info.json"


def export_metadata(path: Path) -> dict[str, Any] | None:
    """The metadata of an exported directory; None where it is something else."""
    try:
        document = json.loads((path / "metadata.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return document if is_export(document) else None


def from_arrays(values: Mapping[str, Any]) -> OwnExport | None:
    """An export in one file of arrays; None where the file is something else."""
    try:
        metadata = json.loads(values["metadata"])
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    if not is_export(metadata):
        return None
    missing = [n for n in ("images", "labels", "segments") if n not in values]
    if missing:
        raise ArtifactError(f"The export lacks the array {missing[0]!r}.")
    images = np.asarray(values["images"])
    if metadata.get("layout") == "NCHW":
        images = images.transpose(0, 2, 3, 1)
    arrays = (images, values["labels"], values["segments"])
    return OwnExport(*arrays, metadata, values.get("label_logits"))


def from_directory(path: Path, metadata: dict[str, Any]) -> OwnExport:
    """An exported directory: PNG files or a set of tfds.

    Raises:
      ArtifactError: a file is missing or has another name than exports give.
    """
    read = _read_tfds if (path / _TFDS_INFO).is_file() else _read_pngs
    images, labels, segments = read(path, metadata)
    logits = path / "label_logits.npy"
    learned = np.load(logits, allow_pickle=False) if logits.is_file() else None
    return OwnExport(images, labels, segments, metadata, learned)


def rebuild(export: OwnExport) -> DistilledDataset:
    """The distilled set that was exported.

    All is as it was, but for a teacher's labels, which exports leave out. Where images
    were decoded for the export (`formed`), the set holds the decoded ones, and its
    sizes count these.

    Raises:
      ArtifactError: the parts do not fit together.
    """
    metadata = {k: v for k, v in export.metadata.items() if k not in _ADDED}
    tiles = export.metadata["stored_factor"] ** 2 if export.metadata["formed"] else 1
    if "segment_sizes" in metadata:
        metadata["segment_sizes"] = [tiles * n for n in metadata["segment_sizes"]]
    if "images_per_class" in metadata:
        metadata["images_per_class"] *= tiles
    logits = export.label_logits
    if logits is not None and logits.ndim == 3:
        logits = logits.swapaxes(0, 1).reshape(-1, logits.shape[-1])
    return DistilledDataset(
        np.ascontiguousarray(export.images),
        np.asarray(export.labels, np.int32),
        np.asarray(export.segments, np.int32),
        metadata,
        label_logits=logits,
    )


def _read_pngs(path, metadata):
    """Files `train/<label>_<class>/<number>_s<segment>.png`, by their numbers."""
    rows = []
    for file in (path / "train").glob("*/*.png"):
        label = re.match(r"(\d+)_", file.parent.name)
        name = re.fullmatch(r"(\d+)_s(\d+)", file.stem)
        if label is None or name is None:
            raise ArtifactError(f"{file} has no name that an export gives.")
        rows.append((int(name[1]), int(label[1]), int(name[2]), file))
    rows.sort()
    if not rows or [row[0] for row in rows] != list(range(len(rows))):
        raise ArtifactError(f"{path} lacks images: their numbers have gaps.")
    channels = len(metadata["mean"])
    images = [
        decode.decode_image(file.read_bytes(), str(file), channels) for *_, file in rows
    ]
    return np.stack(images), [row[1] for row in rows], [row[2] for row in rows]


def _read_tfds(path, unused_metadata):
    import tensorflow_datasets as tfds

    source = tfds.builder_from_directory(path).as_data_source(split="train")
    rows = [(x["image"], x["label"], x["segment"]) for x in source]
    images, labels, segments = zip(*rows)
    return np.stack(images), labels, segments
