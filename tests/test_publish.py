"""Publishing: what is removed, what is kept and what is refused."""

import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from ccq_utils import cli, paths, runner
from ccq_utils.errors import StudyError
from ccq_utils.publish import clean, publish

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


def stream(text, name="stdout"):
    return new_output("stream", text=text, name=name)


def result(**data):
    return new_output("execute_result", data=data, execution_count=3)


def test_traces_of_the_run_are_removed_and_outputs_kept():
    notebook = clean(executed_notebook(stream("0.5\n"), stream(" \n", "stderr"), result(**{"text/plain": "7"})), "01_a")
    nbformat.validate(notebook)
    assert [cell.source for cell in notebook.cells] == ["# Title", 'profile = "default"', "work()"]
    assert [cell.execution_count for cell in notebook.cells[1:]] == [1, 2]
    work = notebook.cells[-1]
    assert work.metadata == {"tags": ["kept"]}
    assert [output.output_type for output in work.outputs] == ["stream", "execute_result"]
    assert work.outputs[1].execution_count == 2
    assert notebook.metadata == {
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }


def test_streams_are_joined_in_place_and_progress_bars_keep_their_end():
    pieces = [stream("a\n\r 0%"), stream("\r50%"), stream("\r100%\n"), result(**{"text/plain": "7"}), stream("b\n")]
    first, _, last = clean(executed_notebook(*pieces), "01_a").cells[-1].outputs
    assert first.text == "a\n100%\n" and last.text == "b\n"


@pytest.mark.parametrize("folder", [str(paths.ROOT), str(Path.home()), sys.prefix])
@pytest.mark.parametrize("kind", ["stream", "text/html", "image/svg+xml"])
def test_a_path_of_this_machine_is_refused(folder, kind):
    text = f"read from {folder}/table.csv"
    with pytest.raises(StudyError, match=r"01_a, cell \[2\] shows a path of this machine"):
        clean(executed_notebook(stream(text) if kind == "stream" else result(**{kind: text})), "01_a")


def test_pictures_and_longer_names_are_no_paths():
    output = result(**{"image/png": f"{Path.home()}/abc", "text/plain": f"see{Path.home()} and {Path.home()}less"})
    clean(executed_notebook(output), "01_a")


def test_stderr_and_errors_are_refused():
    with pytest.raises(StudyError, match=r"01_a, cell \[2\] wrote to stderr: UserWarning: careful"):
        clean(executed_notebook(stream("UserWarning: careful\n", "stderr")), "01_a")
    with pytest.raises(StudyError, match=r"01_a, cell \[2\] ended in ValueError: no"):
        clean(executed_notebook(new_output("error", ename="ValueError", evalue="no", traceback=[])), "01_a")


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """A checkout with one finished notebook of the default profile."""
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(paths, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setattr(paths, "BUILD", tmp_path / "build")
    monkeypatch.setattr("ccq_utils.profile.PROFILES", tmp_path / "notebooks" / "profiles")
    (tmp_path / "notebooks" / "profiles").mkdir(parents=True)
    (tmp_path / "build" / "default").mkdir(parents=True)
    (tmp_path / "notebooks" / "profiles" / "default.yaml").write_text(PROFILE)
    source = tmp_path / "notebooks" / "01_a.ipynb"
    nbformat.write(clean(executed_notebook(), "01_a"), source)
    nbformat.write(executed_notebook(stream("0.5\n")), tmp_path / "build" / "default" / "01_a.ipynb")
    job = runner.Run()
    job.state["01_a"] = runner.NotebookState(job.input_hash(source), finished=True)
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
    nbformat.write(executed_notebook(stream("x" * 1_000_001)), paths.BUILD / "default" / "01_a.ipynb")
    with pytest.raises(StudyError, match="01_a would have 1,0.* bytes"):
        publish()
    assert finished.read_text() == before
