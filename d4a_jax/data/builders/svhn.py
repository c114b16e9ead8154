"""Street View House Numbers, cropped digits (Netzer et al. 2011)."""

from pathlib import Path

import numpy as np
import scipy.io

from d4a_jax.data.builders import base
from d4a_jax.data.errors import DatasetError


class SvhnCropped(base.Builder, skip_registration=True):
    """MATLAB files with X `[32, 32, 3, n]` and y `[n, 1]`, where 10 stands for 0."""

    def read_splits(self, dl_manager):
        """See the base class."""
        train, test = (self._read(path) for path in self.fetch(dl_manager))
        return list("0123456789"), train, test

    def _read(self, path: Path):
        try:
            data = scipy.io.loadmat(path, variable_names=("X", "y"))
            images, labels = data["X"], data["y"]
        # What loadmat raises on a damaged file depends on where the damage is.
        except Exception as error:
            raise DatasetError(
                f"The archive {path} is damaged: {type(error).__name__}: {error}."
            ) from error
        if (
            images.dtype != np.uint8
            or images.shape[:3] != (32, 32, 3)
            or labels.size != images.shape[-1]
        ):
            raise DatasetError(
                f"The archive {path} is damaged: X is {images.dtype} {images.shape} "
                f"and y has the shape {labels.shape}."
            )
        labels = labels.ravel().astype(np.int64)
        labels[labels == 10] = 0
        return base.encode_arrays(np.moveaxis(images, -1, 0), labels, 10, str(path))
