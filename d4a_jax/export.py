"""Distilled datasets in the formats of other tools.

Every exporter is a function in `EXPORTERS` that takes an `ExportData` and a path that
does not exist yet, and writes a file or a directory there. `export_distilled` calls
it with a temporary path, so that an export is seen only when it is complete.
"""

import difflib
import importlib
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from d4a_jax import fileio, gallery
from d4a_jax.artifact import DistilledDataset
from d4a_jax.log import logger


class ExportData(NamedTuple):
    """What an exporter gets.

    Attributes:
      images: uint8 `[n, h, w, c]`.
      labels: int32 `[n]`.
      segments: int32 `[n]`, 0-based.
      metadata: that of the distilled dataset, and `formed`, `decoding`: whether the
        images are decoded already, and what is to be done with them.
      label_logits: float16, logits of learned labels: `[n, classes]`, or
        `[n, factor**2, classes]` where the images are still to be cut into tiles; None
        where labels are hard.
    """

    images: np.ndarray
    labels: np.ndarray
    segments: np.ndarray
    metadata: dict[str, Any]
    label_logits: np.ndarray | None = None

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name."""
        names = ("images", "labels", "segments", "label_logits")
        arrays = {name: getattr(self, name) for name in names}
        return {name: array for name, array in arrays.items() if array is not None}


def export_distilled(
    distilled: DistilledDataset,
    output: fileio.PathLike,
    format: str,
    formed: bool = False,
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
        EXPORTERS[format](_prepare(distilled, formed), temporary)
        os.rename(temporary, output)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.unlink(missing_ok=True)
        raise
    fileio.sync_directory(output.parent)


def _prepare(distilled: DistilledDataset, formed: bool) -> ExportData:
    images, labels, segments = distilled.images, distilled.labels, distilled.segments
    # The metadata as they would be read from the disk: without NumPy's types.
    metadata = json.loads(fileio.dump_json(distilled.metadata))
    factor, logits = distilled.factor, distilled.label_logits
    metadata["stored_factor"] = factor
    if formed:
        decoded, labels = distilled.formed()
        images = np.rint(decoded * 255).astype(np.uint8)
        segments = np.tile(segments, factor**2)
        metadata["factor"] = 1
    metadata["formed"] = formed
    if logits is not None and metadata["factor"] > 1:
        logits = logits.reshape(factor**2, len(images), -1).swapaxes(0, 1)
    if metadata["factor"] == 1:
        decoding = "The images are complete; train on them as they are."
    else:
        decoding = (
            f"Cut each image into {factor} x {factor} tiles and resize every tile to "
            "the size of the image (bilinear) before training."
        )
    metadata["decoding"] = decoding + (
        " Divide by 255, subtract mean and divide by std, channel by channel."
    )
    if logits is not None:
        metadata["decoding"] += (
            " Train towards softmax(label_logits), by the cross-entropy"
            + (", with a label for each tile, row by row." if logits.ndim > 2 else ".")
        )
    return ExportData(images, labels, segments, metadata, logits)


def _export_imagefolder(data: ExportData, path: Path) -> None:
    """Writes `train/<label>_<class>/<number>_s<segment>.png`; folders sort by label."""
    for _ in _write_pngs(data, path / "train"):
        pass
    _describe(data, path)


def _export_npz(data: ExportData, path: Path) -> None:
    """Writes the arrays, class_names and metadata (JSON) as .npz."""
    content = io.BytesIO()
    np.savez_compressed(
        content,
        **data.arrays,
        class_names=np.array(data.metadata["class_names"]),
        metadata=np.array(_metadata_text(data, layout="NHWC")),
    )
    fileio.write_bytes_atomic(path, content.getvalue())


def _export_safetensors(data: ExportData, path: Path) -> None:
    """Writes the arrays, and the metadata as JSON in the file's header."""
    numpy_io = _require("safetensors.numpy", "safetensors")
    arrays = {name: np.ascontiguousarray(x) for name, x in data.arrays.items()}
    header = {"metadata": _metadata_text(data, layout="NHWC")}
    fileio.write_bytes_atomic(path, numpy_io.save(arrays, metadata=header))


def _export_torch(data: ExportData, path: Path) -> None:
    """Writes a dict of tensors that `torch.load(path, weights_only=True)` reads."""
    torch = _require("torch", "torch")
    channels_first = np.ascontiguousarray(data.images.transpose(0, 3, 1, 2))
    content = io.BytesIO()
    values = {
        "images": torch.from_numpy(channels_first),
        "labels": torch.from_numpy(data.labels.astype(np.int64)),
        "segments": torch.from_numpy(data.segments.astype(np.int64)),
        "metadata": _metadata_text(data, layout="NCHW"),
    }
    if data.label_logits is not None:
        logits = np.ascontiguousarray(data.label_logits)
        values["label_logits"] = torch.from_numpy(logits)
    torch.save(values, content)
    fileio.write_bytes_atomic(path, content.getvalue())


def _export_tfds(data: ExportData, path: Path) -> None:
    """Writes a dataset that `tfds.builder_from_directory(path)` reads."""
    tfds = _require("tensorflow_datasets", "tensorflow-datasets")
    _require("array_record", "array_record")
    _require("importlib_resources", "importlib_resources")
    path.mkdir()
    builder = _tfds_builder(tfds, data)(
        data_dir=path / "build", file_format="array_record"
    )
    builder.download_and_prepare()
    for file in Path(builder.data_dir).iterdir():
        file.rename(path / file.name)
    shutil.rmtree(path / "build")
    _describe(data, path)


