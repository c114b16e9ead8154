"""Names of parts: the library's own, those that are registered, and import paths.

A method, network, regularizer, filter rule or protocol is chosen in a configuration by
its name. A part from outside is either registered under a name,

    d4a_jax.regularizers.REGULARIZERS.register("mine", mine)

or named by where it stands, `my_package.my_module:mine`.
"""

import difflib
import importlib
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

Part = TypeVar("Part")


class UnknownName(ValueError):
    """A name that nothing goes by; the message lists the known ones."""


class Registry(Generic[Part]):
    """Parts of one kind by name.

    Args:
      kind: of the parts, for messages, such as "regularizer".
      parts: those of the library.

    Example:
      >>> colors = Registry("color", {"red": 1, "green": 2})
      >>> colors["red"]
      1
      >>> colors["gren"]
      Traceback (most recent call last):
      ...
      d4a_jax.registry.UnknownName: 'gren' is no color; the colors are red, green (nearest: 'green'). One from outside is named package.module:name.
    """

    def __init__(self, kind: str, parts: dict[str, Part]):
        self.kind = kind
        self._parts = dict(parts)

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __contains__(self, name: str) -> bool:
        return name in self._parts

    def __getitem__(self, name: str) -> Part:
        """The part of a name or an import path.

        Raises:
          UnknownName: nothing goes by the name.
        """
        if name in self._parts:
            return self._parts[name]
        if ":" in name:
            return self._imported(name)
        raise UnknownName(
            f"{name!r} is no {self.kind}; the {self.kind}s are {', '.join(self)} "
            f"(nearest: {nearest(name, self)!r}). One from outside is named "
            "package.module:name."
        )

    def register(self, name: str, part: Part) -> Part:
        """Enters a part from outside.

        Args:
          name: a new name.
          part: returned as it is.

        Raises:
          ValueError: the name belongs to another part.
        """
        if self._parts.get(name, part) is not part:
            raise ValueError(
                f"{name!r} is a {self.kind} already; a new one needs another name."
            )
        self._parts[name] = part
        return part

    def name_of(self, part: Part) -> str:
        """The name of a part, or the import path of one that is not registered.

        Raises:
          UnknownName: the part is neither registered nor a module's attribute.
        """
        for name, known in self._parts.items():
            if known is part:
                return name
        module = getattr(part, "__module__", None)
        path = f"{module}:{getattr(part, '__qualname__', '')}"
        try:
            found = self._imported(path)
        except UnknownName:
            found = None
        if found is not part:
            raise UnknownName(
                f"{part!r} has no name that a configuration could hold; define it at "
                f"the top of a module or register it as a {self.kind}."
            )
        return path

    def _imported(self, path: str) -> Part:
        module, _, attribute = path.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise UnknownName(
                f"{path!r} names no {self.kind} that can be imported: {error}."
            ) from error


def nearest(name: str, names: Iterable[str]) -> str:
    """The known name that is most like a misspelt one."""
    return difflib.get_close_matches(str(name), list(names), n=1, cutoff=0.0)[0]
