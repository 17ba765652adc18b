"""Reading docstrings, on throwaway packages that are written here."""

import importlib
import itertools

import pytest

from ccq_utils.common.errors import StudyError
from ccq_utils.data.docstrings import library_texts, read_library

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
    It is a square root.

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
    """Write a package of the given modules and read it; returns its entries by the path below the package."""

    def of(init, **modules):
        name = f"throwaway{next(numbers)}"  # imports and read_library are cached by name
        (tmp_path / name).mkdir()
        for module, source in {"__init__": init, **modules}.items():
            (tmp_path / name / f"{module}.py").write_text(source.replace("PACKAGE", name))
        monkeypatch.syspath_prepend(tmp_path)
        importlib.invalidate_caches()
        return {entry.name.removeprefix(f"{name}."): entry for entry in read_library(name)}

    return of


def function(name, docstring):
    return f'def {name}():\n    """{docstring}"""\n'


def test_first_paragraph_is_the_summary_in_one_line(read):
    assert read(NORM)["norm"].summary == "Length of a vector."


def test_body_keeps_description_and_parameters(read):
    body = read(NORM)["norm"].body
    assert "triangle inequality" in body and "Values to measure." in body and "square root" in body


def test_summary_is_not_in_the_body(read):
    assert "Length of" not in read(NORM)["norm"].body


def test_own_name_is_removed_from_the_body_as_a_whole_word_and_with_its_path(read):
    body = read(NORM)["norm"].body
    assert "The is never negative, and obeys" in body and "normal vectors" in body


@pytest.mark.parametrize("leak", ["scale", "Divide", "areas", "A book", "3 + 4", "See Also", "References", "Examples"])
def test_sections_that_hold_answers_are_cut(read, leak):
    assert leak not in read(NORM)["norm"].body


def test_see_also_names_are_parsed(read):
    assert read(NORM)["norm"].see_also == ("scale", "dot", "cross", "Shape.area")


def test_google_style_examples_are_cut(read):
    entry = read(function("roll", "Turn it.\n\n    Over and over.\n\n    Example::\n\n        secret = 1\n    "))[
        "roll"
    ]
    assert "Over and over." in entry.body and "secret" not in entry.body


def test_signature_line_of_a_ufunc_is_not_the_summary(read):
    entry = read(function("add", "add(x1, x2, /, out=None)\n\n    Add numbers.\n\n    Element by element.\n    "))[
        "add"
    ]
    assert entry.summary == "Add numbers." and entry.body == "Element by element."


@pytest.mark.parametrize(
    "docstring",
    [
        "Deprecated name of something.\n\n    Use the other one.\n    ",
        "Old thing.\n\n    .. deprecated:: 1.0\n        Use the other one.\n    ",
    ],
)
def test_deprecated_entries_are_skipped(read, docstring):
    assert set(read(function("old", docstring) + function("new", "New.\n\n    Body.\n    "))) == {"new"}


def test_entry_with_a_summary_only_is_skipped(read):
    assert read(function("short", "Only a summary.")) == {}


def test_private_names_are_skipped(read):
    assert read(function("_hidden", "Hidden.\n\n    Body.\n    ")) == {}


def test_all_decides_what_is_public(read):
    source = '__all__ = ["shown"]\n' + "".join(
        function(name, "Text.\n\n    Body.\n    ") for name in ("shown", "other")
    )
    assert set(read(source)) == {"shown"}


def test_reexported_object_is_one_entry_with_both_paths(read):
    found = read("from PACKAGE.shapes import area\n", shapes=function("area", "Area.\n\n    Of a shape.\n    "))
    (entry,) = found.values()
    assert entry.name == f"{entry.library}.area"
    assert entry.aliases == (f"{entry.library}.area", f"{entry.library}.shapes.area")


def test_inherited_method_is_one_entry(read):
    method = '    def run(self):\n        """Run it.\n\n        To its end.\n        """\n'
    found = read(f"class Base:\n{method}\nclass Child(Base):\n    pass\n")
    assert set(found) == {"Base.run"}
    assert found["Base.run"].aliases[1].endswith("Child.run")


def test_objects_of_other_libraries_are_not_read(read):
    assert read("from json import dumps, JSONDecoder\n") == {}


def test_module_that_fails_to_import_is_left_out(read):
    assert set(read(function("fine", "Fine.\n\n    Body.\n    "), broken="raise RuntimeError")) == {"fine"}


def test_entries_are_sorted_by_name(read):
    names = list(read("".join(function(name, "Text.\n\n    Body.\n    ") for name in ("b", "c", "a"))))
    assert names == ["a", "b", "c"]


def test_missing_library_is_one_clear_error():
    with pytest.raises(StudyError, match="'no_such_library_here' is not installed"):
        read_library("no_such_library_here")


def test_library_texts_hold_each_text_once(read):
    copy = NORM.replace("def norm", "def length")
    entries = read(NORM + copy.replace("Length of", "Size of") + NORM.replace("def norm", "def zzz"))
    library = next(iter(entries.values())).library
    found = library_texts(library)
    assert len(entries) == 3 and len(set(found.values())) == len(found)
    assert found[f"{library}.length"].startswith("Size of a vector.\n")
