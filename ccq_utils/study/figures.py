"""One look for every figure: a colour per model and per method, a title that states the finding, PNG and SVG."""

import itertools
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns

from ccq_utils.common.files import write_atomically

PALETTE = sns.color_palette("colorblind")
SHARED = (
    ("minilm", "MiniLM-L6", "PCA, rotated", "mass", "asymmetric"),
    ("lexical", "bge-small", "decoder, rotated", "width"),
    ("wordllama", "e5-small-v2", "PCA", "minilm alone, equalised PCA", "one scale"),
    ("static", "MiniLM-L3", "decoder", "bucket numbers"),
    ("model2vec", "mpnet-base", "decoder, LSH"),
    ("score fusion",),
    ("weighted concat",),
    ("rank fusion", "LSH", "symmetric"),
    ("PQ",),
    ("binary",),
)
"""Models and methods by their colour of the palette, which is safe for colour-blind eyes; no figure shows two of a row."""
COLOURS = {name: PALETTE[number] for number, names in enumerate(SHARED) for name in names}
COLOURS |= {"concat": "#222222", "equalised PCA": "#5b2a86"}
MARKERS = "osD^vP"  # marks that tell tasks apart where points lie close


def style() -> None:
    """Fonts and lines that read well at half width."""
    chosen = {"figure.constrained_layout.use": True, "figure.dpi": 100, "savefig.dpi": 150, "legend.frameon": False}
    chosen |= {"axes.titlesize": 13, "axes.titleweight": "bold", "axes.titlelocation": "left"}
    chosen |= {"axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "ccq", "svg.fonttype": "none"}
    sns.set_theme(context="notebook", style="whitegrid", palette=PALETTE, rc=chosen)


def colour(name: str):
    """The colour of a model or method; grey for one without."""
    return COLOURS.get(name, "#777777")


def task_colours(tasks) -> dict:
    """A colour per task, by the profile's order; a seventh task begins again."""
    return dict(zip(tasks, itertools.cycle(PALETTE[number] for number in (0, 1, 2, 4, 5, 7)), strict=False))


def save_figure(figure, folder: Path, name: str) -> None:
    """Write ``name.png`` and ``name.svg``, the same bytes for the same figure; titles that are too wide are wrapped."""
    wrap_titles(figure)
    for kind, about in (("png", {}), ("svg", {"Date": None})):
        with write_atomically(folder / f"{name}.{kind}") as file:
            figure.savefig(file, format=kind, metadata=about)


def wrap_titles(figure) -> None:
    """Break the figure's title and its panels' titles into lines where they are wider than the figure or the panel."""
    figure.draw_without_rendering()  # lays out the panels, so that their widths are known
    titles = [(axis.set_title(axis.get_title("left"), loc="left"), axis.bbox.width) for axis in figure.axes]
    for text, width in [(text, figure.bbox.width) for text in figure.texts] + titles:
        if (found := text.get_window_extent().width) > width:
            letters = int(0.97 * len(text.get_text()) * width / found)
            text.set_text(textwrap.fill(text.get_text(), letters, break_on_hyphens=False))


def panels(names, width: float = 5.5, height: float = 3.6, columns: int = 2, sharey: bool = False):
    """A figure and one panel of ``width`` x ``height`` inches per name, at most ``columns`` in a row.

    A place that the last row leaves free is blank and can take the legend.
    """
    columns = min(columns, len(names := list(names)))
    rows = -(-len(names) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(columns * width, rows * height), squeeze=False, sharey=sharey)
    for axis, name in itertools.zip_longest(axes.flat, names):
        axis.set_axis_off() if name is None else axis.set_title(name)
    return figure, list(axes.flat[: len(names)])


def legend(figure, axes, **options) -> None:
    """The first panel's legend: in the place that ``panels`` left free, if there is one, else in that panel."""
    free = [axis for axis in figure.axes if axis not in axes]
    handles = axes[0].get_legend_handles_labels()
    (free or axes)[0].legend(*handles, loc="center" if free else "best", **options)


def interval_bars(table: pd.DataFrame, label: str, axis, reference: float = 0.0, colours=None) -> None:
    """Horizontal estimates with 95 % intervals; columns ``estimate``, ``low``, ``high`` and ``label``, top row first."""
    rows = range(len(table))[::-1]
    for row, line in zip(rows, table.to_dict("records"), strict=True):
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


def cells(table: pd.DataFrame, index: list[str], columns: str) -> pd.DataFrame:
    """A summary for the eye: ``0.937 [0.926, 0.948]`` in one cell per entry of ``columns``, one row per ``index``."""
    texts = [f"{row.estimate:.3f} [{row.low:.3f}, {row.high:.3f}]" for row in table.itertuples()]
    return table.assign(cell=texts).pivot_table("cell", index, columns, aggfunc="first", sort=False)


def markdown(table: pd.DataFrame) -> str:
    """A table as Markdown, without its index."""
    rows = [list(table.columns), ["---"] * table.shape[1], *table.astype(str).to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


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
