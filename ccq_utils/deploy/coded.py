"""A compressed model as a SentenceTransformer, so that tools for float vectors, such as mteb, measure what the codes find."""

import warnings
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Module
from sentence_transformers.util import load_dir_path

from ccq_utils.codecs import files
from ccq_utils.deploy.modules import hub_options, with_modules
from ccq_utils.deploy.pipeline import CompressedModel, model_fingerprint


class Coded(Module):
    """``encode_query`` projects, ``encode_document`` and ``encode`` code and decode; compare by dot product."""

    forward_kwargs = {"task"}

    def __init__(self, codec):
        super().__init__()
        files.require_fit(codec)
        self.codec = codec

    def forward(self, features, task=None, **kwargs):
        """Through the codec, on the CPU."""
        given = features["sentence_embedding"]
        vectors = given.detach().float().cpu().numpy()
        values = self.codec.project(vectors) if task == "query" else self.codec.decode(self.codec.encode(vectors))
        return features | {"sentence_embedding": torch.from_numpy(np.ascontiguousarray(values)).to(given.device)}

    def get_embedding_dimension(self):
        """Dims of decoded vectors."""
        return self.codec.decode(np.zeros((1, self.codec.bytes_per_vector), dtype=np.uint8)).shape[1]

    def get_config_dict(self):
        """What it is, for those who print it."""
        return {"codec": type(self.codec).__name__, "bytes_per_vector": self.codec.bytes_per_vector}

    def save(self, output_path, *args, **kwargs):
        """The codec's files."""
        files.save_codec(self.codec, Path(output_path))

    @classmethod
    def load(cls, model_name_or_path, subfolder="", **kwargs):
        """What ``save`` wrote."""
        folder = load_dir_path(model_name_or_path, subfolder=subfolder, **hub_options(kwargs))
        return cls(files.load_codec(Path(folder)))


def coded_model(pipeline: CompressedModel) -> SentenceTransformer:
    """One that codes and decodes documents; its ``encode_query`` gives what an index of ``ccq export-faiss`` takes."""
    return with_modules(pipeline.model, [*pipeline.model, Coded(pipeline.codec)], similarity_fn_name="dot")


def mteb_model(pipeline: CompressedModel, name: str, coded: bool = True, **about):
    """A model, its documents coded or all in float, for ``mteb.evaluate``; ``about`` adds fields to its ``ModelMeta``."""
    from mteb.models import ModelMeta, SentenceTransformerEncoderWrapper

    model = coded_model(pipeline) if coded else pipeline.decoded()
    tables = [part for part in model.modules() if isinstance(part, torch.nn.Embedding | torch.nn.EmbeddingBag)]
    members, weights = getattr(model[0], "members", [model]), list(model.parameters())
    fields = ModelMeta.create_empty().model_dump()
    fields |= {"name": name, "languages": ["eng-Latn"], "framework": ["Sentence Transformers", "PyTorch"]}
    fields |= {"open_weights": True, "max_tokens": model.max_seq_length, "embed_dim": model.get_embedding_dimension()}
    fields["revision"] = pipeline.marks["codec"] if coded else model_fingerprint(model)
    fields["n_embedding_parameters"] = sum(table.weight.numel() for table in tables)
    fields["memory_usage_mb"] = sum(part.nbytes for part in weights) / 2**20
    fields |= {"n_parameters": sum(part.numel() for part in weights), "similarity_fn_name": model.similarity_fn_name}
    fields["use_instructions"] = any(text for member in members for text in member.prompts.values())
    fields["experiment_kwargs"] = model[-1].get_config_dict() if coded else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # mteb calls the library's older names
        wrapped = SentenceTransformerEncoderWrapper(model)
    wrapped.mteb_model_meta = ModelMeta(**fields | about)
    return wrapped
