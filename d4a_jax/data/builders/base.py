"""What the builders share."""

import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from d4a_jax.data import archives
from d4a_jax.data.catalogue import VERSION, Source
from d4a_jax.data.errors import DatasetError

# An encoded image, its label, and the name of its file for messages.
Example = tuple[bytes, int, str]


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A tfds builder for one entry of the catalogue.

    It writes array_record files in the order of its examples, which are the only format
    and the only order that need no TensorFlow. A subclass says what the examples are.
    """

    VERSION = tfds.core.Version(VERSION)

    def __init__(
        self,
        *,
        name: str,
        source: Source,
        located: dict[str, Path | None],
        data_dir: Path,
    ):
        """Makes the builder.

        Args:
          name: of the data set; the prepared copy is called `d4a_<name>`, since it is
            not in the order of tfds's own.
          source: its catalogue entry.
          located: result of `archives.locate`.
          data_dir: where prepared copies stand.
        """
        self.name = f"d4a_{name}"
        self.source = source
        self._located = located
        super().__init__(data_dir=data_dir, file_format="array_record")

    def read_splits(
        self, dl_manager: tfds.download.DownloadManager
    ) -> tuple[list[str], Iterable[Example], Iterable[Example]]:
        """Returns the class names, the training and the test examples."""
        raise NotImplementedError

    def fetch(self, dl_manager: tfds.download.DownloadManager) -> list[Path]:
        """Returns the data set's archives, downloaded where necessary and verified.

        Raises:
          DatasetError: a download fails, or an archive is not the published one.
        """
        paths = []
        for archive in self.source.archives:
            path = self._located[archive.filename]
            if path is None:
                try:
                    path = Path(dl_manager.download(archive.url))
                except Exception as error:
                    raise DatasetError(
                        f"{archive.filename} cannot be downloaded from {archive.url} "
                        f"({type(error).__name__}: {error}); get it by other means and "
                        "put it into the manual directory."
                    ) from error
            archives.verify_archive(path, archive)
            paths.append(path)
        return paths

    @property
    def folder(self) -> Path | None:
        """The unpacked folder, where the archives are not used."""
        return self._located.get("")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            disable_shuffling=True,
            homepage=self.source.home,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(
                        shape=self.source.shape or (None, None, 3)
                    ),
                    "label": tfds.features.ClassLabel(),
                    "file": tfds.features.Text(),
                }
            ),
        )

    def _split_generators(self, dl_manager):
        class_names, train, test = self.read_splits(dl_manager)
        self.info.features["label"].names = class_names
        return {
            "train": self._generate_examples(train),
            self.source.test_split: self._generate_examples(test),
        }

    def _generate_examples(self, examples):
        for key, (image, label, file) in enumerate(examples):
            yield key, {"image": image, "label": label, "file": file}


def encode_png(image: np.ndarray) -> bytes:
    """Encodes uint8 `[h, w, c]`, c = 1 or 3, without loss."""
    buffer = io.BytesIO()
    pixels = image[..., 0] if image.shape[2] == 1 else image
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def encode_arrays(
    images: np.ndarray, labels: np.ndarray, num_classes: int, what: str
) -> Iterator[Example]:
    """Yields the examples of uint8 `[n, h, w, c]` and integers `[n]`.

    Raises:
      DatasetError: a label is out of range.
    """
    for row, (image, label) in enumerate(zip(images, labels, strict=True)):
        if not 0 <= label < num_classes:
            raise DatasetError(
                f"Image {row} of {what} has the label {label}; 0 to {num_classes - 1} "
                "are possible."
            )
        yield encode_png(image), int(label), f"image {row} of {what}"


def encode_files(
    tree: archives.Tree, groups: dict[str, list[str]], class_names: list[str]
) -> Iterator[Example]:
    """Yields the files of each class, whose label is its place in `class_names`."""
    for label, class_name in enumerate(class_names):
        for name in groups[class_name]:
            yield tree.read(name), label, tree.where(name)


def check_groups(
    tree: archives.Tree, prefix: str, groups: dict[str, list[str]], classes: list[str]
) -> None:
    """Checks that a split has images of exactly these classes.

    Raises:
      DatasetError: a class has no image, or is not among `classes`.
    """
    for class_name in classes:
        if not groups.get(class_name):
            folder = tree.where(f"{prefix}/{class_name}")
            raise DatasetError(f"Class {class_name!r} has no images in {folder}.")
    if strange := sorted(groups.keys() - set(classes)):
        folder = tree.where(f"{prefix}/{strange[0]}")
        raise DatasetError(f"The folder {folder} belongs to no known class.")
