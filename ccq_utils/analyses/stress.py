"""Codecs at a byte budget, whole and damaged: dims x bits, flipped bits, mistyped queries, a corpus that grows."""

import itertools
import string
from dataclasses import replace

import numpy as np
import pandas as pd

from ccq_utils.codecs.decoder import Decoder
from ccq_utils.codecs.percentile import DETERMINISTIC, GRADED
from ccq_utils.codecs.quantizer import BITS, packed_bytes
from ccq_utils.common.threads import side_by_side
from ccq_utils.study.metrics import Evaluator
from ccq_utils.study.scores import TaskVectors, Vectors, fitted_codecs, score_table
from ccq_utils.study.stats import macro
from ccq_utils.study.study import Study
from ccq_utils.study.training import weights_of

SCORINGS = ("symmetric", "asymmetric")  # both sides coded; or only documents, and the query in float
TYPOS = {"as written": 0, "one typo": 1, "three typos": 3}
TEXT_DAMAGE = (*TYPOS, "first half", "last half")


def score_coded(
    study, vectors: Vectors, method, budget, decoders=(), bits=None, seeds=1, flipped=0.0, scorings=SCORINGS, **labels
) -> pd.DataFrame:
    """Per-query scores of a codec (a name in ``CODECS``) fitted on general text; kept in the cache.

    The codec has at most ``budget`` bytes per vector and is made ``seeds`` times where it draws or trains something, with one
    of ``decoders`` each, if it takes one. ``bits`` are per dim, or what ``best_bits`` chose; the usual number where None, or
    where a method has no choice. A share of the stored documents' bits is ``flipped``; every seed meets other flips.

    Returns a long table with ``scoring``, ``dims``, ``bits``, ``bytes_per_vector``, ``method``, ``budget`` and the labels.
    """
    if isinstance(bits, dict):
        alike = itertools.groupby(scorings, lambda scoring: bits.get((method, budget, scoring)))
        given = [(vectors, method, budget, decoders, best, seeds, flipped, tuple(sides)) for best, sides in alike]
        return pd.concat([score_coded(study, *each, **labels) for each in given], ignore_index=True)
    decoders = list(decoders)[:seeds] if method.startswith("decoder") else []
    most, room = (decoders[0].config["out_dims"] if decoders else vectors.dims), budget
    if bits:
        room = packed_bytes(min(most, 8 * budget // bits), bits)  # so that a map with no more dims is made once
    key = {"codec": method, "budget": room, "bits": bits, "decoders": weights_of(decoders), "flipped": flipped}
    key |= {"made": [study.profile.seed, 1 if method in DETERMINISTIC else seeds], "scorings": list(scorings)}
    key |= {"fitted": vectors.general.fingerprint, "tasks": [one.fingerprint for one in vectors.by_task.values()]}

    def make():
        codecs = fitted_codecs(study, method, room, vectors.general, decoders, seeds, bits)
        shape = getattr(codecs[0], "dims", 1), codecs[0].bits, codecs[0].bytes_per_vector
        found = {f"{scoring} {task}": [] for scoring in scorings for task in vectors.by_task}
        for (task, one), (seed, codec) in itertools.product(vectors.by_task.items(), enumerate(codecs)):
            documents = codec.decode(flip_bits(one.coded(codec), flipped, study.profile.seed + seed)).T
            for side in scorings:
                queries = codec.decode(codec.encode(one.queries)) if side == "symmetric" else codec.project(one.queries)
                found[f"{side} {task}"].append(one.ndcg(queries @ documents))
        return {name: np.stack(each) for name, each in found.items()} | {"shape": np.array(shape)}

    held = study.cache.arrays("scores", key, make)
    dims, depth, size = held["shape"].tolist()
    dims, depth = (dims, depth) if method in GRADED else (depth, 1)  # a plane is a dim
    labels |= {"method": method, "budget": budget, "bytes_per_vector": size, "dims": dims, "bits": depth}
    found = {scoring: {task: held[f"{scoring} {task}"] for task in vectors.by_task} for scoring in scorings}
    return pd.concat([score_table(found[name], scoring=name, **labels) for name in scorings], ignore_index=True)


def bits_grid(study: Study, vectors: Vectors, methods, budgets, decoders: list[Decoder] = ()) -> pd.DataFrame:
    """Retention by method, budget, bits per dim and scoring, one seed; of validation queries, if ``vectors`` are theirs.

    A method that has a choice keeps as many dims as fit the bytes and its map has.
    """
    grid = itertools.product([method for method in methods if method in GRADED], budgets, BITS[::-1])
    found = side_by_side(lambda method, size, bits: score_coded(study, vectors, method, size, decoders, bits), grid)
    by = ["method", "budget", "scoring", "bits", "dims", "bytes_per_vector"]
    return study.summarise(pd.concat(found), by, vectors.raw)


def best_bits(grid: pd.DataFrame) -> dict[tuple, int]:
    """Bits by (method, budget, scoring): those that keep most in a ``bits_grid``."""
    best = macro(grid).sort_values("estimate").drop_duplicates(["method", "budget", "scoring"], keep="last")
    return best.set_index(["method", "budget", "scoring"])["bits"].to_dict()


def flip_bits(codes: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Packed codes ``(n, bytes) uint8``, each bit flipped with probability ``share``; the same for the same seed."""
    if not share:
        return codes
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
        others = string.ascii_lowercase.replace(letters[place].lower(), "")
        letters[place] = others[rng.integers(len(others))]
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
