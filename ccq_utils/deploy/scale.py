"""A corpus of any size to codes: cut into parts, encoded one by one here or on a Ray cluster, one file per part.

A text's last bits depend on its batch. So a part always holds the same texts, and one call encodes all of them: every worker
writes the same bytes if all use as many threads. An intact part is not made again: a killed run goes on where it stopped.
"""

import hashlib
import json
import logging
import os
import socket
import warnings
from array import array
from collections import deque
from functools import lru_cache, partial
from itertools import islice, zip_longest
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from ccq_utils.codecs.files import PARTS, VERSION, read_codes, save_codes
from ccq_utils.common.errors import StudyError
from ccq_utils.common.files import PARTIAL, is_ours, only_one, write_atomically, writing_to
from ccq_utils.common.progress import progress
from ccq_utils.data.hub import in_one_line
from ccq_utils.data.text_files import stream_texts
from ccq_utils.deploy.pipeline import CHUNK, CompressedModel, read_manifest
from ccq_utils.models.encoding import precision_here


def encode_corpus(
    model, texts, out, address="", workers=None, threads=None, device="cpu", part=CHUNK, precision="float32"
) -> dict[str, int]:
    """Encode a corpus to a folder that ``CompressedModel.load_codes`` reads: numbers of ``texts``, ``parts``, ``made`` now.

    ``model`` is a saved model's folder, on a cluster at the same path on every machine; ``texts`` a JSON lines file or
    a folder of them, read twice, never held whole, ``part`` texts to a file of codes; ``device`` and ``precision`` are as
    ``CompressedModel.load`` takes them; ``address`` of Ray is empty, ``local``, ``auto``, ``host:port`` or ``ray://host:port``;
    ``workers`` is None for all that have room; ``threads`` are of each, None is one with Ray.
    """
    model, texts, out = Path(model).resolve(), Path(texts), Path(out)
    there = [path for path in out.iterdir() if not path.name.startswith(".")] if out.exists() else []
    if there and not any(path.name == PARTS or is_ours(path, '{"ccq":') for path in there):
        raise StudyError(f"folder {out} holds other things than codes; choose another one")
    about = read_manifest(model)
    marks = {"codec": about["codec"], "model": about["model"], "precision": precision_here(precision)}
    plan, held = plan_parts(texts, part), {}
    paths = [out / f"part-{number:06d}.safetensors" for number in range(len(plan))]
    missing = {number for number, path in enumerate(paths) if not _is_done(path, marks, plan[number])}

    def chunks():
        for number, (made_of, found) in enumerate(zip_longest(plan, _cut(texts, part))):
            if not (made_of and found and _made_of(*found) == made_of):
                raise StudyError(f"texts {texts.name} were changed while they were encoded; run it again")
            if number in missing:
                held[number], chunk = found
                yield number, chunk

    with only_one(out), writing_to(out):
        out.mkdir(exist_ok=True)
        if missing:
            (out / PARTS).unlink(missing_ok=True)  # from here on the folder counts as unfinished
            work = partial(encode_part, str(model), marks, threads := threads or (1 if address else None), device)
            items = ((number, work(chunk)) for number, chunk in chunks())
            done = _on_ray(work, chunks(), address, workers, threads, device) if address else items
            for number, codes in progress(done, "parts encoded", len(missing)):
                save_codes(paths[number], codes, held.pop(number), marks | plan[number])
        for path in {*out.glob(f".*{PARTIAL}"), *out.glob("part-*.safetensors")} - {*paths}:
            path.unlink()  # of a longer corpus, of shorter parts or of a killed run
        parts = {path.name: read_codes(path)[2]["content"] for path in paths}
        with write_atomically(out / PARTS, "w") as file:
            json.dump({"version": VERSION, **marks, "parts": parts}, file, indent=1)
    return {"texts": sum(made_of["rows"] for made_of in plan), "parts": len(plan), "made": len(missing)}


