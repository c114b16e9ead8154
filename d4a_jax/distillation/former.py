"""Segments in the making as checkpoints of earlier versions hold them.

These kept the images, their optimizer and all else that is learned apart. The same
numbers stand in another tree, so that an old run continues as if nothing had happened.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import optax

from d4a_jax.distillation.segments import SegmentState

# What records say since everything that is learned is one tree.
FORMAT = 2


class _Segment(NamedTuple):
    pixels: jax.Array
    opt_state: Any
    surrogate: Any


class _Student(NamedTuple):
    step_size: jax.Array
    opt_state: Any
    labels: "_Labels | None" = None


class _Labels(NamedTuple):
    logits: jax.Array
    opt_state: Any


def is_former(record: Mapping[str, Any]) -> bool:
    """Whether a checkpoint's record is of an earlier version."""
    return record.get("format", 1) < FORMAT


def to_former(
    segment: SegmentState, pixels: optax.GradientTransformation
) -> _Segment:
    """The tree of an earlier version with the leaves of a segment.

    Args:
      segment: arrays or their shapes.
      pixels: the optimizer of the images.
    """
    params, parts = segment.params, segment.opt_state.inner_states
    plain = optax.sgd(1.0, 0.5)  # Only its structure counts.
    rest = segment.method
    if "step_size" in params:
        rest = _Student(params["step_size"], _filled(plain, params, "step_size", parts))
        if "labels" in params:
            state = _filled(plain, params, "labels", parts)
            rest = rest._replace(labels=_Labels(params["labels"], state))
    return _Segment(params["images"], _filled(pixels, params, "images", parts), rest)


def from_former(former: _Segment, like: SegmentState) -> SegmentState:
    """The inverse of `to_former`, in the structure of a segment of today."""
    found = {"images": (former.pixels, former.opt_state)}
    rest = former.surrogate
    if isinstance(rest, _Student):
        found["step_size"] = rest[:2]
        if rest.labels is not None:
            found["labels"] = tuple(rest.labels)
        rest = like.method
    parts = {
        name: jax.tree.unflatten(jax.tree.structure(part), jax.tree.leaves(own))
        for name, part in like.opt_state.inner_states.items()
        for own in [found[name][1]]
    }
    return SegmentState(
        {name: found[name][0] for name in like.params},
        like.opt_state._replace(inner_states=parts),
        rest,
    )


def _filled(optimizer, params, name, parts):
    """An optimizer's state for one array alone, with the leaves of its part."""
    structure = jax.tree.structure(jax.eval_shape(optimizer.init, params[name]))
    return jax.tree.unflatten(structure, jax.tree.leaves(parts[name]))
