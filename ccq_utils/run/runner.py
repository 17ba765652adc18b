"""Runs the numbered notebooks in order, skips those that are up to date and keeps what has finished.

A notebook is up to date when everything that it was made from (``Run.input_hash``) is unchanged, it finished, and the
tables that it wrote are still as it left them. Notebook ``NN_name`` writes tables whose names start with ``NN_``.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import nbformat
import papermill
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from pydantic import TypeAdapter, ValidationError

from ccq_utils.common import paths
from ccq_utils.common.errors import StudyError
from ccq_utils.data.profile import load_profile, profile_path
from ccq_utils.run import report as run_report
from ccq_utils.run.watch import ENGINE, Watch

NOT_HASHED = {"run", "cli.py"}
"""Sub-packages and modules that notebooks' results do not depend on."""

FULL_DISK = {errno.ENOSPC, errno.EDQUOT}
QUIET = {
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # ipykernel's debugger otherwise warns about frozen modules
    "JUPYTER_PREFER_ENV_PATH": "1",  # the kernel "python3" of this environment, not one of the user's folder
    "TQDM_DISABLE": "1",  # bars inside notebooks are for people who run them by hand
    "PYTHONWARNINGS": "ignore:texts longer than:UserWarning",  # which a member cuts: said to whoever encodes by hand
}


class NotebookFailed(Exception):
    """A notebook did not finish; the message is ready to print."""


@dataclass
class NotebookState:
    """A notebook's last run: ``seconds`` of wall time, peak resident memory in MB (1e6 bytes), sha256 per table."""

    hash: str
    finished: bool = False
    seconds: float = 0.0
    peak_memory_mb: float = 0.0
    tables: dict[str, str] = field(default_factory=dict)


