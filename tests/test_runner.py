"""The runner: resume, skip, --only, --force, failures and the report, on small notebooks made here."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import papermill
import psutil
import pytest
from papermill.exceptions import PapermillExecutionError

from ccq_utils import cli
from ccq_utils.common import paths
from ccq_utils.run import runner

ROOT = Path(__file__).resolve().parents[1]

PROFILE = """\
name: mini
description: for tests
models: [lexical, wordllama]
larger: [static]
large_model: static
tasks: [{name: summary, source: "docstrings:summary", libraries: [networkx]}]
training: {libraries: [seaborn]}
"""

WRITE = """\
from pathlib import Path
folder = Path(output) / "results" if output else Path("../data/results/mini")
(folder / "{name}.csv").write_text("value\\n{value}\\n")"""


def write_notebook(folder, name, *sources, value=1):
    parameters = nbformat.v4.new_code_cell('profile = "default"\noutput = ""', metadata={"tags": ["parameters"]})
    parts = [*sources, WRITE.format(name=name, value=value)]
    cells = [nbformat.v4.new_markdown_cell(f"# {name}"), parameters, *map(nbformat.v4.new_code_cell, parts)]
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / f"{name}.ipynb")


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A checkout of its own with notebooks 01 to 03 and the profile ``mini``."""
    root = tmp_path / "checkout"
    monkeypatch.setattr(paths, "ROOT", root)
    monkeypatch.setattr(paths, "NOTEBOOKS", root / "notebooks")
    monkeypatch.setattr(paths, "BUILD", root / "build")
    monkeypatch.setattr("ccq_utils.data.profile.PROFILES", root / "notebooks" / "profiles")
    monkeypatch.setenv("CCQ_CACHE", str(root / "cache"))
    (root / "notebooks" / "profiles").mkdir(parents=True)
    (root / "notebooks" / "profiles" / "mini.yaml").write_text(PROFILE)
    (root / "requirements.lock").touch()
    (root / "pyproject.toml").write_text('[project]\ndependencies = ["numpy>=2", "model2vec[distill]"]\n')
    for name in ("01_first", "02_second", "03_third"):
        write_notebook(root / "notebooks", name)
    return root


@pytest.fixture
def executed(monkeypatch):
    """Replaces kernels by ``exec`` in this process; the names of the notebooks that were run."""
    names = []

    def execute(source, target, parameters, **_):
        notebook = nbformat.read(source, as_version=4)
        names.append(source.stem)
        scope = {}
        for count, cell in enumerate(notebook.cells):
            if cell.cell_type == "code":
                here = Path.cwd()
                os.chdir(paths.NOTEBOOKS)
                try:
                    exec(cell.source, scope)
                except Exception as error:
                    problem = (count, count, cell.source, type(error).__name__, str(error), [])
                    raise PapermillExecutionError(*problem) from error
                finally:
                    os.chdir(here)
                if "parameters" in cell.metadata.get("tags", []):
                    scope.update(parameters)
        nbformat.write(notebook, target)

    monkeypatch.setattr(papermill, "execute_notebook", execute)
    return names


def ccq(*arguments):
    return cli.main(["run", "--profile", "mini", *map(str, arguments)])


def test_real_kernels_run_in_order_and_an_unchanged_study_is_skipped(study, capfd):
    write_notebook(study / "notebooks", "02_second", "import sys; print(sys.executable, profile)")
    assert ccq() == 0
    captured = capfd.readouterr()
    assert "02_second: started, last run took ?" in captured.err
    assert captured.err.index("01_first: done") < captured.err.index("03_third: started")
    assert len(captured.err.strip().splitlines()) == 6, "one line at the start and one at the end of each notebook"
    text = (study / "build" / "mini" / "02_second.ipynb").read_text()
    assert f"{sys.executable} mini" in text
    assert ccq() == 0
    assert capfd.readouterr().err.count("unchanged, skipped") == 3


def test_a_full_cache_is_no_cold_run(study, executed):
    (study / "cache" / "embeddings").mkdir(parents=True)
    assert ccq() == 0
    report = json.loads((study / "data" / "results" / "mini" / "run_report.json").read_text())
    assert not report["cold"] and report["cold_run"] is None


