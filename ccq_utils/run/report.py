"""What a run leaves beside its tables (``run_report.json``) and prints at its end."""

import json
from pathlib import Path

from ccq_utils.common import paths
from ccq_utils.common.environment import environment
from ccq_utils.common.files import write_atomically
from ccq_utils.common.paths import shown
from ccq_utils.common.progress import clock
from ccq_utils.models.encoding import precision_here

NAME = "run_report.json"
CLAIMS = "07_claims.csv"
CLAIM_COLUMNS = ["claim", "statement", "measured", "low", "high", "verdict"]


def read(results: Path) -> dict:
    """The report in a results folder; empty where there is none or it cannot be read."""
    try:
        report = json.loads((results / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return report if isinstance(report, dict) else {}


def write(job, source: dict, executed: list[str], seconds: float, empty_cache: bool) -> None:
    """Write the report of a ``runner.Run``.

    A run is *cold* if its cache was empty and no notebook was skipped. Times that are stated anywhere come from
    ``cold_run``, the last such run; later runs hand it on.

    Args:
        job: The run.
        source: What ``source_version`` said at the start.
        executed: Notebooks that were not skipped.
        seconds: What the whole run took.
        empty_cache: Whether the cache was empty at the start.
    """
    notebooks = [
        {
            "name": path.stem,
            "seconds": job.state[path.stem].seconds,
            "peak_memory_mb": job.state[path.stem].peak_memory_mb,
            "skipped": path.stem not in executed,
        }
        for path in job.notebooks
        if path.stem in job.state and job.state[path.stem].finished
    ]
    report = {"profile": job.profile.name, "seed": job.profile.seed, **source, **environment()}
    report["precision"] = precision_here(job.profile.precision)
    report["cold"] = empty_cache and executed == [path.stem for path in job.notebooks]
    report["seconds"] = round(seconds, 1)
    report["notebooks"] = notebooks
    if report["cold"]:
        about = {key: report[key] for key in ("seconds", "cpu_count", "processor", "git_commit")}
        times = {each["name"]: [each["seconds"], each["peak_memory_mb"]] for each in notebooks}
        report["cold_run"] = about | {"notebooks": times}
    else:
        report["cold_run"] = read(job.results).get("cold_run")
    report["tables"] = {name: digest for path in job.notebooks for name, digest in job.tables(path).items()}
    with write_atomically(job.results / NAME, "w") as file:
        file.write(json.dumps(report, indent=2) + "\n")


def expected_seconds(job, name: str) -> float | None:
    """Seconds that the notebook took in the last report of this profile, here or in the checkout."""
    for folder in (job.results, paths.results_folder(job.profile.name)):
        for entry in read(folder).get("notebooks", []):
            if entry["name"] == name:
                return entry["seconds"]
    return None


def show(job) -> None:
    """Print where to look, what each notebook took and, where there is one, the table of claims."""
    import pandas as pd  # a second of import that an error message should not wait for

    report = read(job.results)
    how = "cold: empty cache, nothing skipped" if report["cold"] else "warm"
    print(f"\nProfile {job.profile.name}: done in {clock(report['seconds'])} ({how}).\n")
    for label, folder in (("executed notebooks", job.executed), ("tables", job.results), ("figures", job.figures)):
        print(f"  {label:<19}{shown(folder)}")
    notebooks = pd.DataFrame(report["notebooks"])
    if len(notebooks):
        notebooks["skipped"] = notebooks["skipped"].map({True: "yes", False: "no"})
        titles = {"name": "notebook", "peak_memory_mb": "peak MB"}
        print(f"\n{notebooks.rename(columns=titles).to_string(index=False)}")
    if (job.results / CLAIMS).is_file():
        claims = pd.read_csv(job.results / CLAIMS)
        claims = claims[[name for name in CLAIM_COLUMNS if name in claims]]
        print(f"\n{claims.to_string(index=False, max_colwidth=60, float_format='{:.3f}'.format)}")
