"""D4A's loop over segments: match, freeze, train and test, filter.

`loop` is the whole of it and reads like the paper's algorithm; `segments` makes one
segment, and `stages` does what comes between two. `run` holds what stays the same in a
run, `run_state` what changes and is checkpointed; `divergence` and `range_test` are for
pixel learning rates that are too large or unknown.
"""

from d4a_jax.distillation.divergence import DivergenceError
from d4a_jax.distillation.loop import Interrupted, distill

__all__ = ["DivergenceError", "Interrupted", "distill"]
