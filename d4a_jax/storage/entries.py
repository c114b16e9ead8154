"""Entries of caches: each is named by everything that it depends on.

Experts, difficulty and answers are computed once and then read. What they depend on is
derived from whole sections of the configuration, less what is known to change nothing,
and from the data.
"""

import hashlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from d4a_jax.storage import fileio

if TYPE_CHECKING:
    from d4a_jax.data import Dataset

# Nested plain values.
Identity = dict[str, Any]


def data_identity(dataset: "Dataset") -> Identity:
    """The images and how they are normalized.

    The last digits of the statistics, which depend on the machine, are left out.
    """
    return {
        "fingerprint": dataset.fingerprint,
        "mean": rounded(dataset.mean),
        "std": rounded(dataset.std),
    }


def rounded(values: Iterable[float]) -> list[float]:
    """Statistics with the digits that float32 can hold."""
    return [float(f"{value:.9g}") for value in values]


def name_of_entry(
    identity: Identity,
    dataset: "Dataset",
    exists: Callable[[str], bool],
    dump: Callable[[Identity], bytes] = fileio.dump_json,
    older: Identity | None = None,
) -> str:
    """The name of a cache's entry: 16 hexadecimal digits of its identity's SHA-256.

    Args:
      identity: what the entry depends on, `data_identity` among it.
      dataset: its data.
      exists: whether there is an entry of a name.
      dump: how the identity is written for its digest.
      older: the identity in the form of older versions, but for the statistics, which
        these did not record; by default that of today. Such an entry still serves data
        that are normalized by the statistics of their images.
    """
    older = {**(older or identity)}
    del older["mean"], older["std"]
    name, before = (
        hashlib.sha256(dump(values)).hexdigest()[:16] for values in (identity, older)
    )
    if not exists(name) and exists(before) and _has_own_statistics(dataset):
        return before
    return name


def _has_own_statistics(dataset: "Dataset") -> bool:
    own, given = dataset.own_statistics(), (dataset.mean, dataset.std)
    return [rounded(x) for x in own] == [rounded(x) for x in given]
