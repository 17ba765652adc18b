"""Verdicts on the claims, computed from the tables of a run and never typed.

Scores of a run that was repeated over seeds are averaged per query; how the estimate spreads over the seeds is reported.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import t

from ccq_utils.study.claims import Claim, load_ledger
from ccq_utils.study.stats import LEVEL, Interval, holm, macro_interval, rank_correlation

VERDICTS = ("reproduced", "partly", "not reproduced", "not testable here")
RESAMPLES = 2000


@dataclass(frozen=True)
class Ruling:
    """What came out for one claim: the interval over tasks and queries, one per task, the seeds' spread, the verdict."""

    claim: Claim
    interval: Interval | None
    by_task: dict[str, Interval]
    seeds: int
    spread: float
    verdict: str
    note: str


def read_queries(results: Path) -> pd.DataFrame:
    """All query-level tables of a run side by side: index (task, query), one column per run."""
    parts = [
        pd.read_parquet(path).set_index(["task", "query"])
        for path in sorted(results.glob("[0-9][0-9]_queries.parquet"))
    ]
    return pd.concat(parts, axis=1) if parts else pd.DataFrame()


def rule(results: Path, claims: list[Claim], seed: int = 0) -> list[Ruling]:
    """Judge claims by the tables in a results folder.

    p-values are corrected (Holm) within the claims of one notebook, so that a verdict is the same in every table.
    """
    queries = read_queries(results)
    measured = [_measure(claim, results, queries, seed) for claim in claims]
    p_values = np.ones(len(claims))
    for notebook in {claim.notebook for claim in claims}:
        family = [
            index
            for index, (claim, found) in enumerate(zip(claims, measured, strict=True))
            if claim.notebook == notebook and found[0] is not None
        ]
        p_values[family] = holm([claims[index].reproduced.p(measured[index][0]) for index in family])
    return [_rule(claim, found, p) for claim, found, p in zip(claims, measured, p_values, strict=True)]


def _rule(claim, found, p):
    interval, by_task, seeds, spread = found
    if interval is None:
        return Ruling(
            claim, None, {}, 0, np.nan, "not testable here", claim.untestable or "its run is not in the tables"
        )
    expects = claim.reproduced
    against = [task for task, one in by_task.items() if expects.fails(one)]
    supports = [task for task, one in by_task.items() if expects.holds(one)]
    if expects.holds(interval) and p < LEVEL and not against:
        return Ruling(claim, interval, by_task, seeds, spread, "reproduced", "")
    if expects.holds(interval):
        note = f"not on {', '.join(against)}" if against else "not after Holm's correction"
        return Ruling(claim, interval, by_task, seeds, spread, "partly", note)
    if claim.partly and claim.partly.holds(interval):
        return Ruling(claim, interval, by_task, seeds, spread, "partly", f"lies {claim.partly}")
    if supports and not expects.fails(interval):
        return Ruling(claim, interval, by_task, seeds, spread, "partly", f"only on {', '.join(supports)}")
    note = "no difference seen" if 0 in (expects.above, expects.below) else "the interval holds the threshold"
    if expects.within:
        note = "the interval reaches past the margin"
    if expects.fails(interval):
        note = ""
    return Ruling(claim, interval, by_task, seeds, spread, "not reproduced", note)


def _measure(claim, results, queries, seed):
    test = claim.test
    if test.statistic in ("correlation", "seeds"):
        path = results / f"{test.table}.csv"
        if not path.is_file():
            return None, {}, 0, np.nan
        table = pd.read_csv(path)
        for column, value in test.rows.items():
            table = table[table[column] == value]
        if test.statistic == "correlation":
            pairs = table[test.pairs] if test.pairs else None
            return rank_correlation(table[test.x], table[test.y], pairs, RESAMPLES, seed), {}, 1, np.nan
        return _over_seeds(table[test.y].to_numpy())
    runs = [name for name in (test.measured, test.reference, test.other, test.other_reference) if name]
    columns = [_columns(queries, name) for name in runs]
    if not all(columns):
        return None, {}, 0, np.nan
    seeds = max(len(found) for found in columns)
    scores = [queries[found].mean(axis=1) for found in columns]
    tasks = list(queries.index.unique("task"))
    value = _statistic(test.statistic, [[run[task].to_numpy(float) for task in tasks] for run in scores])
    sizes = [len(scores[0][task]) for task in tasks]
    interval = macro_interval(value, sizes, RESAMPLES, seed, resample_tasks=True)
    by_task = {
        task: macro_interval(lambda _, index, task=number: value(task, index), [sizes[number]], RESAMPLES, seed)
        for number, task in enumerate(tasks)
    }
    return interval, by_task, seeds, _spread(test.statistic, queries, columns, tasks, seeds)


