"""Model cards: what a saved model is, how to use it, and what the study measured of it."""

import pandas as pd
from huggingface_hub import ModelCard, ModelCardData

from ccq_utils.study.stats import MACRO
from ccq_utils.study.study import Study

ABOUT = ModelCardData(
    library_name="sentence-transformers",
    pipeline_tag="sentence-similarity",
    tags=["sentence-transformers", "sentence-similarity", "feature-extraction", "compressed-concatenation"],
)
USE = """```python
from ccq_utils.deploy.pipeline import CompressedModel

model = CompressedModel.load("this/folder")
codes = model.encode_document(texts)  # uint8, {size} bytes per text
scores, numbers = model.search("a question", codes, k=5)
```

For the float vectors alone, as a SentenceTransformer: `ccq_utils.deploy.modules.load_model("this/folder")`, or
`SentenceTransformer("this/folder", trust_remote_code=True)` where ccq_utils is installed; no other code is run."""


def model_card(pipeline) -> str:
    """The README.md of a ``CompressedModel``: facts for the hub, use, members, and its ``card``."""
    joined, codec, dims = pipeline.model[0], pipeline.codec, pipeline.model.get_embedding_dimension()
    size, names = codec.bytes_per_vector, getattr(joined, "names", [type(joined).__name__])
    parts = [
        f"---\n{ABOUT.to_yaml()}\n---\n\n# {' + '.join(names)}, compressed",
        f"{dims} dims, {4 * dims} bytes as float32; coded by {type(codec).__name__} to **{size} bytes per document**"
        f" ({4 * dims / size:.0f}x less). Queries stay in float.\n\n## Use\n\n{USE.format(size=size)}",
    ]
    if hasattr(joined, "members"):
        table = pd.DataFrame({"member": names, "dims": joined.dims, "share": joined.shares})
        table["prompts"] = [str({kind: text for kind, text in each.prompts.items() if text}) for each in joined.members]
        parts.append(f"## Members\n\n{markdown(table)}")
    return str(ModelCard("\n\n".join([*parts, pipeline.card]).rstrip() + "\n"))


def measured(study: Study) -> str:
    """What the profile's tables say of the selected members and of compressing their concat, as Markdown."""
    names = ("01_candidates", "01_single_scores", "05_at_48x")
    tables = {name: study.read(name) for name in names if (study.results / f"{name}.csv").is_file()}
    tasks = ", ".join(spec.name for spec in study.profile.tasks)
    parts = [f"## Measured in the study\n\nProfile `{study.profile.name}`, tasks {tasks}; means over tasks, nDCG@10."]
    if {"01_candidates", "01_single_scores"} <= set(tables):
        table = tables["01_candidates"].set_index("name").loc[study.members, ["licence", "source"]]
        scores = tables["01_single_scores"].groupby("model")["estimate"].mean()
        table.insert(0, "nDCG@10", scores[study.members].map("{:.3f}".format))
        parts.append(markdown(table.rename_axis("model").reset_index()))
    if "05_at_48x" in tables:
        parts.append("At a 48th of the concat's bytes, documents coded, queries in float, fitted on other text:")
        table = tables["05_at_48x"]
        table = table[(table["scoring"] == "asymmetric") & (table["task"] == MACRO)]
        kept = [f"{row.estimate:.3f} [{row.low:.3f}, {row.high:.3f}]" for row in table.itertuples()]
        parts.append(markdown(table[["method", "bytes_per_vector"]].assign(**{"kept of the raw concat": kept})))
    return "\n\n".join(parts)


def markdown(table: pd.DataFrame) -> str:
    """A table as Markdown."""
    rows = [list(table.columns), ["---"] * table.shape[1], *table.astype(str).to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
