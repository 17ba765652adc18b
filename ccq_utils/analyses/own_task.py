"""The study's comparison on anyone's own retrieval set (``ccq evaluate``)."""

import json
from pathlib import Path

from ccq_utils.analyses.comparison import bitbudget_table, methods_for
from ccq_utils.analyses.selection import member_scores
from ccq_utils.codecs.peers import PEERS
from ccq_utils.common.cache import writing_to
from ccq_utils.common.errors import StudyError
from ccq_utils.common.progress import progress
from ccq_utils.data.profile import TEXT_PARTS, TaskSpec
from ccq_utils.study.retention import sides
from ccq_utils.study.scoring import PLACES
from ccq_utils.study.study import Study


def evaluate_task(source: str, budget: int, profile: str = "default", peers: bool = False, **options) -> dict:
    """Base models, their raw concat, and each compression method at ``budget`` bytes per vector, on one task.

    The profile's models, selection and decoder are used as the study left them; compression is fitted on the profile's
    training text and on the task's documents, never on its queries or judgements.

    Parameters
    ----------
    source : ``beir:DIR``
    options : ``exclude_self`` and ``allow_missing`` of ``TaskSpec``

    Returns
    -------
    A JSON-ready dict: ``task``, ``queries``, ``documents``, ``models`` and ``concat`` with nDCG@10 and its interval, and per
    method bytes per vector, compression factor, nDCG@10, retention and its interval;
    ``skipped`` names what cannot be had at this size or from so few vectors, and why.

    Raises
    ------
    StudyError : not a BEIR folder, judgements for documents that do not exist, or a budget below one byte.
    """
    if not source.startswith("beir:"):
        raise StudyError(
            f"unknown task {source!r}; accepted: beir:DIR, a folder with corpus.jsonl, queries.jsonl, qrels/test.tsv"
        )
    if budget < 1:
        raise StudyError(f"budget {budget} must be at least one byte per vector")
    path = Path(source.removeprefix("beir:")).resolve()
    study = Study(profile, "05")
    name = f"{path.name} (BEIR folder)" if path.name in TEXT_PARTS else path.name
    spec = TaskSpec(name=name, source=f"beir:{path}", **options)
    study.profile = study.profile.model_copy(update={"tasks": [spec]})
    found = sides(study)
    (side,) = found.values()
    concat = study.interval("mean", side.reference)
    rows, skipped = _methods(study, found, budget, tuple(PEERS) if peers else ())
    report = {
        "task": spec.name,
        "profile": study.profile.name,
        "queries": concat.queries,
        "documents": len(side.documents),
        "models": [_model(study, side, name) for name in study.profile.scored_models],
        "concat": {
            "members": study.members,
            "dims": side.documents.shape[1],
            "bytes_per_vector": 4 * side.documents.shape[1],
        }
        | _scores("ndcg_at_10", concat),
        "methods": rows,
        "skipped": skipped,
    }
    return report


def _model(study, side, name):
    scores = side.judge(member_scores(study, name, side.task))["ndcg_at_10"].to_numpy()
    return {"name": name} | _scores("ndcg_at_10", study.interval("mean", scores))


def _scores(name, interval):
    return {name: interval.estimate, "low": interval.low, "high": interval.high}


def _methods(study, found, budget, peers):
    in_dims = next(iter(found.values())).documents.shape[1]
    ways = methods_for(study, found, peers)
    rows, skipped = [], []
    for place in PLACES:
        for name, way in progress(ways.items(), f"methods, fitted on {place}"):
            try:
                values, size = way(place, budget)
            except StudyError as error:
                skipped.append({"method": name, "fitted_on": place, "reason": str(error)})
                continue
            (side,), (scores,) = found.values(), values.values()
            kept = study.interval("retention", scores.mean(axis=0), side.reference)
            sizes = {"bytes_per_vector": size, "compression_factor": 4 * in_dims / size}
            measured = {"ndcg_at_10": float(scores.mean()), **_scores("retention", kept)}
            rows.append({"method": name, "fitted_on": place} | sizes | measured)
    for row in bitbudget_table(study, found).itertuples() if peers else ():
        sizes = {"bytes_per_vector": row.bytes_per_vector, "compression_factor": 4 * in_dims / row.bytes_per_vector}
        measured = {"ndcg_at_10": row.ndcg_at_10, "retention": row.estimate, "low": row.low, "high": row.high}
        rows.append({"method": row.method, "fitted_on": PLACES[1]} | sizes | measured)
    return sorted(rows, key=lambda row: -row["retention"]), skipped


def write_report(report: dict, path: Path) -> None:
    """Write the report as JSON, all of it or nothing."""
    with writing_to(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        partial.replace(path)


def summary(report: dict) -> str:
    """The report as lines for a terminal."""
    concat = report["concat"]
    lines = [f"{report['task']}: {report['queries']} queries, {report['documents']} documents, nDCG@10"]
    lines += [f"  {model['name']:34} {model['ndcg_at_10']:.3f}" for model in report["models"]]
    lines.append(
        f"  {'concat of ' + ' + '.join(concat['members']):34} {concat['ndcg_at_10']:.3f}  {concat['bytes_per_vector']} bytes"
    )
    lines.append(f"{'method':34} {'fitted on':13} bytes  factor  nDCG@10  retention [95 % interval]")
    for row in report["methods"]:
        lines.append(
            f"{row['method']:34} {row['fitted_on']:13} {row['bytes_per_vector']:5}  {row['compression_factor']:5.0f}x  "
            f"{row['ndcg_at_10']:.3f}    {row['retention']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        )
    lines += [f"not run: {row['method']}, {row['fitted_on']}: {row['reason']}" for row in report["skipped"]]
    return "\n".join(lines)
