"""What is measured: settings of the literature, on random images of their shapes."""

import difflib
from typing import Any, NamedTuple

import numpy as np

from d4a_jax.config import Config, ConfigError, from_dict
from d4a_jax.data import Dataset


class Case(NamedTuple):
    """A data set's shape and how it is distilled.

    Attributes:
      name: for `--cases`.
      title: for the table.
      side: height and width of the images.
      classes: number of classes.
      real_per_class: real training images of each class.
      images_per_class: IPC, in one segment.
      settings: what else differs from the configuration's defaults.
    """

    name: str
    title: str
    side: int
    classes: int
    real_per_class: int
    images_per_class: int
    settings: dict[str, Any]


class Scale(NamedTuple):
    """How much of a case is measured, and with how large calls.

    Attributes:
      classes: most classes; None for all.
      real_per_class: most real images of each class; None for all.
      networks: networks that are trained side by side in the evaluation.
      call_seconds: wanted length of a call; it holds as many steps as fit.
      max_steps: most steps of a call.
      matmul_side: of the square matrices that measure the ceiling.
      copy_floats: length of the vector that measures the ceiling.
    """

    classes: int | None
    real_per_class: int | None
    networks: int
    call_seconds: float
    max_steps: int
    matmul_side: int
    copy_floats: int


ON_CPU = Scale(2, 256, 1, 0.5, 20, 2048, 2**26)
ON_ACCELERATOR = Scale(None, None, 5, 0.5, 20, 8192, 2**28)

_TINY_IMAGENET = {
    "network": "convnet:depth=4",
    "network_training": {"images_per_step": 1000},
}
_IMAGENET_10 = {
    "network": "resnet_ap10",
    "synthetic": {"factor": 3},
    "matching": {
        "distance": "l1",
        "learning_rate": 3e-3 / (224 / 32) ** 2,
        "outer_iterations": 500,
    },
    "network_training": {"images_per_step": 500, "cutmix_probability": 1.0},
    "evaluation": {"cutmix_probability": 1.0},
}

CASES = {
    case.name: case
    for case in (
        Case("cifar10_ipc10", "CIFAR-10, ConvNet-3", 32, 10, 5000, 10, {}),
        Case("cifar10_ipc50", "CIFAR-10, ConvNet-3", 32, 10, 5000, 50, {}),
        Case("cifar100_ipc10", "CIFAR-100, ConvNet-3", 32, 100, 500, 10, {}),
        Case(
            "tiny_imagenet_ipc10",
            "Tiny-ImageNet, ConvNet-4",
            *(64, 200, 500, 10),
            _TINY_IMAGENET,
        ),
        Case(
            "imagenet10_ipc10",
            "ImageNet-10, ResNet-AP-10",
            *(224, 10, 1300, 10),
            _IMAGENET_10,
        ),
    )
}


def find(names: list[str] | None) -> list[Case]:
    """The cases of the given names; all without names.

    Raises:
      ConfigError: a name is unknown.
    """
    problems = []
    for name in names or ():
        if name not in CASES:
            near = difflib.get_close_matches(name, CASES, n=1, cutoff=0.0)[0]
            problems.append(
                f"There is no case {name!r}; the cases are {', '.join(CASES)} "
                f"(nearest: {near!r})."
            )
    if problems:
        raise ConfigError(problems)
    return [CASES[name] for name in names or CASES]


def shrink(case: Case, scale: Scale) -> Case:
    """The part of a case that is measured."""
    classes = min(case.classes, scale.classes or case.classes)
    real = min(case.real_per_class, scale.real_per_class or case.real_per_class)
    return case._replace(classes=classes, real_per_class=real)


def configuration(
    case: Case, scale: Scale, compute_dtype: str, class_chunk: int
) -> Config:
    """The configuration of a case, on a single device."""
    settings = {name: dict(value) for name, value in _sections(case.settings)}
    settings.setdefault("synthetic", {})["images_per_class"] = case.images_per_class
    settings.setdefault("evaluation", {})["repeats"] = scale.networks
    settings["runtime"] = {
        "devices": 1,
        "compute_dtype": compute_dtype,
        "class_chunk": class_chunk,
    }
    plain = {k: v for k, v in case.settings.items() if not isinstance(v, dict)}
    return from_dict(settings | plain)


def _sections(settings):
    return ((k, v) for k, v in settings.items() if isinstance(v, dict))


def random_images(case: Case) -> Dataset:
    """A data set of random bytes; the test split repeats a few training images."""
    generator = np.random.default_rng(0)
    count = case.classes * case.real_per_class
    size = (count, case.side, case.side, 3)
    images = np.frombuffer(generator.bytes(int(np.prod(size))), np.uint8).reshape(size)
    labels = np.repeat(np.arange(case.classes, dtype=np.int32), case.real_per_class)
    return Dataset(
        name=case.name,
        train_images=images,
        train_labels=labels,
        test_images=images[:1],
        test_labels=labels[:1],
        class_names=tuple(map(str, range(case.classes))),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        flip=True,
        fingerprint="random",
    )
