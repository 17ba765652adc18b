"""Codes of a large corpus on disk: one Parquet file per part, each of which says what made it and whether it is intact.

A shard holds the columns ``id`` (string) and ``code`` (fixed-size binary) and, in its metadata, the fingerprints of model
and codec, the sha256 of its part's texts and that of its own content. Its bytes depend on these alone, so that any engine
writes the same file. ``_manifest.json`` is written when all parts are there: without it a folder counts as unfinished.
"""

import hashlib
import io
import json
import os
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet as parquet

from ccq_utils.codecs.files import VERSION, check_marks, check_version
from ccq_utils.common.cache import digest, file_digest, writing_to
from ccq_utils.common.errors import StudyError

MANIFEST = "_manifest.json"  # a leading underscore, so that readers of Parquet folders leave it alone
META = b"ccq"


@dataclass(frozen=True)
class Part:
    """What a shard is made from: its number, how many texts, the first and the last id, sha256 over ids and texts."""

    number: int
    rows: int
    first: str
    last: str
    texts: str

    @property
    def file(self) -> str:
        """Name of the shard."""
        return f"part-{self.number:06d}.parquet"


def write(folder: Path, part: Part, ids: list[str], codes: np.ndarray, marks: dict[str, str]) -> None:
    """Write one shard under another name and rename it when it is whole.

    Parameters
    ----------
    codes : ``(rows, bytes) uint8``
    marks : fingerprints of what made the codes

    Raises
    ------
    StudyError : a full disk, a folder that cannot be written, codes that do not fit the part.
    """
    if len(codes) != part.rows or len(ids) != part.rows:
        raise StudyError(f"shard {part.file}: {len(codes)} codes and {len(ids)} ids for {part.rows} texts")
    about = {"version": VERSION, **marks, **asdict(part)}
    about["content"] = _content(about, ids, codes)
    codes = np.ascontiguousarray(codes)
    kind = pyarrow.binary(codes.shape[1])
    packed = pyarrow.FixedSizeBinaryArray.from_buffers(kind, len(codes), [None, pyarrow.py_buffer(codes.tobytes())])
    table = pyarrow.table({"id": pyarrow.array(ids, pyarrow.string()), "code": packed})
    made = io.BytesIO()
    parquet.write_table(table.replace_schema_metadata({META: json.dumps(about)}), made, compression="zstd")
    with writing_to(folder):
        partial = folder / f".{part.file}.{os.getpid()}.partial"
        partial.write_bytes(made.getbuffer())
        partial.replace(folder / part.file)


def listed(folder: Path) -> dict[str, str]:
    """sha256 per shard as the manifest of a finished run has it; empty where there is none."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return {entry["file"]: entry["sha256"] for entry in manifest["parts"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def is_done(folder: Path, part: Part, marks: dict[str, str], sha256: str = "") -> bool:
    """Whether an intact shard of these very texts is there; a damaged or outdated one is named in a warning.

    Parameters
    ----------
    sha256 : of the file, where a manifest lists it; otherwise the shard's own word on its content has to do

    Raises
    ------
    StudyError : the shard is intact, but of another model or codec.
    """
    path = folder / part.file
    if not path.is_file():
        return False
    try:
        about = _read(path)[2]
        if sha256 and file_digest(path) != sha256:
            raise StudyError(f"shard {path.name} is damaged")
    except StudyError as error:
        warnings.warn(f"{error}; it is made again", stacklevel=2)
        return False
    if other := [name for name, mark in marks.items() if about.get(name) != mark]:
        raise StudyError(
            f"{folder} holds codes of another {other[0]} ({part.file}); choose another folder, or delete it"
        )
    if about["texts"] != part.texts or about["number"] != part.number:
        warnings.warn(f"shard {part.file} is of other texts than those of now; it is made again", stacklevel=2)
        return False
    return True


def begin(folder: Path) -> None:
    """Make the folder and take away the manifest of an earlier run: from here on it counts as unfinished."""
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MANIFEST).unlink(missing_ok=True)


def finish(folder: Path, plan: list[Part], marks: dict[str, str]) -> None:
    """Write the manifest; shards beyond the plan, of a longer corpus or of shorter parts, are removed with a warning."""
    planned = {part.file for part in plan}
    with writing_to(folder):
        for path in folder.glob(".part-*.partial"):  # of a run that was killed while it wrote
            path.unlink()
        for path in sorted(folder.glob("part-*.parquet")):
            if path.name not in planned:
                warnings.warn(f"shard {path.name} is of an earlier corpus; it is removed", stacklevel=2)
                path.unlink()
        parts = [{"file": part.file, **asdict(part), "sha256": file_digest(folder / part.file)} for part in plan]
        partial = folder / f".{MANIFEST}.partial"
        partial.write_text(json.dumps({"version": VERSION, **marks, "parts": parts}, indent=1), encoding="utf-8")
        partial.replace(folder / MANIFEST)


def read(folder: Path, marks: dict[str, str]) -> tuple[np.ndarray, list[str]]:
    """Codes ``(n, bytes) uint8`` and ids of all shards, in the order of the corpus.

    Raises
    ------
    StudyError : an unfinished folder, a shard that is missing or damaged, codes of another codec or another model.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        check_version(manifest["version"], f"codes folder {folder}")
        files = {entry["file"]: entry["sha256"] for entry in manifest["parts"]}
        check_marks({name: str(manifest[name]) for name in marks}, marks, f"codes folder {folder.name}")
    except FileNotFoundError as error:
        raise StudyError(
            f"{folder} holds no finished shards ({MANIFEST} is missing); run ccq encode, which resumes where it stopped"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise StudyError(f"codes folder {folder}: {MANIFEST} cannot be read; run ccq encode again") from error
    codes, ids = [], []
    for name, expected in files.items():
        if not (folder / name).is_file() or file_digest(folder / name) != expected:
            raise StudyError(f"codes folder {folder}: {name} is missing or damaged; ccq encode makes it again")
        names, packed, _ = _read(folder / name)
        ids += names
        codes.append(packed)
    return np.concatenate(codes), ids


def width(path: Path) -> int:
    """Bytes per code of a shard."""
    return parquet.read_schema(path).field("code").type.byte_width


def _read(path):
    """Ids, codes and metadata of a shard whose content is what its metadata says."""
    try:
        table = parquet.read_table(path)
        about = json.loads(table.schema.metadata[META])
        ids, column = table["id"].to_pylist(), table["code"].combine_chunks()
        width = column.type.byte_width
        codes = np.frombuffer(column.buffers()[1], np.uint8, len(ids) * width, column.offset * width)
        codes = codes.reshape(-1, width)
        intact = about.pop("content") == _content(about, ids, codes)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pyarrow.ArrowException) as error:
        problem = " ".join(str(error).split())[:80]
        raise StudyError(f"shard {path.name} cannot be read ({problem})") from error
    if not intact:
        raise StudyError(f"shard {path.name} is damaged")
    check_version(about["version"], f"shard {path.name}")
    return ids, codes, about


def _content(about, ids, codes):
    return digest(about, ids, codes.shape, hashlib.sha256(np.ascontiguousarray(codes)).hexdigest())
