"""The distilled dataset in memory."""

import copy
import dataclasses
from typing import Any

import numpy as np

from d4a_jax.artifact import checks

ARRAYS = ("images", "labels", "segments")
_SOFT_ARRAYS = ("soft_logits", "soft_crops")
OPTIONAL_ARRAYS = (*_SOFT_ARRAYS, "label_logits")


@dataclasses.dataclass(frozen=True, eq=False)
class DistilledDataset:
    """A distilled dataset S = S_1 u ... u S_K (D4A).

    Parts that do not fit together raise an ArtifactError.

    Attributes:
      images: uint8 `[n, h, w, c]` stored images; each one decodes to `factor ** 2`
        training images.
      labels: int32 `[n]`, in `[0, num_classes)`.
      segments: int32 `[n]`, 0-based segment that each image belongs to.
      metadata: JSON-like description. Required: `class_names` (list of strings),
        `factor` (tiles per side), `mean` and `std` (per channel, of pixels in
        [0, 1]). Optional and kept in step by `prefix`: `segment_sizes` (stored images
        per class of each segment) and `images_per_class` (their sum); with soft labels
        `temperature` is required.
      soft_logits: float16 `[E, n * factor ** 2, num_classes]`, a teacher's logits for
        the crops of E epochs, or None; the images are in the order of `formed`. See
        `soft_labels`.
      soft_crops: int16 `[E, n * factor ** 2, 4]`, top, left, side and flip of each
        crop, or None.
      label_logits: float16 `[n * factor ** 2, num_classes]`, logits of labels that were
        learned with the images (DATM), in the order of `formed`, or None. An image's
        label is their softmax, whatever its crop or augmentation; there are none beside
        a teacher's soft labels. See `methods.label_learning`.
    """

    images: np.ndarray
    labels: np.ndarray
    segments: np.ndarray
    metadata: dict[str, Any]
    soft_logits: np.ndarray | None = None
    soft_crops: np.ndarray | None = None
    label_logits: np.ndarray | None = None

    def __post_init__(self):
        checks.check_metadata(self.metadata)
        checks.check_arrays(self)
        checks.check_soft_labels(self)
        checks.check_learned_labels(self)

    @property
    def num_classes(self) -> int:
        """Number of classes, with or without images."""
        return len(self.metadata["class_names"])

    @property
    def num_segments(self) -> int:
        """Number of segments K."""
        return int(self.segments.max()) + 1

    @property
    def factor(self) -> int:
        """Tiles per side of a stored image."""
        return int(self.metadata["factor"])

    @property
    def stored_bytes(self) -> int:
        """Bytes that the stored pixels and soft or learned labels take."""
        return self.images.nbytes + self.label_bytes

    @property
    def label_bytes(self) -> int:
        """Bytes that soft labels, their crops and learned labels take.

        Hard labels count as nothing.
        """
        return sum(getattr(self, name).nbytes for name in self.optional_arrays)

    @property
    def optional_arrays(self) -> tuple[str, ...]:
        """Names of those arrays that a set may have and this one has."""
        there = lambda name: getattr(self, name) is not None
        return tuple(filter(there, OPTIONAL_ARRAYS))

    def formed(self) -> tuple[np.ndarray, np.ndarray]:
        """Decodes the stored images into those that networks train on.

        The multi-formation of IDC (Kim et al. 2022, section 4).

        Returns:
          float32 images `[n * factor ** 2, h, w, c]` in [0, 1], ordered tile by tile
          (all first tiles, then all second ones), and their int32 labels.
        """
        # Imported here so that loading and exporting need no accelerator library.
        from d4a_jax import formation

        stored = self.images.astype(np.float32) / np.float32(255)
        images = np.asarray(formation.form(stored, self.factor), np.float32)
        return images, np.tile(self.labels, self.factor**2)

    def prefix(self, segments: int) -> "DistilledDataset":
        """Returns the first segments S_1 u ... u S_k, a smaller distilled dataset.

        Args:
          segments: how many, k, in `[1, num_segments]`.

        Raises:
          ValueError: `segments` is out of range.
        """
        if not 1 <= segments <= self.num_segments:
            raise ValueError(
                f"segments is {segments}, but this distilled dataset has "
                f"{self.num_segments} (allowed: 1 to {self.num_segments})."
            )
        kept = self.segments < segments
        metadata = copy.deepcopy(self.metadata)
        metadata.pop("sha256", None)
        if "segment_sizes" in metadata:
            metadata["segment_sizes"] = list(metadata["segment_sizes"][:segments])
            if "images_per_class" in metadata:
                metadata["images_per_class"] = sum(metadata["segment_sizes"])
        formed, own = np.tile(kept, self.factor**2), {}
        for name in self.optional_arrays:
            array = getattr(self, name)
            own[name] = array[:, formed] if name in _SOFT_ARRAYS else array[formed]
        return DistilledDataset(
            self.images[kept], self.labels[kept], self.segments[kept], metadata, **own
        )


def same_distilled(left: DistilledDataset, right: DistilledDataset) -> bool:
    """Whether two distilled datasets have the same arrays and history."""
    return left.metadata.get("history") == right.metadata.get("history") and all(
        np.array_equal(getattr(left, name), getattr(right, name))
        for name in (*ARRAYS, *OPTIONAL_ARRAYS)
    )
