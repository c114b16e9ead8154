"""Archives and unpacked folders as trees of named files, and the checks on them."""

import contextlib
import gzip
import os
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from d4a_jax.data.catalogue import Archive, Source
from d4a_jax.data.errors import DatasetError
from d4a_jax.storage import fileio

HIDDEN = frozenset({"Thumbs.db", "desktop.ini", "__MACOSX"})

_BROKEN = (
    OSError,
    EOFError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    # zipfile says so of encrypted members and of unknown compressions.
    RuntimeError,
    NotImplementedError,
)


def is_hidden(name: str) -> bool:
    """Whether a file belongs to the system and not to the data, as `.DS_Store`."""
    return name.startswith(".") or name in HIDDEN


def natural_key(name: str) -> list:
    """Sort key that puts `val_10` behind `val_9`."""
    # Odd places hold the numbers, so that numbers are only compared with numbers.
    parts = re.split(r"(\d+)", name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)] + [name]


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns the errors of reading an archive into one that names it."""
    try:
        yield
    except DatasetError:
        raise
    except _BROKEN as error:
        raise DatasetError(f"The archive {path} is damaged: {error}.") from None


def check_member_name(archive: Path, name: str) -> None:
    """Refuses a member that would be unpacked outside of its folder.

    Raises:
      DatasetError: the name is absolute or has `..` in it.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", name):
        raise DatasetError(
            f"The archive {archive} is refused: its member {name!r} would be unpacked "
            "outside of its folder."
        )


def verify_archive(path: Path, archive: Archive) -> None:
    """Compares an archive with the published one.

    Raises:
      DatasetError: the SHA-256 differs.
    """
    with reading(path):
        found = fileio.sha256_file(path)
    if found != archive.sha256:
        raise DatasetError(
            f"The archive {path} is damaged or another one: its SHA-256 is {found}, "
            f"the published one {archive.sha256}; delete it and get it again."
        )


def locate(
    name: str, source: Source, manual_dir: Path, download: bool
) -> dict[str, Path | None]:
    """Looks for the files of a data set in the manual directory.

    Args:
      name: of the data set.
      source: its catalogue entry.
      manual_dir: where the user puts archives.
      download: whether missing archives may be downloaded.

    Returns:
      The path of each archive by its file name, None for those to download; or the
      unpacked folder by the empty name, where it is there and the archives are not.

    Raises:
      DatasetError: a file is missing and is not to be downloaded.
    """
    found = {}
    for archive in source.archives:
        path = manual_dir / archive.filename
        found[archive.filename] = path if path.is_file() else None
    if source.archives and None not in found.values():
        return found
    for folder in source.folders:
        if (manual_dir / folder).is_dir():
            return {"": manual_dir / folder}
    missing = [a for a in source.archives if found[a.filename] is None]
    if source.archives and download and all(archive.url for archive in missing):
        return found
    wanted = [f"the file {archive.filename}" for archive in missing]
    wanted += [f"the unpacked folder {folder}" for folder in source.folders]
    joint = " or " if source.folders else " and "
    urls = [archive.url for archive in missing if archive.url]
    raise DatasetError(
        f"Data set {name!r} is not there: put {joint.join(wanted)} into {manual_dir} "
        f"(from {', '.join(urls) or source.home})"
        + (", or allow the download." if urls else ".")
    )


class Folder:
    """A folder as a tree of files."""

    def __init__(self, root: Path):
        """Lists the files below `root`, hidden ones left out."""
        self.path = root
        names = []
        for directory, subdirectories, files in os.walk(root):
            subdirectories[:] = [d for d in subdirectories if not is_hidden(d)]
            base = Path(directory).relative_to(root)
            names += [(base / f).as_posix() for f in files if not is_hidden(f)]
        self.names = frozenset(names)

    def where(self, name: str) -> str:
        """Returns how to name a file to the user."""
        return str(self.path / name)

    def read(self, name: str) -> bytes:
        """Returns the content of a file."""
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise DatasetError(f"{self.where(name)} cannot be read: {error}.") from None


class Zip:
    """A zip archive as a tree of files below its one top folder."""

    def __init__(self, path: Path, top: str):
        """Lists the files below the folder `top` of the archive `path`.

        Raises:
          DatasetError: the archive is damaged or has members outside of its folder.
        """
        self.path = path
        self._top = top
        with reading(path):
            self._file = zipfile.ZipFile(path)
            names = self._file.namelist()
        for name in names:
            check_member_name(path, name)
        self.names = frozenset(
            name.removeprefix(f"{top}/")
            for name in names
            if name.startswith(f"{top}/") and not is_hidden(PurePosixPath(name).name)
            if not name.endswith("/")
        )

    def where(self, name: str) -> str:
        """Returns how to name a member to the user."""
        return f"{self._top}/{name} in {self.path}"

    def read(self, name: str) -> bytes:
        """Returns the content of a member."""
        with reading(self.path):
            return self._file.read(f"{self._top}/{name}")


Tree = Folder | Zip


def read_text(tree: Tree, name: str) -> list[str]:
    """Returns the lines of a text file that must be there.

    Raises:
      DatasetError: it is missing or no text.
    """
    if name not in tree.names:
        raise DatasetError(f"{tree.where(name)} is missing.")
    try:
        return tree.read(name).decode().splitlines()
    except UnicodeDecodeError:
        raise DatasetError(f"{tree.where(name)} is damaged: it is no text.") from None


def group_by_folder(tree: Tree, prefix: str, depth: int) -> dict[str, list[str]]:
    """Groups the files at a depth below `prefix` by the first folder there.

    Args:
      tree: where to look.
      prefix: folder, such as `train`.
      depth: 2 for `train/<class>/<file>`, 3 for `train/<class>/images/<file>`.

    Returns:
      The files of each class in natural order, classes sorted.
    """
    groups: dict[str, list[str]] = {}
    for name in tree.names:
        parts = name.split("/")
        if parts[0] == prefix and len(parts) > 2:
            files = groups.setdefault(parts[1], [])
            if len(parts) == depth + 1:
                files.append(name)
    return {label: sorted(groups[label], key=natural_key) for label in sorted(groups)}


def read_tar_members(path: Path, wanted: Iterable[str]) -> dict[str, bytes]:
    """Reads some files of a tar archive, compressed or not.

    Raises:
      DatasetError: the archive is damaged, lacks one of them, or has members outside of
        its folder.
    """
    wanted = set(wanted)
    contents = {}
    with reading(path), tarfile.open(path) as tar:
        for member in tar:
            check_member_name(path, member.name)
            if member.name in wanted and member.isfile():
                contents[member.name] = tar.extractfile(member).read()
    if missing := sorted(wanted - contents.keys()):
        raise DatasetError(f"The archive {path} lacks its member {missing[0]}.")
    return contents


def extract_tar(path: Path, directory: Path) -> None:
    """Unpacks a tar archive whose members all stay inside of `directory`.

    Raises:
      DatasetError: the archive is damaged, or has links or names that lead outside.
    """

    def check(member: tarfile.TarInfo, destination: str) -> tarfile.TarInfo:
        check_member_name(path, member.name)
        try:
            return tarfile.data_filter(member, destination)
        except tarfile.FilterError as error:
            raise DatasetError(f"The archive {path} is refused: {error}.") from None

    with reading(path), tarfile.open(path) as tar:
        tar.extractall(directory, filter=check)


def read_gzip(path: Path) -> bytes:
    """Returns the unpacked content of a `.gz` file."""
    with reading(path), gzip.open(path) as file:
        return file.read()
