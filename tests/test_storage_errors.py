"""What is made of the storage layer's errors; full disks are in `test_faults.py`."""

import asyncio
import errno
import os
import sys
from types import SimpleNamespace

import pytest

from d4a_jax.storage.errors import full_disk, reason, stragglers_held


def unraisable(error, trace, thing=None):
    """What an interpreter hands to its hook."""
    return SimpleNamespace(
        exc_type=type(error),
        exc_value=error,
        exc_traceback=trace,
        err_msg=None,
        object=thing,
    )


def wake_closed_loop(native=True):
    """An unraisable error, as of native code or of a Python function."""
    loop = asyncio.new_event_loop()
    loop.close()
    try:
        loop.call_soon_threadsafe(print)
    except RuntimeError as error:
        trace = error.__traceback__
        return unraisable(error, trace.tb_next if native else trace)


@pytest.fixture
def shown(monkeypatch):
    """The errors that reach the hook that was there before."""
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", lambda it: seen.append(it.exc_value))
    return seen


@pytest.mark.parametrize("is_reported", [True, False])
def test_stragglers_are_forgotten_only_beside_a_reported_failure(shown, is_reported):
    with pytest.raises(OSError):
        with stragglers_held(lambda error: is_reported):
            sys.unraisablehook(wake_closed_loop())
            assert shown == []
            raise OSError(errno.ENOSPC, "full")
    sys.unraisablehook(wake_closed_loop())
    assert len(shown) == (0 if is_reported else 2)


def test_stragglers_of_what_ends_well_are_shown_then(shown):
    before = sys.unraisablehook
    with stragglers_held():
        sys.unraisablehook(wake_closed_loop())
        assert shown == []
    assert len(shown) == 1
    assert sys.unraisablehook is before


def test_stragglers_of_a_failure_that_come_during_the_next_read_are_forgotten(shown):
    with pytest.raises(ValueError):
        with stragglers_held():
            raise ValueError
    hook = sys.unraisablehook
    with stragglers_held():
        sys.unraisablehook(wake_closed_loop())
    assert sys.unraisablehook is hook
    assert shown == []


def test_other_errors_are_never_withheld(shown):
    async def own():
        """A coroutine that is not orbax's."""

    coroutine = own()
    others = [
        wake_closed_loop(native=False),
        unraisable(RuntimeError("Event loop is closed"), None),
        unraisable(ValueError("a bug"), None),
        unraisable(ValueError("a bug"), None, coroutine),
    ]
    with pytest.raises(ValueError):
        with stragglers_held():
            for number, other in enumerate(others):
                sys.unraisablehook(other)
                assert shown[number] is other.exc_value
            raise ValueError
    coroutine.close()


def chained(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENOSPC, "full"), errno.ENOSPC),
        (OSError(errno.EDQUOT, "quota"), errno.EDQUOT),
        (chained(RuntimeError("save"), OSError(errno.ENOSPC, "")), errno.ENOSPC),
        (ValueError("RESOURCE_EXHAUSTED: x [os_error_code='28'])"), errno.ENOSPC),
        (ValueError("PERMISSION_DENIED: x [os_error_code='13'])"), None),
        (OSError(errno.EACCES, "forbidden"), None),
        (ValueError("28"), None),
    ],
)
def test_full_disks_and_quotas_are_known_from_other_errors(error, code):
    assert full_disk(error) == (code and os.strerror(code))


def test_reasons_are_short():
    assert reason(KeyError("record")) == "KeyError: 'record'"
    assert reason(ValueError("first.\nsecond")) == "ValueError: first"
    assert reason(ValueError()) == "ValueError: no message"
    assert len(reason(ValueError("word " * 1000))) < 220
