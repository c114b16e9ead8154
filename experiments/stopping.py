"""Rows that a signal may stop: their clock, and the end of their command."""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

from d4a_jax.distillation import Interrupted
from d4a_jax.storage import fileio
from experiments import cli

StopCheck = Callable[[], bool]

# How often the time that a row has taken is written down.
_CLOCK_SECONDS = 20.0


class Clock:
    """Counts the seconds of a row over all its interruptions.

    Args:
      path: file that keeps them.
      should_stop: asked at every call.
    """

    def __init__(self, path: Path, should_stop: StopCheck):
        self._path, self._should_stop = path, should_stop
        self._before = (
            json.loads(path.read_bytes())["seconds"] if path.exists() else 0.0
        )
        self._start = self._written = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return self._before + time.monotonic() - self._start

    def __call__(self) -> bool:
        """Says whether to stop, and writes the time down now and then."""
        stop = self._should_stop()
        if stop or time.monotonic() - self._written > _CLOCK_SECONDS:
            self._written = time.monotonic()
            fileio.write_json_atomic(self._path, {"seconds": self.seconds})
        return stop


def until_stopped(work: Callable[[StopCheck], None]) -> int:
    """Does a command's work until it is done or a signal stops it.

    Args:
      work: takes what says whether to stop.

    Returns:
      The exit status.
    """
    should_stop = cli.StopSignal()
    try:
        with cli.plain_user_errors():
            work(should_stop)
        return 0
    except Interrupted:
        pass
    print(cli.STOPPED)
    return 128 + (should_stop.number or signal.SIGINT)
