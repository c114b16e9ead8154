"""Reads sets that are one file of arrays: NumPy's and safetensors."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from d4a_jax.artifact import ArtifactError

_HEADER_BYTES = 8
_MOST_HEADER = 100_000_000
_TYPES = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4",
    "I32": "<i4", "U64": "<u8", "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8",
    "BF16": "<u2",
}  # fmt: skip


def read_npz(path: Path) -> dict[str, Any]:
    """Reads the arrays of an `.npz` file; strings become Python's.

    Raises:
      ArtifactError: the file cannot be read.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"images": loaded}
        with loaded:
            arrays = {name: loaded[name] for name in loaded.files}
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error}.") from None
    except Exception as error:  # pylint: disable=broad-except
        # NumPy parses headers as Python: damage shows as nearly anything.
        raise ArtifactError(f"{path} is damaged or no .npz file: {error}.") from None
    text = lambda x: x.item() if x.ndim == 0 and x.dtype.kind == "U" else x
    return {name: text(array) for name, array in arrays.items()}


def read_safetensors(path: Path) -> dict[str, Any]:
    """Reads the arrays of a safetensors file, and its header's metadata as strings.

    The format is a length, a JSON header of names and places, and the bytes, so that no
    package is needed. bfloat16 becomes float32.

    Raises:
      ArtifactError: the file cannot be read.
    """
    try:
        data = path.read_bytes()
        length = int.from_bytes(data[:_HEADER_BYTES], "little")
        if length > min(len(data), _MOST_HEADER):
            raise ValueError("its header is longer than the file")
        header = json.loads(data[_HEADER_BYTES : _HEADER_BYTES + length])
        body = memoryview(data)[_HEADER_BYTES + length :]
        more = header.pop("__metadata__", {})
        arrays = {name: _tensor(body, entry) for name, entry in header.items()}
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArtifactError(
            f"{path} is damaged or no safetensors file: {error}."
        ) from None
    return dict(more) | arrays


def _tensor(body, entry):
    first, last = entry["data_offsets"]
    if not 0 <= first <= last <= len(body):
        raise ValueError("an array reaches beyond the file")
    values = np.frombuffer(body[first:last], _TYPES[entry["dtype"]])
    if entry["dtype"] == "BF16":
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values.reshape(entry["shape"])