def _tfds_builder(tfds, data: ExportData):
    features = {
        "image": tfds.features.Image(
            shape=data.images.shape[1:], dtype=np.uint8, encoding_format="png"
        ),
        "label": tfds.features.ClassLabel(names=_unique(data.metadata["class_names"])),
        "segment": np.int32,
    }

    class D4aDistilled(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                description=_summary(data),
                features=tfds.features.FeaturesDict(features),
                supervised_keys=("image", "label"),
                disable_shuffling=True,
            )

        def _split_generators(self, unused_download_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for index, image in enumerate(data.images):
                # Encoded bytes pass as they are; an array would need TensorFlow.
                png = io.BytesIO(gallery.encode_png(image))
                label, segment = data.labels[index], data.segments[index]
                yield index, {"image": png, "label": label, "segment": segment}

    return D4aDistilled


def _export_huggingface(data: ExportData, path: Path) -> None:
    """Writes an image folder with a card that `datasets.load_dataset(path)` reads."""
    rows = []
    for index, file in enumerate(_write_pngs(data, path / "train")):
        row = {"file_name": file, "label": int(data.labels[index])}
        rows.append(json.dumps(row | {"segment": int(data.segments[index])}) + "\n")
    (path / "train" / "metadata.jsonl").write_text("".join(rows), encoding="utf-8")
    names = {
        str(i): name for i, name in enumerate(_unique(data.metadata["class_names"]))
    }
    features = [
        {"name": "image", "dtype": "image"},
        {"name": "label", "dtype": {"class_label": {"names": names}}},
        {"name": "segment", "dtype": "int32"},
    ]
    files = [{"split": "train", "path": "train/**"}]
    # `datasets` looks its cache up by path and configuration: a name that stands for
    # the content keeps it from serving what lay at the same path before.
    digests = (fileio.sha256_array(array) for array in (data.images, data.labels))
    name = "-".join(["d4a", *(digest[:8] for digest in digests)])
    config = {"config_name": name, "data_files": files, "features": features}
    header = {
        "pretty_name": _title(data),
        "task_categories": ["image-classification"],
        "tags": ["dataset-distillation"],
        "configs": [config],
        "dataset_info": {"config_name": name, "features": features},
    }
    # JSON is YAML, and needs no rules for quoting the names of classes.
    lines = [f"{k}: {json.dumps(v, ensure_ascii=False)}" for k, v in header.items()]
    _describe(data, path, card="\n".join(["---", *lines, "---", "", ""]))


EXPORTERS: dict[str, Callable[[ExportData, Path], None]] = {
    "imagefolder": _export_imagefolder,
    "npz": _export_npz,
    "safetensors": _export_safetensors,
    "torch": _export_torch,
    "tfds": _export_tfds,
    "huggingface": _export_huggingface,
}


def _require(module: str, package: str):
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"This export format needs the package {package}: pip install {package}"
        ) from error


def _write_pngs(data: ExportData, root: Path) -> Iterator[str]:
    """Writes a PNG per image; yields their paths below `root`, in order."""
    digits = len(str(len(data.metadata["class_names"]) - 1))
    folders = []
    for label, name in enumerate(data.metadata["class_names"]):
        plain = re.sub(r"[^A-Za-z0-9.-]+", "_", name).strip("._") or "class"
        folders.append(f"{label:0{digits}d}_{plain}"[:100])
        (root / folders[-1]).mkdir(parents=True)
    for index, image in enumerate(data.images):
        folder = folders[data.labels[index]]
        file = f"{folder}/{index:06d}_s{data.segments[index]}.png"
        (root / file).write_bytes(gallery.encode_png(image))
        yield file


def _unique(names: list[str]) -> list[str]:
    """Appends its label to every name that occurs twice."""
    twice = {name for name in names if names.count(name) > 1}
    return [f"{n} ({i})" if n in twice else n for i, n in enumerate(names)]


def _metadata_text(data: ExportData, **more: Any) -> str:
    return fileio.dump_json(data.metadata | more).decode()


def _describe(data: ExportData, path: Path, card: str = "") -> None:
    """Writes what belongs to an exported directory besides the images.

    `metadata.json`, `README.md` and, where labels are learned, `label_logits.npy`.
    """
    if data.label_logits is not None:
        np.save(path / "label_logits.npy", data.label_logits)
    (path / "metadata.json").write_text(_metadata_text(data), encoding="utf-8")
    (path / "README.md").write_text(card + _readme(data), encoding="utf-8")


def _title(data: ExportData) -> str:
    return f"Distilled {data.metadata.get('dataset', 'dataset')}"


def _summary(data: ExportData) -> str:
    count, height, width, channels = data.images.shape
    kind = "formed" if data.metadata["formed"] else "stored"
    return (
        f"{count} {kind} images ({height} x {width} x {channels}, 8 bits) of "
        f"{len(data.metadata['class_names'])} classes, distilled from "
        f"{data.metadata.get('dataset', 'an image dataset')} by D4A."
    )


def _readme(data: ExportData) -> str:
    keys = ("mean", "std", "factor", "stored_factor")
    facts = "\n".join(f"- {key}: {json.dumps(data.metadata[key])}" for key in keys)
    return f"""# {_title(data)}

{_summary(data)}

{data.metadata["decoding"]}

{facts}

Columns:

- image: 8 bits a channel
- label: integer, position in `class_names` of `metadata.json`
- segment: integer from 0 (in names of PNG files: after `_s`); the first k segments
  are a dataset of their own

`metadata.json` holds the provenance: configuration, versions, seed, digests.
{_label_note(data)}"""


def _label_note(data: ExportData) -> str:
    if data.label_logits is None:
        return ""
    return f"""
`label_logits.npy` (float16 {list(data.label_logits.shape)}) holds the logits of labels
that were learned with the images, in the order of the images (with PNG files, that of
the numbers in their names).
"""
