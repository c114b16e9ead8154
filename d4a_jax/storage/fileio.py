"""Files that survive a crash: atomic writes, digests and a lock on a directory.

A write goes to a temporary name beside its target, is flushed to the disk and then
renamed, so that a reader sees the old content or the new one, never a part.
"""

import contextlib
import ctypes
import errno
import hashlib
import io
import itertools
import json
import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from d4a_jax.log import logger

try:
    import fcntl
except ImportError:  # Not a POSIX system: directories are then not locked.
    fcntl = None

PathLike = str | os.PathLike[str]

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_SEAL_BYTES = 32


def temporary_sibling(path: PathLike) -> Path:
    """Returns an unused hidden name in the directory of `path`.

    Plain creation is left to the caller: `tempfile` would make files and directories
    that only their owner can read.
    """
    path = Path(os.path.abspath(path))
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def sync_directory(path: PathLike) -> None:
    """Flushes a directory's entries to the disk, where the file system can do so."""
    # Network and user-space file systems may refuse; the rename has happened anyway.
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _atomic_file(path: PathLike) -> Iterator[BinaryIO]:
    """Opens a temporary file that replaces `path` when the block ends well."""
    path = Path(os.path.abspath(path))
    temporary = temporary_sibling(path)
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_bytes_atomic(path: PathLike, data: bytes) -> None:
    """Writes `data` to `path`, replacing what is there only when it is complete.

    Args:
      path: file to write; its directory exists.
      data: the whole content.
    """
    with _atomic_file(path) as file:
        file.write(data)


def write_json_atomic(path: PathLike, value: Any) -> None:
    """Writes `value` as strict JSON, see `dump_json`."""
    write_bytes_atomic(path, dump_json(value))


def save_array_atomic(path: PathLike, array: np.ndarray) -> None:
    """Writes `array` in NumPy's `.npy` format; objects are refused.

    Args:
      path: file to write, with its extension.
      array: array of a plain dtype.

    Raises:
      ValueError: the array holds Python objects.
    """
    with _atomic_file(path) as file:
        np.save(file, np.asarray(array), allow_pickle=False)


def save_sealed_array(path: PathLike, array: np.ndarray) -> None:
    """Writes `array` as `save_array_atomic` does, with the content's SHA-256 behind it.

    NumPy's own `load` reads the file as well: it stops at the end of the array.
    """
    content = io.BytesIO()
    np.save(content, np.asarray(array), allow_pickle=False)
    seal = hashlib.sha256(content.getbuffer()).digest()
    write_bytes_atomic(path, content.getvalue() + seal)


def load_sealed_array(path: PathLike) -> np.ndarray:
    """Reads what `save_sealed_array` wrote.

    Raises:
      ValueError: the file is damaged.
      OSError: it cannot be read.
    """
    data = Path(path).read_bytes()
    content, seal = data[:-_SEAL_BYTES], data[-_SEAL_BYTES:]
    if hashlib.sha256(content).digest() != seal:
        raise ValueError(f"{path} is damaged: its SHA-256 does not match.")
    return np.load(io.BytesIO(content), allow_pickle=False)


def put_aside(path: PathLike, directory: PathLike) -> Path:
    """Moves a file or directory that is no good into a directory for such.

    Args:
      path: what to move.
      directory: on the same file system; made where it does not exist.

    Returns:
      Its new path: that of the same name there, numbered where it exists.
    """
    path, directory = Path(path), Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    numbered = (f"{path.name}-{n}" for n in itertools.count(1))
    names = itertools.chain([path.name], numbered)
    target = next(directory / n for n in names if not (directory / n).exists())
    os.rename(path, target)
    return target


def remove_leftovers(directory: PathLike) -> None:
    """Deletes what writers that were killed left directly in a directory.

    Nobody else may be writing there.
    """
    for pattern in (".*.tmp", ".*.old"):
        for leftover in Path(directory).glob(pattern):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


