"""Which run a working directory belongs to: one configuration and one data set.

`config.json` in it says so from the first moment of a run. What else it records, such
as versions and devices, is no part of the identity. Directories without that file, of
older versions, are known by their distilled set or their newest checkpoint.

A part that was not recorded agrees with any value: what a configuration lacks had its
default, and older runs recorded less about their data.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d4a_jax.config import Config, ConfigError, differences, from_dict
from d4a_jax.devices.processes import is_main
from d4a_jax.log import logger
from d4a_jax.parts import without_parts
from d4a_jax.storage import fileio
from d4a_jax.storage.checkpoint import newest_metadata
from d4a_jax.storage.entries import Identity, data_identity, rounded
from d4a_jax.storage.environment import environment

if TYPE_CHECKING:
    from d4a_jax.data import Dataset

FILE = "config.json"


def check(workdir: fileio.PathLike, config: Config) -> None:
    """Compares a directory with a configuration before its data are at hand.

    Raises:
      ConfigError: see `claim`.
    """
    ours = config.identity()
    theirs = _recorded(Path(workdir), ours)
    _refuse_another(workdir, _restricted(theirs or {}, ours), ours)


def claim(
    workdir: fileio.PathLike,
    config: Config,
    dataset: "Dataset",
    overrides: Mapping[str, Any] = {},
    baseline: str | None = None,
) -> None:
    """Makes a directory that of a run, or finds that it is; to be called before all.

    Args:
      workdir: the directory; made where it does not exist.
      config: the run.
      dataset: what is distilled.
      overrides: what the command line changed, by dotted names; no part of the
        identity.
      baseline: what is selected where nothing is distilled.

    Raises:
      ConfigError: the directory cannot be used, its `config.json` is damaged, or it
        holds another run. The message names every value that differs; nothing in the
        directory has changed.
    """
    path = Path(workdir)
    ours = run_identity(config, dataset, baseline)
    theirs = _recorded(path, ours)
    _refuse_another(path, theirs or {}, ours)
    if not is_main() or (path / FILE).exists():
        return
    is_known = "fingerprint" in (theirs or {}).get("dataset", {})
    if not is_known and _can_be_resumed(path):
        logger.warning(
            "%s was begun by an older version, which did not record its configuration "
            "and data; it is taken for a run of these.",
            path,
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError([unusable(path, error)]) from None
    record = {"config": config.to_dict(), "overrides": dict(overrides)}
    record |= {name: ours[name] for name in ("dataset", "baseline")}
    fileio.write_json_atomic(path / FILE, environment() | record)


def unusable(workdir: fileio.PathLike, error: OSError) -> str:
    """Says that a directory cannot be made or written to."""
    return f"The working directory {workdir} cannot be used: {error.strerror}."


def run_identity(
    config: Config, dataset: "Dataset", baseline: str | None = None
) -> Identity:
    """What determines the images that a run makes; see `claim` for the arguments."""
    own = {"name": dataset.name, **data_identity(dataset)}
    own |= {"classes": dataset.num_classes, "image_shape": list(dataset.image_shape)}
    return config.identity() | {"dataset": own, "baseline": baseline}


def differing(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """Dotted names of the values in which an identity differs from ours.

    Parts that it lacks agree with ours. Other images have another fingerprint; their
    statistics say nothing more, and equal ones may have any name.
    """
    keys = differences(_completed(theirs, ours), ours)
    is_other = "dataset.fingerprint" in keys
    follows = {"dataset.mean", "dataset.std"} if is_other else {"dataset.name"}
    # The images identify the data, by whatever name they were found.
    follows |= {"data.name", "data.size", "data.classes"}
    if "method.name" in keys:
        # Another method has other options.
        follows |= {key for key in keys if key.startswith("method.")} - {"method.name"}
    return [key for key in keys if key not in follows]


def both_values(
    theirs: Mapping[str, Any], ours: Mapping[str, Any], keys: Iterable[str]
) -> list[str]:
    """A line for each of the dotted names, with both values."""
    return [
        f"  {key} is {_look_up(ours, key)!r} now and was {_look_up(theirs, key)!r} "
        "there."
        for key in keys
    ]


def config_identity(values: Any, source: Path) -> Identity:
    """The identity of a configuration that was recorded in a file.

    Raises:
      ConfigError: it is none, or one that this version does not know.
    """
    try:
        is_mapping = isinstance(values, Mapping) and "parts" in values
        parts = {"parts": values["parts"]} if is_mapping else {}
        return from_dict(without_parts(values)).identity() | parts
    except (ValueError, TypeError) as error:
        raise _damaged(source, error) from None


def set_identity(directory: Path, ours: Mapping[str, Any]) -> Identity | None:
    """What a distilled or selected set says of its run; None where it says nothing."""
    source = directory / "metadata.json"
    try:
        document = json.loads(source.read_bytes())
        made = {
            "name": document["dataset"],
            "fingerprint": document["dataset_fingerprint"],
            "mean": rounded(document["mean"]),
            "std": rounded(document["std"]),
        }
    except (OSError, ValueError, KeyError, TypeError):
        return None
    found = {"dataset": made, "baseline": None}
    if "config" in document:
        found |= config_identity(document["config"], source)
        _leave_open(found, ours)
    if "history" not in document:
        # What `distill` makes has one.
        method = document.get("method", "unknown")
        found["baseline"] = ours.get("baseline") or method
    return found


def _recorded(path: Path, ours: Identity) -> Identity | None:
    """The identity of the run in a directory, as far as it says."""
    source = path / FILE
    try:
        content = json.loads(source.read_bytes())
        if not isinstance(content["dataset"]["fingerprint"], str):
            raise ValueError("dataset.fingerprint is not a string")
        found = {"dataset": content["dataset"], "baseline": content.get("baseline")}
        return found | config_identity(content["config"], source)
    except (FileNotFoundError, NotADirectoryError):
        return set_identity(path / "distilled", ours) or _of_checkpoint(path, ours)
    except ConfigError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(source, error) from None


def _of_checkpoint(path: Path, ours: Identity) -> Identity | None:
    """What the newest checkpoint says: its identity or, if it is older, its shapes."""
    metadata = newest_metadata(path / "checkpoints")
    if metadata is None:
        return None
    try:
        found = dict(metadata["record"].get("identity") or _of_shapes(metadata))
    except (KeyError, TypeError, ValueError, AttributeError):
        return None  # Damaged, as restoring will find.
    _leave_open(found, ours)
    return found


def _of_shapes(metadata: Mapping[str, Any]) -> Identity:
    classes, size, *shape = metadata["leaves"]["['finished']"]["shape"]
    return {
        "synthetic": {"images_per_class": size},
        "dataset": {"classes": classes, "image_shape": shape},
    }


def _leave_open(found: Identity, ours: Mapping[str, Any]) -> None:
    """Drops a learning rate that a range test may have found, as ours is to be."""
    if ours.get("matching", {}).get("learning_rate", 0.0) is None:
        found["matching"] = {**found.get("matching", {})}
        found["matching"].pop("learning_rate", None)


def _can_be_resumed(path: Path) -> bool:
    has_rate = (path / "learning_rate.json").exists()
    return has_rate or newest_metadata(path / "checkpoints") is not None


def _refuse_another(path: fileio.PathLike, theirs: Identity, ours: Identity) -> None:
    keys = differing(theirs, ours)
    if not keys:
        return
    of_data = [key for key in keys if key.startswith("dataset.")]
    of_run = "" if len(of_data) == len(keys) else " of another configuration"
    on_data = " on other images" if of_data else ""
    raise ConfigError(
        [
            f"The working directory {path} holds a run{of_run}{on_data}; choose "
            "another directory, or repeat that run's values:",
            *both_values(theirs, ours, keys),
        ]
    )


def _completed(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> Identity:
    """Theirs with our values where it has none."""
    completed = {**ours, **theirs}
    for name, value in ours.items():
        if isinstance(value, Mapping) and isinstance(theirs.get(name), Mapping):
            completed[name] = {**value, **theirs[name]}
    return completed


def _restricted(theirs: Identity, ours: Identity) -> Identity:
    return {name: value for name, value in theirs.items() if name in ours}


def _look_up(values: Mapping[str, Any], key: str) -> Any:
    for name in key.split("."):
        values = values.get(name) if isinstance(values, Mapping) else None
    return values


def _damaged(source: Path, error: Exception) -> ConfigError:
    if isinstance(error, KeyError):
        reason = f"{error} is missing"
    else:
        lines = str(error).splitlines() or [type(error).__name__]
        reason = lines[0].rstrip(".")
    return ConfigError(
        [
            f"{source} is damaged ({reason}); restore it, or choose another working "
            "directory."
        ]
    )