def _columns(queries, name):
    """The columns of a run: itself, or its seeds."""
    return [column for column in queries.columns if column == name or column.rpartition(" #")[0] == name]


def _statistic(statistic, runs):
    def value(task, index):
        means = [run[task][index].mean(axis=-1) for run in runs]
        if statistic == "difference":
            return means[0] - means[1]
        retention = means[0] / means[1]
        return retention if statistic == "retention" else retention - means[2] / means[3]

    return value


def _spread(statistic, queries, columns, tasks, seeds):
    """Standard deviation over seeds of the macro estimate; NaN where nothing was repeated."""
    if seeds < 2:
        return np.nan
    estimates = []
    for number in range(seeds):
        chosen = [queries[found[number] if len(found) > 1 else found[0]] for found in columns]
        value = _statistic(statistic, [[run[task].to_numpy(float) for task in tasks] for run in chosen])
        everything = [np.arange(len(chosen[0][task])) for task in tasks]
        estimates.append(np.mean([value(task, index) for task, index in enumerate(everything)]))
    return float(np.std(estimates, ddof=1))


def _over_seeds(values):
    """Mean over seeds with Student's interval."""
    if len(values) < 2:
        return None, {}, 0, np.nan
    half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    interval = Interval(values.mean(), values.mean() - half, values.mean() + half, len(values))
    return interval, {}, len(values), float(values.std(ddof=1))


def claims_table(rulings: list[Ruling]) -> pd.DataFrame:
    """One row per claim: number, interval over tasks and queries, seeds, threshold, verdict and a note."""
    rows = []
    for ruling in rulings:
        interval = ruling.interval or Interval(np.nan, np.nan, np.nan, 0)
        rows.append(
            {
                "claim": ruling.claim.id,
                "statement": ruling.claim.statement,
                "tested": str(ruling.claim.test),
                "measured": interval.estimate,
                "low": interval.low,
                "high": interval.high,
                "expected": ruling.claim.expected,
                "seeds": ruling.seeds,
                "seed_spread": ruling.spread,
                "queries": interval.queries,
                "verdict": ruling.verdict,
                "note": ruling.note,
            }
        )
    return pd.DataFrame(rows)


def by_task_table(rulings: list[Ruling]) -> pd.DataFrame:
    """One row per claim and task: the number with its interval over that task's queries."""
    rows = [
        {"claim": ruling.claim.id, "task": task, **interval._asdict()}
        for ruling in rulings
        for task, interval in ruling.by_task.items()
    ]
    return pd.DataFrame(rows, columns=["claim", "task", "estimate", "low", "high", "queries"])


def verdicts(results: Path, first: str = "01", last: str = "99", seed: int = 0) -> pd.DataFrame:
    """``claims_table`` of the claims whose runs notebooks number ``first`` to ``last`` made, judged from a results folder."""
    chosen = [claim for claim in load_ledger() if first <= claim.notebook[:2] <= last]
    return claims_table(rule(results, chosen, seed))


def by_task(results: Path, seed: int = 0) -> pd.DataFrame:
    """``by_task_table`` of all claims, judged from a results folder."""
    return by_task_table(rule(results, load_ledger(), seed))


def shown(table: pd.DataFrame):
    """A claims table as a notebook shows it: what was claimed, measured and found; the rest stands in the CSV."""
    columns = ["claim", "statement", "measured", "low", "high", "expected", "seeds", "verdict", "note"]
    return table[columns].style.hide().format(precision=3, na_rep="")
