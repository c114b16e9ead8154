"""Horizontal flips, which change the meaning of some data, such as digits.

One rule for all that train on images: defaults go without flips on such data, and a
flip that somebody asked for is refused.
"""

import dataclasses
from collections.abc import Mapping

from d4a_jax.augment import parse_strategy
from d4a_jax.config import Config
from d4a_jax.data import Dataset
from d4a_jax.errors import ConfigError


def default_config(dataset: Dataset) -> Config:
    """The default configuration, without flips where the data forbid them.

    Example:
      >>> import d4a_jax
      >>> config = d4a_jax.default_config(d4a_jax.load_dataset("digits"))
      >>> config.evaluation.augmentation
      'color_crop_scale_rotate'
    """
    return Config() if dataset.flip else without_flips(Config())


def without_flips(config: Config) -> Config:
    """The configuration with no flip in any of its augmentations."""
    changed = {
        name: dataclasses.replace(section, augmentation=without_flip(strategy))
        for name, section in vars(config).items()
        if (strategy := getattr(section, "augmentation", None)) is not None
    }
    return dataclasses.replace(config, **changed)


def without_flip(strategy: str) -> str:
    """An augmentation strategy without its flip.

    Example:
      >>> without_flip("color_flip_crop"), without_flip("flip")
      ('color_crop', 'none')
    """
    kept = [part for part in strategy.split("_") if part.lower() != "flip"]
    return "_".join(kept) or "none"


def flip_problems(dataset: Dataset, strategies: Mapping[str, str]) -> list[str]:
    """A sentence for each strategy that cannot be read or that the data forbid.

    Args:
      dataset: says whether a flip keeps the label.
      strategies: by the option that holds them.
    """
    problems = []
    for name, strategy in strategies.items():
        try:
            if parse_strategy(strategy).flip and not dataset.flip:
                problems.append(
                    f"{name} is {strategy!r}; {dataset.name} changes its meaning when "
                    "flipped, so it must be without 'flip'."
                )
        except ValueError as error:
            problems.append(f"{name}: {error}")
    return problems


def refuse_flips(dataset: Dataset, name: str, strategy: str) -> None:
    """Refuses an augmentation that the data forbid.

    Raises:
      ConfigError: see `flip_problems`.
    """
    if problems := flip_problems(dataset, {name: strategy}):
        raise ConfigError(problems)
