"""The files that people bring: UTF-8 lines, one JSON object each; a bad one gives an error that names file and line."""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

from ccq_utils.common.errors import StudyError

TEXTS = "give a file with one JSON object with 'id' and 'text' per line"


def read_lines(path: Path, owner: str, holds: str) -> Iterator[tuple[int, str]]:
    """Line numbers, from 1, and lines that are not blank; a file whose name ends in ``.gz`` is unpacked.

    Args:
        path: the file.
        owner: who asks, as errors shall name it, for example ``task 'scifact'``.
        holds: what should lie there, for the error when nothing does.

    Raises:
        StudyError: the file is missing, is not UTF-8 text, or is no whole gzip file.
    """
    if not path.is_file():
        raise StudyError(f"{owner}: {path} is missing; {holds}")
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as lines:
        number = 0
        try:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield number, line
        except UnicodeDecodeError as error:
            after = f"after line {number}" if number else "from the start"
            raise StudyError(f"{owner}: {path.name} is not UTF-8 text {after} ({error.reason}); save it so") from error
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise StudyError(f"{owner}: {path.name} is no whole gzip file ({error}); pack it again") from error


def read_jsonl(path: Path, owner: str, holds: str, key: str = "text") -> Iterator[dict]:
    """One object per line, each with ``key``; raises ``StudyError`` as ``read_lines`` does and for a malformed line."""
    for number, line in read_lines(path, owner, holds):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise StudyError(f"{owner}: {path.name} line {number} is not JSON: {error}") from error
        if not isinstance(row, dict) or key not in row:
            raise StudyError(f"{owner}: {path.name} line {number} is not a JSON object with {key!r}")
        yield row


def stream_texts(place: Path, owner: str = "texts", holds: str = TEXTS) -> Iterator[tuple[str, str]]:
    """Ids and texts, one after the other: ``id`` or ``_id``, ``text``, and a ``title`` if there is one, put before it.

    Args:
        place: a ``.jsonl`` or ``.jsonl.gz`` file, or a folder of them, read in the order of their paths.
        owner, holds: as in ``read_lines``.

    Raises:
        StudyError: a missing file, a malformed line, a text without an id or without a word.
    """
    files = [place]
    if place.is_dir():
        files = sorted(path for path in place.rglob("*") if path.name.endswith((".jsonl", ".jsonl.gz")))
    for path in files:
        for count, row in enumerate(read_jsonl(path, owner, holds), 1):
            name = str(row.get("_id", row.get("id", "")))
            if not name:
                raise StudyError(f"{owner}: object {count} of {path.name} has no id")
            parts = [row.get("title") or "", row["text"]]
            if not all(isinstance(part, str) for part in parts) or not " ".join(parts).strip():
                raise StudyError(
                    f"{owner}: the text of {name!r} in {path.name} is {row['text']!r:.60}; give a string with at least one"
                    " word, or leave it out"
                )
            yield name, " ".join(parts).strip()


def read_texts(path: Path, owner: str = "texts", holds: str = TEXTS) -> dict[str, str]:
    """Texts by id, as ``stream_texts`` gives them, all at once.

    Raises:
        StudyError: as ``stream_texts`` does; an id that stands twice, no text at all.
    """
    found = {}
    for name, text in stream_texts(path, owner, holds):
        if name in found:
            raise StudyError(f"{owner}: {path.name} has the id {name!r} twice; remove one of them")
        found[name] = text
    if not found:
        raise StudyError(f"{owner}: {path.name} holds no text; {holds}")
    return found


def read_folder(folder: Path, suffixes: tuple[str, ...] = (".txt", ".md", ".rst")) -> dict[str, str]:
    """Text files below a folder by their path in it; files without a word are left out.

    Raises:
        StudyError: no such folder, no text in it, or a file that is not UTF-8.
    """
    folder, found = Path(folder).expanduser(), {}
    if not folder.is_dir():
        raise StudyError(f"there is no folder {folder}; give one that holds text files")
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix.lower() in suffixes):
        try:
            text = path.read_text(encoding="utf-8").strip()
        except UnicodeDecodeError as error:
            raise StudyError(f"text file {path} is not UTF-8 ({error.reason}); save it as UTF-8") from error
        if text:
            found[path.relative_to(folder).as_posix()] = text
    if not found:
        raise StudyError(f"folder {folder} holds no text file ({', '.join(suffixes)})")
    return found
