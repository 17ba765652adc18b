"""A corpus of any size to codes: cut into numbered parts, each encoded by one worker as a whole, one shard per part.

The part is the unit. A text's last bits depend on the batch that it is encoded in, so a part always holds the same texts
and one call encodes them: any worker of any engine gives the same bytes (with equal ``threads``). Only the driver writes;
a worker that dies leaves nothing behind, and a shard that is there and intact is never made again.

Ray Data is not used: it cuts and merges blocks by their size, which would move texts to other batches; its readers need
the corpus on every machine, and it does not run through ``ray://``. Here texts go out and codes come back.
"""

import hashlib
import importlib.util
import json
import tempfile
import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice, zip_longest
from pathlib import Path

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from ccq_utils.common.errors import StudyError
from ccq_utils.common.progress import progress
from ccq_utils.data.text_files import stream_texts
from ccq_utils.deploy import shards
from ccq_utils.deploy.engines import engine
from ccq_utils.deploy.pipeline import CHUNK, CompressedModel, read_manifest
from ccq_utils.deploy.shards import Part
from ccq_utils.models.encoding import precision_here


@dataclass(frozen=True)
class Coded:
    """What ``encode_corpus`` did: texts, bytes per text, parts, how many of them now; seconds to start, seconds of work."""

    rows: int
    bytes: int
    parts: int
    made: int
    start_seconds: float
    seconds: float


class Coder:
    """A saved model in a worker: texts to packed codes ``(n, bytes) uint8``.

    Parameters
    ----------
    folder : of the saved model, at the same path on every machine of a cluster
    marks : its fingerprints where the work was planned; a machine that holds another model refuses
    threads : of torch and numpy; None leaves them as they are
    running : how the model runs, as of ``CompressedModel.load``
    """

    def __init__(self, folder: str, marks: dict[str, str], threads: int | None = None, **running):
        self.model, self.threads = CompressedModel.load(folder, **running), threads
        if any(self.model.marks[name] != mark for name, mark in marks.items() if name in self.model.marks):
            raise StudyError(f"the saved model {folder} is another one on this machine; copy it to all of them")

    def __call__(self, texts: list[str]) -> np.ndarray:
        """Codes of one part."""
        with threadpool_limits(self.threads):
            return self.model.encode_document(texts)


def encode_corpus(
    model: str | Path,
    texts: str | Path,
    out: str | Path,
    engine_name: str = "local",
    address: str = "",
    workers: int | None = None,
    threads: int | None = None,
    device: str | None = "cpu",
    part: int = CHUNK,
    precision: str = "float32",
) -> Coded:
    """Encode a corpus with a saved model to a folder of shards; what an earlier run left there intact is kept.

    Parameters
    ----------
    model : folder of a saved model
    texts : as of ``textfiles.stream_texts``: read twice, never held as a whole
    out : folder; ``CompressedModel.load_codes`` reads it
    engine_name, address, workers, threads : as of ``engines.engine``; equal bytes need equal ``threads``; where None, a Ray
        worker takes one and the local engine what torch takes
    device : as of SentenceTransformer; ``cuda`` gives each Ray worker a GPU of its own
    part : texts per shard
    precision : what transformers compute in (``encoding.PRECISIONS``); ``auto`` is decided here, for all workers

    Raises
    ------
    StudyError : as ``stream_texts``, ``engine``, ``CompressedModel.load`` and ``shards.is_done`` do; an id that stands
        twice, an empty corpus, texts that change meanwhile.
    """
    model, texts, out = Path(model).resolve(), Path(texts), Path(out)
    if part < 1:
        raise StudyError(f"part {part} must be at least 1 text")
    precision = precision_here(precision)
    if engine_name == "ray" and threads is None:
        threads = 1
    marks, files, *_ = read_manifest(model)
    marks = marks | {"precision": precision}
    marks |= {"codec_file": files.get("codec/codec.safetensors", "")}  # with or without a corpus: other codes
    plan = plan_parts(texts, part)
    listed = shards.listed(out)
    missing = {piece.number for piece in plan if not shards.is_done(out, piece, marks, listed.get(piece.file, ""))}
    began, first = time.monotonic(), None
    held, work = {}, partial(Coder, str(model), marks, threads, device=device, precision=precision)

    def items():
        nonlocal first
        first = time.monotonic()  # workers are ready when they ask for the first part
        for piece, found in zip_longest(plan, cut(texts, part)):
            if not (piece and found and describe(piece.number, *found) == piece):
                raise StudyError(f"texts {texts.name} were changed while they were encoded; run it again")
            if piece.number in missing:
                held[piece.number], chunk = found
                yield piece.number, chunk

    if missing:
        shards.begin(out)
        with engine(engine_name, address, workers, threads, (device or "").startswith("cuda")) as run:
            for number, codes in progress(run(work, items()), "parts encoded", len(missing)):
                shards.write(out, plan[number], held.pop(number), codes, marks)
    ended = time.monotonic()
    shards.finish(out, plan, marks)
    rows, start = sum(piece.rows for piece in plan), (first or ended) - began
    return Coded(rows, shards.width(out / plan[0].file), len(plan), len(missing), start, ended - began - start)


