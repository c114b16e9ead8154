"""What a run tells while it works: figures on disk and progress on the terminal."""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from d4a_jax.log import logger
from d4a_jax.metrics import MetricsWriter, Progress, progress_hook, read_metrics


class Journal:
    """Metrics of a run, or nothing but log lines where it has no working directory.

    Args:
      workdir: where `metrics.jsonl` and TensorBoard's files go; None for nowhere.
      speaks: whether anything is shown; of several processes only one speaks.
    """

    def __init__(self, workdir: Path | None, speaks: bool = True):
        self._workdir = workdir
        self._speaks = speaks
        self._writer = MetricsWriter(workdir) if workdir else None
        self.lines = len(read_metrics(workdir)) if workdir else 0

    def close(self) -> None:
        if self._writer:
            self._writer.close()

    def rewind(self, lines: int) -> None:
        """Keeps the first records only: the others will be written again."""
        if self._writer:
            places = itertools.count()
            self._writer.rewind(lambda record: next(places) < lines)
        self.lines = len(read_metrics(self._workdir)) if self._workdir else lines

    def sync(self) -> None:
        """Makes the records so far as durable as a checkpoint that counts them."""
        if self._writer:
            self._writer.sync()

    def write(self, step: int, values: dict[str, float], **tags: Any) -> None:
        """Records figures of a step; tags say what they are figures of."""
        self.lines += 1
        if self._writer:
            self._writer.write(step, values, **tags)

    def say(self, message: str, *values: Any) -> None:
        """One line for the person who waits."""
        if self._speaks:
            logger.info(message, *values)

    def warn(self, message: str, *values: Any) -> None:
        """One line about a result that may not be as wanted."""
        if self._speaks:
            logger.warning(message, *values)

    @contextlib.contextmanager
    def progress(
        self, label: str, total: int, done: int = 0
    ) -> Iterator["Progress | _Silence"]:
        """Shows the progress of a loop of `total` steps."""
        if not self._speaks:
            yield _Silence()
            return
        with Progress(total=total, initial=done, label=label) as progress:
            yield progress

    @contextlib.contextmanager
    def progress_hook(
        self, label: str
    ) -> Iterator[Callable[[int, int, Mapping], None]]:
        """Like `progress`, for a loop that says how long it is when it begins."""
        if not self._speaks:
            yield lambda done, total, figures: None
            return
        with progress_hook(label) as hook:
            yield hook


class _Silence:
    """Progress that nobody sees."""

    def update(self, done: int, **figures: float) -> None:
        """Shows nothing."""
