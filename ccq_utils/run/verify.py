"""Holds a run's tables and claims against the committed ones, row by row (``ccq verify``).

The same study on another machine does not give the same digits: sums are added in another order, and training amplifies
that. So each number is ``OK``, ``close`` or ``DIFFERENT`` by one rule per kind, and a row is what its worst number is:

| kind | OK | close |
| --- | --- | --- |
| score, retention, interval, other fraction | within .005 | within .02, half its interval, or 3 times its ``seed_spread`` |
| ``..loss`` | within 5 % | within 20 % |
| ``..verdict`` | equal | an end of its interval lies within .02 of the threshold, or its note names what decided |
| other finding: ``FINDINGS``, yes or no | equal | the row's numbers are OK or close |
| p-value: follows from the interval beside it | not compared | |

Above one, tolerances of scores are relative; .005 is one query in 200 whose answer leaves the top ten. Rows are matched by
their other whole numbers and texts, then by order. Dims, bits, their bytes and epochs are findings: held-out text chose them.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from ccq_utils.common import paths
from ccq_utils.common.cache import file_digest
from ccq_utils.common.errors import StudyError
from ccq_utils.common.files import check_output, write_atomically
from ccq_utils.data.profile import load_profile
from ccq_utils.run import report as run_report
from ccq_utils.study import claims

SCORE, LOSS, CLOSE = 0.005, 0.05, 4  # tolerances of a score and, as a share, a loss; times as far that is still close
FINDINGS = ["note", "shares", "dims", "bits", "epoch"]
WORDS = ("OK", "close", "DIFFERENT")


def verify(profile: str, run: Path) -> pd.DataFrame:
    """The tables in ``run/results`` against a profile's committed ones: a row per row, with the column furthest off."""
    committed, fresh = folders = paths.results_folder(profile), run / "results"
    for folder in folders:
        if not any(folder.glob("[0-9][0-9]_*.csv")):
            raise StudyError(f"no tables in {paths.shown(folder)}; run `ccq run --profile {profile}` first")
    parts = [edited(committed), recomputed(committed, load_profile(profile).bootstrap_seed)]
    for name in sorted({path.name for folder in folders for path in folder.glob("[0-9][0-9]_*.csv")}):
        table, there = Path(name).stem, [folder / name for folder in folders if (folder / name).is_file()]
        where = "the run" if there[0].parent == committed else "the committed tables"
        alone = pd.DataFrame([_row(table, "whole table", 2, f"missing from {where}")])
        parts.append(compare(*map(pd.read_csv, there), table) if len(there) == 2 else alone)
    return pd.concat(parts, ignore_index=True)


def compare(committed: pd.DataFrame, measured: pd.DataFrame, table: str, scale: float = 1.0) -> pd.DataFrame:
    """Row-by-row comparison of two versions of one table; ``scale`` widens or narrows the tolerances."""
    columns = [name for name in committed if name in measured and not re.search("(^|_)p$", name)]
    kinds = {name: {committed[name].dtype.kind, measured[name].dtype.kind} for name in columns}
    chosen = FINDINGS + ["bytes_per_vector"] * ({"dims", "bits"} <= set(columns))
    findings = [name for name in columns if name.endswith("verdict") or name in chosen or "b" in kinds[name]]
    numbers = [name for name in columns if "f" in kinds[name] and name not in findings]
    keys = [name for name in columns if name not in numbers + findings]
    left, right = (_by_label(frame, keys) for frame in (committed, measured))
    rows = []
    for label in left | right:
        found = 2, f"missing from the {'run' if label in left else 'committed table'}"
        if label in left and label in right:
            found = _compare_row(left[label], right[label], numbers, findings, scale)
        rows.append(_row(table, label[0], *found))
    return pd.DataFrame(rows)


def _row(table, about, status, column="", old=None, new=None):
    return {"table": table, "row": about, "status": WORDS[status], "column": column, "committed": old, "measured": new}


def _by_label(frame, keys):
    rows = frame.to_dict("records")
    about = pd.Series([", ".join(str(row[key]) for key in keys) for row in rows], dtype=object)
    return dict(zip(zip(about, about.groupby(about).cumcount(), strict=True), rows, strict=True))


