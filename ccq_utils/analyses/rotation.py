"""Why a rotation before few-bit codes helps, and in which dims queries find their documents (notebook 04)."""

import numpy as np
import pandas as pd

from ccq_utils.codecs.decoder import fit_pca
from ccq_utils.codecs.percentile import PercentileCodec
from ccq_utils.study.retention import MACRO, Side, ndcg, sides
from ccq_utils.study.scoring import PLACES, what_to_fit_on
from ccq_utils.study.study import Study

ONE_BIT = 1 - 2 / np.pi
"""Squared error of the best one-bit code of a Gaussian dim, as a share of its variance (Max 1960): 0.363. Of it, the share
ONE_BIT**2 is nothing but shrinkage, decoded values that are all too short by the same factor."""
BEST = 10
"""How many of the best other documents a relevant one is held against: as many as nDCG@10 looks at."""


def effective_dims(variances: np.ndarray) -> float:
    """Participation ratio, ``(sum v)^2 / sum v^2``: how many dims of equal variance would be as uneven."""
    variances = np.asarray(variances, dtype=np.float64)
    return float(variances.sum() ** 2 / (variances**2).sum())


def score_noise(true: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """Error variance of decoded scores over documents, per query, beside a factor that all share: ``(queries,)``.

    A factor common to all documents changes no ranking, and codes of few bits shrink all scores; what is left is
    ``var(true) (1 / r^2 - 1)``, r being the correlation of true and decoded scores.

    Parameters
    ----------
    true, decoded : ``(queries, documents)``
    """
    left, right = (part.astype(np.float64) - part.mean(axis=1, keepdims=True) for part in (true, decoded))
    shared = (left * right).mean(axis=1) ** 2
    variances = (left**2).mean(axis=1), (right**2).mean(axis=1)
    return variances[0] * (variances[0] * variances[1] / np.maximum(shared, np.finfo(float).tiny) - 1)


def score_error(study: Study, stops: list[int], place: str = PLACES[1]) -> pd.DataFrame:
    """One-bit codes of PCA dims with and without a rotation: what they do to vectors, to scores and to retrieval.

    Validation queries in float, documents coded; per task and number of dims, and their mean. ``estimate`` is the noise of
    scores (``score_noise``) without over with rotation, ``predicted`` the same from ``q_j^2 v_j`` alone: the
    queries' squares times the variances summed dim by dim, over what they are when every dim has the mean variance.
    ``by_variances`` takes queries to be spread as documents are: dims over effective dims. ``as_decoded`` is the ratio of
    the error as it is, shrinkage included, ``as_decoded_predicted`` what theory says of it (no more than 1 / ONE_BIT).
    ``vector_plain``, ``vector_rotated`` are squared errors of vectors over their variance, ``plain``, ``rotated`` the
    retention with interval. The rotation is drawn once per seed.

    Parameters
    ----------
    stops : numbers of dims; those beyond the concat's are left out
    place : what PCA and thresholds are fitted on, one of ``PLACES``
    """
    found, rows = sides(study, "validation"), []
    fittings = what_to_fit_on(study, found)
    for dims in (stop for stop in stops if stop <= study.joined("calibration").shape[1]):
        codecs = {id(part): _fitted(study, part, dims) for part in {fittings[place, task] for task in found}}
        each = {task: _both_ways(side, codecs[id(fittings[place, task])]) for task, side in found.items()}
        for group in [[task] for task in found] + ([list(found)] if len(found) > 1 else []):
            labels = {"fitted_on": place, "task": group[0] if len(group) == 1 else MACRO, "dims": dims}
            rows.append(labels | _summary(study, [each[task] for task in group], [found[task] for task in group]))
    return pd.DataFrame(rows)


def _fitted(study, fitting, dims):
    seeds = range(study.profile.seed, study.profile.seed + study.profile.seeds)
    rotated = [fitting.fit(PercentileCodec(dims, 1, rotate=True, seed=seed)) for seed in seeds]
    return {"plain": [fitting.fit(PercentileCodec(dims, 1))], "rotated": rotated}


def _both_ways(side, codecs):
    """Per query: noise, error and nDCG@10 without and with rotation, and what theory takes from queries and variances."""
    made = {}
    for name, group in codecs.items():
        for codec in group:
            queries, documents = codec.project(side.queries), codec.project(side.documents)
            decoded = codec.decode(codec.encode(side.documents))
            true, scores = queries @ documents.T, queries @ decoded.T
            spread = documents.var(axis=0)
            measured = {
                "noise": score_noise(true, scores),
                "error": (scores - true).var(axis=1),
                "vector": ((decoded - documents) ** 2).sum(axis=1).mean() / spread.sum(),
                "ndcg": ndcg(side.judge, scores),
                "weighted": queries**2 @ spread,
                "even": (queries**2).sum(axis=1) * spread.mean(),
                "unevenness": len(spread) / effective_dims(spread),
            }
            for measure, value in measured.items():
                made.setdefault((name, measure), []).append(value)
    return {key: np.mean(values, axis=0) for key, values in made.items()}


def _summary(study, each, found):
    def ratio(over, under):
        return study.interval("retention", [part[over] for part in each], [part[under] for part in each])

    shrunk, reference = ONE_BIT**2, [side.reference for side in found]
    predicted = ratio(("plain", "weighted"), ("plain", "even"))
    as_decoded = ratio(("plain", "error"), ("rotated", "error"))
    row = ratio(("plain", "noise"), ("rotated", "noise"))._asdict() | predicted.named("predicted")
    row |= {"by_variances": np.mean([part["plain", "unevenness"] for part in each])} | as_decoded.named("as_decoded")
    share = predicted.estimate
    row["as_decoded_predicted"] = ONE_BIT * share / (shrunk * share + ONE_BIT - shrunk)
    for name in ("plain", "rotated"):
        row[f"vector_{name}"] = np.mean([part[name, "vector"] for part in each])
        row |= study.interval("retention", [part[name, "ndcg"] for part in each], reference).named(name)
    return row


def margins(study: Study, groups: list[int], place: str = PLACES[1]) -> pd.DataFrame:
    """Where relevant documents get ahead: per group of PCA dims, its share of the variance and of the margin.

    A query's margin is its score with its relevant documents (mean) less that with the ``BEST`` best others, in the raw
    concat; it is a sum over dims. ``estimate`` is the group's share of the margin, ``signal`` its margin over the standard
    deviation of its part of the scores over documents, with intervals over validation queries; ``variance`` its share of the
    documents' variance, ``per_dim`` the mean share of one dim. Rows per task, and their mean.

    Parameters
    ----------
    groups : first dim of each group, ascending from 0; those beyond the concat's dims are left out
    """
    found, rows = sides(study, "validation"), []
    fittings, parts = what_to_fit_on(study, found), {}
    dims = study.joined("calibration").shape[1]
    borders = [first for first in groups if first < dims] + [dims]
    for task, side in found.items():
        decoder = fit_pca(fittings[place, task].training, dims)
        queries, documents = decoder.transform(side.queries), decoder.transform(side.documents)
        apart = _apart(side, queries, documents)
        variances = documents.var(axis=0) / documents.var(axis=0).sum()
        parts[task] = []
        for first, last in zip(borders[:-1], borders[1:], strict=True):
            spread = (queries[:, first:last] @ documents[:, first:last].T).std(axis=1)
            margin = (queries * apart)[:, first:last].sum(axis=1)
            parts[task].append((margin, (queries * apart).sum(axis=1), spread, variances[first:last].sum()))
    for names in [[task] for task in found] + ([list(found)] if len(found) > 1 else []):
        for number, (first, last) in enumerate(zip(borders[:-1], borders[1:], strict=True)):
            margin, whole, spread, variance = zip(*(parts[name][number] for name in names), strict=True)
            row = {"fitted_on": place, "task": names[0] if len(names) == 1 else MACRO, "first": first, "last": last - 1}
            row |= {"variance": np.mean(variance), "per_dim": np.mean(variance) / (last - first)}
            row |= study.interval("retention", list(margin), list(whole))._asdict()
            rows.append(row | study.interval("retention", list(margin), list(spread)).named("signal"))
    return pd.DataFrame(rows)


def _apart(side: Side, queries, documents):
    """Mean relevant less mean best other document of each query, ``(queries, D)``."""
    judge, scores = side.judge, queries @ documents.T
    scores[judge.rows, judge.columns] = -np.inf  # top() leaves a query's own document out as well
    others = judge.top(scores, min(BEST, len(documents) - 1))
    relevant = np.zeros_like(queries)
    np.add.at(relevant, judge.rows, documents[judge.columns])
    counts = np.bincount(judge.rows, minlength=len(queries))
    return relevant / np.maximum(counts, 1)[:, None] - documents[others].mean(axis=1)
