"""Charts of a study or a run, in colors that carry over to a dark page.

Every function draws one figure in one theme. `save` writes it as PNG beside its
numbers as CSV; `to_png` gives the bytes for a page.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from d4a_jax.storage.fileio import write_bytes_atomic


class Theme(NamedTuple):
    """Colors of a figure; the background is that of the page's cards.

    `switch` is the shade of a heat map, in [0, 1], from which on text is written in the
    background's color.
    """

    background: str
    ink: str
    muted: str
    grid: str
    series: tuple[str, ...]
    neutral: tuple[str, str]
    switch: float


LIGHT = Theme(
    background="#ffffff",
    ink="#1b1f27",
    muted="#626b7a",
    grid="#e4e7ec",
    series=("#2563c9", "#d2622a", "#178a6b", "#8a4fc7", "#b8862b", "#c2407a"),
    neutral=("#6f7888", "#a4acb9"),
    switch=0.8,
)
DARK = Theme(
    background="#191d25",
    ink="#e8ebf0",
    muted="#9aa3b2",
    grid="#2d333f",
    series=("#6ea3ff", "#f0935c", "#4fc3a1", "#b98cf0", "#dcb35c", "#ec7fb0"),
    neutral=("#a3abb9", "#6f7888"),
    switch=0.62,
)
THEMES = {"light": LIGHT, "dark": DARK}

# Small for the size of its letters, so that a chart can be read on a phone.
_WIDTH, _HEIGHT, _DPI = 4.6, 3.1, 190
_LEGEND_LETTERS = 54


class Series(NamedTuple):
    """A line with its deviation.

    Attributes:
      label: name in the legend.
      x: positions.
      mean: values.
      std: half the height of the band, or None.
      kind: "random" and "full" are drawn in a neutral color.
    """

    label: str
    x: Sequence[float]
    mean: Sequence[float]
    std: Sequence[float] | None = None
    kind: str = "artifact"


def to_png(figure: Figure) -> bytes:
    """The figure as the content of a PNG file."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=_DPI, facecolor=figure.get_facecolor())
    return content.getvalue()


