"""Surrogate objectives: each turns one step on a segment into a pixel gradient.

A surrogate is a pair of pure functions in optax's manner. The segment loop in
`distillation.py` does not know which one runs. To add one, write a function that
returns a `Surrogate` and enter it in `SURROGATES`.
"""

from d4a_jax.surrogates.base import StepResult, Surrogate, SurrogateContext, Task
from d4a_jax.surrogates.gradient import gradient_matching
from d4a_jax.surrogates.trajectory import trajectory_matching

SURROGATES = {"gradient": gradient_matching, "trajectory": trajectory_matching}

# What needs the earlier segments in every step, whatever the regularizer.
USES_PREVIOUS = frozenset({"trajectory"})

# IDC's optimizer takes a step after every class; the others step once for all.
STEPS_BY_CLASS = frozenset({"gradient"})

__all__ = [
    "STEPS_BY_CLASS",
    "SURROGATES",
    "StepResult",
    "Surrogate",
    "SurrogateContext",
    "Task",
    "USES_PREVIOUS",
    "gradient_matching",
    "trajectory_matching",
]
