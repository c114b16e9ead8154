"""Distilled sets that others made, or that were exported, become distilled datasets.

Each format has a reader of its own: `.pt` (`torch_file`, without PyTorch), `.npz` and
safetensors (`arrays`), folders of images (`folders`); `published` knows the forms of
the field's repositories and `exports` those of this library. `pixels`, `whitening` and
`labels` find the meaning of the numbers, which is refused where it is not certain.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from d4a_jax.artifact import ArtifactError, DistilledDataset, hub, load_distilled
from d4a_jax.artifact.directory import is_distilled
from d4a_jax.data import Dataset
from d4a_jax.imports import arrays, exports, folders, labels, pixels, published
from d4a_jax.imports import whitening as zca
from d4a_jax.imports.content import Found, OwnExport
from d4a_jax.imports.metadata import describe
from d4a_jax.imports.torch_file import read_torch
from d4a_jax.log import logger
from d4a_jax.storage import fileio

__all__ = ["import_distilled", "read_values", "read_whitening"]


def import_distilled(
    path: fileio.PathLike,
    dataset: Dataset | Sequence[str] | None = None,
    *,
    factor: int | None = None,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    labels: np.ndarray | None = None,
    whitening: Mapping[str, np.ndarray] | None = None,
    whitened: bool | None = None,
    entry: int = 0,
    sorted_folders: bool = False,
) -> DistilledDataset:
    """Reads a distilled set in the form that others published it in.

    These are known: a folder of images for each class (SRe2L, RDED), `.npz`,
    safetensors, `.pt` files of tensors, and among these the published forms of MTT and
    DATM (`images_best.pt`, `labels_best.pt`, `lr_best.pt`, or their folder), DC, DSA
    and DM (`res_*.pt`) and IDC (`data.pt`). Exports and directories of this library are
    recognized and returned with their own metadata. The metadata's `imported` tells
    how everything else was understood, as the log does.

    Args:
      path: file or folder; or `hf://owner/name`, see `load_distilled`.
      dataset: the real data that were distilled, or only the names of their classes in
        the order of the labels; not needed for an export of this library. With names
        alone, `mean` and `std` of the metadata are those of the imported images.
      factor: tiles per side of an image (IDC); by default what the files say, or 1.
      mean: per channel or one for all, by which floats were normalized, of pixels in
        [0, 1]; together with `std`.
      std: the same.
      labels: `[n]` integers or `[n, classes]` rows, which replace those of the files;
        for a folder in the order of labels and file names.
      whitening: arrays that undo a ZCA whitening, see `whitening.as_whitening`. Without
        mean and std the result is taken for pixels in [0, 1].
      whitened: whether the images are whitened, where the guess by their values is
        wrong.
      entry: which of several sets in the file to take (DC, DSA, DM).
      sorted_folders: take class folders, sorted by name, for the classes in order.

    Returns:
      The set, in one segment. A learned learning rate is in its metadata, and in the
      recorded protocol.

    Raises:
      ArtifactError: the file cannot be read, or its meaning is not certain; the message
        says what to give.
    """
    if hub.is_address(path):
        path = hub.download(path)
    path = Path(path)
    if is_distilled(path):
        return _check_classes(load_distilled(path), dataset, path)
    class_names = _class_names(dataset)
    shape = dataset.image_shape if isinstance(dataset, Dataset) else None
    found = _read(path, class_names, shape, entry, sorted_folders)
    if isinstance(found, OwnExport):
        logger.info("%s is an export of this library.", path)
        return _check_classes(exports.rebuild(found), dataset, path)
    if not class_names:
        raise ArtifactError(
            f"{path} does not name its classes: give the data set that was distilled, "
            "or the names of its classes."
        )
    factor = _factor(path, found, factor)
    if labels is not None:
        found = found._replace(labels=np.asarray(labels))
    options = (mean, std, whitening, whitened)
    try:
        return _make(path, found, dataset, class_names, shape, factor, options)
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from None


def read_values(path: fileio.PathLike) -> Any:
    """Reads the arrays of a `.npy`, `.npz`, safetensors or `.pt` file.

    Raises:
      ArtifactError: the file cannot be read or has another ending.
    """
    path = Path(path)
    readers = {
        ".npy": lambda path: arrays.read_npz(path)["images"],
        ".npz": arrays.read_npz,
        ".safetensors": arrays.read_safetensors,
        ".pt": read_torch,
        ".pth": read_torch,
    }
    if path.suffix not in readers:
        raise ArtifactError(
            f"{path} has an ending that is not read; {', '.join(readers)} are."
        )
    return readers[path.suffix](path)


def read_whitening(path: fileio.PathLike) -> dict[str, np.ndarray]:
    """Reads and checks the arrays that `import_distilled` takes as `whitening`.

    Raises:
      ArtifactError: the file cannot be read or holds no whitening.
    """
    values = read_values(path)
    return zca.as_whitening(values, Path(path))._asdict()


def _read(path, class_names, shape, entry, sorted_folders) -> Found | OwnExport:
    if path.is_dir():
        return _read_directory(path, class_names, shape, entry, sorted_folders)
    if not path.exists():
        raise ArtifactError(f"There is no file or folder {path}.")
    if path.suffix in (".pt", ".pth"):
        values = published.read_torch_set(path, entry)
        if isinstance(values, Found):
            return values
        form, channels_first = "a dictionary of tensors", True
    else:
        values = read_values(path)
        form = {".npz": "NumPy's .npz"}.get(path.suffix, "a safetensors file")
        channels_first = None
        if isinstance(values, np.ndarray):
            return Found("a single array", values)
    own = exports.from_arrays(values)
    return own or published.from_mapping(values, form, channels_first)


def _read_directory(path, class_names, shape, entry, sorted_folders):
    metadata = exports.export_metadata(path)
    if metadata is not None:
        return exports.from_directory(path, metadata)
    images = published.find_trajectory_file(path)
    lists = sorted(path.glob("res_*.pt"))
    for file in (images, path / "data.pt", lists[0] if len(lists) == 1 else None):
        if file is not None and file.is_file():
            return _read(file, class_names, shape, entry, sorted_folders)
    if not class_names:
        raise ArtifactError(
            f"{path} does not name its classes: give the data set that was distilled, "
            "or the names of its classes."
        )
    channels = shape[2] if shape else None
    return folders.read_folder(path, class_names, channels, sorted_folders)


def _class_names(dataset):
    if isinstance(dataset, Dataset):
        return dataset.class_names
    if isinstance(dataset, str):
        raise ArtifactError(
            f"dataset is {dataset!r}; the data themselves (load_dataset({dataset!r})) "
            "or a list of class names are needed."
        )
    return tuple(dataset or ())


def _check_classes(distilled, dataset, path):
    """An export names its classes itself; those of the data set must be the same."""
    names = _class_names(dataset)
    own = distilled.metadata["class_names"]
    if names and set(names) != set(own):
        raise ArtifactError(
            f"{path} has the classes {', '.join(own[:3])}, ... ({len(own)}); those of "
            f"the data set are {', '.join(list(names)[:3])}, ... ({len(names)})."
        )
    return distilled


def _factor(path, found, factor):
    factor = found.factor if factor is None else factor
    if factor is None:
        raise ArtifactError(
            f"{path} has the form of IDC, whose images hold factor x factor tiles, and "
            "does not say the factor: give it (IDC's default is 2; IDC-I's is 1)."
        )
    if not isinstance(factor, int) or not 1 <= factor:
        raise ArtifactError(f"factor is {factor!r}; a positive integer is needed.")
    return factor


def _make(path, found, dataset, class_names, shape, factor, options):
    mean, std, whitening, whitened = options
    images = pixels.channels_last(found.images, shape, found.channels_first)
    undo = None if whitening is None else zca.as_whitening(whitening)
    name = dataset.name if isinstance(dataset, Dataset) else None
    images, notes = pixels.to_bytes(images, mean, std, undo, whitened, name)
    if factor > min(images.shape[1:3]):
        raise ArtifactError(f"factor is {factor}, more than an image has pixels.")
    if found.labels is None:
        raise ArtifactError("there are no labels; give them as labels.")
    hard, logits, meaning = labels.read_labels(
        found.labels, len(images), len(class_names)
    )
    if logits is not None:
        # Every tile of an image has its label, in the order of `formed`.
        logits = np.tile(logits, (factor**2, 1))
    found = found._replace(notes=(*found.notes, *notes, meaning))
    metadata = describe(path, found, dataset, class_names, images, hard, factor)
    for note in metadata["imported"]["understood"]:
        logger.info("%s", note)
    segments = np.zeros(len(images), np.int32)
    return DistilledDataset(images, hard, segments, metadata, label_logits=logits)
