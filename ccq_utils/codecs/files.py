"""Codecs and codes on disk: safetensors and JSON, with fingerprints by which codes know what made them."""

import hashlib
import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save

from ccq_utils.codecs.byte_blocks import BlockCodec
from ccq_utils.codecs.decoder import Decoder
from ccq_utils.codecs.percentile import CODECS, PercentileCodec
from ccq_utils.common.cache import digest
from ccq_utils.common.errors import StudyError
from ccq_utils.common.files import write_atomically

VERSION = 1
"""Of the formats of codecs and codes; a reader refuses what is newer."""
KINDS = {"byte blocks": BlockCodec, "percentile": PercentileCodec}
PARTS = "_parts.json"
"""Lists the parts of a folder of codes; written when all are there."""
BROKEN = (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, SafetensorError)
"""What a damaged file may raise."""


def fingerprint(codec) -> str:
    """sha256 of all that decoding and projecting depend on: settings, decoder, and arrays but for anchors."""
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
    """Write ``codec.json``, ``codec.safetensors`` and, where the codec has one, its decoder.

    Args:
        codec: Fitted byte blocks or percentile codec.
        folder: Made if it is not there.
        anchors: False leaves out the vectors of the corpus that byte blocks were fitted on.

    Raises:
        StudyError: The codec is not fitted, or is of a kind that cannot be saved.
    """
    kind = _kind(codec)
    require_fit(codec)
    settings, arrays = codec.state()
    if not anchors:
        arrays.pop("anchors", None)
    held = {"version": VERSION, "kind": kind, "fingerprint": fingerprint(codec), "settings": settings}
    with write_atomically(folder / "codec.safetensors") as file:
        file.write(save({name: np.ascontiguousarray(part) for name, part in arrays.items()}))
    if hasattr(codec, "decoder_"):
        Decoder.save(codec.decoder_, folder)
    with write_atomically(folder / "codec.json", "w") as file:
        json.dump(held, file, indent=1)


def load_codec(folder: Path):
    """What ``save_codec`` wrote.

    Raises:
        StudyError: A file is missing, damaged or of a newer version, or files of two codecs were mixed.
    """
    folder = Path(folder)
    try:
        held = json.loads((folder / "codec.json").read_text(encoding="utf-8"))
        check_version(held["version"], f"codec {folder}")
        kind = KINDS[held["kind"]]
        decoder = [Decoder.load(folder)] if kind is PercentileCodec else []
        codec = kind.from_state(held["settings"], load_file(folder / "codec.safetensors"), *decoder)
        intact = fingerprint(codec) == held["fingerprint"]
    except BROKEN as error:
        problem = " ".join(str(error).split())[:120]
        raise StudyError(f"codec {folder} cannot be read ({type(error).__name__}: {problem}); save it again") from error
    if not intact:
        raise StudyError(f"codec {folder}: its arrays are not those of its fingerprint; its files come from two codecs")
    return codec


def save_codes(path: Path, codes: np.ndarray, ids: list[str], marks: dict) -> None:
    """Write packed codes and their ids to one safetensors file, with its own sha256.

    Args:
        path: The file to write.
        codes: Shape (documents, bytes), uint8.
        ids: One per document, all different.
        marks: Fingerprints of what made the codes, and what else should be kept with them.
    """
    path, ids = Path(path), [str(name) for name in ids]
    if len(ids) != len(codes) or len(set(ids)) != len(ids):
        raise StudyError(f"codes file {path.name}: {len(codes)} codes need as many different ids, got {len(set(ids))}")
    names = np.frombuffer(json.dumps(ids).encode(), dtype=np.uint8)
    tensors, held = {"codes": np.ascontiguousarray(codes), "ids": names}, {"version": VERSION, **marks}
    held["content"] = _content(held, tensors)
    with write_atomically(path) as file:
        file.write(save(tensors, {"ccq": json.dumps(held)}))


