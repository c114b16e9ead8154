"""Parts of a run that are given as objects of a program instead of by name."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import optax

from d4a_jax.describe import describe
from d4a_jax.filters import Rule
from d4a_jax.regularizers import Regularizer


@dataclasses.dataclass(frozen=True, eq=False)
class Parts:
    """Objects that take the place of sections of the configuration.

    A run is identified by their descriptions, see `describe`.

    Attributes:
      regularizer: in the place of the section `regularizer`.
      rule: of the filter, in the place of the rule that the section `filter` makes.
      optimizer: of the images, in the place of `matching.optimizer`, its learning rate,
        momentum, `steps` and `pixels`. Its gradient is that of pixels in [0, 1].
    """

    regularizer: Regularizer | None = None
    rule: Rule | None = None
    optimizer: optax.GradientTransformation | None = None

    def identity(self) -> dict[str, Any]:
        """A description of every part that was given."""
        return {
            name: describe(part) for name, part in vars(self).items() if part is not None
        }

    def __bool__(self) -> bool:
        return any(part is not None for part in vars(self).values())


def without_parts(values: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration's values without the descriptions of objects.

    Values that are no mapping stay as they are, for `from_dict` to refuse.
    """
    if not isinstance(values, Mapping):
        return values
    return {name: value for name, value in values.items() if name != "parts"}
