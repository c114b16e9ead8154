"""Published test accuracies, to stand beside ours where the data and network agree.

ConvNet with three blocks of width 128 and instance norm (four for Tiny-ImageNet), hard
labels unless a note says otherwise, whole images at their native size. The authors test
by their own recipes, which differ in augmentation and length. `table` names the source:

    DC      README and papers of DC, DSA and DM (Zhao et al. 2021, 2023)
    IDC     README of IDC (Kim et al. 2022)
    PAD     Table 1 of PAD (Li et al. 2024)
    AP      Table 1 of AutoPalette (Yuan et al. 2024)
"""

from typing import NamedTuple


class Published(NamedTuple):
    """A published accuracy in percent, and the table that it was read in."""

    top1: float
    table: str


_NATIVE_NETWORKS = ("convnet", "convnet:width=128")

# Data set -> images per class -> method -> figure.
_FIGURES = {
    "cifar10": {
        1: {
            "random": Published(14.4, "DC"),
            "herding": Published(21.5, "AP"),
            "k_center": Published(23.3, "AP"),
            "dc": Published(28.3, "PAD"),
            "dsa": Published(28.8, "PAD"),
            "dm": Published(26.0, "PAD"),
            "cafe": Published(30.3, "PAD"),
            "idc": Published(50.6, "IDC"),
            "mtt": Published(46.2, "PAD"),
            "datm": Published(46.9, "PAD"),
        },
        10: {
            "random": Published(26.0, "DC"),
            "herding": Published(31.6, "AP"),
            "k_center": Published(36.4, "AP"),
            "dc": Published(44.9, "PAD"),
            "dsa": Published(52.1, "PAD"),
            "dm": Published(48.9, "PAD"),
            "cafe": Published(46.3, "PAD"),
            "idc": Published(67.5, "IDC"),
            "mtt": Published(65.4, "PAD"),
            "datm": Published(66.8, "PAD"),
        },
        50: {
            "random": Published(43.4, "DC"),
            "herding": Published(40.4, "AP"),
            "k_center": Published(48.7, "AP"),
            "dc": Published(53.9, "PAD"),
            "dsa": Published(60.6, "PAD"),
            "dm": Published(63.0, "PAD"),
            "cafe": Published(55.5, "PAD"),
            "idc": Published(74.5, "IDC"),
            "mtt": Published(71.6, "PAD"),
            "datm": Published(76.1, "PAD"),
        },
    },
    "cifar100": {
        1: {
            "random": Published(4.2, "DC"),
            "dc": Published(12.8, "PAD"),
            "dsa": Published(13.9, "PAD"),
            "dm": Published(11.4, "PAD"),
            "mtt": Published(24.3, "PAD"),
            "datm": Published(27.9, "PAD"),
        },
        10: {
            "random": Published(14.6, "DC"),
            "herding": Published(17.3, "AP"),
            "k_center": Published(20.7, "AP"),
            "dc": Published(25.2, "PAD"),
            "dsa": Published(32.3, "PAD"),
            "dm": Published(29.7, "PAD"),
            "cafe": Published(27.8, "PAD"),
            "idc": Published(45.1, "IDC"),
            "mtt": Published(39.7, "PAD"),
            "datm": Published(47.2, "PAD"),
        },
        50: {
            "random": Published(30.0, "DC"),
            "dsa": Published(42.8, "PAD"),
            "dm": Published(43.6, "PAD"),
            "mtt": Published(47.7, "PAD"),
            "datm": Published(55.0, "PAD"),
        },
    },
    "tiny_imagenet": {
        10: {
            "random": Published(5.0, "DC"),
            "dm": Published(12.9, "PAD"),
            "mtt": Published(23.2, "PAD"),
            "datm": Published(31.1, "PAD"),
        },
        50: {
            "random": Published(15.0, "DC"),
            "dm": Published(24.1, "PAD"),
            "mtt": Published(28.0, "PAD"),
            "datm": Published(39.7, "PAD"),
        },
    },
    "svhn": {
        10: {
            "dc": Published(76.1, "DC"),
            "dsa": Published(79.2, "DC"),
            "idc": Published(87.5, "IDC"),
        }
    },
    "fashion_mnist": {
        10: {
            "dc": Published(82.3, "DC"),
            "dsa": Published(84.6, "DC"),
            "idc": Published(86.0, "IDC"),
        }
    },
}


def published(
    method: str, dataset: str, size: int | None, images_per_class: int, network: str
) -> Published | None:
    """The published figure for the same data, images per class and network.

    Args:
      method: name in a comparison, such as `dm`.
      dataset: name of the data set; reduced copies are other data.
      size: the side that its images are resized to, None for the native one.
      images_per_class: of the set.
      network: on which it is tested.
    """
    if size is not None or network not in _NATIVE_NETWORKS:
        return None
    return _FIGURES.get(dataset, {}).get(images_per_class, {}).get(method)