def to_csv(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> bytes:
    """A table as the content of a CSV file; None becomes an empty cell."""
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return content.getvalue().encode()


def save(path: str | Path, figure: Figure, table: tuple[Sequence, Sequence]) -> None:
    """Writes `path.png` and `path.csv`.

    Args:
      path: without extension; its directory exists.
      figure: what to draw.
      table: header and rows of its numbers.
    """
    write_bytes_atomic(f"{path}.png", to_png(figure))
    write_bytes_atomic(f"{path}.csv", to_csv(*table))


def lines(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    theme: Theme = LIGHT,
    ticks: Mapping[float, str] | None = None,
    x_log: bool = False,
    y_log: bool = False,
    markers: bool = True,
) -> Figure:
    """Lines with bands of one standard deviation.

    A series of kind "full" with one point is drawn as a horizontal line.

    Args:
      series: the lines.
      x_label: what the horizontal axis shows.
      y_label: what the vertical axis shows.
      theme: colors.
      ticks: names of positions; numbers where it is None.
      x_log: logarithmic positions, with ticks where there are points.
      y_log: logarithmic values.
      markers: whether points are marked.
    """
    figure, axes = _blank(theme)
    for line, color in zip(series, _colors(series, theme)):
        _draw_line(axes, line, color, "o" if markers else None)
    if x_log:
        axes.set_xscale("log")
        found = {float(x) for line in series if line.kind != "full" for x in line.x}
        ticks = {x: f"{x:g}" for x in sorted(found)}
    if ticks:
        axes.set_xticks(list(ticks), list(ticks.values()))
        axes.minorticks_off()
    if y_log:
        axes.set_yscale("log")
        plain = StrMethodFormatter("{x:g}")
        axes.yaxis.set_major_formatter(plain)
        # Powers of ten alone say little within one decade.
        low, high = axes.get_ylim()
        axes.yaxis.set_minor_formatter(plain if high < 30 * low else NullFormatter())
        axes.yaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    _legend(axes, series, theme)
    return figure


def _draw_line(axes, line, color, marker):
    x, mean = np.asarray(line.x, float), np.asarray(line.mean, float)
    if line.kind == "full" and len(x) == 1:
        axes.axhline(mean[0], color=color, ls=(0, (5, 3)), lw=1.5, label=line.label)
        return
    style = (0, (2, 1.5)) if line.kind == "random" else "-"
    axes.plot(
        x, mean, color=color, ls=style, lw=2, marker=marker, ms=4.5, label=line.label
    )
    if line.std is None:
        return
    std = np.asarray(line.std, float)
    if len(x) > 1:
        band = {"color": color, "alpha": 0.16, "lw": 0}
        axes.fill_between(x, mean - std, mean + std, **band)
    else:
        axes.errorbar(x, mean, std, color=color, capsize=3)


def heat_map(
    values: Sequence[Sequence[float | None]],
    rows: Sequence[str],
    columns: Sequence[str],
    x_label: str,
    theme: Theme = LIGHT,
    limits: tuple[float, float] = (0.0, 100.0),
    form: str = "{:.0f}",
) -> Figure:
    """A matrix of numbers, each written into its cell; missing ones stay empty.

    Args:
      values: a list for each row; None or NaN where there is none.
      rows: their names.
      columns: their names.
      x_label: what the columns are.
      theme: colors.
      limits: values of the background's color and of the strongest shade.
      form: how a number is written.
    """
    matrix = np.array(values, float).reshape(len(rows), len(columns))
    names = 0.085 * max(map(len, rows), default=0)
    lines = [line for name in columns for line in name.split("\n")]
    cell = max(0.46, 0.085 * max(map(len, lines), default=0))
    width = max(_WIDTH, 0.5 + names + cell * len(columns))
    figure, axes = _blank(theme, (width, 1.0 + 0.36 * len(rows)))
    colors = LinearSegmentedColormap.from_list("", [theme.background, theme.series[0]])
    low, high = limits
    axes.imshow(matrix, cmap=colors, aspect="auto", vmin=low, vmax=high)
    for (y, x), value in np.ndenumerate(matrix):
        if np.isfinite(value):
            strong = (value - low) / (high - low) > theme.switch
            ink = theme.background if strong else theme.ink
            place = {"ha": "center", "va": "center", "fontsize": 9}
            axes.text(x, y, form.format(value), color=ink, **place)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xlabel(x_label)
    axes.grid(False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def _blank(theme, size=(_WIDTH, _HEIGHT)):
    figure = Figure(figsize=size, facecolor=theme.background, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(facecolor=theme.background)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(theme.grid)
    axes.tick_params(which="both", colors=theme.muted, labelsize=10)
    axes.xaxis.label.set(color=theme.muted, fontsize=10.5)
    axes.yaxis.label.set(color=theme.muted, fontsize=10.5)
    axes.grid(color=theme.grid, lw=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _colors(series, theme):
    """A color per line: baselines are neutral, methods are not."""
    names = {
        kind: [line.label for line in series if line.kind == kind]
        for kind in ("artifact", "random")
    }
    palettes = {"artifact": theme.series, "random": theme.neutral}
    for line in series:
        if line.kind == "full":
            yield theme.ink
        else:
            palette = palettes[line.kind]
            yield palette[names[line.kind].index(line.label) % len(palette)]


def _legend(axes, series, theme):
    if len(series) < 2:
        return
    longest = max(len(line.label) for line in series)
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        ncols=max(1, min(len(series), 4, _LEGEND_LETTERS // (longest + 5))),
        frameon=False,
        fontsize=9.5,
        labelcolor=theme.ink,
        handlelength=1.6,
        columnspacing=1.2,
    )
