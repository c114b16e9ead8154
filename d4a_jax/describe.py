"""Descriptions of parts that were given as objects, so that a run knows them again.

A description is nested plain values: the import path of what something is, and the
values it holds. Functions that have no import path of their own, such as lambdas, are
known by their code.
"""

import dataclasses
import functools
import hashlib
import types
from typing import Any

import jax
import numpy as np

_PLAIN = (str, int, float, bool, type(None))


def describe(part: Any) -> Any:
    """JSON-like values that identify an object of a program.

    Args:
      part: plain values, arrays, containers, dataclasses, tuples with names, functions
        with what they close over, and `functools.partial` of these.

    Raises:
      TypeError: something in it cannot be described.

    Example:
      >>> describe(("mine", 0.5, None))
      ['mine', 0.5, None]
    """
    return _describe(part, ())


def _describe(part, outer):
    if isinstance(part, _PLAIN):
        return part
    if any(part is other for other in outer):
        return "itself"
    inside = (*outer, part)
    of = lambda value: _describe(value, inside)
    if isinstance(part, (np.ndarray, np.generic, jax.Array)):
        array = np.asarray(part)
        digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
        return {"array": digest, "shape": list(array.shape), "dtype": str(array.dtype)}
    if isinstance(part, functools.partial):
        return {"partial": of(part.func), "args": of(part.args), "given": of(part.keywords)}
    if isinstance(part, types.MethodType):
        return {"method": of(part.__func__), "of": of(part.__self__)}
    if isinstance(part, (types.FunctionType, types.BuiltinFunctionType)):
        return _function(part, of)
    if isinstance(part, type):
        return _path(part)
    if dataclasses.is_dataclass(part):
        names = [f.name for f in dataclasses.fields(part) if f.name != "parent"]
        return {"of": _path(type(part))} | {n: of(getattr(part, n)) for n in names}
    if isinstance(part, tuple) and hasattr(part, "_fields"):
        own = {name: of(getattr(part, name)) for name in part._fields}
        return {"of": _path(type(part))} | own
    if isinstance(part, (tuple, list)):
        return [of(item) for item in part]
    if isinstance(part, (set, frozenset)):
        return sorted((of(item) for item in part), key=str)
    if isinstance(part, dict):
        return {str(key): of(value) for key, value in part.items()}
    if callable(part) and hasattr(part, "__wrapped__"):
        return of(part.__wrapped__)
    if isinstance(part, (np.dtype, types.ModuleType)):
        return str(getattr(part, "__name__", part))
    raise TypeError(
        f"{type(part).__name__} {part!r} has no description by which a run could be "
        "known again; give plain values, arrays, dataclasses or functions of these."
    )


def _path(part) -> str:
    return f"{part.__module__}.{part.__qualname__}"


def _function(part, of):
    described = {"function": _path(part)}
    if isinstance(part, types.BuiltinFunctionType):
        return described
    cells = zip(part.__code__.co_freevars, part.__closure__ or ())
    closed = {name: of(cell.cell_contents) for name, cell in cells if _is_filled(cell)}
    if "<" in part.__qualname__:
        described["code"] = _digest(part.__code__)
    return described | ({"closed": closed} if closed else {}) | _defaults(part, of)


def _is_filled(cell) -> bool:
    try:
        cell.cell_contents
    except ValueError:
        return False
    return True


def _defaults(part, of):
    given = {"defaults": part.__defaults__, "given": part.__kwdefaults__}
    return {name: of(values) for name, values in given.items() if values}


def _digest(code: types.CodeType) -> str:
    """Of what a function without a path does, and the functions inside it."""
    inner = [_digest(x) for x in code.co_consts if isinstance(x, types.CodeType)]
    plain = [repr(x) for x in code.co_consts if not isinstance(x, types.CodeType)]
    text = repr((code.co_code, code.co_names, plain, inner))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
