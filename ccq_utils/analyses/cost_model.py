"""What it costs to encode, hold and search a corpus of any size, from what was measured on a small one.

Assumptions. Encoding costs the same for every document, and a concat costs what its members cost together. Vectors are held
in memory, on as many machines as that takes. Search is exhaustive: its time is a fixed part per query and one in proportion
to documents, on one core, and cores share the work evenly. What a core-hour or a gigabyte is worth differs by place and is
left to the reader. Approximate search (inverted lists, graphs) would shorten search of all setups, and save no bytes.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ccq_utils.common.errors import StudyError

DOCUMENTS = (100_000, 10_000_000, 1_000_000_000)
FAR = {"gigabytes": float("inf"), "core_hours": 0}
"""Corpus sizes beyond which a number is extrapolated: bytes never, encoding always (a few texts are timed)."""


@dataclass(frozen=True)
class Setup:
    """One way to serve a corpus.

    Parameters
    ----------
    name : what it is called in tables
    bytes_per_vector : of one document
    seconds_per_1000 : core-seconds to encode so many documents
    way : of the search measurements that its search is read off
    scanned_bytes : bytes per vector of the vectors that were measured there; search of a narrower float vector takes as much
        less time; those of the setup itself where None
    """

    name: str
    bytes_per_vector: float
    seconds_per_1000: float
    way: str
    scanned_bytes: float | None = None


def encoding_seconds(members: dict[str, float]) -> float:
    """Core-seconds per 1,000 documents of a concat: the sum over its members'."""
    return float(sum(members.values()))


def line(measured: pd.DataFrame, way: str) -> tuple[float, float]:
    """Seconds per query as ``fixed + slope * documents``, through the smallest and the largest measured size.

    Parameters
    ----------
    measured : columns ``way``, ``documents``, ``seconds`` per query of one core

    Raises
    ------
    StudyError : a way that was not measured. One size alone gives a line through zero.
    """
    part = measured[measured["way"] == way].sort_values("documents")
    if part.empty:
        raise StudyError(f"search was not measured for {way!r}; measured: {', '.join(measured['way'].unique())}")
    first, last = part.iloc[0], part.iloc[-1]
    if first["documents"] == last["documents"]:
        return 0.0, float(last["seconds"] / last["documents"])
    slope = (last["seconds"] - first["seconds"]) / (last["documents"] - first["documents"])
    fixed = last["seconds"] - slope * last["documents"]
    if slope <= 0 or fixed < 0:  # noise, or a cache that held the small corpus: the large one alone is the safer guide
        return 0.0, float(last["seconds"] / last["documents"])
    return float(fixed), float(slope)


def check(measured: pd.DataFrame) -> pd.DataFrame:
    """How well the largest size follows from the smallest in proportion: ``way``, both sizes, seconds, ``off`` (a ratio)."""
    rows = []
    for way, part in measured.groupby("way", sort=False):
        part = part.sort_values("documents")
        first, last = part.iloc[0], part.iloc[-1]
        if first["documents"] < last["documents"]:
            expected = first["seconds"] * last["documents"] / first["documents"]
            row = {"way": way, "documents": first["documents"], "larger": last["documents"]}
            rows.append(row | {"expected": expected, "seconds": last["seconds"], "off": last["seconds"] / expected})
    return pd.DataFrame(rows, columns=["way", "documents", "larger", "expected", "seconds", "off"])


def cost_table(setups: list[Setup], measured: pd.DataFrame, documents=DOCUMENTS) -> pd.DataFrame:
    """One row per setup and corpus size.

    Parameters
    ----------
    measured : see ``line``

    Returns
    -------
    ``setup``, ``documents``, ``gigabytes`` (10**9 bytes), ``core_hours`` to encode, ``milliseconds`` per query of one core,
    ``queries_per_second`` of one core, ``extrapolated`` (a query's time, beyond the largest corpus searched).
    """
    rows = []
    for setup in setups:
        fixed, slope = line(measured, setup.way)
        share = setup.bytes_per_vector / (setup.scanned_bytes or setup.bytes_per_vector)
        largest = measured.loc[measured["way"] == setup.way, "documents"].max()
        for count in documents:
            seconds = fixed + slope * share * count
            rows.append(
                {
                    "setup": setup.name,
                    "documents": count,
                    "gigabytes": setup.bytes_per_vector * count / 1e9,
                    "core_hours": setup.seconds_per_1000 * count / 1000 / 3600,
                    "milliseconds": 1000 * seconds,
                    "queries_per_second": 1 / seconds,
                    "extrapolated": bool(count > largest),
                }
            )
    return pd.DataFrame(rows)


def cheapest(costs: pd.DataFrame) -> pd.DataFrame:
    """Where each setup wins: per corpus size, the setup with the fewest bytes, core-hours and milliseconds."""
    measures = {"gigabytes": "fewest bytes", "core_hours": "least encoding", "milliseconds": "fastest query"}
    rows = [
        {"documents": count} | {title: part.loc[part[name].idxmin(), "setup"] for name, title in measures.items()}
        for count, part in costs.groupby("documents")
    ]
    return pd.DataFrame(rows)


def figure(costs: pd.DataFrame, colours: dict):
    """Bytes, core-hours and milliseconds per query against documents, a line per setup; hollow where extrapolated."""
    import matplotlib.pyplot as plt

    labels = {
        "gigabytes": "gigabytes held",
        "core_hours": "core-hours to encode",
        "milliseconds": "milliseconds per query, one core",
    }
    drawn, axes = plt.subplots(1, 3, figsize=(13, 4.6))
    for axis, (column, label) in zip(axes, labels.items(), strict=True):
        dashes = itertools.cycle(("-", "-.", "--", ":"))  # setups with as many bytes or the same members share a line
        for setup, part in costs.groupby("setup", sort=False):
            shade = colours[setup]
            axis.plot(part["documents"], part[column], next(dashes), color=shade, lw=1.8, label=setup)
            far = part["extrapolated"] if column == "milliseconds" else part["documents"] > FAR[column]
            for rows, face in ((part[~far], shade), (part[far], "white")):
                axis.plot(rows["documents"], rows[column], "o", color=shade, markerfacecolor=face, ms=7)
        axis.set(xscale="log", yscale="log", xlabel="documents", ylabel=label)
    drawn.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=10)
    return drawn, axes


def factor(costs: pd.DataFrame, column: str, setup: str, other: str) -> float:
    """How many times as much the first setup takes as the other, at the largest corpus."""
    largest = costs[costs["documents"] == costs["documents"].max()].set_index("setup")[column]
    return float(np.divide(largest[setup], largest[other]))
