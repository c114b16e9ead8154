"""The distilled dataset on the disk.

It is a directory that needs nothing but NumPy and JSON to be read:

    images.npy      uint8 [n, h, w, c], the stored images
    labels.npy      int32 [n]
    segments.npy    int32 [n], the 0-based segment of each image
    soft_logits.npy, soft_crops.npy    a teacher's labels, where there are any
    label_logits.npy    labels that were learned with the images, where there are any
    metadata.json   how to decode and normalize them, where they come from, digests
    gallery.png     a look at them
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from d4a_jax.artifact import gallery, hub
from d4a_jax.artifact.checks import ArtifactError
from d4a_jax.artifact.distilled import ARRAYS, OPTIONAL_ARRAYS, DistilledDataset
from d4a_jax.storage import fileio

SCHEMA_VERSION = 1
_FORMAT = "d4a_jax.distilled"
_METADATA = "metadata.json"
# What an export adds to the metadata; it is no distilled directory, but not damaged.
_EXPORT_KEYS = {"class_names", "mean", "formed", "decoding", "stored_factor"}


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
      path: directory written by `save_distilled`; or `hf://owner/name`, a set on the
        Hugging Face Hub that was exported in the format `huggingface`, where
        `huggingface_hub` is installed.
      segments: read only the first so many segments; all of them if None.

    Raises:
      ArtifactError: a file is missing, damaged or inconsistent; the message names it.
      ValueError: `segments` is out of range.
    """
    if hub.is_address(path):
        # Imported here as the readers of other forms build on this module.
        from d4a_jax.imports import import_distilled

        distilled = import_distilled(path)
        return distilled if segments is None else distilled.prefix(segments)
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


def is_distilled(path: Path) -> bool:
    """Whether a path is a directory that `save_distilled` wrote, intact or not."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        document = json.loads((path / _METADATA).read_bytes())
        return document["format"] == _FORMAT and not is_export(document)
    return False


def is_export(metadata: Any) -> bool:
    """Whether metadata are those that an export wrote, see `d4a_jax.export`."""
    return isinstance(metadata, dict) and metadata.keys() >= _EXPORT_KEYS


def _check_replaceable(path: Path) -> None:
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if is_distilled(path):
        return
    raise ArtifactError(
        f"{path} exists and is not a distilled dataset; choose another path."
    )


def _write_files(directory: Path, distilled: DistilledDataset) -> None:
    digests = {}
    for name in (*ARRAYS, *distilled.optional_arrays):
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
    own = [name for name in OPTIONAL_ARRAYS if f"{name}.npy" in document["sha256"]]
    for name in (*ARRAYS, *own):
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
    document = None
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
    if not intact and is_export(document):
        raise ArtifactError(
            f"{file.parent} is an export, not a distilled dataset; "
            "experiments/import.py (d4a_jax.import_distilled) makes one of it."
        )
    if not intact:
        raise ArtifactError(f"{file} is damaged: its content is not as it was written.")
    if document["schema_version"] != SCHEMA_VERSION:
        raise ArtifactError(
            f"{file} has schema version {document['schema_version']}; this version "
            f"of the library reads {SCHEMA_VERSION}."
        )
    return document
