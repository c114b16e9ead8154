"""Reads the docstrings of the library, whose tables and blocks of code are Markdown.

Sphinx takes docstrings as reStructuredText. Four things differ: single backticks mark
all code and not only names, an indented block after a paragraph is code or a formula,
a table is made of bars, and the fields of a named tuple are described under
`Attributes`.
"""

import re
from collections.abc import Iterable, Iterator

from sphinx.application import Sphinx

_ROW = re.compile(r"^\s*\|.*\|\s*$")
_RULE = re.compile(r"^[\s|:-]+$")
_BACKTICKS = re.compile(r"``.+?``|`([^`]+)`(?!_)", re.S)
_SECTION = re.compile(r"^(Args|Returns|Raises|Yields|Attributes|Examples?):$")


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the hooks; napoleon reads the sections after them."""
    app.connect("autodoc-process-docstring", _convert, priority=100)
    app.connect("autodoc-skip-member", _skip)
    return {"parallel_read_safe": True}


def _convert(app, what, name, obj, options, lines):
    ends = (i for i, line in enumerate(lines) if _SECTION.match(line))
    end = next(ends, len(lines))
    lines[:] = [*with_code(with_tables(lines[:end])), *lines[end:]]
    lines[:] = _BACKTICKS.sub(_name_or_code, "\n".join(lines)).split("\n")


def _name_or_code(found: re.Match) -> str:
    """Names stay in single backticks, which become links; other code is literal."""
    code = found[1]
    is_name = code is None or re.fullmatch(r"[\w.]+", code)
    return found[0] if is_name else f"``{code}``"


def _skip(app, what, name, obj, skip, options):
    """Skips fields of named tuples, whose own docstring is only their number."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def with_tables(lines: Iterable[str]) -> Iterator[str]:
    """Turns tables of bars into list tables."""
    table: list[str] = []
    for line in [*lines, ""]:
        if _ROW.match(line):
            table.append(line)
            continue
        if table:
            yield from _list_table(table)
            table = []
        yield line


def _list_table(rows: list[str]) -> Iterator[str]:
    yield from ("", ".. list-table::", "   :header-rows: 1", "")
    for row in rows:
        if _RULE.match(row):
            continue
        cells = [cell.strip() for cell in row.strip().strip("|").split("|")]
        for number, cell in enumerate(cells):
            yield f"   {'* -' if number == 0 else '  -'} {cell}"
    yield ""


def with_code(lines: Iterable[str]) -> Iterator[str]:
    """Marks blocks as code that are indented by four more than the text before."""
    indent, after_blank, inside, in_directive = 0, True, False, False
    for line in lines:
        depth = len(line) - len(line.lstrip())
        if not line.strip():
            after_blank = True
            yield line
            continue
        inside = inside and depth >= indent + 4
        in_directive = line.startswith("..") or (in_directive and depth > 0)
        if not (inside or in_directive) and after_blank and depth >= indent + 4:
            inside = True
            yield from (" " * indent + "::", "")
        if not inside:
            indent = depth
        after_blank = False
        yield line
