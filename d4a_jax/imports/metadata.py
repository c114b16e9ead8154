"""What the metadata of an imported set say."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from d4a_jax.config import EvaluationConfig
from d4a_jax.data import Dataset, statistics
from d4a_jax.imports.content import Found


def describe(
    path: Path,
    found: Found,
    dataset: Dataset | Sequence[str],
    class_names: Sequence[str],
    images: np.ndarray,
    labels: np.ndarray,
    factor: int,
) -> dict[str, Any]:
    """Makes the metadata of an imported set.

    Args:
      path: where it comes from.
      found: what the files held.
      dataset: the real data, or the names of their classes.
      class_names: the same names.
      images: uint8 `[n, h, w, c]`.
      labels: int32 `[n]`.
      factor: tiles per side.
    """
    notes = list(found.notes)
    metadata: dict[str, Any] = {"class_names": list(class_names), "factor": factor}
    if isinstance(dataset, Dataset):
        metadata |= _of_data(dataset)
    else:
        mean, std = statistics.mean_and_std(statistics.histogram(images))
        metadata |= {"mean": list(mean), "std": list(std)}
    counts = np.bincount(labels, minlength=len(class_names))
    if (counts == counts[0]).all():
        size = int(counts[0])
        metadata |= {"images_per_class": size, "segment_sizes": [size]}
    notes += _learned_rate(found.learning_rate, metadata)
    metadata["imported"] = {
        "name": path.name,
        "form": found.form,
        "understood": [f"Read as {found.form}.", *notes],
    }
    return metadata


def _of_data(dataset: Dataset) -> dict[str, Any]:
    protocol = dataclasses.asdict(EvaluationConfig())
    if not dataset.flip:
        parts = protocol["augmentation"].split("_")
        protocol["augmentation"] = "_".join(p for p in parts if p != "flip")
    values = {
        "dataset": dataset.name,
        "dataset_fingerprint": dataset.fingerprint,
        "mean": list(dataset.mean),
        "std": list(dataset.std),
        "flip": dataset.flip,
        "protocol": protocol,
    }
    source = getattr(dataset, "source", None)
    return values if source is None else values | {"source": dict(source)}


def _learned_rate(rate: float | None, metadata: dict[str, Any]) -> list[str]:
    """Records a learned learning rate, and has the protocol use it."""
    if rate is None:
        return []
    metadata["learned_learning_rate"] = rate
    if not rate > 0:
        return [f"The learned learning rate is {rate:g}, which no training can use."]
    if "protocol" in metadata:
        metadata["protocol"]["learning_rate"] = rate
    return [f"The learning rate, learned with the images, is {rate:g}."]
