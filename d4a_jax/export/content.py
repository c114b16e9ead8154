"""What an exporter gets, and what its files say of it."""

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from d4a_jax.artifact import DistilledDataset
from d4a_jax.storage import fileio


class ExportData(NamedTuple):
    """What an exporter gets.

    Attributes:
      images: uint8 `[n, h, w, c]`.
      labels: int32 `[n]`.
      segments: int32 `[n]`, 0-based.
      metadata: that of the distilled dataset, and `formed`, `decoding`: whether the
        images are decoded already, and what is to be done with them.
      label_logits: float16, logits of learned labels: `[n, classes]`, or
        `[n, factor**2, classes]` where the images are still to be cut into tiles; None
        where labels are hard.
      license: identifier of the licence, as the Hub knows it.
      results: accuracies to tell of, or None; see `export_distilled`.
    """

    images: np.ndarray
    labels: np.ndarray
    segments: np.ndarray
    metadata: dict[str, Any]
    label_logits: np.ndarray | None = None
    license: str = "unknown"
    results: Mapping[str, Any] | None = None

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name."""
        names = ("images", "labels", "segments", "label_logits")
        arrays = {name: getattr(self, name) for name in names}
        return {name: array for name, array in arrays.items() if array is not None}


def prepare(distilled: DistilledDataset, formed: bool) -> ExportData:
    """The images of a set, stored or decoded, and what goes along with them."""
    images, labels, segments = distilled.images, distilled.labels, distilled.segments
    # The metadata as they would be read from the disk: without NumPy's types.
    metadata = json.loads(fileio.dump_json(distilled.metadata))
    factor, logits = distilled.factor, distilled.label_logits
    metadata["stored_factor"] = factor
    if formed:
        decoded, labels = distilled.formed()
        images = np.rint(decoded * 255).astype(np.uint8)
        segments = np.tile(segments, factor**2)
        metadata["factor"] = 1
    metadata["formed"] = formed
    if logits is not None and metadata["factor"] > 1:
        logits = logits.reshape(factor**2, len(images), -1).swapaxes(0, 1)
    metadata["decoding"] = _decoding(metadata["factor"], logits)
    return ExportData(images, labels, segments, metadata, logits)


def _decoding(factor: int, logits: np.ndarray | None) -> str:
    """What is to be done with the images before training, in words."""
    if factor == 1:
        text = "The images are complete; train on them as they are."
    else:
        text = (
            f"Cut each image into {factor} x {factor} tiles and resize every tile to "
            "the size of the image (bilinear) before training."
        )
    text += " Divide by 255, subtract mean and divide by std, channel by channel."
    if logits is None:
        return text
    each = "" if logits.ndim == 2 else ", with a label for each tile, row by row"
    return text + f" Train towards softmax(label_logits), by the cross-entropy{each}."


def metadata_text(data: ExportData, **more: Any) -> str:
    """The metadata and more of it as JSON."""
    return fileio.dump_json(data.metadata | more).decode()


def describe(data: ExportData, path: Path, card: str = "", body: str = "") -> None:
    """Writes what belongs to an exported directory besides the images.

    `metadata.json`, `README.md` (`card`, its own text, `body`) and, where labels are
    learned, `label_logits.npy`.
    """
    if data.label_logits is not None:
        np.save(path / "label_logits.npy", data.label_logits)
    (path / "metadata.json").write_text(metadata_text(data), encoding="utf-8")
    (path / "README.md").write_text(card + _readme(data) + body, encoding="utf-8")


def title(data: ExportData) -> str:
    """What a reader calls the set."""
    return f"Distilled {data.metadata.get('dataset', 'dataset')}"


def summary(data: ExportData) -> str:
    """The set in one sentence."""
    count, height, width, channels = data.images.shape
    kind = "formed" if data.metadata["formed"] else "stored"
    maker = "by others" if "imported" in data.metadata else "by D4A"
    return (
        f"{count} {kind} images ({height} x {width} x {channels}, 8 bits) of "
        f"{len(data.metadata['class_names'])} classes, distilled from "
        f"{data.metadata.get('dataset', 'an image dataset')} {maker}."
    )


def _readme(data: ExportData) -> str:
    keys = ("mean", "std", "factor", "stored_factor")
    facts = "\n".join(f"- {key}: {json.dumps(data.metadata[key])}" for key in keys)
    return f"""# {title(data)}

{summary(data)}

{data.metadata["decoding"]}

{facts}

Columns:

- image: 8 bits a channel
- label: integer, position in `class_names` of `metadata.json`
- segment: integer from 0 (in names of PNG files: after `_s`); the first k segments
  are a dataset of their own

`metadata.json` holds the provenance: configuration, versions, seed, digests.
{_label_note(data)}"""


def _label_note(data: ExportData) -> str:
    if data.label_logits is None:
        return ""
    return f"""
`label_logits.npy` (float16 {list(data.label_logits.shape)}) holds the logits of labels
that were learned with the images, in the order of the images (with PNG files, that of
the numbers in their names).
"""


def unique_names(names: list[str]) -> list[str]:
    """Appends its label to every name that occurs twice."""
    twice = {name for name in names if names.count(name) > 1}
    return [f"{n} ({i})" if n in twice else n for i, n in enumerate(names)]


def require(module: str, package: str):
    """Imports a module.

    Raises:
      ImportError: the package that it belongs to is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"This export format needs the package {package}: pip install {package}"
        ) from error
