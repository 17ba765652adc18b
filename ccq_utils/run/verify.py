"""Holds a run's tables and claims against the committed ones, row by row (``ccq verify``).

The same study on another machine does not give the same digits: sums are added in another order, and training amplifies
that. So each number is ``OK``, ``close`` or ``DIFFERENT`` by one rule per kind, and a row is what its worst number is:

| kind | OK | close |
| --- | --- | --- |
| whole number, text | equal | - |
| score, retention, end of an interval, any other fraction | within .005 | within .02, or half its interval's width |
| ``..loss`` | within 5 % | within 20 % |
| ``..verdict`` | equal | an end of its interval lies within .02 of the threshold, or its note names what decided |
| other finding: ``FINDINGS``, yes or no | equal | the row's numbers are OK or close |
| time, memory, speed: columns like ``TIMES`` | not compared | |
| p-value: follows from the interval beside it | not compared | |

Above one, tolerances of scores are relative. .005 is one query in 200 whose answer leaves the top ten. Rows are matched by
their whole numbers and texts; where one of these changed, a row is missing.
"""

import hashlib
import re
from pathlib import Path

import numpy as np
import pandas as pd

from ccq_utils.common import paths
from ccq_utils.common.errors import StudyError
from ccq_utils.run import report as run_report
from ccq_utils.study import claims

SCORE, LOSS, CLOSE = 0.005, 0.05, 4
"""Tolerances of a score and, as a share, of a loss; how many times as far is still close."""
TIMES = re.compile(r"seconds|minutes|hours|per_second|speed|times_as_fast|megabytes|gigabytes|memory|ratio|floor")
P_VALUE = re.compile(r"(^|_)p$")
FINDINGS = ["note", "better_fitted_on", "best_other", "better_than_ours", "better_elsewhere", "weights"]
DECIDED_ELSEWHERE = re.compile("only on|not on|Holm")
"""Notes of claims whose verdict hangs on more than the interval in their row."""
WORDS = ("OK", "close", "DIFFERENT")
SHOWN = 30


def verify(profile: str, run: Path) -> pd.DataFrame:
    """Compare the tables in ``run/results`` with the committed ones of a profile.

    Returns:
        One row per table row: ``table``, ``row`` (what it is about), ``status``, ``column`` (the one furthest off),
        ``committed``, ``measured``.

    Raises:
        StudyError: There are no committed tables of the profile, or none in the run.
    """
    committed, fresh = paths.results_folder(profile), run / "results"
    for folder in (committed, fresh):
        if not list(folder.glob("[0-9][0-9]_*.csv")):
            raise StudyError(f"no tables in {paths.shown(folder)}; run `ccq run --profile {profile}` first")
    parts = [edited(committed), recomputed(committed)]
    names = {path.name for folder in (committed, fresh) for path in folder.glob("[0-9][0-9]_*.csv")}
    for name in sorted(names):
        left, right = committed / name, fresh / name
        if left.is_file() and right.is_file():
            parts.append(compare(pd.read_csv(left), pd.read_csv(right), left.stem))
        else:
            where = "the run" if left.is_file() else "the committed tables"
            parts.append(pd.DataFrame([_row(left.stem, "whole table", 2, f"missing from {where}")]))
    return pd.concat(parts, ignore_index=True)


def compare(committed: pd.DataFrame, measured: pd.DataFrame, table: str, scale: float = 1.0) -> pd.DataFrame:
    """Row-by-row comparison of two versions of one table; ``scale`` widens or narrows the tolerances."""
    columns = [name for name in committed if name in measured and not (TIMES.search(name) or P_VALUE.search(name))]
    kinds = {name: {committed[name].dtype.kind, measured[name].dtype.kind} for name in columns}
    findings = [name for name in columns if name.endswith("verdict") or name in FINDINGS or "b" in kinds[name]]
    numbers = [name for name in columns if "f" in kinds[name] and name not in findings]
    keys = [name for name in columns if name not in numbers + findings]
    left, right = (_by_label(frame, keys) for frame in (committed, measured))
    rows = []
    for label in dict.fromkeys([*left, *right]):
        about = ", ".join(label[:-1])
        if label in left and label in right:
            rows.append(_compare_row(table, about, left[label], right[label], numbers, findings, scale))
        else:
            rows.append(_row(table, about, 2, f"missing from the {'run' if label in left else 'committed table'}"))
    return pd.DataFrame(rows)


def _by_label(frame, keys):
    """Rows by what they are about; the last part of a label counts rows that are about the same."""
    seen, rows = {}, {}
    for row in frame.to_dict("records"):
        about = tuple(str(row[key]) for key in keys)
        seen[about] = seen.get(about, 0) + 1
        rows[*about, str(seen[about])] = row
    return rows


