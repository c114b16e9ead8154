"""The configuration of a run: typed, frozen, checked before any compute.

`Config()` is the published IDC setting for CIFAR-10 with D4A's options at their
defaults. `from_dict` builds one from nested mappings (such as an
`ml_collections.ConfigDict`) and reports every problem at once.
"""

from d4a_jax.config.build import differences, from_dict, validate
from d4a_jax.config.sections import (
    Config,
    DataConfig,
    DifficultyConfig,
    EvaluationConfig,
    ExpertsConfig,
    FilterConfig,
    MatchingConfig,
    NetworkTrainingConfig,
    RegularizerConfig,
    RuntimeConfig,
    SyntheticConfig,
)
from d4a_jax.errors import ConfigError

__all__ = [
    "Config",
    "ConfigError",
    "DataConfig",
    "DifficultyConfig",
    "EvaluationConfig",
    "ExpertsConfig",
    "FilterConfig",
    "MatchingConfig",
    "NetworkTrainingConfig",
    "RegularizerConfig",
    "RuntimeConfig",
    "SyntheticConfig",
    "differences",
    "from_dict",
    "validate",
]
