"""What notebooks 01 and 02 share: scores of base models alone, and a check against published ones."""

import numpy as np
import pandas as pd

from ccq_utils.common import paths
from ccq_utils.models.base_models import BUILDERS, BaseModel
from ccq_utils.models.embed import embed, normalise
from ccq_utils.study.study import Study

PUBLISHED = paths.ROOT / "data" / "published_ndcg.csv"
AGREES = 0.005
"""nDCG@10 by which a measured score may differ from the published one before a prompt, a pooling or a revision is
in doubt. MiniLM's scores on SciFact, NFCorpus and ArguAna differ by 0.0005 at most."""


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


def against_published(study: Study, single: pd.DataFrame) -> pd.DataFrame:
    """Measured (``single``: task, model, estimate) beside published nDCG@10: a wrong prompt or pooling shows at once.

    Rows for tasks that are whole mteb tasks by name, or BEIR folders of that name, and models with a published row;
    ``agrees`` within ``AGREES``. Empty where there are none.
    """
    published = pd.read_csv(PUBLISHED).set_index("model")
    columns = {name.lower(): name for name in published.columns[2:-2]}
    whole = {spec.name: spec for spec in study.profile.tasks if not (spec.max_documents or spec.max_queries)}
    rows = []
    for row in single[single["task"].isin(list(whole))].itertuples():
        kind, _, place = whole[row.task].source.partition(":")
        column = columns.get((place if kind == "mteb" else row.task).lower())
        source = study.models[row.model].source.split(" ")[0]
        if kind != "docstrings" and column and source in published.index:
            known = published.loc[source, column] / 100
            found = {"task": row.task, "model": row.model, "published": known, "measured": row.estimate}
            found |= {"difference": row.estimate - known, "agrees": bool(abs(row.estimate - known) <= AGREES)}
            rows.append(found | {"mixed_revisions": published.loc[source, "mixed_revisions"]})
    return pd.DataFrame(rows)
