"""The working directory of a run: one process at a time, one configuration for ever.

    with Workdir("runs/tin50", config) as workdir:
        dataset = load_dataset(...)
        workdir.record(dataset, overrides)
        distill(dataset, config, workdir.path)

`config.json` in it says what was run with what. It is written when the data have been
found to fit, so that a run refused before that can be corrected in the same place.
"""

import contextlib
import importlib.metadata
import json
import platform
import subprocess
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jax

from d4a_jax import __version__
from d4a_jax.config import Config, ConfigError, differences, from_dict
from d4a_jax.data import Dataset
from d4a_jax.devices.processes import is_main
from d4a_jax.storage import fileio

_FILE = "config.json"
_PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "tensorflow-datasets",
    "pillow",
)


class Workdir:
    """A working directory, locked and compared with the configuration on entering.

    Attributes:
      path: the directory.
    """

    def __init__(self, path: fileio.PathLike, config: Config):
        """Names the directory; entering makes it.

        Args:
          path: the directory, new or of an earlier run of the same configuration.
          config: the run.
        """
        self.path = Path(path)
        self._config = config
        self._file = self.path / _FILE
        # Of several processes that make one run, one holds the directory for all.
        self._lock = fileio.WorkdirLock(self.path) if is_main() else nullcontext()

    def __enter__(self) -> "Workdir":
        """Takes the directory.

        Raises:
          ConfigError: the directory cannot be used, its `config.json` is damaged, or
            it holds a run of another configuration; names every key that differs.
          WorkdirBusyError: another process is using it.
        """
        try:
            self._lock.__enter__()
        except OSError as error:
            raise ConfigError(
                [f"The working directory {self.path} cannot be used: {error.strerror}."]
            ) from None
        try:
            if is_main():
                fileio.remove_leftovers(self.path)
            self._compare(self._recorded())
        except BaseException:
            self._lock.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *exception) -> None:
        """Gives the directory back."""
        self._lock.__exit__(*exception)

    def record(self, dataset: Dataset, overrides: Mapping[str, Any] = {}) -> None:
        """Writes `config.json`, unless an earlier run did, and compares the data.

        Args:
          dataset: what is distilled.
          overrides: what the command line changed, by dotted names.

        Raises:
          ConfigError: the data are not those of the earlier run.
        """
        recorded = self._recorded()
        if recorded is None:
            if is_main():
                description = _describe(self._config, dataset, overrides)
                fileio.write_json_atomic(self._file, description)
        elif recorded["dataset"]["fingerprint"] != dataset.fingerprint:
            raise ConfigError(
                [
                    f"The working directory {self.path} holds a run on other images "
                    f"than those of {dataset.name!r} now; choose another directory."
                ]
            )

    def _recorded(self) -> dict[str, Any] | None:
        """The content of `config.json`, its configuration as a `Config`."""
        try:
            content = json.loads(self._file.read_bytes())
            content["dataset"]["fingerprint"]  # pylint: disable=pointless-statement
            return content | {"config": from_dict(content["config"])}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                [
                    f"{self._file} is damaged ({_first_line(error)}); restore it, or "
                    "choose another working directory."
                ]
            ) from None

    def _compare(self, recorded: dict[str, Any] | None) -> None:
        if recorded is None:
            return
        theirs, ours = recorded["config"].identity(), self._config.identity()
        keys = differences(theirs, ours)
        if keys:
            raise ConfigError(
                [
                    f"The working directory {self.path} holds a run of another "
                    "configuration; choose another directory, or repeat that run's "
                    "values:",
                    *(
                        f"  {key} is {_look_up(ours, key)!r} now and was "
                        f"{_look_up(theirs, key)!r} there."
                        for key in keys
                    ),
                ]
            )


def environment() -> dict[str, Any]:
    """What a result may depend on besides its configuration: software and devices."""
    return {
        "versions": _versions(),
        "devices": [f"{d.platform}: {d.device_kind}" for d in jax.devices()],
        "processes": jax.process_count(),
        "git_revision": _git_revision(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _describe(config, dataset, overrides):
    return environment() | {
        "config": config.to_dict(),
        "overrides": dict(overrides),
        "dataset": {"name": dataset.name, "fingerprint": dataset.fingerprint},
    }


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "d4a_jax": __version__}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _git_revision() -> str | None:
    """The commit of this library's checkout, `-dirty` where it was edited since."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    describe = ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        result = subprocess.run(
            ["git", "-C", str(root), *describe],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


def _look_up(values: Mapping[str, Any], key: str) -> Any:
    for name in key.split("."):
        values = values.get(name) if isinstance(values, Mapping) else None
    return values


def _first_line(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
