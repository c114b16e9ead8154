"""Expert trajectories: networks trained on real data, with their state at every epoch.

What trajectory matching (MTT, Cazenavette et al. 2022) needs before it can begin. Made
once per data set and recipe, and kept beside the cached data.
"""

from d4a_jax.trajectories.experts import (
    Experts,
    check_size,
    open_experts,
)
from d4a_jax.trajectories.judgement import Judgement, judge
from d4a_jax.trajectories.store import ExpertStore, stored_bytes

__all__ = [
    "ExpertStore",
    "Experts",
    "Judgement",
    "check_size",
    "judge",
    "open_experts",
    "stored_bytes",
]
