"""Figures by which distilled sets are compared fairly, as DD-Ranking defines them.

All accuracies are fractions in [0, 1] of networks trained from scratch. Pure functions.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

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


def judge(
    rows: Sequence[Mapping[str, Any]], storages: Mapping[str, Storage]
) -> list[dict[str, Any]]:
    """All figures of every whole distilled set among the rows of a study.

    Args:
      rows: as in `analysis.json`; random images and all real images among them are
        the references, and a figure that lacks one is None.
      storages: of the distilled sets, by their digests.
    """
    full = [row["test"]["mean"] for row in rows if row["kind"] == "full"]
    out = []
    for row in rows:
        if row["kind"] != "artifact" or row["stage"] != row["stages"]:
            continue
        if not row["augmented"]:
            continue
        own = _accuracies(rows, row, label=row["label"])
        random = _accuracies(rows, row, kind="random", factor=1)
        storage = storages[row["sets"][0]]
        entry = {
            "label": row["label"],
            "images_per_class": row["images_per_class"],
            "test": row["test"]["mean"],
            "test_std": row["test"]["std"],
            "test_best": row["test_best"] and row["test_best"]["mean"],
            "pixel_bytes": storage.pixels,
            "label_bytes": storage.labels,
        }
        mosaics = _accuracies(rows, row, kind="random", factor=row["factor"])
        scores = _scores(own, random, full[0] if full else None)
        if row["factor"] > 1 and True in mosaics:
            scores["over_mosaics"] = own[True] - mosaics[True]
        out.append(entry | {"over_mosaics": None} | scores)
    return out


def _accuracies(rows, like, **wanted):
    """Test accuracies of as many images per class, by whether the recipe augments."""
    wanted |= {"images_per_class": like["images_per_class"]}
    return {
        row["augmented"]: row["test"]["mean"]
        for row in rows
        if all(row[name] == value for name, value in wanted.items())
    }


def _scores(own, random, full):
    """Judging figures of one set; None where an accuracy that they need is missing."""
    hlr = None if full is None else hard_label_recovery(full, own[True])
    ior = lrs = ars = None
    if True in random:
        ior = improvement_over_random(own[True], random[True])
    if hlr is not None and ior is not None:
        lrs = label_robust_score(hlr, ior)
    if {True, False} <= own.keys() & random.keys():
        ars = augmentation_robust_score(
            own[True], random[True], own[False], random[False]
        )
    return {"full": full, "random": random.get(True)} | {
        "hlr": hlr,
        "ior": ior,
        "lrs": lrs,
        "ars": ars,
    }


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
