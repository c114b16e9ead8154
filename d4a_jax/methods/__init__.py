"""Methods of dataset distillation: each turns a step into the gradient of a segment.

| options                 | methods                                                |
| ----------------------- | ------------------------------------------------------ |
| `GradientMatching`      | DC, DSA, IDC, PDD; what the paper builds D4A on        |
| `DistributionMatching`  | DM, IDC's feature matching                             |
| `Cafe`                  | CAFE                                                   |
| `Inversion`             | SRe2L                                                  |
| `TrajectoryMatching`    | MTT, DATM, SelMatch                                    |

The options of a method are a frozen dataclass that builds it from plain values,
`GradientMatching(distance="mse").build(Setting(network, normalize))`; see `base`. The
loop over segments in `distillation/` does not know which one runs. A method from
outside is a subclass of `MethodOptions`; pass it to `distill`, or enter it:

    METHODS.register("mine", Mine)
"""

from d4a_jax.methods.base import (
    Batch,
    Learned,
    Method,
    MethodOptions,
    Params,
    Passes,
    Setting,
    Task,
)
from d4a_jax.methods.cafe import Cafe
from d4a_jax.methods.distribution import DistributionMatching
from d4a_jax.methods.gradient import GradientMatching
from d4a_jax.methods.inversion import Inversion
from d4a_jax.methods.network_training import NetworkTrainingConfig
from d4a_jax.methods.trajectory import TrajectoryMatching
from d4a_jax.registry import Registry

METHODS: Registry[type[MethodOptions]] = Registry(
    "method",
    {
        "gradient_matching": GradientMatching,
        "distribution_matching": DistributionMatching,
        "cafe": Cafe,
        "inversion": Inversion,
        "trajectory_matching": TrajectoryMatching,
    },
)

__all__ = [
    "METHODS",
    "Batch",
    "Cafe",
    "DistributionMatching",
    "GradientMatching",
    "Inversion",
    "Learned",
    "Method",
    "MethodOptions",
    "NetworkTrainingConfig",
    "Params",
    "Passes",
    "Setting",
    "Task",
    "TrajectoryMatching",
]
