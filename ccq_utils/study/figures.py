"""One look for every figure: a colour per model and per method, a title that states the finding, PNG and SVG."""

import itertools
import textwrap
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns

from ccq_utils.common.cache import writing_to

PALETTE = sns.color_palette("colorblind")
COLOURS = {
    "minilm": PALETTE[0],
    "lexical": PALETTE[1],
    "wordllama": PALETTE[2],
    "static": PALETTE[3],
    "model2vec": PALETTE[4],
    "concat": "#222222",
    "rank fusion": PALETTE[7],
    "score fusion": PALETTE[5],
    "PCA": PALETTE[2],
    "PCA, rotated": PALETTE[0],
    "decoder": PALETTE[3],
    "decoder, rotated": PALETTE[1],
    "LSH": PALETTE[7],
    "byte blocks": "#5b2a86",
    "PQ": PALETTE[5],
    "binary, float query": PALETTE[9],
    "minilm alone, byte blocks": PALETTE[2],
    "mass": PALETTE[0],
    "width": PALETTE[1],
    "symmetric": PALETTE[7],
    "asymmetric": PALETTE[0],
    "bucket numbers": PALETTE[3],
    "one scale": PALETTE[2],
}
"""One colour per model and per method across the whole study, from a colour-blind-safe palette."""
MARKERS = "osD^vP"
"""Marks that tell tasks apart where points lie close."""


def style() -> None:
    """Fonts and lines that read well at half width."""
    sns.set_theme(context="notebook", style="whitegrid", palette=PALETTE)
    matplotlib.rcParams.update(
        {
            "figure.constrained_layout.use": True,
            "figure.dpi": 100,
            "savefig.dpi": 150,
            "axes.titlesize": 13,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "legend.frameon": False,
            "svg.hashsalt": "ccq",
            "svg.fonttype": "none",
        }
    )


def colour(name: str):
    """The colour of a model or method; grey for one without."""
    return COLOURS.get(name, "#777777")


def task_colours(tasks) -> dict:
    """A colour per task, by the profile's order; a seventh task begins again."""
    shades = itertools.cycle(PALETTE[number] for number in (0, 1, 2, 4, 5, 7))
    return dict(zip(tasks, shades, strict=False))


def save_figure(figure, folder: Path, name: str) -> None:
    """Write ``name.png`` and ``name.svg``, the same bytes for the same figure; titles that are too wide are wrapped."""
    wrap_titles(figure)
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / f"{name}.png")
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})


def wrap_titles(figure) -> None:
    """Break the figure's title and its panels' titles into lines where they are wider than the figure or the panel."""
    figure.draw_without_rendering()  # lays out the panels, so that their widths are known
    for text in figure.texts:
        _wrap(text, figure.bbox.width)
    for axis in figure.axes:
        _wrap(axis.set_title(axis.get_title("left"), loc="left"), axis.bbox.width)


def _wrap(text, width):
    found = text.get_window_extent().width
    if found > width:
        letters = int(0.97 * len(text.get_text()) * width / found)
        text.set_text(textwrap.fill(text.get_text(), letters, break_on_hyphens=False))


def panels(names, width: float = 5.5, height: float = 3.6, columns: int = 2, sharey: bool = False):
    """One panel per name, titled with it, at most ``columns`` in a row so that text stays readable at half width.

    Args:
        width, height: of one panel, in inches.

    Returns:
        The figure and its panels, one per name; a place that the last row leaves free is blank and can take the legend.
    """
    names = list(names)
    columns = min(columns, len(names))
    rows = -(-len(names) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(columns * width, rows * height), squeeze=False, sharey=sharey)
    for axis, name in zip(axes.flat, names, strict=False):
        axis.set_title(name)
    for axis in axes.flat[len(names) :]:
        axis.set_axis_off()
    return figure, list(axes.flat[: len(names)])


