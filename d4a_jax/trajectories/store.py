"""Trajectories on the disk: one plain NumPy file for each expert, and its SHA-256.

    expert-007.npy         the parameters after every epoch, and before the first
    expert-007.npy.sha256  digest of that file
    about.json             what the experts are, for people

In float32 the file is `[1 + epochs, d]`. In bfloat16 it takes half of that: uint16
`[2 + epochs, d]`, whose first two rows hold the bits of the float32 parameters theta_0
and row t + 1 those of theta_t - theta'_{t-1} in bfloat16, where theta'_{t-1} is what is
read back for the epoch before. So the error of an epoch is made good by the next one.
Trajectory matching looks at differences between epochs: rounding these leaves an error
of about 0.1 % of what is matched, rounding the parameters themselves one of 10 %.
"""

from pathlib import Path

import ml_dtypes
import numpy as np

from d4a_jax.log import logger
from d4a_jax.storage import fileio

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def stored_bytes(experts: int, epochs: int, size: int, dtype: str) -> int:
    """Bytes of parameters that a store takes.

    Args:
      experts: how many.
      epochs: that each was trained for.
      size: numbers that a network has.
      dtype: "float32" or "bfloat16".
    """
    rows = 4 * (1 + epochs) if dtype == "float32" else 2 * (2 + epochs)
    return experts * rows * size


class ExpertStore:
    """The trajectories in a directory, made where it does not exist.

    Args:
      directory: for experts of one data set and recipe.
      epochs: that each was trained for.
      size: numbers that a network has, d.
      dtype: "float32" or "bfloat16"; experts are read as float32 in both cases.
    """

    def __init__(self, directory: fileio.PathLike, epochs: int, size: int, dtype: str):
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.epochs, self.size, self.dtype = epochs, size, dtype
        self._open: dict[int, np.ndarray] = {}

    def path(self, expert: int) -> Path:
        """The file of an expert."""
        return self.directory / f"expert-{expert:03d}.npy"

    def missing(self, count: int) -> list[int]:
        """Which of the first `count` experts are not there, or not as written.

        Reads every file. A damaged one is named in the log and left for `write` to
        replace.
        """
        return [expert for expert in range(count) if not self._is_intact(expert)]

    def write(self, expert: int, snapshots: np.ndarray) -> None:
        """Stores a trajectory, float32 `[1 + epochs, d]`, all of it or nothing."""
        snapshots = np.asarray(snapshots, np.float32)
        if snapshots.shape != (1 + self.epochs, self.size):
            raise ValueError(
                f"a trajectory of shape {snapshots.shape} cannot be stored; it must "
                f"be {(1 + self.epochs, self.size)}."
            )
        self._open.pop(expert, None)
        path = self.path(expert)
        _digest_path(path).unlink(missing_ok=True)
        fileio.save_array_atomic(path, self._encode(snapshots))
        fileio.write_bytes_atomic(_digest_path(path), _digest_line(path))

    def read(self, expert: int, epoch: int) -> np.ndarray:
        """The parameters of an expert after an epoch, float32 `[d]`; 0 is its start."""
        if not 0 <= epoch <= self.epochs:
            raise ValueError(
                f"epoch is {epoch}; experts were trained for 0 to {self.epochs} epochs."
            )
        if expert not in self._open:
            path = self.path(expert)
            self._open[expert] = np.load(path, mmap_mode="r", allow_pickle=False)
        return self._decode(self._open[expert], epoch)

    def _encode(self, snapshots):
        if self.dtype == "float32":
            return snapshots
        rows = [*snapshots[:1].view(np.uint16).reshape(2, -1)]
        reached = snapshots[0].copy()
        for snapshot in snapshots[1:]:
            rows.append((snapshot - reached).astype(_BFLOAT16).view(np.uint16))
            reached += _moved(rows[-1])
        return np.stack(rows)

    def _decode(self, rows, epoch):
        if self.dtype == "float32":
            return np.array(rows[epoch])
        reached = np.array(rows[:2]).reshape(-1).view(np.float32)
        for row in rows[2 : epoch + 2]:
            reached += _moved(row)
        return reached

    def _is_intact(self, expert):
        path = self.path(expert)
        digest = _digest_path(path)
        if not (path.exists() and digest.exists()):
            return False
        if digest.read_bytes() == _digest_line(path):
            return True
        logger.warning("Expert %s is damaged and is trained again.", path)
        return False


def _moved(row: np.ndarray) -> np.ndarray:
    """float32 values of the bits of bfloat16 numbers."""
    return row.view(_BFLOAT16).astype(np.float32)


def _digest_line(path: Path) -> bytes:
    return f"{fileio.sha256_file(path)}\n".encode()


def _digest_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")
