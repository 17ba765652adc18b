"""The files that people bring: UTF-8 lines, one JSON object each; a bad one gives an error that names file and line."""

import json
from collections.abc import Iterator
from pathlib import Path

from ccq_utils.errors import StudyError


def read_lines(path: Path, owner: str, holds: str) -> Iterator[tuple[int, str]]:
    """Line numbers, from 1, and lines that are not blank.

    Parameters
    ----------
    owner : who asks, as errors shall name it, for example ``task 'scifact'``
    holds : what should lie there, for the error when nothing does

    Raises
    ------
    StudyError : the file is missing or is not UTF-8 text.
    """
    if not path.is_file():
        raise StudyError(f"{owner}: {path} is missing; {holds}")
    with path.open(encoding="utf-8") as lines:
        number = 0
        try:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield number, line
        except UnicodeDecodeError as error:
            place = f"after line {number}" if number else "from the start"
            raise StudyError(
                f"{owner}: {path.name} is not UTF-8 text {place} ({error.reason}); save it as UTF-8"
            ) from error


def read_jsonl(path: Path, owner: str, holds: str, keys: tuple[str, ...]) -> Iterator[dict]:
    """One object per line, each with ``keys``; raises ``StudyError`` as ``read_lines`` does and for a malformed line."""
    for number, line in read_lines(path, owner, holds):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise StudyError(f"{owner}: {path.name} line {number} is not JSON: {error}") from error
        missing = [key for key in keys if not isinstance(row, dict) or key not in row]
        if missing:
            raise StudyError(f"{owner}: {path.name} line {number} is not a JSON object with {', '.join(missing)}")
        yield row
