"""Codecs and codes on disk: safetensors and JSON, a format version, and a fingerprint by which codes know their codec."""

import hashlib
import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ccq_utils.codecs.byte_blocks import BlockCodec
from ccq_utils.codecs.decoder import Decoder
from ccq_utils.codecs.percentile import CODECS, PercentileCodec
from ccq_utils.common.cache import digest, writing_to
from ccq_utils.common.errors import StudyError

VERSION = 1
"""Of the format of codec folders and codes files; a reader refuses what is newer."""
KINDS = {"byte blocks": BlockCodec, "percentile": PercentileCodec}


def fingerprint(codec) -> str:
    """sha256 over all that decoding and projecting depend on: settings, arrays (but anchors) and decoder."""
    settings, arrays = codec.state()
    if hasattr(codec, "decoder_"):
        arrays = arrays | {f"decoder.{name}": part.cpu().numpy() for name, part in codec.decoder_.state_dict().items()}
    sums = {
        name: [part.dtype.str, part.shape, hashlib.sha256(np.ascontiguousarray(part).tobytes()).hexdigest()]
        for name, part in arrays.items()
        if name != "anchors"
    }
    return digest(_kind(codec), settings, sums)


def save_codec(codec, folder: Path, anchors: bool = True) -> None:
    """Write ``codec.json``, ``codec.safetensors`` and, where the codec has one, the decoder's two files.

    Parameters
    ----------
    anchors : False leaves out the float vectors of the corpus that byte blocks were fitted on

    Raises
    ------
    StudyError : a codec that is not fitted, or of a kind that has no file format.
    """
    kind = _kind(codec)
    require_fit(codec)
    settings, arrays = codec.state()
    if not anchors:
        arrays.pop("anchors", None)
    about = {"version": VERSION, "kind": kind, "fingerprint": fingerprint(codec), "settings": settings}
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: np.ascontiguousarray(part) for name, part in arrays.items()}, folder / "codec.safetensors")
        if hasattr(codec, "decoder_"):
            Decoder.save(codec.decoder_, folder)
        (folder / "codec.json").write_text(json.dumps(about, indent=1))


def load_codec(folder: Path):
    """What ``save_codec`` wrote.

    Raises
    ------
    StudyError : a file is missing or cannot be read, is of a newer version, or the arrays are not those of the fingerprint.
    """
    folder = Path(folder)
    for name in ("codec.json", "codec.safetensors"):
        if not (folder / name).is_file():
            raise StudyError(f"codec {folder}: {name} is missing; save the model again")
    try:
        about = json.loads((folder / "codec.json").read_text(encoding="utf-8"))
        check_version(about["version"], f"codec {folder}")
        kind = KINDS[about["kind"]]
        arrays = load_file(folder / "codec.safetensors")
        parts = [Decoder.load(folder)] if kind is PercentileCodec else []
        codec = kind.from_state(about["settings"], arrays, *parts)
        intact = fingerprint(codec) == about["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        problem = " ".join(str(error).split())[:120]
        raise StudyError(f"codec {folder} cannot be read ({type(error).__name__}: {problem}); save it again") from error
    if not intact:
        raise StudyError(f"codec {folder}: its arrays are not those of its fingerprint; its files come from two codecs")
    return codec


def save_codes(path: Path, codes: np.ndarray, ids: list[str], marks: dict[str, str]) -> None:
    """Write packed codes ``(n, bytes) uint8`` and ids as ``.npz`` without pickle; ``marks`` are fingerprints."""
    path = Path(path)
    if len(ids) != len(codes) or len(set(ids)) != len(ids):
        raise StudyError(f"codes file {path.name}: {len(codes)} codes need as many different ids, got {len(set(ids))}")
    about = json.dumps({"version": VERSION, **marks})
    with writing_to(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        with partial.open("wb") as file:
            np.savez(file, codes=codes, ids=np.array([str(name) for name in ids], dtype=np.str_), about=np.array(about))
        partial.replace(path)


def load_codes(path: Path, marks: dict[str, str]) -> tuple[np.ndarray, list[str]]:
    """Codes and ids of a file that was made with the same ``marks``.

    Raises
    ------
    StudyError : no such file, not a codes file, a newer version, or codes of another codec or another model.
    """
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as held:
            codes, ids, about = held["codes"], held["ids"].tolist(), json.loads(str(held["about"]))
        version, made_with = about["version"], {name: about[name] for name in marks}
    except FileNotFoundError as error:
        raise StudyError(
            f"codes file {path} is missing; make it with: ccq encode MODEL texts.jsonl {path.name}"
        ) from error
    except Exception as error:  # a zip archive can be broken in many ways
        raise StudyError(
            f"{path} is no codes file ({' '.join(str(error).split())[:100]}); make it with ccq encode"
        ) from error
    check_version(version, f"codes file {path}")
    check_marks(made_with, marks, f"codes file {path.name}")
    return codes, ids


def check_marks(made_with: dict[str, str], marks: dict[str, str], owner: str) -> None:
    """Raises ``StudyError`` where codes carry other fingerprints than the codec and the model at hand."""
    for name, mark in marks.items():
        if made_with[name] != mark:
            raise StudyError(
                f"{owner} was made with another {name} ({made_with[name][:8]}..., this one is {mark[:8]}...);"
                " encode the texts again, or load the model that they were encoded with"
            )


def check_version(version, owner: str) -> None:
    """Raises ``StudyError`` for a format that this release does not know."""
    if version != VERSION:
        raise StudyError(f"{owner} has format version {version!r}, this release reads {VERSION}; update ccq_utils")


def require_fit(codec) -> None:
    """Raises ``StudyError`` where a codec was made but not fitted: learned values end in ``_``."""
    if not any(name.endswith("_") for name in vars(codec)):
        raise StudyError("the codec is not fitted; call fit(texts) first")


def check_name(name: str) -> None:
    """Raises ``StudyError`` for a name of ``codecs.CODECS`` whose codec has no file format, or for none."""
    known = [known for known in CODECS if known == "byte blocks" or known.startswith(("PCA", "decoder"))]
    if name not in known:
        raise StudyError(f"codec {name!r} is unknown or cannot be saved; choose one of: {', '.join(known)}")


def _kind(codec):
    for name, kind in KINDS.items():
        if isinstance(codec, kind):
            return name
    raise StudyError(f"codec {type(codec).__name__} cannot be saved; choose one of: {', '.join(KINDS)}")
