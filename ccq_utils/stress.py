"""Stress: what damages a compressed index, from flipped bits to typos and a corpus that grows (notebook 05)."""

import string

import numpy as np
import pandas as pd

from ccq_utils.codecs import make_codec, scores
from ccq_utils.compress import Side, codec_rows, ndcg, record_codec, retention_row, sides
from ccq_utils.concat import concat
from ccq_utils.embed import embed
from ccq_utils.study import Study

BIT_FLIPS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2)
NOISE = (0.0, 0.25, 0.5, 1.0, 2.0)
"""Length of the noise vector added to a query of length one."""
PQ_LARGEST = 128
"""Bytes up to which product quantization is run: beyond, training its codebooks takes longer than all else together."""
TEXT_DAMAGE = ("as written", "one typo", "three typos", "first half", "last half")


def budget_sweep(study: Study, found: dict[str, Side], names: list[str], decoder=None) -> pd.DataFrame:
    """Retention of each codec at each byte budget of the profile, both scorings, on every task."""
    training, calibration = study.joined("training"), study.joined("calibration")
    rows = []
    for budget in study.profile.budgets:
        for name in names:
            if name == "PQ" and budget > PQ_LARGEST:
                continue
            codec = make_codec(name, training.shape[1], budget, decoder, study.profile.seed).fit(training, calibration)
            rows += codec_rows(study, found, codec, method=name, budget=budget)
    return pd.DataFrame(rows)


def model_counts(study: Study, names: list[str], budgets: list[int]) -> pd.DataFrame:
    """1 to N members (in the order of selection) at the same bytes per vector.

    ``retention`` is against the raw concat of the same members; ``ndcg_at_10`` says what the bytes buy in the end.
    """
    rows = []
    weights = list(study.selection["weight"])
    for count in range(1, len(study.members) + 1):
        members = study.members[:count]
        found = sides(study, "test", members, weights[:count])
        training, calibration = (
            study.joined(part, None, members, weights[:count]) for part in ("training", "calibration")
        )
        for side in found.values():
            labels = {
                "models": count,
                "method": "raw concat",
                "scoring": "float",
                "bytes_per_vector": 4 * training.shape[1],
            }
            rows.append(retention_row(study, side, side.reference, **labels, compression_factor=1.0))
        for budget in budgets:
            for name in names:
                codec = make_codec(name, training.shape[1], budget, None, study.profile.seed).fit(training, calibration)
                rows += codec_rows(study, found, codec, models=count, method=name)
    return pd.DataFrame(rows)


def at_budget(study: Study, found: dict[str, Side], codecs: dict) -> pd.DataFrame:
    """Retention of fitted codecs per task and as macro mean, both scorings, with intervals."""
    rows = []
    for name, codec in codecs.items():
        codes = {task: codec.encode(side.documents) for task, side in found.items()}
        for scoring in ("asymmetric", "symmetric"):
            values = {
                task: ndcg(side.judge, scores(codec, side.queries, codes[task], scoring == "symmetric"))
                for task, side in found.items()
            }
            for task, side in found.items():
                rows.append(
                    _at_budget_row(
                        name, scoring, task, study.interval("retention", values[task], side.reference), codec
                    )
                )
            macro = study.interval("retention", list(values.values()), [side.reference for side in found.values()])
            rows.append(_at_budget_row(name, scoring, "macro mean", macro, codec))
    return pd.DataFrame(rows)


def _at_budget_row(method, scoring, task, interval, codec):
    return {
        "method": method,
        "scoring": scoring,
        "task": task,
        "bytes_per_vector": codec.bytes_per_vector,
        **interval._asdict(),
    }


def record_48x(study: Study, found: dict[str, Side], codecs: dict[str, list], budget: int) -> None:
    """Record runs at a 48th of the concat's bytes, documents coded, queries in float.

    ``METHOD, 48x #SEED`` for every list of fitted codecs (one per seed), and ``PCA, rotated, 48x, K member(s) #SEED`` for
    the first K members alone, at the same bytes.
    """
    for name, fitted in codecs.items():
        for seed, codec in enumerate(fitted):
            record_codec(study, found, codec, f"{name}, 48x #{seed}")
    weights = list(study.selection["weight"])
    for count in range(1, len(study.members)):
        members = study.members[:count], weights[:count]
        training, calibration = (study.joined(part, None, *members) for part in ("training", "calibration"))
        part = sides(study, "test", *members)
        for seed in range(study.profile.seeds):
            codec = make_codec("PCA, rotated", training.shape[1], budget, None, study.profile.seed + seed)
            name = f"PCA, rotated, 48x, {count} member{'s' if count > 1 else ''} #{seed}"
            record_codec(study, part, codec.fit(training, calibration), name)


