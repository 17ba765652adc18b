"""The committed notebooks: one skeleton, short cells, documented parameters, clean outputs."""

import ast
import re

import nbformat
import numpy as np
import papermill
import pytest

from ccq_utils.common import paths
from ccq_utils.run.publish import LIMIT

NOTEBOOKS = sorted(paths.NOTEBOOKS.glob("0*.ipynb"))
LONGEST_CELL, LONGEST_FUNCTION, MOST_CELLS, MOST_ROWS, MOST_COLUMNS = 20, 12, 34, 16, 9
NAMES = [
    "00_primer",
    "01_select_models",
    "02_concatenation_gains",
    "03_train_decoder",
    "04_calibrate_quantization",
    "05_stress_tests",
    "06_open_questions",
    "07_more_per_byte",
    "08_take_it_home",
]

FOLDERS = r"/(home|root|Users|tmp|work|opt|usr|var|private)/[\w.]"
MACHINE_PATHS = re.compile(rf"(?<![\w./:])({FOLDERS}|[A-Z]:\\[\w.])|site-packages")

every = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path, kind):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def outputs(path):
    """The outputs of a notebook; skips the test where none are committed."""
    found = [output for cell in cells(path, "code") for output in cell.outputs]
    if not found:
        pytest.skip("committed without outputs")
    return found


def texts(output):
    yield output.get("text", "")
    for kind, content in output.get("data", {}).items():
        if kind not in ("image/png", "image/jpeg"):  # base64 is no text
            yield str(content)


def test_there_are_nine_notebooks():
    assert [path.stem for path in NOTEBOOKS] == NAMES


def test_first_dozen_lines_of_the_last_notebook_search_a_folder(tmp_path, monkeypatch, capsys):
    parameters, lines, *_ = (cell.source for cell in cells(NOTEBOOKS[-1], "code"))
    assert len([line for line in lines.splitlines() if line.strip()]) <= 12
    calls = {}

    class Model:
        codec = property(lambda self: self)

        @classmethod
        def from_profile(cls, profile, output=""):
            return cls()

        def vectors(self, texts):
            calls["texts"] = list(texts)
            return np.zeros((1, 8))

        def fit(self, vectors):
            return self

        def encode(self, vectors):
            return np.zeros((1, 3), dtype=np.uint8)

        def search(self, query, codes, k):
            return [0.5], [0]

    monkeypatch.setattr("ccq_utils.deploy.pipeline.CompressedModel", Model)
    (tmp_path / "mine.txt").write_text("my own words")
    exec(f"{parameters}\nfolder = {str(tmp_path)!r}\n{lines}", {})
    assert calls == {"texts": ["my own words"]}
    assert capsys.readouterr().out == "0.500  mine.txt\nthe best 5 of 1 texts; 3 bytes each\n"


@every
def test_notebook_is_one_sitting_long(path):
    assert len(nbformat.read(path, as_version=4).cells) <= MOST_CELLS


@every
def test_versions_stand_in_the_last_cell(path):
    *others, last = nbformat.read(path, as_version=4).cells
    assert "versions_table()" in last.source
    assert not any("versions_table()" in cell.source for cell in others)


@every
def test_a_sentence_follows_every_figure(path):
    """In a text below it, or computed by the cell itself or the next."""
    found = nbformat.read(path, as_version=4).cells
    for cell, below in zip(found, found[1:], strict=False):
        if cell.cell_type == "code" and "study.show(" in cell.source:
            computed = cell.source + (below.source if below.cell_type == "code" else "")
            text = below.cell_type == "markdown" and not below.source.startswith("#")
            assert text or "Markdown(" in computed or "print(" in computed, cell.source


@every
def test_no_time_is_typed(path):
    first = nbformat.read(path, as_version=4).cells[0].source
    assert not re.search(
        r"\b(\d+ ?|(a|an|one|two) )(s|seconds?|minutes?|hours?)\b", re.sub("-->[^<]*<!-- end", "", first)
    ), first


