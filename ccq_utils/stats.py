"""Paired bootstrap intervals over queries (scipy), for one task or for the mean over several."""

from typing import NamedTuple

import numpy as np
from scipy.stats import bootstrap

from ccq_utils.errors import StudyError

STATISTICS = ("difference", "retention", "mean")


class Interval(NamedTuple):
    """An estimate with its 95 % interval and the number of queries behind it."""

    estimate: float
    low: float
    high: float
    queries: int

    def excludes(self, value: float) -> bool:
        """Whether the interval lies wholly on one side of ``value``; only then is a difference called real."""
        return self.low > value or self.high < value


def paired_interval(
    statistic: str,
    measured: list[np.ndarray],
    reference: list[np.ndarray] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """95 % percentile bootstrap interval of a paired statistic, queries resampled within each task.

    Parameters
    ----------
    statistic : ``difference`` (mean of measured minus reference), ``retention`` (ratio of their means) or ``mean``
    measured, reference : one array of per-query scores per task, the same queries in the same order; with several tasks
        the statistic is computed per task and averaged with equal weight (macro mean)

    Raises
    ------
    StudyError : unknown statistic, unpaired lengths, or a task with fewer than two queries.
    """
    if statistic not in STATISTICS:
        raise StudyError(f"unknown statistic {statistic!r}; accepted: {', '.join(STATISTICS)}")
    measured = [np.asarray(scores, dtype=float) for scores in measured]
    reference = measured if reference is None else [np.asarray(scores, dtype=float) for scores in reference]
    if [len(scores) for scores in measured] != [len(scores) for scores in reference]:
        raise StudyError("a paired interval needs the same queries on both sides")
    if min(map(len, measured), default=0) < 2:
        raise StudyError("an interval needs at least two queries")

    def value(*indices, axis=-1):
        total = 0.0
        for index, scores, others in zip(indices, measured, reference, strict=True):
            ours, theirs = scores[index].mean(axis), others[index].mean(axis)
            total = total + _combine(statistic, ours, theirs)
        return total / len(measured)

    everything = tuple(np.arange(len(scores)) for scores in measured)
    with np.errstate(divide="ignore", invalid="ignore"):
        estimate = float(value(*everything))
        result = bootstrap(
            everything,
            value,
            n_resamples=resamples,
            method="percentile",
            vectorized=True,
            batch=200,
            rng=np.random.default_rng(seed),
        )
    low, high = result.confidence_interval
    return Interval(estimate, float(low), float(high), sum(map(len, measured)))


def _combine(statistic, ours, theirs):
    if statistic == "mean":
        return ours
    return ours - theirs if statistic == "difference" else ours / theirs


def verdict(interval: Interval, value: float = 0.0, above: str = "better", below: str = "worse") -> str:
    """In words: ``above`` or ``below`` when the interval excludes ``value``, otherwise *no difference seen*."""
    if not interval.excludes(value):
        return "no difference seen"
    return above if interval.low > value else below
