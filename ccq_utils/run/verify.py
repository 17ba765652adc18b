"""Holds a run's tables and claims against the committed ones, row by row (``ccq verify``).

Each row is ``OK`` (every number within its tolerance), ``close`` (within three times it, or a verdict that turned because
its number did so near a threshold) or ``DIFFERENT``. How far a number may move is the subject of ``tolerances``. Tables of
notebook 08 hold times, which are another machine's own, and are left out.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd

from ccq_utils.common import paths
from ccq_utils.common.errors import StudyError
from ccq_utils.run import report as run_report
from ccq_utils.run.tolerances import allowed, is_p_value, read_spread
from ccq_utils.study import ledger
from ccq_utils.study.stats import LEVEL

FINDINGS = (
    "verdict",
    "note",
    "reached",
    "supported",
    "better_fitted_on",
    "best_other",
    "better_than_ours",
    "better_elsewhere",
    "weights",
)
"""Columns of words that follow from numbers, and may turn where a number moves within its tolerance."""
TIMINGS = ("08_",)
"""How the names of tables begin whose numbers are seconds of one machine, or follow from them: they are not compared."""
CLOSE = 3.0
WORDS = ("OK", "close", "DIFFERENT")
SHOWN = 12
"""Rows that are printed when many differ; all are in the report."""


def verify(profile: str, run: Path) -> pd.DataFrame:
    """Compare the tables in ``run/results`` with the committed ones of a profile.

    Returns
    -------
    One row per table row: ``table``, ``row`` (what it is about), ``status``, ``column`` (the one furthest off),
    ``committed``, ``measured``, ``difference``, ``cause`` (the most likely one; empty where the row is OK).

    Raises
    ------
    StudyError : there are no committed tables of the profile, or none in the run.
    """
    committed, fresh = paths.results_folder(profile), run / "results"
    for folder in (committed, fresh):
        if not list(folder.glob("[0-9][0-9]_*.csv")):
            raise StudyError(f"no tables in {run_report.shown(folder)}; run `ccq run --profile {profile}` first")
    spread = read_spread()
    parts = [_edited(committed), _recomputed(committed)]
    names = {path.name for folder in (committed, fresh) for path in folder.glob("[0-9][0-9]_*.csv")}
    for name in sorted(name for name in names if not name.startswith(TIMINGS)):
        left, right = committed / name, fresh / name
        if left.is_file() and right.is_file():
            parts.append(compare(pd.read_csv(left), pd.read_csv(right), left.stem, spread))
        else:
            where = "the run" if left.is_file() else "the committed tables; `ccq publish` it"
            parts.append(pd.DataFrame([_row(left.stem, "whole table", 2, f"table is missing from {where}")]))
    found = pd.concat(parts, ignore_index=True)
    return found.assign(cause=_causes(found, committed, fresh))


def compare(committed: pd.DataFrame, measured: pd.DataFrame, table: str, spread: pd.DataFrame | float) -> pd.DataFrame:
    """Row-by-row comparison of two versions of one table; rows are matched by their columns that are no measurements.

    Parameters
    ----------
    spread : what ``tolerances.read_spread`` gives, or one relative tolerance for all columns
    """
    numbers, words, left, right = _matched(committed, measured)
    may_move = dict(zip(left, _by_row(committed, numbers, table, spread), strict=True))
    rows = []
    for label in dict.fromkeys([*left, *right]):
        about = ", ".join(label[:-1])
        if label in left and label in right:
            rows.append(_compare_row(table, about, left[label], right[label], may_move[label], words))
        else:
            where = "run" if label in left else "committed table"
            rows.append(_row(table, about, 2, f"row is missing from the {where}"))
    return pd.DataFrame(rows)


def _matched(committed, measured):
    """Columns of measurements and of verdicts, and the rows of both sides by what they are about."""
    columns = [name for name in committed if name in measured]
    floats = [name for name in columns if committed[name].dtype.kind == "f" or measured[name].dtype.kind == "f"]
    words = [name for name in columns if name in FINDINGS or name.endswith("_verdict") or is_p_value(name)]
    numbers = [name for name in floats if name not in words]
    keys = [name for name in columns if name not in numbers + words]
    return numbers, words, *(_by_label(frame, keys) for frame in (committed, measured))


def _by_label(frame, keys):
    """Rows by what they are about; the last part of a label counts rows that are about the same."""
    seen, rows = {}, {}
    for row in frame.to_dict("records"):
        about = tuple(str(row[key]) for key in keys)
        seen[about] = seen.get(about, 0) + 1
        rows[*about, str(seen[about])] = row
    return rows


def _by_row(committed, numbers, table, spread):
    """Per row, how far each of its numbers may move."""
    found = {name: allowed(committed, name, table, spread) for name in numbers}
    return [{name: values[row] for name, values in found.items()} for row in range(len(committed))]


def _compare_row(table, about, old, new, may_move, words):
    worst, name = 0.0, ""
    for column, most in may_move.items():
        off = _distance(old[column], new[column]) / most
        if off > worst:
            worst, name = off, column
    status = 0 if worst <= 1 else 1 if worst <= CLOSE else 2
    changed = next((word for word in words if _finding(word, old[word]) != _finding(word, new[word])), None)
    if changed and status < 2:  # a verdict may turn where a number within its tolerance crosses a threshold
        return _row(table, about, 1, changed, old[changed], new[changed])
    return _row(table, about, status, name, old[name] if name else None, new[name] if name else None)


def _finding(column, value):
    if is_p_value(column):
        return value < LEVEL
    return "" if pd.isna(value) else str(value)  # an empty note comes back from a CSV as NaN


def _row(table, about, status, column="", old=None, new=None):
    both = all(isinstance(value, (float, np.floating)) for value in (old, new))
    difference = new - old if both else np.nan
    found = {"table": table, "row": about, "status": WORDS[status], "column": column}
    return found | {"committed": old, "measured": new, "difference": difference}


def _distance(old, new):
    if pd.isna(old) or pd.isna(new):
        return 0.0 if pd.isna(old) and pd.isna(new) else np.inf
    return abs(new - old)


def measure_spread(profile: str, runs: dict[str, list[Path]], before: pd.DataFrame | None = None) -> pd.DataFrame:
    """The largest difference of each column between the committed tables and runs that should give the same.

    Parameters
    ----------
    runs : cause (``threads``, ``bootstrap``) -> finished runs that differ from the committed one in that alone
    before : an earlier measurement (``read_spread``), kept where it was larger: of machines that are not at hand any more
    """
    rows = []
    tables = paths.results_folder(profile).glob("[0-9][0-9]_*.csv")
    for path in sorted(path for path in tables if not path.name.startswith(TIMINGS)):
        committed, found = pd.read_csv(path), {}
        for cause, folders in runs.items():
            for folder in folders:
                numbers, _, left, right = _matched(committed, pd.read_csv(folder / "results" / path.name))
                for column in numbers:
                    off = [_distance(left[label][column], right[label][column]) for label in left if label in right]
                    off = max((value for value in off if np.isfinite(value)), default=0.0)
                    found[column, cause] = max(off, found.get((column, cause), 0.0))
        for column in dict.fromkeys(column for column, _ in found):
            rows.append({"table": path.stem, "column": column} | {cause: found[column, cause] for cause in runs})
    measured = pd.DataFrame(rows).set_index(["table", "column"])
    if before is not None:
        measured = measured.where(measured >= before.reindex(measured.index).fillna(0), before)
    return measured.reset_index()


def _edited(committed):
    """Committed tables whose bytes are not those that the run report of their run names."""
    report = json.loads((committed / run_report.NAME).read_text(encoding="utf-8"))
    rows = []
    for name, digest in report.get("tables", {}).items():
        path = committed / name
        found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "no such file"
        same = found == digest
        rows.append(
            _row(name, "sha256", 0 if same else 2, "" if same else "changed since its run", digest[:12], found[:12])
        )
    return pd.DataFrame(rows)


def _recomputed(committed):
    """The committed claims against verdicts computed again from the committed query-level tables."""
    path = committed / "06_claims.csv"
    if not path.is_file():
        return pd.DataFrame()
    again = ledger.verdicts(committed)
    return compare(pd.read_csv(path), again, "06_claims, recomputed", 1e-5)


def _causes(found, committed, fresh):
    """The most likely cause of each row that is not OK: what is known of its table or its task, else of the whole run."""
    edited = {Path(row.table).stem for row in _edited(committed).itertuples() if row.status != WORDS[0]}
    texts, whole = _changed_texts(committed, fresh), "; ".join(_changed_conditions(committed, fresh))
    causes = []
    for row in found.itertuples():
        task = next((task for task in texts if task in row.row.split(", ")), None)
        if row.status == WORDS[0]:
            causes.append("")
        elif Path(row.table.split(",")[0]).stem in edited:
            causes.append("committed table was changed since its run")
        elif task or (texts and "macro mean" in row.row):
            causes.append(f"other text: the sha256 of {task or ', '.join(texts)} differs (another library or corpus)")
        else:
            causes.append(whole or "none is seen in the run reports: same text, versions, threads and processor")
    return causes


def _changed_texts(committed, fresh):
    """Tasks whose texts have another sha256 in the other run."""
    old, new = (
        pd.read_csv(path).set_index("task")["sha256"] if path.is_file() else pd.Series(dtype=str)
        for path in (folder / "01_tasks.csv" for folder in (committed, fresh))
    )
    return [task for task in old.index if task in new.index and new[task] != old[task]]


def _changed_conditions(committed, fresh):
    """What differs between the two runs' reports, the most telling first."""
    reports_at = [folder / run_report.NAME for folder in (committed, fresh)]
    reports = [json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {} for path in reports_at]
    if not all(reports):
        return ["a run report is missing"]
    old, new = (report.get("packages", {}) for report in reports)
    versions = [f"{name} {old[name]} -> {new.get(name)}" for name in old if new.get(name) != old[name]]
    found = [f"other library versions: {', '.join(versions)}"] if versions else []
    for key, words in (
        ("threads", "other thread count"),
        ("processor", "another processor"),
        ("python", "another Python"),
    ):
        if reports[0].get(key) != reports[1].get(key):
            found.append(f"{words}: {reports[0].get(key)} -> {reports[1].get(key)}")
    return found


def show(found: pd.DataFrame) -> int:
    """Print the comparison; returns 1 where a row is DIFFERENT, else 0."""
    counts = found.groupby(["table", "status"], sort=False).size().unstack(fill_value=0)
    print(counts.reindex(columns=WORDS, fill_value=0).to_string())
    worst = found[found["status"] == "DIFFERENT"]
    for row in worst.head(SHOWN).itertuples():
        number = "" if pd.isna(row.difference) else f" ({row.difference:+.4g})"
        values = "" if row.committed is None else f": committed {row.committed}, measured {row.measured}{number}"
        print(f"DIFFERENT {row.table} [{row.row}] {row.column}{values}; likely cause: {row.cause}")
    if len(worst) > SHOWN:
        print(f"... and {len(worst) - SHOWN} more")
    total = found["status"].value_counts()
    print("\n" + ", ".join(f"{total.get(word, 0)} {word}" for word in WORDS))
    return int(bool(len(worst)))
