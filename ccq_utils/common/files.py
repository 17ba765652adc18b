"""Writing files: whole or not at all, by one process at a time, over nothing foreign; what cannot be done in one message."""

import errno
import os
import shutil
import socket
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import IO

from ccq_utils.common.errors import StudyError

PARTIAL = ".partial"  # how names of files end that are still being written; a kill may leave such a file behind
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DENIED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG)
HOST = socket.gethostname().partition(".")[0][:40]


def _unfinished(path):
    return path.with_name(f".{path.name[:120]}.{HOST}.{os.getpid()}.{uuid.uuid4().hex[:12]}{PARTIAL}")


@contextmanager
def write_atomically(path: Path | str, mode: str = "wb") -> Iterator[IO]:
    """Open a hidden file beside ``path`` for writing; at the end of the block it takes the place of ``path``.

    If the block fails, ``path`` stays as it was. Missing folders are made, what killed processes left there goes.
    ``file.name`` has no suffix, so name the format where one is guessed. ``mode`` is ``"wb"``, or ``"w"`` for UTF-8 text.
    """
    path = Path(path)
    partial, text = _unfinished(path), {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    with writing_to(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        _tidy_once(path.parent)
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
def scratch_folder(beside: Path) -> Iterator[Path]:
    """A hidden folder beside a path that goes at the end; first goes what killed processes of this machine left there."""
    folder = _unfinished(beside)
    with writing_to(beside.parent):
        folder.mkdir(0o700, parents=True)
        try:
            _tidy(beside.parent)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _tidy(folder):
    import psutil

    for path in folder.glob(f".*.{HOST}.*{PARTIAL}"):
        if (process := path.name.split(".")[-3]).isdecimal() and not psutil.pid_exists(int(process)):
            with suppress(OSError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


_tidy_once = lru_cache(maxsize=1000)(_tidy)  # a folder of many files is looked through once


@contextmanager
def only_one(place: Path) -> Iterator[None]:
    """Hold the lock of a place; ``StudyError`` names the process that holds it already. A kill leaves it open."""
    from filelock import FileLock, Timeout

    place = Path(os.path.abspath(place))
    lock = FileLock(path := place.with_name(f".{place.name}.lock"), timeout=0)
    try:
        with writing_to(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
    except Timeout as error:
        other = path.read_text() or "another process"
        raise StudyError(f"{other} is writing to {place}; wait for it, or choose another place") from error
    try:
        with writing_to(path.parent):
            path.write_text(f"process {os.getpid()} of {HOST}")
        yield
    finally:
        with suppress(OSError):
            path.unlink()  # while it is held: whoever waits for it makes a new one
        lock.release()


def check_output(path: Path | str, begins: str, force: bool | None = False) -> None:
    """Raise ``StudyError``, before the work, for an output that cannot be written, or, without ``force``, is none of ours."""
    path = Path(path).absolute()
    if path.exists() and not path.is_file():
        raise StudyError(f"output {path} is no file; name one")
    if path.exists() and not force and not is_ours(path, begins):
        way = "" if force is None else ", or --force to replace it"  # None: the command has no such option
        raise StudyError(f"{path} is there and is none of ours; choose another name{way}")
    with writing_to(path.parent):
        tempfile.TemporaryFile(dir=next(folder for folder in path.parents if folder.exists())).close()


def is_ours(path: Path, begins: str) -> bool:
    """Whether a file's first 4 kB hold a text."""
    with suppress(OSError), path.open("rb") as file:
        return begins.encode() in file.read(4096)
    return False


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Turn a full disk, also in a library's words, or a folder that cannot be written into one clear ``StudyError``."""
    try:
        yield
    except StudyError:
        raise
    except Exception as error:
        code = error.errno if isinstance(error, OSError) else None
        if code in FULL or any(os.strerror(each) in str(error) for each in FULL):
            problem = f"the disk of {folder} is full; free space and run again: what is finished is kept"
        elif code in DENIED:
            problem = f"cannot write to {folder} ({error.strerror}); make it writable or choose another folder"
        else:
            raise
        raise StudyError(problem) from error
