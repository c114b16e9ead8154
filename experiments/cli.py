"""What the commands share: log lines, compiled programs kept, errors of users."""

import contextlib
import errno
import importlib.util
import json
import logging
import os
import signal
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
from absl import app, flags

from d4a_jax.artifact import ArtifactError
from d4a_jax.artifact.provenance import data_source
from d4a_jax.config import ConfigError
from d4a_jax.data import DatasetError
from d4a_jax.data.catalogue import SOURCES
from d4a_jax.devices.processes import DisagreementError
from d4a_jax.log import logger
from d4a_jax.metrics import MetricsError
from d4a_jax.parts import without_parts
from d4a_jax.storage.errors import full_disk, reason
from d4a_jax.storage.fileio import WorkdirBusyError

FAILURE = 1
USER_ERROR = 2

# Of flags that other commands, imported into the same process, have too.
SHARED = {"allow_override": True}

_USER_ERRORS = (
    ArtifactError,
    ConfigError,
    DatasetError,
    DisagreementError,
    MetricsError,
    WorkdirBusyError,
    flags.Error,
)
_DISK_ERRORS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG, errno.EIO}
)


def set_up_logging() -> None:
    """Shows the library's lines on stderr with the time; others from warnings on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    for name in ("jax", "orbax"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Orbax, which logs through absl, shows stack traces for damage and full disks.
    # What fails is raised as well, and then said in a sentence.
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def keep_compiled_programs() -> None:
    """Keeps what JAX compiles on the disk, so that a second start is quick.

    In the environment's JAX_COMPILATION_CACHE_DIR or `~/.cache/d4a_jax/compilation`.
    """
    default = Path("~/.cache/d4a_jax/compilation").expanduser()
    directory = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(default)
    jax.config.update("jax_compilation_cache_dir", directory)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


@contextlib.contextmanager
def plain_user_errors() -> Iterator[None]:
    """Ends the program with plain sentences: mistakes of users, full disks, memory."""
    try:
        yield
    except _USER_ERRORS as error:
        print(error, file=sys.stderr)
        sys.exit(USER_ERROR)
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        place = f" ({error.filename})" if error.filename else ""
        print(
            f"Cannot write{place}: {error.strerror}. When that is mended, the same "
            "command continues from what is on the disk.",
            file=sys.stderr,
        )
        sys.exit(FAILURE)
    except jax.errors.JaxRuntimeError as error:
        # A full disk, by tensorstore, has the same code; checkpoints say so themselves.
        if "RESOURCE_EXHAUSTED" not in str(error) or full_disk(error):
            raise
        print(
            f"The memory of a device is full ({reason(error)}). Fewer classes or "
            "networks at once take less (runtime.class_chunk, at least 1), and fewer "
            "images to classify (runtime.predict_batch); the result is the same. Other "
            "programs on the device may hold memory (nvidia-smi lists them): JAX takes "
            "three quarters of a GPU when it starts, unless the environment has "
            "XLA_PYTHON_CLIENT_PREALLOCATE=false. The same command continues from what "
            "is on the disk.",
            file=sys.stderr,
        )
        sys.exit(FAILURE)


def parse_flags(argv: Sequence[str]) -> None:
    """Reads the flags; to be used within `plain_user_errors`.

    Raises:
      ConfigError: an argument is no flag.
      flags.Error: a flag is unknown or has a wrong value.
    """
    app.define_help_flags()
    unexpected = flags.FLAGS(list(argv))[1:]
    if unexpected:
        raise ConfigError([f"{unexpected[0]!r} is not a flag; flags begin with --."])


def load_definitions(path: str, flag: str) -> ModuleType:
    """A Python file of definitions, looked for as given and beside the commands.

    Args:
      path: the file.
      flag: name of the flag that gave it.

    Raises:
      ConfigError: there is no such file.
    """
    candidates = [Path(path), Path(__file__).parent / path]
    found = next((p for p in candidates if p.is_file()), None)
    if found is None:
        tried = " and ".join(str(p) for p in candidates)
        raise ConfigError([f"--{flag}: no such file; tried {tried}."])
    spec = importlib.util.spec_from_file_location(flag, found)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


STOPPED = "Stopped; the same command continues from the last checkpoint."


class StopSignal:
    """Turns the first SIGTERM or Ctrl-C into a request, and the second into an end.

    Calling it says whether a stop was requested. Until it is first called there is
    nothing to save, as while data are prepared, and a signal ends the program at once.
    That is no exception, which a callback inside a library could swallow.
    """

    def __init__(self):
        self.number = None
        self._is_asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)

    def __call__(self) -> bool:
        self._is_asked = True
        return self.number is not None

    def _receive(self, number, frame):
        del frame
        again, self.number = self.number is not None, number
        if again or not self._is_asked:
            print(STOPPED, flush=True)
            os._exit(128 + number)
        logger.info("Stopping after a checkpoint; once more stops at once.")


def artifact_values(
    metadata: Mapping[str, Any],
    recorded: Mapping[str, Any] = types.MappingProxyType({}),
    data: str | None = None,
    **asked: Any,
) -> dict[str, Any]:
    """The configuration that a distilled set names, for `from_dict`.

    Args:
      metadata: of the set, which may come from elsewhere and say little.
      recorded: the folders of its run, see `recorded_data`.
      data: `--data`, see `named_data`: the data to take in the place of the set's.
      **asked: values of the section `data` that other flags give; None counts as not
        given.

    Raises:
      ConfigError: nobody knows where the data of the set are.
    """
    own, named = data_source(metadata), named_data(data)
    found = {key: recorded.get(key) for key in ("data_dir", "manual_dir")}
    if own is not None and named.get("name", own["name"]) == own["name"]:
        found |= own | {"path": recorded.get("path")}
    found |= named | {key: value for key, value in asked.items() if value is not None}
    needs_path = getattr(SOURCES.get(found.get("name")), "needs_path", False)
    lacks_path = needs_path and found.get("path") is None
    if "name" not in found or lacks_path:
        name = metadata.get("dataset")
        reason = (
            "where they lie is not recorded"
            if lacks_path
            else "they were given as arrays"
        )
        raise ConfigError(
            [
                "The data of this set"
                + (f", {name!r}," if name else "")
                + f" cannot be found by a name: {reason}. Say where they are by "
                "--data=..., a data set's name, a folder or an .npz file."
            ]
        )
    protocol = dict(metadata.get("protocol", {}))
    values = without_parts(metadata.get("config", {}))
    return values | {"data": found, "evaluation": protocol}


def named_data(data: str | None) -> dict[str, Any]:
    """The values of the section `data` that `--data` stands for.

    Args:
      data: a data set's name, the path of a folder or of an .npz file, or None.
    """
    if data is None:
        return {}
    if Path(data).is_file() or data.endswith(".npz"):
        return {"name": "arrays", "path": data}
    if Path(data).is_dir() and data not in SOURCES:
        return {"name": "image_folder", "path": data}
    return {"name": data}


def recorded_data(workdir: str | Path) -> dict[str, Any]:
    """The section `data` that a run was started with, which names its folders too."""
    record = Path(workdir) / "config.json"
    if not record.exists():
        return {}
    return json.loads(record.read_bytes())["config"]["data"]


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table whose columns line up; all but the first to the right."""
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    rule = ["-" * widths[0]] + ["-" * (width - 1) + ":" for width in widths[1:]]

    def show(line):
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:])]
        return f"| {' | '.join(cells)} |"

    return "\n".join(show(line) for line in [header, rule, *rows])
