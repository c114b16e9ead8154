"""Exports for TensorFlow Datasets."""

import io
import shutil
from pathlib import Path

import numpy as np

from d4a_jax.artifact import gallery
from d4a_jax.export import content
from d4a_jax.export.content import ExportData


def export_tfds(data: ExportData, path: Path) -> None:
    """Writes a dataset that `tfds.builder_from_directory(path)` reads."""
    tfds = content.require("tensorflow_datasets", "tensorflow-datasets")
    content.require("array_record", "array_record")
    content.require("importlib_resources", "importlib_resources")
    path.mkdir()
    builder = _tfds_builder(tfds, data)(
        data_dir=path / "build", file_format="array_record"
    )
    builder.download_and_prepare()
    for file in Path(builder.data_dir).iterdir():
        file.rename(path / file.name)
    shutil.rmtree(path / "build")
    content.describe(data, path)


def _tfds_builder(tfds, data: ExportData):
    names = content.unique_names(data.metadata["class_names"])
    features = {
        "image": tfds.features.Image(
            shape=data.images.shape[1:], dtype=np.uint8, encoding_format="png"
        ),
        "label": tfds.features.ClassLabel(names=names),
        "segment": np.int32,
    }

    class D4aDistilled(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                description=content.summary(data),
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
