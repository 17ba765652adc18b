"""What joining gains: every subset of the candidates, and other ways to combine the same models (notebook 02)."""

import numpy as np
import pandas as pd

from ccq_utils.analyses.selection import member_scores
from ccq_utils.common.progress import progress
from ccq_utils.models.vectors import subsets
from ccq_utils.study.stats import corrected_verdicts
from ccq_utils.study.study import Study

RRF_CONSTANT = 60
"""Reciprocal-rank fusion's constant (Cormack, Clarke and Buettcher, SIGIR 2009)."""


def subset_gains(study: Study, split: str = "test") -> pd.DataFrame:
    """Every subset of the candidates on every task, joined with equal weights.

    The concat of normalised members scores a document by the mean of its members' cosines, so a subset is a sum of the
    members' score matrices. Columns: ``score`` with interval; ``gain`` over the subset's best member and ``over_large``
    over the profile's large model, both paired per query with interval and verdict. The best member is the one with the
    highest mean on the same queries, which is the hardest reference.
    """
    rows = []
    for task in study.tasks if split == "test" else study.tuning_tasks:
        judge = study.evaluator(task, split)
        cosines = {model: member_scores(study, model, task, split) for model in study.profile.models}
        single = {model: judge(matrix)["ndcg_at_10"].to_numpy() for model, matrix in cosines.items()}
        large = single.get(study.profile.large_model)
        if large is None:  # a baseline that is not joined
            large = judge(member_scores(study, study.profile.large_model, task, split))["ndcg_at_10"].to_numpy()
        for members in progress(subsets(cosines), f"subsets on {task}"):
            found = judge(sum(cosines[member] for member in members))["ndcg_at_10"].to_numpy()
            best = max(members, key=lambda member: single[member].mean())
            score = study.interval("mean", found)
            gain, over = study.interval("difference", found, single[best]), study.interval("difference", found, large)
            strengths = [single[member].mean() for member in members]
            rows.append(
                {
                    "task": task,
                    "members": " + ".join(members),
                    "size": len(members),
                    "dims": sum(study.member_vectors(member, task).shape[1] for member in members),
                    **score.named("score"),
                    "best_member": best,
                    **gain.named("gain"),
                    "gain_p": gain.p() if len(members) > 1 else np.nan,
                    **over.named("over_large"),
                    "over_large_p": over.p() if members != (study.profile.large_model,) else np.nan,
                    "strength_gap": max(strengths) - min(strengths),
                    "queries": score.queries,
                }
            )
    table = pd.DataFrame(rows)
    for name in ("gain", "over_large"):
        table[f"{name}_verdict"] = corrected_verdicts(table, name)
    return table


def fusion_comparison(study: Study, members: list[str]) -> pd.DataFrame:
    """Ways to combine the same members: concat (normalised or raw) against rank fusion and score fusion, per task.

    Score fusion adds min-max-normalised scores per query; rank fusion is reciprocal-rank fusion. ``difference`` is
    paired against the normalised concat.
    """
    rows = []
    for task in study.tasks:
        judge = study.evaluator(task)
        cosines = [member_scores(study, member, task) for member in members]
        raw = [study.joined(task, split, members, normalised=False) for split in ("test", None)]
        ways = {
            "concat": lambda cosines=cosines: sum(cosines),
            "concat of raw vectors": lambda raw=raw: raw[0] @ raw[1].T,
            "score fusion": lambda cosines=cosines: sum(_min_max(matrix) for matrix in cosines),
            "rank fusion": lambda cosines=cosines: sum(1 / (RRF_CONSTANT + _ranks(matrix)) for matrix in cosines),
        }
        found = {way: judge(make())["ndcg_at_10"].to_numpy() for way, make in ways.items()}
        for way, values in found.items():
            difference = study.interval("difference", values, found["concat"])
            rows.append(
                {
                    "task": task,
                    "way": way,
                    **study.interval("mean", values).named("score"),
                    **difference.named("difference"),
                    "difference_p": np.nan if way == "concat" else difference.p(),
                    "queries": difference.queries,
                }
            )
    table = pd.DataFrame(rows)
    table["verdict"] = corrected_verdicts(table, "difference")
    table.loc[table["way"] == "concat", "verdict"] = "reference"
    return table


