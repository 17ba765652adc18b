"""Encoding with a cache that knows single texts: each text is encoded once per model, whatever list it stands in.

Missing texts are sorted by length, encoded in shards, and every shard is on disk before the next is begun, so a killed
run resumes where it stopped.
"""

import hashlib

import numpy as np

from ccq_utils.cache import Cache
from ccq_utils.errors import StudyError
from ccq_utils.models import BaseModel
from ccq_utils.progress import progress

SHARD = 512  # texts: about 20 s of MiniLM on two cores


def embed(model: BaseModel, texts: list[str], cache: Cache, kind: str = "document") -> np.ndarray:
    """Vectors ``(len(texts), dims) float32`` of a base model, as the model gives them (not all models normalise).

    Parameters
    ----------
    kind : ``query`` or ``document``, which chooses the model's prompt

    Raises
    ------
    StudyError : an empty text, or a model that returns NaN or a zero vector.
    """
    if not texts:
        raise StudyError(f"no texts to encode with {model.name!r}; give at least one")
    for index, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise StudyError(
                f"text number {index} for {model.name!r} is {text!r}; give a string with at least one word"
            )
    prompt = model.prompts[kind]
    store = f"{model.name}-{model.fingerprint[:16]}"
    keys = [_key(prompt + text) for text in texts]
    wanted = set(keys)
    known: dict[bytes, np.ndarray] = {}
    for shard in cache.shards(store):
        known.update(
            (key, row) for key, row in zip(map(bytes, shard["keys"]), shard["vectors"], strict=True) if key in wanted
        )
    missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
    order = sorted(missing, key=lambda key: -len(missing[key]))
    starts = range(0, len(order), SHARD)
    for start in progress(starts, f"{model.name}: {len(order)} new texts") if order else ():
        chunk = order[start : start + SHARD]
        vectors = _encode(model, [missing[key] for key in chunk], prompt)
        cache.add_shard(store, {"keys": np.frombuffer(b"".join(chunk), np.uint8).reshape(-1, 16), "vectors": vectors})
        known.update(zip(chunk, vectors, strict=True))
    return np.stack([known[key] for key in keys])


def _key(text):
    return hashlib.sha256(text.encode()).digest()[:16]


def _encode(model, texts, prompt):
    vectors = model.model.encode(texts, prompt=prompt or None, batch_size=model.batch_size, show_progress_bar=False)
    vectors = np.asarray(vectors, dtype=np.float32)
    normalise(vectors, f"model {model.name!r}")
    return vectors


def normalise(vectors: np.ndarray, name: str = "vectors") -> np.ndarray:
    """L2-normalise rows.

    Raises
    ------
    StudyError : a row holds NaN or infinity, or is the zero vector, and so has no direction.
    """
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    bad = np.flatnonzero(~np.isfinite(norms[:, 0]) | (norms[:, 0] == 0))
    if len(bad):
        what = "the zero vector" if norms[bad[0], 0] == 0 else "NaN or infinity"
        raise StudyError(f"{name}: row {bad[0]} is {what} ({len(bad)} such rows); remove its text or mend the model")
    return vectors / norms
