"""The house: imports run downwards, the package stays thin, importing it is cheap."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "ccq_utils"
FLOORS = {
    "common": 1,
    "data": 2,
    "codecs": 2,
    "models": 3,
    "study": 4,
    "deploy": 5,
    "analyses": 5,
    "run": 5,
    "cli": 6,
}
MOST_LINES = 6500
"""What the package must not grow past."""


def imported(path):
    """Modules of the package that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively; name the package"
            names = [node.module] if "." in node.module else [f"{node.module}.{alias.name}" for alias in node.names]
        yield from (name for name in names if name.split(".")[0] == "ccq_utils")


def test_imports_run_downwards():
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        for name in imported(path):
            other = name.split(".")[1]
            assert other == room or FLOORS[other] < FLOORS[room], f"{path.relative_to(PACKAGE)} imports {name}"


def test_no_circle_within_a_sub_package():
    graph = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
    edges = {name: {other for other in imported(path) if other in graph} for name, path in graph.items()}
    done = set()

    def visit(name, above):
        assert name not in above, f"imports run in a circle: {' -> '.join([*above, name])}"
        if name not in done:
            for other in edges[name]:
                visit(other, [*above, name])
            done.add(name)

    for name in graph:
        visit(name, [])


def test_every_room_has_a_floor():
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms | {"cli"} == set(FLOORS)


def test_the_package_is_thin():
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.rglob("*.py"))
    assert lines <= MOST_LINES, f"{lines} lines; what one notebook alone needs belongs into that notebook"


@pytest.mark.parametrize(
    "work, heavy",
    [("import ccq_utils", {"torch", "sentence_transformers"}),
     ("from ccq_utils import Study; Study('default').models", {"sentence_transformers", "mteb"})],
)  # fmt: skip
def test_what_is_not_needed_is_not_imported(work, heavy):
    code = f"{work}; import sys; print(*({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not done.stdout.split(), done.stdout