def test_the_log_says_what_a_kernel_is_doing_and_outputs_do_not(study, monkeypatch, capfd):
    slow = "import time\nfrom ccq_utils.common.progress import progress\n"
    slow += "for _ in progress(range(4), 'encoding'): time.sleep(0.3)"
    write_notebook(study / "notebooks", "01_first", slow)
    monkeypatch.setattr(runner, "EVERY", 0.2)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert ccq("--only", "1") == 0
    assert "01_first: cell 4 of 5, elapsed 0:0" in (error := capfd.readouterr().err) and "; encoding: " in error
    notebook = nbformat.read(study / "build" / "mini" / "01_first.ipynb", as_version=4)
    assert not any("encoding" in str(cell.outputs) for cell in notebook.cells if cell.cell_type == "code")
    (entry,) = runner.run_report.read(study / "data" / "results" / "mini")["notebooks"]
    assert entry["peak_memory_mb"] is None or entry["peak_memory_mb"] > 20


def test_a_failed_cell_is_explained_and_the_next_call_resumes_there(study, capfd):
    kernel_logs = "import logging, sys; logging.basicConfig(stream=sys.__stderr__, force=True)"
    kernel_logs += "; logging.getLogger('tornado.general').error('Traceback of a socket')"
    write_notebook(study / "notebooks", "02_second", kernel_logs, "\n# divide\nvalue = 1 / 0")
    assert ccq() == 1
    error = capfd.readouterr().err
    assert "ccq: 02_second: cell [4] failed: # divide\n  ZeroDivisionError: division by zero\n" in error
    assert str(study / "build" / "mini" / "02_second.ipynb") in error
    assert "Traceback" not in error and "03_third" not in error
    assert not (study / "data" / "results" / "mini" / "run_report.json").exists()
    write_notebook(study / "notebooks", "02_second", "value = 1")
    assert ccq() == 0
    error = capfd.readouterr().err
    assert "01_first: unchanged, skipped" in error and "02_second: done" in error and "03_third: done" in error


def test_a_dead_kernel_is_explained(study, capfd):
    write_notebook(study / "notebooks", "01_first", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert ccq("--only", "1") == 1
    assert "01_first: the kernel died\n  most likely out of memory" in capfd.readouterr().err


def test_ctrl_c_keeps_finished_notebooks_and_leaves_no_kernel(study, tmp_path):
    sleeping = tmp_path / "sleeping"
    sleep = f"import pathlib, time; pathlib.Path({str(sleeping)!r}).touch(); time.sleep(600)"
    write_notebook(study / "notebooks", "02_second", sleep)
    command = [sys.executable, "-m", "ccq_utils.cli", "run", "--profile", "mini"]
    environment = {**os.environ, "CCQ_ROOT": str(study), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path)
    lines = [process.stderr.readline()]
    while "02_second: started" not in lines[-1]:
        lines.append(process.stderr.readline())
        assert lines[-1], lines
    while not sleeping.exists():
        time.sleep(0.1)
    kernels = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=60)[1]
    assert process.returncode == 130, rest
    assert "interrupted in 02_second; finished notebooks are kept" in rest and "Traceback" not in rest
    assert kernels and not psutil.wait_procs(kernels, timeout=10)[1]
    state = json.loads((study / "build" / "mini" / "run_state.json").read_text())
    assert list(state) == ["01_first"]


def test_interruption_resumes_at_the_interrupted_notebook(study, executed, monkeypatch, capsys):
    whole = papermill.execute_notebook

    def interrupted(source, *rest, **named):
        if source.stem == "02_second":
            raise KeyboardInterrupt
        return whole(source, *rest, **named)

    monkeypatch.setattr(papermill, "execute_notebook", interrupted)
    assert ccq() == 130
    assert "interrupted in 02_second" in capsys.readouterr().err
    monkeypatch.setattr(papermill, "execute_notebook", whole)
    assert ccq() == 0
    assert executed == ["01_first", "02_second", "03_third"]


def test_study_errors_of_a_cell_show_only_their_message(study, executed, capsys):
    failing = "class StudyError(Exception): ...\nraise StudyError('no table; run 01_first before')"
    write_notebook(study / "notebooks", "01_first", failing)
    assert ccq() == 1
    error = capsys.readouterr().err
    assert "ccq: 01_first: cell [2]: no table; run 01_first before; so far: " in error and error.count("ccq: ") == 1
    assert error.endswith("01_first.ipynb; earlier notebooks are kept\n") and error.count("\n") == 2


