"""The claims ledger's entries: what ``data/claims.yaml`` says is claimed, how it is tested and what would reproduce it.

A claim names *runs*, the columns of the query-level tables ``NN_queries.parquet`` (one row per task and query, nDCG@10),
or rows of a results table. A run that was repeated over seeds stands there as ``name #0``, ``name #1`` ...
"""

from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, model_validator

from ccq_utils.common import paths
from ccq_utils.common.errors import StudyError
from ccq_utils.study.stats import Interval

LEDGER = paths.ROOT / "data" / "claims.yaml"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Expectation(_Strict):
    """Where the whole interval must lie for *reproduced*: ``above`` or ``below`` a number, or ``within`` two."""

    above: float | None = None
    below: float | None = None
    within: tuple[float, float] | None = None

    @model_validator(mode="after")
    def _one(self):
        if sum(given is not None for given in (self.above, self.below, self.within)) != 1:
            raise ValueError("give one of above, below, within")
        return self

    def holds(self, interval: Interval) -> bool:
        """Whether the whole interval lies where the claim expects it."""
        if self.within:
            return self.within[0] <= interval.low and interval.high <= self.within[1]
        return interval.low > self.above if self.above is not None else interval.high < self.below

    def fails(self, interval: Interval) -> bool:
        """Whether the whole interval lies where the claim says it cannot."""
        if self.within:
            return interval.low > self.within[1] or interval.high < self.within[0]
        return interval.high < self.above if self.above is not None else interval.low > self.below

    def p(self, interval: Interval) -> float:
        """p-value of the threshold; of the nearer bound for ``within`` (two one-sided tests)."""
        if self.within:
            return max(interval.p(bound) for bound in self.within)
        return interval.p(self.above if self.above is not None else self.below)

    def __str__(self):
        if self.within:
            return f"within {self.within[0]:g} to {self.within[1]:g}"
        return f"above {self.above:g}" if self.above is not None else f"below {self.below:g}"


class Measurement(_Strict):
    """How a number is computed.

    ``difference`` and ``retention`` compare the runs ``measured`` and ``reference``; ``retention difference`` is the
    retention of ``measured`` against ``reference`` minus that of ``other`` against ``other_reference``. ``correlation``
    is Spearman's between columns ``x`` and ``y`` of ``table``, over its rows; ``pairs`` names the two columns of the models
    that a row is about, for an interval that leaves out one model at a time. ``seeds`` is the mean of column ``y`` of
    ``table`` over the rows that match ``rows``, one row per seed.
    """

    statistic: Literal["difference", "retention", "retention difference", "correlation", "seeds"]
    measured: str = ""
    reference: str = ""
    other: str = ""
    other_reference: str = ""
    table: str = ""
    x: str = ""
    y: str = ""
    pairs: list[str] = []
    rows: dict[str, str | int] = {}

    @model_validator(mode="after")
    def _complete(self):
        needed = {
            "difference": ("measured", "reference"),
            "retention": ("measured", "reference"),
            "retention difference": ("measured", "reference", "other", "other_reference"),
            "correlation": ("table", "x", "y"),
            "seeds": ("table", "y"),
        }[self.statistic]
        if missing := [key for key in needed if not getattr(self, key)]:
            raise ValueError(f"a test by {self.statistic} needs {', '.join(missing)}")
        return self

    def __str__(self):
        if self.statistic == "correlation":
            return f"Spearman of {self.x} and {self.y} in {self.table}"
        if self.statistic == "seeds":
            return f"{self.y} in {self.table}, mean over seeds"
        if self.statistic == "retention":
            return f"retention: {self.measured} over {self.reference}"
        if self.statistic == "difference":
            return f"nDCG@10: {self.measured} minus {self.reference}"
        return f"retention: {self.measured} over {self.reference}, minus {self.other} over {self.other_reference}"


class Claim(_Strict):
    """One entry of the ledger; ``why`` gives the reason for the thresholds, ``untestable`` for a missing run.

    ``partly`` is where the whole interval must lie at least for *partly*; without it, only a task of its own can earn that.
    """

    id: str
    statement: str
    source: str
    notebook: str
    test: Measurement
    reproduced: Expectation
    partly: Expectation | None = None
    why: str
    untestable: str = ""

    @property
    def expected(self) -> str:
        """The thresholds in words."""
        return f"{self.reproduced}; partly: {self.partly}" if self.partly else str(self.reproduced)


def load_ledger(path: Path = LEDGER) -> list[Claim]:
    """The claims in the file's order.

    Raises
    ------
    StudyError : the file is missing, not YAML, or an entry is malformed; the message names entry and key.
    """
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
        claims = TypeAdapter(list[Claim]).validate_python(entries)
    except FileNotFoundError as error:
        raise StudyError(f"the claims ledger {path.name} is missing; run from a whole checkout") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StudyError(f"{path.name} is not readable YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise StudyError(f"{path.name}, entry {place}: {problem['msg']}") from error
    names = [claim.id for claim in claims]
    if len(set(names)) < len(names):
        raise StudyError(
            f"{path.name} names a claim twice: {sorted({name for name in names if names.count(name) > 1})}"
        )
    return claims
