"""Vectors and scores that only the paper's open questions need (notebook 06)."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from ccq_utils.codecs.codec import Codec
from ccq_utils.models.base_models import BaseModel
from ccq_utils.models.embed import embed
from ccq_utils.models.vectors import concat
from ccq_utils.study.scores import FittingVectors, TaskVectors, Vectors, score_table
from ccq_utils.study.study import Study


def vectors_with(study: Study, model: BaseModel, beside: Sequence[str] = ()) -> Vectors:
    """As ``task_vectors``, of a model that is not the profile's.

    Args:
        beside: members of the profile that it is joined with, at equal weights.
    """

    def joined(text, split=None):
        own = embed(model, study.texts(text, split), study.cache, "document" if split is None else "query")
        return concat([*(study.member_vectors(name, text, split) for name in beside), own])

    by_task = {task: TaskVectors(joined(task, "test"), joined(task), study.evaluator(task)) for task in study.tasks}
    return Vectors(by_task, FittingVectors(joined("training"), joined("calibration")))


def mapped(vectors: Vectors, transform: Callable[[np.ndarray], np.ndarray]) -> Vectors:
    """The same texts after a map ``(n, D) -> (n, d)`` of every vector."""
    by_task = {
        task: TaskVectors(transform(one.queries), transform(one.documents), one.evaluator)
        for task, one in vectors.by_task.items()
    }
    general = vectors.general
    return Vectors(by_task, FittingVectors(transform(general.training), transform(general.calibration)))


def score_damaged(vectors: Vectors, codec: Codec, damage: Callable[[np.ndarray], np.ndarray]) -> pd.DataFrame:
    """Scores with both sides coded: as they are, and with the documents' codes damaged.

    Args:
        codec: fitted.
        damage: function of packed codes, gives codes.

    Returns:
        Long table with ``state``: ``coded`` or ``flipped``.
    """
    values = {"coded": {}, "flipped": {}}
    for task, one in vectors.by_task.items():
        queries, codes = codec.decode(codec.encode(one.queries)), codec.encode(one.documents)
        for state, stored in (("coded", codes), ("flipped", damage(codes))):
            values[state][task] = one.ndcg(queries @ codec.decode(stored).T)
    tables = [score_table(found, state=state) for state, found in values.items()]
    return pd.concat(tables, ignore_index=True)
