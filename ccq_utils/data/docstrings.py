"""Real text that comes with the study: docstrings of well-documented libraries, each split into summary, body and *See Also*.

The tasks (``tasks.py``) and the training text (``corpora.py``) of the default profile are made of them. Read from what
is installed, they would differ between machines: some libraries document only what their build and the packages beside
it bring. So they were read once (``data/make_docstrings.py``) and lie in one file whose sha256 stands here; only a library
that is not in it is read from the installation.
"""

import hashlib
import importlib.util
import json
import lzma
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cache

from ccq_utils.common import paths
from ccq_utils.common.errors import StudyError

SHIPPED = paths.ROOT / "data" / "docstrings.json.xz"
SHIPPED_SHA256 = "3e31e0aa990540a81b3425f8b675adc1e1ff122b5888b80e192bc537b603ce39"

MIN_BODY_WORDS = 20
"""An entry with a shorter body is neither a document of a task nor what a *See Also* may mean."""


@dataclass(frozen=True)
class Entry:
    """One documented public object.

    Attributes:
        library: the top-level package.
        name: shortest public dotted path, for example ``numpy.linalg.norm``.
        summary: the docstring's first paragraph in one line.
        body: the rest, without the entry's own name and without the sections that name its relatives or show its use.
        see_also: names of the entries that the authors list under *See Also*.
    """

    library: str
    name: str
    summary: str
    body: str
    see_also: tuple[str, ...]


@cache
def read_library(library: str) -> tuple[Entry, ...]:
    """All documented public objects of a library, sorted by name: as shipped, else as installed.

    Raises:
        StudyError: the shipped file is missing or damaged, or a library that is not in it is not installed or cannot be
            imported.
    """
    shipped = _shipped(SHIPPED)
    rows = shipped[library]["entries"] if library in shipped else _read_installed(library)
    return tuple(Entry(library, *texts, tuple(see_also)) for *texts, see_also in rows)


def library_texts(library: str) -> dict[str, str]:
    """Summary and body of each entry of ``read_library`` by its name; of entries with the same text the first."""
    first = {}
    for entry in read_library(library):
        first.setdefault(f"{entry.summary}\n{entry.body}", entry.name)
    return {name: text for text, name in first.items()}


@cache
def _shipped(path):
    """Library -> ``version``, ``licence``, ``licence_text``, ``source`` and ``entries`` of the shipped file."""
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != SHIPPED_SHA256:
        state = "damaged" if content else "missing"
        raise StudyError(f"the text of the study, {path}, is {state}; get it again: git checkout -- data/{path.name}")
    return json.loads(lzma.decompress(content))


def _read_installed(library):
    """``read_docstrings.rows``, made in a process of its own: importing every corner of a library takes
    memory and leaves traces (matplotlib's backends end a notebook's inline figures).
    """
    _find(library)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONHASHSEED": "0"}
    command = [sys.executable, "-m", "ccq_utils.data.read_docstrings", library]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        problem = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise StudyError(f"library {library!r} cannot be read ({problem}); mend it or change the profile")
    return json.loads(done.stdout)[library]


def _find(library):
    if importlib.util.find_spec(library) is None:
        raise StudyError(f"library {library!r} is not installed; install it or change the profile")
