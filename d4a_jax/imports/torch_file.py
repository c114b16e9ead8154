"""Reads the tensors of a `.pt` file without PyTorch, and without running any of it.

`torch.save` writes a ZIP file: a pickle that describes the values, and the bytes of
each storage beside it. The pickle is read with a list of what it may name: tensors,
storages, plain containers and NumPy's scalars, which stand beside the tensors of some
published sets. All else, which is any other code, is refused.
"""

import collections
import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from d4a_jax.artifact import ArtifactError

# A tensor may repeat its storage; this many elements are no sign of an attack.
_MOST_REPEATED = 1 << 24

_STORAGES = {
    "FloatStorage": "f4",
    "DoubleStorage": "f8",
    "HalfStorage": "f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
_SCALARS = frozenset("?bhilqBHILQefd") | {f"{k}{n}" for k in "iuf" for n in "1248"}


def read_torch(path: Path) -> Any:
    """Reads a `.pt` file; its tensors become NumPy arrays.

    Args:
      path: written by `torch.save` of PyTorch 1.6 or later.

    Returns:
      The value: arrays, numbers and strings in lists, tuples and dictionaries.
      bfloat16 becomes float32.

    Raises:
      ArtifactError: the file is no such file, is damaged, or holds something else than
        tensors, numbers, strings and containers of these.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _read_archive(archive)
    except zipfile.BadZipFile:
        raise ArtifactError(
            f"{path} is not a file that torch.save of PyTorch 1.6 or later wrote; load "
            "it with PyTorch and save it again."
        ) from None
    except _RefusedError as error:
        raise ArtifactError(f"{path} {error}") from None
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}.") from None
    except Exception as error:  # pylint: disable=broad-except
        # A damaged pickle shows as nearly anything.
        raise ArtifactError(f"{path} is damaged: {error}.") from None


class _RefusedError(Exception):
    """A part that is not read; the message goes on after the name of the file."""


class _Storage(NamedTuple):
    """The values of a storage, flat."""

    values: np.ndarray


class _Allowed:
    """A callable that a pickle may name and nothing can change."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable):
        object.__setattr__(self, "_function", function)

    def __call__(self, *arguments):
        return self._function(*arguments)

    def __setattr__(self, name, value):
        raise _RefusedError(f"sets the attribute {name!r}, which is refused.")


class _ScalarType:
    """NumPy's description of a scalar, as a pickle builds it."""

    __slots__ = ("_code", "_order")

    def __init__(self, code: Any, *unused_flags):
        if code not in _SCALARS:
            raise _RefusedError(f"holds NumPy values of type {code!r}; numbers can be.")
        self._code, self._order = code, "="

    def __setstate__(self, state):
        self._order = {"<": "<", ">": ">"}.get(state[1], "=")

    def value(self, data: bytes):
        """The scalar of these bytes."""
        dtype = np.dtype(self._code).newbyteorder(self._order)
        return np.frombuffer(data, dtype, count=1)[0].item()


def _scalar(kind, data):
    return kind.value(data)


def _encode(text, encoding):
    if encoding not in ("latin1", "latin-1"):
        raise _RefusedError(f"encodes text as {encoding!r}, which is refused.")
    return text.encode("latin1")


def _tensor(storage, offset, size, stride, *unused):
    values, count = storage.values, int(np.prod(size, dtype=object))
    whole = all(isinstance(n, int) and n >= 0 for n in (offset, *size, *stride))
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if not whole or (count and last >= len(values)):
        raise _RefusedError("is damaged: a tensor reaches beyond its storage.")
    if count > max(len(values), _MOST_REPEATED):
        raise _RefusedError(f"holds a tensor of {count} repeated values.")
    if not count:
        return np.empty(size, values.dtype)
    strides = [step * values.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(values[offset:], size, strides).copy()


def _parameter(tensor, *unused):
    return tensor


_NAMES: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("numpy", "dtype"): _ScalarType,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    """Builds nothing but what `_NAMES` and `_STORAGES` hold."""

    def __init__(self, data: bytes, read_storage: Callable):
        super().__init__(io.BytesIO(data), encoding="latin1")
        self._read_storage = read_storage

    def find_class(self, module, name):
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if (module, name) not in _NAMES:
            raise _RefusedError(
                f"holds {module}.{name}, which is refused: only tensors, numbers, "
                "strings, lists, tuples and dictionaries are read."
            )
        return _Allowed(_NAMES[module, name])

    def persistent_load(self, pid):
        kind, dtype, key, _, count = pid
        if kind != "storage" or dtype not in _STORAGES.values():
            raise _RefusedError(f"refers to {kind!r}, which is refused.")
        return self._read_storage(str(key), dtype, count)


def _read_archive(archive: zipfile.ZipFile) -> Any:
    inside = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(inside) != 1:
        raise _RefusedError("is a ZIP file, but none that torch.save wrote.")
    root = inside[0].removesuffix("data.pkl")
    order = ">" if _byte_order(archive, root) == b"big" else "<"
    storages: dict[str, _Storage] = {}

    def read_storage(key, dtype, count):
        if key not in storages:
            data = _member(archive, f"{root}data/{key}")
            storages[key] = _Storage(_values(data, dtype, order, count))
        return storages[key]

    return _Unpickler(_member(archive, inside[0]), read_storage).load()


def _byte_order(archive, root):
    name = f"{root}byteorder"
    return _member(archive, name) if name in archive.namelist() else b"little"


def _member(archive, name):
    # torch.save compresses nothing; what unpacks to more than the file is not its work.
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise _RefusedError("is a compressed ZIP file, which torch.save never writes.")
    return archive.read(name)


def _values(data, dtype, order, count):
    stored = np.dtype("u2" if dtype == "bfloat16" else dtype).newbyteorder(order)
    values = np.frombuffer(data, stored, count=count)
    native = values.astype(stored.newbyteorder("="), copy=False)
    if dtype == "bfloat16":
        return (native.astype(np.uint32) << 16).view(np.float32)
    return native
