"""Options: frozen dataclasses whose fields carry their range or their choices."""

import dataclasses
from collections.abc import Iterable
from typing import Any

# Steps and sizes are 32-bit numbers in the compiled programs.
MOST = 2**31 - 1


def option(default: Any, **rule: Any) -> Any:
    """A field of an options dataclass, checked by `config.from_dict`.

    Args:
      default: the value where none is given.
      **rule: `low`, `high` and `above` bound a number; `choices` lists the strings.

    Example:
      >>> @dataclasses.dataclass(frozen=True)
      ... class Options:
      ...     weight: float = option(1.0, low=0.0)
      >>> Options().weight
      1.0
    """
    return dataclasses.field(default=default, metadata=rule)


def all_but(options: Any, names: Iterable[str]) -> dict[str, Any]:
    """The fields of a dataclass as a dictionary, without some of them.

    An identity is made this way, so that a new option belongs to it.

    Args:
      options: a dataclass.
      names: the fields to leave out, all of which exist.
    """
    values = dataclasses.asdict(options)
    for name in names:
        del values[name]
    return values
