"""The published forms of distilled sets as the field's repositories save them."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from d4a_jax.artifact import ArtifactError
from d4a_jax.imports.content import Found
from d4a_jax.imports.torch_file import read_torch

_IMAGES = ("images", "image", "syn_images", "images_syn", "image_syn", "x", "data")
_LABELS = ("labels", "label", "syn_labels", "labels_syn", "label_syn", "y", "targets")
_SOFT = ("label_logits", "logits", "soft_labels", "probabilities")
_BEST = "images_best.pt"
_TRAJECTORY = "images and labels of MTT or DATM"


def from_mapping(values: Mapping[str, Any], form: str, channels_first=None) -> Found:
    """Finds images and labels among named arrays.

    Args:
      values: arrays by name. Soft labels are preferred to hard ones beside them.
      form: what holds them, in words.
      channels_first: whether that is known of the images.

    Raises:
      ArtifactError: none of the names is that of images.
    """
    by_name = {str(name).lower(): value for name, value in values.items()}
    images = next((by_name[name] for name in _IMAGES if name in by_name), None)
    if images is None:
        held = ", ".join(map(repr, values)) or "nothing"
        raise ArtifactError(
            f"The file, {form}, has no images: it holds {held}; {', '.join(_IMAGES)} "
            "are looked for."
        )
    labels = next((by_name[n] for n in (*_SOFT, *_LABELS) if n in by_name), None)
    return Found(form, _array(images, "images"), labels, channels_first=channels_first)


def read_torch_set(path: Path, entry: int = 0) -> Found | dict[str, Any]:
    """Reads a `.pt` file of a distilled set, and the files that belong to it.

    Args:
      path: the file.
      entry: which of several sets to take (DC, DM).

    Returns:
      What was found; for an export of this library, the file's content.

    Raises:
      ArtifactError: the file cannot be read, or has none of the known forms.
    """
    if re.fullmatch(r"images_.+\.pt", path.name):
        return _trajectory_set(path)
    values = read_torch(path)
    if isinstance(values, Mapping):
        if isinstance(values.get("data"), (list, tuple)):
            return _condensation_set(values, entry)
        if isinstance(values.get("metadata"), str):
            return dict(values)
        return from_mapping(values, "a dictionary of tensors", True)
    if isinstance(values, (list, tuple)) and len(values) == 2:
        return _pair(path, values)
    if isinstance(values, np.ndarray):
        return Found("a tensor of images", values, None, channels_first=True)
    raise ArtifactError(
        f"{path} holds a {type(values).__name__}, which is no known form: a dictionary "
        "with images and labels, a list of these two, a list under 'data' (DC, DM) or "
        "a tensor of images are."
    )


def find_trajectory_file(folder: Path) -> Path | None:
    """The images of MTT or DATM in a folder: the best ones, or the only ones.

    Raises:
      ArtifactError: there are several, and none is called the best.
    """
    if (folder / _BEST).is_file():
        return folder / _BEST
    files = sorted(folder.glob("images_*.pt"))
    if len(files) > 1:
        raise ArtifactError(
            f"{folder} has {len(files)} files of images and no {_BEST}; name one of "
            f"them: {', '.join(file.name for file in files[:5])}."
        )
    return files[0] if files else None


def _trajectory_set(path: Path) -> Found:
    """Images, labels and the learned rate side by side, under the same ending."""
    ending = path.name.removeprefix("images_")
    plain = ending.removeprefix("zca_")
    labels, rate = path.with_name(f"labels_{plain}"), path.with_name(f"lr_{plain}")
    notes = []
    if plain != ending:
        notes.append("The images are those whose whitening was undone (zca).")
    if not labels.is_file():
        raise ArtifactError(f"{path} needs its labels beside it: {labels.name}.")
    found = Found(
        _TRAJECTORY,
        _array(read_torch(path), "images"),
        read_torch(labels),
        channels_first=True,
        notes=tuple(notes),
    )
    return found._replace(learning_rate=_rate(rate)) if rate.is_file() else found


def _rate(path):
    value = np.asarray(read_torch(path))
    if value.size != 1 or value.dtype.kind not in "iuf":
        raise ArtifactError(f"{path} holds no number; a learning rate is needed.")
    return float(value.reshape(()))


def _condensation_set(values, entry) -> Found:
    """DC, DSA and DM: a set from each of several experiments under 'data'."""
    sets = values["data"]
    if not 0 <= entry < len(sets):
        raise ArtifactError(
            f"entry is {entry}, but the file holds {len(sets)} sets (0 to "
            f"{len(sets) - 1})."
        )
    chosen = sets[entry]
    if not isinstance(chosen, (list, tuple)) or len(chosen) != 2:
        raise ArtifactError("The list under 'data' must hold pairs of images, labels.")
    notes = (f"Set {entry + 1} of {len(sets)} in the file is taken.",)
    images, labels = chosen
    return Found(
        "a list of DC, DSA or DM",
        _array(images, "images"),
        labels,
        channels_first=True,
        notes=notes,
    )


def _pair(path: Path, values) -> Found:
    """IDC's [images, labels]; the factor stands in the name of its folder."""
    images, labels = values
    images = _array(images, "images")
    form = "the images and labels of IDC"
    found = Found(form, images, labels, factor=None, channels_first=True)
    named = re.search(r"(?:^|_)factor([1-9])(?:_|$)", path.absolute().parent.name)
    if named is None:
        return found
    note = f"The factor is {int(named[1])}, by the name of the folder."
    return found._replace(factor=int(named[1]), notes=(note,))


def _array(value, name):
    if not isinstance(value, np.ndarray):
        raise ArtifactError(
            f"The {name} are a {type(value).__name__}; an array of numbers is needed."
        )
    return value
