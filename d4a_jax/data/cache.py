"""Decoded images on disk, memory-mapped when they are used.

A cache is a directory with `train_images.npy`, `train_labels.npy`, `test_images.npy`,
`test_labels.npy` and `meta.json`. It is written under a temporary name and renamed when
complete, so that a directory with the right name is a whole one.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from d4a_jax.data import pixel_range, statistics
from d4a_jax.data.dataset import Dataset, check_label_range, make_fingerprint
from d4a_jax.data.errors import DatasetError
from d4a_jax.data.pixel_range import PixelRange
from d4a_jax.log import logger
from d4a_jax.storage import fileio

try:
    import fcntl
except ImportError:  # Not a POSIX system: two processes may then do the same work.
    fcntl = None

_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Split:
    """The images of one split, about to be written.

    Attributes:
      count: number of images.
      shape: height, width and channels of each.
      examples: `count` pairs of a uint8 image of that shape and its label.
    """

    count: int
    shape: tuple[int, int, int]
    examples: Iterable[tuple[np.ndarray, int]]


@contextlib.contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Keeps other processes waiting while one prepares a data set.

    Args:
      directory: made where it does not exist; holds the lock file.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / ".lock", "a", encoding="utf-8") as file:
        if fcntl is not None:
            # Some network file systems have no locks.
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def remove_leftovers(directory: Path) -> None:
    """Deletes what an interrupted `write_cache` left; needs the lock of `exclusive`."""
    for leftover in directory.parent.glob(f".{directory.name}.*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)


def write_cache(
    directory: Path,
    name: str,
    class_names: Sequence[str],
    splits: Mapping[str, Split],
    notes: Sequence[str] = (),
    **made_from: str | int | list[float] | None,
) -> None:
    """Writes the images of a data set to a new cache directory.

    Args:
      directory: must not exist.
      name: of the data set.
      class_names: one per label.
      splits: `train` and `test`.
      notes: how the source was read; not part of the fingerprint.
      **made_from: what the images were made from and how; part of the fingerprint.
        Where values were scaled, `pixel_range` is the range of them.

    Raises:
      DatasetError: a split has another number of images than it says, a label is out
        of range or a class has no training image.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = fileio.temporary_sibling(directory)
    temporary.mkdir()
    try:
        meta = {"format": _FORMAT, "name": name, "class_names": list(class_names)}
        meta["made_from"], meta["notes"] = made_from, list(notes)
        digests = []
        for split in ("train", "test"):
            images, labels, counts = _write_split(temporary, name, split, splits[split])
            check_label_range(name, split, labels, class_names, split == "train")
            if split == "train":
                meta["mean"], meta["std"] = statistics.mean_and_std(counts)
                scaled_by = made_from.get("pixel_range")
                meta["warning"] = pixel_range.few_levels(name, counts, scaled_by)
            digests += [images, statistics.digest(labels)]
        meta["digests"] = digests
        meta["fingerprint"] = make_fingerprint(
            name=name, classes=list(class_names), digests=digests, **made_from
        )
        meta["bytes"] = {
            path.name: path.stat().st_size for path in sorted(temporary.glob("*.npy"))
        }
        meta["sha256"] = _digest(meta)
        fileio.write_json_atomic(temporary / "meta.json", meta)
        fileio.sync_directory(temporary)
        os.rename(temporary, directory)
        fileio.sync_directory(directory.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _write_split(
    directory: Path, name: str, split: str, source: Split
) -> tuple[str, np.ndarray, np.ndarray]:
    """Writes one split; returns the images' digest, the labels and the histogram."""
    shape = (source.count, *source.shape)
    dtype = np.dtype(np.uint8)
    header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    labels = []
    sha = hashlib.sha256(f"{dtype.str}{shape}".encode())
    path = directory / f"{split}_images.npy"
    # Written and not mapped: a full disk is then an error and not a killed process.
    with open(path, "xb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for image, label in source.examples:
            content = np.ascontiguousarray(image).data
            file.write(content)
            sha.update(content)
            labels.append(label)
            if len(labels) > source.count:
                break
        file.flush()
        os.fsync(file.fileno())
    if len(labels) != source.count:
        found = "more" if len(labels) > source.count else f"only {len(labels):,}"
        raise DatasetError(
            f"The {split} split of data set {name!r} should have {source.count:,} "
            f"images, but {found} could be read; delete its prepared copy and try "
            "again."
        )
    labels = np.array(labels, np.int32)
    fileio.save_array_atomic(directory / f"{split}_labels.npy", labels)
    counts = statistics.histogram(np.load(path, mmap_mode="r"))
    return sha.hexdigest(), labels, counts


def open_cache(directory: Path, flip: bool) -> Dataset:
    """Opens a cache directory; the images stay on disk until they are used.

    Args:
      directory: written by `write_cache`.
      flip: whether a horizontal flip keeps the label.

    Raises:
      DatasetError: a file is missing, cut or unreadable.
    """
    meta = _read_meta(directory)
    if meta.get("warning"):
        logger.warning(meta["warning"])
    scaled_by = meta.get("made_from", {}).get("pixel_range")
    for filename, size in meta["bytes"].items():
        path = directory / filename
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            state = "is missing" if found is None else f"has {found:,} bytes"
            raise _damaged(path, f"{state}, not {size:,}")
    arrays = {}
    for part in ("train_images", "train_labels", "test_images", "test_labels"):
        path = directory / f"{part}.npy"
        try:
            mode = "r" if part.endswith("images") else None
            arrays[part] = np.load(path, mmap_mode=mode, allow_pickle=False)
        except Exception as error:  # pylint: disable=broad-except
            # NumPy parses the header as Python: damage shows as nearly anything.
            raise _damaged(path, f"cannot be read ({error})") from None
    return Dataset(
        name=meta["name"],
        class_names=tuple(meta["class_names"]),
        mean=tuple(meta["mean"]),
        std=tuple(meta["std"]),
        flip=flip,
        fingerprint=meta["fingerprint"],
        pixel_range=PixelRange(*scaled_by) if scaled_by else None,
        understood=tuple(meta.get("notes", ())),
        **arrays,
    )


def verify_cache(directory: str | os.PathLike[str]) -> None:
    """Reads a whole cache directory and compares it with its digests.

    Args:
      directory: the folder with the `.npy` files. That of a loaded data set is the
        folder of `dataset.train_images.filename`, unless classes were selected.

    Raises:
      DatasetError: a file is damaged; the message names it.
    """
    directory = Path(directory)
    dataset = open_cache(directory, flip=True)
    parts = ("train_images", "train_labels", "test_images", "test_labels")
    for part, expected in zip(parts, _read_meta(directory)["digests"], strict=True):
        if statistics.digest(getattr(dataset, part)) != expected:
            raise _damaged(
                directory / f"{part}.npy", "has changed since it was written"
            )


def _read_meta(directory: Path) -> dict:
    path = directory / "meta.json"
    try:
        meta = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise _damaged(path, f"cannot be read ({error})") from None
    needed = {"name", "class_names", "mean", "std", "fingerprint", "bytes", "digests"}
    if not isinstance(meta, dict) or not needed <= meta.keys():
        raise _damaged(path, "lacks some of its entries")
    if meta.get("sha256", _digest(meta)) != _digest(meta):
        raise _damaged(path, "has changed since it was written")
    return meta


def _digest(meta: dict) -> str:
    content = {key: value for key, value in meta.items() if key != "sha256"}
    return hashlib.sha256(fileio.dump_json(content)).hexdigest()


def _damaged(path: Path, how: str) -> DatasetError:
    return DatasetError(
        f"The cached file {path} {how}; delete the folder {path.parent} to have it "
        "made again."
    )
