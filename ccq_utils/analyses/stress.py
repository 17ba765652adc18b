"""Stress: what damages a compressed index, from flipped bits to typos and a corpus that grows (notebook 05)."""

import itertools
import string
from dataclasses import replace

import numpy as np
import pandas as pd

from ccq_utils.codecs.codec import scores
from ccq_utils.common.progress import progress
from ccq_utils.models.embed import embed
from ccq_utils.models.vectors import concat
from ccq_utils.study.metrics import Evaluator
from ccq_utils.study.retention import (
    Side,
    codec_rows,
    codec_scores,
    fitted_codecs,
    ndcg,
    retention_row,
    retention_rows,
    sides,
)
from ccq_utils.study.study import Study

BIT_FLIPS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2)
NOISE = (0.0, 0.25, 0.5, 1.0, 2.0)
"""Length of the noise vector added to a query of length one."""
TEXT_DAMAGE = ("as written", "one typo", "three typos", "first half", "last half")


def budget_sweep(study: Study, found: dict[str, Side], names: list[str], decoders: list) -> pd.DataFrame:
    """Retention of each codec at each byte budget of the profile, both scorings, on every task and in the mean."""
    rows = []
    for budget in progress(study.profile.budgets, "byte budgets"):
        for name in names:
            codecs = fitted_codecs(study, name, budget, decoders=decoders)
            rows += codec_rows(study, found, codecs, method=name, budget=budget)
    return pd.DataFrame(rows)


def model_counts(study: Study, names: list[str], budgets: list[int]) -> pd.DataFrame:
    """1 to N members (in the order of selection) at the same bytes per vector.

    Documents coded, queries in float. Retention is against the raw concat of the same members; ``ndcg_at_10`` says what
    the bytes buy in the end.
    """
    rows = []
    for count in progress(range(1, len(study.members) + 1), "joined models"):
        found, fitting = first_members(study, count)
        runs = {("raw concat", 4 * fitting[0].shape[1]): {task: side.reference for task, side in found.items()}}
        for budget, name in itertools.product(budgets, names):
            runs[name, budget] = codec_scores(found, fitted_codecs(study, name, budget, *fitting))
        for (name, size), values in runs.items():
            rows += _with_scores(
                study, values, retention_rows(study, found, values, models=count, method=name, bytes=size)
            )
    return pd.DataFrame(rows)


def _with_scores(study, values, rows):
    """Adds the interval of nDCG@10 itself: ``ndcg_low``, ``ndcg_high``."""
    means = [np.atleast_2d(each).mean(axis=0) for each in values.values()]
    for row, scored in zip(rows, [*means, means], strict=False):
        interval = study.interval("mean", scored)
        row |= {"ndcg_low": interval.low, "ndcg_high": interval.high}
    return rows


def first_members(study: Study, count: int) -> tuple[dict[str, Side], list[np.ndarray]]:
    """Test sides of the first ``count`` members with their weights, and their training and calibration vectors."""
    members = study.members[:count], list(study.selection["weight"])[:count]
    return sides(study, "test", *members), [study.joined(part, None, *members) for part in ("training", "calibration")]


def at_budget(study: Study, found: dict[str, Side], codecs: dict[str, list], factor: int) -> pd.DataFrame:
    """Retention of codecs (fitted once per seed), per task and in the mean, both scorings, best first.

    Runs, documents coded and queries in float: ``METHOD, FACTORx #SEED``.
    """
    rows = []
    for name, fitted in codecs.items():
        rows += codec_rows(study, found, fitted, method=name)
        study.record(f"{name}, {factor}x", codec_scores(found, fitted))
    return pd.DataFrame(rows).sort_values(["task", "estimate"], ascending=[True, False])


def record_fewer_members(study: Study, name: str, budget: int, factor: int) -> None:
    """Record runs ``METHOD, FACTORx, K member(s) #SEED``: the first K members alone, at the same bytes."""
    for count in range(1, len(study.members)):
        found, fitting = first_members(study, count)
        values = codec_scores(found, fitted_codecs(study, name, budget, *fitting))
        study.record(f"{name}, {factor}x, {count} member{'s' if count > 1 else ''}", values)


