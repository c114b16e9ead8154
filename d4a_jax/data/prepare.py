"""Prepares a data set with tfds and reads the prepared copy, without TensorFlow."""

import importlib
import json
import os
import shutil
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from d4a_jax.data import archives, decode
from d4a_jax.data.cache import Split
from d4a_jax.data.catalogue import VERSION, Source
from d4a_jax.data.errors import DatasetError
from d4a_jax.data.reachable import unreachable

_BATCH = 256


def prepare(
    name: str, source: Source, data_dir: Path, manual_dir: Path, download: bool
) -> Path:
    """Makes sure that there is a prepared copy of a data set.

    Args:
      name: of the data set.
      source: its catalogue entry.
      data_dir: prepared copies stand in its folder `tfds`; one of tfds's own builder,
        in array_record format, may also stand in `data_dir` itself.
      manual_dir: where the user puts archives.
      download: whether missing archives may be downloaded.

    Returns:
      The directory of the prepared copy.

    Raises:
      DatasetError: the data are missing or damaged.
    """
    prepared = data_dir / "tfds" / f"d4a_{name}" / VERSION
    if (prepared / "dataset_info.json").is_file():
        return prepared
    stock = _find_stock(source, data_dir)
    if stock is not None:
        logging.info("Using the prepared copy in %s.", stock)
        return stock
    located = archives.locate(name, source, manual_dir, download)
    _check_network(name, source, located, manual_dir)
    _remove_leftovers(name, data_dir)
    module, cls = source.builder.split(":")
    module = importlib.import_module(f"d4a_jax.data.builders.{module}")
    builder = getattr(module, cls)(
        name=name, source=source, located=located, data_dir=data_dir / "tfds"
    )
    try:
        builder.download_and_prepare(download_dir=data_dir / "tfds" / "downloads")
    except OSError as error:
        raise DatasetError(
            f"Data set {name!r} cannot be prepared in {prepared}: {error}."
        ) from error
    finally:
        _remove_leftovers(name, data_dir)
    return prepared


def _check_network(name, source, located, manual_dir) -> None:
    """Says within seconds that there is no network for archives that are missing."""
    missing = [a for a in source.archives if "" not in located]
    missing = [a for a in missing if located[a.filename] is None]
    found = unreachable(archive.url for archive in missing)
    if found is not None:
        url, reason = found
        files = " and ".join(archive.filename for archive in missing)
        raise DatasetError(
            f"Data set {name!r} is not there and cannot be downloaded from {url} "
            f"({reason}); get {files} by other means and put them into {manual_dir}."
        )


def _remove_leftovers(name: str, data_dir: Path) -> None:
    """Deletes temporary folders, also those of a process that was killed."""
    for pattern in (f"d4a_{name}/incomplete.*", f".unpacked-d4a_{name}-*"):
        for leftover in (data_dir / "tfds").glob(pattern):
            shutil.rmtree(leftover, ignore_errors=True)


def _find_stock(source: Source, data_dir: Path) -> Path | None:
    """Finds the newest copy made by tfds's own builder in array_record format."""
    if source.stock is None:
        return None
    infos = []
    for root in (data_dir / "tfds", data_dir):
        infos += (root / source.stock).glob("*/dataset_info.json")
    for path in sorted(infos, key=lambda p: archives.natural_key(p.parent.name))[::-1]:
        try:
            file_format = json.loads(path.read_bytes()).get("fileFormat")
        except (OSError, ValueError):
            continue
        if file_format == "array_record":
            return path.parent
    return None


def open_splits(
    name: str, source: Source, directory: Path, size: int | None
) -> tuple[list[str], dict[str, Split]]:
    """Opens a prepared copy for decoding.

    Args:
      name: of the data set.
      source: its catalogue entry.
      directory: from `prepare`.
      size: side to resize to; None keeps the size, which is then the same for all.

    Returns:
      The class names and the splits `train` and `test`.

    Raises:
      DatasetError: the copy is damaged or has another number of images than the
        published data set.
    """
    try:
        builder = tfds.builder_from_directory(directory)
        class_names = list(builder.info.features["label"].names)
        numbers = {
            "train": builder.info.splits["train"].num_examples,
            "test": builder.info.splits[source.test_split].num_examples,
        }
    except Exception as error:
        raise _damaged(directory, error) from error
    wnids = source.wnids
    keep = None
    if wnids is not None and class_names != list(wnids):
        keep = {class_names.index(wnid): label for label, wnid in enumerate(wnids)}
        class_names = list(wnids)
    splits = {}
    for split, expected in zip(("train", "test"), source.counts or (None, None)):
        if expected is not None and numbers[split] != expected:
            raise DatasetError(
                f"The {split} split of data set {name!r} has {numbers[split]:,} images "
                f"where {expected:,} are published: its source is incomplete; delete "
                f"{directory}, mend the source and try again."
            )
        tfds_split = "train" if split == "train" else source.test_split
        reader = _Reader(builder, tfds_split, directory, numbers[split], keep)
        channels = source.shape[2] if source.shape else 3
        shape = (size, size, channels) if size else source.shape
        examples = _decode_all(reader, channels, source.shape, size)
        splits[split] = Split(len(reader), shape, examples)
    return class_names, splits


class _Reader:
    """The encoded examples of one split, in batches."""

    def __init__(self, builder, split, directory, count, keep):
        """Opens a split.

        Args:
          builder: of the prepared copy.
          split: its tfds name.
          directory: of the prepared copy, for messages.
          count: how many examples it must have.
          keep: new label by old label for those to keep; None keeps all as they are.
        """
        self._directory = directory
        self._keep = keep
        self._split = split
        try:
            skip = {"image": tfds.decode.SkipDecoding()}
            self._source = builder.as_data_source(split=split, decoders=skip)
        except Exception as error:
            raise _damaged(directory, error) from error
        if len(self._source) != count:
            raise _damaged(directory, f"{len(self._source)} records, not {count}")
        self._rows = np.arange(count)
        if keep is not None:
            labels = [e["label"] for batch in self._read(self._rows) for _, e in batch]
            self._rows = np.flatnonzero(np.isin(labels, list(keep)))

    def __len__(self) -> int:
        return len(self._rows)

    def _read(self, rows: np.ndarray) -> Iterator[list[tuple[int, dict]]]:
        for start in range(0, len(rows), _BATCH):
            batch = rows[start : start + _BATCH].tolist()
            try:
                yield list(zip(batch, self._source.__getitems__(batch), strict=True))
            except Exception as error:
                raise _damaged(self._directory, error) from error

    def __iter__(self) -> Iterator[tuple[bytes, int, str]]:
        """Yields encoded image, label, and a name for messages."""
        for batch in self._read(self._rows):
            for row, example in batch:
                label = int(example["label"])
                if self._keep is not None:
                    label = self._keep[label]
                what = example.get("file") or example.get("file_name")
                what = what.decode() if what else f"image {row} of {self._split}"
                yield example["image"], label, what


def _decode_all(reader, channels, shape, size) -> Iterator[tuple[np.ndarray, int]]:
    """Decodes with several threads where the images are photographs of any size."""

    def decode_one(example):
        data, label, what = example
        return decode.decode_image(data, what, channels, shape, size), label

    if shape is not None:
        yield from map(decode_one, reader)
        return
    workers = min(16, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        pending = deque()
        for example in reader:
            pending.append(pool.submit(decode_one, example))
            if len(pending) > 4 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _damaged(directory: Path, how: object) -> DatasetError:
    return DatasetError(
        f"The prepared copy {directory} cannot be read ({how}); delete that folder to "
        "have it made again."
    )
