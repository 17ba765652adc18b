"""Choosing members: single scores, how two models complement each other, greedy forward selection (notebook 01)."""

import itertools

import numpy as np
import pandas as pd

from ccq_utils.concat import linear_cka
from ccq_utils.embed import embed, normalise
from ccq_utils.models import BUILDERS
from ccq_utils.progress import progress
from ccq_utils.study import Study

WEIGHTS = (0.5, 0.7, 1.0, 1.4)
"""Weights that selection tries for a new member; a member's share of the score is the square of its weight."""


def member_scores(study: Study, model: str, task: str, split: str = "test") -> np.ndarray:
    """Cosines ``(queries, documents)`` of one base model."""
    queries = normalise(study.member_vectors(model, task, split))
    return queries @ normalise(study.member_vectors(model, task)).T


def per_query(study: Study, model: str, task: str, split: str = "test") -> pd.DataFrame:
    """Per-query metrics of one base model."""
    return study.evaluator(task, split)(member_scores(study, model, task, split))


def single_scores(study: Study, split: str = "test") -> pd.DataFrame:
    """nDCG@10 with its interval, MRR@10 and Recall@100 of every base model on every task that has the split."""
    rows = []
    for task in study.tasks if split == "test" else study.tuning_tasks:
        for model in study.profile.models:
            found = per_query(study, model, task, split)
            interval = study.interval("mean", found["ndcg_at_10"])
            others = {name: found[name].mean() for name in ("mrr_at_10", "recall_at_100")}
            rows.append({"task": task, "split": split, "model": model, **interval._asdict(), **others})
    return pd.DataFrame(rows)


def complementarity(study: Study, split: str = "test") -> pd.DataFrame:
    """One row per task and pair of base models.

    ``wins_first`` and ``wins_second`` are shares of queries with the strictly higher nDCG@10; ``oracle_gain`` is what a
    perfect choice per query adds to the better of the two; ``overlap`` the mean share of common documents in their top
    10; ``cka`` the linear CKA of their document vectors; ``gain`` what the concat adds, with its interval.
    """
    rows = []
    for task in study.tasks:
        judge = study.evaluator(task, split)
        cosines = {model: member_scores(study, model, task, split) for model in study.profile.models}
        found = {model: judge(matrix)["ndcg_at_10"].to_numpy() for model, matrix in cosines.items()}
        tops = {model: judge.top(matrix) for model, matrix in cosines.items()}
        for first, second in progress(list(itertools.combinations(cosines, 2)), f"pairs on {task}"):
            a, b = found[first], found[second]
            best = max(a, b, key=np.mean)
            joined = judge(cosines[first] + cosines[second])["ndcg_at_10"].to_numpy()
            gain = study.interval("difference", joined, best)
            rows.append(
                {
                    "task": task,
                    "first": first,
                    "second": second,
                    "wins_first": np.mean(a > b),
                    "wins_second": np.mean(b > a),
                    "oracle_gain": np.maximum(a, b).mean() - best.mean(),
                    "overlap": _overlap(tops[first], tops[second]),
                    "cka": linear_cka(study.member_vectors(first, task), study.member_vectors(second, task)),
                    "strength_gap": abs(a.mean() - b.mean()),
                    "gain": gain.estimate,
                    "low": gain.low,
                    "high": gain.high,
                    "queries": gain.queries,
                }
            )
    return pd.DataFrame(rows)


def _overlap(first, second):
    return float(np.mean([len(set(a) & set(b)) / len(a) for a, b in zip(first, second, strict=True)]))


def forward_selection(study: Study) -> pd.DataFrame:
    """Greedy forward selection by macro-mean nDCG@10 on validation queries, weights tried for each new member.

    Returns every trial: ``step``, ``member``, ``weight``, ``score`` (macro mean over tuning tasks), one column per task,
    and ``chosen``. The first member has weight 1.
    """
    cosines = {
        (model, task): member_scores(study, model, task, "validation")
        for model in study.profile.models
        for task in study.tuning_tasks
    }
    joined = {task: 0.0 for task in study.tuning_tasks}
    left, trials = list(study.profile.models), []
    for step in range(1, min(study.profile.max_members, len(left)) + 1):
        tried = []
        for member, weight in itertools.product(left, WEIGHTS if step > 1 else (1.0,)):
            matrices = {task: joined[task] + weight**2 * cosines[member, task] for task in study.tuning_tasks}
            found = {
                task: study.evaluator(task, "validation")(matrix)["ndcg_at_10"].mean()
                for task, matrix in matrices.items()
            }
            tried.append(
                {"step": step, "member": member, "weight": weight, "score": np.mean(list(found.values())), **found}
            )
        best = max(tried, key=lambda trial: trial["score"])
        trials += [trial | {"chosen": trial is best} for trial in tried]
        joined = {task: joined[task] + best["weight"] ** 2 * cosines[best["member"], task] for task in joined}
        left.remove(best["member"])
    return pd.DataFrame(trials)


def published_pairs(published: pd.DataFrame, task_names: list[str]) -> pd.DataFrame:
    """The pair analysis for published scores, tasks in the place of queries.

    One row per pair of small models (at most 384 dims): in how many tasks each wins, and what a perfect choice per task
    would add to the better of the two in mean nDCG@10 (x 100).
    """
    small = published[(published["dims"] == 384)].set_index("model")[task_names]
    rows = []
    for first, second in itertools.combinations(small.index, 2):
        a, b = small.loc[first].to_numpy(), small.loc[second].to_numpy()
        oracle = np.maximum(a, b).mean() - max(a.mean(), b.mean())
        rows.append(
            {
                "first": first,
                "second": second,
                "wins_first": int((a > b).sum()),
                "wins_second": int((b > a).sum()),
                "oracle_gain": oracle,
            }
        )
    return pd.DataFrame(rows).sort_values("oracle_gain", ascending=False)


