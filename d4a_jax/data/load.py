"""Loads data sets by name."""

import dataclasses
import importlib
import os
from pathlib import Path

import numpy as np

from d4a_jax.data import cache, decode
from d4a_jax.data.catalogue import SOURCES, VERSION, Local, Source
from d4a_jax.data.dataset import Dataset, select_classes
from d4a_jax.data.errors import DatasetError, nearest


def dataset_names() -> tuple[str, ...]:
    """Returns the names that `load_dataset` knows, sorted."""
    return tuple(sorted(SOURCES))


def load_dataset(
    name: str,
    *,
    data_dir: str | None = None,
    manual_dir: str | None = None,
    download: bool = True,
    size: int | None = None,
    classes: int | tuple[int, ...] | None = None,
    path: str | None = None,
    verify: bool = False,
) -> Dataset:
    """Loads a data set, preparing it where this is its first use.

    The first use prepares the data with tfds in `data_dir/tfds`, decodes them and
    writes the arrays to `data_dir/cache`; later uses only map those into memory. The
    prepared copy is not needed any more then and may be deleted. `digits` and `arrays`
    are read as they are, and `image_folder` is decoded without tfds.

    Args:
      name: one of `dataset_names()`.
      data_dir: where data are kept; by default the environment's D4A_DATA_DIR or
        `~/.cache/d4a_jax`.
      manual_dir: folder with archives (or unpacked folders) that the user got; by
        default the environment's D4A_MANUAL_DIR or `data_dir/manual`.
      download: whether missing archives may be downloaded.
      size: side to resize images to, see `decode.resize_square`. By default 224 for
        the ImageNet family, and no change for the others.
      classes: keep the first so many classes or those with these labels, relabelled
        0..k-1 in the order given. The images kept are copied into memory.
      path: for `arrays` the .npz file, for `image_folder` the folder.
      verify: whether to compare all cached images with their digests, which reads
        them from the disk once.

    Returns:
      The data set; its images are memory-mapped where all classes are kept.

    Raises:
      DatasetError: an argument is wrong, or the data are missing or damaged.
    """
    source = _check_arguments(name, size, path)
    data_path = data_directory(data_dir)
    manual_path = _directory(manual_dir, "D4A_MANUAL_DIR", data_path / "manual")
    if manual_dir is not None and not manual_path.is_dir():
        raise DatasetError(f"The manual directory {manual_path} does not exist.")
    if isinstance(source, Local):
        module, function = source.loader.split(":")
        module = importlib.import_module(f"d4a_jax.data.{module}")
        location = Path(path).expanduser() if path is not None else None
        load = getattr(module, function)
        dataset = load(path=location, size=size, data_dir=data_path)
    else:
        dataset = _load_source(name, source, data_path, manual_path, download, size)
    cached = getattr(dataset.train_images, "filename", None)
    if verify and cached:
        cache.verify_cache(Path(cached).parent)
    chosen = list(classes) if isinstance(classes, (tuple, list)) else classes
    source = {"name": name, "size": size, "classes": chosen}
    return dataclasses.replace(select_classes(dataset, classes), source=source)


def data_directory(data_dir: str | None = None) -> Path:
    """Where data are kept: as given, or D4A_DATA_DIR, or `~/.cache/d4a_jax`."""
    return _directory(data_dir, "D4A_DATA_DIR", Path("~/.cache/d4a_jax"))


def _check_arguments(name: str, size: int | None, path: str | None) -> Source | Local:
    source = SOURCES.get(name)
    if source is None:
        raise DatasetError(f"There is no data set {name!r}: {nearest(name, SOURCES)}")
    needs_path = isinstance(source, Local) and source.needs_path
    if needs_path and path is None:
        raise DatasetError(f"Data set {name!r} needs path, which says where it is.")
    if path is not None and not needs_path:
        raise DatasetError(
            f"Data set {name!r} takes no path; only arrays and image_folder do."
        )
    if size is not None and (
        isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 1
    ):
        raise DatasetError(f"size={size!r} must be a positive integer.")
    return source


def _directory(given: str | None, variable: str, default: Path) -> Path:
    return Path(given or os.environ.get(variable) or default).expanduser().absolute()


def _load_source(
    name: str,
    source: Source,
    data_dir: Path,
    manual_dir: Path,
    download: bool,
    size: int | None,
) -> Dataset:
    size = size or source.size
    if source.shape is not None and source.shape[:2] == (size, size):
        size = None
    decoder = decode.decoder_name()
    key = f"{VERSION}-{size or 'original'}-{decoder}"
    directory = data_dir / "cache" / name / key
    if not directory.is_dir():
        try:
            with cache.exclusive(directory.parent):
                if not directory.is_dir():
                    cache.remove_leftovers(directory)
                    # tfds takes long to import and is not needed for a cached set.
                    from d4a_jax.data import prepare

                    copy = prepare.prepare(name, source, data_dir, manual_dir, download)
                    names, splits = prepare.open_splits(name, source, copy, size)
                    cache.write_cache(
                        directory,
                        name,
                        names,
                        splits,
                        version=VERSION,
                        size=size,
                        decoder=decoder,
                        builder=f"{copy.parent.name}/{copy.name}",
                    )
        except OSError as error:
            raise DatasetError(
                f"Data set {name!r} cannot be written to {data_dir}: {error}."
            ) from error
    return cache.open_cache(directory, source.flip)
