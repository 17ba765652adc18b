"""Claims: what ``data/claims.yaml`` says is claimed and how it is tested, and verdicts computed from the tables of a run.

A claim selects rows of the per-query scores of its notebook (``NN_scores.parquet``) by their columns, or rows of a results
table. Scores of several seeds are averaged per query; how the estimate spreads over the seeds is reported.
"""

from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import pandas as pd
from pydantic import Field, TypeAdapter, ValidationError, model_validator

from ccq_utils.common import paths
from ccq_utils.common.errors import StudyError
from ccq_utils.data.profile import Strict, explained, read_yaml
from ccq_utils.study.stats import FORMULAS, LEVEL, MACRO, Interval, compare, holm, over_seeds, rank_correlation

RESAMPLES = 2000


class Expectation(Strict):
    """Where the whole interval must lie for *holds*: ``above`` or ``below`` a number, or ``within`` two."""

    above: float = -np.inf
    below: float = np.inf
    within: Annotated[tuple[float, float], Field(strict=False)] | None = None

    @model_validator(mode="after")
    def _one(self):
        if len(self.model_fields_set) != 1:
            raise ValueError("give one of above, below, within")
        return self

    @property
    def bounds(self) -> tuple[float, float]:
        """The ends between which the interval must lie; infinite where there is none."""
        return self.within or (self.above, self.below)

    def judge(self, interval: Interval) -> str:
        """*holds* where the whole interval lies where it should, *does not hold* where none of it does, else *undecided*."""
        low, high = self.bounds
        if low < interval.low and interval.high < high:
            return "holds"
        return "does not hold" if interval.high < low or high < interval.low else "undecided"

    def p(self, interval: Interval) -> float:
        """p-value of the threshold; of the nearer bound for ``within`` (two one-sided tests)."""
        return max(interval.p(bound) for bound in self.bounds if np.isfinite(bound))

    def __str__(self):
        (kind,) = self.model_fields_set
        return f"{kind} {' to '.join(f'{bound:g}' for bound in self.bounds if np.isfinite(bound))}"


class Measurement(Strict):
    """How a number is computed.

    ``difference`` and ``retention`` hold the scores that ``measured`` selects against those of ``reference`` (column ->
    value); ``retention difference`` is the retention of ``measured`` against ``reference`` minus that of ``other`` against
    ``other_reference``. ``correlation`` is Spearman's between columns ``x`` and ``y`` of ``table``; ``pairs`` names the two
    columns of the models that a row is about. ``seeds`` is the mean of column ``y`` of ``table`` over ``rows``, one a seed.
    """

    statistic: Literal["difference", "retention", "retention difference", "correlation", "seeds"]
    measured: dict[str, str | int] = {}
    reference: dict[str, str | int] = {}
    other: dict[str, str | int] = {}
    other_reference: dict[str, str | int] = {}
    table: str = ""
    x: str = ""
    y: str = ""
    pairs: list[str] = []
    rows: dict[str, str | int] = {}

    @model_validator(mode="after")
    def _complete(self):
        needed = {"retention difference": "measured reference other other_reference", "seeds": "table y"}
        needed = (needed | {"correlation": "table x y pairs"}).get(self.statistic, "measured reference")
        if missing := [key for key in needed.split() if not getattr(self, key)]:
            raise ValueError(f"a test by {self.statistic} needs {', '.join(missing)}")
        return self

    @property
    def selections(self) -> list[dict]:
        """What is selected from the per-query scores."""
        return [found for found in (self.measured, self.reference, self.other, self.other_reference) if found]

    def __str__(self):
        if self.table:
            named = f"Spearman of {self.x} and {self.y} in {self.table}", f"{self.y} in {self.table}, mean over seeds"
            return named[not self.x]
        names = [", ".join(f"{key} {value}" for key, value in chosen.items()) for chosen in self.selections]
        names = [name.replace("method ", "", 1) for name in names]
        if self.statistic == "difference":
            return f"nDCG@10: {names[0]} minus {names[1]}"
        return "retention: " + ", minus ".join(map(" over ".join, zip(names[::2], names[1::2], strict=True)))


class Claim(Strict):
    """One entry of the ledger.

    ``setting`` says what is measured: concat or weighted concat, queries, scoring, dims x bits, fitted on what. ``why`` gives
    the reason for the threshold, ``untestable`` for a missing run.
    """

    id: str
    statement: str
    source: str
    notebook: str
    setting: str
    test: Measurement
    holds: Expectation
    why: str
    untestable: str = ""


def load_claims(path: Path = paths.ROOT / "data" / "claims.yaml") -> list[Claim]:
    """The claims in the file's order."""
    try:
        return TypeAdapter(list[Claim]).validate_python(read_yaml(path, path.name))
    except ValidationError as error:
        raise StudyError(f"{path.name}: {explained(error)}") from error


class Ruling(NamedTuple):
    """What came out for one claim: the interval over tasks and queries, one per task, the seeds' spread, the verdict."""

    claim: Claim
    interval: Interval | None
    by_task: dict[str, Interval]
    seeds: int
    spread: float
    verdict: str
    note: str


def read_scores(results: Path, notebook: str) -> pd.DataFrame:
    """The per-query scores that a notebook (its number or name) recorded; empty where it has not run."""
    path = results / f"{notebook[:2]}_scores.parquet"
    return pd.read_parquet(path) if path.is_file() else pd.DataFrame(columns=["task", "query", "seed", "score"])


