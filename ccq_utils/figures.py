"""One look for every figure: a colour per model and per method, a title that states the finding, PNG and SVG."""

from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns

from ccq_utils.cache import writing_to

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
    "PQ": PALETTE[4],
    "mass": PALETTE[0],
    "width": PALETTE[1],
    "symmetric": PALETTE[7],
    "asymmetric": PALETTE[0],
    "bucket numbers": PALETTE[3],
    "one scale": PALETTE[2],
    "training": PALETTE[7],
    "validation": PALETTE[0],
}
"""One colour per model and per method across the whole study, from a colour-blind-safe palette."""


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
    """A colour per task, by the profile's order."""
    return dict(zip(tasks, (PALETTE[0], PALETTE[1], PALETTE[2], PALETTE[4], PALETTE[5], PALETTE[7]), strict=False))


def save_figure(figure, folder: Path, name: str) -> None:
    """Write ``name.png`` and ``name.svg``, the same bytes for the same figure."""
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / f"{name}.png")
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})


def interval_bars(table: pd.DataFrame, label: str, axis, reference: float = 0.0, colours=None) -> None:
    """Horizontal estimates with 95 % intervals; columns ``estimate``, ``low``, ``high`` and ``label``, top row first."""
    rows = range(len(table))[::-1]
    for row, (_, line) in zip(rows, table.iterrows(), strict=True):
        shade = (colours or {}).get(line[label], colour(line[label]))
        axis.plot([line["low"], line["high"]], [row, row], color=shade, lw=2.5, solid_capstyle="round")
        axis.plot(line["estimate"], row, "o", color=shade, ms=7)
    axis.set_yticks(list(rows), table[label])
    axis.axvline(reference, color="#999999", lw=1, zorder=0)
    axis.grid(axis="y", visible=False)


def curve(table: pd.DataFrame, x: str, label: str, axis, color=None, **options) -> None:
    """A line with its 95 % band; columns ``x``, ``estimate``, ``low``, ``high``."""
    table = table.sort_values(x)
    shade = colour(label) if color is None else color
    axis.plot(table[x], table["estimate"], "o-", color=shade, label=label, ms=5, **options)
    axis.fill_between(table[x], table["low"], table["high"], color=shade, alpha=0.15, lw=0)


def curves_by_task(table: pd.DataFrame, x: str, label: str, shades: dict, ticks, xlabel: str):
    """One panel per task with a banded curve per entry of ``shades`` (label -> colour); returns figure and axes."""
    names = table["task"].unique()
    figure, axes = plt.subplots(1, len(names), figsize=(6 * len(names), 4.2), squeeze=False, sharey=True)
    for axis, name in zip(axes[0], names, strict=True):
        for shown, shade in shades.items():
            part = table[(table["task"] == name) & (table[label] == shown)]
            curve(part, x, shown, axis, color=shade)
        axis.axhline(1, color="#999999", lw=1)
        axis.set(xlabel=xlabel, ylabel="retention of nDCG@10", title=name)
        log_ticks(axis, ticks)
    axes[0][0].legend(fontsize=10)
    return figure, axes[0]


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
