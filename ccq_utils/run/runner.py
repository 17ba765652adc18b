"""Runs the numbered notebooks in order, skips those that are up to date and keeps what has finished.

A notebook is up to date when it finished, all that it was made from (``Run.input_hash``) is unchanged, and the tables that it
wrote are still as it left them. Notebook ``NN_name`` writes tables whose names start with ``NN_``.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import nbformat
import papermill
import psutil
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from pydantic import TypeAdapter, ValidationError

from ccq_utils.common import files, paths
from ccq_utils.common.cache import file_digest
from ccq_utils.common.environment import environment
from ccq_utils.common.errors import StudyError
from ccq_utils.common.progress import EVERY, clock, quiet_libraries
from ccq_utils.data.profile import load_profile, profile_path
from ccq_utils.run import report as run_report

NOT_HASHED = {"run", "cli.py"}  # sub-packages and modules that notebooks' results do not depend on
QUIET_KERNEL = {"loggers": {name: {"level": "CRITICAL"} for name in ("tornado", "asyncio")}}
"""A kernel that is told to stop may log a traceback of its own sockets; with its errors it would stand in our lines."""


@dataclass
class NotebookState:
    """A notebook's last whole run: ``seconds`` of wall time, peak resident memory in MB (1e6 bytes), sha256 per table."""

    hash: str
    seconds: float = 0.0
    peak_memory_mb: float | None = None
    tables: dict[str, str] = field(default_factory=dict)