def rule(results: Path, claims: list[Claim], seed: int = 0) -> list[Ruling]:
    """Judge claims by the tables in a results folder; Holm's correction is within the claims of one notebook."""
    scores = {notebook: read_scores(results, notebook) for notebook in {claim.notebook for claim in claims}}
    measured = [_measure(claim, results, scores[claim.notebook], seed) for claim in claims]
    p_values = [claim.holds.p(found[0]) if found[0] else np.nan for claim, found in zip(claims, measured, strict=True)]
    notebooks = pd.Series([claim.notebook for claim in claims])
    corrected = pd.Series(p_values, dtype=float).dropna().groupby(notebooks).transform(holm)
    family = notebooks[corrected.index].value_counts()
    return [
        Ruling(claim, *found, *_verdict(claim, *found[:2], corrected.get(number, 1.0), family.get(claim.notebook, 1)))
        for number, (claim, found) in enumerate(zip(claims, measured, strict=True))
    ]


def _verdict(claim, interval, by_task, p, family):
    """*holds*, *does not hold* (the interval contradicts), *undecided* or *partly*, and a note that says on what.

    The mean counts where Holm's p-value does, or all tasks do; a task where it would among all tasks of all ``family`` claims
    (Bonferroni).
    """
    if interval is None:
        return "not testable here", claim.untestable or "its run is not in the tables"
    expects, judged = claim.holds, claim.holds.judge(interval)
    mean = judged if p < LEVEL else "undecided"
    sure = {task: one for task, one in by_task.items() if expects.p(one) * len(by_task) * family < LEVEL}
    on, off = ([task for task in sure if expects.judge(sure[task]) == word] for word in ("holds", "does not hold"))
    if by_task and len({"holds": on, "does not hold": off}.get(judged, ())) == len(by_task):
        mean = judged
    notes = [f"{word} on {', '.join(tasks)}" for word, tasks in (("holds", on), ("does not hold", off)) if tasks]
    notes += ["mean not after Holm's correction"] * (judged != mean)
    if (on and mean != "holds") or (off and mean == "holds"):
        return "partly", "; ".join(notes)
    return mean, "; ".join(notes) if mean == "undecided" else ""


def _measure(claim, results, scores, seed):
    test, nothing = claim.test, (None, {}, 0, np.nan)
    if test.table:
        path = results / f"{test.table}.csv"
        if not path.is_file():
            return nothing
        table = _matching(pd.read_csv(path), test.rows)
        if test.statistic == "correlation":
            return rank_correlation(table[test.x], table[test.y], table[test.pairs]), {}, 1, np.nan
        interval = over_seeds(table[test.y])
        return (interval, {}, len(table), table[test.y].std()) if interval else nothing
    runs = [_select(scores, chosen, claim.id) for chosen in test.selections]
    if any(run.empty for run in runs):
        return nothing
    if any(not run.index.equals(runs[0].index) for run in runs):
        raise StudyError(f"claim {claim.id}: what it compares was not scored on the same queries")
    tasks = runs[0].index.unique("task")
    runs = [{task: run.loc[task].to_numpy(float) for task in tasks} for run in runs]
    intervals = compare(FORMULAS[test.statistic], runs, RESAMPLES, seed)
    interval, spread = intervals.pop(MACRO, None) or intervals[tasks[0]]
    seeds = max(one.shape[1] for run in runs for one in run.values())
    return interval, {task: found for task, (found, _) in intervals.items()}, seeds, spread


def _matching(table, chosen):
    for column, value in chosen.items():
        table = table[table[column] == value]
    return table


def _select(scores, chosen, claim):
    """The rows whose columns have the chosen values: index (task, query), a column per seed."""
    if not set(chosen) <= set(scores.columns):
        return pd.DataFrame()
    rows = _matching(scores, chosen)
    if rows.duplicated(["task", "query", "seed"]).any():
        raise StudyError(f"claim {claim}: {chosen} selects more than one run; name further columns")
    return rows.pivot(index=["task", "query"], columns="seed", values="score")


def verdicts(results: Path, first: str = "01", last: str = "99", seed: int = 0) -> pd.DataFrame:
    """One row per claim whose runs notebooks ``first`` to ``last`` made: interval, seeds, threshold, verdict, note."""
    rows = []
    claims = [claim for claim in load_claims() if first <= claim.notebook[:2] <= last]
    for claim, interval, _, seeds, spread, verdict, note in rule(results, claims, seed):
        interval = interval or Interval(np.nan, np.nan, np.nan, 0)
        row = {"claim": claim.id, "statement": claim.statement, "tested": str(claim.test), "setting": claim.setting}
        row |= {"measured": interval.estimate, "low": interval.low, "high": interval.high, "expected": str(claim.holds)}
        row |= {"seeds": seeds, "seed_spread": spread, "queries": interval.queries, "verdict": verdict, "note": note}
        rows.append(row)
    return pd.DataFrame(rows)


def by_task(results: Path, seed: int = 0) -> pd.DataFrame:
    """One row per claim and task: the number with its interval over that task's queries."""
    rulings = rule(results, load_claims(), seed)
    rows = [(ruling.claim.id, task, *interval[:4]) for ruling in rulings for task, interval in ruling.by_task.items()]
    return pd.DataFrame(rows, columns=["claim", "task", *Interval._fields[:4]])


def in_brief(table: pd.DataFrame):
    """A claims table as a notebook shows it: what was claimed, measured and found; the rest stands in the CSV."""
    ends = zip(table["measured"], table["low"], table["high"], strict=True)
    measured = [f"{value:.3f} [{low:.3f}, {high:.3f}]" if value == value else "" for value, low, high in ends]
    verdict = table["verdict"] + table["note"].where(table["note"] == "", " (" + table["note"] + ")")
    table = table.assign(measured=measured, verdict=verdict)
    return table[["claim", "statement", "setting", "measured", "expected", "verdict"]].style.hide()
