"""The checks that methods share that match mean features."""

from collections.abc import Iterator
from typing import Any


def feature_problems(config: Any) -> Iterator[str]:
    """The regularizers that features cannot have."""
    if "previous_loss" in config.make_regularizer().needs:
        yield (
            f"regularizer.name is {config.shown_regularizer} with method.name "
            f"{config.method_name!r}; it steps along a gradient, so it needs a method "
            "that matches gradients."
        )
