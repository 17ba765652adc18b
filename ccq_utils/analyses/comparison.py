"""Ours, the paper's pipeline, published peers and a base model alone at the same bytes (notebook 07, ``ccq evaluate``)."""

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ccq_utils.codecs.codec import NotPossible, shared_bytes
from ccq_utils.codecs.peers import PEERS, make_peer
from ccq_utils.codecs.percentile import make_codec
from ccq_utils.common.errors import StudyError
from ccq_utils.common.paths import place_of
from ccq_utils.common.progress import progress
from ccq_utils.common.threads import side_by_side
from ccq_utils.data.profile import TEXT_PARTS, TaskSpec
from ccq_utils.study.metrics import Evaluator
from ccq_utils.study.scores import FITTED_ON, FittingVectors, Vectors, score_method, task_vectors, with_validation
from ccq_utils.study.stats import with_verdicts
from ccq_utils.study.study import Study
from ccq_utils.study.training import trained_decoder, weights_of

OURS = "equalised PCA"
METHODS = (OURS, "decoder", "decoder, rotated", "PCA, rotated", "LSH")
"""Ours, the paper's pipeline and its simplest rivals, by their names in ``percentile.CODECS``, with their usual bits."""
ONCE = ("decoder", "binary", "OPQ")  # no seed draws anything in the first two; OPQ is slow, its seeds lie within .002


