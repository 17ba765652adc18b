"""What a text costs to encode: a study's models, and one of BERT-base's shape that no wheel brings."""

import time

import pandas as pd

from ccq_utils.data.profile import TEXT_PARTS
from ccq_utils.study.study import SPLITS, Study, quiet

LARGE = "BERT-base, random weights"
"""110 million parameters, 768 dims: its vectors mean nothing, its cost is that of every model of this shape."""


def bert(folder, **shape):
    """A SentenceTransformer of BERT-base's shape with random weights that reads as many tokens as MiniLM does.

    Parameters
    ----------
    folder : of MiniLM, whose tokenizer is BERT's
    shape : of ``transformers.BertConfig``, where another one is wanted
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    quiet()
    reader = Transformer(str(folder), max_seq_length=256)
    reader.model = BertModel(BertConfig(**shape)).eval()  # in the place of MiniLM, whose tokenizer stays
    return SentenceTransformer(modules=[reader, Pooling(reader.model.config.hidden_size, "mean")], device="cpu")


def encoding_costs(models: dict, texts: list[str], clock=time.process_time) -> pd.DataFrame:
    """Core-seconds per 1,000 of these texts for each model (name -> SentenceTransformer), by the second of two runs."""
    rows = []
    for name, model in models.items():
        model.encode(texts[:8], show_progress_bar=False)  # what is loaded on first use
        started = clock()
        model.encode(texts, show_progress_bar=False)
        seconds = (clock() - started) / len(texts) * 1000
        rows.append({"model": name, "dims": model.get_embedding_dimension(), "seconds_per_1000": seconds})
    return pd.DataFrame(rows)


def study_models(study: Study) -> dict:
    """The selected members, the profile's large model and the one of BERT-base's shape, by name."""
    names = dict.fromkeys([*study.members, study.profile.large_model])
    found = {name: study.models[name].model for name in names}
    if "minilm" in study.models:
        found[LARGE] = bert(study.models["minilm"].folder())
    return found


def distinct_texts(study: Study) -> int:
    """How many different texts a study encodes: documents, queries, and text without judgements."""
    parts = [(part, None) for part in TEXT_PARTS]
    for task in study.tasks.values():
        parts += [(task.name, None), *((task.name, split) for split in SPLITS if task.query_ids(split))]
    return len({text for part, split in parts for text in study.texts(part, split)})
