"""Makes docstrings.json.xz of the libraries that are installed and prints its sha256, for ccq_utils/data/docstrings.py:
imports their public modules, walks public objects, splits each text.

Another version of a library is another text: the tables of all profiles that read it must then be made again.
"""

import contextlib
import hashlib
import importlib
import importlib.metadata
import inspect
import io
import json
import lzma
import os
import pkgutil
import re
import warnings
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path

from ccq_utils.common.files import write_atomically
from ccq_utils.data.docstrings import DOCSTRINGS, MIN_BODY_WORDS

LIBRARIES = {
    "numpy": ("numpy", "BSD-3-Clause", "numpy/numpy"),
    "scipy": ("scipy", "BSD-3-Clause", "scipy/scipy"),
    "pandas": ("pandas", "BSD-3-Clause", "pandas-dev/pandas"),
    "sklearn": ("scikit-learn", "BSD-3-Clause", "scikit-learn/scikit-learn"),
    "sympy": ("sympy", "BSD-3-Clause", "sympy/sympy"),
    "torch": ("torch", "BSD-3-Clause", "pytorch/pytorch"),
    "matplotlib": ("matplotlib", "Matplotlib (PSF-based)", "matplotlib/matplotlib"),
    "networkx": ("networkx", "BSD-3-Clause", "networkx/networkx"),
    "seaborn": ("seaborn", "BSD-3-Clause", "mwaskom/seaborn"),
    "sentence_transformers": ("sentence-transformers", "Apache-2.0", "huggingface/sentence-transformers"),
}
"""What is shipped: package -> distribution, licence of its text, source on GitHub."""
CITING = ("numpy", "scipy", "pandas", "sklearn")
"""The libraries of one corpus, whose *See Also* may name each other's entries."""
HEADER = re.compile(r"^([A-Z][A-Za-z ]{2,30}):?\n[-=~]{3,}\s*$|^(See Also|Examples?|References):+\s*$", re.MULTILINE)
"""numpydoc underlines its section titles; torch writes Google-style ``Example::``."""
LEAKY = ("See Also", "See also", "Example", "Examples", "References")
"""Sections cut from bodies: they name the entry and its relatives, which are the answers of the tasks."""
SKIPPED_MODULES = {"tests", "testing", "test", "conftest", "externals", "setup", "benchmarks", "f2py", "distutils"}
SIGNATURE = re.compile(r"^[\w.]+\(.*\)(\s*->.*)?$")
TEMPLATE = re.compile(r"%\(\w+\)s")
DEPRECATED = re.compile(r"\bdeprecated\b", re.IGNORECASE)
NAME = re.compile(r"(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*")
ADDRESS = re.compile(r"(?<= at )0x[0-9a-fA-F]+")
"""Where an object lay in memory when its docstring was made: other in each process."""


def make(path: Path, libraries: dict) -> str:
    """Write the file, the same bytes from the same text; returns its sha256."""
    os.environ["PYTHONHASHSEED"] = "0"  # some texts name the members of a set
    fresh = {"mp_context": get_context("spawn"), "max_tasks_per_child": 1}  # what else is imported changes some texts
    with ProcessPoolExecutor(1, **fresh) as pool:
        entries = dict(zip(libraries, pool.map(installed_entries, libraries), strict=True))
    citing = {library: entries.pop(library) for library in CITING if library in libraries}
    content = {}
    for library, found in (rows(citing) | rows(entries)).items():
        distribution, licence, source = libraries[library]
        facts = importlib.metadata.distribution(distribution)
        licences = [file for file in facts.files if file.name.upper().startswith(("LICENSE", "COPYING"))]
        content[library] = {
            "version": facts.version.partition("+")[0],
            "licence": licence,
            "licence_text": min(licences, key=lambda file: len(file.parts)).read_text(),
            "source": f"https://github.com/{source}",
            "entries": found,
        }
    packed = lzma.compress(json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode(), preset=9)
    with write_atomically(path) as file:
        file.write(packed)
    return hashlib.sha256(packed).hexdigest()


