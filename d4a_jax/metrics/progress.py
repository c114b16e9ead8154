"""How far a loop has come: a bar on a terminal, lines in a log."""

import contextlib
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping

from d4a_jax.log import logger


class Progress:
    """Shows how far a loop has come, its rate and the time left.

    A bar on a terminal and in a notebook; elsewhere, as in a log file, a line every
    `interval` seconds.

        with Progress(total=1000, label="segment 1") as progress:
            for step in range(1000):
                progress.update(step + 1, loss=loss)
    """

    def __init__(
        self, total: int, initial: int = 0, label: str = "", interval: float = 10.0
    ):
        """Starts the clock.

        Args:
          total: number of steps.
          initial: steps that were done before, by a run now resumed.
          label: what is going on.
          interval: least number of seconds between two lines of a log.
        """
        self._total, self._done, self._label = total, initial, label
        self._interval = interval
        self._logged = time.monotonic()
        self._start = None  # The first update: before it lies the compilation.
        self._bar = _make_bar(total, initial, label)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *unused_exception) -> None:
        self.close()

    def update(self, done: int, **figures: float) -> None:
        """Reports the state of the loop.

        Args:
          done: steps done in all, including `initial`.
          **figures: numbers to show beside it.
        """
        shown = {name: f"{float(value):.4g}" for name, value in figures.items()}
        if self._bar is not None:
            self._bar.set_postfix(shown, refresh=False)
            self._bar.update(done - self._done)
        self._done = done
        now = time.monotonic()
        if self._start is None:
            self._start = (now, done)
        if self._bar is None and now - self._logged >= self._interval:
            self._logged = now
            logger.info("%s", self._line(now, shown))

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.close()

    def _line(self, now: float, shown: Mapping[str, str]) -> str:
        label = f"{self._label}: " if self._label else ""
        parts = [f"{label}{self._done}/{self._total}"]
        seconds, steps = now - self._start[0], self._done - self._start[1]
        if steps > 0 and seconds > 0:
            rate = steps / seconds
            left = _duration((self._total - self._done) / rate)
            parts.append(f"{rate:.3g} steps/s, {left} left")
        parts += [f"{name} {value}" for name, value in shown.items()]
        return ", ".join(parts)


@contextlib.contextmanager
def progress_hook(label: str) -> Iterator[Callable[[int, int, Mapping], None]]:
    """A function of (steps done, total steps, figures) that shows progress.

    Nothing is shown before its first call, which says how many steps there are.
    """
    with contextlib.ExitStack() as stack:
        bars = []

        def show(done, total, figures):
            if not bars:
                bars.append(stack.enter_context(Progress(total, label=label)))
            bars[0].update(done, **figures)

        yield show


def _make_bar(total: int, initial: int, label: str):
    ipython = sys.modules.get("IPython")
    notebook = ipython is not None and hasattr(ipython.get_ipython(), "kernel")
    if not (notebook or sys.stderr.isatty()):
        return None
    with warnings.catch_warnings():
        # Without ipywidgets tqdm warns and shows its text bar, which is fine.
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm
    return tqdm(total=total, initial=initial, desc=label or None, mininterval=0.5)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