def read_codes(path: Path) -> tuple[np.ndarray, list[str], dict]:
    """Codes, ids and marks of a codes file; raises ``StudyError`` where it is missing, damaged or of a newer version."""
    path = Path(path)
    if not path.is_file():
        raise StudyError(f"codes file {path} is missing; make it with: ccq encode MODEL texts.jsonl {path.name}")
    try:
        with safe_open(path, framework="numpy") as file:
            held, tensors = json.loads(file.metadata()["ccq"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        content = held.pop("content")
        check_version(held["version"], f"codes file {path.name}")
        if content != _content(held, tensors):
            raise StudyError(f"codes file {path.name} is damaged; make it again with ccq encode")
        return tensors["codes"], json.loads(tensors["ids"].tobytes()), held | {"content": content}
    except BROKEN as error:
        problem = " ".join(str(error).split())[:100]
        raise StudyError(f"{path} is no codes file ({problem}); make it with ccq encode") from error


def load_codes(path: Path, marks: dict[str, str]) -> tuple[np.ndarray, list[str]]:
    """Codes and ids of a file, or of a folder of parts in their order.

    Args:
        path: What ``ccq encode`` wrote.
        marks: Fingerprints of the codec and the model at hand.

    Raises:
        StudyError: Nothing there, a damaged file, an unfinished folder, or codes of another codec or model.
    """
    path = Path(path)
    if not path.is_dir():
        codes, ids, held = read_codes(path)
        check_marks(held, marks, f"codes file {path.name}")
        return codes, ids
    try:
        parts = json.loads((path / PARTS).read_text(encoding="utf-8"))
        check_version(parts["version"], f"codes folder {path.name}")
        check_marks(parts, marks, f"codes folder {path.name}")
        listed = list(parts["parts"].items())
    except FileNotFoundError as error:
        raise StudyError(f"{path} holds no finished codes; run ccq encode, which resumes where it stopped") from error
    except BROKEN as error:
        raise StudyError(f"codes folder {path.name}: {PARTS} cannot be read; run ccq encode again") from error
    found = [read_codes(path / name) for name, _ in listed]
    for (name, content), (_, _, held) in zip(listed, found, strict=True):
        if held["content"] != content:
            raise StudyError(f"codes folder {path.name}: {name} is of another run; run ccq encode again")
    return np.concatenate([codes for codes, _, _ in found]), [name for _, ids, _ in found for name in ids]


def _content(held, tensors):
    return digest(held, {name: [part.shape, hashlib.sha256(part).hexdigest()] for name, part in tensors.items()})


def check_codes(codec, codes: np.ndarray) -> np.ndarray:
    """The codes as an array; raises ``StudyError`` where they are not uint8 of the codec's width."""
    codes, wanted = np.asarray(codes), codec.bytes_per_vector
    if codes.dtype != np.uint8 or codes.ndim != 2 or codes.shape[1] != wanted:
        raise StudyError(
            f"codes are {codes.dtype} of shape {codes.shape}, this model's are uint8 of shape (n, {wanted});"
            " encode the texts with this model"
        )
    return codes


def check_marks(made_with: dict, marks: dict[str, str], owner: str) -> None:
    """Raises ``StudyError`` where something was made with another codec or model than those at hand."""
    for name, mark in marks.items():
        if (found := str(made_with.get(name))) != mark:
            raise StudyError(
                f"{owner} was made with another {name} ({found[:8]}..., this one is {mark[:8]}...);"
                " encode the texts again, or load the model that they were encoded with"
            )


def check_version(version, owner: str) -> None:
    """Raises ``StudyError`` for a format that this release does not know."""
    if version != VERSION:
        raise StudyError(f"{owner} has format version {version!r}, this release reads {VERSION}; update ccq_utils")


def require_fit(codec) -> None:
    """Raises ``StudyError`` where a codec was made but not fitted: what is learned ends in ``_``."""
    if not any(name.endswith("_") for name in vars(codec)):
        raise StudyError("the codec is not fitted; call fit(texts) first")


def check_name(name: str) -> None:
    """Raises ``StudyError`` for a name of no codec, or of one that cannot be saved."""
    known = [known for known in CODECS if known == "byte blocks" or known.startswith(("PCA", "decoder"))]
    if name not in known:
        raise StudyError(f"codec {name!r} is unknown or cannot be saved; choose one of: {', '.join(known)}")


def _kind(codec):
    for name, kind in KINDS.items():
        if isinstance(codec, kind):
            return name
    raise StudyError(f"codec {type(codec).__name__} cannot be saved; choose one of: {', '.join(KINDS)}")
