"""The teaching notebooks on the profile ``tiny``: their numbers hold, and the checks that say so can fail."""

import ast
import re
import warnings

import matplotlib
import nbformat
import papermill
import pytest
from nbconvert import SlidesExporter

from ccq_utils.common import paths

FOLDER = paths.NOTEBOOKS / "solutions"
SOLUTIONS = sorted(FOLDER.glob("*.ipynb"))
LECTURE = paths.NOTEBOOKS / "lecture.ipynb"
TEACHING = [*SOLUTIONS, LECTURE]
MISTAKES = {
    "00_solutions": ("np.arange(len(grades)) + 2", "np.arange(len(grades)) + 3"),
    "01_solutions": ("strongest = max(", "strongest = min("),
    "02_solutions": ("loud = np.array([10, 1, 1])", "loud = np.array([1, 1, 1])"),
    "03_solutions": ("weight / sum(weights) * (", "1 / len(weights) * ("),
    "04_solutions": ("PercentileQuantizer(2).fit(each)", "PercentileQuantizer(2).fit(calibration)"),
    "05_solutions": (
        "for count in (1, 2, 3):\n    members = MEMBERS[:count]",
        "for count in (1, 2, 3):\n    members = MEMBERS[:1]",
    ),
    "06_solutions": ("share[:, None] * one for", "one for"),
    "07_solutions": ("after, rounded = before - 2 * basis.numel()", "after, rounded = before - basis.numel()"),
    "08_solutions": ("encode_document(list(notes.values()))", "encode_document(list(notes.values())[::-1])"),
    "lecture_solutions": ("np.median(vectors, axis=0)", "np.mean(vectors, axis=0)"),
    "lecture": ("np.hstack([unit(first), unit(second)])", "np.hstack([first, second])"),
}
"""A slip that a reader could make, for each notebook; an assert of that notebook has to notice it."""

every = pytest.mark.parametrize("path", TEACHING, ids=lambda path: path.stem)


def cells(path, kind="code"):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def tagged(path, tag):
    (cell,) = (cell for cell in cells(path) if tag in cell.metadata.get("tags", []))
    return cell.source


def execute(path, change=("", "")):
    """What the cells of a notebook define, run here: several kernels would take a minute to start."""
    names = {"__name__": path.stem}
    for cell in cells(path):
        exec(compile(cell.source.replace(*change), path.stem, "exec"), names)
    return names


