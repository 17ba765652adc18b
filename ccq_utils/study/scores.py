"""Per-query nDCG@10 of the raw concat and of what is compressed, as long tables: every measurement starts here.

Their columns are ``task``, ``query``, ``seed``, ``score`` and labels; ``Study.summarise`` turns them into estimates.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pandas as pd

from ccq_utils.codecs.codec import Codec, scores
from ccq_utils.codecs.percentile import DETERMINISTIC, make_codec
from ccq_utils.common.cache import array_digest
from ccq_utils.study.metrics import Evaluator
from ccq_utils.study.study import Study

GENERAL, OWN = "general text", "own corpus"
"""What a codec is fitted on: the training text, or the documents of the task's own corpus. Never a query or judgement."""
FITTED_ON = (GENERAL, OWN)


@dataclass(frozen=True, eq=False)
class TaskVectors:
    """One task's float vectors, ``(queries, D)`` and ``(documents, D)``, and the evaluator of one split."""

    queries: np.ndarray
    documents: np.ndarray
    evaluator: Evaluator
    codes: dict = field(default_factory=dict)  # by codec

    def coded(self, codec: Codec) -> np.ndarray:
        """The documents' codes, ``(documents, bytes_per_vector) uint8``, made once whatever the queries."""
        if codec not in self.codes:
            self.codes[codec] = codec.encode(self.documents)
        return self.codes[codec]

    def ndcg(self, matrix: np.ndarray) -> np.ndarray:
        """nDCG@10 per query of a score matrix ``(queries, documents)``."""
        return self.evaluator(matrix)["ndcg_at_10"].to_numpy()

    @cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) of the vectors, of the judgements and of what decides ties."""
        by = self.evaluator
        return array_digest(self.queries, self.documents, by.rows, by.columns, by.gains, by.ideal, by.own, by.tie_rank)


@dataclass(frozen=True, eq=False)
class FittingVectors:
    """What a codec is fitted on: ``(n, D)``, and calibration vectors; without these it is the corpus that it will code."""

    training: np.ndarray
    calibration: np.ndarray | None = None
    codecs: dict = field(default_factory=dict)  # that ``fitted_codecs`` has fitted

    @cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) of the vectors."""
        return array_digest(*(part for part in (self.training, self.calibration) if part is not None))


@dataclass(frozen=True, eq=False)
class Vectors:
    """The concat of some members: every task's vectors of one split, and the general text that codecs are fitted on."""

    by_task: dict[str, TaskVectors]
    general: FittingVectors
    own: dict[str, FittingVectors] = field(default_factory=dict)

    @property
    def dims(self) -> int:
        """D, the width of the concat."""
        return self.general.training.shape[1]

    def fitting(self, task: str, fitted_on: str) -> FittingVectors:
        """The vectors to fit on for one task; tasks with the same documents share one object."""
        if fitted_on == GENERAL:
            return self.general
        if task not in self.own:
            documents = self.by_task[task].documents
            same = (own for own in self.own.values() if np.array_equal(own.training, documents))
            self.own.setdefault(task, next(same, FittingVectors(documents)))  # the first, of threads that ask at once
        return self.own[task]

    @cached_property
    def raw(self) -> pd.DataFrame:
        """Scores of the raw concat, the reference of every retention."""
        return score_vectors(self)


def task_vectors(study: Study, members=None, shares=None) -> Vectors:
    """The concat of the selection, or of ``members`` and ``shares`` as of ``Study.concat``, for every task: test queries."""
    by_task = {}
    for task in study.tasks:
        queries, documents = (study.concat(task, split, members, shares) for split in ("test", None))
        by_task[task] = TaskVectors(queries, documents, study.evaluator(task))
    general = FittingVectors(*(study.concat(text, None, members, shares) for text in ("training", "calibration")))
    return Vectors(by_task, general)


def with_validation(study: Study, members=None, shares=None) -> tuple[Vectors, Vectors]:
    """``task_vectors``, and the same documents, with all that is fitted and coded, for validation queries."""
    test, by_task = task_vectors(study, members, shares), {}
    for task in study.tuning_tasks:
        queries, judge = study.concat(task, "validation", members, shares), study.evaluator(task, "validation")
        by_task[task] = replace(test.by_task[task], queries=queries, evaluator=judge)
    return test, replace(test, by_task=by_task)


