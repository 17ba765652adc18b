"""What notebooks 01 and 02 share: scores of base models alone, and a check against published ones."""

import numpy as np
import pandas as pd

from ccq_utils.common import paths
from ccq_utils.models.base_models import BUILDERS, BaseModel
from ccq_utils.models.embed import embed, normalise
from ccq_utils.study.study import Study

PUBLISHED = paths.ROOT / "data" / "published_ndcg.csv"
AGREES = 0.005
"""nDCG@10 by which a measured score may differ from the published one before a prompt, pooling or revision is in doubt."""


def member_scores(study: Study, model: str | BaseModel, task: str, split: str = "test") -> np.ndarray:
    """Cosines ``(queries, documents)`` of one base model: of the profile by its name, or any other."""
    if isinstance(model, str):
        queries, documents = (study.member_vectors(model, task, kind) for kind in (split, None))
    else:
        queries = embed(model, study.texts(task, split), study.cache, "query")
        documents = embed(model, study.texts(task), study.cache)
    return normalise(queries) @ normalise(documents).T


def remade(study: Study, name: str, **changes) -> BaseModel:
    """A base model that is made here, made again with ``changes`` of the profile, for example ``seed=1``."""
    return BUILDERS[name](study.profile.model_copy(update=changes), lambda: study.corpora, study.cache)


def wide(table: pd.DataFrame, index: list[str], columns: str) -> pd.DataFrame:
    """A summary with one row per ``index``: columns ``NAME`` of ``columns``, ``NAME_low`` and so on, p and verdict."""
    values = [name for name in ("estimate", "low", "high", "p", "verdict") if name in table]
    spread = table.pivot(index=index, columns=columns, values=values)
    spread = spread.loc[pd.MultiIndex.from_frame(table[index].drop_duplicates())]  # pivot sorts, the table has an order
    names = table[columns].unique()
    spread = spread[[(value, name) for name in names for value in values]]
    spread.columns = [name if value == "estimate" else f"{name}_{value}" for value, name in spread.columns]
    return spread.infer_objects().reset_index()


def published(study: Study) -> pd.DataFrame:
    """Published nDCG@10 (0 to 1) of public models: a row per model, a column per whole public task of the profile.

    A task is one by its mteb name, or as a BEIR folder of that name; empty where there is none.
    """
    known, columns = pd.read_csv(PUBLISHED, index_col="model"), {}
    names = {name.lower(): name for name in known.columns}
    for spec in study.profile.tasks:
        kind, _, place = spec.source.partition(":")
        name = names.get((place if kind == "mteb" else spec.name).lower())
        if kind != "docstrings" and name and not (spec.max_documents or spec.max_queries):
            columns[spec.name] = known[name] / 100
    return known[["parameters_million", "mixed_revisions"]].join(pd.DataFrame(columns)) if columns else pd.DataFrame()


def against_published(study: Study, single: pd.DataFrame) -> pd.DataFrame:
    """Measured (``single``: task, model, estimate) beside published nDCG@10; ``agrees`` within ``AGREES``; may be empty."""
    known, rows = published(study), []
    for row in single[single["task"].isin(list(known))].itertuples():
        if (source := study.models[row.model].source.split(" ")[0]) in known.index:
            score, mixed = known.loc[source, [row.task, "mixed_revisions"]]
            gap = row.estimate - score
            rows.append((row.task, row.model, score, row.estimate, gap, abs(gap) <= AGREES, mixed))
    return pd.DataFrame(rows, columns="task model published measured difference agrees mixed_revisions".split())
