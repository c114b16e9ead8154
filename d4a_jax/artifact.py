"""The distilled dataset, in memory and on the disk.

On the disk it is a directory that needs nothing but NumPy and JSON to be read:

    images.npy      uint8 [n, h, w, c], the stored images
    labels.npy      int32 [n]
    segments.npy    int32 [n], the 0-based segment of each image
    soft_logits.npy, soft_crops.npy    a teacher's labels, where there are any
    label_logits.npy    labels that were learned with the images, where there are any
    metadata.json   how to decode and normalize them, where they come from, digests
    gallery.png     a look at them
"""

import contextlib
import copy
import dataclasses
import hashlib
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from d4a_jax import fileio, gallery

SCHEMA_VERSION = 1
_FORMAT = "d4a_jax.distilled"
_METADATA = "metadata.json"
_ARRAYS = ("images", "labels", "segments")
_SOFT_ARRAYS = ("soft_logits", "soft_crops")
_OPTIONAL_ARRAYS = (*_SOFT_ARRAYS, "label_logits")
_REQUIRED = ("class_names", "factor", "mean", "std")


class ArtifactError(ValueError):
    """A distilled dataset is damaged, incomplete or inconsistent."""


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
        a teacher's soft labels. See `surrogates.label_learning`.
    """

    images: np.ndarray
    labels: np.ndarray
    segments: np.ndarray
    metadata: dict[str, Any]
    soft_logits: np.ndarray | None = None
    soft_crops: np.ndarray | None = None
    label_logits: np.ndarray | None = None

    def __post_init__(self):
        _check_metadata(self.metadata)
        _check_arrays(self)
        _check_soft_labels(self)
        _check_learned_labels(self)

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
        return tuple(filter(there, _OPTIONAL_ARRAYS))

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
        for name in (*_ARRAYS, *_OPTIONAL_ARRAYS)
    )


def save_distilled(
    path: fileio.PathLike, distilled: DistilledDataset, with_gallery: bool = True
) -> None:
    """Writes a distilled dataset to a directory, all of it or nothing.

    A distilled dataset that is already there is replaced in one step, with whatever
    else lies in its directory. Any other directory that is not empty is refused.

    Args:
      path: directory to write; its parents are made.
      distilled: what to write.
      with_gallery: whether to add `gallery.png`.

    Raises:
      ArtifactError: `path` is something else than a distilled dataset.
      ValueError: the metadata holds something that JSON cannot.
    """
    path = Path(os.path.abspath(path))
    _check_replaceable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = fileio.temporary_sibling(path)
    temporary.mkdir()
    try:
        _write_files(temporary, distilled)
        if with_gallery:
            gallery.save_gallery(
                temporary / "gallery.png",
                distilled.images,
                distilled.labels,
                distilled.metadata["class_names"],
                distilled.segments,
            )
        fileio.replace_directory_atomic(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load_distilled(
    path: fileio.PathLike, segments: int | None = None
) -> DistilledDataset:
    """Reads a distilled dataset and verifies every byte of it.

    Args:
      path: directory written by `save_distilled`.
      segments: read only the first so many segments; all of them if None.

    Raises:
      ArtifactError: a file is missing, damaged or inconsistent; the message names it.
      ValueError: `segments` is out of range.
    """
    path = Path(path)
    before = os.stat(path).st_ino if path.exists() else None
    try:
        distilled = _read_files(path)
    except ArtifactError:
        # A writer may have replaced the directory between two of the reads.
        if not path.exists() or os.stat(path).st_ino == before:
            raise
        distilled = _read_files(path)
    return distilled if segments is None else distilled.prefix(segments)


def _check_replaceable(path: Path) -> None:
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        if json.loads((path / _METADATA).read_bytes())["format"] == _FORMAT:
            return
    raise ArtifactError(
        f"{path} exists and is not a distilled dataset; choose another path."
    )


def _write_files(directory: Path, distilled: DistilledDataset) -> None:
    digests = {}
    for name in (*_ARRAYS, *distilled.optional_arrays):
        file = f"{name}.npy"
        fileio.save_array_atomic(directory / file, getattr(distilled, name))
        digests[file] = fileio.sha256_file(directory / file)
    kind = {"format": _FORMAT, "schema_version": SCHEMA_VERSION}
    document = distilled.metadata | kind | {"sha256": digests}
    document["metadata_sha256"] = _digest(document)
    fileio.write_json_atomic(directory / _METADATA, document)


def _digest(document: dict[str, Any]) -> str:
    content = {k: v for k, v in document.items() if k != "metadata_sha256"}
    return hashlib.sha256(fileio.dump_json(content)).hexdigest()


def _read_files(path: Path) -> DistilledDataset:
    document = _read_metadata(path / _METADATA)
    arrays = {}
    own = [name for name in _OPTIONAL_ARRAYS if f"{name}.npy" in document["sha256"]]
    for name in (*_ARRAYS, *own):
        file = path / f"{name}.npy"
        content = _read(file)
        if hashlib.sha256(content).hexdigest() != document["sha256"].get(file.name):
            raise ArtifactError(f"{file} is damaged: its SHA-256 does not match.")
        try:
            arrays[name] = np.load(io.BytesIO(content), allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ArtifactError(f"{file} is not a plain NumPy array.") from error
    document.pop("metadata_sha256")
    try:
        return DistilledDataset(**arrays, metadata=document)
    except ArtifactError as error:
        raise ArtifactError(f"{path} is inconsistent: {error}") from error


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{file} cannot be read: {error.strerror}.") from error


def _read_metadata(file: Path) -> dict[str, Any]:
    content = _read(file)
    try:
        document = json.loads(content)
        # The text must be the very one that `save_distilled` writes, so that damage
        # to the layout counts too.
        intact = (
            fileio.dump_json(document) == content
            and document["metadata_sha256"] == _digest(document)
            and document["format"] == _FORMAT
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        intact = False
    if not intact:
        raise ArtifactError(f"{file} is damaged: its content is not as it was written.")
    if document["schema_version"] != SCHEMA_VERSION:
        raise ArtifactError(
            f"{file} has schema version {document['schema_version']}; this version "
            f"of the library reads {SCHEMA_VERSION}."
        )
    return document


def _check_metadata(metadata: dict[str, Any]) -> None:
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


def _check_arrays(distilled: DistilledDataset) -> None:
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


def _check_soft_labels(distilled: DistilledDataset) -> None:
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


def _check_learned_labels(distilled: DistilledDataset) -> None:
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
