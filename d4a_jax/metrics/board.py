"""TensorBoard's event files."""

import os
import re
import secrets
import time
from pathlib import Path
from typing import Any

import numpy as np

# Longest time that a figure takes to show up.
_SECONDS = 10.0


class Board:
    """TensorBoard's event file of one kind of figures.

    Written by tensorboardX's synchronous writer: the thread of its `SummaryWriter` dies
    of a full disk, and everything behind it waits for ever.
    """

    def __init__(self, directory: Path):
        """Begins a file in a directory, which is made where it does not exist.

        Raises:
          ImportError: tensorboardX is not installed.
        """
        from tensorboardX import event_file_writer, proto, summary

        self._event, self._summary = proto.event_pb2.Event, summary
        directory.mkdir(parents=True, exist_ok=True)
        self._file = event_file_writer.EventsWriter(
            str(directory / "events"), f".{os.getpid()}.{secrets.token_hex(4)}"
        )
        self._flushed = time.monotonic()

    def scalar(self, tag: str, value: float, step: int, seconds: float) -> None:
        """Adds a figure; `seconds` is the time of day that it belongs to."""
        self._add(self._summary.scalar(_clean(tag), value), step, seconds)

    def image(self, tag: str, array: np.ndarray, step: int) -> None:
        """Adds an image, uint8 `[h, w, 1]` or `[h, w, 3]`."""
        shown = self._summary.image(_clean(tag), array, dataformats="HWC")
        self._add(shown, step, time.time())

    def flush(self) -> None:
        """Writes what is held back."""
        self._file.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Ends the file."""
        self._file.close()

    def _add(self, summary: Any, step: int, seconds: float) -> None:
        event = self._event(wall_time=seconds, step=step, summary=summary)
        self._file.write_event(event)
        if time.monotonic() - self._flushed > _SECONDS:
            self.flush()


def _clean(tag: str) -> str:
    return re.sub(r"[^-/\w.]", "_", tag)
