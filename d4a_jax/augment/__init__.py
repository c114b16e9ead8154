"""Augmentation: differentiable siamese operations and CutMix."""

from d4a_jax.augment.cutmix import cutmix
from d4a_jax.augment.siamese import Strategy, parse_strategy, siamese_augment

__all__ = ["Strategy", "cutmix", "parse_strategy", "siamese_augment"]
