"""MNIST (LeCun et al. 1998) and Fashion-MNIST (Xiao et al. 2017) from idx files."""

import struct
from pathlib import Path

import numpy as np

from d4a_jax.data import archives
from d4a_jax.data.builders import base
from d4a_jax.data.errors import DatasetError


def read_idx(path: Path, rank: int) -> np.ndarray:
    """Reads a gzipped idx file of unsigned bytes.

    The format: two zero bytes, the type (8: unsigned byte), the rank, the dimensions as
    big-endian 32-bit integers, the values.

    Args:
      path: of the file.
      rank: the rank it must have.

    Returns:
      uint8 array of that rank.

    Raises:
      DatasetError: the file is damaged or another one.
    """
    data = archives.read_gzip(path)
    header = 4 + 4 * rank
    if len(data) < header or data[:4] != bytes((0, 0, 8, rank)):
        raise DatasetError(
            f"The archive {path} is damaged: it is no idx file of bytes of rank {rank}."
        )
    shape = struct.unpack(f">{rank}I", data[4:header])
    if len(data) - header != np.prod(shape, dtype=np.int64):
        raise DatasetError(
            f"The archive {path} is damaged: it has {len(data) - header} values, which "
            f"do not fit its shape {shape}."
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


class Mnist(base.Builder, skip_registration=True):
    """Two idx files per split, images and labels."""

    class_names = tuple("0123456789")

    def read_splits(self, dl_manager):
        """See the base class."""
        paths = self.fetch(dl_manager)
        train, test = (self._read(*pair) for pair in (paths[:2], paths[2:]))
        return list(self.class_names), train, test

    def _read(self, images_path: Path, labels_path: Path):
        images = read_idx(images_path, 3)
        labels = read_idx(labels_path, 1)
        if len(images) != len(labels):
            raise DatasetError(
                f"{images_path} has {len(images)} images, but {labels_path} has "
                f"{len(labels)} labels."
            )
        return base.encode_arrays(
            images[..., None], labels, len(self.class_names), str(images_path)
        )


class FashionMnist(Mnist, skip_registration=True):
    """As MNIST, of clothes."""

    class_names = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
