"""What else was tried at the same bytes, and what it earned: scalar codes of PCA dims beside byte blocks (notebook 04)."""

from pathlib import Path

import numpy as np
import pandas as pd

from ccq_utils.codecs import scalar as scalar_codecs
from ccq_utils.codecs.scalar import ALTERNATIVES, DETERMINISTIC
from ccq_utils.common.cache import file_digest, fingerprint
from ccq_utils.common.errors import StudyError
from ccq_utils.common.progress import progress
from ccq_utils.study.retention import fitted_codecs, retention_rows, sides
from ccq_utils.study.scoring import PLACES, score_method, what_to_fit_on
from ccq_utils.study.stats import corrected_verdicts
from ccq_utils.study.study import Study

REFERENCES = {"over_rotated": "PCA, rotated", "over_blocks": "byte blocks"}
"""Column of differences -> what alternatives are held against, by its name in ``codecs.CODECS``."""
METHODS = (*REFERENCES.values(), *ALTERNATIVES)
"""In the order of the table."""
FACTORS = (48, 192)
"""Compression factors at which they are compared."""


def alternatives(study: Study, factors=FACTORS) -> pd.DataFrame:
    """Every alternative on validation queries at the same bytes, mean over tasks; documents coded, queries in float.

    Rows per ``factor``, ``fitted_on`` and ``method``: bytes per vector (the mean of what was coded), nDCG@10, retention with
    interval; ``over_rotated`` and ``over_blocks`` are paired differences in nDCG@10 to ``REFERENCES``, each with interval,
    p-value and verdict after Holm's correction. What cannot be had (too few dims, vectors or bytes, ITQ of many bits) has
    no row; ``missing`` names it.
    """
    found = sides(study, "validation")
    fittings, in_dims, rows = what_to_fit_on(study, found), study.joined("calibration").shape[1], []
    places = [(factor, place) for factor in factors for place in PLACES]
    for factor, place in progress(places, "alternatives at each compression"):
        scored = {}
        for name in METHODS:
            try:
                scored[name] = _scores(study, found, fittings, place, name, 4 * in_dims // factor)
            except StudyError:
                continue
        for name, (values, size) in scored.items():
            labels = {"factor": factor, "fitted_on": place, "method": name, "bytes_per_vector": size}
            rows.append(retention_rows(study, found, values, **labels)[-1])
            for column, reference in REFERENCES.items():
                pair = ([scored[each][0][task].mean(axis=0) for task in found] for each in (name, reference))
                difference = study.interval("difference", *pair)
                rows[-1] |= difference.named(column)
                rows[-1][f"{column}_p"] = np.nan if name == reference else difference.p()
    table = pd.DataFrame(rows)
    for column, reference in REFERENCES.items():
        table[f"{column}_verdict"] = corrected_verdicts(table, column)
        table.loc[table["method"] == reference, f"{column}_verdict"] = "reference"
    return table


def _scores(study, found, fittings, place, name, budget):
    """nDCG@10 per task, ``(seeds, queries)``, and bytes per vector, from the cache where they are there."""
    first, seeds = study.profile.seed, study.profile.seeds
    if name in REFERENCES.values():
        fit = lambda part: fitted_codecs(study, name, budget, part.training, part.calibration)  # noqa: E731
        return score_method(study, found, fittings, place, {"codec": name, "budget": budget, "seeds": seeds}, fit)
    queries = study.joined("short")
    drawn = range(first, first + (1 if name in DETERMINISTIC else seeds))
    make = ALTERNATIVES[name]
    fit = lambda part: [part.fit(make(queries.shape[1], budget, queries, seed)) for seed in drawn]  # noqa: E731
    key = {"alternative": name, "budget": budget, "queries": fingerprint(queries)}
    key["code"] = file_digest(Path(scalar_codecs.__file__))
    return score_method(study, found, fittings, place, key, fit)


def missing(table: pd.DataFrame) -> list[str]:
    """Methods that have no row at some factor and place, as ``method (factor x, place)``."""
    places = table[["factor", "fitted_on"]].drop_duplicates().itertuples(index=False)
    had = set(table[["factor", "fitted_on", "method"]].itertuples(index=False, name=None))
    return [
        f"{name} ({factor}x, {place})"
        for factor, place in places
        for name in METHODS
        if (factor, place, name) not in had
    ]


def earned(table: pd.DataFrame) -> str:
    """One sentence: what is better than ``PCA, rotated`` wherever it could be had, what somewhere, what nowhere."""
    groups = {"everywhere": [], "somewhere": [], "nowhere": []}
    others = table[~table["method"].isin(REFERENCES.values())]
    for name, rows in others.groupby("method", sort=False):
        better = rows["over_rotated_verdict"] == "better"
        gain = f"{name} ({rows['over_rotated'].min():+.3f} to {rows['over_rotated'].max():+.3f})"
        groups["everywhere" if better.all() else "somewhere" if better.any() else "nowhere"].append(gain)
    kept = "; ".join(f"{place}: {', '.join(names) or 'none'}" for place, names in groups.items())
    ahead = others.loc[others["over_blocks_verdict"] == "better", "method"].unique()
    return f"Better than PCA, rotated (nDCG@10, Holm) {kept}. Better than byte blocks: {', '.join(ahead) or 'none'}."
