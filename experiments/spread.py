"""Means and their spread over seeds and networks, as figures and as text."""

from collections.abc import Sequence

import numpy as np


def mean_and_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation, None for that of a single value."""
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return float(np.mean(values)), std


def summary(accuracies: Sequence[Sequence[float]]) -> tuple[float, float | None, float]:
    """Mean in percent, its standard deviation over seeds, and that over networks.

    Args:
      accuracies: in [0, 1], the networks of each seed.

    Returns:
      The mean of all, the sample standard deviation of the seeds' means (None with one
      seed) and the mean of the standard deviations within the seeds.
    """
    percent = [100 * np.array(each) for each in accuracies]
    within = np.mean([each.std(ddof=1) if len(each) > 1 else 0.0 for each in percent])
    return *mean_and_std([each.mean() for each in percent]), float(within)


def plus_minus(mean: float, std: float | None, form: str = "{:.2f}") -> str:
    """A mean as text, with its standard deviation where there is one."""
    return form.format(mean) + ("" if std is None else f" ± {std:.2f}")
