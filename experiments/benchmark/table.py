"""Figures as text."""

import statistics

from experiments import cli
from experiments.benchmark.cases import Case
from experiments.benchmark.measure import Row
from experiments.benchmark.versus import Comparison

HEADER = [
    "case",
    "work",
    "classes",
    "time",
    "min - max",
    "all classes",
    "images/s",
    "GFLOP",
    "GB",
    "of matmul",
    "of copy",
    "compile",
    "memory",
]
VERSUS_HEADER = [
    "case",
    "work",
    "classes",
    "official",
    "this",
    "ratio",
    "ratios of turns",
    "turns",
]


def rows(
    case: Case, measured: Case, found: list[Row], speeds: dict[str, float], matmul: str
) -> list[list[str]]:
    """The rows of a case, for `HEADER`.

    Args:
      case: the case.
      measured: the part of it that was measured.
      found: figures per piece.
      speeds: the ceilings in FLOP/s and B/s.
      matmul: the one of them that counts for FLOPs.
    """
    lines = []
    for row in found:
        classes = f"{measured.classes} of {case.classes}"
        start = [case.name, f"{row.name} ({row.unit})", classes]
        work = [f"{row.flops / 1e9:,.1f}", f"{row.bytes / 1e9:.2f}"]
        end = [
            "-" if row.compile_seconds is None else duration(row.compile_seconds),
            "-" if row.memory_bytes is None else f"{row.memory_bytes / 1e9:.2f} GB",
        ]
        if row.skipped:
            work = work if row.flops else ["-", "-"]
            start += [f"skipped ({row.skipped})", "-", "-", "-", *work, "-", "-"]
        else:
            whole = all_classes(row, found, measured.classes, case.classes)
            sign = "" if measured.classes == case.classes else "≈ "
            flops, moved = shares(row, speeds, matmul)
            start += [
                duration(row.median),
                f"{duration(min(row.seconds))} - {duration(max(row.seconds))}",
                "-" if whole is None else sign + duration(whole),
                "-" if row.images is None else f"{row.images / row.median:,.0f}",
                *work,
                f"{flops:.0%}",
                f"{moved:.0%}",
            ]
        lines.append(start + end)
    return lines


def shares(row: Row, speeds: dict[str, float], matmul: str) -> tuple[float, float]:
    """The ceilings' shares that the counted FLOPs and bytes of a row come to."""
    speed = row.flops / row.median, row.bytes / row.median
    return speed[0] / speeds[matmul], speed[1] / speeds["copy"]


def all_classes(row: Row, found: list[Row], measured: int, total: int) -> float | None:
    """Seconds of a step on all classes, in proportion where only some were measured.

    Returns:
      None for work that does not go class by class.
    """
    matching = next((r for r in found if r.name == "matching"), None)
    if row.name not in ("matching", "iteration") or not row.seconds:
        return None
    if measured == total:
        return row.median
    if matching is None or not matching.seconds:
        return None
    return row.median + matching.median * (total / measured - 1)


def versus_rows(case: Case, measured: Case, found: list[Comparison]) -> list[list[str]]:
    """The rows of a case's comparison, for `VERSUS_HEADER`."""
    lines = []
    for item in found:
        line = [case.name, item.name, f"{measured.classes} of {case.classes}"]
        if item.skipped:
            lines.append([*line, f"skipped ({item.skipped})", "-", "-", "-", "-"])
            continue
        ratios = item.ratios
        spread = f"{statistics.median(ratios):.2f}"
        spread += f" ({min(ratios):.2f} - {max(ratios):.2f})"
        lines.append(
            [
                *line,
                duration(statistics.median(item.official_seconds)),
                duration(statistics.median(item.our_seconds)),
                f"{item.ratio_of_medians:.2f}",
                spread,
                str(len(ratios)),
            ]
        )
    return lines


def ceilings(speeds: dict[str, float]) -> str:
    """One line of what the device can do."""
    parts = []
    for name, speed in speeds.items():
        unit = "GB/s" if name == "copy" else "GFLOP/s"
        parts.append(f"{name} {speed / 1e9:,.0f} {unit}")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Seconds in three digits and a unit that suits them."""
    for limit, factor, unit in ((1e-3, 1e6, "us"), (1, 1e3, "ms"), (600, 1, "s")):
        # Rounding must not carry a figure to its unit's end.
        if seconds < limit * 0.9995:
            return f"{_three_digits(seconds * factor)} {unit}"
    if seconds < 7200:
        return f"{_three_digits(seconds / 60)} min"
    return f"{_three_digits(seconds / 3600)} h"


def _three_digits(value: float) -> str:
    decimals = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{decimals}f}"


def text(header: list[str], lines: list[list[str]]) -> str:
    """A Markdown table."""
    return cli.markdown_table(header, lines)
