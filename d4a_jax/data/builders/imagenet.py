"""ImageNet (ILSVRC 2012), whole or some of its classes."""

import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds

from d4a_jax.data import archives
from d4a_jax.data.builders import base
from d4a_jax.data.errors import DatasetError


def _read_resource(name: str) -> list[str]:
    """Reads a list that tfds ships with its own ImageNet builder."""
    path = tfds.core.tfds_path(f"datasets/imagenet2012/{name}.txt")
    return path.read_text().split()


class ImageNet(base.Builder, skip_registration=True):
    """The two official archives; the validation images are the test split.

    The training archive holds one tar per class. The labels of the validation images
    are those that tfds ships, the n-th for `ILSVRC2012_val_<n>.JPEG`.
    """

    def read_splits(self, dl_manager):
        """See the base class."""
        train_path, val_path = self.fetch(dl_manager)
        wnids = list(self.source.wnids or _read_resource("labels"))
        labels = {wnid: label for label, wnid in enumerate(wnids)}
        test = self._read_validation(val_path, labels)
        return wnids, self._read_train(train_path, labels), test

    def _read_train(self, path: Path, labels: dict[str, int]) -> Iterator[base.Example]:
        with archives.reading(path), tarfile.open(path, "r:") as outer:
            members = {member.name: member for member in outer}
            for name in members:
                archives.check_member_name(path, name)
            for wnid, label in labels.items():
                if f"{wnid}.tar" not in members:
                    raise DatasetError(f"The archive {path} lacks the class {wnid!r}.")
                with outer.extractfile(members[f"{wnid}.tar"]) as file:
                    for name, image in _read_images(path, file):
                        yield image, label, f"{name} in {wnid}.tar in {path}"

    def _read_validation(
        self, path: Path, labels: dict[str, int]
    ) -> Iterator[base.Example]:
        wnids = _read_resource("validation_labels")

        def wnid_of(name: str) -> str:
            match = re.fullmatch(r"ILSVRC2012_val_(\d{8})\.JPEG", Path(name).name)
            if match is None or not 1 <= int(match[1]) <= len(wnids):
                raise DatasetError(
                    f"The archive {path} has the member {name!r}, which is no "
                    "validation image."
                )
            return wnids[int(match[1]) - 1]

        with open(path, "rb") as file:
            for name, image in _read_images(path, file, lambda n: wnid_of(n) in labels):
                yield image, labels[wnid_of(name)], f"{name} in {path}"


def _read_images(path: Path, file, wanted=lambda name: True):
    """Yields name and content of the wanted files of a tar, in the order of names."""
    with archives.reading(path), tarfile.open(fileobj=file, mode="r:") as tar:
        members = [member for member in tar if member.isfile()]
        for member in members:
            archives.check_member_name(path, member.name)
        for member in sorted(members, key=lambda m: archives.natural_key(m.name)):
            if wanted(member.name):
                yield member.name, tar.extractfile(member).read()
