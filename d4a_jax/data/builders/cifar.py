"""CIFAR-10 and CIFAR-100 from their binary archives (Krizhevsky 2009)."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from d4a_jax.data import archives
from d4a_jax.data.builders import base
from d4a_jax.data.errors import DatasetError

_PIXELS = 3 * 32 * 32


class Cifar10(base.Builder, skip_registration=True):
    """Records of one label byte and 3,072 pixels, channel by channel."""

    folder_name = "cifar-10-batches-bin"
    train_files = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
    test_file = "test_batch.bin"
    names_file = "batches.meta.txt"
    label_bytes = 1

    def read_splits(self, dl_manager):
        """See the base class."""
        (path,) = self.fetch(dl_manager)
        files = (*self.train_files, self.test_file, self.names_file)
        members = archives.read_tar_members(
            path, [f"{self.folder_name}/{file}" for file in files]
        )
        lines = members[f"{self.folder_name}/{self.names_file}"].decode().split("\n")
        class_names = [line.strip() for line in lines if line.strip()]

        def read(files: tuple[str, ...]) -> Iterator[base.Example]:
            for file in files:
                data = members[f"{self.folder_name}/{file}"]
                yield from self._records(path, file, data, len(class_names))

        return class_names, read(self.train_files), read((self.test_file,))

    def _records(self, path: Path, file: str, data: bytes, num_classes: int):
        length = self.label_bytes + _PIXELS
        if not data or len(data) % length:
            raise DatasetError(
                f"The archive {path} is damaged: {file} has {len(data)} bytes, which "
                f"are not a multiple of {length}."
            )
        records = np.frombuffer(data, np.uint8).reshape(-1, length)
        images = records[:, self.label_bytes :].reshape(-1, 3, 32, 32)
        labels = records[:, self.label_bytes - 1].astype(np.int64)
        images = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
        yield from base.encode_arrays(images, labels, num_classes, f"{file} in {path}")


class Cifar100(Cifar10, skip_registration=True):
    """As CIFAR-10, with a coarse label before the fine one, which is used."""

    folder_name = "cifar-100-binary"
    train_files = ("train.bin",)
    test_file = "test.bin"
    names_file = "fine_label_names.txt"
    label_bytes = 2