def test_a_full_disk_in_a_cell_is_named_by_the_cell(study, executed, capsys, tmp_path):
    full = "import errno\nfrom ccq_utils.common.files import write_atomically\n"
    full += f"with write_atomically({str(tmp_path / 'cache' / 'a')!r}): raise OSError(errno.ENOSPC, 'No space left')"
    write_notebook(study / "notebooks", "01_first", full)
    assert ccq() == 1
    error = capsys.readouterr().err
    assert f"01_first: cell [2]: the disk of {tmp_path / 'cache'} is full; free space" in error
    assert error.splitlines()[-1].startswith("ccq: ") and not list((study / "cache").iterdir())


def test_a_changed_cell_reruns_its_notebook_and_those_that_read_other_tables_then(study, executed):
    assert ccq() == 0
    executed.clear()
    write_notebook(study / "notebooks", "02_second", "# another comment")
    assert ccq() == 0
    assert executed == ["02_second"], "its tables did not change, so 03 has the same inputs"
    executed.clear()
    write_notebook(study / "notebooks", "01_first", value=2)
    assert ccq() == 0
    assert executed == ["01_first", "02_second", "03_third"]


def test_outputs_and_prose_and_metadata_of_the_source_do_not_matter(study, executed):
    assert ccq() == 0
    source = study / "notebooks" / "01_first.ipynb"
    notebook = nbformat.read(source, as_version=4)
    notebook.cells[1].outputs = [nbformat.v4.new_output("stream", text="an output")]
    notebook.metadata["language_info"] = {"name": "python"}
    notebook.cells[0].source = "# Better prose"
    nbformat.write(notebook, source)
    executed.clear()
    assert ccq() == 0
    assert executed == []


@pytest.mark.parametrize("damage", [lambda path: path.write_text("value\n9\n"), lambda path: path.unlink()])
def test_a_damaged_table_is_written_again(study, executed, damage):
    assert ccq() == 0
    executed.clear()
    table = study / "data" / "results" / "mini" / "01_first.csv"
    damage(table)
    assert ccq() == 0
    assert executed == ["01_first"] and table.read_text() == "value\n1\n"


def test_profile_and_package_and_lock_are_inputs(study, executed, monkeypatch):
    before = runner.Run("mini").input_hash(study / "notebooks" / "01_first.ipynb")
    (study / "requirements.lock").write_text("numpy==1\n")
    lock = runner.Run("mini").input_hash(study / "notebooks" / "01_first.ipynb")
    (study / "notebooks" / "profiles" / "mini.yaml").write_text(PROFILE + "seed: 7\n")
    seed = runner.Run("mini").input_hash(study / "notebooks" / "01_first.ipynb")
    monkeypatch.setattr(runner, "NOT_HASHED", {*runner.NOT_HASHED, "codecs"})
    package = runner.Run("mini").input_hash(study / "notebooks" / "01_first.ipynb")
    assert len({before, lock, seed, package}) == 4


def test_claims_and_ones_own_texts_are_inputs(study, tmp_path):
    (tmp_path / "texts.jsonl").write_text('{"id": 1, "text": "one"}')
    profile, source = study / "notebooks" / "profiles" / "mini.yaml", f'source: "jsonl:{tmp_path / "texts.jsonl"}"'
    profile.write_text(PROFILE.replace("libraries: [seaborn]", source))
    before = runner.Run("mini").input_hash(study / "notebooks" / "01_first.ipynb")
    (tmp_path / "texts.jsonl").write_text('{"id": 1, "text": "two"}')
    text = runner.Run("mini").input_hash(study / "notebooks" / "01_first.ipynb")
    (study / "data").mkdir(exist_ok=True)
    (study / "data" / "claims.yaml").write_text("[]")
    claims = runner.Run("mini").input_hash(study / "notebooks" / "01_first.ipynb")
    assert len({before, text, claims}) == 3


def test_a_notebook_without_tables_is_run_once_and_reported(study, executed):
    primer = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 + 1")])
    nbformat.write(primer, study / "notebooks" / "00_primer.ipynb")
    assert ccq("--only", "0") == 0 and ccq() == 0 and ccq() == 0
    assert executed == ["00_primer", "01_first", "02_second", "03_third"]
    report = runner.run_report.read(study / "data" / "results" / "mini")
    assert report["notebooks"][0]["name"] == "00_primer" and not any(name.startswith("00") for name in report["tables"])


