"""Choosing members: single scores, how two models complement each other, greedy forward selection (notebook 01)."""

import itertools

import numpy as np
import pandas as pd

from ccq_utils.common.progress import progress
from ccq_utils.models.base_models import BUILDERS
from ccq_utils.models.embed import embed, normalise
from ccq_utils.models.vectors import linear_cka
from ccq_utils.study.stats import Interval, corrected_verdicts, rank_correlation
from ccq_utils.study.study import Study

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
    """nDCG@10, MRR@10 and Recall@100 with intervals, of every base model, larger baselines included, per task."""
    rows = []
    for task in study.tasks if split == "test" else study.tuning_tasks:
        for model in study.profile.scored_models:
            found = per_query(study, model, task, split)
            row = {"task": task, "split": split, "model": model}
            row |= study.interval("mean", found["ndcg_at_10"])._asdict()
            for name in ("mrr_at_10", "recall_at_100"):
                row |= study.interval("mean", found[name]).named(name)
            rows.append(row)
    return pd.DataFrame(rows)


def complementarity(study: Study, split: str = "test") -> pd.DataFrame:
    """One row per task and pair of base models.

    ``wins_first`` and ``wins_second`` are shares of queries with the strictly higher nDCG@10; ``oracle_gain`` is what a
    perfect choice per query adds to the better of the two; ``overlap`` the mean share of common documents in their top
    10; ``gain`` what the concat adds, all with intervals; ``cka`` the linear CKA of their document vectors.
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
                    **study.interval("mean", a > b).named("wins_first"),
                    **study.interval("mean", b > a).named("wins_second"),
                    **study.interval("difference", np.maximum(a, b), best).named("oracle_gain"),
                    **study.interval("mean", _overlap(tops[first], tops[second])).named("overlap"),
                    "cka": linear_cka(study.member_vectors(first, task), study.member_vectors(second, task)),
                    "strength_gap": abs(a.mean() - b.mean()),
                    **gain.named("gain"),
                    "gain_p": gain.p(),
                    "queries": gain.queries,
                }
            )
    table = pd.DataFrame(rows)
    return table.assign(verdict=corrected_verdicts(table, "gain"))


def correlations(study: Study, pairs: pd.DataFrame, measures) -> pd.DataFrame:
    """Rank correlation of each measure of ``complementarity`` with the gain; its interval leaves out one model at a time."""
    models, drawn = pairs[["first", "second"]], (study.profile.resamples, study.profile.bootstrap_seed)
    found = {name: rank_correlation(pairs[name], pairs["gain"], models, *drawn) for name in measures}
    rows = [{"measure": name, **interval._asdict()} for name, interval in found.items()]
    return pd.DataFrame(rows).rename(columns={"queries": "pairs"})


def _overlap(first, second):
    """Per query, the share of common documents in two lists of top documents."""
    return np.array([len(set(a) & set(b)) / len(a) for a, b in zip(first, second, strict=True)])


def forward_selection(study: Study) -> pd.DataFrame:
    """Greedy forward selection by macro-mean nDCG@10 on validation queries, weights tried for each new member.

    Returns every trial: ``step``, ``member``, ``weight``, ``score`` (macro mean over tuning tasks), ``gain`` over what
    the step before chose (paired; none at the first step), one column per task, each with its interval, and ``chosen``.
    The first member has weight 1.
    """
    cosines = {
        (model, task): member_scores(study, model, task, "validation")
        for model in study.profile.models
        for task in study.tuning_tasks
    }
    joined, before = {task: 0.0 for task in study.tuning_tasks}, None
    left, trials = list(study.profile.models), []
    for step in range(1, min(study.profile.max_members, len(left)) + 1):
        tried = []
        for member, weight in itertools.product(left, WEIGHTS if step > 1 else (1.0,)):
            found = {
                task: study.evaluator(task, "validation")(joined[task] + weight**2 * cosines[member, task])
                for task in study.tuning_tasks
            }
            scored = {task: metrics["ndcg_at_10"].to_numpy() for task, metrics in found.items()}
            tried.append(({"step": step, "member": member, "weight": weight}, scored))
        rows = [labels | _validation_columns(study, scored, before) for labels, scored in tried]
        best = max(range(len(rows)), key=lambda number: rows[number]["score"])
        trials += [row | {"chosen": number == best} for number, row in enumerate(rows)]
        (labels, before) = tried[best]
        share = labels["weight"] ** 2
        joined = {task: joined[task] + share * cosines[labels["member"], task] for task in joined}
        left.remove(labels["member"])
    return pd.DataFrame(trials)


def _validation_columns(study, scored, before):
    """Macro mean of per-query scores, its gain over those of the step before, and the mean of each task, with intervals."""
    each = list(scored.values())
    gain = Interval(*[np.nan] * 3, 0) if before is None else study.interval("difference", each, list(before.values()))
    columns = study.interval("mean", each).named("score") | gain.named("gain")
    for task, values in scored.items():
        columns |= study.interval("mean", values).named(task)
    return columns


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

    No rows where the profile has no lexical member. Variants differ from the profile in n-grams, dims or nonzeros;
    ``difference`` is paired, the joined score against that of the profile's variant, which is the first row.
    """
    if "lexical" not in study.profile.models:
        return pd.DataFrame(columns=["ngrams", "dims", "nonzeros", "alone", "joined", "in_profile"])
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
    rows, reference = [], None
    for variant in variants.values():
        alone, joined = _lexical_scores(study, variant)
        reference = joined if reference is None else reference
        difference = study.interval("difference", joined, reference)
        rows.append(
            {
                "ngrams": f"{variant.ngrams[0]}-{variant.ngrams[1]}",
                "dims": variant.dims,
                "nonzeros": variant.nonzeros,
                **study.interval("mean", alone).named("alone"),
                **study.interval("mean", joined).named("joined"),
                **difference.named("difference"),
                "difference_p": np.nan if joined is reference else difference.p(),
                "queries": difference.queries,
                "in_profile": variant == spec,
            }
        )
    table = pd.DataFrame(rows)
    table["verdict"] = corrected_verdicts(table, "difference")
    table.loc[table["in_profile"], "verdict"] = "reference"
    return table