def rows(entries: dict[str, list[tuple]]) -> dict[str, list[list]]:
    """Library -> name, summary, body and names of the entries that *See Also* means, from ``installed_entries`` of each.

    A name is looked up in the entry's own class or module outwards, then as a whole path, else by a tail that only one
    entry of the library has.
    """
    by_path, by_tail = {}, defaultdict(set)
    for library, parsed in entries.items():
        for paths, _, body, _ in parsed:
            if len(body.split()) >= MIN_BODY_WORDS:
                by_path.update(dict.fromkeys(paths, paths[0]))
                for path in paths:
                    by_tail[library, path.rpartition(".")[2]].add(paths[0])

    def target(library, scope, name):
        while "." in scope:
            scope = scope.rpartition(".")[0]
            if f"{scope}.{name}" in by_path:
                return by_path[f"{scope}.{name}"]
        tails = by_tail.get((library, name.rpartition(".")[2]), ())
        return by_path.get(name) or (next(iter(tails)) if len(tails) == 1 else None)

    return {
        library: [
            [paths[0], summary, body, list(filter(None, (target(library, paths[0], name) for name in names)))]
            for paths, summary, body, names in parsed
        ]
        for library, parsed in entries.items()
    }


def installed_entries(library: str) -> list[tuple]:
    """Paths (the entry's name first), summary, body and *See Also* names of each documented public object, sorted."""
    found = {}  # id of an object -> the object, held so that its id stays its own, and its public paths
    quiet = io.StringIO()  # importing every corner of a library warns and prints; none of it concerns the reader
    with warnings.catch_warnings(), contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        warnings.simplefilter("ignore")
        for path, thing in _public_objects(library):
            found.setdefault(id(thing), (thing, set()))[1].add(path)
    ranked = [
        (sorted(paths, key=lambda path: (path.count("."), path)), thing.__doc__) for thing, paths in found.values()
    ]
    parsed = (_parse(paths, ADDRESS.sub("0x...", inspect.cleandoc(text))) for paths, text in ranked)
    return sorted(entry for entry in parsed if entry is not None)


def _public_objects(library):
    for module in _public_modules(library):
        for name in getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]:
            thing, path = getattr(module, name, None), f"{module.__name__}.{name}"
            if callable(thing) and _defined_in(thing, library):
                yield from _documented(path, thing)
                if inspect.isclass(thing):
                    for member_name, member in _members(thing, library):
                        yield from _documented(f"{path}.{member_name}", member)


def _documented(path, thing):
    thing = getattr(thing, "__func__", thing)
    text = getattr(thing, "__doc__", None)
    if isinstance(text, str) and text.strip():
        yield path, thing


def _public_modules(library):
    root = importlib.import_module(library)
    modules = [root]
    for item in pkgutil.walk_packages(root.__path__, library + ".", onerror=lambda _: None):
        if not any(part.startswith("_") or part in SKIPPED_MODULES for part in item.name.split(".")[1:]):
            with contextlib.suppress(Exception):  # optional parts of a library need packages that are not installed
                modules.append(importlib.import_module(item.name))
    return sorted(modules, key=lambda module: module.__name__)


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


def _parse(paths, text):
    paragraphs = re.split(r"\n\s*\n", TEMPLATE.sub("", text), maxsplit=1)
    while len(paragraphs) == 2 and SIGNATURE.match(paragraphs[0].strip().split("\n")[0]):
        paragraphs = re.split(r"\n\s*\n", paragraphs[1].strip(), maxsplit=1)
    if len(paragraphs) < 2 or DEPRECATED.search(paragraphs[0]) or paragraphs[1].strip().startswith(".. deprecated::"):
        return None
    sections = list(_sections(paragraphs[1]))
    names = next((list(_see_also_names(content)) for title, content in sections if title.lower() == "see also"), [])
    body = "\n\n".join(f"{title}\n{content}".strip() for title, content in sections if title not in LEAKY)
    own_name = re.compile(rf"(?:\b\w+\.)*\b{re.escape(paths[0].rpartition('.')[2])}\b")
    body = "\n".join(" ".join(line.split()) for line in own_name.sub("", body).split("\n")).strip()
    return paths, " ".join(paragraphs[0].split()), body, names


def _sections(text):
    title, start = "", 0
    for header in HEADER.finditer(text):
        yield title, text[start : header.start()].strip()
        title, start = (header[1] or header[2]).strip(), header.end()
    yield title, text[start:].strip()


def _see_also_names(text):
    for line in text.split("\n"):
        if line and not line[0].isspace():
            head = re.split(r"\s:|:\s|:$", re.sub(r":\w+:", "", line).replace("`", ""), maxsplit=1)[0]
            yield from (part.strip() for part in head.split(",") if NAME.fullmatch(part.strip()))


if __name__ == "__main__":
    print(make(DOCSTRINGS, LIBRARIES))
