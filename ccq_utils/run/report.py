"""What a run leaves beside its tables (``run_report.json``) and prints at its end."""

import importlib.metadata
import json
import os
import platform
import re
import subprocess
import tomllib
from pathlib import Path

from ccq_utils.common import paths

NAME = "run_report.json"
CLAIMS = "06_claims.csv"
CLAIM_COLUMNS = ["claim", "statement", "measured", "low", "high", "verdict"]
SOURCES = ["ccq_utils", "notebooks", "pyproject.toml", "requirements.lock"]


def write(job, source: dict, executed: list[str], run_seconds: float) -> None:
    """Write the report of a ``runner.Run``; notebooks that were not ``executed`` now keep their earlier seconds."""
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
    report = {
        "profile": job.profile.name,
        "seed": job.profile.seed,
        **source,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "processor": processor(),
        "threads": os.environ.get("OMP_NUM_THREADS", str(os.cpu_count())),
        "packages": direct_versions(),
        "notebooks": notebooks,
        "total_seconds": round(sum(entry["seconds"] for entry in notebooks), 1),
        "run_seconds": round(run_seconds, 1),
        "tables": {name: digest for path in job.notebooks for name, digest in job.tables(path).items()},
    }
    partial = job.results / f"{NAME}.partial"
    partial.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, job.results / NAME)


def processor() -> str:
    """The processor's name and the widest vector instructions it offers, which decide the last digits of a sum."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return platform.processor()
    named = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    fields = {key.strip(): value.strip() for key, value in named.items()}
    widest = [
        flag
        for flag in ("avx512f", "avx2", "asimd")
        if flag in (fields.get("flags") or fields.get("Features", "")).split()
    ]
    return " ".join([fields.get("model name", platform.machine()), *widest[:1]])


def source_version() -> dict:
    """Commit of the checkout (None where there is none) and whether its sources differ from that commit."""

    def git(*arguments):
        command = ["git", "-C", str(paths.ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != paths.ROOT.resolve():
            return {"git_commit": None, "git_dirty": None}
        present = [name for name in SOURCES if (paths.ROOT / name).exists()]
        return {
            "git_commit": git("rev-parse", "HEAD"),
            "git_dirty": bool(git("status", "--porcelain", "--", *present)),
        }
    except (OSError, subprocess.CalledProcessError):
        return {"git_commit": None, "git_dirty": None}


def direct_versions() -> dict[str, str]:
    """Installed versions of the packages that ``pyproject.toml`` names."""
    try:
        project = tomllib.loads((paths.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    except (OSError, KeyError):
        return {}
    names = sorted(re.match(r"[\w.-]+", line).group() for line in project["dependencies"])
    return {name: importlib.metadata.version(name) for name in names}


def expected_seconds(job, name: str) -> float | None:
    """Seconds that the notebook took in the last report of this profile, here or in the checkout."""
    for folder in (job.results, paths.results_folder(job.profile.name)):
        try:
            notebooks = json.loads((folder / NAME).read_text(encoding="utf-8"))["notebooks"]
            return next(float(entry["seconds"]) for entry in notebooks if entry["name"] == name)
        except (OSError, ValueError, TypeError, KeyError, StopIteration):
            continue
    return None


def show(job) -> None:
    """Print where to look, what each notebook took and, where there is one, the table of claims."""
    import pandas as pd  # a second of import that an error message should not wait for

    report = json.loads((job.results / NAME).read_text(encoding="utf-8"))
    print(f"\nProfile {job.profile.name}: done in {clock(report['run_seconds'])}.\n")
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


def shown(path: Path) -> str:
    """A path as the reader would type it: relative where it lies below the working directory."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def clock(seconds: float | None) -> str:
    """Seconds as minutes:seconds, ``?`` where unknown."""
    return "?" if seconds is None else "{}:{:02d}".format(*divmod(round(seconds), 60))