def flip_bits(codes: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Flip each bit of packed codes with probability ``share``."""
    bits = np.unpackbits(codes, axis=1)
    flips = np.random.default_rng(seed).random(bits.shape, dtype=np.float32) < share
    return np.packbits(bits ^ flips, axis=1)


def bit_flips(study: Study, found: dict[str, Side], codecs: dict) -> pd.DataFrame:
    """Retention when a share of all stored bits is flipped."""
    rows = []
    for name, codec in codecs.items():
        for side in found.values():
            codes = codec.encode(side.documents)
            for share in BIT_FLIPS:
                values = ndcg(side.judge, scores(codec, side.queries, flip_bits(codes, share, study.profile.seed)))
                rows.append(retention_row(study, side, values, method=name, flipped=share))
    return pd.DataFrame(rows)


def query_noise(study: Study, found: dict[str, Side], codecs: dict) -> pd.DataFrame:
    """nDCG@10 relative to the clean raw concat when Gaussian noise of a given length is added to each query vector."""
    rows = []
    for side in found.values():
        drawn = np.random.default_rng(study.profile.seed).standard_normal(side.queries.shape).astype(np.float32)
        drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
        for length in NOISE:
            noisy = concat([side.queries + np.float32(length) * drawn])
            rows.append(
                retention_row(study, side, ndcg(side.judge, noisy @ side.documents.T), method="concat", noise=length)
            )
            for name, codec in codecs.items():
                values = ndcg(side.judge, scores(codec, noisy, codec.encode(side.documents)))
                rows.append(retention_row(study, side, values, method=name, noise=length))
    return pd.DataFrame(rows)


def damage(text: str, kind: str, seed: int) -> str:
    """A query as a hurried person types it: letters replaced, or only half of its words."""
    rng = np.random.default_rng(seed)
    words = text.split()
    if kind.endswith("half"):
        middle = max(1, len(words) // 2)
        return " ".join(words[:middle] if kind == "first half" else words[-middle:])
    letters = list(text)
    places = [index for index, letter in enumerate(letters) if letter.isalpha()]
    for place in rng.permutation(places)[: {"as written": 0, "one typo": 1, "three typos": 3}[kind]]:
        letters[place] = string.ascii_lowercase[rng.integers(26)]
    return "".join(letters)


def damaged_queries(study: Study, side: Side, codecs: dict, count: int = 300) -> pd.DataFrame:
    """nDCG@10 relative to the undamaged raw concat, for the first ``count`` test queries of one task."""
    chosen = slice(0, min(count, len(side.queries)))
    rows = []
    for kind in TEXT_DAMAGE:
        texts = [damage(text, kind, index) for index, text in enumerate(study.texts(side.task, "test")[chosen])]
        members = [embed(study.models[member], texts, study.cache, "query") for member in study.members]
        queries = side.queries.copy()
        queries[chosen] = concat(members, list(study.selection["weight"]))
        part = Side(side.task, queries, side.documents, side.judge, side.reference[chosen])
        values = ndcg(side.judge, queries @ side.documents.T)[chosen]
        rows.append(retention_row(study, part, values, method="concat", damage=kind))
        for name, codec in codecs.items():
            values = ndcg(side.judge, scores(codec, queries, codec.encode(side.documents)))[chosen]
            rows.append(retention_row(study, part, values, method=name, damage=kind))
    return pd.DataFrame(rows)


def distractors(study: Study, found: dict[str, Side], codecs: dict) -> pd.DataFrame:
    """Retention when passages of the training text join the corpus as documents that answer nothing.

    Every row is held against the raw concat over the same grown corpus.
    """
    extra = np.concatenate([study.joined(part) for part in ("training", "calibration", "validation")])
    rows = []
    for share in (0.0, 0.1, 0.3, 1.0):
        added = extra[: int(share * len(extra))]
        for side in found.values():
            grown = _grown(study, side, added)
            rows.append(retention_row(study, grown, grown.reference, method="concat", added=len(added)))
            for name, codec in codecs.items():
                values = ndcg(grown.judge, scores(codec, grown.queries, codec.encode(grown.documents)))
                rows.append(retention_row(study, grown, values, method=name, added=len(added)))
    return pd.DataFrame(rows)


def _grown(study, side, added):
    from dataclasses import replace

    from ccq_utils.evaluate import Evaluator

    task = study.tasks[side.task]
    documents = task.documents | {f"~distractor-{number:06d}": "distractor" for number in range(len(added))}
    judge = Evaluator(replace(task, documents=documents), side.judge.split)
    vectors = np.concatenate([side.documents, added])
    return Side(side.task, side.queries, vectors, judge, ndcg(judge, side.queries @ vectors.T))
