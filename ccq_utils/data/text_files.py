"""The files that people bring: UTF-8 lines, one JSON object each; a bad one gives an error that names file and line."""

import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ccq_utils.common.errors import StudyError


def read_lines(path: Path, owner: str) -> Iterator[tuple[int, str]]:
    """Line numbers, from 1, and lines that are not blank; ``.gz`` is unpacked; ``owner`` begins what errors say."""
    if not path.is_file():
        raise StudyError(f"{owner}: {path} is missing")
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as lines:
        number = 0
        try:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield number, line
        except (UnicodeDecodeError, gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise StudyError(f"{owner}: {path.name} is not UTF-8 text after line {number} ({error})") from error


def read_jsonl(path: Path, owner: str) -> Iterator[dict]:
    """One object with a ``text`` per line."""
    for number, line in read_lines(path, owner):
        row = None
        with suppress(json.JSONDecodeError):
            row = json.loads(line)
        if not isinstance(row, dict) or "text" not in row:
            raise StudyError(f"{owner}: {path.name} line {number} is not a JSON object with 'text': {line.strip():.60}")
        yield row


def stream_texts(place: Path, owner: str = "texts") -> Iterator[tuple[str, str]]:
    """Ids and texts, one after the other: ``id`` or ``_id``, ``text``, and a ``title`` if there is one, put before it.

    ``place`` is a ``.jsonl`` or ``.jsonl.gz`` file, or a folder of them, read in the order of their paths.
    """
    folder = (path for path in sorted(place.rglob("*")) if path.name.endswith((".jsonl", ".jsonl.gz")))
    for path in folder if place.is_dir() else [place]:
        for count, row in enumerate(read_jsonl(path, owner), 1):
            name, parts = str(row.get("_id", row.get("id", ""))), [row.get("title") or "", row["text"]]
            if not name or not all(isinstance(part, str) for part in parts) or not " ".join(parts).strip():
                problem = f"object {count} of {path.name}, id {name!r}, has the text {row['text']!r:.60}"
                raise StudyError(f"{owner}: {problem}; give an id and a string with at least one word, or leave it out")
            yield name, " ".join(parts).strip()


def read_texts(path: Path, owner: str = "texts") -> dict[str, str]:
    """Texts by id, all at once, as ``stream_texts`` reads them; an id that stands twice and no text are errors."""
    found = {}
    for name, text in stream_texts(path, owner):
        if name in found:
            raise StudyError(f"{owner}: {path.name} has the id {name!r} twice; remove one of them")
        found[name] = text
    if not found:
        raise StudyError(f"{owner}: {path.name} holds no text; give one JSON object with 'id' and 'text' per line")
    return found


def read_folder(folder: Path, suffixes: tuple[str, ...] = (".txt", ".md", ".rst")) -> dict[str, str]:
    """UTF-8 text files below a folder by their path in it, without empty ones; none at all is an error."""
    folder, found = Path(folder).expanduser(), {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix.lower() in suffixes):
        try:
            found[path.relative_to(folder).as_posix()] = path.read_text(encoding="utf-8").strip()
        except UnicodeDecodeError as error:
            raise StudyError(f"text file {path} is not UTF-8 ({error.reason}); save it as UTF-8") from error
    if not any(found.values()):
        raise StudyError(f"folder {folder} holds no text file ({', '.join(suffixes)}); give one that does")
    return {name: text for name, text in found.items() if text}
