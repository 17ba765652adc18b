"""Publishing: what is removed, what is kept and what is refused."""

import itertools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from ccq_utils import cli
from ccq_utils.common import paths
from ccq_utils.common.errors import StudyError
from ccq_utils.run import report as run_report
from ccq_utils.run import runner
from ccq_utils.run.publish import filled, ledger, publish, tables, values, with_outputs
from ccq_utils.study.claims import load_claims

PROFILE = """\
name: default
description: for tests
models: [lexical, wordllama]
larger: [static]
large_model: static
tasks: [{name: summary, source: "docstrings:summary", libraries: [networkx]}]
training: {libraries: [seaborn]}
"""


def executed_notebook(*outputs):
    """What papermill leaves behind."""
    parameters = new_code_cell('profile = "default"', metadata={"tags": ["parameters"]}, execution_count=1)
    injected = new_code_cell('profile = "mini"', metadata={"tags": ["injected-parameters"]}, execution_count=2)
    work = new_code_cell("work()", execution_count=3, outputs=list(outputs))
    work.metadata.update({"papermill": {"duration": 1.5}, "execution": {"iopub.status.busy": "2026"}, "tags": ["kept"]})
    notebook = new_notebook(cells=[new_markdown_cell("# Title"), parameters, injected, work])
    notebook.metadata = nbformat.from_dict({"papermill": {"output_path": "x"}, "language_info": {"version": "3.11.0"}})
    return notebook


def published(executed, name):
    source = new_notebook(cells=[new_markdown_cell("# New title")])
    source.cells += [new_code_cell('profile = "default"'), new_code_cell("work()", metadata={"tags": ["kept"]})]
    return with_outputs(source, executed, name)


def stream(text, name="stdout"):
    return new_output("stream", text=text, name=name)


def result(**data):
    return new_output("execute_result", data=data, execution_count=3)


def test_traces_of_the_run_are_removed_and_outputs_kept():
    notebook = published(
        executed_notebook(stream("0.5\n"), stream(" \n", "stderr"), result(**{"text/plain": "7"})), "01_a"
    )
    nbformat.validate(notebook)
    assert [cell.source for cell in notebook.cells] == ["# New title", 'profile = "default"', "work()"]
    assert [cell.execution_count for cell in notebook.cells[1:]] == [1, 2]
    work = notebook.cells[-1]
    assert work.metadata == {"tags": ["kept"]}
    assert [output.output_type for output in work.outputs] == ["stream", "execute_result"]
    assert work.outputs[1].execution_count == 2
    assert notebook.metadata == {
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }


def test_streams_are_joined_in_place():
    pieces = [stream("a\n"), stream("b\n"), result(**{"text/plain": "7"}), stream("c\n")]
    first, _, last = published(executed_notebook(*pieces), "01_a").cells[-1].outputs
    assert first.text == "a\nb\n" and last.text == "c\n"


@pytest.mark.parametrize("folder", [str(paths.ROOT), str(Path.home()), sys.prefix])
@pytest.mark.parametrize("kind", ["stream", "text/html", "image/svg+xml"])
def test_a_path_of_this_machine_is_refused(folder, kind):
    text = f"read from {folder}/table.csv"
    with pytest.raises(StudyError, match=r"01_a, cell \[2\] shows a path of this machine"):
        published(executed_notebook(stream(text) if kind == "stream" else result(**{kind: text})), "01_a")


def test_pictures_and_longer_names_are_no_paths():
    output = result(**{"image/png": f"{Path.home()}/abc", "text/plain": f"see{Path.home()} and {Path.home()}less"})
    published(executed_notebook(output), "01_a")


