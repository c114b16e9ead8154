"""The matching losses and their pixel gradients."""

from d4a_jax.matching.distance import DISTANCES, distance
from d4a_jax.matching.gradient import (
    MatchedLayers,
    class_loss,
    matched_gradient,
    pixel_gradient,
    select_layers,
)
from d4a_jax.matching.unroll import Unrolled, trajectory_loss, unroll

__all__ = [
    "DISTANCES",
    "MatchedLayers",
    "Unrolled",
    "class_loss",
    "distance",
    "matched_gradient",
    "pixel_gradient",
    "select_layers",
    "trajectory_loss",
    "unroll",
]
