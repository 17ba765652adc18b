"""Model cards: what a saved model is, how it is used, and what the study measured of it, read from the study's tables."""

import pandas as pd
import yaml

from ccq_utils.study.retention import MACRO
from ccq_utils.study.study import Study

TABLES = ("01_candidates", "01_single_scores", "05_model_counts", "05_at_48x", "05_peers")
"""Tables with numbers for a card; those that a run has not written yet are left out."""

FRONT_MATTER = {
    "library_name": "sentence-transformers",
    "pipeline_tag": "sentence-similarity",
    "tags": ["sentence-transformers", "sentence-similarity", "feature-extraction", "compressed-concatenation"],
}
"""What the hub reads at the head of a card."""

USE = """```python
from ccq_utils.deploy.pipeline import CompressedModel

model = CompressedModel.load("this/folder")
codes = model.encode_document(texts)  # uint8, {size} bytes per text
scores, numbers = model.search("a question", codes, k=5)
```

The float vectors alone, as a SentenceTransformer: `ccq_utils.deploy.model_files.load_model("this/folder")`, or
`SentenceTransformer("this/folder", trust_remote_code=True)`
where ccq_utils is installed; no other code is run."""


def model_card(pipeline) -> str:
    """README.md of a ``CompressedModel``: front matter for the hub, use, members, and its ``card``."""
    model, codec = pipeline.model, pipeline.codec
    dims, size = model.get_embedding_dimension(), codec.bytes_per_vector
    front = yaml.safe_dump(FRONT_MATTER, sort_keys=False).strip()
    names = getattr(model[0], "names", [type(model[0]).__name__])
    about = (
        f"{dims} dims, {4 * dims} bytes as float32; coded by {type(codec).__name__} to **{size} bytes per document**"
        f" ({4 * dims / size:.0f}x less). Queries stay in float."
    )
    parts = [
        f"---\n{front}\n---",
        f"# {' + '.join(names)}, compressed",
        about,
        "## Use",
        USE.format(size=size),
    ]
    if hasattr(model[0], "members"):
        parts += ["## Members", markdown(_members(model[0]))]
    return "\n\n".join([*parts, pipeline.card]).rstrip() + "\n"


def _members(joined):
    rows = []
    for name, weight, dims, member in zip(joined.names, joined.weights, joined.dims, joined.members, strict=True):
        limit = member.max_seq_length
        prompts = "; ".join(f"{kind}: {text!r}" for kind, text in member.prompts.items() if text) or "none"
        reads = "all" if limit is None or limit == float("inf") else f"{limit} tokens"
        rows.append({"member": name, "dims": dims, "weight": f"{weight:g}", "reads": reads, "prompts": prompts})
    return pd.DataFrame(rows)


def measured(study: Study) -> str:
    """What the profile's tables say of the selected members, their concat and its compression, as Markdown."""
    tables = {}
    for name in TABLES:
        if (study.results / f"{name}.csv").is_file():
            tables[name] = study.read(name)
    tasks = ", ".join(spec.name for spec in study.profile.tasks)
    parts = [f"## Measured in the study\n\nProfile `{study.profile.name}`, tasks {tasks}; means over tasks, nDCG@10."]
    if {"01_candidates", "01_single_scores"} <= set(tables):
        parts.append(markdown(_alone(study, tables)))
    if "05_at_48x" in tables:
        parts.append("At a 48th of the concat's bytes, documents coded, queries in float, fitted on other text:")
        parts.append(markdown(_coded(tables["05_at_48x"], "method")))
    if "05_peers" in tables:
        peers = tables["05_peers"]
        best = peers[peers["method"] == "byte blocks"]
        parts += ["Byte blocks at other sizes:", markdown(_coded(best, "fitted_on"))]
    return "\n\n".join(parts)


def _alone(study, tables):
    cards = tables["01_candidates"].set_index("name")
    single = tables["01_single_scores"]
    scores = single[single["split"] == "test"].groupby("model")["estimate"].mean()
    rows = [
        {"model": name, "nDCG@10": f"{scores[name]:.3f}", "licence": cards.loc[name, "licence"]}
        | {"source": cards.loc[name, "source"]}
        for name in study.members
    ]
    counts = tables.get("05_model_counts")
    if counts is not None:
        raw = counts[(counts["method"] == "raw concat") & (counts["models"] == len(rows))]
        rows.append(
            {"model": "**concat**", "nDCG@10": f"{raw['ndcg_at_10'].iloc[-1]:.3f}", "licence": "", "source": ""}
        )
    return pd.DataFrame(rows)


def _coded(table, label):
    if "scoring" in table:
        table = table[table["scoring"] == "asymmetric"]
    if (table["task"] == MACRO).any():
        table = table[table["task"] == MACRO]
    table = table.sort_values("estimate", ascending=False)
    kept = [f"{row.estimate:.3f} [{row.low:.3f}, {row.high:.3f}]" for row in table.itertuples()]
    columns = {
        label.replace("_", " "): table[label],
        "bytes": table["bytes_per_vector"],
        "kept of the raw concat": kept,
    }
    return pd.DataFrame(columns)


def markdown(table: pd.DataFrame) -> str:
    """A table as Markdown."""
    rows = [list(table.columns), ["---"] * table.shape[1], *table.astype(str).to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