def dump_json(value: Any) -> bytes:
    """Serializes a value to the one JSON text that stands for it.

    Args:
      value: nested dicts, lists and tuples of plain or NumPy scalars, strings, paths
        and arrays. Arrays become lists.

    Returns:
      UTF-8 bytes with sorted keys, two spaces of indentation and a final newline.

    Raises:
      ValueError: the value holds something else, or a number that is not finite.
    """
    try:
        text = json.dumps(
            value, indent=2, sort_keys=True, allow_nan=False, default=_plain
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"The value cannot be written as JSON: {error}.") from error
    return (text + "\n").encode()


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "__array__"):
        return np.asarray(value).tolist()
    raise TypeError(f"a value of type {type(value).__name__} has no JSON form")


def sha256_file(path: PathLike) -> str:
    """Returns the SHA-256 of a file's content as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_array(array: np.ndarray) -> str:
    """Returns the SHA-256 of an array's dtype, shape and values.

    Args:
      array: array of a plain dtype, in any memory order.

    Returns:
      64 hexadecimal digits, equal for equal arrays on every machine.
    """
    array = np.asarray(array)
    array = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<")))
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(array.tobytes())
    return digest.hexdigest()


def replace_directory_atomic(tmp_dir: PathLike, final_dir: PathLike) -> None:
    """Puts a finished directory in the place of another one, and deletes that one.

    On Linux the two names are exchanged in a single step. Where the file system
    cannot do that, the old directory is renamed to `.NAME.old` for the moment between
    two renames: after a crash right there it is found under that name, whole.

    Args:
      tmp_dir: complete directory on the same file system.
      final_dir: name it shall have; may or may not exist.
    """
    tmp_dir, final_dir = (Path(os.path.abspath(p)) for p in (tmp_dir, final_dir))
    sync_directory(tmp_dir)
    if not final_dir.exists():
        os.rename(tmp_dir, final_dir)
    elif _exchange(tmp_dir, final_dir):
        shutil.rmtree(tmp_dir, ignore_errors=True)
    else:
        old = final_dir.with_name(f".{final_dir.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        os.rename(final_dir, old)
        try:
            os.rename(tmp_dir, final_dir)
        except BaseException:
            os.rename(old, final_dir)
            raise
        shutil.rmtree(old, ignore_errors=True)
    sync_directory(final_dir.parent)


def _exchange(first: Path, second: Path) -> bool:
    """Swaps two names with Linux's renameat2; False where that is unavailable."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    names = os.fsencode(first), os.fsencode(second)
    result = renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE)
    return result == 0


class WorkdirBusyError(RuntimeError):
    """Another process is using the working directory."""


class WorkdirLock:
    """Keeps a second process out of a working directory.

    The lock belongs to the process, not to the file: it ends with the process however
    that ends, so a file left behind by a dead one blocks nobody.

        with WorkdirLock(workdir):
            ...
    """

    def __init__(self, path: PathLike):
        """Prepares the lock.

        Args:
          path: the working directory; made where it does not exist.
        """
        self._workdir = Path(path)
        self._path = self._workdir / ".lock"
        self._file = None

    def __enter__(self) -> "WorkdirLock":
        """Takes the lock.

        Raises:
          WorkdirBusyError: another process holds it; the message says which.
        """
        self._workdir.mkdir(parents=True, exist_ok=True)
        file = open(self._path, "a+", encoding="utf-8")
        try:
            self._acquire(file)
        except BaseException:
            file.close()
            raise
        owner = {"pid": os.getpid(), "host": socket.gethostname()}
        file.truncate(0)
        file.write(json.dumps(owner | {"started": time.time()}))
        file.flush()
        self._file = file
        return self

    def _acquire(self, file) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise WorkdirBusyError(self._refusal(file)) from None
            logger.warning("Cannot lock %s (%s); going on without.", self._path, error)

    def _refusal(self, file) -> str:
        try:
            file.seek(0)
            owner = json.loads(file.read())
            who = f"process {owner['pid']} on {owner['host']}"
        except (ValueError, KeyError, TypeError):
            who = "another process"
        return (
            f"The working directory {self._workdir} is in use by {who}; wait for it "
            "to end or choose another directory."
        )

    def __exit__(self, *unused_exception) -> None:
        """Gives the lock back."""
        if self._file is None:
            return
        self._file.truncate(0)
        if fcntl is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(self._file, fcntl.LOCK_UN)
        self._file.close()
        self._file = None
