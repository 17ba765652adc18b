"""What a run's numbers and times depend on beside the code: processor, threads, versions, commit."""

import importlib.metadata
import os
import platform
import re
import subprocess
import tomllib
from pathlib import Path

from ccq_utils.common import paths

SOURCES = ["ccq_utils", "notebooks", "pyproject.toml", "requirements.lock"]


def environment() -> dict:
    """Python, platform, processor, threads and the versions of the packages that ``pyproject.toml`` names."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "processor": processor(),
        "threads": os.environ.get("OMP_NUM_THREADS", str(os.cpu_count())),
        "packages": direct_versions(),
    }


def processor() -> str:
    """The processor's name and the widest vector instructions it offers, which decide the last digits of a sum."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return platform.processor()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in reversed(lines))}
    flags = (fields.get("flags") or fields.get("Features", "")).split()
    widest = [flag for flag in ("avx512f", "avx2", "asimd") if flag in flags]
    return " ".join([fields.get("model name", platform.machine()), *widest[:1]])


def direct_versions() -> dict[str, str]:
    """Installed versions of the packages that ``pyproject.toml`` names; a build's label (``+cpu``) is left out."""
    try:
        project = tomllib.loads((paths.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    except (OSError, KeyError):
        return {}
    names = sorted(re.match(r"[\w.-]+", line).group() for line in project["dependencies"])
    return {name: importlib.metadata.version(name).partition("+")[0] for name in names}


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
