"""Estimates with intervals from per-query scores: one long table in, one row per group and task out."""

from functools import lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import sem, spearmanr, t

from ccq_utils.common.errors import StudyError

MACRO = "macro mean"  # what the column ``task`` says of the mean over tasks
LEVEL = 0.05  # what a corrected p-value must stay below for a difference to be called real
FORMULAS = {
    "retention": lambda ours, theirs: np.divide(ours, theirs),
    "difference": lambda ours, theirs: ours - theirs,
    "mean": lambda ours: ours,
    "retention difference": lambda a, b, c, d: np.divide(a, b) - np.divide(c, d),
}


class Interval(NamedTuple):
    """An estimate, the ends of its 95 % interval, the number of queries behind it, and its degrees of freedom if few."""

    estimate: float
    low: float
    high: float
    queries: int
    df: float = np.inf

    def p(self, value: float = 0.0) -> float:
        """Two-sided p-value of ``value`` by Student's distribution, as wide as the interval; of no width: 0 or 1."""
        half = max(self.high - self.estimate, self.estimate - self.low)  # one end may be cut
        half = half if np.isfinite(self.df) else (self.high - self.low) / 2
        if half == 0:
            return float(self.estimate == value)
        return float(2 * t.sf(abs(self.estimate - value) / half * t.ppf(0.975, self.df), self.df))


@lru_cache(maxsize=32)
def resample_weights(queries: int, resamples: int, seed: int, slot: int = 0) -> np.ndarray:
    """How much each query weighs in each bootstrap resample, ``(resamples, queries) float32``, rows add up to one."""
    drawn = np.random.default_rng([seed, queries, slot]).multinomial(queries, np.full(queries, 1 / queries), resamples)
    return drawn.astype(np.float32) / queries


def summarise(
    scores: pd.DataFrame, by: list[str], reference=None, statistic: str = "retention", resamples=1000, seed=0
) -> pd.DataFrame:
    """One row per group and task, and one for the mean over tasks where a group has several, with bootstrap intervals.

    ``scores`` is a long table with ``task``, ``query``, ``seed``, ``score`` and the columns of ``by``, which tell groups
    apart; scores of several seeds are averaged per query. Groups are held against the long table ``reference``, query by
    query; a column of ``by`` that it has as well must agree; None for the mean score itself. ``statistic`` is ``retention``
    (ratio of the means), ``difference`` (of the means) or ``mean`` (no reference).

    Returns ``task``, the columns of ``by``, ``ndcg_at_10`` (the mean score), those of ``Interval``, ``seed_spread`` (standard
    deviation of the estimate over seeds, NaN where there is one) and, for differences, ``p``.
    """
    formula = FORMULAS.get("mean" if reference is None else statistic)
    if formula is None:
        raise StudyError(f"unknown statistic {statistic!r}; accepted: {', '.join(FORMULAS)}")
    shared = [] if reference is None else [column for column in by if column in reference]
    references, rows = {} if reference is None else _groups(reference, shared), []
    for key, ours in _groups(scores, by).items():
        runs, agrees = [ours], tuple(key[by.index(column)] for column in shared)
        if reference is not None:
            if agrees not in references:
                raise StudyError(f"the reference has no scores for {agrees}")
            runs.append({task: _paired(task, one, references[agrees]) for task, one in ours.items()})
        found = compare(formula, [{task: one.to_numpy() for task, one in run.items()} for run in runs], resamples, seed)
        for name, (interval, spread) in found.items():
            mean = np.mean([one.to_numpy().mean() for task, one in ours.items() if name in (task, MACRO)])
            row = {"task": name, **dict(zip(by, key, strict=True)), "ndcg_at_10": mean}
            row |= dict(zip(Interval._fields[:4], interval, strict=False))
            row["seed_spread"] = spread
            rows.append(row | ({"p": interval.p()} if statistic == "difference" and runs[1:] else {}))
    return pd.DataFrame(rows)


def _groups(scores, by):
    """Group -> task -> a row per query and a column per seed."""
    found = {}
    for (task, *key), rows in scores.groupby(["task", *by], sort=False, observed=True):
        table = rows.pivot(index="query", columns="seed", values="score").astype(float)
        if len(table) < 2:
            raise StudyError(f"task {task!r}: an interval needs at least two queries")
        found.setdefault(tuple(key), {})[task] = table
    return found


def _paired(task, ours, references):
    """The reference on the same queries, its seeds averaged."""
    if task not in references or len(ours.index.difference(references[task].index)):
        raise StudyError(f"task {task!r}: a paired interval needs the same queries on both sides")
    return references[task].loc[ours.index].mean(axis=1).to_frame()


