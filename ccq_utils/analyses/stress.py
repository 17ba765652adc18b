"""Codecs at a byte budget, whole and damaged: flipped bits, noisy and mistyped queries, a corpus that grows."""

import string
from dataclasses import replace

import numpy as np
import pandas as pd

from ccq_utils.codecs.decoder import Decoder
from ccq_utils.codecs.percentile import DETERMINISTIC
from ccq_utils.study.metrics import Evaluator
from ccq_utils.study.scores import TaskVectors, Vectors, fitted_codecs, score_method
from ccq_utils.study.study import Study
from ccq_utils.study.training import weights_of

TYPOS = {"as written": 0, "one typo": 1, "three typos": 3}
TEXT_DAMAGE = (*TYPOS, "first half", "last half")


def score_budget(
    study: Study,
    vectors: Vectors,
    method: str,
    budget: int,
    decoders: list[Decoder] = (),
    symmetric: bool = False,
    seeds: int | None = None,
    flipped: float = 0.0,
    **labels,
) -> pd.DataFrame:
    """Per-query scores of a codec (a name in ``CODECS``) fitted on general text; kept in the cache.

    Args:
        budget: Bytes per vector at most.
        decoders: One per seed, for methods that take one.
        seeds: How often a codec that draws or trains something is made; the profile's number if None.
        flipped: Share of the stored bits that is flipped; every seed meets other flips.
    """
    decoders = list(decoders)[: seeds or study.profile.seeds] if method.startswith("decoder") else []

    def fit(fitting):
        codecs = fitted_codecs(study, method, budget, fitting, decoders, seeds)
        damaged = [FlippedCodec(codec, flipped, study.profile.seed + n) for n, codec in enumerate(codecs)]
        return damaged if flipped else codecs

    made = 1 if method in DETERMINISTIC else len(decoders) or seeds or study.profile.seeds
    key = {"codec": method, "budget": budget, "decoders": weights_of(decoders), "made": made, "flipped": flipped}
    return score_method(study, vectors, fit, key, symmetric=symmetric, method=method, budget=budget, **labels)


class FlippedCodec:
    """A fitted codec in whose stored codes each bit is flipped with probability ``share``."""

    def __init__(self, codec, share: float, seed: int):
        self.codec, self.share, self.seed = codec, share, seed
        self.bytes_per_vector, self.project, self.decode = codec.bytes_per_vector, codec.project, codec.decode

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """Damaged codes, ``(n, bytes_per_vector) uint8``."""
        return flip_bits(self.codec.encode(vectors), self.share, self.seed)


def flip_bits(codes: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Packed codes ``(n, bytes) uint8``, each bit flipped with probability ``share``; the same for the same seed."""
    bits = np.unpackbits(codes, axis=1)
    flips = np.random.default_rng(seed).random(bits.shape, dtype=np.float32) < share
    return np.packbits(bits ^ flips, axis=1)


def damage(text: str, kind: str, seed: int) -> str:
    """A query as a hurried person types it: letters replaced, or only half of its words (``TEXT_DAMAGE``)."""
    rng, words, letters = np.random.default_rng(seed), text.split(), list(text)
    half = max(1, len(words) // 2)
    if kind not in TYPOS:
        return " ".join(words[:half] if kind == "first half" else words[-half:])
    places = [index for index, letter in enumerate(letters) if letter.isalpha()]
    for place in rng.permutation(places)[: TYPOS[kind]]:
        letters[place] = string.ascii_lowercase[rng.integers(26)]
    return "".join(letters)


def grown(study: Study, vectors: Vectors, added: np.ndarray) -> Vectors:
    """The same tasks, with ``(n, D)`` vectors of text that answers nothing in their corpus."""
    by_task = {}
    for name, one in vectors.by_task.items():
        task = study.tasks[name]
        documents = task.documents | {f"~distractor-{number:06d}": "distractor" for number in range(len(added))}
        evaluator = Evaluator(replace(task, documents=documents), one.evaluator.split)
        by_task[name] = TaskVectors(one.queries, np.concatenate([one.documents, added]), evaluator)
    return Vectors(by_task, vectors.general)
