"""The `--config` flag: finds a configuration file, loads it and changes its values.

    --config=FILE.py[:ARGUMENT] --config.x.y=VALUE ...

`--config.method.name=NAME` puts the options of another method, at their defaults, in the
place of the file's; `--config.method.OPTION` changes them.

FILE is looked for as given, then beside this file, so that `configs/tin50.py` is found
from the root of the repository as well. It defines `get_config(arg="")`, which returns
a `ConfigDict`. VALUE is a Python literal; a string goes without quotes. All of these
may stand in a file as well, one a line, that `--flagfile=FILE` names.
"""

import ast
import difflib
import importlib.util
import re
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from d4a_jax.config import Config, ConfigError, from_dict, renamed
from d4a_jax.registry import UnknownName, nearest
from experiments import cli
from experiments.configs import base

_HERE = Path(__file__).resolve().parent
_DEFAULT = str(_HERE / "configs" / "digits.py")


class Choice(NamedTuple):
    """What the command line chose.

    Attributes:
      name: of the file and its argument, such as `tin50` or `tin50-smoke`.
      config: the checked configuration.
      overrides: what the command line changed in the file's, by dotted names.
    """

    name: str
    config: Config
    overrides: dict[str, Any]


def parse(argv: Sequence[str]) -> tuple[Choice, list[str]]:
    """Reads `--config` and `--config.x.y`, in any order.

    Args:
      argv: the command line, with the program's name first.

    Returns:
      The choice, and the arguments that are left.

    Raises:
      ConfigError: naming what is wrong with the file or the values.
    """
    # Before anything else, or the keys of a flag file would not be checked.
    argv = flags.FlagValues().read_flags_from_files(list(argv), force_gnu=True)
    spec, rest = _take_config(argv)
    path, argument = find(spec)
    config = load(path, argument)
    overrides, rest = _override(config, rest)
    name = f"{path.stem}-{argument}" if argument else path.stem
    return Choice(name, from_dict(config.to_dict()), overrides), rest


def parse_all(argv: Sequence[str]) -> Choice:
    """The `flags_parser` of a command with `--config`; ends it for a user's error."""
    with cli.plain_user_errors():
        choice, rest = parse(argv)
        cli.parse_flags(rest)
    return choice


def find(spec: str) -> tuple[Path, str]:
    """Splits `FILE:ARGUMENT` and finds the file.

    Raises:
      ConfigError: there is no such file; names the paths tried and similar files.
    """
    name, _, argument = spec.partition(":")
    tried = list(dict.fromkeys([Path(name).absolute(), _HERE / name]))
    for path in tried:
        if path.is_file():
            return path, argument
    folders = [*(path.parent for path in tried), _HERE / "configs"]
    files = {path.name for folder in folders for path in folder.glob("*.py")}
    files = sorted(files - {"__init__.py", "base.py"})
    near = difflib.get_close_matches(Path(name).name, files, n=3, cutoff=0.6)
    paths = " and ".join(str(path) for path in tried)
    raise ConfigError(
        [
            f"There is no configuration {name!r}: tried {paths}; there are "
            f"{', '.join(near or files)}."
        ]
    )


def load(path: Path, argument: str = "") -> ConfigDict:
    """Runs `get_config` of a configuration file.

    Raises:
      ConfigError: the file fails or does not take the argument.
    """
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config(argument) if argument else module.get_config()
    except Exception as error:  # pylint: disable=broad-except
        # The file is the user's program: it can fail in any way.
        raise ConfigError([_failure(path, error)]) from error
    if not isinstance(config, ConfigDict):
        raise ConfigError(
            [
                f"get_config of {path} returns a {type(config).__name__}; it must "
                "return a ConfigDict."
            ]
        )
    return config.lock()


def _take_config(argv):
    """The value of `--config`, by default the digits, and the other arguments."""
    spec, rest, arguments = _DEFAULT, [], iter(argv)
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name in ("-config", "--config"):
            # A flag behind `--config` is not its value.
            spec = value if equals else next(arguments, "-")
        else:
            rest.append(argument)
    if not spec or spec.startswith("-"):
        raise ConfigError(["--config needs the name of a configuration file."])
    return spec, rest


def _override(config, argv):
    """Applies `--config.x.y` in place; returns them and the other arguments."""
    argv = [_renamed(argument) for argument in argv]
    _choose_method(config, argv)
    known = dict(_leaves(config))
    unknown = [key for key in _override_names(argv) if key not in known]
    if unknown:
        raise ConfigError([_unknown(key, known) for key in unknown])
    values = flags.FlagValues()
    values.set_gnu_getopt(True)
    try:
        config_flags.DEFINE_config_dict(
            "config", config, flag_values=values, sys_argv=list(argv)
        )
        rest = values(list(argv), known_only=True)
    except flags.IllegalFlagValueError as error:
        raise ConfigError([_wrong_value(error)]) from None
    return config_flags.get_override_values(values["config"]), rest


def _renamed(argument):
    """The argument with the present name of an option."""
    match = re.match(r"(--?config\.)([^=]*)(?:=(.*))?$", argument, re.DOTALL)
    if not match or renamed.new_name(match[2]) == match[2]:
        return argument
    value = match[3]
    if match[2] == "matching.surrogate":
        value = renamed.SURROGATES.get(value, value)
    return f"{match[1]}{renamed.new_name(match[2])}" + (f"={value}" if value else "")


def _choose_method(config, argv):
    """Applies `--config.method.name`, which decides what other options there are."""
    for place, argument in enumerate(argv):
        name, equals, value = argument.partition("=")
        if name.lstrip("-") != "config.method.name" or not name.startswith("-"):
            continue
        value = value if equals else "".join(argv[place + 1 : place + 2])
        if value == config.method.name:
            continue
        try:
            base.choose_method(config, value)
        except UnknownName as error:
            raise ConfigError([f"method.name: {error}"]) from None


def _override_names(argv) -> Iterator[str]:
    for argument in argv:
        match = re.match(r"--?(?:no)?config\.([^=]*)", argument)
        if match:
            yield match[1]


def _leaves(config, prefix="") -> Iterator[tuple[str, Any]]:
    for name, value in config.to_dict().items():
        if isinstance(value, dict):
            yield from _leaves(config[name], f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _unknown(key, known):
    inside = [name for name in known if name.startswith(f"{key}.")]
    if inside:
        return f"{key} is a section; its options are {', '.join(inside)}."
    return f"{key} is not an option; the nearest one is {nearest(key, known)!r}."


def _wrong_value(error):
    """The sentence that `from_dict` has for a value of a wrong type."""
    match = re.match(r"flag --config\.([^=]+)=(.*?): ", str(error), re.DOTALL)
    if match is None:
        return str(error)
    key, value = match.groups()
    try:
        value = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        pass  # A string goes without quotes.
    for name in reversed(key.split(".")):
        value = {name: value}
    try:
        from_dict(value)
    except ConfigError as problem:
        return problem.problems[0]
    return str(error)


def _failure(path, error):
    """One line that says where a configuration file fails, and why."""
    if isinstance(error, ValueError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    place = f" in line {lines[-1]}" if lines else ""
    reason = " ".join(str(error).split())
    return f"The configuration {path} fails{place}: {type(error).__name__}: {reason}"