def tune_lexical(study: Study) -> pd.DataFrame:
    """Validation nDCG@10 (macro mean) of lexical encoders, alone and joined with the large model at equal weight.

    Empty where the profile has no lexical member. Variants differ from the profile in n-grams, dims or nonzeros.
    """
    if "lexical" not in study.profile.models:
        return pd.DataFrame()
    spec = study.profile.lexical
    changes = [
        {},
        *({"ngrams": ngrams} for ngrams in ((2, 4), (3, 4), (3, 5))),
        {"dims": spec.dims // 3},
        {"dims": spec.dims * 2},
        {"nonzeros": 1},
    ]
    variants = {
        variant.model_dump_json(): variant for variant in (spec.model_copy(update=change) for change in changes)
    }
    rows = []
    for variant in variants.values():
        model = BUILDERS["lexical"](
            study.profile.model_copy(update={"lexical": variant}), lambda: study.corpora, study.cache
        )
        alone, joined = [], []
        for task in study.tuning_tasks:
            judge = study.evaluator(task, "validation")
            queries = embed(model, study.texts(task, "validation"), study.cache, "query")
            matrix = normalise(queries) @ normalise(embed(model, study.texts(task), study.cache)).T
            alone.append(judge(matrix)["ndcg_at_10"].mean())
            joined.append(
                judge(matrix + member_scores(study, study.profile.large_model, task, "validation"))["ndcg_at_10"].mean()
            )
        rows.append(
            {
                "ngrams": f"{variant.ngrams[0]}-{variant.ngrams[1]}",
                "dims": variant.dims,
                "nonzeros": variant.nonzeros,
                "alone": np.mean(alone),
                "joined": np.mean(joined),
            }
        )
        rows[-1]["in_profile"] = variant == spec
    return pd.DataFrame(rows)


def partners(study: Study) -> pd.DataFrame:
    """The large model joined with each other candidate, all of the same dims, each at its best weight on validation.

    The lexical encoder is fitted anew with as many dims as the widest neural candidate. Rows per task and partner:
    validation score (macro mean), weight, nDCG@10 with interval, paired difference of the lexical join to this one.
    Runs: ``large model + lexical hash``, ``large model + best neural partner`` (best on validation).
    """
    large = study.profile.large_model
    others = [name for name in study.profile.models if name != large]
    if "lexical" not in others or len(others) < 2:
        return pd.DataFrame()
    widths = {name: study.member_vectors(name, "calibration").shape[1] for name in others if name != "lexical"}
    widths["lexical"] = dims = max(widths.values())
    spec = study.profile.lexical.model_copy(update={"dims": dims})
    lexical = BUILDERS["lexical"](
        study.profile.model_copy(update={"lexical": spec}), lambda: study.corpora, study.cache
    )

    def cosines(name, task, split):
        if name != "lexical":
            return member_scores(study, name, task, split)
        queries = normalise(embed(lexical, study.texts(task, split), study.cache, "query"))
        return queries @ normalise(embed(lexical, study.texts(task), study.cache)).T

    def score(name, weight, task, split):
        joined = member_scores(study, large, task, split) + weight**2 * cosines(name, task, split)
        return study.evaluator(task, split)(joined)["ndcg_at_10"].to_numpy()

    chosen = {}
    for name in others:
        trials = {
            weight: np.mean([score(name, weight, task, "validation").mean() for task in study.tuning_tasks])
            for weight in WEIGHTS
        }
        weight = max(trials, key=trials.get)
        tests = {task: score(name, weight, task, "test") for task in study.tasks}
        chosen[name] = (weight, trials[weight], tests)
    neural = max((name for name in others if name != "lexical"), key=lambda name: chosen[name][1])
    study.record("large model + lexical hash", chosen["lexical"][2])
    study.record("large model + best neural partner", chosen[neural][2])
    rows = []
    for name, (weight, validation, tests) in chosen.items():
        for task, values in tests.items():
            difference = study.interval("difference", chosen["lexical"][2][task], values)
            named = {"lexical_minus_this": difference.estimate, "difference_low": difference.low}
            named |= {"difference_high": difference.high}
            interval = study.interval("mean", values)
            rows.append(
                {
                    "task": task,
                    "partner": name,
                    "dims": widths[name],
                }
                | {"weight": weight, "validation": validation, **interval._asdict(), **named}
            )
    return pd.DataFrame(rows)


def member_seeds(study: Study, names: tuple[str, ...] = ("lexical", "static")) -> pd.DataFrame:
    """Members that are made here, made again with other seeds: nDCG@10 per task and how it spreads over seeds."""
    rows = []
    for name in (name for name in names if name in study.profile.models):
        for seed in range(study.profile.seeds):
            profile = study.profile.model_copy(update={"seed": study.profile.seed + seed})
            model = BUILDERS[name](profile, lambda: study.corpora, study.cache)
            for task in study.tasks:
                queries = normalise(embed(model, study.texts(task, "test"), study.cache, "query"))
                matrix = queries @ normalise(embed(model, study.texts(task), study.cache)).T
                found = study.evaluator(task)(matrix)["ndcg_at_10"]
                rows.append({"task": task, "model": name, "seed": profile.seed, "ndcg_at_10": found.mean()})
    return pd.DataFrame(rows)