def compare(formula, runs: list[dict[str, np.ndarray]], resamples: int, seed: int) -> dict[str, tuple[Interval, float]]:
    """A formula of the runs' mean scores, per task and as ``MACRO`` (where there are several) its mean over tasks.

    The interval of the mean over tasks draws the tasks with replacement, then queries within each drawn one (hierarchical
    bootstrap). It is too narrow to speak of all tasks like these where they are few: notebook 00 shows by how much.

    Each run is task -> scores ``(queries, seeds)`` of the same queries. Returns task -> percentile interval, standard
    deviation over seeds (NaN where there is one).
    """
    means = {task: [run[task].mean(axis=1) for run in runs] for task in runs[0]}
    tasks = list(means)

    def draw(task, slot, which=slice(None)):
        weights = resample_weights(len(means[task][0]), resamples, seed, slot)[which]
        return formula(*(weights @ np.column_stack(means[task])).T)

    parts = {task: ([task], draw(task, 0)) for task in tasks}
    if len(tasks) > 1:
        picked = np.random.default_rng([seed, len(tasks)]).integers(len(tasks), size=(resamples, len(tasks)))
        drawn = np.empty(picked.shape)
        for (slot, picks), (number, task) in product(enumerate(picked.T), enumerate(tasks)):
            drawn[picks == number, slot] = draw(task, slot, picks == number)
        parts[MACRO] = (tasks, drawn.mean(axis=1))
    found = {}
    for name, (members, resampled) in parts.items():
        estimate = np.mean([formula(*(each.mean() for each in means[task])) for task in members])
        queries = sum(len(means[task][0]) for task in members)
        seeds = [
            np.mean([formula(*(run[task][:, number % run[task].shape[1]].mean() for run in runs)) for task in members])
            for number in range(max(run[task].shape[1] for run in runs for task in members))
        ]
        interval = Interval(float(estimate), *map(float, np.quantile(resampled, [0.025, 0.975])), queries)
        found[name] = interval, float(np.std(seeds, ddof=1)) if len(seeds) > 1 else np.nan
    return found


def macro(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the mean over tasks, or of the only task."""
    means = table["task"] == MACRO
    return table[means] if means.any() or table.empty else table[table["task"] == table["task"].iloc[0]]


def rank_correlation(x, y, pairs) -> Interval:
    """Spearman's rank correlation of two columns, each row of which is about two models, with its 95 % interval.

    Rows share models, so each model is left out in turn (jackknife of a U-statistic, Arvesen, Ann. Math. Stat. 40, 1969);
    Student's quantile for so few models, ends cut at -1 and 1; fewer than four models say nothing, -1 to 1.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    estimate = float(spearmanr(x, y).statistic)
    pairs, models, half = np.asarray(pairs), np.unique(pairs), np.inf
    if len(models) >= 4:
        without = [(pairs != model).all(axis=1) for model in models]
        left = np.array([spearmanr(x[rows], y[rows]).statistic for rows in without])
        error = np.sqrt((len(models) - 1) / len(models) * ((left - left.mean()) ** 2).sum())
        half = t.ppf(0.975, len(models) - 1) * error
    return Interval(estimate, max(-1.0, estimate - half), min(1.0, estimate + half), len(x), len(models) - 1)


def over_seeds(values) -> Interval | None:
    """Mean over seeds with Student's 95 % interval (not scipy's, NaN for no spread); None for fewer than two."""
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return None
    mean, half = float(values.mean()), float(t.ppf(0.975, len(values) - 1) * sem(values))
    return Interval(mean, mean - half, mean + half, len(values), len(values) - 1)


def holm(p_values) -> np.ndarray:
    """Holm's step-down correction (Holm 1979): p-values that hold however many were looked at; NaN stays, uncounted."""
    p_values = np.asarray(p_values, dtype=float)
    order = np.argsort(p_values)  # NaN comes last
    steps = p_values[order] * (np.arange(len(p_values), 0, -1) - np.isnan(p_values).sum())
    return np.minimum(1, np.maximum.accumulate(steps))[np.argsort(order)]


def with_verdicts(differences: pd.DataFrame, family: list[str] = ()) -> pd.DataFrame:
    """Adds ``verdict`` to a table of differences: *better*, *worse* or *no difference seen*, after Holm's correction.

    p-values are corrected together within groups by columns ``family`` (else in all rows); a row without compares nothing.
    """
    groups = [differences[column] for column in family] or np.zeros(len(differences))
    real = differences["p"].groupby(groups).transform(holm) < LEVEL
    found = [real & (differences["low"] > 0), real & (differences["high"] < 0)]
    return differences.assign(verdict=np.select(found, ["better", "worse"], "no difference seen"))
