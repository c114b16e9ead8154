"""Says whether distillation was worth its cost, beside the best real images."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.spread import plus_minus

_MEGA = 1e6


def worth(ranked: Sequence[Mapping[str, Any]]) -> str | None:
    """A sentence on the best distilled set and the best selected real images.

    Args:
      ranked: lines of a table with `compare.COLUMNS` as keys, the best first; those of
        distilled sets have None as `selection_passes`.

    Returns:
      The sentence; None where there is only one kind.
    """
    best = {line["selection_passes"] is None: line for line in reversed(ranked)}
    if len(best) < 2:
        return None
    made, chosen = best[True], best[False]
    lead = made["top1"] - chosen["top1"]
    return (
        f"The best distilled set, {made['method']}, has {_shown(made)} for "
        f"{made['passes'] / _MEGA:.1f} M passes. The best real images, "
        f"{chosen['method']}, have {_shown(chosen)} for "
        f"{chosen['selection_passes'] / _MEGA:.2f} M passes to select them. "
        f"Distillation {'leads' if lead > 0 else 'is behind'} by {abs(lead):.2f}."
    )


def _shown(line):
    return f"{plus_minus(line['top1'], line['std_over_seeds'])} %"