def _compare_row(old, new, numbers, findings, scale):
    """Status, the column that decides it, and its two values."""
    worst, moved, column = 0, 0.0, ""
    for name in numbers:
        empty = pd.isna([old[name], new[name]])
        off = 0.0 if empty.all() else np.inf if empty.any() else abs(new[name] - old[name])
        value = abs(np.nan_to_num(old[name]))
        fine = scale * (max(LOSS * value, 1e-9) if name.endswith("loss") else SCORE * max(1.0, value))
        near = [CLOSE * fine, scale * np.ptp(_interval(old, name)) / 2, scale * 3 * old.get("seed_spread", np.nan)]
        status = 0 if off <= fine else 1 if off <= np.nanmax(near) else 2
        if (status, off / fine) > (worst, moved):
            worst, moved, column = status, off / fine, name
    for name in findings if worst < 2 else ():
        before, now = ("" if pd.isna(row[name]) else str(row[name]) for row in (old, new))  # a CSV keeps "" as NaN
        if before != now:
            near = not name.endswith("verdict") or _near_threshold(old, new, name)
            return 1 if near and scale >= 1 else 2, name, old[name], new[name]
    return worst, column, old.get(column), new.get(column)


def _interval(row, column):
    stem = re.sub("(_?low|_?high|_?verdict)$", "", column)
    if column == "verdict" and "difference_low" in row:  # of the difference that stands beside a retention
        stem = "difference"
    names = ["low", "high"] if stem in ("", "estimate", "measured") else [f"{stem}_low", f"{stem}_high"]
    return [row.get(name, np.nan) for name in names]


def _near_threshold(old, new, column):
    """Whether a verdict may turn: an end of its interval lies near what decides, or more than the interval decided."""
    thresholds = [float(number) for number in re.findall(r"-?\d*\.?\d+", old.get("expected", "0"))]
    ends = np.array([*_interval(old, column), *_interval(new, column)])
    near = (np.abs(ends[:, None] - thresholds) <= CLOSE * SCORE).any()
    return near or any(re.search("holds on|not hold on|Holm", str(row.get("note"))) for row in (old, new))


def edited(committed: Path) -> pd.DataFrame:
    """Whether committed tables are, byte by byte, those that the report of their run names."""
    tables = {path.name: file_digest(path) for path in committed.glob("[0-9][0-9]_*")}
    expected = run_report.read(committed).get("tables", {}).items()
    found = [(0, "") if tables.get(name) == digest else (2, "changed since its run") for name, digest in expected]
    return pd.DataFrame([_row(name, "sha256", *each) for (name, _), each in zip(expected, found, strict=True)])


def recomputed(committed: Path, seed: int = 0) -> pd.DataFrame:
    """The committed claims against verdicts computed again from the committed per-query scores."""
    if not (path := committed / run_report.CLAIMS).is_file():
        return pd.DataFrame()
    return compare(pd.read_csv(path), claims.verdicts(committed, seed=seed), f"{path.stem}, recomputed", scale=0.002)


def causes(committed: Path, fresh: Path) -> list[str]:
    """What differs between two runs beside their tables, the most telling first."""
    old, new = (run_report.read(folder) for folder in (committed, fresh))
    if not (old and new):
        return ["a run report is missing"]
    keys = ("precision", "threads", "processor", "python")
    old, new = ({**report.get("packages", {}), **{key: report.get(key) for key in keys}} for report in (old, new))
    return [f"{name} {old[name]} -> {new.get(name)}" for name in old if old[name] != new.get(name)]


def show(profile: str, run: Path) -> int:
    """``verify``, written to ``run/verify.csv``; prints what is not OK and why; returns 1 where a row is DIFFERENT."""
    check_output(run / "verify.csv", "table,row,status")
    found = verify(profile, run)
    worst, total = found[found["status"] == "DIFFERENT"], found["status"].value_counts()
    for row in worst.head(30).itertuples():
        values = "" if row.committed is None else f": committed {row.committed}, measured {row.measured}"
        print(f"DIFFERENT {row.table} [{row.row}] {row.column}{values}")
    if len(worst):
        likely = "; ".join(causes(paths.results_folder(profile), run / "results"))
        print(f"... {len(worst)} in all. Likely causes: {likely or 'none is seen in the run reports'}")
    with write_atomically(run / "verify.csv", "w") as file:
        found.to_csv(file, index=False)
    counts = ", ".join(f"{total.get(word, 0)} {word}" for word in WORDS)
    print(f"{counts}\nevery row: {paths.shown(run / 'verify.csv')}")
    return int(len(worst) > 0)
