"""The configuration of a run: typed, frozen, checked before any compute.

`Config()` is the published IDC setting for CIFAR-10 with D4A's options at their
defaults. `from_dict` builds one from nested mappings (such as an
`ml_collections.ConfigDict`) and reports every problem at once.
"""

from d4a_jax.config.build import ConfigError, differences, from_dict, validate
from d4a_jax.config.sections import (
    Config,
    DataConfig,
    DifficultyConfig,
    EvaluationConfig,
    FilterConfig,
    MatchingConfig,
    NetworkTrainingConfig,
    RegularizerConfig,
    RuntimeConfig,
    SyntheticConfig,
    TrajectoryConfig,
    all_but,
)

__all__ = [
    "Config",
    "ConfigError",
    "DataConfig",
    "DifficultyConfig",
    "EvaluationConfig",
    "FilterConfig",
    "MatchingConfig",
    "NetworkTrainingConfig",
    "RegularizerConfig",
    "RuntimeConfig",
    "SyntheticConfig",
    "TrajectoryConfig",
    "all_but",
    "differences",
    "from_dict",
    "validate",
]