@every
def test_notebook_teaches(path):
    """Goals, what a reader needs, a prediction, an example by hand, a value to change and a folded quiz of three."""
    found = nbformat.read(path, as_version=4).cells
    goals, needed = found[0].source.split("**You will learn**")[1].split("**You need**")
    assert len(re.findall(r"^- ", goals, re.M)) == 3 and needed.strip(" :")
    text = "\n".join(cell.source for cell in found if cell.cell_type == "markdown")
    assert all(re.search(rf"^(#+ |\*\*){words}", text, re.M) for words in ("Predict before you run", "By hand"))
    (change,) = (
        cell.source
        for above, cell in zip(found, found[1:], strict=False)
        if cell.cell_type == "code"
        and "change this and watch" in (cell.source + above.source * (above.cell_type == "markdown")).lower()
    )
    assert re.match(r"\w+ = [^=]+  # .*\n", change) and "Markdown(" in change, change
    ast.literal_eval(ast.parse(change).body[0].value)
    (quiz,) = (cell.source.split("## Quiz\n")[1] for cell in found if "## Quiz\n" in cell.source)
    answer = r"^\*\*(\d)\. [^\n]+\*\*\n\n<details><summary>answer</summary>\n\n[^<]+\n\n</details>$"
    assert re.findall(answer, quiz.split("\n## ")[0], re.M) == ["1", "2", "3"]


@every
def test_committed_tables_fit_a_page(path):
    for cell in cells(path, "code"):
        for output in () if re.search("versions_table|claims.in_brief", cell.source) else cell.outputs:
            rows = re.findall("<tr.*?</tr>", str(output.get("data", {}).get("text/html", "")), re.DOTALL)
            wide = max((len(re.findall("<t[hd][ >]", row)) for row in rows), default=0)
            assert len(rows) <= MOST_ROWS and wide <= MOST_COLUMNS, f"{len(rows)} rows, {wide} columns: {cell.source}"


@every
def test_notebook_is_valid(path):
    nbformat.validate(nbformat.read(path, as_version=4))


@every
def test_first_cell_is_the_numbered_title_and_question(path):
    first = nbformat.read(path, as_version=4).cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith(f"# {path.name[:2]} ") and "**Question" in first.source


@every
def test_exactly_one_cell_is_tagged_parameters(path):
    tagged = [cell for cell in cells(path, "code") if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1


def parameters_cell(path):
    return next(cell for cell in cells(path, "code") if "parameters" in cell.metadata.get("tags", []))


@every
def test_parameters_are_literals_with_a_comment_each(path):
    source = parameters_cell(path).source
    for statement in ast.parse(source).body:
        assert isinstance(statement, ast.Assign)
        ast.literal_eval(statement.value)
    assert all("  # " in line for line in source.splitlines())


@every
def test_papermill_shows_help_for_each_parameter(path):
    found = papermill.inspect_notebook(str(path))
    assert {"profile", "output"} <= set(found)
    assert all(parameter["help"] for parameter in found.values())


@every
def test_code_cells_are_short(path):
    longest = max(cells(path, "code"), key=lambda cell: len(cell.source.splitlines())).source
    assert len(longest.splitlines()) <= LONGEST_CELL, longest


@every
def test_functions_in_cells_are_short(path):
    for cell in cells(path, "code"):
        for node in ast.walk(ast.parse(cell.source)):
            assert not isinstance(node, ast.ClassDef), cell.source
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < LONGEST_FUNCTION, cell.source


@every
def test_notebook_ends_in_verdict_takeaways_and_exercises(path):
    source = "\n".join(cell.source for cell in cells(path, "markdown"))
    headings = [re.sub(r"^#+ (\d+ )?", "", line).strip() for line in source.splitlines() if line.startswith("#")]
    verdict = next((name for name in ("Verdict", "The claims") if name in headings), "no verdict")
    order = [headings.index(name) for name in (verdict, "Takeaways", "Exercises")]
    assert order == sorted(order)


@every
def test_no_path_of_a_machine_in_sources(path):
    for cell in nbformat.read(path, as_version=4).cells:
        assert not MACHINE_PATHS.search(cell.source), cell.source


@every
def test_committed_file_is_small(path):
    assert path.stat().st_size <= LIMIT


@every
def test_committed_outputs_come_from_one_run_from_top_to_bottom(path):
    outputs(path)
    counts = [cell.execution_count for cell in cells(path, "code")]
    assert counts == list(range(1, len(counts) + 1))


@every
def test_committed_outputs_hold_no_error_and_no_stderr(path):
    for output in outputs(path):
        assert output.output_type != "error" and output.get("name") != "stderr", output


@every
def test_committed_outputs_hold_no_path_of_a_machine(path):
    for output in outputs(path):
        for text in texts(output):
            assert not MACHINE_PATHS.search(text), MACHINE_PATHS.search(text)


@every
def test_every_figure_is_committed_as_a_picture(path):
    outputs(path)
    for cell in cells(path, "code"):
        if "study.show(" in cell.source:
            assert any("image/png" in output.get("data", {}) for output in cell.outputs), cell.source[:80]


@every
def test_committed_outputs_hold_no_progress_bar(path):
    for output in outputs(path):
        assert not any(re.search(r"\d+%\|", text) for text in texts(output))