def encode_part(model: str, marks: dict[str, str], threads: int | None, device, texts: list[str]) -> np.ndarray:
    """Codes of one part, by a model that each process loads once; refuses a machine that holds another one."""
    with threadpool_limits(threads):
        loaded = _loaded(model, device, marks["precision"], json.dumps(read_manifest(Path(model))))
        if not loaded.marks.items() <= marks.items():
            raise StudyError(f"the saved model {model} is another one on this machine; copy it to all of them")
        return loaded.encode_document(texts)


_loaded = lru_cache(maxsize=1)(lambda model, device, precision, _: CompressedModel.load(model, device, precision))


def _cut(texts, part):
    rows = stream_texts(texts)
    while chunk := list(islice(rows, part)):
        yield [name for name, _ in chunk], [text for _, text in chunk]


def _made_of(ids, texts):
    return {"rows": len(ids), "texts": hashlib.sha256(json.dumps([ids, texts]).encode()).hexdigest()}


def plan_parts(texts: Path, part: int) -> list[dict]:
    """Number of texts and their sha256, by part, from one pass, so that a bad text shows before the long work."""
    plan, keys = [], array("Q")  # 8 bytes per id are held, whatever its length
    for ids, chunk in _cut(texts, part):
        plan.append(_made_of(ids, chunk))
        keys.extend(int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) for name in ids)
    if not plan:
        raise StudyError(f"texts {texts.name} holds no text; give JSON objects with 'id' and 'text', one per line")
    if len(np.unique(np.frombuffer(keys, np.uint64))) < len(keys):
        deque(stream_texts(texts, places={}), maxlen=0)  # says where
    return plan


def _is_done(path, marks, made_of):
    try:
        held = read_codes(path)[2] if path.is_file() else {}
    except StudyError as error:
        warnings.warn(f"{error}; it is made again", stacklevel=3)
        return False
    if held and (other := [name for name, mark in marks.items() if held.get(name) != mark]):
        raise StudyError(f"{path} holds codes of another {other[0]}; choose another folder, or delete it")
    return all(held.get(name) == value for name, value in made_of.items())


def _on_ray(work, items, address, workers, threads, device):
    """Key and result of each item, as Ray's tasks finish; no more items are read than there are workers."""
    ray, ours = _connect(address, workers and workers * threads)
    try:
        needed, held = {"CPU": threads, "GPU": int((device or "").startswith("cuda"))}, ray.cluster_resources()
        room = min(int(held.get(name, 0)) // count for name, count in needed.items() if count)
        if (workers or 1) > room:
            raise StudyError(f"the Ray cluster has room for {room} workers that need {needed}; ask for less")
        remote = ray.remote(num_cpus=threads, num_gpus=needed["GPU"], max_retries=3)  # where a worker dies
        task, waiting, items = remote(lambda argument: work(argument)), {}, iter(items)
        while True:
            for key, argument in islice(items, (workers or room) - len(waiting)):
                waiting[task.remote(argument)] = key
            if not waiting:
                return
            (done,), _ = ray.wait(list(waiting))
            yield waiting.pop(done), ray.get(done)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayError as error:
        raise StudyError(f"a Ray worker keeps dying ({in_one_line(error)}); perhaps take smaller parts") from error
    finally:
        if ours:
            ray.shutdown()


def _connect(address, cpus):
    """Ray, connected, and whether by us: a connection that the caller has is used and left as it is."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anyone
    if address == "local":
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # on any system: the loopback address alone
    try:
        import ray
    except ImportError as error:
        raise StudyError("Ray is not installed; get it by: pip install 'compressed-concatenation[ray]'") from error
    if ray.is_initialized():
        return ray, False
    local = {"num_cpus": cpus, "include_dashboard": False} if address == "local" else {}
    try:
        if address not in ("local", "auto"):  # Ray would wait minutes, then end the process
            socket.create_connection(address.removeprefix("ray://").rsplit(":", 1), timeout=5).close()
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **local)
    except Exception as error:  # a node that starts too slowly is a bare Exception
        raise StudyError(f"no Ray cluster at {address!r} ({in_one_line(error)}); see ray start, or local") from error
    return ray, True
