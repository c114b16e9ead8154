"""Parts of a distilled set: some classes, some images per class."""

import copy
from collections.abc import Sequence

import numpy as np

from d4a_jax.artifact.checks import ArtifactError
from d4a_jax.artifact.distilled import SOFT_ARRAYS, DistilledDataset
from d4a_jax.artifact.joining import origin, sizes_of


def take(
    distilled: DistilledDataset,
    classes: Sequence[int | str] | None = None,
    images_per_class: int | None = None,
) -> DistilledDataset:
    """Takes some of the classes, and the first images of each.

    Logits keep the columns of the classes taken, so that soft labels are those given
    that the class is one of them. The history, which tells of the whole set, is left
    out; `mean` and `std` stay those of the whole data.

    Args:
      distilled: the set.
      classes: labels or names, relabelled from 0 in the order given; all if None.
      images_per_class: stored images to keep of each class, the first ones in the order
        of the segments, at least 1; all if None. Classes with fewer keep theirs.

    Returns:
      The smaller set; its metadata's `taken_from` tells of the whole one.

    Raises:
      ArtifactError: a class does not exist or comes twice, or a number is out of range.
    """
    labels = _chosen_labels(distilled, classes)
    if images_per_class is not None and images_per_class < 1:
        raise ArtifactError(
            f"images_per_class is {images_per_class}; it must be at least 1."
        )
    relabel = np.full(distilled.num_classes, -1, np.int32)
    relabel[labels] = np.arange(len(labels))
    kept = relabel[distilled.labels] >= 0
    if images_per_class is not None:
        kept &= _rank_in_class(distilled) < images_per_class
    rows = np.flatnonzero(kept)
    if not len(rows):
        raise ArtifactError(f"There are no images of the classes {labels}.")
    metadata = _taken_metadata(distilled, labels, images_per_class)
    # A segment without images is none.
    _, segments = np.unique(distilled.segments[rows], return_inverse=True)
    formed = np.tile(kept, distilled.factor**2)
    arrays = {}
    for name in distilled.optional_arrays:
        array = getattr(distilled, name)
        array = array[:, formed] if name in SOFT_ARRAYS else array[formed]
        arrays[name] = array if name == "soft_crops" else array[..., labels]
    return DistilledDataset(
        distilled.images[rows],
        relabel[distilled.labels[rows]],
        segments.astype(np.int32),
        metadata,
        **arrays,
    )


def _chosen_labels(distilled, classes):
    names = distilled.metadata["class_names"]
    if classes is None:
        return list(range(len(names)))
    labels = []
    for chosen in classes:
        known = chosen in names if isinstance(chosen, str) else 0 <= chosen < len(names)
        if not known:
            raise ArtifactError(
                f"classes has {chosen!r}; names of the set, or 0 to {len(names) - 1}, "
                "are allowed."
            )
        labels.append(names.index(chosen) if isinstance(chosen, str) else int(chosen))
    if len(set(labels)) != len(labels) or not labels:
        raise ArtifactError(f"classes is {list(classes)}; different ones are needed.")
    return labels


def _rank_in_class(distilled):
    """Place of every image in its class, in the order of segments, from 0."""
    order = np.lexsort((np.arange(len(distilled.labels)), distilled.segments))
    rank = np.empty(len(order), np.int64)
    seen = np.zeros(distilled.num_classes, np.int64)
    for row in order:
        label = distilled.labels[row]
        rank[row] = seen[label]
        seen[label] += 1
    return rank


def _taken_metadata(distilled, labels, images_per_class):
    metadata = copy.deepcopy(distilled.metadata)
    names = list(metadata["class_names"])
    metadata.pop("sha256", None)
    metadata.pop("history", None)
    metadata["class_names"] = [names[label] for label in labels]
    metadata["taken_from"] = origin(distilled)
    if labels != list(range(len(names))):
        metadata.pop("dataset_fingerprint", None)
        for section in (metadata.get("config", {}).get("data"), metadata.get("source")):
            if section is not None:
                section["classes"] = _composed(section.get("classes"), labels)
    if images_per_class is not None and "segment_sizes" in metadata:
        ends = np.minimum(np.cumsum(metadata["segment_sizes"]), images_per_class)
        sizes = np.diff(ends, prepend=0)
        metadata |= sizes_of([int(size) for size in sizes if size])
    return metadata


def _composed(classes, labels):
    """The labels, in the whole data, of some of the chosen classes."""
    if classes is None or isinstance(classes, int):
        return list(labels)
    return [classes[label] for label in labels]
