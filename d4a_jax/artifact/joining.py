"""Distilled sets joined and appended, each with the metadata that hold of it."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from d4a_jax.artifact.checks import ArtifactError
from d4a_jax.artifact.distilled import DistilledDataset

# The logit of a class that a label excludes: softmax makes zero of it.
_EXCLUDED = np.float16(-60000)

# What is kept of the metadata of the parts, where all agree.
_SHARED = ("dataset", "flip", "protocol", "versions", "learned_learning_rate")
_ORIGIN = ("dataset", "dataset_fingerprint", "images_per_class", "segment_sizes",
           "config", "seed", "history", "imported")  # fmt: skip


def join(sets: Sequence[DistilledDataset]) -> DistilledDataset:
    """Joins sets of disjoint classes, as continual learning does.

    The classes follow each other in the order of the sets, and segment k of the result
    is all segments k of the sets. Where a set has learned labels, the hard labels of
    the others become logits that exclude all other classes. The mean and std are those
    of all classes, each of the same weight; the data set from which the classes were
    chosen is recorded with all of them, so that `evaluate.py` finds its test images.

    Args:
      sets: at least two, with images of one shape, one factor and no class in common.

    Returns:
      The joint set; its metadata's `joined` tells of the parts.

    Raises:
      ArtifactError: the sets do not fit together.
    """
    _check_parts(sets)
    names = [name for part in sets for name in part.metadata["class_names"]]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ArtifactError(
            f"The class {twice[0]!r} is in more than one of the sets; to be joined "
            "they must have no class in common (append adds images to the same ones)."
        )
    if any(part.soft_logits is not None for part in sets):
        raise ArtifactError(
            "A set has soft labels of a teacher, who knows only the classes of that "
            "set; join the sets without them and make new ones."
        )
    starts = np.cumsum([0, *(part.num_classes for part in sets)])[:-1]
    labels = [part.labels + start for part, start in zip(sets, starts)]
    logits = None
    if any(part.label_logits is not None for part in sets):
        logits = [_wide_logits(*x, len(names)) for x in zip(sets, starts)]
    mean, std = _pooled(sets)
    metadata = _joint_metadata(sets) | {"class_names": names, "mean": mean, "std": std}
    sizes = [part.metadata.get("segment_sizes") for part in sets]
    if sizes[0] and all(size == sizes[0] for size in sizes):
        metadata |= sizes_of(sizes[0])
    configs = [part.metadata.get("config", {}) for part in sets]
    if data := _joint_data([config.get("data") for config in configs]):
        metadata["config"] = {"data": data} | _common(configs, ("network",))
    if source := _joint_data([part.metadata.get("source") for part in sets]):
        metadata["source"] = source
    return DistilledDataset(
        np.concatenate([part.images for part in sets]),
        np.concatenate(labels).astype(np.int32),
        np.concatenate([part.segments for part in sets]),
        metadata,
        label_logits=None if logits is None else _by_tile(logits, sets, axis=0),
    )


def append(sets: Sequence[DistilledDataset]) -> DistilledDataset:
    """Appends sets of the same classes: those of each are segments after the earlier.

    A prefix of the result is so the first sets. Classes are matched by name, and labels
    follow the first set. Hard labels become logits where another set has learned ones.

    Args:
      sets: at least two, with images of one shape, one factor and the same classes.

    Returns:
      The set of all images; its metadata's `joined` tells of the parts.

    Raises:
      ArtifactError: the sets do not fit together.
    """
    _check_parts(sets)
    names = list(sets[0].metadata["class_names"])
    orders = [_class_order(part, names) for part in sets]
    prints = {part.metadata.get("dataset_fingerprint") for part in sets} - {None}
    if len(prints) > 1:
        raise ArtifactError(
            "The sets were distilled from different data: the fingerprints differ."
        )
    ends = np.cumsum([0, *(part.num_segments for part in sets)])[:-1]
    first = sets[0].metadata
    metadata = _joint_metadata(sets) | {
        key: copy.deepcopy(first[key]) for key in ("class_names", "mean", "std")
    }
    sizes = [part.metadata.get("segment_sizes") for part in sets]
    if all(sizes):
        metadata |= sizes_of([size for part in sizes for size in part])
    metadata |= _common([p.metadata for p in sets], ("dataset_fingerprint", "source"))
    configs = [part.metadata.get("config", {}) for part in sets]
    # Where only seeds or methods differ, the data and the network still hold of all.
    if config := _common(configs, ("data", "network")):
        metadata["config"] = configs[0] if _all_same(configs) else config
    return DistilledDataset(
        np.concatenate([part.images for part in sets]),
        np.concatenate([order[p.labels] for p, order in zip(sets, orders)]),
        np.concatenate([p.segments + end for p, end in zip(sets, ends)]).astype(
            np.int32
        ),
        metadata,
        **_appended_labels(sets, orders, metadata),
    )


def _check_parts(sets):
    if len(sets) < 2:
        raise ArtifactError(f"{len(sets)} set is given; at least 2 are needed.")
    facts: dict[str, Callable[[DistilledDataset], Any]] = {
        "images of the shape": lambda part: part.images.shape[1:],
        "the factor": lambda part: part.factor,
    }
    for name, fact in facts.items():
        first = fact(sets[0])
        for place, part in enumerate(sets[1:], start=2):
            if fact(part) != first:
                raise ArtifactError(
                    f"Set 1 has {name} {first}, but set {place} {fact(part)}; they "
                    "must agree."
                )


def _all_same(values):
    return all(value == values[0] for value in values)


def sizes_of(sizes: Sequence[int]) -> dict[str, Any]:
    """The metadata of segments with so many images per class."""
    return {"segment_sizes": list(sizes), "images_per_class": sum(sizes)}


def _joint_metadata(sets):
    """What all parts agree on, and where each comes from."""
    shared = _common([part.metadata for part in sets], _SHARED)
    joined = [origin(part) for part in sets]
    return {"factor": sets[0].factor} | shared | {"joined": joined}


def _common(mappings, keys):
    """The keys that all have with one value."""
    found = {}
    for key in keys:
        values = [mapping.get(key) for mapping in mappings]
        if values[0] is not None and _all_same(values):
            found[key] = copy.deepcopy(values[0])
    return found


def origin(part: DistilledDataset) -> dict[str, Any]:
    """What is recorded of a set of which another is made."""
    known = {k: copy.deepcopy(part.metadata[k]) for k in _ORIGIN if k in part.metadata}
    names = list(part.metadata["class_names"])
    return known | {"class_names": names, "images": len(part.labels)}


def _joint_data(sections):
    """The data of all classes: one data set of which each part names its classes."""
    if not all(sections) or any(s.get("classes") is None for s in sections):
        return None
    common = [{k: v for k, v in s.items() if k != "classes"} for s in sections]
    if not _all_same(common):
        return None
    classes = []
    for section in sections:
        own = section["classes"]
        classes += list(range(own)) if isinstance(own, int) else list(own)
    distinct = len(classes) == len(set(classes))
    return common[0] | {"classes": classes} if distinct else None


def _pooled(sets):
    """Mean and std over the classes of all sets, by the law of total variance."""
    weights = np.array([part.num_classes for part in sets], float)
    weights = (weights / weights.sum())[:, None]
    means = np.array([part.metadata["mean"] for part in sets], float)
    stds = np.array([part.metadata["std"] for part in sets], float)
    if _all_same(means.tolist()) and _all_same(stds.tolist()):
        return means[0].tolist(), stds[0].tolist()
    mean = (weights * means).sum(axis=0)
    variance = (weights * (stds**2 + means**2)).sum(axis=0) - mean**2
    return mean.tolist(), np.sqrt(variance).tolist()


def _own_logits(part):
    """Logits of learned labels, or those that hard labels stand for."""
    if part.label_logits is not None:
        return part.label_logits
    labels = np.tile(part.labels, part.factor**2)
    one_hot = labels[:, None] == np.arange(part.num_classes)
    return np.where(one_hot, np.float16(0), _EXCLUDED)


def _wide_logits(part, start, num_classes):
    """A part's logits among those of all classes."""
    own = _own_logits(part)
    wide = np.full((len(own), num_classes), _EXCLUDED, np.float16)
    wide[:, start : start + part.num_classes] = own
    return wide


