"""Content-addressed cache on disk: what was computed once from the same inputs is never computed again.

Every file is checked by sha256 when it is read; a damaged or foreign one is named in a warning and computed again. Writes
are atomic, so a kill leaves either the old state or the new one.
"""

import functools
import hashlib
import importlib.metadata
import json
import os
import shutil
import tempfile
import threading
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from ccq_utils.common.files import scratch_folder, write_atomically, writing_to

CACHE_VERSION = 6  # raise it by hand when the code computes something else from the same inputs; a test holds results
VECTORS_VERSION = 5  # the same for models' vectors, which take longest to make and hang on no codec
# another version of one of these libraries, which decide numbers, computes everything anew
LIBRARIES = "numpy scipy scikit-learn torch tokenizers transformers sentence-transformers model2vec faiss-cpu".split()
MANIFEST = "manifest.json"
IN_MEMORY = 2**26  # bytes: larger arrays of vectors lie in a file and are mapped, so that the system can page them out


def digest(*parts) -> str:
    """sha256 (hex) of JSON-able parts, the same on every machine."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def array_digest(*arrays: np.ndarray) -> str:
    """sha256 (hex) of what arrays hold."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(str((array.dtype, array.shape)).encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def remembered(function: Callable) -> Callable:
    """Decorator of a function of one array: its last 16 results are kept, by what the array holds."""
    held, locks = {}, defaultdict(threading.Lock)

    @functools.wraps(function)
    def call(array):
        key = array_digest(array)
        with locks[key]:  # who asks for the same waits, who asks for another does not
            found = held.pop(key, None)
            held[key] = found = function(array) if found is None else found
        for oldest in [*held][:-16]:
            held.pop(oldest, None)
        return found

    return call


@functools.cache
def computed_by(version: int = CACHE_VERSION) -> dict:
    """What every cache key holds beside its inputs: ``version`` and the versions of ``LIBRARIES``."""
    return {"version": version, **{name: importlib.metadata.version(name) for name in LIBRARIES}}


class Cache:
    """A folder of artifacts (folders of files) and of embedding shards; made when first written to."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    def artifact(self, kind: str, key: dict, build: Callable[[Path], None]) -> Path:
        """The folder that ``build(path)`` fills for ``key``; built only when it is not there intact."""
        key = key | computed_by()
        target = self.folder / kind / digest(key)[:24]
        if target.exists():
            if _intact(target):
                return target
            warnings.warn(f"cache entry {target.name} of {kind} is damaged or foreign; it is made again", stacklevel=2)
            shutil.rmtree(target) if target.is_dir() else target.unlink()
        with writing_to(self.folder), scratch_folder(target) as scratch:
            made = scratch / "artifact"
            made.mkdir()
            build(made)
            paths = (path for path in sorted(made.rglob("*")) if path.is_file())
            files = {path.relative_to(made).as_posix(): file_digest(path) for path in paths}
            (made / MANIFEST).write_text(json.dumps({"key": key, "files": files}, indent=1, default=str))
            try:
                made.replace(target)
            except OSError:
                if not _intact(target):  # else another process has just made the same
                    raise
        return target

    def arrays(self, kind: str, key: dict, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """An artifact that is a dictionary of arrays (safetensors)."""
        folder = self.artifact(kind, key, lambda path: (path / "arrays.safetensors").write_bytes(save_tensors(make())))
        return load_tensors((folder / "arrays.safetensors").read_bytes())

    def json(self, kind: str, key: dict, make: Callable[[], dict]) -> dict:
        """An artifact that is a dictionary of JSON-able values; a set of strings comes back as a sorted list."""
        text = functools.partial(json.dumps, default=sorted)
        folder = self.artifact(kind, key, lambda path: (path / f"{kind}.json").write_text(text(make())))
        return json.loads((folder / f"{kind}.json").read_text())

    def add_shard(self, store: str, tensors: dict[str, np.ndarray]) -> None:
        """Append one shard to a store; its name is the hash of its bytes."""
        content = save_tensors({name: np.ascontiguousarray(values) for name, values in tensors.items()})
        name = f"{hashlib.sha256(content).hexdigest()[:32]}.safetensors"
        with write_atomically(self.folder / "embeddings" / store / name) as file:
            file.write(content)

    def shards(self, store: str) -> Iterator:
        """Every intact shard of a store, memory-mapped; a damaged one is named, removed and thereby computed again."""
        for path in sorted((self.folder / "embeddings" / store).glob("*.safetensors")):
            facts = path.stat()
            if _known_digest(path, facts.st_size, facts.st_mtime_ns)[:32] == path.stem:
                with safe_open(path, framework="numpy") as shard:
                    yield shard
            else:
                message = f"embedding shard {path.name} of {store} is damaged or foreign; its texts are encoded again"
                warnings.warn(message, stacklevel=2)
                path.unlink()

    def rows(self, count: int, dims: int) -> np.ndarray:
        """An empty ``(count, dims) float32`` array to be filled; a large one lies in a file that vanishes with it."""
        if 4 * count * dims <= IN_MEMORY:
            return np.empty((count, dims), dtype=np.float32)
        with writing_to(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder) as file:
                if hasattr(os, "posix_fallocate"):  # a full disk shows here, not as a crash at some later write
                    os.posix_fallocate(file.fileno(), 0, 4 * count * dims)
                return np.asarray(np.memmap(file, dtype=np.float32, shape=(count, dims)))


@functools.cache
def _known_digest(path, size, changed):  # a shard is hashed once per process, and again when it has changed
    return file_digest(path)


def _intact(folder):
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
        return all(file_digest(folder / name) == expected for name, expected in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
