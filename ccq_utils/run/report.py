"""What a run leaves beside its tables (``run_report.json``) and prints at its end."""

import csv
import json
from pathlib import Path

from ccq_utils.common import paths
from ccq_utils.common.files import write_atomically
from ccq_utils.common.paths import shown
from ccq_utils.common.progress import clock
from ccq_utils.models.encoding import precision_here

NAME, CLAIMS = "run_report.json", "07_claims.csv"


def read(results: Path) -> dict:
    """The report in a results folder; empty where there is none or it cannot be read."""
    try:
        return json.loads((results / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def write(job, about: dict, executed: list[str], seconds: float, empty_cache: bool) -> None:
    """Write the report of a ``runner.Run`` that did not skip the notebooks ``executed``; ``about`` is its ``environment``.

    A run is *cold* if its cache was empty and no notebook was skipped; later runs hand on the times of the last ``cold_run``.
    """
    states = {path.stem: job.state[path.stem] for path in job.notebooks if path.stem in job.state}
    taken = {name: {"seconds": it.seconds, "peak_memory_mb": it.peak_memory_mb} for name, it in states.items()}
    notebooks = [{"name": name, **it, "skipped": name not in executed} for name, it in taken.items()]
    of = job.profile
    report = {"profile": of.name, "seed": of.seed, **about, "precision": precision_here(of.precision)}
    report["cold"] = empty_cache and executed == [path.stem for path in job.notebooks]
    report |= {"seconds": round(seconds, 1), "notebooks": notebooks, "cold_run": read(job.results).get("cold_run")}
    if report["cold"]:
        report["cold_run"] = {key: report[key] for key in ("seconds", "cpu_count", "processor", "git_commit")}
        report["cold_run"]["notebooks"] = {name: list(it.values()) for name, it in taken.items()}
    if (cards := job.results / "01_candidates.csv").is_file():  # hub ids, revisions, sha256, prompts, tokens
        report["models"] = list(csv.DictReader(cards.open(encoding="utf-8")))
    report["tables"] = {name: digest for path in job.notebooks for name, digest in job.tables(path).items()}
    with write_atomically(job.results / NAME, "w") as file:
        file.write(json.dumps(report, indent=2) + "\n")


def expected_seconds(job, name: str) -> float | None:
    """Seconds that the notebook took in the last report of this profile, here or in the checkout."""
    reports = [read(folder) for folder in (job.results, paths.results_folder(job.profile.name))]
    found = [each["seconds"] for report in reports for each in report.get("notebooks", []) if each["name"] == name]
    return found[0] if found else None


def show(job) -> None:
    """Print where to look, what each notebook took and, where there is one, the table of claims."""
    import pandas as pd  # a second of import that an error message should not wait for

    report = read(job.results)
    how = "cold: empty cache, nothing skipped" if report["cold"] else "warm"
    print(f"\nProfile {job.profile.name}: done in {clock(report['seconds'])} ({how}).\n")
    for label, folder in (("executed notebooks", job.executed), ("tables", job.results), ("figures", job.figures)):
        print(f"  {label:<19}{shown(folder)}")
    notebooks = pd.DataFrame(report["notebooks"]).rename(columns={"name": "notebook", "peak_memory_mb": "peak MB"})
    print(f"\n{notebooks.to_string(index=False, formatters={'skipped': {True: 'yes', False: 'no'}.get})}")
    if (job.results / CLAIMS).is_file():
        columns = ["claim", "statement", "measured", "low", "high", "verdict"]
        claims = pd.read_csv(job.results / CLAIMS)[columns]
        print(f"\n{claims.to_string(index=False, max_colwidth=60, float_format='{:.3f}'.format)}")
