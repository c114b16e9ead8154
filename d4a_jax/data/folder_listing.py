"""Finds the splits, classes and image files in a folder that anybody made."""

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from d4a_jax.data.archives import is_hidden, natural_key
from d4a_jax.data.errors import DatasetError, shorten
from d4a_jax.data.holdout import held_out
from d4a_jax.log import logger

_TRAIN_FOLDERS = ("train", "training")
_TEST_FOLDERS = ("test", "testing", "val", "validation", "valid")
_EXPECTED = (
    "train/ (or training/) beside test/, testing/, val/, validation/ or valid/, with "
    "one folder per class in each, or only one folder per class"
)

# Files of each class, by class name.
Groups = dict[str, list[Path]]


class Listing(NamedTuple):
    """The files of a folder.

    Attributes:
      splits: `train` and `test`, each with the files of every class.
      notes: how the folder was read, where that is not plain.
    """

    splits: dict[str, Groups]
    notes: tuple[str, ...]


def list_folder(root: Path) -> Listing:
    """Lists the images of a folder, and names once the files that are skipped.

    The names of the folders of the splits may be in upper or lower case. A folder that
    holds nothing but one other folder stands for that one, both at the top and inside
    of a class.

    Args:
      root: the folder, absolute.

    Raises:
      DatasetError: it has another layout; the message names what is expected.
    """
    lister = _Lister(root)
    splits = lister.list_splits()
    if lister.skipped:
        logger.warning(
            "Files beside folders belong to no class and are skipped in %s: %s.",
            root,
            shorten([path.relative_to(root).as_posix() for path in lister.skipped]),
        )
    names = sorted(splits["train"])
    if all(name.isdecimal() for name in names) and names != sorted(names, key=int):
        lister.notes.append(f"class names sorted as text: {shorten(names)}")
    return Listing(splits, tuple(lister.notes))


class _Lister:
    """Lists the folders below one root."""

    def __init__(self, root: Path):
        self.root = root
        self.skipped: list[Path] = []
        self.notes: list[str] = []

    def list_splits(self) -> dict[str, Groups]:
        """Lists the images of both splits."""
        root = self.root
        folders = self._list_folders(root)
        if len(folders) == 1 and not _named(folders, _TRAIN_FOLDERS):
            (only,) = folders.values()
            if any(path.is_dir() for path in self._scan(only)):
                root, folders = only, self._list_folders(only)
                self.notes.append(f"the images of its folder {only.name}")
        train = _named(folders, _TRAIN_FOLDERS)
        tests = _named(folders, _TEST_FOLDERS)
        if train and tests:
            return self._list_both(root, folders, train, tests)
        if train and len(folders) == 1:
            raise DatasetError(
                f"{root} has {train[0]}/ but none of test/, val/ and validation/; add "
                f"one, or give {folders[train[0]]} to have a tenth of it held out."
            )
        return _hold_out(self._list_classes(root, folders))

    def _list_both(self, root, folders, train, tests):
        if len(train) > 1:
            raise DatasetError(
                f"{root} has the folders {' and '.join(train)}; one of them is needed."
            )
        if strange := sorted(folders.keys() - {*train, *tests}):
            raise DatasetError(
                f"{root} has the folder {strange[0]!r} beside {train[0]}/ and "
                f"{tests[0]}/; classes belong inside of those."
            )
        if len(tests) > 1:
            unused = ", ".join(f"{name}/" for name in tests[1:])
            self.notes.append(f"tested on {tests[0]}/; {unused} not used")
        splits = {}
        for split, name in (("train", train[0]), ("test", tests[0])):
            classes = self._list_folders(folders[name])
            splits[split] = self._list_classes(folders[name], classes)
        _check_same_classes(root / tests[0], splits)
        return splits

    def _list_folders(self, folder: Path) -> dict[str, Path]:
        """Lists the folders in a folder; other files there are skipped."""
        entries = self._scan(folder)
        self.skipped += [entry for entry in entries if not entry.is_dir()]
        return {entry.name: entry for entry in entries if entry.is_dir()}

    def _list_classes(self, folder: Path, folders: dict[str, Path]) -> Groups:
        if not folders:
            raise DatasetError(
                f"There are no class folders in {folder}; expected are {_EXPECTED}."
            )
        return {name: self._list_images(name, path) for name, path in folders.items()}

    def _list_images(self, name: str, folder: Path) -> list[Path]:
        """Lists the images of a class, also where one folder inside holds them all."""
        files = self._scan(folder)
        if len(files) == 1 and files[0].is_dir():
            files = self._scan(files[0])
        if not name.isprintable():
            raise DatasetError(
                f"The class folder {name!r} in {folder.parent} has characters that are "
                "no text; rename it."
            )
        if not files:
            raise DatasetError(f"Class {name!r} has no images in {folder}.")
        for file in files:
            if not file.is_file():
                raise DatasetError(
                    f"{file} does not belong here: images are expected in {folder}; "
                    f"the layouts are {_EXPECTED}."
                )
        return files

    def _scan(self, folder: Path) -> list[Path]:
        """Lists what is in a folder in natural order, hidden files left out."""
        names = [name for name in os.listdir(folder) if not is_hidden(name)]
        entries = [folder / name for name in sorted(names, key=natural_key)]
        root = self.root
        for entry in entries:
            if entry.is_symlink() and not entry.resolve().is_relative_to(
                root.resolve()
            ):
                raise DatasetError(f"{entry} is refused: it is a link out of {root}.")
        return entries


def _named(folders: dict[str, Path], names: Sequence[str]) -> list[str]:
    """Those folders that have one of the names in any case, in the names' order."""
    found = [name for name in folders if name.casefold() in names]
    return sorted(found, key=lambda name: names.index(name.casefold()))


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
