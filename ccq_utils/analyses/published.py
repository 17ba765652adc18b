"""Measured scores beside published ones (notebook 01)."""

import pandas as pd

from ccq_utils.common import paths
from ccq_utils.study.study import Study

PUBLISHED = paths.ROOT / "data" / "published_ndcg.csv"
AGREES = 0.005
"""nDCG@10 by which a measured score may differ from the published one before a prompt, a pooling or a revision is
in doubt. MiniLM's scores of profile ``wiki`` differ by 0.0005 at most."""


def against_published(study: Study, single: pd.DataFrame) -> pd.DataFrame:
    """Measured beside published nDCG@10, so that a wrong prompt or pooling shows at once.

    Rows for tasks that are whole mteb tasks by name (``mteb:NAME``, or a BEIR folder whose task has the same name) and
    models with a published row; ``agrees`` within ``AGREES``. Empty where there are none.

    Parameters
    ----------
    single : what ``single_scores`` gives
    """
    published = pd.read_csv(PUBLISHED).set_index("model")
    columns = {name.lower(): name for name in published.columns[2:-2]}
    rows = []
    for spec in study.profile.tasks:
        kind, _, place = spec.source.partition(":")
        column = columns.get((place if kind == "mteb" else spec.name).lower())
        if kind == "docstrings" or column is None or spec.max_documents or spec.max_queries:
            continue
        for row in single[single["task"] == spec.name].itertuples():
            source = study.models[row.model].source.split(" ")[0]
            if source in published.index:
                known = published.loc[source, column] / 100
                rows.append(
                    {
                        "task": spec.name,
                        "model": row.model,
                        "published": known,
                        "measured": row.estimate,
                        "difference": row.estimate - known,
                        "agrees": bool(abs(row.estimate - known) <= AGREES),
                        "mixed_revisions": published.loc[source, "mixed_revisions"],
                    }
                )
    return pd.DataFrame(rows)
