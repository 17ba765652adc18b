"""Content-addressed cache on disk: what was computed once from the same inputs is never computed again.

Every file is checked by sha256 when it is read. A damaged or foreign one is named in a warning, dropped and computed
again; nothing else is touched. Writes are atomic, so a kill leaves either the old state or the new one.
"""

import errno
import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from ccq_utils.errors import StudyError

MANIFEST = "manifest.json"


def digest(*parts) -> str:
    """sha256 (hex) of JSON-able parts, the same on every machine."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def writing_to(folder: Path):
    """Turn a full disk or a read-only folder into one clear ``StudyError``."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StudyError(
                f"the disk of {folder} is full; free space and run again: what is finished is kept"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise StudyError(
                f"cannot write to {folder} ({error.strerror}); make it writable or choose another folder"
            ) from error
        raise


class Cache:
    """A folder of artifacts (folders of files) and of embedding shards.

    Parameters
    ----------
    folder : made when first written to
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    def artifact(self, kind: str, key: dict, build: Callable[[Path], None]) -> Path:
        """The folder that ``build(path)`` fills for ``key``; built only when it is not there intact."""
        target = self.folder / kind / digest(key)[:24]
        if target.exists():
            if _intact(target):
                return target
            warnings.warn(f"cache entry {target.name} of {kind} is damaged or foreign; it is made again", stacklevel=2)
            shutil.rmtree(target) if target.is_dir() else target.unlink()
        with writing_to(self.folder):
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".making-") as scratch:
                made = Path(scratch) / "artifact"
                made.mkdir()
                build(made)
                files = {
                    path.relative_to(made).as_posix(): file_digest(path)
                    for path in sorted(made.rglob("*"))
                    if path.is_file()
                }
                (made / MANIFEST).write_text(json.dumps({"key": key, "files": files}, indent=1, default=str))
                made.replace(target)
        return target

    def arrays(self, kind: str, key: dict, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """An artifact that is a dictionary of arrays (safetensors)."""
        folder = self.artifact(kind, key, lambda path: (path / "arrays.safetensors").write_bytes(save_tensors(make())))
        return load_tensors((folder / "arrays.safetensors").read_bytes())

    def add_shard(self, store: str, tensors: dict[str, np.ndarray]) -> None:
        """Append one shard to a store; its name is the hash of its bytes."""
        content = save_tensors({name: np.ascontiguousarray(values) for name, values in tensors.items()})
        folder = self.folder / "embeddings" / store
        with writing_to(folder):
            folder.mkdir(parents=True, exist_ok=True)
            partial = folder / f".{os.getpid()}.partial"
            partial.write_bytes(content)
            partial.replace(folder / f"{hashlib.sha256(content).hexdigest()[:32]}.safetensors")

    def shards(self, store: str):
        """Yield every intact shard of a store; a damaged one is named, removed and thereby computed again."""
        for path in sorted((self.folder / "embeddings" / store).glob("*.safetensors")):
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest()[:32] == path.stem:
                try:
                    yield load_tensors(content)
                    continue
                except SafetensorError:
                    pass
            warnings.warn(
                f"embedding shard {path.name} of {store} is damaged or foreign; its texts are encoded again",
                stacklevel=2,
            )
            path.unlink()


def _intact(folder):
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
        return all(file_digest(folder / name) == expected for name, expected in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
