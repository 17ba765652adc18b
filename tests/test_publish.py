"""Publishing: what is removed, what is kept and what is refused."""

import re
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
from ccq_utils.run.publish import claims_markdown, goals_markdown, publish, with_outputs, with_times

PROFILE = """\
name: default
description: for tests
models: [lexical, wordllama]
large_model: lexical
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


def test_goals_stand_side_by_side_and_reached_ones_are_bold(tmp_path):
    for name, own in (("default", 0.991), ("wiki", 0.975)):
        (tmp_path / name).mkdir()
        row = {"factor": 48, "goal": 0.98, "general text": 0.96, "own corpus": own}
        row |= {"best_other": "OPQ, own corpus", "best_other_retention": 0.95}
        pd.DataFrame([row]).to_csv(tmp_path / name / "07_goals.csv", index=False)
    *_, line = goals_markdown([tmp_path / "default", tmp_path / "nowhere", tmp_path / "wiki"]).splitlines()
    best = "0.950 (OPQ, own corpus)"
    assert line == f"| 48x | 0.98 | 0.960 | **0.991** | {best} | 0.960 | 0.975 | {best} |"


def test_summary_tells_what_is_contradicted_from_what_is_not_decided(tmp_path):
    facts = {"K1": ("not reproduced", ""), "K3": ("not reproduced", "no difference seen"), "S1": ("reproduced", "")}
    for name in ("default", "wiki"):
        (tmp_path / name).mkdir()
        rows = [
            {"claim": claim, "statement": "x", "expected": "above 0", "measured": 0.1, "low": 0.0, "high": 0.2}
            | {"verdict": verdict, "note": note}
            for claim, (verdict, note) in facts.items()
        ]
        if name == "wiki":
            rows[2] |= {"verdict": "partly"}
        pd.DataFrame(rows).to_csv(tmp_path / name / "07_claims.csv", index=False)
    lines = claims_markdown([tmp_path / "default", tmp_path / "wiki"]).splitlines()
    assert "* **The paper's claims**: contradicted: K1; not decided: K3." in lines
    assert "* **This study's own**: reproduced: S1 (`default`)." in lines


def test_the_readmes_numbers_are_those_of_the_committed_results():
    text = (paths.ROOT / "README.md").read_text(encoding="utf-8")
    folders = [paths.results_folder(name) for name in ("default", "wiki")]
    if not all(list(folder.glob("*_scores.parquet")) for folder in folders):
        pytest.skip("no committed results")
    assert claims_markdown(folders) in text
    assert goals_markdown(folders) in text
    assert with_times(text, run_report.read(folders[0])["cold_run"]) == text


def test_times_come_from_the_last_cold_run():
    text = "Takes <!-- time:study -->?<!-- end -->, <!-- time:02 --><!-- end --> in 02, at <!-- time:memory -->?<!-- end -->."
    cold = {"seconds": 610.0, "notebooks": {"01_a": [520.0, 2140.0], "02_b": [80.0, None]}}
    plain = re.sub("<!--.*?-->", "", with_times(text, cold))
    assert plain == "Takes 10 minutes, 80 seconds in 02, at 2.1 GB."
    assert with_times(with_times(text, cold), cold) == with_times(text, cold)
    with pytest.raises(StudyError, match="no cold run tells time:study"):
        with_times(text, None)
    with pytest.raises(StudyError, match="no cold run tells time:03"):
        with_times(text.replace("02", "03"), cold)