def test_stderr_and_errors_are_refused():
    with pytest.raises(StudyError, match=r"01_a, cell \[2\] wrote to stderr: UserWarning: careful"):
        published(executed_notebook(stream("UserWarning: careful\n", "stderr")), "01_a")
    with pytest.raises(StudyError, match=r"01_a, cell \[2\] ended in ValueError: no"):
        published(executed_notebook(new_output("error", ename="ValueError", evalue="no", traceback=[])), "01_a")


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """A checkout with one finished notebook of the default profile."""
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(paths, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setattr(paths, "BUILD", tmp_path / "build")
    monkeypatch.setattr("ccq_utils.data.profile.PROFILES", tmp_path / "notebooks" / "profiles")
    (tmp_path / "notebooks" / "profiles").mkdir(parents=True)
    (tmp_path / "build" / "default").mkdir(parents=True)
    (tmp_path / "build" / "default" / "run_state.json").write_text("{}")
    (tmp_path / "requirements.lock").touch()
    (tmp_path / "notebooks" / "profiles" / "default.yaml").write_text(PROFILE)
    source = tmp_path / "notebooks" / "01_a.ipynb"
    nbformat.write(published(executed_notebook(), "01_a"), source)
    nbformat.write(executed_notebook(stream("0.5\n")), tmp_path / "build" / "default" / "01_a.ipynb")
    job = runner.Run()
    job.state["01_a"] = runner.NotebookState(job.input_hash(source))
    job._save_state()
    return source


def test_a_finished_run_is_published_and_stays_up_to_date(finished, capsys):
    assert cli.main(["publish"]) == 0
    assert capsys.readouterr().out == f"{finished}\n"
    assert "0.5" in finished.read_text() and "mini" not in finished.read_text()
    assert runner.Run().up_to_date(finished)


def test_a_changed_notebook_is_not_published(finished, capsys):
    nbformat.write(new_notebook(cells=[new_code_cell("other()")]), finished)
    assert cli.main(["publish"]) == 2
    assert "not run, or changed since: 01_a; run `ccq run --profile default` first" in capsys.readouterr().err


def test_a_large_notebook_is_refused_and_nothing_written(finished):
    before = finished.read_text()
    nbformat.write(executed_notebook(stream("x" * 1_500_001)), paths.BUILD / "default" / "01_a.ipynb")
    with pytest.raises(StudyError, match="01_a would have 1,5.* bytes"):
        publish()
    assert finished.read_text() == before


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Folders of two profiles with a few claims each and a cold run."""
    monkeypatch.setattr(paths, "results_folder", lambda profile, output="": tmp_path / profile)
    found = {"default": {"K1": ("does not hold", ""), "R1": ("holds", ""), "R2": ("partly", "holds on a")}}
    found["small"] = found["default"] | {"K1": ("holds", "")}
    for name, claims in found.items():
        (tmp_path / name).mkdir()
        rows = [(claim, 0.1, 0.05, 0.2, *verdict) for claim, verdict in claims.items()]
        table = pd.DataFrame(rows, columns=["claim", "measured", "low", "high", "verdict", "note"])
        table.to_csv(tmp_path / name / run_report.CLAIMS, index=False)
    cold = {"seconds": 610.0, "notebooks": {"01_a": [520.0, 2140.0], "02_b": [80.0, None]}}
    (tmp_path / "default" / run_report.NAME).write_text(json.dumps({"cold_run": cold}))
    return tmp_path


def test_markers_name_claims_of_all_profiles_and_the_times_of_the_cold_run(results):
    found = values()
    assert found["claim:K1"] == (
        "`small` 0.100 [0.050, 0.200] **holds**; `default` 0.100 [0.050, 0.200] **does not hold**"
    )
    lines = found["table:claims"].strip().splitlines()
    assert lines[0] == "| claim | small | default |" and lines[2].startswith(
        "| Small models joined beat a larger one (K1) "
    )
    assert lines[-1].endswith("(R) | holds in 1, partly in 1 | holds in 1, partly in 1 |")
    text = (
        "Takes <!-- time:study -->?<!-- end -->, <!-- time:02 --><!-- end --> in 02, at <!-- memory -->?<!-- end -->."
    )
    assert re.sub("<!--.*?-->", "", filled(text, found)) == "Takes 10 minutes, 80 seconds in 02, at 2.1 GB."
    assert filled(filled(text, found), found) == filled(text, found)
    with pytest.raises(StudyError, match="nothing tells time:03"):
        filled(text.replace("02", "03"), found)


def test_the_ledger_counts_verdicts_and_lists_every_claim(results):
    text = ledger(tables(run_report.CLAIMS, "claim"))
    assert "Profile `small`:\n\n* the paper's claims: holds in 2, partly in 1\n" in text
    assert "* the paper's claims: holds in 1, does not hold in 1, partly in 1\n" in text
    assert all(f"| **{claim.id}** {claim.statement} |" in text for claim in load_claims())


def test_the_texts_numbers_are_those_of_the_committed_results():
    changed = ["git", "-C", str(paths.ROOT), "status", "--porcelain", "--", "data/results"]
    if shutil.which("git") and subprocess.run(changed, capture_output=True).stdout:
        pytest.skip("data/results holds a run that is not committed")
    claims = tables(run_report.CLAIMS, "claim")
    if any(set(table.index) != {claim.id for claim in load_claims()} for table in claims.values()):
        pytest.skip("the committed results are of other claims")
    for path in (paths.ROOT / "README.md", *paths.NOTEBOOKS.glob("0*.ipynb")):
        text = path.read_text(encoding="utf-8")
        assert filled(text, values()) == text, path.name
    assert (paths.ROOT / "data" / "CLAIMS.md").read_text(encoding="utf-8") == ledger(claims)
    shown = (paths.NOTEBOOKS / "explorer.ipynb").read_text(encoding="utf-8").replace("\\", "")
    for name, table in itertools.product(claims, ("05_at_48x", "07_peers")):
        rows = pd.read_csv(paths.results_folder(name) / f"{table}.csv", dtype=str).dropna(subset=["estimate"])
        assert all(f'"estimate": {estimate},' in shown for estimate in rows["estimate"]), f"run explorer.ipynb: {table}"
