"""The error for everything a user's data can have wrong."""

import difflib
from collections.abc import Iterable, Sequence

_SHOWN = 5


class DatasetError(ValueError):
    """A data set, archive, folder or array that cannot be used as it is."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """Returns the part of a message that names the alternatives to `name`."""
    choices = tuple(choices)
    close = difflib.get_close_matches(str(name), choices, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"choose one of {', '.join(choices)}."


def shorten(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