class Run:
    """One profile's notebooks, folders and the state that is kept between calls.

    Raises
    ------
    StudyError : an unknown or invalid profile, no notebooks, or a folder that cannot be written.
    """

    def __init__(self, profile: str = "default", output: str = ""):
        by_path = Path(profile).suffix in (".yaml", ".yml")
        self.profile = load_profile(profile)
        self.output = str(Path(output).resolve()) if output else ""
        self.parameters = {"profile": str(profile_path(profile)) if by_path else profile, "output": self.output}
        self.results = paths.results_folder(self.profile.name, output)
        self.figures = paths.figures_folder(self.profile.name, output)
        self.executed = paths.executed_folder(self.profile.name, output)
        self.notebooks = sorted(paths.NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
        if not self.notebooks:
            raise StudyError(f"no notebooks NN_*.ipynb in {paths.NOTEBOOKS}; run from a whole checkout")
        self.state_file = self.executed / "run_state.json"
        self.state = self._load_state()

    def choose(self, only: str = "") -> list[Path]:
        """All notebooks, or the one that ``only`` names by number ("3", "03") or by full name."""
        prefix = f"{int(only):02d}_" if only.isdecimal() else f"{only.removesuffix('.ipynb')}.ipynb"
        chosen = [path for path in self.notebooks if not only or path.name.startswith(prefix)]
        if not chosen:
            raise StudyError(f"unknown notebook {only!r}; known: {', '.join(path.stem for path in self.notebooks)}")
        return chosen

    def input_hash(self, notebook: Path) -> str:
        """sha256 over what a notebook is made from: cells, profile, package, lock, tables of earlier notebooks."""
        try:
            cells = nbformat.read(notebook, as_version=4).cells
        except (ValueError, KeyError, AttributeError, nbformat.ValidationError) as error:
            raise StudyError(f"{notebook.name} is not a readable notebook; restore it") from error
        package = Path(__file__).parents[1]
        modules = {path.relative_to(package): path for path in sorted(package.rglob("*.py"))}
        earlier = [path for path in self.notebooks if path.name < notebook.name]
        parts = {
            "cells": [(cell.cell_type, cell.source, cell.metadata.get("tags", [])) for cell in cells],
            "profile": self.profile.model_dump_json(),
            "package": {str(name): _sha256(path) for name, path in modules.items() if name.parts[0] not in NOT_HASHED},
            "lock": _sha256(paths.ROOT / "requirements.lock"),
            "tables": {path.stem: self.tables(path) for path in earlier},
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def tables(self, notebook: Path) -> dict[str, str]:
        """File name to sha256 of the tables that a notebook wrote."""
        found = sorted(self.results.glob(f"{notebook.name[:2]}_*"))
        return {path.name: _sha256(path) for path in found if path.is_file()}

    def up_to_date(self, notebook: Path) -> bool:
        """Whether running the notebook again would change nothing."""
        state = self.state.get(notebook.stem)
        return (
            state is not None
            and state.finished
            and (self.executed / notebook.name).is_file()
            and state.hash == self.input_hash(notebook)
            and state.tables == self.tables(notebook)
        )

    def execute(self, notebook: Path, expected: float | None = None) -> None:
        """Run one notebook and record it; ``expected`` seconds are shown beside the elapsed time."""
        state = self.state[notebook.stem] = NotebookState(self.input_hash(notebook))
        self._save_state()
        label = f"last run took {run_report.clock(expected)}"  # that run may have had a cache
        bar_format = f"{notebook.stem}: cell {{n_fmt}} of {{total_fmt}}, elapsed {{elapsed}}, {label}"
        progress = {"bar_format": bar_format, "ncols": shutil.get_terminal_size().columns, "leave": False}
        terminal = sys.stderr.isatty()
        if not terminal:
            _say(f"{notebook.stem}: started, {label}")
        started = time.monotonic()
        with Watch() as watch:
            try:
                papermill.execute_notebook(
                    notebook,
                    self.executed / notebook.name,
                    parameters=self.parameters,
                    engine_name=ENGINE,
                    kernel_name="python3",
                    language="python",
                    cwd=paths.NOTEBOOKS,
                    progress_bar=progress if terminal else False,
                    extra_arguments=["--log-level=CRITICAL"],  # the kernel program logs into our progress lines
                    watch=watch,
                )
            except (PapermillExecutionError, DeadKernelError) as error:
                raise NotebookFailed(self._explain(notebook, error, watch)) from error
        state.seconds = round(time.monotonic() - started, 1)
        state.peak_memory_mb = watch.peak_memory_mb
        state.tables = self.tables(notebook)
        state.finished = True
        self._save_state()
        _say(f"{notebook.stem}: done, elapsed {run_report.clock(state.seconds)}, {state.peak_memory_mb:.0f} MB")

    def check_writable(self) -> None:
        """Make the folders; raise ``StudyError`` where one cannot be written."""
        for folder in (self.executed, self.results, self.figures):
            probe = folder / ".write_probe"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                probe.write_bytes(b"probe")
                probe.unlink()
            except OSError as error:
                raise _cannot_write(folder, error) from error

    def _load_state(self):
        try:
            return TypeAdapter(dict[str, NotebookState]).validate_json(self.state_file.read_bytes())
        except OSError:  # nothing has been run yet
            return {}
        except ValidationError:
            _say(f"{run_report.shown(self.state_file)} is damaged; all notebooks count as not run")
            return {}

    def _save_state(self):
        partial = self.state_file.with_suffix(".partial")
        content = {name: asdict(state) for name, state in self.state.items()}
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        os.replace(partial, self.state_file)

    def _explain(self, notebook, error, watch):
        if isinstance(error, DeadKernelError):
            place = "the kernel died"
            held = f"it last held {watch.memory_mb:.0f} MB"
            problem = f"most likely out of memory ({held}); close programs, or use a smaller profile"
        else:
            lines = [line.strip() for line in error.source.splitlines() if line.strip()]
            place = f"cell [{error.exec_count}] failed: {(lines or [''])[0]}"
            message = "\n  ".join(line[:300] for line in str(error.evalue).strip().splitlines()[:4])
            problem = message if error.ename == "StudyError" else f"{error.ename}: {message}"
            if error.ename == "OSError" and any(f"[Errno {number}]" in message for number in FULL_DISK):
                problem += " (free some space, or choose another place with --output DIR)"
        executed = run_report.shown(self.executed / notebook.name)
        return f"{notebook.stem}: {place}\n  {problem}\n  so far: {executed}; earlier notebooks are kept"


def run(profile: str = "default", only: str = "", force: bool = False, output: str = "") -> int:
    """Run a profile's notebooks, or ``only`` one; returns the exit code (0, 1 for a failed cell, 130 for Ctrl-C).

    Raises
    ------
    StudyError : as ``Run`` does; an unknown notebook; a full disk.
    """
    os.environ.update(QUIET)
    logging.getLogger("papermill").setLevel(logging.ERROR)
    job = Run(profile, output)
    chosen = job.choose(only)
    job.check_writable()
    source, started, executed = run_report.source_version(), time.monotonic(), []
    notebook = chosen[0]
    try:
        for notebook in chosen:
            if not force and job.up_to_date(notebook):
                _say(f"{notebook.stem}: unchanged, skipped")
                continue
            job.execute(notebook, run_report.expected_seconds(job, notebook.stem))
            executed.append(notebook.stem)
        run_report.write(job, source, executed, time.monotonic() - started)
    except KeyboardInterrupt:
        _say(
            f"interrupted in {notebook.stem}; finished notebooks are kept, the same command (no --force) resumes there"
        )
        return 130
    except NotebookFailed as failure:
        _say(f"ccq: {failure}")
        return 1
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        raise _cannot_write(job.executed, error) from error
    run_report.show(job)
    return 0


def _cannot_write(folder, error):
    return StudyError(f"cannot write into {folder} ({error.strerror}); choose another place with --output DIR")


def _sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def _say(text):
    print(text, file=sys.stderr, flush=True)
