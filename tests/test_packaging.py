"""One lock: pyproject.toml, requirements.lock, environment.yml, the Makefile and CI hold together."""

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from ccq_utils.common.files import only_one, scratch_folder

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DEPENDENCIES = [Requirement(line) for line in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]]
LOCK_LINES = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
LOCK = {canonicalize_name(name): version for name, version in (line.split("==") for line in LOCK_LINES)}
IMPORT_NAMES = {"sklearn": "scikit-learn", "yaml": "pyyaml", "faiss": "faiss-cpu", "pytrec_eval": "mteb"}


def test_every_line_of_the_lock_is_an_exact_pin():
    assert [line for line in LOCK_LINES if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line)] == []
    assert len(LOCK) == len(LOCK_LINES)


@pytest.mark.parametrize("requirement", DEPENDENCIES, ids=str)
def test_every_dependency_is_pinned_within_its_range(requirement):
    pinned = LOCK.get(canonicalize_name(requirement.name))
    assert pinned, f"{requirement.name} is not in requirements.lock; run make lock"
    assert requirement.specifier.contains(pinned), f"{requirement} does not allow the pinned {pinned}"


def test_what_is_installed_is_what_is_pinned():
    installed = {}
    for name in LOCK:
        try:
            installed[name] = Version(importlib.metadata.version(name)).public
        except importlib.metadata.PackageNotFoundError:
            installed[name] = None
    assert {name: version for name, version in installed.items() if version != LOCK[name]} == {}


def test_each_dependency_gives_its_reason():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for requirement in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]:
        assert re.search(rf'"{re.escape(requirement)}",\s+# \w', text), requirement


def test_the_package_imports_only_what_it_declares():
    declared = {canonicalize_name(requirement.name) for requirement in DEPENDENCIES}
    for path in (ROOT / "ccq_utils").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"ccq_utils"}:
                assert canonicalize_name(IMPORT_NAMES.get(name, name)) in declared, f"{path.name} imports {name}"


def test_conda_make_and_ci_use_the_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["dependencies"][-1] == {"pip": ["-r requirements.lock", "-e ."]}
    python = next(line for line in environment["dependencies"] if str(line).startswith("python="))
    assert Version(python.removeprefix("python=")) in SpecifierSet(PROJECT["requires-python"])
    makefile = (ROOT / "Makefile").read_text()
    assert "-r requirements.lock" in makefile and "--no-deps --editable ." in makefile
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    steps = [step["run"] for step in jobs["study"]["steps"] if "run" in step]
    script = (ROOT / ".ci" / "run").read_text()
    assert all(step.startswith("make ") and step in script for step in steps), steps
    assert not any("pip install" in line for line in [script, *steps])


@pytest.mark.parametrize("name", ["requirements.lock", "pyproject.toml", "environment.yml", "Makefile", ".ci/run"])
def test_no_registry_is_named(name):
    text = (ROOT / name).read_text()
    assert not re.search(r"https?://|file://|index-url|find-links|trusted-host|--hash", text)


def test_clean_waits_for_a_run_wherever_it_writes(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "build" / "my ci").mkdir(parents=True)
    clean = ["make", "clean", f"VENV={Path(sys.executable).parents[1]}"]
    with only_one(tmp_path / "build" / "my ci" / "notebooks"):
        done = subprocess.run(clean, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode and f"make: process {os.getpid()} of " in done.stderr
    with scratch_folder(tmp_path / "data" / "cache" / "run"):
        done = subprocess.run(clean, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode and f"make: process {os.getpid()} runs notebooks with data/cache" in done.stderr
    assert (tmp_path / "build").exists() and (tmp_path / "data" / "cache").exists()
    dead = tmp_path / "data" / "cache" / ".run.host.4194999.c0ffee.partial"
    dead.mkdir()
    assert subprocess.run(clean, cwd=tmp_path).returncode == 0
    assert not (tmp_path / "build").exists() and not (tmp_path / "data" / "cache").exists()


def test_make_alone_lists_the_targets():
    listed = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert {"study", "test", "lint", "clean", "lock", "tiny", "publish"} <= set(
        re.findall(r"^make (\w+)", listed, re.M)
    )


def test_make_refuses_an_old_or_missing_python_in_one_line(tmp_path):
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    for python, message in ((old, "is older than 3.11"), (tmp_path / "none", "install Python 3.11 or newer")):
        command = ["make", "venv", f"PYTHON={python}", f"VENV={tmp_path / 'venv'}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode != 0 and message in done.stderr and not (tmp_path / "venv").exists()
