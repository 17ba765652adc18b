"""Holds a run's tables and claims against the committed ones, row by row (``ccq verify``).

Each row is ``OK`` (every number within its tolerance), ``close`` (within three times it) or ``DIFFERENT``. Tolerances and
the spread that justifies them stand in ``data/tolerances.yaml``.
"""

import hashlib
import json
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from ccq_utils import ledger, paths, run_report
from ccq_utils.errors import StudyError

TOLERANCES = paths.ROOT / "data" / "tolerances.yaml"
CLOSE = 3.0
WORDS = ("OK", "close", "DIFFERENT")
SHOWN = 12
"""Rows that are printed when many differ; all are in the report."""


def verify(profile: str, run: Path) -> pd.DataFrame:
    """Compare the tables in ``run/results`` with the committed ones of a profile.

    Returns
    -------
    One row per table row: ``table``, ``row`` (what it is about), ``status``, ``column`` (the one furthest off),
    ``committed``, ``measured``, ``difference``.

    Raises
    ------
    StudyError : there are no committed tables of the profile, or none in the run.
    """
    committed, fresh = paths.results_folder(profile), run / "results"
    for folder in (committed, fresh):
        if not list(folder.glob("[0-9][0-9]_*.csv")):
            raise StudyError(f"no tables in {run_report.shown(folder)}; run `ccq run --profile {profile}` first")
    rules = yaml.safe_load(TOLERANCES.read_text(encoding="utf-8"))
    parts = [_edited(committed), _recomputed(committed)]
    for path in sorted(committed.glob("[0-9][0-9]_*.csv")):
        other = fresh / path.name
        found = compare(pd.read_csv(path), pd.read_csv(other), path.stem, rules) if other.is_file() else _missing(path)
        parts.append(found)
    return pd.concat(parts, ignore_index=True)


def compare(committed: pd.DataFrame, measured: pd.DataFrame, table: str, rules: list[dict]) -> pd.DataFrame:
    """Row-by-row comparison of two versions of one table; rows are matched by their columns that are no measurements."""
    columns = [name for name in committed if name in measured]
    numbers = [name for name in columns if committed[name].dtype.kind == "f" or measured[name].dtype.kind == "f"]
    words = [name for name in columns if name in ("verdict", "note") or name.endswith("_verdict")]
    keys = [name for name in columns if name not in numbers + words]
    left, right = (_by_label(frame, keys) for frame in (committed, measured))
    rows = []
    for label in dict.fromkeys([*left, *right]):
        about = ", ".join(label[:-1])
        if label in left and label in right:
            rows.append(_compare_row(table, about, left[label], right[label], numbers, words, rules))
        else:
            where = "run" if label in left else "committed table"
            rows.append(_row(table, about, 2, f"row is missing from the {where}"))
    return pd.DataFrame(rows)


def _by_label(frame, keys):
    """Rows by what they are about; the last part of a label counts rows that are about the same."""
    seen, rows = {}, {}
    for row in frame.to_dict("records"):
        about = tuple(str(row[key]) for key in keys)
        seen[about] = seen.get(about, 0) + 1
        rows[*about, str(seen[about])] = row
    return rows


def _compare_row(table, about, old, new, numbers, words, rules):
    worst, name = 0.0, ""
    for column in numbers:
        off = _distance(old[column], new[column], _tolerance(table, column, rules))
        if off > worst:
            worst, name = off, column
    status = 0 if worst <= 1 else 1 if worst <= CLOSE else 2
    changed = next((word for word in words if _text(old[word]) != _text(new[word])), None)
    if changed and status < 2:  # a verdict may turn where a number within its tolerance crosses a threshold
        return _row(table, about, 1, changed, old[changed], new[changed])
    return _row(table, about, status, name, old[name] if name else None, new[name] if name else None)


def _text(value):
    return "" if pd.isna(value) else str(value)  # an empty note comes back from a CSV as NaN


def _row(table, about, status, column="", old=None, new=None):
    both = all(isinstance(value, (float, np.floating)) for value in (old, new))
    difference = new - old if both else np.nan
    found = {"table": table, "row": about, "status": WORDS[status], "column": column}
    return found | {"committed": old, "measured": new, "difference": difference}


def _distance(old, new, tolerance):
    """How many tolerances apart two numbers are."""
    if pd.isna(old) or pd.isna(new):
        return 0.0 if pd.isna(old) and pd.isna(new) else np.inf
    allowed = tolerance.get("absolute", 0.0) + tolerance.get("relative", 0.0) * abs(old)
    return abs(new - old) / max(allowed, 1e-12)


def _tolerance(table, column, rules):
    for entry in rules:
        if fnmatch(table, entry["table"]) and fnmatch(column, entry["column"]):
            return entry
    raise StudyError(f"{TOLERANCES.name} has no entry for column {column!r} of table {table!r}; add one")


def _missing(path):
    return pd.DataFrame([_row(path.stem, "whole table", 2, "table is missing from the run")])


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
    exact = [{"table": "*", "column": "*", "absolute": 1e-5, "relative": 1e-5}]
    again = ledger.verdicts(committed)
    return compare(pd.read_csv(path), again, "06_claims, recomputed", exact)


def likely_causes(committed: Path, fresh: Path) -> list[str]:
    """What differs between the two runs' reports and texts, the most telling first."""
    reports = [json.loads((folder / run_report.NAME).read_text(encoding="utf-8")) for folder in (committed, fresh)]
    causes = []
    texts = [pd.read_csv(folder / "01_tasks.csv").set_index("task")["sha256"] for folder in (committed, fresh)]
    changed = [task for task in texts[0].index if texts[1].get(task) != texts[0][task]]
    if changed:
        causes.append(
            f"other text: the sha256 of {', '.join(changed)} differs (another library version or another corpus)"
        )
    old, new = (report.get("packages", {}) for report in reports)
    versions = [f"{name} {old[name]} -> {new.get(name)}" for name in old if new.get(name) != old[name]]
    if versions:
        causes.append(f"other library versions: {', '.join(versions)}")
    for key, words in (
        ("threads", "other thread count"),
        ("processor", "another processor"),
        ("python", "another Python"),
    ):
        if reports[0].get(key) != reports[1].get(key):
            causes.append(f"{words}: {reports[0].get(key)} -> {reports[1].get(key)}")
    return causes or ["no cause is seen in the run reports: same text, versions, threads and processor"]


def show(found: pd.DataFrame, causes: list[str]) -> int:
    """Print the comparison; returns 1 where a row is DIFFERENT, else 0."""
    counts = found.groupby(["table", "status"], sort=False).size().unstack(fill_value=0)
    print(counts.reindex(columns=WORDS, fill_value=0).to_string())
    worst = found[found["status"] == "DIFFERENT"]
    for row in worst.head(SHOWN).itertuples():
        number = "" if pd.isna(row.difference) else f" ({row.difference:+.4g})"
        values = "" if row.committed is None else f": committed {row.committed}, measured {row.measured}{number}"
        print(f"DIFFERENT {row.table} [{row.row}] {row.column}{values}")
    if len(worst) > SHOWN:
        print(f"... and {len(worst) - SHOWN} more")
    total = found["status"].value_counts()
    print("\n" + ", ".join(f"{total.get(word, 0)} {word}" for word in WORDS))
    if len(worst):
        print("most likely cause: " + "; ".join(causes))
    return int(bool(len(worst)))
