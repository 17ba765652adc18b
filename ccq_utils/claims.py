"""The paper's claims, held against this study's tables (the last section of notebook 05)."""

import pandas as pd

from ccq_utils.codecs import make_codec, scores
from ccq_utils.compress import Side, chosen_decoder, ndcg, sides
from ccq_utils.concat import subsets
from ccq_utils.selection import member_scores
from ccq_utils.stats import Interval, verdict
from ccq_utils.study import Study

PUBLISHED_RETENTION = 0.89
"""Retention at 48x with four models (arXiv 2510.04626, abstract)."""


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
                rows.append(_row(name, scoring, task, study.interval("retention", values[task], side.reference), codec))
            macro = study.interval("retention", list(values.values()), [side.reference for side in found.values()])
            rows.append(_row(name, scoring, "macro mean", macro, codec))
    return pd.DataFrame(rows)


def _row(method, scoring, task, interval, codec):
    return {
        "method": method,
        "scoring": scoring,
        "task": task,
        "bytes_per_vector": codec.bytes_per_vector,
        **interval._asdict(),
    }


def claims_table(study: Study) -> pd.DataFrame:
    """One row per claim: id, statement, what was measured, number, 95 % interval, queries and verdict (macro over tasks).

    Verdicts: *reproduced* or *not reproduced* when the interval lies on one side of the claim's threshold, otherwise
    *no difference seen*. Choices (which join, which method) are made on validation queries or fixed in advance.
    """
    count = len(study.members)
    budget = 4 * study.joined("calibration").shape[1] // 48
    raw = {size: _raw(study, size) for size in {1, min(2, count), count}}
    small = _best_small_join(study)
    large = [ndcg(study.evaluator(task), member_scores(study, study.profile.large_model, task)) for task in study.tasks]
    joined = [
        ndcg(study.evaluator(task), sum(member_scores(study, member, task) for member in small)) for task in study.tasks
    ]
    paper = _coded(study, count, "decoder", budget, chosen_decoder(study))
    best = {size: _coded(study, size, "PCA, rotated", budget) for size in raw}
    rows = [
        _claim(
            "K1",
            "Joined small models beat the larger single one",
            f"{' + '.join(small)} minus {study.profile.large_model}, nDCG@10",
            study.interval("difference", joined, large),
            0.0,
        ),
        _claim(
            "K1b",
            "A concat beats its best member",
            f"{' + '.join(study.members)} minus {study.members[0]}, nDCG@10",
            study.interval("difference", raw[count], raw[1]),
            0.0,
        ),
        _claim(
            "K2",
            "Decoder and percentile quantizer keep 89 % at 48x",
            f"retention at {budget} B, decoder, asymmetric",
            study.interval("retention", paper, raw[count]),
            PUBLISHED_RETENTION,
        ),
        _claim(
            "K2b",
            "This study's pipeline keeps more than 89 % at 48x",
            f"retention at {budget} B, PCA rotated, asymmetric",
            study.interval("retention", best[count], raw[count]),
            PUBLISHED_RETENTION,
        ),
        _claim(
            "K3",
            "Members after the second add raw quality (the paper: little)",
            f"{count} members minus {min(2, count)}, raw nDCG@10",
            study.interval("difference", raw[count], raw[min(2, count)]),
            0.0,
        ),
        _claim(
            "K3b",
            "More members make the compressed vector better at the same bytes",
            f"{count} members minus 1 at {budget} B, nDCG@10",
            study.interval("difference", best[count], best[1]),
            0.0,
        ),
        _claim(
            "K3c",
            "Members after the second do so too",
            f"{count} members minus {min(2, count)} at {budget} B, nDCG@10",
            study.interval("difference", best[count], best[min(2, count)]),
            0.0,
        ),
    ]
    return pd.DataFrame(rows)


def _claim(name, statement, measured, interval: Interval, threshold):
    words = verdict(interval, threshold, "reproduced", "not reproduced")
    return {
        "claim": name,
        "statement": statement,
        "tested": measured,
        "measured": interval.estimate,
        "low": interval.low,
        "high": interval.high,
        "threshold": threshold,
        "queries": interval.queries,
        "verdict": words,
    }


def _raw(study, count):
    weights = list(study.selection["weight"])
    return [side.reference for side in sides(study, "test", study.members[:count], weights[:count]).values()]


def _coded(study, count, name, budget, decoder=None):
    members, weights = study.members[:count], list(study.selection["weight"])[:count]
    training, calibration = (study.joined(part, None, members, weights) for part in ("training", "calibration"))
    codec = make_codec(name, training.shape[1], budget, decoder, study.profile.seed).fit(training, calibration)
    found = sides(study, "test", members, weights).values()
    return [ndcg(side.judge, scores(codec, side.queries, codec.encode(side.documents))) for side in found]


def _best_small_join(study):
    """The join without the large model that is best on validation queries (macro mean)."""
    candidates = [model for model in study.profile.models if model != study.profile.large_model]
    cosines = {
        (model, task): member_scores(study, model, task, "validation")
        for model in candidates
        for task in study.tuning_tasks
    }

    def score(members):
        found = [
            ndcg(study.evaluator(task, "validation"), sum(cosines[model, task] for model in members))
            for task in study.tuning_tasks
        ]
        return sum(values.mean() for values in found)

    return max((members for members in subsets(candidates) if len(members) > 1), key=score)
