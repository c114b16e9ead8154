"""The rows of D4A's ablation, for any base setting.

Every row takes the same number of matching steps in all, or, where its name says
`flops` or `full`, the FLOPs of the reference or its whole schedule in every segment.
`guard` is the noise guard. IDC, one segment, is the reference; it is run with several
learning rates and with more steps, so that the baseline never gets less compute than a
row of D4A that it is compared with.
"""

import functools
from typing import Any

Values = dict[str, Any]
REGULARIZERS = ("previous", "union", "anchor", "conflict", "replay")


def ablation(base: Values, segments: int = 4) -> dict[str, Values]:
    """The rows by name.

    Args:
      base: IDC's setting as nested dictionaries, with `matching.learning_rate` and, for
        the whole run and divisible by `segments`, `matching.outer_iterations`.
      segments: D4A's number of segments.
    """
    d4a = functools.partial(_d4a, base, segments)
    anchor = {"regularizer": "anchor", "guard": True}
    guard = {"guard": True}
    return (
        {
            "random": base | {"baseline": "random"},
            "random-mosaic": base | {"baseline": "random_mosaic"},
            "idc": base,
            "d4a-guard-none": d4a(**guard),
            "d4a-filter-none": d4a(),
            "segments-no-filter": d4a(enabled=False),
            "d4a-filter-anchor": d4a(regularizer="anchor"),
        }
        | _regularizers(d4a)
        | _numbers_of_segments(base, anchor)
        | {
            "d4a-discard-half-anchor": d4a(regularizer="anchor", max_discard=0.5),
            "d4a-discard-quarter-anchor": d4a(regularizer="anchor", max_discard=0.25),
            "d4a-cumulative-guard-anchor": d4a(scope="cumulative", **anchor),
            "d4a-1-network-guard-anchor": d4a(networks=1, **anchor),
            "d4a-5-networks-guard-anchor": d4a(networks=5, **anchor),
            "d4a-majority-guard-anchor": d4a(vote="majority", **anchor),
            "d4a-easiest-half-anchor": d4a(regularizer="anchor", keep_easiest=0.5),
            "d4a-inner-filtered-guard-anchor": d4a(inner="filtered", **anchor),
            "d4a-inner-earlier-guard-anchor": d4a(inner="earlier", **anchor),
            "d4a-lr-total-guard-anchor": d4a(scaling="total", **anchor),
        }
        | _learning_rates(base, d4a, anchor)
        | {
            "d4a-flops-guard-anchor": d4a(**anchor) | {"budget": "flops"},
            "d4a-flops-guard-none": d4a(**guard) | {"budget": "flops"},
            "d4a-full-guard-anchor": _d4a(base, segments, share=1, **anchor),
            "idc-steps-half-more": _iterations(base, 1.5),
            "idc-steps-times-segments": _iterations(base, segments),
        }
    )


def _d4a(
    base: Values,
    segments: int,
    regularizer: str = "none",
    weight: float = 1.0,
    inner: str = "all",
    scaling: str = "segment",
    rate: float = 1.0,
    share: int | None = None,
    **filter_options: Any,
) -> Values:
    """D4A with the steps of the base, divided over its segments (or by `share`)."""
    matching = base["matching"]
    return base | {
        "synthetic": base["synthetic"] | {"segments": segments},
        "matching": matching
        | {
            "outer_iterations": matching["outer_iterations"] // (share or segments),
            "learning_rate_scaling": scaling,
            "learning_rate": rate * matching["learning_rate"],
        },
        "network_training": base.get("network_training", {}) | {"data": inner},
        "filter": base.get("filter", {}) | filter_options,
        "regularizer": {"name": regularizer, "weight": weight},
    }


def _regularizers(d4a):
    """Every regularizer, at its usual weight and, named by these, at others."""
    rows = {}
    for name in REGULARIZERS:
        usual = 0.5 if name in ("previous", "union") else 1.0
        for factor in (1.0, 0.2, 4.0):
            weight = usual * factor
            suffix = "" if factor == 1.0 else f"-{weight:g}"
            options = {"regularizer": name, "weight": weight, "guard": True}
            rows[f"d4a-guard-{name}{suffix}"] = d4a(**options)
    return rows


def _numbers_of_segments(base, options):
    """Two segments and more, up to one image per class in each."""
    total = base["synthetic"]["images_per_class"]
    iterations = base["matching"]["outer_iterations"]
    numbers = [n for n in (2, 8, 16) if n <= total and iterations % n == 0]
    return {f"d4a-{n}-guard-anchor": _d4a(base, n, **options) for n in numbers}


def _learning_rates(base, d4a, options):
    rows = {}
    for name, rate in (("half", 0.5), ("double", 2.0), ("quadruple", 4.0)):
        matching = base["matching"]
        changed = matching | {"learning_rate": rate * matching["learning_rate"]}
        rows[f"idc-lr-{name}"] = base | {"matching": changed}
        rows[f"d4a-lr-{name}-guard-anchor"] = d4a(rate=rate, **options)
    return rows


def _iterations(base, times):
    iterations = round(times * base["matching"]["outer_iterations"])
    return base | {"matching": base["matching"] | {"outer_iterations": iterations}}
