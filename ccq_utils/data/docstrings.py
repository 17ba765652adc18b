"""Real text that comes with the study: docstrings of well-documented libraries, each split into summary, body and *See Also*.

Installed libraries differ between machines, so they were read once (``data/make_docstrings.py``) into one file.
"""

import hashlib
import json
import lzma
from dataclasses import dataclass
from functools import cache

from ccq_utils.common import paths
from ccq_utils.common.errors import StudyError

DOCSTRINGS = paths.ROOT / "data" / "docstrings.json.xz"
DOCSTRINGS_SHA256 = "3e31e0aa990540a81b3425f8b675adc1e1ff122b5888b80e192bc537b603ce39"

MIN_BODY_WORDS = 20  # an entry with a shorter body is neither a document nor what a *See Also* may mean


@dataclass(frozen=True)
class Entry:
    """One documented public object by its shortest public dotted path; ``summary`` is its docstring's first paragraph.

    ``body`` is the rest, without the entry's own name and the sections that name its relatives or show its use.
    """

    library: str
    name: str
    summary: str
    body: str
    see_also: tuple[str, ...]


@cache
def read_library(library: str) -> tuple[Entry, ...]:
    """All documented public objects of a shipped library, sorted by name; raises ``StudyError`` for another one."""
    shipped = _shipped(DOCSTRINGS)
    if library not in shipped:
        raise StudyError(f"no docstrings of library {library!r} are shipped; accepted: {', '.join(shipped)}")
    return tuple(Entry(library, *texts, tuple(see_also)) for *texts, see_also in shipped[library]["entries"])


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
    if hashlib.sha256(content).hexdigest() != DOCSTRINGS_SHA256:
        state = "damaged" if content else "missing"
        raise StudyError(f"the text of the study, {path}, is {state}; get it again: git checkout -- data/{path.name}")
    return json.loads(lzma.decompress(content))
