"""What the storage layer (orbax on tensorstore) says of failures, in short.

Orbax ends the event loop of a read or a save at its first failure. Requests of
tensorstore that are still in flight end after that, find the loop closed, and each
prints a trace of this from a thread of its own; reads that were never awaited print
another when they are collected. Both go through `sys.unraisablehook`, and on a full
disk or at a damaged checkpoint make a hundred lines beside the one sentence that says
what is wrong.
"""

import contextlib
import errno
import gc
import inspect
import os
import re
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def full_disk(error: BaseException | None) -> str | None:
    """What the system says of a full disk or quota; None where an error is another."""
    while error is not None:
        found = re.search(r"os_error_code='(\d+)'", str(error))  # By tensorstore.
        code = int(found[1]) if found else getattr(error, "errno", None)
        if code in (errno.ENOSPC, errno.EDQUOT):
            return os.strerror(code)
        error = error.__cause__ or error.__context__
    return None


def reason(error: Exception) -> str:
    """The exception and the beginning of its message, which may be pages long."""
    lines = str(error).splitlines() or ["no message"]
    line = textwrap.shorten(lines[0].rstrip("."), 200, placeholder=" ...")
    return f"{type(error).__name__}: {line}"


def drop_unfinished_reads() -> None:
    """Collects the coroutines that orbax never awaits where reading fails.

    Each would warn whenever it is collected, which confuses, and in the midst of other
    work even breaks some Python programs.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        gc.collect()


@contextlib.contextmanager
def stragglers_held(
    is_reported: Callable[[Exception], bool] = lambda error: True,
) -> Iterator[None]:
    """Withholds the traces of stragglers while something is read or written.

    If that ends well or with an error that nobody reports, they are shown then. After
    one that is reported they are forgotten, also those that come later: by then
    nothing tells any more which operation they belong to.

    Args:
      is_reported: whether the caller tells the user of this error.
    """
    previous = sys.unraisablehook
    hook = previous if isinstance(previous, _Hook) else _Hook(previous)
    hook.is_holding, sys.unraisablehook = True, hook
    try:
        yield
    except Exception as error:
        hook.is_explained = hook.is_explained or is_reported(error)
        raise
    finally:
        hook.settle()
        if not hook.is_explained:
            sys.unraisablehook = previous


class _Hook:
    """A `sys.unraisablehook` that keeps stragglers and passes all others on."""

    def __init__(self, previous: Callable[[Any], None]):
        self._previous = previous
        self._held = []
        self.is_holding = False
        self.is_explained = False

    def __call__(self, unraisable) -> None:
        if not _is_straggler(unraisable):
            self._previous(unraisable)
        elif self.is_holding:
            self._held.append(unraisable)
        elif not self.is_explained:
            self._previous(unraisable)

    def settle(self) -> None:
        """Forgets the traces where a report explains them, and else shows them."""
        self.is_holding = False
        held, self._held = self._held, []
        for unraisable in held:
            self(unraisable)


def _is_straggler(unraisable: Any) -> bool:
    """Whether a closed loop was woken up, or a read of orbax was never awaited.

    It is native code that wakes the loop: in the trace of Python code that does so
    another function comes first. Compiled event loops have dotted names in theirs.
    """
    if inspect.iscoroutine(unraisable.object):
        return "orbax" in Path(unraisable.object.cr_code.co_filename).parts
    error, trace = unraisable.exc_value, unraisable.exc_traceback
    name = trace.tb_frame.f_code.co_name if trace else ""
    return (
        isinstance(error, RuntimeError)
        and str(error) == "Event loop is closed"
        and name.rpartition(".")[2] == "call_soon_threadsafe"
    )
