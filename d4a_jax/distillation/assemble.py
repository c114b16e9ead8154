"""A run's configuration from names, options and objects."""

import dataclasses
from typing import Any

import optax
from flax import linen as nn

from d4a_jax.config import Config, EvaluationConfig
from d4a_jax.filters import Rule
from d4a_jax.methods import METHODS, MethodOptions
from d4a_jax.networks import spec_of
from d4a_jax.parts import Parts
from d4a_jax.regularizers import Regularizer


def assemble(
    config: Config,
    method: MethodOptions | str | None = None,
    network: nn.Module | str | None = None,
    regularizer: Regularizer | str | None = None,
    rule: Rule | str | None = None,
    optimizer: optax.GradientTransformation | None = None,
    protocol: EvaluationConfig | None = None,
) -> Config:
    """Puts parts in the place of those of a configuration; None leaves its own.

    Args:
      config: the run.
      method: options of a method, or its name for the defaults.
      network: a flax module or a specification string, see `networks`.
      regularizer: from a function in `regularizers`, or a name.
      rule: of the filter, from `filters`, or a name.
      optimizer: of the images.
      protocol: recipe and number of the networks that test and filter.
    """
    changes: dict[str, Any] = {}
    if method is not None:
        changes["method"] = METHODS[method]() if isinstance(method, str) else method
    if network is not None:
        is_module = isinstance(network, nn.Module)
        changes["network"] = spec_of(network) if is_module else network
    if protocol is not None:
        changes["evaluation"] = protocol
    objects = {}
    if isinstance(regularizer, str):
        section = dataclasses.replace(config.regularizer, name=regularizer)
        changes["regularizer"] = section
    elif regularizer is not None:
        objects["regularizer"] = regularizer
    if isinstance(rule, str):
        changes["filter"] = dataclasses.replace(config.filter, rule=rule)
    elif rule is not None:
        objects["rule"] = rule
    if optimizer is not None:
        objects["optimizer"] = optimizer
    if objects:
        changes["parts"] = Parts(**(vars(config.parts) | objects))
    return dataclasses.replace(config, **changes)
