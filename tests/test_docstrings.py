"""The shipped text, and how it was read from docstrings, on throwaway packages that are written here."""

import hashlib
import importlib.metadata
import itertools
import json
import lzma
import re
import sys

import pytest

from ccq_utils.common.errors import StudyError
from ccq_utils.data import docstrings
from ccq_utils.data.docstrings import DOCSTRINGS, DOCSTRINGS_SHA256, Entry, library_texts, read_library
from ccq_utils.data.profile import load_profile

sys.path.append(str(DOCSTRINGS.parent))  # its maker is no part of the package
import make_docstrings  # noqa: E402
from make_docstrings import installed_entries, rows  # noqa: E402

NORM = '''
def norm(x):
    """Length of
    a vector.

    The norm is never negative, and pkg.linear.norm obeys the triangle inequality; normal vectors have length one.

    Parameters
    ----------
    x : array
        Values to measure.

    See Also
    --------
    scale : Divide by the length: slow.
    dot, cross
    :func:`Shape.area` : How much it covers.
        A second line about areas.

    Notes
    -----
    It is a square root, as <norm object at 0x7fd176ccfdb0>.

    References
    ----------
    .. [1] A book about vectors.

    Examples
    --------
    >>> 3 + 4
    7
    """
'''

numbers = itertools.count()


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Write a package of modules and read it; returns (paths, summary, body, See Also names) by the path below it."""

    def of(init, **modules):
        name = f"throwaway{next(numbers)}"  # imports are cached by name
        (tmp_path / name).mkdir()
        for module, source in {"__init__": init, **modules}.items():
            (tmp_path / name / f"{module}.py").write_text(source.replace("PACKAGE", name))
        monkeypatch.syspath_prepend(tmp_path)
        importlib.invalidate_caches()
        return {entry[0][0].removeprefix(f"{name}."): entry for entry in installed_entries(name)}

    return of


def function(name, docstring="Text.\n\n    Body.\n    "):
    return f'def {name}():\n    """{docstring}"""\n'


# ---- the shipped file -----------------------------------------------------------------------------------------------


def test_shipped_text_is_the_one_whose_hash_the_code_holds():
    assert hashlib.sha256(DOCSTRINGS.read_bytes()).hexdigest() == DOCSTRINGS_SHA256


def test_shipped_text_covers_the_profiles_and_says_whose_it_is():
    shipped = docstrings._shipped(DOCSTRINGS)
    for name in ("default", "tiny"):
        profile = load_profile(name)
        for spec in [*profile.tasks, profile.training]:
            assert set(spec.libraries) <= set(shipped)
    for library, content in shipped.items():
        assert re.fullmatch(r"\d+(\.\d+)+", content["version"]) and content["licence"] and content["source"]
        assert re.search("redistribut|copyright", content["licence_text"].lower())
        assert len(read_library(library)) > 100


def test_shipped_text_holds_no_memory_address():
    for library in docstrings._shipped(DOCSTRINGS):
        for entry in read_library(library):
            assert not re.search(r"\bat 0x[0-9a-f]", entry.summary + entry.body), entry.name


def test_making_it_again_gives_the_same_text(tmp_path):
    shipped = docstrings._shipped(DOCSTRINGS)["networkx"]
    if importlib.metadata.version("networkx") != shipped["version"]:
        pytest.skip("another version of networkx is installed")
    made = tmp_path / "docstrings.json.xz"
    sha256 = make_docstrings.make(made, {"networkx": make_docstrings.LIBRARIES["networkx"]})
    assert sha256 == hashlib.sha256(made.read_bytes()).hexdigest()
    assert json.loads(lzma.decompress(made.read_bytes())) == {"networkx": shipped}


@pytest.mark.parametrize(("content", "state"), [(b"damaged", "damaged"), (None, "missing")])
def test_text_that_is_not_the_shipped_one_is_refused(tmp_path, content, state):
    path = tmp_path / "docstrings.json.xz"
    if content:
        path.write_bytes(content)
    with pytest.raises(StudyError, match=f"docstrings.json.xz, is {state}; get it again: git checkout"):
        docstrings._shipped(path)


def test_library_that_is_not_shipped_is_one_clear_error():
    with pytest.raises(StudyError, match="no docstrings of library 'tkinter' are shipped; accepted: numpy, scipy"):
        read_library("tkinter")


def test_library_texts_hold_each_text_once(monkeypatch):
    entries = [Entry("lib", f"lib.{name}", text, "Body.", ()) for name, text in zip("abc", "xyx", strict=True)]
    monkeypatch.setattr(docstrings, "read_library", lambda library: entries)
    assert library_texts("lib") == {"lib.a": "x\nBody.", "lib.b": "y\nBody."}


# ---- what is read from a docstring ----------------------------------------------------------------------------------


def test_docstring_is_split_into_summary_body_and_names(read):
    _, summary, body, names = read(NORM)["norm"]
    assert summary == "Length of a vector." and names == ["scale", "dot", "cross", "Shape.area"]
    for kept in ("triangle inequality", "Values to measure.", "square root", "object at 0x...>"):
        assert kept in body
    assert "The is never negative, and obeys" in body and "normal vectors" in body, "the own name is removed as a word"
    leaks = ("Length of", "scale", "Divide", "areas", "A book", "3 + 4", "See Also", "References", "Examples")
    assert not [leak for leak in leaks if leak in body]


def test_other_styles_of_docstrings(read):
    found = read(
        function("roll", "Turn it.\n\n    Over and over.\n\n    Example::\n\n        secret = 1\n    ")
        + function("add", "add(x1, x2, /, out=None)\n\n    Add numbers.\n\n    Element by element.\n    ")
    )
    assert found["roll"][2] == "Over and over."
    assert found["add"][1:3] == ("Add numbers.", "Element by element."), "a ufunc's signature line is no summary"


def test_what_is_deprecated_private_or_has_no_body_is_left_out(read):
    source = function("old", "Deprecated name of something.\n\n    Use the other one.\n    ")
    source += function("older", "Old thing.\n\n    .. deprecated:: 1.0\n        Use the other one.\n    ")
    source += function("_hidden") + function("short", "Only a summary.") + function("b") + function("a")
    assert list(read(source, broken="raise RuntimeError")) == ["a", "b"]
    assert list(read('__all__ = ["shown"]\n' + function("shown") + function("other"))) == ["shown"]
    assert read("from json import dumps, JSONDecoder\n") == {}, "of another library"


def test_one_object_is_one_entry_with_all_its_paths(read):
    found = read("from PACKAGE.shapes import area\n", shapes=function("area"))
    ((paths, *_),) = found.values()
    assert [path.split(".", 1)[1] for path in paths] == ["area", "shapes.area"]
    method = '    def run(self):\n        """Run it.\n\n        To its end.\n        """\n'
    found = read(f"class Base:\n{method}\nclass Child(Base):\n    pass\n")
    assert set(found) == {"Base.run"} and found["Base.run"][0][1].endswith("Child.run")


LONG = "word " * docstrings.MIN_BODY_WORDS


@pytest.mark.parametrize(
    ("names", "meant"),
    [
        (["cut"], ["lib.Tree.cut"]),  # in the own class first
        (["trim", "nowhere", "short"], []),  # two have that tail; none has; its body is too short
        (["tools.Saw.sharpen", "other.glue", "sharpen"], ["lib.Saw.sharpen", "other.glue", "lib.Saw.sharpen"]),
    ],
)
def test_see_also_names_become_names_of_entries(names, meant):
    paths = [["lib.Tree.grow"], ["lib.Tree.cut"], ["lib.Hair.cut"], ["lib.Hair.trim"], ["lib.Hedge.trim"]]
    paths += [["lib.Saw.sharpen", "lib.tools.Saw.sharpen"]]
    entries = [(path, "Summary.", LONG, names if path == paths[0] else []) for path in paths]
    entries += [(["lib.short"], "Summary.", "Short.", [])]
    made = rows({"lib": entries, "other": [(["other.glue"], "Summary.", LONG, [])]})
    assert made["lib"][0] == ["lib.Tree.grow", "Summary.", LONG, meant] and made["other"][0][3] == []
