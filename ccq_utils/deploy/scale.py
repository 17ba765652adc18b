"""A corpus of any size to codes: cut into parts, encoded one by one here or on a Ray cluster, one file per part.

A text's last bits depend on the batch that it is encoded in. So a part always holds the same texts and one call encodes all
of them: every worker writes the same bytes, as long as all use as many threads. A part that is there and intact is not made
again, so that a run that was killed goes on where it stopped.
"""

import hashlib
import importlib
import json
import logging
import os
import socket
import warnings
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from itertools import islice, zip_longest
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from ccq_utils.codecs.files import PARTS, VERSION, read_codes, save_codes
from ccq_utils.common.errors import StudyError
from ccq_utils.common.files import PARTIAL, write_atomically, writing_to
from ccq_utils.common.progress import progress
from ccq_utils.data.text_files import stream_texts
from ccq_utils.deploy.pipeline import CHUNK, CompressedModel, read_manifest
from ccq_utils.models.encoding import precision_here

RETRIES = 3
"""Further tries of a part whose worker died. What kills four workers is the part itself, most often by its memory."""
ANSWER = 5
"""Seconds to wait for a cluster. Ray itself waits two minutes and then ends the process."""


@dataclass(frozen=True)
class Part:
    """What a file of codes is made from: its number, how many texts, and the sha256 of ids and texts."""

    number: int
    rows: int
    texts: str

    @classmethod
    def of(cls, number: int, ids: list[str], texts: list[str]) -> "Part":
        """The part that these texts are."""
        return cls(number, len(ids), hashlib.sha256(json.dumps([ids, texts]).encode()).hexdigest())

    @property
    def file(self) -> str:
        """Name of the file."""
        return f"part-{self.number:06d}.safetensors"


def encode_corpus(
    model: str | Path,
    texts: str | Path,
    out: str | Path,
    address: str = "",
    workers: int | None = None,
    threads: int | None = None,
    device: str | None = "cpu",
    part: int = CHUNK,
    precision: str = "float32",
) -> dict[str, int]:
    """Encode a corpus with a saved model to a folder of parts, which ``CompressedModel.load_codes`` reads.

    Args:
        model: Folder of a saved model; on a cluster, at the same path on every machine.
        texts: A ``.jsonl`` or ``.jsonl.gz`` file, or a folder of them. They are read twice and never held as a whole.
        out: The folder to write.
        address: Empty encodes here, one part after the other. With Ray: ``local`` starts a cluster on this machine,
            ``auto`` finds the one that runs on it, or ``host:port`` or ``ray://host:port``.
        workers: Parts encoded at once with Ray; as many as the cluster has room for where None.
        threads: Of each worker. None is one with Ray, and what torch takes without.
        device: As of ``CompressedModel.load``; with ``cuda`` each Ray worker holds a GPU.
        part: Texts per part.
        precision: As of ``CompressedModel``; ``auto`` is decided here, for all workers.

    Returns:
        Number of ``texts``, of ``parts``, and of parts ``made`` now.

    Raises:
        StudyError: A bad text, an id that stands twice, texts that change meanwhile, codes of another model in the folder,
            a cluster that cannot be reached or has no room, or a part that keeps killing its worker.
    """
    model, texts, out = Path(model).resolve(), Path(texts), Path(out)
    for label, number in (("part", part), ("workers", workers), ("threads", threads)):
        if number is not None and number < 1:
            raise StudyError(f"{label} {number} must be at least 1")
    if workers is not None and not address:
        raise StudyError(f"workers {workers} need Ray; give an address, such as local")
    about = read_manifest(model)
    marks = {"codec": about["codec"], "model": about["model"], "precision": precision_here(precision)}
    marks["codec_file"] = about["files"].get("codec/codec.safetensors", "")  # with or without a corpus: other codes
    plan = plan_parts(texts, part)
    missing = {piece.number for piece in plan if not _is_done(out, piece, marks)}
    held = {}

    def chunks():
        for piece, found in zip_longest(plan, _cut(texts, part)):
            if not (piece and found and Part.of(piece.number, *found) == piece):
                raise StudyError(f"texts {texts.name} were changed while they were encoded; run it again")
            if piece.number in missing:
                held[piece.number], chunk = found
                yield piece.number, chunk

    if missing:
        with writing_to(out):
            out.mkdir(parents=True, exist_ok=True)
            (out / PARTS).unlink(missing_ok=True)  # from here on the folder counts as unfinished
        threads = threads or (1 if address else None)
        work = partial(encode_part, str(model), about["codec"], about["model"], threads, device, marks["precision"])
        done = _on_ray(work, chunks(), address, workers, threads, device) if address else _here(work, chunks())
        for number, codes in progress(done, "parts encoded", len(missing)):
            save_codes(out / plan[number].file, codes, held.pop(number), marks | asdict(plan[number]))
    _finish(out, plan, marks)
    return {"texts": sum(piece.rows for piece in plan), "parts": len(plan), "made": len(missing)}


def encode_part(model, codec_mark, model_mark, threads, device, precision, texts: list[str]) -> np.ndarray:
    """Codes of one part, by a model that each process loads once; refuses a machine that holds another one."""
    with threadpool_limits(threads):
        loaded = _loaded(model, device, precision)
        if loaded.marks != {"codec": codec_mark, "model": model_mark}:
            raise StudyError(f"the saved model {model} is another one on this machine; copy it to all of them")
        return loaded.encode_document(texts)