def _by_tile(arrays, sets, axis):
    """Concatenates arrays in the order of `formed`: all first tiles first."""
    tiles, split = sets[0].factor ** 2, []
    for array in arrays:
        shape = array.shape
        split.append(array.reshape(*shape[:axis], tiles, -1, *shape[axis + 1 :]))
    joint = np.concatenate(split, axis=axis + 1)
    shape = joint.shape
    return joint.reshape(*shape[:axis], -1, *shape[axis + 2 :])


def _class_order(part, names):
    """The label in `names` of every class of a part."""
    own = part.metadata["class_names"]
    if sorted(own) != sorted(names):
        strange = sorted(set(own) ^ set(names))
        raise ArtifactError(
            f"The class {strange[0]!r} is not in all of the sets; to be appended they "
            "must have the same classes (join puts different ones together)."
            if strange
            else "The sets have classes of one name several times."
        )
    return np.array([names.index(name) for name in own], np.int32)


def _appended_labels(sets, orders, metadata):
    """Learned or a teacher's labels of all sets, with the columns of the first."""
    # Column j of the result is the class that a part calls argsort(order)[j].
    columns = [np.argsort(order) for order in orders]
    soft = [part.soft_logits is not None for part in sets]
    if not any(soft):
        if all(part.label_logits is None for part in sets):
            return {}
        logits = [_own_logits(p)[:, c] for p, c in zip(sets, columns)]
        return {"label_logits": _by_tile(logits, sets, axis=0)}
    epochs = [len(part.soft_logits) for part in sets if part.soft_logits is not None]
    temperatures = [part.metadata.get("temperature") for part in sets]
    if not all(soft) or not _all_same(epochs) or not _all_same(temperatures):
        raise ArtifactError(
            "Soft labels of a teacher can be appended where all sets have them, for as "
            "many epochs and with the same temperature."
        )
    metadata["temperature"] = temperatures[0]
    logits = [part.soft_logits[..., c] for part, c in zip(sets, columns)]
    return {
        "soft_logits": _by_tile(logits, sets, axis=1),
        "soft_crops": _by_tile([part.soft_crops for part in sets], sets, axis=1),
    }