def score_table(values: dict[str, np.ndarray], **labels) -> pd.DataFrame:
    """A long table of task -> ``(queries,)``, or ``(seeds, queries)``, in the order of the evaluator, with ``labels``."""
    parts = []
    for task, found in values.items():
        found = np.atleast_2d(found)
        seeds, queries = np.indices(found.shape)
        columns = {"task": task, **labels, "query": queries.ravel(), "seed": seeds.ravel()}
        parts.append(pd.DataFrame(columns | {"score": found.ravel().astype(np.float32)}))
    return pd.concat(parts, ignore_index=True)


def score_vectors(vectors: Vectors, transforms: list[Callable] = (lambda vectors: vectors,), **labels) -> pd.DataFrame:
    """Scores of float vectors after maps ``(n, D) -> (n, d)`` of queries and documents, one map per seed."""

    def score(one):
        return np.stack([one.ndcg(each(one.queries) @ each(one.documents).T) for each in transforms])

    return score_table({task: score(one) for task, one in vectors.by_task.items()}, **labels)


def fitted_codecs(
    study: Study, method: str, budget: int, fitting: FittingVectors, decoders=(), seeds: int | None = None, bits=None
) -> list:
    """A codec of ``CODECS`` of at most ``budget`` bytes, fitted once per seed where it draws or trains something, else once.

    ``decoders`` are trained ones, one per seed, for the codecs that take one; ``seeds`` is the profile's number if None;
    ``bits`` per dim are as ``make_codec`` takes them.
    """
    count = 1 if method in DETERMINISTIC else seeds or study.profile.seeds
    each = decoders[:count] if method.startswith("decoder") else [None] * count
    keys = [(method, budget, decoder, study.profile.seed + number, bits) for number, decoder in enumerate(each)]
    for key in keys:
        if key not in fitting.codecs:
            codec = make_codec(method, fitting.training.shape[1], *key[1:])
            fitting.codecs[key] = codec.fit(fitting.training, fitting.calibration)
    return [fitting.codecs[key] for key in keys]


def score_codecs(vectors: Vectors, codecs: list, symmetric: bool = False, **labels) -> pd.DataFrame:
    """Scores of a codec that was fitted once per seed: documents coded, queries in float or (``symmetric``) coded as well."""
    labels |= {"scoring": "symmetric" if symmetric else "asymmetric", "bytes_per_vector": codecs[0].bytes_per_vector}
    values = {
        task: np.stack([one.ndcg(scores(codec, one.queries, one.coded(codec), symmetric)) for codec in codecs])
        for task, one in vectors.by_task.items()
    }
    return score_table(values, **labels)


def score_method(
    study: Study, vectors: Vectors, fit: Callable, key: dict, fitted_on: str = GENERAL, symmetric=False, **labels
) -> pd.DataFrame:
    """``score_codecs`` of what ``fit`` gives, fitted on general text or on each task's own corpus, and never twice.

    ``fit`` gives codecs, one per seed, called once per distinct set of vectors to fit on; ``key`` is all that it depends on
    beside these vectors and the profile's seeds, JSON-able.
    """
    seeds, parts = [study.profile.seed, study.profile.seeds], []
    for fitting in dict.fromkeys(vectors.fitting(task, fitted_on) for task in vectors.by_task):
        tasks = {task: one for task, one in vectors.by_task.items() if vectors.fitting(task, fitted_on) is fitting}
        part = Vectors(tasks, vectors.general, vectors.own)

        def make(fitting=fitting, part=part):
            codecs = fit(fitting)
            found = score_codecs(part, codecs, symmetric).groupby("task", sort=False)["score"]
            held = {f"task {task}": scores.to_numpy().reshape(len(codecs), -1) for task, scores in found}
            return held | {"bytes": np.array([codecs[0].bytes_per_vector])}

        described = {"fitted": fitting.fingerprint, "tasks": {task: one.fingerprint for task, one in tasks.items()}}
        held = study.cache.arrays("scores", {**key, "seeds": seeds, "symmetric": symmetric, **described}, make)
        scoring = {"scoring": "symmetric" if symmetric else "asymmetric", "bytes_per_vector": held["bytes"][0].item()}
        values = {task: held[f"task {task}"] for task in tasks}
        parts.append(score_table(values, fitted_on=fitted_on, **labels, **scoring))
    return pd.concat(parts, ignore_index=True)
