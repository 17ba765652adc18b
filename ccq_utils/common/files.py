"""Writing files: whole or not at all, with one clear message where the disk is full or the folder is not writable."""

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from ccq_utils.common.errors import StudyError

PARTIAL = ".partial"  # how names of files end that are still being written; a kill may leave such a file behind


@contextmanager
def write_atomically(path: Path | str, mode: str = "wb") -> Iterator[IO]:
    """Open a hidden file beside ``path`` for writing; at the end of the block it takes the place of ``path``.

    If the block fails, ``path`` stays as it was. Missing folders are made. ``file.name`` has no suffix, so name the format
    where one is guessed. ``mode`` is ``"wb"``, or ``"w"`` for UTF-8 text.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}{PARTIAL}")
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    with writing_to(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open(mode.replace("w", "x"), **text) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Turn a full disk or a folder that cannot be written into one clear ``StudyError``."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            problem = f"the disk of {folder} is full; free space and run again: what is finished is kept"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST):
            problem = f"cannot write to {folder} ({error.strerror}); make it writable or choose another folder"
        else:
            raise
        raise StudyError(problem) from error
