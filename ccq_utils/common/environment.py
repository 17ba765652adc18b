"""What a run's numbers and times depend on beside its profile: commit, processor, threads, versions."""

import importlib.metadata
import os
import platform
import re
import subprocess
import tomllib
from pathlib import Path

from ccq_utils.common import paths


def environment() -> dict:
    """Commit (None outside of git), whether sources differ from it, Python, machine, threads and direct dependencies."""
    commit, sources = _git("rev-parse", "HEAD"), ("ccq_utils", "notebooks", "pyproject.toml", "requirements.lock")
    project = tomllib.loads((paths.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = sorted(re.match(r"[\w.-]+", line).group() for line in project["dependencies"])
    dirty = commit and bool(_git("status", "--porcelain", "--", *sources))
    found = {"git_commit": commit, "git_dirty": dirty, "python": platform.python_version()}
    found |= {"platform": platform.platform(), "cpu_count": os.cpu_count(), "processor": processor()}
    found["threads"] = os.environ.get("OMP_NUM_THREADS", str(os.cpu_count()))
    return found | {"packages": {name: importlib.metadata.version(name).partition("+")[0] for name in names}}


def processor() -> str:
    """The processor's name and the widest vector instructions it offers, which decide the last digits of a sum."""
    linux = Path("/proc/cpuinfo")
    text = linux.read_text(encoding="utf-8") if linux.is_file() else ""
    name, words = re.search(r"model name\s*: (.*)", text), set(text.split())
    widest = [flag for flag in ("avx512f", "avx2", "asimd") if flag in words]
    return " ".join([name[1].strip() if name else platform.machine(), *widest[:1]])


def _git(*arguments):
    variables = os.environ | {"GIT_CEILING_DIRECTORIES": str(paths.ROOT.parent)}  # no repository around the checkout
    command = ["git", "-C", str(paths.ROOT), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, env=variables).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
