"""Codecs and codes on disk: safetensors and JSON, with fingerprints by which codes know what made them."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save

from ccq_utils.codecs.decoder import Decoder
from ccq_utils.codecs.percentile import LshCodec, PercentileCodec
from ccq_utils.common.cache import digest
from ccq_utils.common.errors import StudyError
from ccq_utils.common.files import write_atomically

VERSION = 2  # of the formats of codecs and codes; a reader refuses any other
KINDS = {"percentile": PercentileCodec, "LSH": LshCodec}
PARTS = "_parts.json"  # lists the parts of a folder of codes; written when all are there


@contextmanager
def reading(owner: str, remedy: str) -> Iterator[None]:
    """Turn whatever a missing or damaged file raises into one ``StudyError``."""
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, AttributeError, SafetensorError) as error:
        problem = " ".join(str(error).split())[:160]
        raise StudyError(f"{owner} cannot be read ({type(error).__name__}: {problem}); {remedy}") from error


def check_links(folder: Path) -> None:
    """Raises ``StudyError`` for a link that leads out of a model's folder, in the hub's cache out of its repository."""
    home = next((place for place in folder.resolve().parents if place.name.startswith("models--")), folder.resolve())
    for path in folder.rglob("*"):
        if path.is_symlink() and not path.resolve().is_relative_to(home):
            raise StudyError(f"model {folder}: {path.name} is a link out of its folder; do not load it")


def fingerprint(codec) -> str:
    """sha256 of all that decoding and projecting depend on: settings, decoder and arrays."""
    settings, arrays = codec.state()
    weights = codec.decoder_.state_dict() if codec.decoder_ is not None else {}
    arrays = arrays | {f"decoder.{name}": part.cpu().numpy() for name, part in weights.items()}
    sums = {name: [part.dtype.str, *_sum(part)] for name, part in arrays.items()}
    return digest(_kind(codec), settings, sums)


def save_codec(codec, folder: Path) -> None:
    """Write ``codec.json``, ``codec.safetensors`` and its decoder, if any; raises ``StudyError`` where it is not fitted."""
    kind = _kind(codec)
    require_fit(codec)
    settings, arrays = codec.state()
    held = {"version": VERSION, "kind": kind, "fingerprint": fingerprint(codec), "settings": settings}
    held["decoder"] = codec.decoder_ is not None
    with write_atomically(folder / "codec.safetensors") as file:
        file.write(save({name: np.ascontiguousarray(part) for name, part in arrays.items()}))
    if held["decoder"]:
        Decoder.save(codec.decoder_, folder)
    with write_atomically(folder / "codec.json", "w") as file:
        json.dump(held, file, indent=1)


def load_codec(folder: Path):
    """What ``save_codec`` wrote; raises ``StudyError`` for missing or damaged files and for those of two codecs."""
    with reading(f"codec {folder}", "save it again"):
        held = json.loads((folder / "codec.json").read_text(encoding="utf-8"))
        check_made(held, f"codec {folder}")
        decoder, arrays = Decoder.load(folder) if held["decoder"] else None, load_file(folder / "codec.safetensors")
        codec = KINDS[held["kind"]].from_state(held["settings"], arrays, decoder)
        if fingerprint(codec) != held["fingerprint"]:
            raise ValueError("its arrays are not those of its fingerprint")
    return codec


def save_codes(path: Path, codes: np.ndarray, ids: list[str], marks: dict) -> None:
    """Write packed codes, their ids, and ``marks`` of what made them to one safetensors file, with its own sha256."""
    ids = [str(name) for name in ids]
    if len(ids) != len(codes) or len(set(ids)) != len(ids):
        raise StudyError(f"codes file {path.name}: {len(codes)} codes need as many different ids, got {len(set(ids))}")
    names = np.frombuffer(json.dumps(ids).encode(), dtype=np.uint8)
    tensors, held = {"codes": np.ascontiguousarray(codes), "ids": names}, {"version": VERSION, **marks}
    held["content"] = _content(held, tensors)
    with write_atomically(path) as file:
        file.write(save(tensors, {"ccq": json.dumps(held)}))


def read_codes(path: Path) -> tuple[np.ndarray, list[str], dict]:
    """Codes, ids and marks of a codes file; raises ``StudyError`` where it is missing, damaged or of another version."""
    with reading(f"codes file {path}", "make it with: ccq encode MODEL texts.jsonl --out codes.safetensors"):
        with safe_open(path, framework="numpy") as file:
            held, tensors = json.loads(file.metadata()["ccq"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        check_made(held, f"codes file {path.name}")
        if held["content"] != _content(held, tensors):
            raise ValueError("it is damaged")
        return tensors["codes"], json.loads(tensors["ids"].tobytes()), held


def load_codes(path: Path, marks: dict[str, str]) -> tuple[np.ndarray, list[str]]:
    """Codes and ids of a file or a finished folder of parts; raises ``StudyError`` also where other ``marks`` made them."""
    if not path.is_dir():
        codes, ids, held = read_codes(path)
        check_made(held, f"codes file {path.name}", marks)
        return codes, ids
    with reading(f"codes folder {path}", "run ccq encode, which resumes where it stopped"):
        listed = json.loads((path / PARTS).read_text(encoding="utf-8"))
        check_made(listed, f"codes folder {path.name}", marks)
        found = [read_codes(path / name) for name in listed["parts"]]
        for (name, content), (_, _, held) in zip(listed["parts"].items(), found, strict=True):
            if held["content"] != content:
                raise ValueError(f"{name} is of another run")
    return np.concatenate([codes for codes, _, _ in found]), [name for _, ids, _ in found for name in ids]


def _content(held, tensors):
    marks = {name: mark for name, mark in held.items() if name != "content"}
    return digest(marks, {name: _sum(part) for name, part in tensors.items()})


def _sum(part):
    return [part.shape, hashlib.sha256(np.ascontiguousarray(part)).hexdigest()]


def check_codes(codec, codes: np.ndarray) -> np.ndarray:
    """The codes as an array; raises ``StudyError`` where they are not uint8 of the codec's width."""
    codes, wanted = np.asarray(codes), codec.bytes_per_vector
    if (codes.dtype, codes.shape) != (np.uint8, (len(codes), wanted)):
        found = f"{codes.dtype} of shape {codes.shape}"
        raise StudyError(f"codes are {found}, this model's are uint8 of shape (n, {wanted})")
    return codes


def check_made(held: dict, owner: str, marks: dict[str, str] | None = None) -> None:
    """Raises ``StudyError`` for a format unknown to this release, and for another codec or model than those at hand."""
    if held["version"] != VERSION:
        raise StudyError(f"{owner} has format version {held['version']!r}, this release reads {VERSION}")
    if other := [name for name, mark in (marks or {}).items() if held.get(name) != mark]:
        raise StudyError(f"{owner} was made with another {other[0]}; encode the texts again, or load that model")


def require_fit(codec) -> None:
    """Raises ``StudyError`` where a codec was made but not fitted: what is learned ends in ``_``."""
    if not any(name.endswith("_") for name in vars(codec)):
        raise StudyError("the codec is not fitted; call fit(texts) first")


def _kind(codec):
    if found := [name for name, kind in KINDS.items() if type(codec) is kind]:
        return found[0]
    raise StudyError(f"codec {type(codec).__name__} cannot be saved; choose one of: {', '.join(KINDS)}")
