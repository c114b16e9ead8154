"""Distilled datasets in the formats of other tools.

Every exporter is a function in `EXPORTERS` that takes an `ExportData` and a path that
does not exist yet, and writes a file or a directory there. `export_distilled` calls
it with a temporary path, so that an export is seen only when it is complete.
"""

import difflib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from d4a_jax.artifact import DistilledDataset
from d4a_jax.export.arrays import export_npz, export_safetensors, export_torch
from d4a_jax.export.content import ExportData, prepare
from d4a_jax.export.folders import export_imagefolder
from d4a_jax.export.huggingface import export_huggingface
from d4a_jax.export.tfds import export_tfds
from d4a_jax.log import logger
from d4a_jax.storage import fileio

EXPORTERS: dict[str, Callable[[ExportData, Path], None]] = {
    "imagefolder": export_imagefolder,
    "npz": export_npz,
    "safetensors": export_safetensors,
    "torch": export_torch,
    "tfds": export_tfds,
    "huggingface": export_huggingface,
}


def export_distilled(
    distilled: DistilledDataset,
    output: fileio.PathLike,
    format: str,
    formed: bool = False,
    license: str = "unknown",
    results: Mapping[str, Any] | None = None,
) -> None:
    """Writes a distilled dataset in the format of another tool.

    Learned labels go along, as an array or, where the export is a directory, as its
    file `label_logits.npy`. No format has a place for a teacher's labels of stored
    crops, so a set that has these is exported without them, which the log says.

    Args:
      distilled: what to write.
      output: file or directory to write, which must not exist.
      format: a name in `EXPORTERS`.
      formed: write the images that networks train on, rounded to 8 bits, instead of
        the stored ones.
      license: identifier of the licence on the card of `huggingface`, such as "mit".
      results: accuracies for that card, as `experiments/evaluate.py --output` writes
        them; by default those that the run recorded.

    Raises:
      ImportError: the format needs a package that is not installed.
      ValueError: the format is unknown, `output` exists, or the format cannot hold
        images with so many channels.
    """
    if format not in EXPORTERS:
        near = difflib.get_close_matches(format, EXPORTERS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ValueError(
            f"The format {format!r} is unknown (allowed: {', '.join(EXPORTERS)}){hint}"
        )
    output = Path(os.path.abspath(output))
    if output.exists():
        raise ValueError(f"{output} exists already; remove it or choose another path.")
    if distilled.soft_logits is not None:
        logger.warning("The teacher's labels are not exported; the hard ones are.")
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = fileio.temporary_sibling(output)
    try:
        data = prepare(distilled, formed)._replace(license=license, results=results)
        EXPORTERS[format](data, temporary)
        os.rename(temporary, output)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.unlink(missing_ok=True)
        raise
    fileio.sync_directory(output.parent)
