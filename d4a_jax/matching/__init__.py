"""The matching loss: distances between gradients and their pixel gradients."""

from d4a_jax.matching.distance import DISTANCES, distance
from d4a_jax.matching.gradient import (
    MatchedLayers,
    class_loss,
    matched_gradient,
    pixel_gradient,
    select_layers,
)

__all__ = [
    "DISTANCES",
    "MatchedLayers",
    "class_loss",
    "distance",
    "matched_gradient",
    "pixel_gradient",
    "select_layers",
]
