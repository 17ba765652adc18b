"""Estimates with intervals from per-query scores: one long table in, one row per group and task out.

A table of scores has one row per query: ``task``, ``query``, ``seed``, ``score`` and columns that say what was scored
(``method``, ``factor``, ``fitted_on`` ...). ``summarise`` turns it into estimates with paired bootstrap intervals.
"""

import itertools
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import norm, spearmanr, t

from ccq_utils.common.errors import StudyError

STATISTICS = ("retention", "difference", "mean")
MACRO = "macro mean"
"""What the column ``task`` says of the mean over tasks."""
LEVEL = 0.05
"""What a corrected p-value must stay below for a difference to be called real."""


class Interval(NamedTuple):
    """An estimate, the ends of its 95 % interval and the number of queries behind it."""

    estimate: float
    low: float
    high: float
    queries: int

    def p(self, value: float = 0.0) -> float:
        """Two-sided p-value of ``value``, from a normal distribution as wide as the interval.

        Smooth where counting resamples would stop at one over their number, which Holm's correction needs.
        """
        error = (self.high - self.low) / (2 * norm.ppf(0.975))
        if error == 0:
            return float(self.estimate == value)
        return float(2 * norm.sf(abs(self.estimate - value) / error))


@lru_cache(maxsize=32)
def resample_weights(queries: int, resamples: int, seed: int, slot: int = 0) -> np.ndarray:
    """How much each query weighs in each bootstrap resample, ``(resamples, queries) float32``, rows add up to one."""
    rng = np.random.default_rng([seed, queries, slot])
    drawn = rng.multinomial(queries, np.full(queries, 1 / queries), size=resamples)
    return drawn.astype(np.float32) / queries


