"""Exports of all arrays in one file: NumPy, safetensors, PyTorch."""

import io
from pathlib import Path

import numpy as np

from d4a_jax.export import content
from d4a_jax.export.content import ExportData
from d4a_jax.storage import fileio


def export_npz(data: ExportData, path: Path) -> None:
    """Writes the arrays, class_names and metadata (JSON) as .npz."""
    stream = io.BytesIO()
    np.savez_compressed(
        stream,
        **data.arrays,
        class_names=np.array(data.metadata["class_names"]),
        metadata=np.array(content.metadata_text(data, layout="NHWC")),
    )
    fileio.write_bytes_atomic(path, stream.getvalue())


def export_safetensors(data: ExportData, path: Path) -> None:
    """Writes the arrays, and the metadata as JSON in the file's header."""
    numpy_io = content.require("safetensors.numpy", "safetensors")
    arrays = {name: np.ascontiguousarray(x) for name, x in data.arrays.items()}
    header = {"metadata": content.metadata_text(data, layout="NHWC")}
    fileio.write_bytes_atomic(path, numpy_io.save(arrays, metadata=header))


def export_torch(data: ExportData, path: Path) -> None:
    """Writes a dict of tensors that `torch.load(path, weights_only=True)` reads."""
    torch = content.require("torch", "torch")
    channels_first = np.ascontiguousarray(data.images.transpose(0, 3, 1, 2))
    stream = io.BytesIO()
    values = {
        "images": torch.from_numpy(channels_first),
        "labels": torch.from_numpy(data.labels.astype(np.int64)),
        "segments": torch.from_numpy(data.segments.astype(np.int64)),
        "metadata": content.metadata_text(data, layout="NCHW"),
    }
    if data.label_logits is not None:
        logits = np.ascontiguousarray(data.label_logits)
        values["label_logits"] = torch.from_numpy(logits)
    torch.save(values, stream)
    fileio.write_bytes_atomic(path, stream.getvalue())
