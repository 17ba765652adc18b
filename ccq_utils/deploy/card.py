"""Model cards: what a saved model is, how to use it, and what the study measured of it."""

import pandas as pd
from huggingface_hub import ModelCard

from ccq_utils.study import figures
from ccq_utils.study.stats import macro
from ccq_utils.study.study import Study

PAGE = """---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [sentence-transformers, sentence-similarity, feature-extraction, compressed-concatenation]
---

# {names}, compressed

{dims} dims, {floats} bytes as float32; coded by {codec} to **{size} bytes per document** ({times:.0f}x less).
Queries stay in float.

## Use

```python
from ccq_utils.deploy.pipeline import CompressedModel

model = CompressedModel.load("this/folder")
codes = model.encode_document(texts)  # uint8, {size} bytes per text
scores, numbers = model.search("a question", codes, k=5)
```

For the float vectors alone, as a SentenceTransformer: `ccq_utils.deploy.modules.load_model("this/folder")`, or
`SentenceTransformer("this/folder", trust_remote_code=True)` where ccq_utils is installed; no other code is run."""


def model_card(pipeline) -> str:
    """The README.md of a ``CompressedModel``: facts for the hub, use, members, and its ``card``."""
    joined, size, dims = pipeline.model[0], pipeline.codec.bytes_per_vector, pipeline.model.get_embedding_dimension()
    names = getattr(joined, "names", [type(joined).__name__])
    about = {"names": " + ".join(names), "codec": type(pipeline.codec).__name__, "size": size}
    parts = [PAGE.format(**about, dims=dims, floats=4 * dims, times=4 * dims / size)]
    if hasattr(joined, "members"):
        table = pd.DataFrame({"member": names, "dims": joined.dims, "share": joined.shares})
        table["prompts"] = [str({kind: text for kind, text in each.prompts.items() if text}) for each in joined.members]
        parts.append(f"## Members\n\n{figures.markdown(table)}")
    return str(ModelCard("\n\n".join([*parts, pipeline.card]).rstrip() + "\n"))


def measured(study: Study) -> str:
    """What the profile's tables say of members and compression, as Markdown; empty without tables."""
    names = ("01_candidates", "01_single_scores", "05_at_48x")
    if not all((study.results / f"{name}.csv").is_file() for name in names):
        return ""
    facts, scores, kept = map(study.read, names)
    facts = facts.set_index("name").loc[study.members, ["licence", "source"]].rename_axis("model")
    facts.insert(0, "nDCG@10", scores.groupby("model")["estimate"].mean().map("{:.3f}".format))
    kept = macro(kept[kept["scoring"] == "asymmetric"]).assign(what="kept of the concat")
    kept = figures.cells(kept, ["method", "bytes_per_vector"], "what").reset_index()
    return f"""## Measured in the study

Profile `{study.profile.name}`, tasks {", ".join(spec.name for spec in study.profile.tasks)}; means over tasks, test queries.

{figures.markdown(facts.reset_index())}

At a 48th of the concat's bytes, equal shares, documents coded, queries in float, fitted on other text:

{figures.markdown(kept)}"""
