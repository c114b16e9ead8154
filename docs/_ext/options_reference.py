"""The directive `options-reference`: tables of all options, from the dataclasses."""

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from d4a_jax.config import Config
from d4a_jax.methods import METHODS

_KINDS = {
    int: "whole number",
    float: "number",
    bool: "True or False",
    str: "string",
    type(None): "None",
}
_LIMITS = {"low": "at least", "above": "above", "high": "at most"}


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the directive."""
    app.add_directive("options-reference", OptionsReference)
    return {"parallel_read_safe": True}


class OptionsReference(SphinxDirective):
    """Writes a heading, the description and a table for each section."""

    def run(self) -> list[nodes.Node]:
        text = "\n".join(reference())
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def reference() -> Iterator[str]:
    """The Markdown of all sections, in the order of `Config`."""
    # Objects of a program have no place in a file, nor here.
    named = Config().to_dict()
    fields = [f for f in dataclasses.fields(Config) if f.name in named]
    single = [f for f in fields if not dataclasses.is_dataclass(f.default)]
    yield from ("## Options without a section", "")
    yield from _table(Config, single, "", {})
    for field in fields:
        if field.name == "method":
            yield from _methods()
        elif field not in single:
            yield from _section(type(field.default), field.name, f"## {field.name}")


def _methods() -> Iterator[str]:
    yield from ("## method", "")
    yield from ("`method.name` names the method. Each has options of its own:", "")
    for name in METHODS:
        yield from _section(METHODS[name], "method", f"### {name}")


def _section(cls: type, name: str, heading: str) -> Iterator[str]:
    text, _, attributes = (inspect.getdoc(cls) or "").partition("\nAttributes:\n")
    yield from (heading, "", text.partition("\nExample:\n")[0].strip(), "")
    described = _descriptions(attributes)
    yield from _table(cls, dataclasses.fields(cls), f"{name}.", described)


def _descriptions(text: str) -> dict[str, str]:
    """The descriptions in a section `Attributes` of a docstring, by name."""
    found: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if line and not line.startswith(" "):
            break
        if start := re.match(r"^ {2,4}(\w+): (.*)", line):
            name = start[1]
            found[name] = start[2]
        elif name:
            found[name] += " " + line.strip()
    return found


def _table(
    cls: type,
    fields: Sequence[dataclasses.Field],
    prefix: str,
    described: Mapping[str, str],
) -> Iterator[str]:
    hints = typing.get_type_hints(cls)
    head = ["option", "default", "allowed", *(["meaning"] if described else [])]
    yield from (_row(head), _row(["---"] * len(head)))
    for field in fields:
        cells = [
            f"`{prefix}{field.name}`",
            f"`{field.default!r}`",
            allowed(hints[field.name], field.metadata),
            *([described.get(field.name, "").strip()] if described else []),
        ]
        yield _row(cells)
    yield ""


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def allowed(hint: Any, rule: Mapping[str, Any]) -> str:
    """The values that an option takes, in words.

    Args:
      hint: its type.
      rule: its range, choices or registry, see `d4a_jax.options.option`.
    """
    names = rule.get("choices") or tuple(rule.get("registry", ()))
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    words = []
    for kind in typing.get_args(hint) if union else (hint,):
        if kind is str and names:
            words.extend(f"`{name}`" for name in names)
        else:
            words.append(_KINDS.get(kind, "several whole numbers"))
    if "registry" in rule:
        words.append("`package.module:name`")
    limits = [
        f"{word} {rule[key]:g}"
        for key, word in _LIMITS.items()
        if rule.get(key) is not None
    ]
    return ", ".join(words) + (f"; {' and '.join(limits)}" if limits else "")
