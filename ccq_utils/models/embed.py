"""Encoding with a cache that knows single texts: each text is encoded once per model, whatever list it stands in.

Missing texts are encoded in shards, as they come. Each is on disk before the next is begun: a killed run resumes there.
"""

import hashlib
from collections import defaultdict, deque

import numpy as np

from ccq_utils.common.cache import VECTORS_VERSION, Cache, computed_by, digest
from ccq_utils.common.errors import StudyError
from ccq_utils.common.progress import progress
from ccq_utils.models import encoding
from ccq_utils.models.base_models import BaseModel

SHARD = 512  # texts: about 20 s of MiniLM on two cores


def embed(model: BaseModel, texts: list[str], cache: Cache, kind: str = "document", ids=None) -> np.ndarray:
    """Vectors ``(len(texts), dims) float32`` of a base model, as the model gives them (not all models normalise).

    The cache keeps them by model, precision, versions of libraries and text; ``kind``, ``query`` or ``document``, chooses the
    model's prompt. An empty text, and a model that returns NaN or a zero vector, are errors.
    """
    for index, text in enumerate(texts or [None]):
        if not isinstance(text, str) or not text.strip():
            raise StudyError(f"text number {index} for {model.name!r} is {text!r}; give strings with at least one word")
    prompt = model.prompts[kind]
    store = f"{model.name}-{digest(model.fingerprint, model.precision, computed_by(VECTORS_VERSION))[:16]}"
    places = defaultdict(list)
    for place, text in enumerate(texts):
        places[hashlib.sha256((prompt + text).encode()).digest()[:16]].append(place)
    found, missing = None, set(places)

    def put(keys, vectors):
        nonlocal found
        if found is None:
            found = cache.rows(len(texts), vectors.shape[1])
        for key, vector in zip(keys, vectors, strict=True):
            if key in missing:
                found[places[key]] = vector
                missing.remove(key)

    for shard in cache.shards(store):
        keys = [bytes(key) for key in shard.get_tensor("keys")]
        if not missing.isdisjoint(keys):
            put(keys, shard.get_tensor("vectors"))
    order = [key for key in places if key in missing]

    def encode_missing():
        for start in range(0, len(order), SHARD):
            chunk, keys, parts = order[start : start + SHARD], [], []
            fresh = [texts[places[key][0]] for key in chunk]
            for rows, vectors in encoding.encode_batches(model.encoder, fresh, prompt=prompt or None):
                at = [places[chunk[row]][0] for row in rows]
                normalise(vectors, f"model {model.name!r}", lambda row, at=at: named(at[row], texts, ids))
                keys += [chunk[row] for row in rows]
                parts.append(vectors)
                yield from rows
            vectors, names = np.concatenate(parts), np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 16)
            cache.add_shard(store, {"keys": names, "vectors": vectors})
            put(keys, vectors)

    if order:
        what = f"{model.name}: new {'queries' if kind == 'query' else 'texts'} encoded"
        deque(progress(encode_missing(), what, len(order)), maxlen=0)
    return found


def named(place: int, texts: list[str], ids) -> str:
    """A text in an error: its place, its id where there are ``ids``, how it begins."""
    return f"text number {place}{f' (id {ids[place]!r})' if ids else ''}, {texts[place]!r:.60},"


def normalise(vectors: np.ndarray, name: str = "vectors", label=lambda row: f"row {row}", out=None) -> np.ndarray:
    """L2-normalise rows, into ``out`` where it is given; a row without a direction is an error: ``name``, ``label(row)``."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    bad = np.flatnonzero(~np.isfinite(norms[:, 0]) | (norms[:, 0] == 0))
    if len(bad):
        what = "the zero vector" if norms[bad[0], 0] == 0 else "NaN or infinity"
        raise StudyError(f"{name}: {label(bad[0])} is {what} ({len(bad)} such rows); remove its text or mend the model")
    return np.divide(vectors, norms, out=out)
