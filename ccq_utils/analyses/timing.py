"""Wall time of ways to do the same thing: alternating runs, medians, ratios."""

import time
from collections.abc import Callable

import numpy as np
import pandas as pd

from ccq_utils.common.progress import progress


def race(
    what: str,
    ways: dict[str, Callable[[], object]],
    repeats: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> pd.DataFrame:
    """Time ways in turn, so that a slow moment of the machine meets all; each runs once beforehand to warm up.

    Parameters
    ----------
    ways : name -> what to run; the first is what the others are held against
    clock : ``time.process_time`` counts the seconds that processors worked, on all threads, and not those in which others did

    Returns
    -------
    One row per way: ``what``, ``way``, ``seconds`` (median), ``low`` and ``high`` (fastest and slowest run), ``ratio`` (how
    many times as fast as the first way: median over repeats of the paired ratio), ``repeats``.
    """
    taken = alternate(what, ways, repeats, clock)
    first = np.array(next(iter(taken.values())))
    return pd.DataFrame(
        {
            "what": what,
            "way": way,
            "seconds": np.median(times),
            "low": min(times),
            "high": max(times),
            "ratio": np.median(first / np.array(times)),
            "repeats": repeats,
        }
        for way, times in taken.items()
    )


def alternate(what: str, ways: dict[str, Callable[[], object]], repeats: int, clock=time.perf_counter) -> dict:
    """Way -> seconds of each of its runs; arguments as of ``race``."""
    taken = {way: [] for way in ways}
    for repeat in progress(range(repeats + 1), what):
        for way, work in ways.items():
            started = clock()
            work()
            if repeat:
                taken[way].append(clock() - started)
    return taken
