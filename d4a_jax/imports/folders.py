"""Reads a set that is a folder of images for each class (SRe2L, RDED and others)."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from d4a_jax.artifact import ArtifactError
from d4a_jax.data import decode
from d4a_jax.data.archives import is_hidden, natural_key
from d4a_jax.imports.content import Found
from d4a_jax.log import logger

_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")


def read_folder(
    root: Path,
    class_names: Sequence[str],
    channels: int | None = None,
    sorted_folders: bool = False,
) -> Found:
    """Reads `root/<class>/<file>` or `root/train/<class>/<file>`.

    A folder is the class whose name it has, or whose number ends its name where all are
    numbered from 0 (`new000` of SRe2L, `00000` of RDED). Files that are no images are
    skipped and named in the log.

    Args:
      root: the folder.
      class_names: of all classes, in the order of their labels.
      channels: 1 or 3; by default 1 where all images are grey.
      sorted_folders: take the folders, sorted by name, for the classes in their order,
        whatever they are called.

    Raises:
      ArtifactError: a folder belongs to no class, or images have different sizes.
      DatasetError: an image is damaged.
    """
    folder = root / "train" if (root / "train").is_dir() else root
    names = sorted(e.name for e in folder.iterdir() if e.is_dir())
    names = [name for name in names if not is_hidden(name)]
    if not names:
        raise ArtifactError(f"There are no class folders in {folder}.")
    labels_of, meaning = _match(names, list(class_names), folder, sorted_folders)
    files = [
        (file, labels_of[name])
        for name in sorted(names, key=labels_of.get)
        for file in _image_files(folder / name)
    ]
    if not files:
        raise ArtifactError(f"There are no images in {folder}.")
    if channels is None:
        modes = (decode.open_image(f.read_bytes(), str(f)).mode for f, _ in files)
        channels = 1 if all(mode in decode.GREY_MODES for mode in modes) else 3
    images = [decode.decode_image(f.read_bytes(), str(f), channels) for f, _ in files]
    _check_sizes(images, files)
    labels = np.array([label for _, label in files], np.int32)
    return Found(
        "a folder of images for each class",
        np.stack(images),
        labels,
        channels_first=False,
        notes=(meaning,),
    )


def _match(names, class_names, folder, sorted_folders):
    """The label of every folder, and how it was found."""
    if sorted_folders:
        if len(names) != len(class_names):
            raise ArtifactError(
                f"{folder} has {len(names)} class folders, but there are "
                f"{len(class_names)} classes."
            )
        meaning = "The class folders, sorted, are the classes in their order."
        return {name: label for label, name in enumerate(names)}, meaning
    if set(names) <= set(class_names):
        found = {name: class_names.index(name) for name in names}
        return found, "The class folders have the names of the classes."
    numbers = [re.search(r"(\d+)$", name) for name in names]
    found = {name: int(n[1]) for name, n in zip(names, numbers) if n}
    if sorted(found.values()) == list(range(len(class_names))):
        return found, "The numbers of the class folders are the labels."
    strange = next(name for name in names if name not in class_names)
    raise ArtifactError(
        f"The class folder {strange!r} in {folder} is none of the classes "
        f"({', '.join(class_names[:3])}, ...) and the folders are not numbered 0 to "
        f"{len(class_names) - 1}. Rename them, or say that their sorted order is that "
        "of the classes (sorted_folders)."
    )


def _image_files(folder: Path) -> list[Path]:
    names = sorted((f.name for f in folder.iterdir() if f.is_file()), key=natural_key)
    images = [name for name in names if name.lower().endswith(_IMAGES)]
    for name in sorted(set(names) - set(images)):
        if not is_hidden(name):
            logger.info("Skipped %s, which is no image.", folder / name)
    return [folder / name for name in images]


def _check_sizes(images, files):
    for image, (file, _) in zip(images, files):
        if image.shape != images[0].shape:
            height, width = image.shape[:2]
            raise ArtifactError(
                f"{file} is {height} x {width} pixels, but {files[0][0]} is "
                f"{images[0].shape[0]} x {images[0].shape[1]}; all must agree."
            )
