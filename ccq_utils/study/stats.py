"""Paired bootstrap intervals over queries (scipy), for one task or for the mean over several, and Holm's correction."""

import itertools
from typing import NamedTuple

import numpy as np
from scipy.stats import bootstrap, norm, spearmanr, t

from ccq_utils.common.errors import StudyError

STATISTICS = ("difference", "retention", "mean")
LEVEL = 0.05
"""What a corrected p-value must stay below for a difference to be called real."""


class Interval(NamedTuple):
    """An estimate with its 95 % interval and the number of queries behind it."""

    estimate: float
    low: float
    high: float
    queries: int

    def named(self, name: str) -> dict[str, float]:
        """The estimate and its ends as columns ``name``, ``name_low`` and ``name_high`` of a table."""
        return {name: self.estimate, f"{name}_low": self.low, f"{name}_high": self.high}

    def excludes(self, value: float) -> bool:
        """Whether the interval lies wholly on one side of ``value``; only then is a difference called real."""
        return self.low > value or self.high < value

    def p(self, value: float = 0.0) -> float:
        """Two-sided p-value of ``value``, from a normal distribution as wide as the interval.

        Smooth where counting resamples would stop at one over their number, which Holm's correction needs.
        """
        error = (self.high - self.low) / (2 * norm.ppf(0.975))
        if error == 0:
            return float(self.estimate == value)
        return float(2 * norm.sf(abs(self.estimate - value) / error))


def paired_interval(
    statistic: str,
    measured: list[np.ndarray],
    reference: list[np.ndarray] | None = None,
    resamples: int = 2000,
    seed: int = 0,
    resample_tasks: bool = False,
) -> Interval:
    """95 % percentile bootstrap interval of a paired statistic, queries resampled within each task.

    Parameters
    ----------
    statistic : ``difference`` (mean of measured minus reference), ``retention`` (ratio of their means) or ``mean``
    measured, reference : one array of per-query scores per task, the same queries in the same order; with several tasks
        the statistic is computed per task and averaged with equal weight (macro mean)
    resample_tasks : draw the tasks with replacement as well, then queries within each drawn one (hierarchical
        bootstrap): the interval speaks of tasks like these, not only of these tasks

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

    def value(task, index):
        ours = measured[task][index].mean(axis=-1)
        return _combine(statistic, ours, None if statistic == "mean" else reference[task][index].mean(axis=-1))

    return macro_interval(value, [len(scores) for scores in measured], resamples, seed, resample_tasks)


def macro_interval(value, sizes: list[int], resamples: int, seed: int, resample_tasks: bool = False) -> Interval:
    """Bootstrap interval of the mean over tasks of any per-task statistic.

    Parameters
    ----------
    value : given a task's number and query indices ``(..., n)``, its statistic ``(...)``
    sizes : queries per task
    """
    if min(sizes, default=0) < 2:
        raise StudyError("an interval needs at least two queries")
    tasks = range(len(sizes))
    queries = [np.arange(size) for size in sizes]
    if not resample_tasks or len(sizes) == 1:
        data = queries

        def statistic(*indices, axis=-1):
            return sum(value(task, indices[task]) for task in tasks) / len(sizes)

    else:
        # One slot per drawn task; each slot holds a resample of every task's queries and uses the one that was drawn.
        data = queries * len(sizes) + [np.arange(len(sizes))]

        def statistic(*indices, axis=-1):
            drawn, total = indices[-1], np.zeros(indices[-1].shape[:-1])
            for slot, task in itertools.product(tasks, tasks):
                chosen = drawn[..., slot] == task
                total[chosen] += value(task, indices[slot * len(sizes) + task][chosen])
            return total / len(sizes)

    with np.errstate(divide="ignore", invalid="ignore"):
        estimate = float(sum(value(task, queries[task]) for task in tasks) / len(sizes))
        result = bootstrap(
            tuple(data),
            statistic,
            n_resamples=resamples,
            method="percentile",
            vectorized=True,
            batch=200,
            rng=np.random.default_rng(seed),
        )
    low, high = result.confidence_interval
    return Interval(estimate, float(low), float(high), sum(sizes))


def rank_correlation(x, y, pairs=None, resamples: int = 2000, seed: int = 0) -> Interval:
    """Spearman's rank correlation of two columns with its 95 % interval.

    Parameters
    ----------
    x, y : ``(n,)``
    pairs : the two models that each row is about, ``(n, 2)``; None where rows are independent of each other

    Independent rows are resampled (percentile bootstrap). Rows about pairs of models are not independent, since pairs share
    models: there each model is left out in turn (the jackknife of a U-statistic, Arvesen, Annals of Mathematical Statistics
    40, 1969), with Student's quantile for so few models, ends cut at -1 and 1; fewer than four models say nothing, -1 to 1.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    estimate = float(spearmanr(x, y).statistic)
    if pairs is None:
        low, high = bootstrap(
            (x, y),
            lambda x, y, axis=-1: spearmanr(x, y).statistic,
            paired=True,
            vectorized=False,
            n_resamples=resamples,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).confidence_interval
        return Interval(estimate, float(low), float(high), len(x))
    pairs = np.asarray(pairs)
    models = np.unique(pairs)
    half = np.inf  # fewer than four models leave nothing to correlate when one of them is left out
    if len(models) >= 4:
        without = [(pairs != model).all(axis=1) for model in models]
        left = np.array([spearmanr(x[rows], y[rows]).statistic for rows in without])
        error = np.sqrt((len(models) - 1) / len(models) * ((left - left.mean()) ** 2).sum())
        half = t.ppf(0.975, len(models) - 1) * error
    if not np.isfinite(half):
        return Interval(estimate, -1.0, 1.0, len(x))
    return Interval(estimate, max(-1.0, estimate - half), min(1.0, estimate + half), len(x))


def _combine(statistic, ours, theirs):
    if statistic == "mean":
        return ours
    return ours - theirs if statistic == "difference" else ours / theirs


def holm(p_values) -> np.ndarray:
    """Holm's step-down correction: p-values that hold however many were looked at (Holm 1979)."""
    p_values = np.asarray(p_values, dtype=float)
    order = np.argsort(p_values)
    steps = p_values[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(steps))
    return adjusted


def verdict(interval: Interval, value: float = 0.0, above: str = "better", below: str = "worse") -> str:
    """In words: ``above`` or ``below`` when the interval excludes ``value``, otherwise *no difference seen*."""
    if not interval.excludes(value):
        return "no difference seen"
    return above if interval.low > value else below


def corrected_verdicts(table, name: str) -> list[str]:
    """Verdicts of a column of differences; what Holm's correction for the number of rows does not bear is not called real.

    The table holds ``name``, ``name_low``, ``name_high`` and ``name_p`` (``low``, ``high`` and ``p`` where the name is
    ``estimate``); rows without a p-value compare nothing.
    """
    low, high, p_name = (part if name == "estimate" else f"{name}_{part}" for part in ("low", "high", "p"))
    tested = table[p_name].notna().to_numpy()
    p_values = np.ones(len(table))
    p_values[tested] = holm(table.loc[tested, p_name])
    words = []
    for row, p, compared in zip(table.itertuples(), p_values, tested, strict=True):
        interval = Interval(getattr(row, name), getattr(row, low), getattr(row, high), row.queries)
        found = verdict(interval)
        words.append(found if p < LEVEL or not compared else "no difference seen")
    return words
