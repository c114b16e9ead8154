"""Configurations from nested mappings, with every problem reported at once."""

import dataclasses
import math
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from d4a_jax.config.checks import cross_checks
from d4a_jax.config.renamed import with_new_names
from d4a_jax.config.sections import Config
from d4a_jax.errors import ConfigError
from d4a_jax.methods import METHODS, MethodOptions
from d4a_jax.options import MOST
from d4a_jax.parts import Parts, without_parts
from d4a_jax.registry import UnknownName, nearest

_WHOLE = {"high": MOST}


def from_dict(values: Mapping[str, Any]) -> Config:
    """Builds a configuration from nested mappings and checks it.

    Args:
      values: what differs from the defaults, as nested mappings. Lists stand for
        tuples. Former names of options are understood, see `renamed`.

    Returns:
      The checked configuration.

    Raises:
      ConfigError: naming every unknown key with the nearest known one, and every
        value of a wrong type or outside its range.
    """
    values, problems = with_new_names(values)
    config = _build(Config, values, "", problems)
    if not problems:
        problems.extend(cross_checks(config))
    if problems:
        raise ConfigError(problems)
    return config


def validate(config: Config) -> Config:
    """Checks a configuration that was built directly; see `from_dict`."""
    checked = from_dict(without_parts(config.to_dict()))
    checked = dataclasses.replace(checked, parts=config.parts)
    if problems := list(cross_checks(checked)):
        raise ConfigError(problems)
    return checked


def differences(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[str]:
    """Dotted names of the values in which two nested dictionaries differ."""
    a, b = dict(_flatten(left)), dict(_flatten(right))
    return sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, list(value) if isinstance(value, tuple) else value


def _build(cls, values, prefix, problems):
    fields = {field.name: field for field in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    if not isinstance(values, Mapping):
        name = prefix.rstrip(".") or "the configuration"
        problems.append(f"{name} is {values!r}; it must be a section of named values.")
        return cls()
    arguments = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if hints.get(key) is Parts:
            problems.append(
                f"{name} was given as objects of a program ({', '.join(value)}), which "
                "a configuration cannot hold; give them to `distill` again."
            )
        elif key not in fields:
            problems.append(_unknown(name, key, fields))
        elif hints[key] is MethodOptions:
            arguments[key] = _build_method(value, f"{name}.", problems)
        elif dataclasses.is_dataclass(hints[key]):
            arguments[key] = _build(hints[key], value, f"{name}.", problems)
        else:
            value, problem = _check(name, value, hints[key], fields[key].metadata)
            problems.extend([problem] if problem else [])
            arguments[key] = value
    return cls(**arguments)


def _build_method(values, prefix, problems):
    """The options of the method of that name; without one, of the default method."""
    default = type(Config().method)
    if not isinstance(values, Mapping):
        return _build(default, values, prefix, problems)
    name, options = values.get("name"), default
    if name is not None:
        try:
            options = METHODS[name] if isinstance(name, str) else None
        except UnknownName as error:
            problems.append(f"{prefix}name: {error}")
            return default()
    if not (isinstance(options, type) and issubclass(options, MethodOptions)):
        problems.append(f"{prefix}name is {name!r}, which is no method.")
        return default()
    own = {key: value for key, value in values.items() if key != "name"}
    return _build(options, own, prefix, problems)


def _unknown(name, key, fields):
    hint = f"the nearest one is {nearest(key, fields)!r}" if fields else "there is none"
    return f"{name} is not an option; {hint}."


def _check(name, value, hint, rule):
    """Returns the value, converted where that loses nothing, and a problem or None."""
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    options = typing.get_args(hint) if is_union else (hint,)
    if value is None and type(None) in options:
        return None, None
    if isinstance(value, (list, tuple)) and tuple[int, ...] in options:
        value = tuple(value)
        bad = [item for item in value if not _is_int(item)]
        if bad or not value:
            return value, f"{name} is {value!r}; it must be one or more whole numbers."
        ranges = (_range(name, item, _WHOLE | rule) for item in value)
        return value, next((problem for problem in ranges if problem), None)
    if int in options and _is_int(value):
        return int(value), _range(name, value, _WHOLE | rule)
    if float in options and isinstance(value, (int, float)) and _is_finite(value):
        return float(value), _range(name, float(value), rule)
    if bool in options and isinstance(value, bool):
        return value, None
    if str in options and isinstance(value, str):
        return value, _choice(name, value, rule)
    return value, f"{name} is {value!r}; it must be {_type_name(options)}."


def _is_int(value):
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value):
    try:
        return not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # A whole number beyond the floats.
        return False


def _type_name(options):
    names = {
        int: "a whole number",
        float: "a finite number",
        bool: "True or False",
        str: "a string",
        type(None): "None",
    }
    return " or ".join(names.get(o, "a tuple of whole numbers") for o in options)


def _range(name, value, rule):
    low, high, above = rule.get("low"), rule.get("high"), rule.get("above")
    limits = [
        f"at least {low}" if low is not None else "",
        f"above {above}" if above is not None else "",
        f"at most {high}" if high is not None else "",
    ]
    wrong = (
        (low is not None and value < low)
        or (above is not None and value <= above)
        or (high is not None and value > high)
    )
    allowed = " and ".join(limit for limit in limits if limit)
    return f"{name} is {value!r}; it must be {allowed}." if wrong else None


def _choice(name, value, rule):
    if "registry" in rule:
        try:
            rule["registry"][value]
        except UnknownName as error:
            return f"{name}: {error}"
    choices = rule.get("choices")
    if choices is None or value in choices:
        return None
    return (
        f"{name} is {value!r}; it must be one of {', '.join(choices)} "
        f"(nearest: {nearest(value, choices)!r})."
    )
