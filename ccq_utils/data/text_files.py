"""The one reader of files that people bring: UTF-8 lines, plain or gzipped; JSON objects, tables, texts.

A byte order mark, CRLF and blank lines are read through, hidden files and folders never read. Whatever else is odd is a
``StudyError`` that names file, line and key.
"""

import gzip
import json
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from ccq_utils.common.errors import StudyError
from ccq_utils.common.paths import place_of
from ccq_utils.data.profile import explained


class _Row(BaseModel):
    model_config = ConfigDict(strict=True)
    id: str | int = Field("", validation_alias=AliasChoices("_id", "id"))
    title: str | None = ""
    text: str = ""


def read_lines(path: Path, owner: str) -> Iterator[tuple[str, str]]:
    """Where each line stands, in words, and the line without its end; ``owner`` begins what errors say."""
    where = f"{owner}: {path}"
    try:
        if not path.is_file():
            raise StudyError(f"{where} is missing")
        with path.open("rb") as file:
            lines = gzip.open(file) if file.peek(2)[:2] == b"\x1f\x8b" else file
            for number in count(1):
                where = f"{owner}: {path} line {number}"
                if not (line := lines.readline()):
                    return
                if "\0" in (text := line.decode("utf-8")):
                    raise ValueError("it holds the character NUL")
                yield where, text.removeprefix("\ufeff").rstrip("\r\n")
    except (ValueError, EOFError, OSError, zlib.error) as error:
        raise StudyError(f"{where} cannot be read ({error}); expected is UTF-8 text, plain or gzipped") from error


def read_rows(place: Path | str, owner: str) -> Iterator[tuple[str, str, str, str]]:
    """Where, id (or ""), title and text of each JSON object of a file or folder; a warning counts those without a word."""
    empty = []
    for path in _files(place_of(place, owner), (".jsonl", ".jsonl.gz")):
        for where, line in ((where, line) for where, line in read_lines(path, owner) if line.strip()):
            try:
                row = _Row.model_validate_json(line)
                json.loads(line, object_pairs_hook=partial(_keys_once, where))
            except ValidationError as error:
                raise StudyError(f"{where}, {explained(error, 'no JSON object')}") from error
            parts = str(row.id), row.title or "", row.text
            if "\0" in "".join(parts):
                raise StudyError(f"{where}: it holds the character NUL; mend or remove it")
            if not row.title and "text" not in row.model_fields_set:
                raise StudyError(f"{where}: key 'text' is missing; expected is a string")
            yield where, *parts
            empty += [] if shows(parts[1] + parts[2]) else [where]
    if empty:
        warnings.warn(f"{len(empty)} empty texts, which are never found; the first is {empty[0]}", stacklevel=2)


def _keys_once(where, pairs):
    if len(dict(pairs)) < len(pairs):
        ((key, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise StudyError(f"{where}: key {key!r:.60} stands twice in one object; remove one of them")


def stream_texts(place: Path | str, owner="texts", empty=False, places=None) -> Iterator[tuple[str, str]]:
    """Ids and texts, one after the other, a ``title`` put before its ``text``; empty ones only where ``empty`` is set.

    With a dictionary ``places``, which is filled with where each id stands, an id that stands twice is an error.
    """
    for where, name, title, text in read_rows(place, owner):
        if not shows(name):
            raise StudyError(f"{where}: key 'id' (or '_id') is missing or empty; give each text an id of its own")
        if places is not None and (before := places.setdefault(name, where)) != where:
            before = before.removeprefix(f"{owner}: ")
            raise StudyError(f"{where}: the id {name!r:.60} stands twice, first in {before}; remove one of them")
        if shows(title + text):
            yield name, f"{title} {text}".strip()
        elif empty:
            yield name, ""


def read_texts(place: Path | str, owner: str = "texts", empty: bool = False) -> dict[str, str]:
    """Texts by id, all at once, as ``stream_texts`` reads them; an id that stands twice and no text are errors."""
    found = dict(stream_texts(place, owner, empty, {}))
    if not any(found.values()):
        raise StudyError(f"{owner}: {place} holds no text; give one JSON object with 'id' and 'text' per line")
    return found


def read_folder(folder: Path | str, suffixes: tuple[str, ...] = (".txt", ".md", ".rst")) -> dict[str, str]:
    """Text files below a folder by their path in it, without empty ones; none at all is an error."""
    folder, found = place_of(folder, "folder"), {}
    for path in _files(folder, suffixes) if folder.is_dir() else ():
        found[path.relative_to(folder).as_posix()] = "\n".join(line for _, line in read_lines(path, "folder")).strip()
    if empty := [name for name, text in found.items() if not shows(text)]:
        warnings.warn(f"folder {folder}: {len(empty)} empty files are left out; the first is {empty[0]}", stacklevel=2)
    if len(empty) == len(found):
        raise StudyError(f"folder {folder} holds no text file ({', '.join(suffixes)}); give one that does")
    return {name: text for name, text in found.items() if name not in empty}


def shows(text: str) -> bool:
    """Whether a text has a character to be seen: no space, no control, not of width zero."""
    return any(character.isprintable() and not character.isspace() for character in text)


def _files(place, suffixes):
    if not place.is_dir():
        return [place]
    seen = (path for path in sorted(place.rglob("*")) if f"/{path.relative_to(place).as_posix()}".find("/.") < 0)
    return [path for path in seen if path.name.lower().endswith(suffixes) and path.is_file()]
