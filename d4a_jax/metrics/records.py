"""The record of a run: `metrics.jsonl`, and TensorBoard as a view of it."""

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from d4a_jax.log import logger
from d4a_jax.metrics.board import Board
from d4a_jax.storage import fileio

_FILE = "metrics.jsonl"
_RESERVED = ("time", "step")
_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}

Record = dict[str, Any]


class MetricsError(ValueError):
    """A file of metrics is damaged."""


class MetricsWriter:
    """Appends figures to `metrics.jsonl` and to TensorBoard.

    The file is the record; TensorBoard, present where tensorboardX is installed, is a
    view of it. Only one process may write to a working directory.

        with MetricsWriter(workdir) as writer:
            writer.write(100, {"loss": 0.25}, segment=1)
    """

    def __init__(self, workdir: fileio.PathLike):
        """Opens the file for appending, and drops a torn last line.

        Args:
          workdir: directory of the run; made where it does not exist.
        """
        self._workdir = Path(workdir)
        self._workdir.mkdir(parents=True, exist_ok=True)
        self._path = self._workdir / _FILE
        self._boards = {}
        # A line without its newline would swallow the next record.
        _truncate(self._path, len(_whole_lines(self._path)))
        self._file = open(self._path, "a", encoding="utf-8")

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *unused_exception) -> None:
        self.close()

    def write(self, step: int, values: Mapping[str, float], **tags: Any) -> None:
        """Appends one record.

        Args:
          step: step that the figures belong to.
          values: figures by name; anything that `float` takes.
          **tags: strings or integers that say what the figures are of, such as
            `segment=1`; part of the record and of the names in TensorBoard.

        Raises:
          ValueError: a name is used twice.
        """
        names = [*_RESERVED, *tags, *values]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"The name {sorted(twice)[0]!r} occurs twice in a record.")
        record = {"time": time.time(), "step": int(step), **tags}
        record |= {name: _to_json(float(value)) for name, value in values.items()}
        self._file.write(json.dumps(record, allow_nan=False) + "\n")
        self._file.flush()
        self._show(record, values)

    def sync(self) -> None:
        """Flushes everything to the disk, so that a power cut does not take it."""
        os.fsync(self._file.fileno())
        for board in filter(None, self._boards.values()):
            board.flush()

    def image(self, tag: str, array: np.ndarray, step: int) -> None:
        """Shows an image in TensorBoard.

        Args:
          tag: name of the image.
          array: uint8 `[h, w]`, `[h, w, 1]` or `[h, w, 3]`.
          step: step that it belongs to.
        """
        array = np.asarray(array)
        array = array[:, :, None] if array.ndim == 2 else array
        board = self._board("images")
        if board is not None:
            board.image(tag, array, int(step))

    def rewind(self, keep: Callable[[Record], bool]) -> int:
        """Drops the records that a resumed run is going to write again.

        The file is replaced in one step. TensorBoard's scalars are written anew from
        what is kept; images stay, later ones of the same step hide them.

        Args:
          keep: says of each record whether it stays.

        Returns:
          The number of records dropped.
        """
        records = read_metrics(self._path)
        kept = [record for record in records if keep(record)]
        if len(kept) == len(records):
            return 0
        self._file.close()
        lines = (json.dumps(_encode(r), allow_nan=False) + "\n" for r in kept)
        fileio.write_bytes_atomic(self._path, "".join(lines).encode())
        self._file = open(self._path, "a", encoding="utf-8")
        self._close_boards()
        shutil.rmtree(self._board_path("scalars"), ignore_errors=True)
        for record in kept:
            figures = [k for k, v in record.items() if isinstance(v, float)]
            self._show(record, [name for name in figures if name not in _RESERVED])
        return len(records) - len(kept)

    def close(self) -> None:
        """Closes the files; more than once does no harm."""
        self._file.close()
        self._close_boards()

    def _show(self, record: Record, names) -> None:
        board = self._board("scalars")
        if board is None:
            return
        tags = [k for k in record if k not in names and k not in _RESERVED]
        group = "".join(f"{tag}_{record[tag]}/" for tag in tags)
        for name in names:
            value = _from_json(record[name])
            board.scalar(group + name, value, record["step"], record["time"])

    def _board_path(self, kind: str) -> Path:
        return self._workdir / "tensorboard" / kind

    def _board(self, kind: str):
        """Returns the event writer of a kind, None where there is none."""
        if kind not in self._boards:
            try:
                # Scalars and images lie apart: rewinding rewrites scalars alone.
                self._boards[kind] = Board(self._board_path(kind))
            except ImportError:
                if not self._boards:
                    logger.info("tensorboardX is not installed: TensorBoard is off.")
                self._boards[kind] = None
        return self._boards[kind]

    def _close_boards(self) -> None:
        for board in self._boards.values():
            if board is not None:
                board.close()
        self._boards = {}


def read_metrics(path: fileio.PathLike) -> list[Record]:
    """Reads the records of a metrics file.

    Args:
      path: `metrics.jsonl`, or the directory that holds it.

    Returns:
      The records in the order of writing, numbers that are not finite as floats
      again. A last line that a crash cut off is left out; no file, no records.

    Raises:
      MetricsError: another line is damaged; names it.
    """
    path = Path(path)
    path = path / _FILE if path.is_dir() else path
    records = []
    for number, line in enumerate(_whole_lines(path).splitlines(), start=1):
        try:
            record = json.loads(line)
            records.append({key: _from_json(value) for key, value in record.items()})
        except (ValueError, AttributeError) as error:
            raise MetricsError(
                f"{path} is damaged: line {number} is not a record; mend or delete "
                "that line or the file (the run itself does not depend on it)."
            ) from error
    return records


def _whole_lines(path: Path) -> bytes:
    content = path.read_bytes() if path.exists() else b""
    return content[: content.rfind(b"\n") + 1]


def _truncate(path: Path, size: int) -> None:
    if path.exists() and path.stat().st_size > size:
        with open(path, "r+b") as file:
            file.truncate(size)


def _to_json(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _from_json(value: Any) -> Any:
    return _NON_FINITE.get(value, value) if isinstance(value, str) else value


def _encode(record: Record) -> Record:
    return {k: _to_json(v) if isinstance(v, float) else v for k, v in record.items()}