@pytest.mark.parametrize("only", ["02", "2", "02_second", "02_second.ipynb"])
def test_only_runs_one_notebook(study, executed, only):
    assert ccq("--only", only) == 0
    assert executed == ["02_second"]


def test_only_an_unknown_notebook_names_the_known_ones(study, executed, capsys):
    assert ccq("--only", "07") == 2
    assert capsys.readouterr().err == "ccq: unknown notebook '07'; known: 01_first, 02_second, 03_third\n"


def test_force_runs_what_is_up_to_date(study, executed):
    assert ccq() == 0 and ccq("--only", "03", "--force") == 0 and ccq("--force") == 0
    assert executed == [*["01_first", "02_second", "03_third"], "03_third", *["01_first", "02_second", "03_third"]]


def test_unknown_profile_is_one_line(study, capsys):
    assert cli.main(["run", "--profile", "nope"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("ccq: unknown profile 'nope'; known: mini") and error.count("\n") == 1


def test_profile_by_path_is_handed_on_as_absolute_path(study, tmp_path, monkeypatch):
    (tmp_path / "own.yaml").write_text(PROFILE.replace("mini", "own"))
    monkeypatch.chdir(tmp_path)
    job = runner.Run("own.yaml", "here")
    assert job.parameters == {"profile": str(tmp_path / "own.yaml"), "output": str(tmp_path / "here")}


def test_output_folder_leaves_the_checkout_alone(study, executed, tmp_path):
    assert ccq("--output", tmp_path / "out") == 0
    assert (tmp_path / "out" / "results" / "01_first.csv").is_file()
    assert (tmp_path / "out" / "notebooks" / "run_state.json").is_file()
    assert not (study / "data").exists() and not (study / "build").exists()


def test_unwritable_output_is_one_line(study, executed, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert ccq("--output", tmp_path / "file" / "out") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"ccq: cannot write to {tmp_path / 'file' / 'out'}") and "choose another folder" in error
    assert error.count("\n") == 1 and executed == []


def test_full_disk_is_one_line(study, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(papermill, "execute_notebook", full)
    assert ccq() == 2
    assert "is full; free space and run again: what is finished is kept" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["{", "[]", '{"01_first": {"hash": 7}}'])
def test_a_damaged_state_file_starts_afresh(study, executed, capsys, content):
    assert ccq() == 0
    (study / "build" / "mini" / "run_state.json").write_text(content)
    executed.clear()
    assert ccq() == 0
    assert executed == ["01_first", "02_second", "03_third"]
    assert "run_state.json is damaged; all notebooks count as not run" in capsys.readouterr().err


def test_an_unreadable_notebook_is_named(study, executed, capsys):
    (study / "notebooks" / "02_second.ipynb").write_text("{")
    assert ccq() == 2
    assert capsys.readouterr().err.endswith("ccq: 02_second.ipynb is not a readable notebook; restore it\n")


def test_report_and_summary(study, executed, capsys, tmp_path):
    claims = "claim,statement,measured,low,high,verdict\nC1,joining helps,0.123456,0.1,0.2,holds\n"
    results = study / "data" / "results" / "mini"
    results.mkdir(parents=True)
    (results / "07_claims.csv").write_text(claims)
    assert ccq() == 0
    printed = capsys.readouterr().out
    assert "joining helps" in printed and "0.123" in printed and "0.123456" not in printed
    assert str(study / "build" / "mini") in printed and "peak MB" in printed and "(cold: empty cache" in printed
    report = json.loads((results / "run_report.json").read_text())
    assert report["profile"] == "mini" and report["seed"] == 20251004 and report["git_commit"] is None
    assert set(report["packages"]) == {"numpy", "model2vec"}
    assert [entry["name"] for entry in report["notebooks"]] == ["01_first", "02_second", "03_third"]
    assert not any(entry["skipped"] for entry in report["notebooks"])
    assert str(tmp_path) not in json.dumps(report)
    assert report["cold"] and list(report["cold_run"]["notebooks"]) == ["01_first", "02_second", "03_third"]
    cold = report["cold_run"]
    assert ccq("--only", "2", "--force") == 0
    report = json.loads((results / "run_report.json").read_text())
    assert [entry["skipped"] for entry in report["notebooks"]] == [True, False, True]
    assert not report["cold"] and report["cold_run"] == cold, "times of the last cold run are handed on"
    assert "02_second: started, last run took 0:00" in capsys.readouterr().err