def _compare_row(table, about, old, new, numbers, findings, scale):
    worst, moved, column = 0, 0.0, ""
    for name in numbers:
        off, (fine, close) = _distance(old[name], new[name]), _tolerance(old, name, scale)
        status = 0 if off <= fine else 1 if off <= close else 2
        if (status, off / fine) > (worst, moved):
            worst, moved, column = status, off / fine, name
    for name in findings if worst < 2 else ():
        if _word(old[name]) != _word(new[name]):
            near = not name.endswith("verdict") or _near_threshold(old, new, name)
            return _row(table, about, 1 if near and scale >= 1 else 2, name, old[name], new[name])
    return _row(table, about, worst, column, old.get(column), new.get(column))


def _tolerance(row, column, scale):
    value = abs(np.nan_to_num(row[column]))
    fine = scale * (max(LOSS * value, 1e-9) if column.endswith("loss") else SCORE * max(1.0, value))
    low, high = _interval(row, column)
    return fine, np.fmax(CLOSE * fine, scale * (high - low) / 2)


def _interval(row, column):
    """The interval that a number or verdict belongs to; NaN where it has none of its own."""
    stem = re.sub("(_?low|_?high|_?verdict)$", "", column)
    if column == "verdict" and "difference_low" in row:  # of the difference that stands beside a retention
        stem = "difference"
    names = ["low", "high"] if stem in ("", "estimate", "measured") else [f"{stem}_low", f"{stem}_high"]
    return [row.get(name, np.nan) for name in names]


def _near_threshold(old, new, column):
    """Whether a verdict may turn: an end of its interval lies near what decides, here or in the other run."""
    if any(DECIDED_ELSEWHERE.search(_word(row.get("note", ""))) for row in (old, new)):
        return True
    thresholds = [float(number) for number in re.findall(r"-?\d*\.?\d+", old.get("expected", "0"))]
    ends = np.array([*_interval(old, column), *_interval(new, column)])
    return bool((np.abs(ends[:, None] - thresholds) <= CLOSE * SCORE).any())


def _word(value):
    return "" if pd.isna(value) else str(value)  # an empty note comes back from a CSV as NaN


def _distance(old, new):
    if pd.isna(old) or pd.isna(new):
        return 0.0 if pd.isna(old) and pd.isna(new) else np.inf
    return abs(new - old)


def _row(table, about, status, column="", old=None, new=None):
    return {"table": table, "row": about, "status": WORDS[status], "column": column, "committed": old, "measured": new}


def edited(committed: Path) -> pd.DataFrame:
    """Whether committed tables are, byte by byte, those that the report of their run names."""
    rows = []
    for name, digest in run_report.read(committed).get("tables", {}).items():
        path = committed / name
        same = path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest
        rows.append(_row(name, "sha256", 0 if same else 2, "" if same else "changed since its run"))
    return pd.DataFrame(rows)


def recomputed(committed: Path) -> pd.DataFrame:
    """The committed claims against verdicts computed again from the committed per-query scores."""
    path = committed / run_report.CLAIMS
    if not path.is_file():
        return pd.DataFrame()
    return compare(pd.read_csv(path), claims.verdicts(committed), f"{path.stem}, recomputed", scale=0.002)


def causes(committed: Path, fresh: Path) -> list[str]:
    """What differs between two runs beside their tables, the most telling first."""
    old, new = (run_report.read(folder) for folder in (committed, fresh))
    if not (old and new):
        return ["a run report is missing"]
    packages = {name: (version, new.get("packages", {}).get(name)) for name, version in old.get("packages", {}).items()}
    found = [f"{name} {before} -> {now}" for name, (before, now) in packages.items() if before != now]
    keys = ("precision", "threads", "processor", "python")
    return found + [f"{key} {old.get(key)} -> {new.get(key)}" for key in keys if old.get(key) != new.get(key)]


def show(found: pd.DataFrame, likely: list[str]) -> int:
    """Print what is not OK, likely causes and counts; returns 1 where a row is DIFFERENT, else 0."""
    worst, total = found[found["status"] == "DIFFERENT"], found["status"].value_counts()
    for row in worst.head(SHOWN).itertuples():
        values = "" if row.committed is None else f": committed {row.committed}, measured {row.measured}"
        print(f"DIFFERENT {row.table} [{row.row}] {row.column}{values}")
    if len(worst):
        print(f"... {len(worst)} in all. Likely causes: {'; '.join(likely) or 'none is seen in the run reports'}")
    print(", ".join(f"{total.get(word, 0)} {word}" for word in WORDS))
    return int(bool(len(worst)))
