"""How transformers are run: in float32, or in bfloat16, which is some three times as fast where the processor has it.

Only the transformer's own weights and products are in bfloat16; pooling and all that follows stay in float32.
"""

import copy
import warnings
from collections.abc import Iterator

import numpy as np

from ccq_utils.common.errors import StudyError

PRECISIONS = ("auto", "float32", "bfloat16")
"""What ``precision`` of a profile and ``--precision`` take; ``auto`` is bfloat16 where the processor multiplies it."""
TOKENS, TOKENS_ON_GPU = 1024, 2**14
"""Tokens per batch, padding included: the activations of a small transformer then stay in a core's cache. The same for every
number of threads, so that a text stands in the same batch on every machine."""
TEXTS = 256  # per batch of a model without a transformer


def precision_here(precision: str) -> str:
    """``float32`` or ``bfloat16``: what one of ``PRECISIONS`` is on this machine. Warns of a slow ``bfloat16``."""
    if precision not in PRECISIONS:
        raise StudyError(f"unknown precision {precision!r}; accepted: {', '.join(PRECISIONS)}")
    if precision == "float32":
        return precision
    import torch

    fast = any(torch.cpu.get_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    if precision == "bfloat16" and not (fast or torch.cuda.is_available()):
        warnings.warn("far longer in bfloat16 than in float32 on this processor; take precision auto", stacklevel=2)
    return "bfloat16" if fast or precision == "bfloat16" else "float32"


def with_precision(model, precision: str):
    """The SentenceTransformer itself for ``float32``; for ``bfloat16`` a copy whose transformers, if any, compute in it."""
    import torch

    if precision == "float32" or not transformers_of(model):
        return model
    twin = copy.deepcopy(model)
    for transformer in transformers_of(twin):
        transformer.to(torch.bfloat16).register_forward_hook(_to_float32)
    return twin


def _to_float32(transformer, given, features):
    features[transformer.module_output_name] = features[transformer.module_output_name].float()
    return features


def transformers_of(model) -> list:
    """The transformers that a SentenceTransformer reads texts with: its first module, or those of members of a ``Concat``."""
    from sentence_transformers.base.modules import Transformer  # takes seconds to import

    if hasattr(model[0], "members"):
        return [transformer for member in model[0].members for transformer in transformers_of(member)]
    return [model[0]] if isinstance(model[0], Transformer) else []


def encode(model, texts: list[str], task: str | None = None, prompt: str | None = None) -> np.ndarray:
    """Encode texts, those of about the same length together, so that little is padding: ``(len(texts), dims) float32``.

    To 1e-5 those of the model's own ``encode``, or ``encode_query`` or ``encode_document`` for a ``task`` of that name;
    ``prompt`` takes the place of the model's own.
    """
    rows, vectors = map(np.concatenate, zip(*encode_batches(model, texts, task, prompt), strict=True))
    return vectors[np.argsort(rows)]


def encode_batches(model, texts, task=None, prompt=None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """As ``encode``, batch by batch: places of texts, and their vectors."""
    call = {"query": model.encode_query, "document": model.encode_document}.get(task, model.encode)
    lengths, budget = [1] * len(texts), TEXTS
    if transformers := transformers_of(model):
        limit = transformers[0].max_seq_length
        tokens = transformers[0].tokenizer(list(texts), truncation=limit is not None, max_length=limit)["input_ids"]
        lengths, budget = [len(each) for each in tokens], TOKENS if model.device.type == "cpu" else TOKENS_ON_GPU
    for rows in token_batches(lengths, budget):
        vectors = call([texts[row] for row in rows], prompt=prompt, batch_size=len(rows), show_progress_bar=False)
        yield rows, np.asarray(vectors, dtype=np.float32)


def token_batches(lengths: list[int], budget: int) -> Iterator[np.ndarray]:
    """Places of texts in batches, longest texts first: number of texts times longest at most ``budget``, or one text."""
    order, start = np.argsort(-np.asarray(lengths), kind="stable"), 0
    while start < len(order):
        stop = start + max(1, budget // max(1, lengths[order[start]]))
        yield order[start:stop]
        start = stop