def legend(figure, axes, **options) -> None:
    """The first panel's legend: in the place that ``panels`` left free, if there is one, else in that panel."""
    free = [axis for axis in figure.axes if axis not in axes]
    handles = axes[0].get_legend_handles_labels()
    (free or axes)[0].legend(*handles, loc="center" if free else "best", **options)


def interval_bars(table: pd.DataFrame, label: str, axis, reference: float = 0.0, colours=None) -> None:
    """Horizontal estimates with 95 % intervals; columns ``estimate``, ``low``, ``high`` and ``label``, top row first."""
    rows = range(len(table))[::-1]
    for row, (_, line) in zip(rows, table.iterrows(), strict=True):
        shade = (colours or {}).get(line[label], colour(line[label]))
        axis.plot([line["low"], line["high"]], [row, row], color=shade, lw=2.5, solid_capstyle="round")
        axis.plot(line["estimate"], row, "o", color=shade, ms=7)
    axis.set_yticks(list(rows), table[label])
    axis.set_ylim(-0.6, len(table) - 0.4)
    axis.axvline(reference, color="#666666", lw=1.2, zorder=0)
    axis.locator_params(axis="x", nbins=6)
    axis.grid(axis="y", visible=False)


def curve(table: pd.DataFrame, x: str, label: str, axis, color=None, band: float = 0.15, **options) -> None:
    """A line with its 95 % band of opacity ``band``; columns ``x``, ``estimate``, ``low``, ``high``."""
    table = table.sort_values(x) if table[x].dtype.kind in "if" else table
    shade = colour(label) if color is None else color
    axis.plot(table[x], table["estimate"], marker="o", color=shade, label=label, ms=5, **options)
    axis.fill_between(table[x], table["low"], table["high"], color=shade, alpha=band, lw=0)


def points(table: pd.DataFrame, x: str, y: str, label: str, axis, color, marker: str = "o") -> None:
    """Points with 95 % intervals; columns ``x``, ``y``, ``y_low``, ``y_high``."""
    spread = [table[y] - table[f"{y}_low"], table[f"{y}_high"] - table[y]]
    axis.errorbar(table[x], table[y], spread, fmt=marker, color=color, label=label, lw=1.2)
    axis.locator_params(axis="x", nbins=6)


def cells(table: pd.DataFrame, index: list[str], columns: str, digits: int = 3) -> pd.DataFrame:
    """A summary for the eye: ``0.937 [0.926, 0.948]`` in one cell per entry of ``columns``, one row per ``index``."""
    texts = [f"{row.estimate:.{digits}f} [{row.low:.{digits}f}, {row.high:.{digits}f}]" for row in table.itertuples()]
    return table.assign(cell=texts).pivot_table(
        index=index, columns=columns, values="cell", aggfunc="first", sort=False
    )


def curves_by_task(table: pd.DataFrame, x: str, label: str, shades: dict, ticks, xlabel: str):
    """One panel per task with a banded curve per entry of ``shades`` (label -> colour); returns figure and axes."""
    names = table["task"].unique()
    figure, axes = panels(names, sharey=True)
    for axis, name in zip(axes, names, strict=True):
        for shown, shade in shades.items():
            part = table[(table["task"] == name) & (table[label] == shown)]
            curve(part, x, shown, axis, color=shade)
        axis.axhline(1, color="#999999", lw=1)
        axis.set(xlabel=xlabel, ylabel="retention of nDCG@10" if axis.get_subplotspec().is_first_col() else "")
        log_ticks(axis, ticks)
    legend(figure, axes, fontsize=10)
    return figure, axes


def show(figure) -> None:
    """Display a figure once, and free it."""
    from IPython.display import display

    display(figure)
    plt.close(figure)


def log_ticks(axis, values) -> None:
    """A logarithmic x axis that is labelled at ``values`` and nowhere else."""
    axis.set_xscale("log")
    axis.set_xticks(list(values), [f"{value:g}" for value in values])
    axis.minorticks_off()
