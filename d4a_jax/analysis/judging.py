"""Figures by which distilled sets are compared fairly, as DD-Ranking defines them.

All accuracies are fractions in [0, 1] of networks trained from scratch. Pure functions.
"""

import math
from typing import NamedTuple

from d4a_jax.artifact import DistilledDataset


class Storage(NamedTuple):
    """Bytes that a distilled set takes, without file headers.

    Attributes:
      pixels: of the stored uint8 images.
      labels: of the stored labels.
    """

    pixels: int
    labels: int


def hard_label_recovery(full: float, synthetic: float) -> float:
    """HLR: what is lost against training on all real data; lower is better.

    Args:
      full: accuracy with all real images and hard labels.
      synthetic: accuracy with the synthetic images and hard labels.
    """
    _check(full=full, synthetic=synthetic)
    return full - synthetic


def improvement_over_random(synthetic: float, random: float) -> float:
    """IOR: what is gained over random real images; higher is better.

    Args:
      synthetic: accuracy with the synthetic images, by a method's own recipe.
      random: accuracy with as many random real images, by the same recipe.
    """
    _check(synthetic=synthetic, random=random)
    return synthetic - random


def label_robust_score(hlr: float, ior: float, weight: float = 0.5) -> float:
    """LRS: recovery and improvement in one number in [0, 1]; higher is better.

    Args:
      hlr: from `hard_label_recovery`.
      ior: from `improvement_over_random`.
      weight: w of the improvement, in [0, 1].
    """
    _check(weight=weight)
    return _normalize(weight * ior - (1.0 - weight) * hlr)


def augmentation_robust_score(
    synthetic: float,
    random: float,
    synthetic_plain: float,
    random_plain: float,
    weight: float = 0.5,
) -> float:
    """ARS: improvement over random with and without augmentation, in [0, 1].

    Args:
      synthetic: accuracy with the synthetic images, with augmentation.
      random: accuracy with random real images, with augmentation.
      synthetic_plain: the first one, without augmentation.
      random_plain: the second one, without augmentation.
      weight: gamma of the pair with augmentation, in [0, 1].
    """
    _check(weight=weight)
    augmented = improvement_over_random(synthetic, random)
    plain = improvement_over_random(synthetic_plain, random_plain)
    return _normalize(weight * augmented + (1.0 - weight) * plain)


def storage(distilled: DistilledDataset) -> Storage:
    """Bytes of the stored pixels and of the (hard) labels."""
    return Storage(distilled.images.nbytes, distilled.labels.nbytes)


def _normalize(score: float) -> float:
    """Maps [-1, 1] to [0, 1] exponentially."""
    return (math.exp(score) - math.exp(-1)) / (math.e - math.exp(-1))


def _check(**fractions: float) -> None:
    for name, value in fractions.items():
        if not 0.0 <= value <= 1.0:
            raise ValueError(
                f"{name} is {value}; it must be a fraction from 0 to 1, not a "
                "percentage."
            )
