"""Real text that pip installs anyway: the docstrings of well-documented libraries.

Imports a library's public modules in a process of its own, walks its public objects and splits each docstring into
*summary*, *body* and *See Also* names. The tasks (``tasks.py``) and the training text (``corpora.py``) of the default
profile are made of it.
"""

import contextlib
import importlib
import importlib.util
import inspect
import io
import json
import os
import pkgutil
import re
import subprocess
import sys
import warnings
from dataclasses import asdict, dataclass
from functools import cache

from ccq_utils.common.errors import StudyError

HEADER = re.compile(r"^(?P<title>[A-Z][A-Za-z ]{2,30}):?\n[-=~]{3,}\s*$", re.MULTILINE)
GOOGLE_HEADER = re.compile(r"^(See Also|Examples?|References):+\s*$", re.MULTILINE)
"""numpydoc underlines its section titles; torch writes Google-style ``Example::``."""

LEAKY = ("See Also", "See also", "Example", "Examples", "References")
"""Sections cut from bodies: they name the entry and its relatives, which are the answers of the tasks."""

SKIPPED_MODULES = {"tests", "testing", "test", "conftest", "externals", "setup", "benchmarks", "f2py", "distutils"}
SIGNATURE = re.compile(r"^[\w.]+\(.*\)(\s*->.*)?$")
TEMPLATE = re.compile(r"%\(\w+\)s")
DEPRECATED = re.compile(r"\bdeprecated\b", re.IGNORECASE)
NAME = re.compile(r"(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*")


@dataclass(frozen=True)
class Entry:
    """One documented public object.

    Attributes
    ----------
    name : shortest public dotted path, for example ``numpy.linalg.norm``
    library : the top-level package
    aliases : every public path of the same object, for resolving cross-references
    summary : the docstring's first paragraph in one line
    body : the rest, without the entry's own name and without the sections of ``LEAKY``
    see_also : names as the authors wrote them in *See Also*
    """

    name: str
    library: str
    aliases: tuple[str, ...]
    summary: str
    body: str
    see_also: tuple[str, ...]


@cache
def read_library(library: str) -> tuple[Entry, ...]:
    """All documented public objects of an installed library, sorted by name.

    A fresh process reads them: what else has been imported would change some texts, and importing every corner of a
    library leaves traces (matplotlib's backends end a notebook's inline figures).

    Raises
    ------
    StudyError : the library is not installed, or importing it ends the process.
    """
    if importlib.util.find_spec(library) is None:
        raise StudyError(f"library {library!r} is not installed; install the lock or change the profile")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "ccq_utils.data.docstrings", library]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        problem = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise StudyError(f"library {library!r} cannot be read ({problem}); mend it or change the profile")
    rows = json.loads(done.stdout)
    return tuple(Entry(**row | {key: tuple(row[key]) for key in ("aliases", "see_also")}) for row in rows)


def library_texts(library: str) -> dict[str, str]:
    """Summary and body of each entry of ``read_library`` by its name; of entries with the same text the first."""
    first = {}
    for entry in read_library(library):
        first.setdefault(f"{entry.summary}\n{entry.body}", entry.name)
    return {name: text for text, name in first.items()}


def _entries(library):
    found: dict[int, _Found] = {}
    with _silence():
        for module in _public_modules(library):
            names = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
            for name in sorted(set(names)):
                _visit(getattr(module, name, None), f"{module.__name__}.{name}", library, found)
    entries = [_parse(library, item.paths, item.text) for item in found.values()]
    return sorted((entry for entry in entries if entry is not None), key=lambda entry: entry.name)


@dataclass
class _Found:
    thing: object  # held, so that its id stays its own
    text: str
    paths: list[str]


def _public_modules(library):
    root = importlib.import_module(library)
    modules = [root]
    for item in pkgutil.walk_packages(root.__path__, library + ".", onerror=lambda _: None):
        parts = item.name.split(".")
        if any(part.startswith("_") or part in SKIPPED_MODULES for part in parts[1:]):
            continue
        try:
            modules.append(importlib.import_module(item.name))
        except Exception:  # optional parts of a library need packages that are not installed
            continue
    return sorted(modules, key=lambda module: module.__name__)


