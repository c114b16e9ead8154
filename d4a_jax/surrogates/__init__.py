"""Surrogate objectives: each turns one step on a segment into a pixel gradient.

A surrogate is a pair of pure functions in optax's manner. The segment loop in
`distillation/` does not know which one runs. To add one, write a function that
returns a `Surrogate` and enter it in `SURROGATES`.
"""

from d4a_jax.surrogates.base import StepResult, Surrogate, SurrogateContext, Task
from d4a_jax.surrogates.cafe import cafe
from d4a_jax.surrogates.distribution import distribution_matching
from d4a_jax.surrogates.gradient import gradient_matching
from d4a_jax.surrogates.inversion import inversion
from d4a_jax.surrogates.trajectory import trajectory_matching

SURROGATES = {
    "gradient": gradient_matching,
    "distribution": distribution_matching,
    "cafe": cafe,
    "inversion": inversion,
    "trajectory": trajectory_matching,
}

__all__ = [
    "SURROGATES",
    "StepResult",
    "Surrogate",
    "SurrogateContext",
    "Task",
    "cafe",
    "distribution_matching",
    "gradient_matching",
    "inversion",
    "trajectory_matching",
]
