"""What must hold of a distilled dataset; everything else is an `ArtifactError`."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from d4a_jax.artifact.distilled import DistilledDataset

_REQUIRED = ("class_names", "factor", "mean", "std")


class ArtifactError(ValueError):
    """A distilled dataset is damaged, incomplete or inconsistent."""


def check_metadata(metadata: dict[str, Any]) -> None:
    """Refuses metadata that lack or garble what every reader needs."""
    missing = [key for key in _REQUIRED if key not in metadata]
    if missing:
        raise ArtifactError(f"metadata lacks {', '.join(missing)}.")
    names, factor = metadata["class_names"], metadata["factor"]
    listed = isinstance(names, (list, tuple)) and len(names) > 0
    if not listed or not all(isinstance(name, str) for name in names):
        raise ArtifactError("metadata's class_names is not a list of strings.")
    if not isinstance(factor, (int, np.integer)) or factor < 1:
        raise ArtifactError(
            f"metadata's factor is {factor!r}, but a positive integer is needed."
        )


def check_arrays(distilled: "DistilledDataset") -> None:
    """Refuses images, labels and segments that do not fit together."""
    images, labels, segments = distilled.images, distilled.labels, distilled.segments
    if images.dtype != np.uint8 or images.ndim != 4 or 0 in images.shape:
        raise ArtifactError(
            f"images are {images.dtype} {list(images.shape)}, but uint8 [n, h, w, c] "
            "is needed."
        )
    for name, array in (("labels", labels), ("segments", segments)):
        if array.dtype != np.int32 or array.shape != images.shape[:1]:
            raise ArtifactError(
                f"{name} are {array.dtype} {list(array.shape)}, but int32 "
                f"[{len(images)}] is needed."
            )
    if labels.min() < 0 or labels.max() >= distilled.num_classes:
        raise ArtifactError(
            f"labels run from {labels.min()} to {labels.max()}, but there are "
            f"{distilled.num_classes} classes."
        )
    found = np.unique(segments)
    if not np.array_equal(found, np.arange(len(found))):
        raise ArtifactError(f"segments are {found.tolist()}, not 0, 1, 2 and so on.")
    expected = {"mean": images.shape[-1], "std": images.shape[-1]}
    if "segment_sizes" in distilled.metadata:
        expected["segment_sizes"] = distilled.num_segments
    for key, length in expected.items():
        found = np.size(distilled.metadata[key])
        if found != length:
            raise ArtifactError(
                f"metadata's {key} has {found} entries, but {length} are needed."
            )


def check_soft_labels(distilled: "DistilledDataset") -> None:
    """Refuses a teacher's labels that do not fit the images."""
    logits, crops = distilled.soft_logits, distilled.soft_crops
    if logits is None and crops is None:
        return
    if logits is None or crops is None or "temperature" not in distilled.metadata:
        raise ArtifactError(
            "soft labels need logits, crops and the metadata's temperature together."
        )
    formed = len(distilled.images) * distilled.factor**2
    wanted = (
        ("soft_logits", logits, np.float16, distilled.num_classes),
        ("soft_crops", crops, np.int16, 4),
    )
    for name, array, dtype, last in wanted:
        shape = (len(logits), formed, last)
        if array.dtype != dtype or array.shape != shape or not len(logits):
            raise ArtifactError(
                f"{name} are {array.dtype} {list(array.shape)}, but "
                f"{np.dtype(dtype)} [epochs, {formed}, {last}] is needed."
            )


def check_learned_labels(distilled: "DistilledDataset") -> None:
    """Refuses learned labels that do not fit the images."""
    logits = distilled.label_logits
    if logits is None:
        return
    if distilled.soft_logits is not None:
        raise ArtifactError(
            "there are learned label_logits and a teacher's soft_logits; a set can "
            "have only one of them."
        )
    shape = (len(distilled.images) * distilled.factor**2, distilled.num_classes)
    if logits.dtype != np.float16 or logits.shape != shape:
        raise ArtifactError(
            f"label_logits are {logits.dtype} {list(logits.shape)}, but float16 "
            f"{list(shape)} is needed."
        )
    if not np.isfinite(logits).all():
        raise ArtifactError("label_logits are not all finite.")