def summarise(
    scores: pd.DataFrame,
    by: list[str],
    reference: pd.DataFrame | None = None,
    statistic: str = "retention",
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """One row per group and task, and one for the mean over tasks where a group has several.

    All groups share the same resamples of queries, so that every comparison is paired. The interval of the mean over tasks
    draws the tasks with replacement, then queries within each drawn one (hierarchical bootstrap): it speaks of tasks like
    these, not only of these.

    Args:
        scores: long table with ``task``, ``query``, ``seed``, ``score`` and the columns of ``by``; scores of several seeds
            are averaged per query.
        by: columns that tell groups apart, for example ``["method", "factor"]``.
        reference: long table that groups are held against, query by query; a column of ``by`` that it has as well must
            agree. None for the mean score itself.
        statistic: ``retention`` (ratio of the means), ``difference`` (of the means) or ``mean`` (no reference).
        resamples, seed: of the bootstrap.

    Returns:
        ``task``, the columns of ``by``, ``ndcg_at_10`` (the mean score), ``estimate``, ``low``, ``high``, ``queries``,
        ``seed_spread`` (standard deviation of the estimate over seeds, NaN where there is one) and, for differences, ``p``.

    Raises:
        StudyError: an unknown statistic, fewer than two queries, or queries that the reference does not have.
    """
    statistic = "mean" if reference is None else statistic
    if statistic not in STATISTICS:
        raise StudyError(f"unknown statistic {statistic!r}; accepted: {', '.join(STATISTICS)}")
    shared = [] if reference is None else [column for column in by if column in reference]
    measured = _wide(scores, by)
    references = None if reference is None else _wide(reference, shared)
    seeds = _seed_means(scores, by)
    rows = []
    for tasks, keys in _groups_by_tasks(measured).items():
        left = {task: _values(measured, task, keys) for task in tasks}
        right = None
        if references is not None:
            chosen = [tuple(key[by.index(column)] for column in shared) for key in keys]
            right = {task: _values(references, task, chosen, measured) for task in tasks}
        rows += _rows(left, right, keys, by, statistic, resamples, seed, seeds)
    order = {key: number for number, key in enumerate(measured.columns)}
    rows.sort(key=lambda row: order[tuple(row[column] for column in by)])
    return pd.DataFrame(rows)


def _wide(scores, by):
    """Index (task, query), a column (tuple) per group; scores of several seeds averaged."""
    keys = [scores[column] for column in by]
    groups = pd.Series(list(zip(*keys, strict=True)) if keys else [()] * len(scores), index=scores.index, dtype=object)
    codes, names = pd.factorize(groups)
    table = pd.DataFrame(
        {"task": scores["task"], "query": scores["query"], "group": codes, "score": scores["score"].astype(float)}
    )
    wide = table.groupby(["task", "query", "group"], sort=False, observed=True)["score"].mean().unstack("group")
    wide = wide.reindex(scores["task"].unique(), level="task").sort_index(axis=1)
    wide.columns = pd.Index(list(names), tupleize_cols=False)
    return wide


def _seed_means(scores, by):
    """(task, *group) -> mean score of each seed."""
    means = scores.groupby(["task", *by, "seed"], sort=False, observed=True)["score"].mean()
    return {
        key if isinstance(key, tuple) else (key,): part.to_numpy(float)
        for key, part in means.groupby(level=list(range(len(by) + 1)), sort=False, observed=True)
    }


def _groups_by_tasks(wide):
    """Tasks that a group was scored on -> such groups."""
    found = {}
    tasks = wide.index.unique("task")
    held = {task: wide.loc[task].notna().any() for task in tasks}
    for number, key in enumerate(wide.columns):
        found.setdefault(tuple(task for task in tasks if held[task].iloc[number]), []).append(key)
    return found


def _values(wide, task, keys, like=None):
    """``(queries, groups)`` of one task."""
    places = {key: number for number, key in enumerate(wide.columns)}
    if missing := [key for key in keys if key not in places]:
        raise StudyError(f"the reference has no scores for {missing[0]}")
    found = wide.loc[task].iloc[:, [places[key] for key in keys]]
    found = found[found.notna().any(axis=1)]
    if like is not None:
        wanted = like.loc[task].index[like.loc[task].notna().any(axis=1)]
        if len(wanted.difference(found.index)):
            raise StudyError(f"task {task!r}: a paired interval needs the same queries on both sides")
        found = found.loc[wanted]
    if len(found) < 2:
        raise StudyError(f"task {task!r}: an interval needs at least two queries")
    return found.to_numpy()


def _combine(statistic, ours, theirs):
    if statistic == "mean":
        return ours
    with np.errstate(divide="ignore", invalid="ignore"):
        return ours - theirs if statistic == "difference" else ours / theirs


def _rows(left, right, keys, by, statistic, resamples, seed, seeds):
    """Rows of groups that were scored on the same tasks."""

    def statistics(task, weights):
        return _combine(statistic, weights @ left[task], None if right is None else weights @ right[task])

    rows = []
    for name, (members, estimates, lows, highs, queries) in bootstrap(
        statistics, {task: len(found) for task, found in left.items()}, resamples, seed
    ).items():
        for number, key in enumerate(keys):
            found = Interval(float(estimates[number]), float(lows[number]), float(highs[number]), queries)
            theirs = None if right is None else [right[task][:, number].mean() for task in members]
            row = {"task": name, **dict(zip(by, key, strict=True))}
            row["ndcg_at_10"] = float(np.mean([left[task][:, number].mean() for task in members]))
            row |= found._asdict() | {"seed_spread": _spread(statistic, [seeds[(t, *key)] for t in members], theirs)}
            rows.append(row | ({"p": found.p()} if statistic == "difference" else {}))
    return rows


def bootstrap(statistics, sizes: dict[str, int], resamples: int, seed: int) -> dict[str, tuple]:
    """Percentile intervals of any statistic of weighted queries, per task and for the mean over tasks.

    Args:
        statistics: function of a task and weights ``(resamples, queries)``, gives ``(resamples, groups)``.
        sizes: task -> queries.

    Returns:
        Task (and ``MACRO`` where there are several) -> its tasks, estimates, low and high ends ``(groups,)``, queries.
    """
    tasks = list(sizes)
    drawn = {
        (task, slot): statistics(task, resample_weights(sizes[task], resamples, seed, slot))
        for task, slot in itertools.product(tasks, range(len(tasks)))
    }
    whole = {task: statistics(task, np.full((1, sizes[task]), 1 / sizes[task]))[0] for task in tasks}
    parts = {task: ([task], drawn[task, 0]) for task in tasks}
    if len(tasks) > 1:
        picked = np.random.default_rng([seed, len(tasks)]).integers(len(tasks), size=(resamples, len(tasks)))
        total = np.zeros_like(drawn[tasks[0], 0], dtype=float)
        for slot, number in itertools.product(range(len(tasks)), range(len(tasks))):
            chosen = picked[:, slot] == number
            total[chosen] += drawn[tasks[number], slot][chosen]
        parts[MACRO] = (tasks, total / len(tasks))
    return {
        name: (
            members,
            np.mean([whole[task] for task in members], axis=0),
            *np.quantile(resampled, [0.025, 0.975], axis=0),
            sum(sizes[task] for task in members),
        )
        for name, (members, resampled) in parts.items()
    }


def _spread(statistic, seeds, theirs):
    """Standard deviation over seeds of the estimate, references as they are; NaN for one seed."""
    if min(map(len, seeds)) < 2:
        return np.nan
    count = min(map(len, seeds))
    each = [_combine(statistic, s[:count], None if theirs is None else theirs[n]) for n, s in enumerate(seeds)]
    return float(np.mean(each, axis=0).std(ddof=1))


def macro(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the mean over tasks, or of the only task."""
    means = table["task"] == MACRO
    return table[means] if means.any() or table.empty else table[table["task"] == table["task"].iloc[0]]


def rank_correlation(x, y, pairs=None, resamples: int = 1000, seed: int = 0) -> Interval:
    """Spearman's rank correlation of two columns with its 95 % interval.

    Independent rows are resampled. Rows about pairs of models are not independent, since pairs share models: there each
    model is left out in turn (jackknife of a U-statistic, Arvesen, Ann. Math. Stat. 40, 1969), with Student's quantile for so
    few models, ends cut at -1 and 1; fewer than four models say nothing, -1 to 1.

    Args:
        x, y: ``(n,)``.
        pairs: the two models that each row is about, ``(n, 2)``; None where rows are independent of each other.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    estimate = float(spearmanr(x, y).statistic)
    if pairs is None:
        index = np.random.default_rng(seed).integers(len(x), size=(resamples, len(x)))
        drawn = [spearmanr(x[rows], y[rows]).statistic for rows in index]
        return Interval(estimate, *map(float, np.nanquantile(drawn, [0.025, 0.975])), len(x))
    pairs = np.asarray(pairs)
    models = np.unique(pairs)
    half = np.inf
    if len(models) >= 4:
        without = [(pairs != model).all(axis=1) for model in models]
        left = np.array([spearmanr(x[rows], y[rows]).statistic for rows in without])
        error = np.sqrt((len(models) - 1) / len(models) * ((left - left.mean()) ** 2).sum())
        half = t.ppf(0.975, len(models) - 1) * error
    if not np.isfinite(half):
        return Interval(estimate, -1.0, 1.0, len(x))
    return Interval(estimate, max(-1.0, estimate - half), min(1.0, estimate + half), len(x))


def over_seeds(values) -> Interval | None:
    """Mean over seeds with Student's 95 % interval; None for fewer than two."""
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return None
    half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return Interval(float(values.mean()), float(values.mean() - half), float(values.mean() + half), len(values))


def holm(p_values) -> np.ndarray:
    """Holm's step-down correction: p-values that hold however many were looked at (Holm 1979)."""
    p_values = np.asarray(p_values, dtype=float)
    order = np.argsort(p_values)
    steps = p_values[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(steps))
    return adjusted


def with_verdicts(differences: pd.DataFrame, family: list[str] = ()) -> pd.DataFrame:
    """Adds ``verdict`` to a table of differences: *better*, *worse* or *no difference seen*, after Holm's correction.

    Args:
        differences: rows with ``estimate``, ``low``, ``high`` and ``p``; rows without a p-value compare nothing.
        family: columns within whose groups p-values are corrected together; all rows where empty.
    """
    table = differences.copy()
    groups = [part.index for _, part in table.groupby(list(family), sort=False)] if family else [table.index]
    table["verdict"] = "no difference seen"
    for rows in groups:
        tested = table.loc[rows].dropna(subset=["p"])
        real = tested.index[holm(tested["p"]) < LEVEL]
        table.loc[real[table.loc[real, "low"] > 0], "verdict"] = "better"
        table.loc[real[table.loc[real, "high"] < 0], "verdict"] = "worse"
    return table