def _visit(thing, path, library, found):
    if not (inspect.isclass(thing) or callable(thing)) or not _defined_in(thing, library):
        return
    _keep(thing, path, found)
    if inspect.isclass(thing):
        for name, member in _members(thing, library):
            _keep(member, f"{path}.{name}", found)


@cache
def _members(kind, library):
    """Public members of a class, inherited ones included, as far as the library itself defines them."""
    members = {}
    for base in reversed(kind.__mro__):
        if base.__module__.split(".")[0] == library:
            members.update((name, member) for name, member in vars(base).items() if not name.startswith("_"))
    return [(name, member) for name, member in sorted(members.items()) if _defined_in(member, library, default=True)]


def _defined_in(thing, library, default=False):
    owner = getattr(thing, "__module__", None) or getattr(getattr(thing, "fget", None), "__module__", None)
    return str(owner).split(".")[0] == library if isinstance(owner, str) else default


def _keep(thing, path, found):
    thing = getattr(thing, "__func__", thing)
    text = getattr(thing, "__doc__", None)
    if isinstance(text, str) and text.strip():
        if id(thing) not in found:
            found[id(thing)] = _Found(thing, inspect.cleandoc(text), [])
        found[id(thing)].paths.append(path)


def _rank(path):
    return path.count("."), path


def _parse(library, paths, text):
    paths = sorted(set(paths), key=_rank)
    path = paths[0]
    tail = path.rsplit(".", 1)[-1]
    paragraphs = re.split(r"\n\s*\n", TEMPLATE.sub("", text), maxsplit=1)
    while len(paragraphs) == 2 and SIGNATURE.match(paragraphs[0].strip().split("\n")[0]):
        paragraphs = re.split(r"\n\s*\n", paragraphs[1].strip(), maxsplit=1)
    if len(paragraphs) < 2 or DEPRECATED.search(paragraphs[0]) or paragraphs[1].strip().startswith(".. deprecated::"):
        return None
    summary = " ".join(paragraphs[0].split())
    sections = _sections(paragraphs[1])
    see_also = next((content for title, content in sections if title.lower() == "see also"), "")
    body = "\n\n".join(f"{title}\n{content}".strip() for title, content in sections if title not in LEAKY)
    return Entry(path, library, tuple(paths), summary, _without_name(body, tail), tuple(_see_also_names(see_also)))


def _sections(text):
    found = sorted([*HEADER.finditer(text), *GOOGLE_HEADER.finditer(text)], key=lambda match: match.start())
    starts = [0, *(match.end() for match in found)]
    stops = [*(match.start() for match in found), len(text)]
    titles = ["", *((match.groupdict().get("title") or match.group(1)).strip() for match in found)]
    return [(title, text[start:stop].strip()) for title, start, stop in zip(titles, starts, stops, strict=True)]


def _see_also_names(text):
    for line in text.split("\n"):
        if line and not line[0].isspace():
            head = re.split(r"\s:|:\s|:$", re.sub(r":\w+:", "", line).replace("`", ""), maxsplit=1)[0]
            yield from (part.strip() for part in head.split(",") if NAME.fullmatch(part.strip()))


def _without_name(body, tail):
    body = re.sub(rf"(?:\b\w+\.)*\b{re.escape(tail)}\b", "", body)
    return "\n".join(" ".join(line.split()) for line in body.split("\n")).strip()


@contextlib.contextmanager
def _silence():
    """Importing every corner of a library warns and prints; none of it concerns the reader."""
    quiet = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        warnings.simplefilter("ignore")
        yield


if __name__ == "__main__":
    found = json.dumps([asdict(entry) for entry in _entries(sys.argv[1])])
    sys.stdout.buffer.write(found.encode())
