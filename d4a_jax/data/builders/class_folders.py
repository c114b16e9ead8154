"""Data sets that come as one folder per class."""

import tempfile
from pathlib import Path

from d4a_jax.data import archives
from d4a_jax.data.builders import base


class Cifar10Jpeg(base.Builder, skip_registration=True):
    """The JPEG copy of CIFAR-10, `train/<class>/` and `test/<class>/`."""

    test_folder = "test"

    def read_splits(self, dl_manager):
        """See the base class."""
        return self._read_tree(archives.Folder(self._find_folder(dl_manager)))

    def _find_folder(self, dl_manager) -> Path:
        return self.folder

    def _read_tree(self, tree: archives.Folder):
        train = archives.group_by_folder(tree, "train", depth=2)
        test = archives.group_by_folder(tree, self.test_folder, depth=2)
        classes = sorted(train.keys() | test.keys())
        base.check_groups(tree, "train", train, classes)
        base.check_groups(tree, self.test_folder, test, classes)
        return (
            classes,
            base.encode_files(tree, train, classes),
            base.encode_files(tree, test, classes),
        )


class Imagenette(Cifar10Jpeg, skip_registration=True):
    """fast.ai's subset of ten classes of ImageNet, `train/<wnid>/` and `val/<wnid>/`.

    A gzipped tar cannot be read out of order: it is unpacked to a temporary folder
    beside the prepared copies, which `prepare` deletes afterwards.
    """

    test_folder = "val"

    def _find_folder(self, dl_manager) -> Path:
        if self.folder:
            return self.folder
        (path,) = self.fetch(dl_manager)
        unpacked = tempfile.mkdtemp(
            dir=self.data_dir_root, prefix=f".unpacked-{self.name}-"
        )
        archives.extract_tar(path, Path(unpacked))
        return Path(unpacked) / "imagenette2"