def _min_max(matrix):
    low, high = matrix.min(1, keepdims=True), matrix.max(1, keepdims=True)
    return (matrix - low) / (high - low)


def _ranks(matrix):
    ranks = np.empty(matrix.shape, dtype=np.float32)
    order = np.argsort(-matrix, axis=1, kind="stable")
    np.put_along_axis(ranks, order, np.arange(1, matrix.shape[1] + 1, dtype=np.float32)[None], axis=1)
    return ranks


def best_per_size(gains: pd.DataFrame, validation: pd.DataFrame) -> pd.DataFrame:
    """For each subset size, the subset with the best macro-mean score on validation queries, with its test rows."""
    means = validation.groupby(["size", "members"])["score"].mean()
    chosen = means.groupby("size").idxmax().map(lambda index: index[1])
    return gains[gains["members"].isin(chosen)].sort_values(["task", "size"])


def record_concats(study: Study) -> tuple[str, ...]:
    """Record the runs that claims about joining compare, and return the join of small models.

    Runs: ``large model``; ``join of small models`` (without the large one, best on validation queries, equal weights);
    ``concat of k`` for k = 1 ... N (the selection with its weights); ``concat`` is the last of these.
    """
    small = _best_small_join(study)
    weights = list(study.selection["weight"])
    runs = {"large model": ([study.profile.large_model], None), "join of small models": (list(small), None)}
    for count in range(1, len(study.members) + 1):
        runs[f"concat of {count}"] = (study.members[:count], weights[:count])
    runs["concat"] = (study.members, weights)
    for name, (members, shares) in runs.items():
        squares = [1.0] * len(members) if shares is None else [share**2 for share in shares]
        found = {}
        for task in study.tasks:
            parts = zip(squares, members, strict=True)
            matrix = sum(square * member_scores(study, member, task) for square, member in parts)
            found[task] = study.evaluator(task)(matrix)["ndcg_at_10"].to_numpy()
        study.record(name, found)
    return small


def against_larger(study: Study, small: tuple[str, ...]) -> pd.DataFrame:
    """The join of small models minus each larger baseline, paired, per task; no rows where the profile has none.

    Parameters
    ----------
    small : what ``record_concats`` returns
    """
    rows = []
    for task in study.tasks:
        judge = study.evaluator(task)
        joined = judge(sum(member_scores(study, member, task) for member in small))["ndcg_at_10"].to_numpy()
        for model in study.profile.larger:
            single = judge(member_scores(study, model, task))["ndcg_at_10"].to_numpy()
            found = study.interval("difference", joined, single)
            named = {**found.named("difference"), "difference_p": found.p(), "queries": found.queries}
            rows.append({"task": task, "larger": model, "join": joined.mean(), "score": single.mean(), **named})
    table = pd.DataFrame(rows, columns=None if rows else ["task", "larger", "join", "score", "difference"])
    return table.assign(verdict=corrected_verdicts(table, "difference")) if rows else table


def _best_small_join(study):
    """The join without the large model that is best on validation queries (macro mean)."""
    candidates = [model for model in study.profile.models if model != study.profile.large_model]
    cosines = {
        (model, task): member_scores(study, model, task, "validation")
        for model in candidates
        for task in study.tuning_tasks
    }

    def score(members):
        return sum(
            study.evaluator(task, "validation")(sum(cosines[model, task] for model in members))["ndcg_at_10"].mean()
            for task in study.tuning_tasks
        )

    return max((members for members in subsets(candidates) if len(members) > 1), key=score)
