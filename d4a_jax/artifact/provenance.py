"""Where the data of a distilled set are, and in which order its classes stand there."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from d4a_jax.artifact.checks import ArtifactError

if TYPE_CHECKING:
    from d4a_jax.artifact.distilled import DistilledDataset
    from d4a_jax.data import Dataset


def source_to_record(dataset: "Dataset") -> dict[str, Any] | None:
    """`Dataset.source` for the metadata of a set: without the path on this machine."""
    source = dataset.source
    return source and {key: source[key] for key in ("name", "size", "classes")}


def data_source(metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    """The arguments of `load_dataset` that find the data of a set, but for its folders.

    Args:
      metadata: of the set.

    Returns:
      `name`, `size` and `classes`; None where the data were given as arrays, or nothing
      is known of them.
    """
    if "source" in metadata:
        return metadata["source"]
    # Sets of earlier versions: the configuration names the data that the command
    # loaded, and the default where arrays were given.
    recorded = dict(metadata.get("config", {}).get("data", {}))
    name = metadata.get("dataset")
    if not recorded:
        return None if name is None else {"name": name, "size": None, "classes": None}
    is_own = recorded.get("name") in ("arrays", "image_folder")
    if not is_own and name not in (None, recorded.get("name")):
        return None
    return {key: recorded.get(key) for key in ("name", "size", "classes")}


def with_class_order(
    distilled: "DistilledDataset", dataset: "Dataset"
) -> "DistilledDataset":
    """The set with its labels in the order of a data set's classes, matched by name.

    Args:
      distilled: the set.
      dataset: whose class names may stand in another order.

    Returns:
      The set itself where the order is the same.

    Raises:
      ArtifactError: the names are not the same.
    """
    own, wanted = distilled.metadata["class_names"], list(dataset.class_names)
    if list(own) == wanted:
        return distilled
    if sorted(own) != sorted(wanted):
        raise ArtifactError(
            f"the classes of the distilled set are {_shown(own)}; those of "
            f"{dataset.name} are {_shown(wanted)}. They must have the same names, in "
            "any order."
        )
    # places[i] is where class i of the set stands among those of the data.
    places = np.array([wanted.index(name) for name in own], np.int32)
    columns = np.argsort(places)
    arrays = {
        name: getattr(distilled, name)[..., columns]
        for name in ("soft_logits", "label_logits")
        if getattr(distilled, name) is not None
    }
    return dataclasses.replace(
        distilled,
        labels=places[distilled.labels],
        metadata=_in_order(distilled.metadata, columns) | {"class_names": wanted},
        **arrays,
    )


def _in_order(metadata, columns):
    """The metadata with the figures of each class in another order."""
    if "history" not in metadata:
        return metadata
    history = []
    for entry in metadata["history"]:
        if "kept_per_class" in (figures := entry.get("filter", {})):
            kept = [figures["kept_per_class"][column] for column in columns]
            entry = entry | {"filter": figures | {"kept_per_class": kept}}
        history.append(entry)
    return metadata | {"history": history}


def _shown(names) -> str:
    most = 20
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"({', '.join(names[:most])}{more})"
