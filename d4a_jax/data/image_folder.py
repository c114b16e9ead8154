"""Anybody's images, in one folder per class."""

import hashlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from d4a_jax.data import cache, decode
from d4a_jax.data.archives import is_hidden, natural_key
from d4a_jax.data.catalogue import VERSION
from d4a_jax.data.dataset import Dataset, check_class_names
from d4a_jax.data.errors import DatasetError
from d4a_jax.data.holdout import held_out

_TEST_FOLDERS = ("test", "val", "validation")

# Files of each class, by class name.
Groups = dict[str, list[Path]]


def load_image_folder(*, path: Path, size: int | None, data_dir: Path) -> Dataset:
    """Loads a folder of images.

    Either `path/train/<class>/<file>` with `path/test`, `path/val` or
    `path/validation` beside it (the first of these that exists is used), or only
    `path/<class>/<file>`; then a tenth of each class, at least one image, drawn with a
    fixed seed, is the test split. Classes are labelled in the order of their sorted
    names, files are taken in natural order. Images become RGB, unless all are
    greyscale, see `decode`. The decoded images are cached under a key made of every
    file's name, size and time of change.

    Args:
      path: the folder.
      size: side to resize to; needed where the images have different sizes.
      data_dir: the cache goes to its folder `cache`.

    Raises:
      DatasetError: the folder or a file in it cannot be used; the message names it.
    """
    if not path.is_dir():
        raise DatasetError(f"There is no folder {path}; path must name one.")
    splits = _list_splits(path.absolute())
    class_names = check_class_names(path.name, list(splits["train"]))
    decoder = decode.decoder_name()
    listing = _listing_digest(path.absolute(), splits)
    key = f"{VERSION}-{size or 'original'}-{decoder}-{listing[:16]}"
    directory = data_dir / "cache" / "image_folder" / key
    if not directory.is_dir():
        try:
            with cache.exclusive(directory.parent):
                if not directory.is_dir():
                    cache.remove_leftovers(directory)
                    shape = _scan(splits, size)
                    cache.write_cache(
                        directory,
                        path.name,
                        class_names,
                        {k: _make_split(v, shape, size) for k, v in splits.items()},
                        version=VERSION,
                        size=size,
                        decoder=decoder,
                    )
        except OSError as error:
            raise DatasetError(
                f"The images of {path} cannot be cached in {data_dir}: {error}."
            ) from error
    return cache.open_cache(directory, flip=True)


def _list_splits(root: Path) -> dict[str, Groups]:
    folders = _list_folders(root, root)
    test_folders = [name for name in _TEST_FOLDERS if name in folders]
    if "train" in folders and test_folders:
        if strange := sorted(folders.keys() - {"train", *_TEST_FOLDERS}):
            raise DatasetError(
                f"{root} has the folder {strange[0]!r} beside train/ and "
                f"{test_folders[0]}/; classes belong inside of those."
            )
        splits = {
            "train": _list_classes(root, folders["train"]),
            "test": _list_classes(root, folders[test_folders[0]]),
        }
        _check_same_classes(root / test_folders[0], splits)
        return splits
    if set(folders) == {"train"}:
        raise DatasetError(
            f"{root} has train/ but none of test/, val/ and validation/; add one, or "
            f"give {folders['train']} to have a tenth of it held out."
        )
    return _hold_out(_list_classes(root, root))


def _list_folders(root: Path, folder: Path) -> dict[str, Path]:
    """Lists the folders in a folder that should hold nothing else."""
    found = {}
    for entry in _scan_folder(root, folder):
        if not entry.is_dir():
            raise DatasetError(f"{entry} does not belong here: folders are expected.")
        found[entry.name] = entry
    return found


def _list_classes(root: Path, folder: Path) -> Groups:
    groups = {}
    for name, class_folder in _list_folders(root, folder).items():
        files = _scan_folder(root, class_folder)
        for file in files:
            if not file.is_file():
                raise DatasetError(f"{file} does not belong here: images are expected.")
        if not files:
            raise DatasetError(f"Class {name!r} has no images in {class_folder}.")
        if not name.isprintable():
            raise DatasetError(
                f"The class folder {name!r} in {folder} has characters that are no "
                "text; rename it."
            )
        groups[name] = files
    if not groups:
        raise DatasetError(f"There are no class folders in {folder}.")
    return groups


def _scan_folder(root: Path, folder: Path) -> list[Path]:
    """Lists what is in a folder in natural order, hidden files left out."""
    names = [name for name in os.listdir(folder) if not is_hidden(name)]
    entries = [folder / name for name in sorted(names, key=natural_key)]
    for entry in entries:
        if entry.is_symlink() and not entry.resolve().is_relative_to(root.resolve()):
            raise DatasetError(f"{entry} is refused: it is a link out of {root}.")
    return entries


def _check_same_classes(test_folder: Path, splits: dict[str, Groups]) -> None:
    train, test = (set(splits[split]) for split in ("train", "test"))
    if train - test:
        name = min(train - test)
        raise DatasetError(f"Class {name!r} has no images in {test_folder / name}.")
    if test - train:
        name = min(test - train)
        raise DatasetError(
            f"Class {name!r} has images in {test_folder}, but none in train."
        )


def _hold_out(groups: Groups) -> dict[str, Groups]:
    splits: dict[str, Groups] = {"train": {}, "test": {}}
    for label, (name, files) in enumerate(sorted(groups.items())):
        if len(files) < 2:
            raise DatasetError(
                f"Class {name!r} has only the image {files[0]}; 2 are needed to hold "
                "one out for testing."
            )
        chosen = held_out(label, len(files))
        splits["test"][name] = list(itertools.compress(files, chosen))
        splits["train"][name] = list(itertools.compress(files, ~chosen))
    return splits


def _listing_digest(root: Path, splits: dict[str, Groups]) -> str:
    listing = []
    for split, groups in splits.items():
        for name, files in groups.items():
            for file in files:
                status = file.stat()
                relative = file.relative_to(root).as_posix()
                listing.append(
                    (split, name, relative, status.st_size, status.st_mtime_ns)
                )
    text = repr((str(root), listing))
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _files(groups: Groups) -> Iterator[tuple[Path, int]]:
    for label, name in enumerate(sorted(groups)):
        for file in groups[name]:
            yield file, label


def _scan(splits: dict[str, Groups], size: int | None) -> tuple[int, int, int]:
    """Reads every image's header; returns the shape of the arrays to make."""
    first = None
    grey = True
    for groups in splits.values():
        for file, _ in _files(groups):
            image = decode.open_image(_read(file), str(file))
            grey = grey and image.mode in decode.GREY_MODES
            sides = (image.height, image.width)
            first = first or (file, sides)
            if size is None and sides != first[1]:
                raise DatasetError(
                    f"{first[0]} is {first[1][0]} x {first[1][1]} pixels, but {file} "
                    f"is {sides[0]} x {sides[1]}; give size to resize all images."
                )
    height, width = (size, size) if size else first[1]
    return height, width, 1 if grey else 3


def _make_split(
    groups: Groups, shape: tuple[int, int, int], size: int | None
) -> cache.Split:
    files = list(_files(groups))
    examples = (
        (decode.decode_image(_read(file), str(file), shape[2], size=size), label)
        for file, label in files
    )
    return cache.Split(len(files), shape, examples)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DatasetError(f"{file} cannot be read: {error}.") from None
