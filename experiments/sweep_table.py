"""The tables of a sweep: what its rows cost, and how good they are."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments import cli
from experiments.budget import Budget
from experiments.spread import mean_and_std, plus_minus, summary

Results = Mapping[str, Sequence[Mapping[str, Any]]]
_TERA = 1e12


def plan(costs: Mapping[str, Budget | None]) -> str:
    """What rows will cost, as Markdown."""
    header = ["row", "matching steps", "TFLOPs", "matching", "filter", "difficulty",
              "experts", "selection"]  # fmt: skip
    lines = []
    for name, cost in costs.items():
        if cost is None:
            lines.append([name, *["–"] * (len(header) - 1)])
            continue
        parts = (cost.total, *cost[1:])
        figures = [f"{part / _TERA:.3g}" for part in parts]
        lines.append([name, f"{cost.steps:,}", *figures])
    return cli.markdown_table(header, lines)


def markdown(results: Results, reference: str) -> str:
    """How good rows are: means over distillation seeds, in percent.

    "Against" compares a row with the best baseline (IDC at any learning rate, random
    images) of the smallest budget that is at least its own, seed by seed.

    Args:
      results: records of `rows.run_row` with their seed, by name.
      reference: the row whose FLOPs are 100 %.

    Returns:
      A Markdown table, and below it how long all of it took and on what.
    """
    header = ["row", "seeds", "test accuracy, %", "± networks", "against the baseline",
              "steps", "TFLOPs", f"of {reference}", "kept, %", "forgotten, %",
              "minutes"]  # fmt: skip
    paid = _flops(results[reference]) if reference in results else None
    lines = [
        [
            name,
            str(len(runs)),
            *_accuracy(runs),
            _against(name, results),
            f"{runs[0]['cost']['steps']:,}" if runs[0]["cost"] else "–",
            f"{_flops(runs) / _TERA:.3g}" if runs[0]["cost"] else "–",
            f"{100 * _flops(runs) / paid:.0f} %" if paid and runs[0]["cost"] else "–",
            _shares(runs, "kept"),
            _shares(runs, "forgotten"),
            f"{np.mean([run['minutes'] for run in runs]):.1f}",
        ]
        for name, runs in results.items()
    ]
    every = [run for runs in results.values() for run in runs]
    minutes = sum(run["minutes"] for run in every)
    hardware = " and ".join(sorted({run["hardware"] for run in every}))
    notes = f"{minutes:.1f} minutes in all, on {hardware}."
    return f"{cli.markdown_table(header, lines)}\n\n{notes}\n"


def baseline_of(name: str, results: Results) -> str | None:
    """The baseline that a row must beat, None where there is none with its budget.

    Of the distilled baselines' budgets the smallest one that is at least the row's is
    chosen; what costs no more than that competes, selected real images included.
    """
    baselines = {
        other: _flops(runs)
        for other, runs in results.items()
        if other != name and _is_baseline(runs)
    }
    enough = [
        cost
        for other, cost in baselines.items()
        if cost >= _flops(results[name]) and not results[other][0]["baseline"]
    ]
    if not enough:
        return None
    mean = lambda other: np.mean(list(_means(results[other]).values()))
    fair = [other for other, cost in baselines.items() if cost <= min(enough)]
    return max(fair, key=mean)


def _is_baseline(runs):
    """IDC, one segment, or images that were not distilled."""
    return len(runs[0]["prefixes"]) == 1


def _flops(runs):
    return runs[0]["cost"]["total"] if runs[0]["cost"] else 0


def _means(runs):
    """Accuracy in percent by seed, mean over networks."""
    return {run["seed"]: 100 * float(np.mean(run["prefixes"][-1][1])) for run in runs}


def _accuracy(runs):
    """Mean and standard deviation over seeds, and over networks, in percent."""
    each = [run["prefixes"][-1][1] for run in runs]
    mean, over, within = summary(each)
    several = min(map(len, each)) > 1
    return plus_minus(mean, over), f"{within:.2f}" if several else "–"


def _against(name, results):
    baseline = None if _is_baseline(results[name]) else baseline_of(name, results)
    if baseline is None:
        return "–"
    own, other = _means(results[name]), _means(results[baseline])
    pairs = [own[seed] - other[seed] for seed in own if seed in other]
    if not pairs:
        return "–"
    return f"{plus_minus(*mean_and_std(pairs), '{:+.2f}')} ({baseline})"


def _shares(runs, figure):
    """A filter's figure after each segment, mean over seeds."""
    shares = 100 * np.mean([run[figure] for run in runs], axis=0)
    return " ".join(f"{share:.0f}" for share in shares) or "–"