@pytest.fixture(scope="module", autouse=True)
def quiet_and_cached(tmp_path_factory):
    """One cache for all notebooks of this file, and no windows."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*non-interactive.*")
        patch.setenv("CCQ_CACHE", str(tmp_path_factory.mktemp("teaching")))
        matplotlib.use("Agg")
        yield


@pytest.fixture(scope="module")
def lecture():
    return execute(LECTURE)


def test_every_notebook_has_solutions():
    numbers = [path.stem[:2] for path in SOLUTIONS if path.stem[:2].isdecimal()]
    assert numbers == [f"{number:02}" for number in range(9)] and set(MISTAKES) == {path.stem for path in TEACHING}


@pytest.mark.parametrize("path", [path for path in SOLUTIONS if path.stem[:2].isdecimal()], ids=lambda path: path.stem)
def test_every_exercise_is_quoted_and_ends_in_a_check(path):
    (notebook,) = paths.NOTEBOOKS.glob(f"{path.stem[:2]}_*.ipynb")
    text = "\n".join(cell.source for cell in cells(notebook, "markdown")).split("## Exercises")[1].split("\n## ")[0]
    asked, sections = re.findall(r"^(\d)\. (.*)$", text, re.M), []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown" and cell.source.startswith("## "):
            sections.append([cell.source])
        elif cell.cell_type == "code" and sections:
            sections[-1].append(cell.source)
    quoted = [re.search(r"^> \*\*Exercise (\d)\.\*\* (.*)$", section[0], re.M).groups() for section in sections]
    assert quoted == asked, "an exercise has changed: solve the new one"
    for _, *code in sections:
        checks = [node for node in ast.walk(ast.parse(code[-1])) if isinstance(node, ast.Assert)]
        assert checks and all(any(isinstance(part, ast.Name) for part in ast.walk(check.test)) for check in checks)


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_solutions_hold(path, capsys):
    execute(path)
    assert capsys.readouterr().out


@every
def test_a_slip_is_noticed(path):
    change = MISTAKES[path.stem]
    assert sum(cell.source.count(change[0]) for cell in cells(path)) == 1
    with pytest.raises(AssertionError):
        execute(path, change)


def test_eight_numbers_in_two_bits(lecture):
    assert lecture["table"].round(2).to_numpy().tolist() == [[2.0, 1.31], [1.06, 0.23]]


ANSWER = tagged(FOLDER / "lecture_solutions.ipynb", "answer")


@pytest.mark.parametrize(
    ("answer", "points"),
    [
        ("", 0),
        (ANSWER, 4),
        (ANSWER.replace("np.median(vectors, axis=0)", "np.zeros(vectors.shape[1])"), 2),
        (ANSWER.replace("packbits(vectors >=", "packbits(vectors >"), 3),
        (ANSWER.replace(", high, low)", ", low, high)"), 2),
    ],
    ids=["nothing", "right", "border at zero", "value on the border", "levels swapped"],
)
def test_the_graded_exercise_tells_right_from_wrong(lecture, answer, points):
    names = dict(lecture)
    exec(answer, names)
    exec(tagged(LECTURE, "check"), names)
    assert names["points"] == points


def test_the_minute_plan_names_cells_that_exist():
    plan = next(cell.source for cell in cells(LECTURE, "markdown") if cell.source.startswith("## Minute plan"))
    spans = [(int(first), int(last or first)) for first, last in re.findall(r"\[(\d+)\](?: to \[(\d+)\])?", plan)]
    starts, count, found = {}, 0, nbformat.read(LECTURE, as_version=4).cells
    for cell in found:
        count += cell.cell_type == "code"
        if section := re.match(r"## (\d) ", cell.source):
            starts[int(section[1])] = count + 1
    assert len(spans) == 7 and [first for first, _ in spans] == [starts[number] for number in sorted(starts)]
    assert all(first <= last <= count for first, last in spans)
    minutes = [tuple(map(int, pair)) for pair in re.findall(r"^\| (\d+) to (\d+) \|", plan, re.M)]
    assert minutes[0][0] == 0 and minutes[-1][1] == 120
    assert all(end == start for (_, end), (start, _) in zip(minutes, minutes[1:], strict=False))


def test_quiz_answers_are_folded():
    quiz = "\n".join(cell.source for cell in cells(LECTURE, "markdown"))
    asked = len(re.findall(r"^\*\*\d\. ", quiz, re.M))
    assert asked == quiz.count("<details><summary>answer</summary>\n\n") == quiz.count("</details>") >= 5


def test_slides_ask_no_other_host_for_anything():
    exporter = SlidesExporter(
        template_name="slides",
        extra_template_basedirs=[str(paths.NOTEBOOKS)],
        reveal_url_prefix="reveal",
        reveal_theme="white",
    )
    page, _ = exporter.from_filename(str(LECTURE))
    assert page.count("<section") > 20 and "reveal/dist/reveal.js" in page
    assert not re.search(r"""(src|href)=["'](https?:)?//|import .* from|url\(["']?https?:|\$\$""", page)
    assert all("slideshow" in cell.metadata for cell in nbformat.read(LECTURE, as_version=4).cells)


@every
def test_committed_outputs_are_clean_and_small(path):
    found = cells(path)
    assert [cell.execution_count for cell in found] == list(range(1, len(found) + 1))
    outputs = [output for cell in found for output in cell.outputs]
    assert outputs and not any(output.output_type == "error" or output.get("name") == "stderr" for output in outputs)
    text = path.read_text(encoding="utf-8")
    assert len(text) < 200_000 and not re.search(r"/(home|root|tmp|work|usr)/|site-packages", text)


@every
def test_a_cell_is_a_screen_and_a_notebook_a_sitting(path):
    assert max(len(cell.source.splitlines()) for cell in cells(path)) <= 24
    assert len(nbformat.read(path, as_version=4).cells) <= 34


@pytest.mark.teaching
@every
def test_runs_in_a_kernel(path, tmp_path):
    """As a reader runs it; minutes, so that only ``make teaching`` does it."""
    papermill.execute_notebook(
        path, tmp_path / path.name, cwd=path.parent, kernel_name="python3", progress_bar=False, log_output=False
    )