def _lexical_scores(study, variant):
    """Validation nDCG@10 per tuning task and query of a lexical encoder: alone, and joined with the large model."""
    profile = study.profile.model_copy(update={"lexical": variant})
    model = BUILDERS["lexical"](profile, lambda: study.corpora, study.cache)
    alone, joined = [], []
    for task in study.tuning_tasks:
        queries = normalise(embed(model, study.texts(task, "validation"), study.cache, "query"))
        matrix = queries @ normalise(embed(model, study.texts(task), study.cache)).T
        large = member_scores(study, study.profile.large_model, task, "validation")
        for scores, cosines in ((alone, matrix), (joined, matrix + large)):
            scores.append(study.evaluator(task, "validation")(cosines)["ndcg_at_10"].to_numpy())
    return alone, joined


def tuning_note(study: Study, tuning: pd.DataFrame) -> str:
    """What ``tune_lexical`` found, in two sentences."""
    if tuning.empty:
        return "This profile has no lexical member."
    chosen, best = tuning[tuning["in_profile"]].iloc[0], tuning.sort_values("joined").iloc[-1]
    uses = (
        f"The profile uses n-grams {chosen['ngrams']} in {chosen['dims']} dims: {chosen['joined']:.3f} joined with "
        f"{study.profile.large_model}. "
    )
    if best["in_profile"]:
        return uses + "No row tried is above it."
    return uses + (
        f"The best row tried ({best['ngrams']}, {best['dims']} dims) reaches {best['joined']:.3f}, {best['difference']:+.3f} "
        f"[{best['difference_low']:+.3f}, {best['difference_high']:+.3f}]; {best['verdict']} after Holm's correction."
    )


def partners(study: Study) -> pd.DataFrame:
    """The large model joined with each other candidate, all of the same dims, each at its best weight on validation.

    The lexical encoder is fitted anew with as many dims as the widest neural candidate. Rows per task and partner:
    weight, validation score (macro mean) and nDCG@10 with intervals, paired ``difference`` of the lexical join to this one.
    Runs: ``large model + lexical hash``, ``large model + best neural partner`` (best on validation).
    """
    large = study.profile.large_model
    others = [name for name in study.profile.models if name != large]
    if "lexical" not in others or len(others) < 2:
        return pd.DataFrame(columns=["task", "partner", "dims", "weight", "validation"])
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
            weight: study.interval("mean", [score(name, weight, task, "validation") for task in study.tuning_tasks])
            for weight in WEIGHTS
        }
        weight = max(trials, key=lambda weight: trials[weight].estimate)
        tests = {task: score(name, weight, task, "test") for task in study.tasks}
        chosen[name] = (weight, trials[weight], tests)
    neural = max((name for name in others if name != "lexical"), key=lambda name: chosen[name][1].estimate)
    study.record("large model + lexical hash", chosen["lexical"][2])
    study.record("large model + best neural partner", chosen[neural][2])
    rows = []
    for name, (weight, validation, tests) in chosen.items():
        for task, values in tests.items():
            difference = study.interval("difference", chosen["lexical"][2][task], values)
            labels = {"task": task, "partner": name, "dims": widths[name], "weight": weight}
            measured = validation.named("validation") | study.interval("mean", values)._asdict()
            rows.append(labels | measured | difference.named("difference"))
            rows[-1]["difference_p"] = np.nan if name == "lexical" else difference.p()
    table = pd.DataFrame(rows)
    table["verdict"] = corrected_verdicts(table, "difference")
    return table


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
                found = study.interval("mean", study.evaluator(task)(matrix)["ndcg_at_10"].to_numpy())
                rows.append({"task": task, "model": name, "seed": profile.seed, **found._asdict()})
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=["task", "model", "seed", "estimate"])