def held_out(study: Study) -> dict[str, Vectors]:
    """Split (``test``, ``validation``) -> half of each corpus to search; what its other half is fitted on is ``own``.

    The half is drawn by the profile's seed. Judgements of the other half are left out, and queries that had no others.
    """
    found, own = {}, {}
    for split, whole in zip(("test", "validation"), with_validation(study), strict=True):
        by_task = {}
        for name, one in whole.by_task.items():
            task, names = one.evaluator.task, np.array(list(one.evaluator.task.documents), dtype=object)
            order = np.random.default_rng(study.profile.seed).permutation(len(names))
            searched, fitted = np.sort(order[len(names) // 2 :]), np.sort(order[: len(names) // 2])
            documents = {document: task.documents[document] for document in names[searched]}
            qrels = {query: {k: grades[k] for k in grades if k in documents} for query, grades in task.qrels.items()}
            qrels = {query: grades for query, grades in qrels.items() if any(grade > 0 for grade in grades.values())}
            judge = Evaluator(replace(task, documents=documents, qrels=qrels), split)
            rows = [place for place, query in enumerate(one.evaluator.query_ids) if query in qrels]
            if name not in own:
                fits, same = one.documents[fitted], (part for part in own.values())
                own[name] = next((part for part in same if np.array_equal(part.training, fits)), FittingVectors(fits))
            half = found["test"].by_task[name] if found else replace(one, documents=one.documents[searched], codes={})
            by_task[name] = replace(half, queries=one.queries[rows], evaluator=judge)
        found[split] = Vectors(by_task, whole.general, own)
    return found


class Method(NamedTuple):
    """``make(dims, budget, seed=seed)`` gives a codec to fit; ``key`` is what it depends on beside these (JSON-able)."""

    make: Callable[..., Any]
    key: dict
    vectors: Vectors
    seeds: int = 1


def methods(study: Study, vectors: Vectors, peers=(), alone: dict | None = None, seeds: int = 1, own=METHODS):
    """Name -> ``Method``: ``own`` (names in ``CODECS``), ``peers`` (names in ``PEERS``), base models alone.

    ``alone`` is base model -> its vectors, which ours codes without the others. All but ``ONCE`` are made ``seeds`` times.
    """
    found, trained = {}, [trained_decoder(study)[0]] if any(name.startswith("decoder") for name in own) else []
    for name in own:
        decoder = trained if name.startswith("decoder") else []
        make, key = partial(make_codec, name, decoder=(decoder or [None])[0]), {"codec": name}
        found[name] = Method(make, key | {"decoder": weights_of(decoder)}, vectors)
    found |= {name: Method(partial(make_peer, name), {"peer": name}, vectors) for name in peers}
    found |= {name: method._replace(seeds=seeds) for name, method in found.items() if name not in ONCE}
    return found | {f"{model} alone, {OURS}": found[OURS]._replace(vectors=own) for model, own in (alone or {}).items()}


def score_methods(study: Study, given: dict[str, Method], budget: int, fitted=FITTED_ON, **labels) -> tuple:
    """Per-query scores of every method at ``budget`` bytes per vector, fitted on general text and on ``Vectors.own``.

    The long table has ``shared_bytes`` as well; the second value lists what cannot be had at so few bytes or from so few
    vectors: ``method``, ``fitted_on``, ``reason``.
    """
    chosen = [(fitted_on, name, *method) for fitted_on, (name, method) in itertools.product(fitted, given.items())]

    def score(fitted_on, name, make, key, vectors, seeds):
        key = key | {"budget": budget, "drawn": [study.profile.seed + number for number in range(seeds)]}

        def fit(to):  # once for all splits
            if (mark := json.dumps(key)) not in to.codecs:
                codecs = (make(to.training.shape[1], budget, seed=seed) for seed in key["drawn"])
                to.codecs[mark] = [codec.fit(to.training, to.calibration) for codec in codecs]
            return to.codecs[mark]

        try:
            scores = score_method(study, vectors, fit, key, fitted_on, method=name, **labels)
            to = vectors.fitting(next(iter(vectors.by_task)), fitted_on)
            size = {**key, "shared": vectors.dims, "vectors": len(to.training)}
            held = study.cache.arrays("scores", size, lambda: {"bytes": np.array([shared_bytes(fit(to)[0])])})
            return scores.assign(shared_bytes=held["bytes"].item())
        except NotPossible as error:
            return {"method": name, "fitted_on": fitted_on, "reason": str(error)}

    scored = [*progress(side_by_side(score, chosen), f"methods at {budget} bytes", len(chosen))]
    skipped = [each for each in scored if isinstance(each, dict)]
    if len(skipped) == len(scored):
        raise StudyError(f"no method can be had at {budget} bytes; {skipped[0]['method']}: {skipped[0]['reason']}")
    return pd.concat([each for each in scored if not isinstance(each, dict)], ignore_index=True), skipped


def held_against(study: Study, scores: pd.DataFrame, raw: pd.DataFrame) -> pd.DataFrame:
    """Retention of every method, and its nDCG@10 less that of ``OURS`` (``difference``), paired by query.

    ``verdict`` comes after Holm's correction for all methods and tasks at the same factor and fitting.
    """
    by, ours = ["factor", "fitted_on", "method"], scores["method"] == OURS
    apart = study.summarise(scores[~ours], by, scores[ours].drop(columns="method"), "difference")
    apart = with_verdicts(apart, family=by[:2]).rename(columns={"estimate": "difference"})
    apart = apart.rename(columns={end: f"difference_{end}" for end in ("low", "high", "p")})
    table = study.summarise(scores, [*by, "bytes_per_vector", "shared_bytes"], raw)
    columns = ["task", *by, *(column for column in apart if column.startswith("difference")), "verdict"]
    return table.merge(apart[columns], how="left", on=["task", *by]).fillna({"verdict": "reference"})


def evaluate_task(source: str, budget: int, profile="default", peers=False, run="", **options) -> dict:
    """Base models, their raw concat, and compression methods at ``budget`` bytes per document vector, on one task.

    The members are those that notebook 01 of the profile chose (in the finished ``run``, else the checkout), at equal shares.
    Each method is fitted once on the profile's training text and once on the task's documents, never on its queries or
    judgements. ``source`` is ``beir:DIR``; ``peers`` asks for published methods as well; ``options`` are of ``TaskSpec``.

    Returns what ``--json`` writes: ``models``, ``concat`` and ``methods`` with their scores and intervals; ``skipped`` says
    what cannot be had at this size or from so few documents, and why. ``total_bytes`` has its part of what all share as well.
    """
    if not source.startswith("beir:"):
        raise StudyError(f"unknown task {source!r}; accepted: beir:DIR of corpus.jsonl, queries.jsonl, qrels/test.tsv")
    if budget < 1:
        raise StudyError(f"budget {budget} must be at least one byte per vector")
    path = place_of(source.removeprefix("beir:"), "task").resolve()
    name = f"{path.name} (BEIR folder)" if path.name in ("", *TEXT_PARTS) else path.name
    spec = TaskSpec(name=name, source=f"beir:{path}", **options)
    study = Study(profile, output=run)
    study.profile = study.profile.model_copy(update={"tasks": [spec]})
    return compare(study, budget, peers)


def compare(study: Study, budget: int, peers: bool = False) -> dict:
    """The report of ``evaluate_task``, for a study of one task."""
    (name,), models = study.tasks, study.profile.scored_models
    alone = {model: task_vectors(study, members=[model]) for model in progress(models, "models on this task")}
    vectors = task_vectors(study)
    singles = {model: alone[model] for model in study.profile.models} if peers else {}
    scores, skipped = score_methods(study, methods(study, vectors, PEERS if peers else (), singles), budget)
    if not vectors.raw["score"].any():
        raise StudyError(f"task {name!r}: the concat finds no judged document, so that nothing can be measured")
    rows = study.summarise(scores, ["method", "fitted_on", "bytes_per_vector", "shared_bytes"], vectors.raw)
    documents = vectors.by_task[name].evaluator.task.manifest()["documents"]
    rows = rows.rename(columns={"estimate": "retention"}).sort_values("retention", ascending=False, kind="stable")
    rows["compression_factor"] = 4 * vectors.dims / rows["bytes_per_vector"]
    rows["total_bytes"] = rows["bytes_per_vector"] + rows["shared_bytes"] / documents
    columns = "method fitted_on bytes_per_vector total_bytes compression_factor ndcg_at_10 retention low high".split()
    concat = {"members": study.members, "dims": vectors.dims, "bytes_per_vector": 4 * vectors.dims}
    found = {"task": name, "profile": study.profile.name, "queries": len(vectors.raw), "documents": documents}
    found["models"] = [{"name": model} | _mean(study, alone[model].raw) for model in models]
    found["concat"] = concat | _mean(study, vectors.raw)
    rows = rows[columns].astype(object).where(rows[columns].notna(), None)  # NaN: resamples without any hit
    return found | {"methods": rows.to_dict("records"), "skipped": skipped}


def _mean(study, scores):
    return study.summarise(scores, [], statistic="mean").iloc[0][["ndcg_at_10", "low", "high"]].to_dict()


def summary(report: dict) -> str:
    """The report as lines for a terminal."""
    concat, members = report["concat"], " + ".join(report["concat"]["members"])
    lines = [f"{report['task']}: {report['queries']} queries, {report['documents']} documents, nDCG@10"]
    lines += [f"  {model['name']:34} {model['ndcg_at_10']:.3f}" for model in report["models"]]
    lines.append(f"  {f'concat of {members}':34} {concat['ndcg_at_10']:.3f}  {concat['bytes_per_vector']} bytes")
    lines.append(f"{'method':34} {'fitted on':13} bytes    in all  factor  nDCG@10  retention [95 % interval]")
    for row in report["methods"]:
        line = f"{row['method']:34} {row['fitted_on']:13} {row['bytes_per_vector']:5}  {row['total_bytes']:8.0f}  "
        line += f"{row['compression_factor']:5.0f}x  {row['ndcg_at_10']:.3f}    {row['retention']:.3f} "
        ends = "too few queries" if row["low"] is None else f"{row['low']:.3f}, {row['high']:.3f}"
        lines.append(f"{line}[{ends}]")
    lines += [f"not run: {row['method']}, {row['fitted_on']}: {row['reason']}" for row in report["skipped"]]
    return "\n".join(lines)