class Run:
    """One profile's notebooks, folders and the state that is kept between calls."""

    def __init__(self, profile: str = "default", output: str = ""):
        self.profile = load_profile(profile)
        given = str(profile_path(profile)) if Path(profile).suffix in (".yaml", ".yml") else profile
        self.parameters = {"profile": given, "output": str(Path(output).resolve()) if output else ""}
        self.results, self.figures, self.executed = paths.folders(self.profile.name, output)
        self.notebooks = sorted(paths.NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
        if not self.notebooks:
            raise StudyError(f"no notebooks NN_*.ipynb in {paths.NOTEBOOKS}; run from a whole checkout")
        self.state_file = self.executed / "run_state.json"
        if any(self.executed.glob("*.ipynb")) and not self.state_file.is_file():
            raise StudyError(f"{self.executed} holds notebooks that no run wrote; give another --out, or move them")
        held = self.state_file.read_bytes() if self.state_file.is_file() else b"{}"
        try:
            self.state = TypeAdapter(dict[str, NotebookState]).validate_json(held)
        except ValidationError:
            _say(f"{paths.shown(self.state_file)} is damaged; all notebooks count as not run")
            self.state = {}

    def choose(self, only: str = "") -> list[Path]:
        """All notebooks, or the one that ``only`` names by number ("3", "03") or by full name."""
        prefix = f"{int(only):02d}_" if only.isdecimal() else f"{only.removesuffix('.ipynb')}.ipynb"
        if chosen := [path for path in self.notebooks if not only or path.name.startswith(prefix)]:
            return chosen
        raise StudyError(f"unknown notebook {only!r}; known: {', '.join(path.stem for path in self.notebooks)}")

    def input_hash(self, notebook: Path) -> str:
        """sha256 over what a notebook is made from: code, profile, package, lock, files that are read, earlier tables."""
        package = Path(__file__).parents[1]
        modules = {path.relative_to(package): path for path in package.rglob("*.py")}
        parts = {
            "code": [(cell.source, cell.metadata.get("tags", [])) for cell in code_cells(read_notebook(notebook))],
            "profile": self.profile.model_dump_json(),
            "package": {str(name): file_digest(modules[name]) for name in modules if name.parts[0] not in NOT_HASHED},
            "lock": file_digest(paths.ROOT / "requirements.lock"),
            "files": self.files,
            "tables": {path.stem: self.tables(path) for path in self.notebooks if path.name < notebook.name},
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @cached_property
    def files(self) -> dict[str, str]:
        """sha256 of the files that notebooks read: claims, published and timed numbers, one's own texts."""
        data, spec = paths.ROOT / "data", self.profile
        found = [data / "claims.yaml", data / "published_ndcg.csv", *data.glob("bench/*.csv")]
        for kind, _, place in (each.source.partition(":") for each in (spec.training, *spec.tasks)):
            found += [Path(place), *Path(place).rglob("*")] if kind in ("beir", "jsonl") else []
        return {str(path): file_digest(path) for path in sorted(found) if path.is_file()}

    def tables(self, notebook: Path) -> dict[str, str]:
        """File name to sha256 of the tables that a notebook wrote."""
        return {path.name: file_digest(path) for path in sorted(self.results.glob(f"{notebook.name[:2]}_*"))}

    def up_to_date(self, notebook: Path) -> bool:
        """Whether running the notebook again would change nothing."""
        state = self.state.get(notebook.stem)
        if state is None or not (self.executed / notebook.name).is_file():
            return False
        return (state.hash, state.tables) == (self.input_hash(notebook), self.tables(notebook))

    def execute(self, notebook: Path) -> None:
        """Run one notebook and record it."""
        inputs = self.input_hash(notebook)
        self.state.pop(notebook.stem, None)
        self._save_state()
        before = run_report.expected_seconds(self, notebook.stem)
        count = len(read_notebook(notebook).cells) + 1
        with watched(notebook.stem, count, before, self.executed / ".progress") as seen:
            told = {"on_cell_execute": lambda cell_index, **_: seen.update(cell=cell_index + 1)}
            told["on_cell_executed"] = lambda **_: seen.update(peak=max(seen["peak"], _peak_memory()))
            options = {"kernel_name": "python3", "language": "python", "cwd": paths.NOTEBOOKS, "progress_bar": False}
            options["extra_arguments"] = ["--log-level=CRITICAL", f"--IPKernelApp.logging_config={QUIET_KERNEL}"]
            papermill.execute_notebook(
                notebook, self.executed / notebook.name, parameters=self.parameters, **options, **told
            )
        seconds, peak = round(time.monotonic() - seen["since"], 1), seen["peak"] or None
        self.state[notebook.stem] = NotebookState(inputs, seconds, peak, self.tables(notebook))
        self._save_state()
        _say(f"{notebook.stem}: done, elapsed {clock(seconds)}{f', {peak:.0f} MB' if peak else ''}")

    def explain(self, notebook: Path, error: PapermillExecutionError | DeadKernelError) -> str:
        """What went wrong, in lines to print; what a user can mend in one."""
        problem = "the kernel died\n  most likely out of memory; close programs, or use a smaller profile\n "
        if getattr(error, "ename", "") in ("StudyError", "NotPossible"):
            problem = f"cell [{error.exec_count}]: {error.evalue};"
        elif isinstance(error, PapermillExecutionError):
            message = "\n  ".join(line[:300] for line in str(error.evalue).strip().splitlines()[:4])
            source = error.source.strip().splitlines()[0]
            problem = f"cell [{error.exec_count}] failed: {source}\n  {error.ename}: {message}\n "
        so_far = paths.shown(self.executed / notebook.name)
        return f"{notebook.stem}: {problem} so far: {so_far}; earlier notebooks are kept"

    def _save_state(self):
        with files.write_atomically(self.state_file, "w") as file:
            json.dump({name: asdict(state) for name, state in self.state.items()}, file, indent=2)


@contextmanager
def watched(label: str, cells: int, before: float | None, file: Path) -> Iterator[dict]:
    """Say how a notebook is getting on, in a line renewed on a terminal, else one a minute; kernels write to ``file``."""
    seen = {"cell": 0, "peak": 0.0, "since": time.monotonic()}  # cells count from one; MB of memory, 0 where unknown
    ended, terminal = threading.Event(), sys.stderr.isatty()

    def speak():
        while not ended.wait(1 if terminal else EVERY):
            step = file.read_text(encoding="utf-8") if file.is_file() else ""
            line = f"{label}: cell {seen['cell']} of {cells}, elapsed {clock(time.monotonic() - seen['since'])}"
            line += f"; {step}" if step else ""
            if terminal:
                line = f"\r\033[K{line[: shutil.get_terminal_size().columns - 1]}"
            _say(line, end="" if terminal else "\n")

    _say(f"{label}: started, last run took {clock(before)}")
    speaker = threading.Thread(target=speak, daemon=True)
    os.environ["CCQ_PROGRESS"] = str(file)
    speaker.start()
    try:
        yield seen
    finally:
        ended.set()
        speaker.join()
        file.unlink(missing_ok=True)
        os.environ.pop("CCQ_PROGRESS")
        _say("\r\033[K" if terminal else "", end="")


def run(profile: str = "default", only: str = "", force: bool = False, output: str = "") -> int:
    """Run a profile's notebooks, or ``only`` one; returns the exit code: 0, 1 for a failed cell, 130 for Ctrl-C."""
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # ipykernel's debugger otherwise warns about frozen modules
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # this environment's kernel "python3", not one of the user's folder
    os.environ["PYTHONWARNINGS"] = "ignore:texts longer than:UserWarning"  # said to whoever encodes by hand
    quiet_libraries()
    for name in ("papermill", "asyncio"):  # what goes wrong is told here; after Ctrl-C they would add tracebacks
        logging.getLogger(name).setLevel(logging.CRITICAL)
    job = Run(profile, output)
    chosen = job.choose(only)
    for folder in (job.executed, job.results, job.figures):
        with files.writing_to(folder):
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
    empty_cache = not any(paths.cache_folder().glob("[!.]*"))
    about, started, executed = environment(), time.monotonic(), []
    try:
        uses = files.scratch_folder(paths.cache_folder() / "run")  # its name holds the process, for `make clean`
        with files.only_one(job.executed), uses, files.writing_to(job.executed):
            for notebook in chosen:
                if not force and job.up_to_date(notebook):
                    _say(f"{notebook.stem}: unchanged, skipped")
                    continue
                try:
                    job.execute(notebook)
                except (PapermillExecutionError, DeadKernelError) as error:  # within: whose disk is full, a cell knows
                    _say(f"ccq: {job.explain(notebook, error)}")
                    return 1
                executed.append(notebook.stem)
            run_report.write(job, about, executed, time.monotonic() - started, empty_cache)
    except KeyboardInterrupt:
        _say(f"interrupted in {notebook.stem}; finished notebooks are kept, the same command without --force resumes")
        return 130
    run_report.show(job)
    return 0


def read_notebook(path: Path) -> nbformat.NotebookNode:
    """A notebook; ``StudyError`` names one that cannot be read."""
    try:
        return nbformat.read(path, as_version=4)
    except (ValueError, KeyError, AttributeError, nbformat.ValidationError) as error:
        raise StudyError(f"{path.name} is not a readable notebook; restore it") from error


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """The cells that are run, without the parameters that papermill injects."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [cell for cell in code if "injected-parameters" not in cell.metadata.get("tags", [])]


def _peak_memory():
    """The most MB that a kernel ever held; Linux tells it while the kernel lives."""
    peaks = [0]
    for child in psutil.Process().children():
        with suppress(OSError):
            peaks += map(int, re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{child.pid}/status").read_text()))
    return round(max(peaks) * 1.024e-3, 1)


def _say(text, end="\n"):
    print(text, end=end, file=sys.stderr, flush=True)
