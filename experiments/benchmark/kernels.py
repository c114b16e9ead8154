"""What a compiled program launches and moves, counted in its optimized HLO.

Every instruction that is no view or constant counts as one kernel, which reads its
operands and writes its results once; loops count as often as they turn (once where that
is unknown), and of several branches the one that moves most. Scratch memory of library
calls, their last result, is left out. What stays in a cache between two kernels counts
as moved.
"""

import math
import re
from typing import NamedTuple

_INSTRUCTION = re.compile(r"\s*(?:ROOT )?%?([\w.-]+) = (.*)$")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.-]+) .*\{$")
_ARRAY = re.compile(r"\b([a-z]+)(\d+)\w*\[([\d,]*)\]|\bpred\[([\d,]*)\]")
_TURNS = re.compile(r'known_trip_count":\{"n":"(\d+)"')
_VIEWS = frozenset(
    "after-all bitcast constant get-tuple-element iota parameter partition-id "
    "replica-id tuple".split()
)


class Traffic(NamedTuple):
    """Kernels of a program and the bytes between them."""

    kernels: int = 0
    bytes: int = 0

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(self.kernels + other.kernels, self.bytes + other.bytes)

    def times(self, count: int) -> "Traffic":
        """That of `count` executions."""
        return Traffic(self.kernels * count, self.bytes * count)


class _Instruction(NamedTuple):
    name: str
    shape: str
    operation: str
    operands: list[str]
    rest: str


def count(hlo: str) -> Traffic:
    """Counts one execution of a program.

    Args:
      hlo: the text of a compiled program, from `jax.stages.Compiled.as_text`.
    """
    computations, entry, current = {}, None, None
    for line in hlo.splitlines():
        if found := None if line[:1].isspace() else _COMPUTATION.match(line):
            current = computations.setdefault(found[2], [])
            entry = found[2] if found[1] else entry
        elif current is not None and (found := _INSTRUCTION.match(line)):
            current.append(_parse(*found.groups()))
    return _of_computation(computations, entry)


def _of_computation(computations, name):
    shapes, total = {}, Traffic()
    for one in computations[name]:
        shapes[one.name] = one.shape
        if one.operation in _VIEWS:
            continue
        inner = lambda names: [_of_computation(computations, n) for n in names]
        if one.operation == "while":
            (body,) = inner(_called(one.rest, "body"))
            turns = _TURNS.search(one.rest)
            total += body.times(int(turns[1]) if turns else 1)
        elif one.operation == "conditional":
            names = ("branch_computations", "true_computation", "false_computation")
            branches = [n for name in names for n in _called(one.rest, name)]
            total += max(inner(branches), key=lambda traffic: traffic.bytes)
        elif one.operation == "call":
            total += inner(_called(one.rest, "to_apply"))[0]
        else:
            moved = _bytes(one.shape, without_scratch=one.operation == "custom-call")
            moved += sum(_bytes(shapes.get(name, "")) for name in one.operands)
            total += Traffic(1, moved)
    return total


def _parse(name, text):
    end = _closing(text) + 1 if text.startswith("(") else text.index(" ")
    shape, text = text[:end], text[end:].lstrip()
    operation = text[: text.index("(")]
    end = len(operation) + _closing(text[len(operation) :]) + 1
    operands = re.findall(r"%([\w.-]+)", text[len(operation) : end])
    return _Instruction(name, shape, operation, operands, text[end:])


def _closing(text):
    """Where the first parenthesis is closed."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return place
    raise ValueError(f"{text!r} has an open parenthesis.")


def _called(text, attribute):
    """Names of the computations in an attribute, one or a list in braces."""
    found = re.search(rf"\b{attribute}=(\{{[^}}]*\}}|%?[\w.-]+)", text)
    return re.findall(r"[\w.-]+", found[1]) if found else []


def _bytes(shape, without_scratch=False):
    """Bytes of an array or of all arrays in a tuple."""
    sizes = [
        math.prod(int(n) for n in (dims or flags or "").split(",") if n)
        * max(1, int(bits or 8) // 8)
        for _, bits, dims, flags in _ARRAY.findall(shape)
    ]
    if without_scratch and shape.startswith("("):
        sizes = sizes[:-1]
    return sum(sizes)