def cut(texts: Path, part: int) -> Iterator[tuple[list[str], list[str]]]:
    """Ids and texts of one part after the other, in the order of the corpus."""
    rows = stream_texts(texts)
    while chunk := list(islice(rows, part)):
        yield [name for name, _ in chunk], [text for _, text in chunk]


def plan_parts(texts: Path, part: int) -> list[Part]:
    """The parts of a corpus, from one pass over it: what is wrong with it shows before the long work.

    Raises
    ------
    StudyError : as ``stream_texts`` does; an id that stands twice, no text at all.
    """
    plan, keys = [], array("Q")  # 8 bytes per id are held, whatever its length
    for number, (ids, chunk) in enumerate(cut(texts, part)):
        plan.append(describe(number, ids, chunk))
        keys.extend(map(_key, ids))
    if not plan:
        raise StudyError(f"texts {texts.name} holds no text; give JSON objects with 'id' and 'text', one per line")
    ordered = np.sort(np.frombuffer(keys, np.uint64))
    if len(twice := set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())):
        seen = set()
        for ids, _ in cut(texts, part):
            for name in ids:
                if _key(name) in twice:  # or, once in a few billion ids, two ids of one key
                    if name in seen:
                        raise StudyError(f"texts {texts.name}: the id {name!r} stands twice; ids must differ")
                    seen.add(name)
    return plan


def describe(number: int, ids: list[str], texts: list[str]) -> Part:
    """The part that these ids and texts are."""
    found = hashlib.sha256(json.dumps([ids, texts]).encode()).hexdigest()
    return Part(number, len(ids), ids[0], ids[-1], found)


def _key(name):
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest())


COLUMNS = ["engine", "workers", "texts", "start_seconds", "texts_per_second", "equal_bytes"]


def demonstration(model: CompressedModel, texts: list[str], workers: tuple[int, ...] = (1, 2), part: int = 64):
    """Texts per second of the local engine and of Ray with some numbers of workers, one thread each: a tidy table.

    Parameters
    ----------
    model : fitted; it is saved to a temporary folder, as the engines need it
    texts : some hundreds; each row encodes all of them

    Returns
    -------
    One row per run: engine, workers, texts, seconds to start (cluster, workers, their models), texts per second after that,
    and whether all shards are byte for byte those of the local engine. Without Ray no rows, and a note is printed.
    """
    if importlib.util.find_spec("ray") is None:
        print("Ray is not installed, so there is nothing to compare; install it with: pip install '.[ray]'")
        return pd.DataFrame(columns=COLUMNS)
    rows, expected = [], None
    with tempfile.TemporaryDirectory() as scratch:
        home, corpus = Path(scratch), Path(scratch) / "texts.jsonl"
        model.save(home / "model")
        lines = (json.dumps({"id": str(number), "text": text}) for number, text in enumerate(texts))
        corpus.write_text("\n".join(lines), encoding="utf-8")
        for name, count in [("local", 1), *(("ray", count) for count in workers)]:
            out = home / f"{name}-{count}"
            done = encode_corpus(home / "model", corpus, out, name, workers=count, threads=1, part=part)
            shown = {path.name: path.read_bytes() for path in out.iterdir()}
            expected = expected or shown
            speed = done.rows / done.seconds
            rows.append([name, count, done.rows, round(done.start_seconds, 1), round(speed, 1), shown == expected])
    return pd.DataFrame(rows, columns=COLUMNS)