@lru_cache(maxsize=1)
def _loaded(model, device, precision):
    return CompressedModel.load(model, device, precision)


def _cut(texts: Path, part: int) -> Iterator[tuple[list[str], list[str]]]:
    """Ids and texts of one part after the other."""
    rows = stream_texts(texts)
    while chunk := list(islice(rows, part)):
        yield [name for name, _ in chunk], [text for _, text in chunk]


def plan_parts(texts: Path, part: int) -> list[Part]:
    """The parts of a corpus, from one pass over it, so that a bad text shows before the long work."""
    plan, keys = [], array("Q")  # 8 bytes per id are held, whatever its length
    for number, (ids, chunk) in enumerate(_cut(texts, part)):
        plan.append(Part.of(number, ids, chunk))
        keys.extend(int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) for name in ids)
    if not plan:
        raise StudyError(f"texts {texts.name} holds no text; give JSON objects with 'id' and 'text', one per line")
    if twice := len(keys) - len(np.unique(np.frombuffer(keys, np.uint64))):
        raise StudyError(f"texts {texts.name}: {twice} of {len(keys)} ids stand there already; ids must differ")
    return plan


def _is_done(folder, part, marks):
    """Whether an intact file of these very texts is there; a damaged or outdated one is named in a warning."""
    if not (folder / part.file).is_file():
        return False
    try:
        held = read_codes(folder / part.file)[2]
    except StudyError as error:
        warnings.warn(f"{error}; it is made again", stacklevel=3)
        return False
    if other := [name for name, mark in marks.items() if held.get(name) != mark]:
        raise StudyError(
            f"{folder} holds codes of another {other[0]} ({part.file}); choose another folder, or delete it"
        )
    if any(held.get(name) != value for name, value in asdict(part).items()):
        warnings.warn(f"{part.file} is of other texts than those of now; it is made again", stacklevel=3)
        return False
    return True


def _finish(folder, plan, marks):
    """List the parts; files beyond the plan, of a longer corpus or shorter parts, are removed with a warning."""
    with writing_to(folder):
        for path in [*folder.glob(f".part-*{PARTIAL}"), *sorted(folder.glob("part-*.safetensors"))]:
            if path.name.startswith("."):  # of a run that was killed while it wrote
                path.unlink()
            elif path.name not in {part.file for part in plan}:
                warnings.warn(f"{path.name} is of an earlier corpus; it is removed", stacklevel=3)
                path.unlink()
    parts = {part.file: read_codes(folder / part.file)[2]["content"] for part in plan}
    with write_atomically(folder / PARTS, "w") as file:
        json.dump({"version": VERSION, **marks, "parts": parts}, file, indent=1)


def _here(work, items: Iterable[tuple]) -> Iterator[tuple]:
    return ((key, work(argument)) for key, argument in items)


def _on_ray(work, items, address, workers, threads, device):
    """Key and result of each item, as Ray's tasks finish; no more items are read than there are workers."""
    ray, ours = _connect(address, workers and workers * threads)
    try:
        gpus, held = int((device or "").startswith("cuda")), ray.cluster_resources()
        room = int(held.get("CPU", 0)) // threads
        room = min(room, int(held.get("GPU", 0))) if gpus else room
        if (workers or 1) > room:
            raise StudyError(
                f"the Ray cluster has room for {room} workers of {threads} CPUs and {gpus} GPUs; ask for less"
            )
        task = ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=RETRIES)(lambda argument: work(argument))
        waiting, items = {}, iter(items)
        while True:
            for key, argument in islice(items, (workers or room) - len(waiting)):
                waiting[task.remote(argument)] = key
            if not waiting:
                return
            (done,), _ = ray.wait(list(waiting))
            yield waiting.pop(done), ray.get(done)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, StudyError):
            raise StudyError(str(error.cause)) from error
        raise
    except ray.exceptions.RayError as error:
        reason = " ".join(str(error).split())[:200]
        raise StudyError(
            f"a Ray worker cannot start, or keeps dying ({reason}); if memory is short, take smaller parts or fewer workers"
        ) from error
    finally:
        if ours:
            ray.shutdown()


def _connect(address, cpus):
    """Ray, connected, and whether by us: a connection that the caller has is used and left as it is."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anyone
    if address == "local":
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # on any system: the loopback address alone
    try:
        ray = importlib.import_module("ray")
    except ImportError as error:
        raise StudyError("an address needs Ray; install it with: pip install '.[ray]'") from error
    if ray.is_initialized():
        return ray, False
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address not in ("local", "auto"):
            host, _, port = address.removeprefix("ray://").rpartition(":")
            socket.create_connection((host, int(port)), timeout=ANSWER).close()
        ray.init(address, **quiet, **({"num_cpus": cpus, "include_dashboard": False} if address == "local" else {}))
    except Exception as error:  # a node that starts too slowly is a bare Exception
        reason = (str(error).splitlines() or [""])[0][:160]
        raise StudyError(
            f"no Ray cluster at {address!r} ({reason}); give local, auto, host:port or ray://host:port, or run: ray start"
        ) from error
    return ray, True