def flip_bits(codes: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Flip each bit of packed codes with probability ``share``."""
    bits = np.unpackbits(codes, axis=1)
    flips = np.random.default_rng(seed).random(bits.shape, dtype=np.float32) < share
    return np.packbits(bits ^ flips, axis=1)


def bit_flips(study: Study, found: dict[str, Side], codecs: dict[str, list]) -> pd.DataFrame:
    """Retention when a share of all stored bits is flipped; every codec of a method meets other flips."""
    rows = []
    for name, fitted in codecs.items():
        for share in BIT_FLIPS:
            values = {task: [] for task in found}
            for seed, codec in enumerate(fitted if len(fitted) > 1 else fitted * study.profile.seeds):
                for task, side in found.items():
                    codes = flip_bits(codec.encode(side.documents), share, study.profile.seed + seed)
                    values[task].append(ndcg(side.judge, scores(codec, side.queries, codes)))
            each = {task: np.stack(found_scores) for task, found_scores in values.items()}
            rows += retention_rows(study, found, each, method=name, flipped=share)
    return pd.DataFrame(rows)


def query_noise(study: Study, found: dict[str, Side], codecs: dict[str, list]) -> pd.DataFrame:
    """nDCG@10 relative to the clean raw concat when Gaussian noise of a given length is added to each query vector.

    Every seed draws other noise; a codec that was fitted once per seed meets it with the codec of that seed.
    """
    rows = []
    codes = {
        (name, task): [codec.encode(side.documents) for codec in fitted]
        for name, fitted in codecs.items()
        for task, side in found.items()
    }
    for length in NOISE:
        values = {(name, task): [] for name in ("concat", *codecs) for task in found}
        for seed in range(study.profile.seeds):
            for task, side in found.items():
                noisy = _noisy(side.queries, length, study.profile.seed + seed)
                values["concat", task].append(ndcg(side.judge, noisy @ side.documents.T))
                for name, fitted in codecs.items():
                    number = seed % len(fitted)
                    matrix = scores(fitted[number], noisy, codes[name, task][number])
                    values[name, task].append(ndcg(side.judge, matrix))
        for name in ("concat", *codecs):
            each = {task: np.stack(values[name, task]) for task in found}
            rows += retention_rows(study, found, each, method=name, noise=length)
    return pd.DataFrame(rows)


def _noisy(queries, length, seed):
    drawn = np.random.default_rng(seed).standard_normal(queries.shape).astype(np.float32)
    return concat([queries + np.float32(length) * drawn / np.linalg.norm(drawn, axis=1, keepdims=True)])


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


def damaged_queries(study: Study, side: Side, codecs: dict[str, list], count: int = 300) -> pd.DataFrame:
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
        whole = {side.task: Side(side.task, queries, side.documents, side.judge, side.reference)}
        for name, fitted in codecs.items():
            values = codec_scores(whole, fitted)[side.task][:, chosen]
            rows.append(retention_row(study, part, values, method=name, damage=kind))
    return pd.DataFrame(rows)


def distractors(study: Study, found: dict[str, Side], codecs: dict[str, list]) -> pd.DataFrame:
    """Retention when passages of the training text join the corpus as documents that answer nothing.

    Every row is held against the raw concat over the same grown corpus.
    """
    extra = np.concatenate([study.joined(part) for part in ("training", "calibration", "validation")])
    rows = []
    for share in (0.0, 0.1, 0.3, 1.0):
        added = extra[: int(share * len(extra))]
        grown = {task: _grown(study, side, added) for task, side in found.items()}
        raw = {task: side.reference for task, side in grown.items()}
        rows += retention_rows(study, grown, raw, method="concat", added=len(added))
        for name, fitted in codecs.items():
            rows += retention_rows(study, grown, codec_scores(grown, fitted), method=name, added=len(added))
    return pd.DataFrame(rows)


def _grown(study, side, added):
    task = study.tasks[side.task]
    documents = task.documents | {f"~distractor-{number:06d}": "distractor" for number in range(len(added))}
    judge = Evaluator(replace(task, documents=documents), side.judge.split)
    vectors = np.concatenate([side.documents, added])
    return Side(side.task, side.queries, vectors, judge, ndcg(judge, side.queries @ vectors.T))
