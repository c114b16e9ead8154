"""Rows of selected real images: their names, how they are made and what that costs.

A name is one of `selection.baselines.SELECTIONS`, a window with its share, with
`_mosaic` behind it for mosaics as they are stored in multi-formation, or `rded` for
mosaics of realistic patches.
"""

from d4a_jax.artifact import DistilledDataset
from d4a_jax.config import Config, ConfigError
from d4a_jax.data import Dataset
from d4a_jax.selection import work
from d4a_jax.selection.baselines import SELECTIONS, select_images
from d4a_jax.selection.patches import realistic_patches
from d4a_jax.selection.rules import parse
from experiments import budget

_MOSAIC = "_mosaic"
_PATCHES = "rded"


def check(row: str, name: str) -> None:
    """Checks the name of a selection.

    Args:
      row: for the message.
      name: of the selection.

    Raises:
      ConfigError: it is unknown, or its share is missing or out of range.
    """
    if name == _PATCHES:
        return
    try:
        parse(str(name).removesuffix(_MOSAIC))
    except ValueError:
        raise ConfigError(
            [
                f"{row}: baseline is {name!r}; it must be {_PATCHES} or one of "
                f"{', '.join(SELECTIONS)}, with {_MOSAIC} behind it for mosaics; a "
                "window has its share of hardest images left out, as in window=0.3."
            ]
        ) from None


def select(name: str, config: Config, dataset: Dataset) -> DistilledDataset:
    """The selected images of a row."""
    selection, factor = _parts(name, config)
    size, seed = config.synthetic.images_per_class, config.seed
    if selection == _PATCHES:
        return realistic_patches(dataset, size, factor, config, seed)
    return select_images(dataset, selection, size, factor, config, seed)


def passes(name: str, config: Config, dataset: Dataset) -> int:
    """What choosing costs in passes of one image, as `d4a_jax.cost` counts them."""
    return work.passes(work.selection_work(*_parts(name, config), config, dataset))


def flops(name: str, config: Config, dataset: Dataset) -> budget.Budget | None:
    """What choosing costs in FLOPs; None for random images."""
    return budget.count_selection(*_parts(name, config), config, dataset)


def _parts(name, config):
    """The selection, and the factor of its mosaics, 1 for images as they are."""
    selection = name.removesuffix(_MOSAIC)
    is_plain = selection == name != _PATCHES
    return selection, 1 if is_plain else config.synthetic.factor
