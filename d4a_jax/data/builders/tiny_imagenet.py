"""Tiny-ImageNet-200 (Stanford CS231n): its `val` images are the test split."""

from collections.abc import Iterator

from d4a_jax.data import archives
from d4a_jax.data.builders import base
from d4a_jax.data.errors import DatasetError

_ANNOTATIONS = "val/val_annotations.txt"


class TinyImageNet(base.Builder, skip_registration=True):
    """The zip archive or its unpacked folder; labels follow the sorted WordNet ids."""

    def read_splits(self, dl_manager):
        """See the base class."""
        if self.folder:
            tree = archives.Folder(self.folder)
        else:
            tree = archives.Zip(*self.fetch(dl_manager), top="tiny-imagenet-200")
        wnids = sorted(line.strip() for line in archives.read_text(tree, "wnids.txt"))
        wnids = [wnid for wnid in wnids if wnid]
        groups = archives.group_by_folder(tree, "train", depth=3)
        base.check_groups(tree, "train", groups, wnids)
        validation = self._read_annotations(tree, wnids)
        return (
            self._read_names(tree, wnids),
            base.encode_files(tree, groups, wnids),
            self._read_validation(tree, validation),
        )

    def _read_names(self, tree: archives.Tree, wnids: list[str]) -> list[str]:
        lines = archives.read_text(tree, "words.txt")
        words = dict(line.split("\t", 1) for line in lines if "\t" in line)
        names = [words.get(wnid, wnid).strip() for wnid in wnids]
        # Two WordNet ids may have the same words, such as the two kinds of crane.
        return [
            f"{name} ({wnid})" if names.count(name) > 1 else name
            for name, wnid in zip(names, wnids, strict=True)
        ]

    def _read_annotations(
        self, tree: archives.Tree, wnids: list[str]
    ) -> list[tuple[str, int]]:
        """Returns the file names and labels of the validation images, sorted."""
        labels = {wnid: label for label, wnid in enumerate(wnids)}
        found = {}
        for number, line in enumerate(archives.read_text(tree, _ANNOTATIONS), 1):
            if not line.strip():
                continue
            parts = line.split("\t")
            if len(parts) < 2 or parts[1] not in labels:
                raise DatasetError(
                    f"Line {number} of {tree.where(_ANNOTATIONS)} names no known "
                    f"class: {line!r}."
                )
            name = f"val/images/{parts[0]}"
            if name not in tree.names:
                raise DatasetError(
                    f"{tree.where(name)}, named in line {number} of "
                    f"{_ANNOTATIONS}, is missing."
                )
            found[name] = labels[parts[1]]
        return sorted(found.items(), key=lambda item: archives.natural_key(item[0]))

    def _read_validation(
        self, tree: archives.Tree, validation: list[tuple[str, int]]
    ) -> Iterator[base.Example]:
        for name, label in validation:
            yield tree.read(name), label, tree.where(name)
