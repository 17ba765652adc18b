"""The study's comparison on anyone's own retrieval set (``ccq evaluate``)."""

import json
from pathlib import Path

from ccq_utils.analyses.comparison import methods, score_methods
from ccq_utils.codecs.peers import PEERS
from ccq_utils.common.errors import StudyError
from ccq_utils.common.files import write_atomically
from ccq_utils.common.progress import progress
from ccq_utils.data.profile import TEXT_PARTS, TaskSpec, load_profile
from ccq_utils.study.scores import task_vectors
from ccq_utils.study.study import Study


def evaluate_task(source: str, budget: int, profile: str = "default", peers: bool = False, **options) -> dict:
    """Base models, their raw concat, and compression methods at one size, on one task.

    The profile's models, selection and decoder are taken as the study left them. Each method is fitted once on the
    profile's training text and once on the task's documents, never on its queries or judgements.

    Args:
        source: ``beir:DIR``.
        budget: Bytes per document vector.
        profile: A profile whose notebooks 01 and 03 have been run.
        peers: Published methods as well.
        options: ``exclude_self`` and ``allow_missing`` of ``TaskSpec``.

    Returns:
        What ``--json`` writes: ``models``, ``concat`` and ``methods`` with their scores and intervals; ``skipped`` says
        what cannot be had at this size or from so few documents, and why.
    """
    if not source.startswith("beir:"):
        raise StudyError(
            f"unknown task {source!r}; accepted: beir:DIR, a folder with corpus.jsonl, queries.jsonl, qrels/test.tsv"
        )
    if budget < 1:
        raise StudyError(f"budget {budget} must be at least one byte per vector")
    path = Path(source.removeprefix("beir:")).resolve()
    name = f"{path.name} (BEIR folder)" if path.name in TEXT_PARTS else path.name
    spec = TaskSpec(name=name, source=f"beir:{path}", **options)
    return compare(Study(load_profile(profile).model_copy(update={"tasks": [spec]})), budget, peers)


def compare(study: Study, budget: int, peers: bool = False) -> dict:
    """The report of ``evaluate_task``, for a study of one task."""
    (name,) = study.tasks
    models = study.profile.scored_models
    alone = {model: task_vectors(study, members=[model]) for model in progress(models, "models on this task")}
    vectors = task_vectors(study)
    singles = {model: alone[model] for model in study.profile.models} if peers else {}
    given = methods(study, vectors, PEERS if peers else (), singles)
    scores, skipped = score_methods(study, given, budget)
    rows = study.summarise(scores, ["method", "fitted_on", "bytes_per_vector"], vectors.raw)
    rows = rows.rename(columns={"estimate": "retention"}).sort_values("retention", ascending=False, kind="stable")
    rows["compression_factor"] = 4 * vectors.dims / rows["bytes_per_vector"]
    columns = "method fitted_on bytes_per_vector compression_factor ndcg_at_10 retention low high".split()
    return {
        "task": name,
        "profile": study.profile.name,
        "queries": len(vectors.raw),
        "documents": len(vectors.by_task[name].documents),
        "models": [{"name": model} | _mean(study, alone[model].raw) for model in models],
        "concat": {"members": study.members, "dims": vectors.dims, "bytes_per_vector": 4 * vectors.dims}
        | _mean(study, vectors.raw),
        "methods": rows[columns].to_dict("records"),
        "skipped": skipped,
    }


def _mean(study, scores):
    (row,) = study.summarise(scores, [], statistic="mean").to_dict("records")
    return {"ndcg_at_10": row["estimate"], "low": row["low"], "high": row["high"]}


def write_report(report: dict, path: Path) -> None:
    """Write the report as JSON."""
    with write_atomically(path, "w") as file:
        json.dump(report, file, indent=1)
        file.write("\n")


def summary(report: dict) -> str:
    """The report as lines for a terminal."""
    concat = report["concat"]
    lines = [f"{report['task']}: {report['queries']} queries, {report['documents']} documents, nDCG@10"]
    lines += [f"  {model['name']:34} {model['ndcg_at_10']:.3f}" for model in report["models"]]
    name = f"concat of {' + '.join(concat['members'])}"
    lines.append(f"  {name:34} {concat['ndcg_at_10']:.3f}  {concat['bytes_per_vector']} bytes")
    lines.append(f"{'method':34} {'fitted on':13} bytes  factor  nDCG@10  retention [95 % interval]")
    lines += [
        f"{row['method']:34} {row['fitted_on']:13} {row['bytes_per_vector']:5}  {row['compression_factor']:5.0f}x  "
        f"{row['ndcg_at_10']:.3f}    {row['retention']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        for row in report["methods"]
    ]
    return "\n".join(
        lines + [f"not run: {row['method']}, {row['fitted_on']}: {row['reason']}" for row in report["skipped"]]
    )
