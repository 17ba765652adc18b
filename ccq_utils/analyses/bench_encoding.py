"""How much faster than plain encoding in batches of tokens is on this machine, in float32 and bfloat16, and what it keeps."""

from functools import partial

import numpy as np
import pandas as pd
from sentence_transformers import SentenceTransformer

from ccq_utils.analyses.timing import race
from ccq_utils.models import encoding
from ccq_utils.models.embed import normalise

PLAIN = 32
"""Texts per batch of sentence-transformers, where nothing else is said."""


def encoding_speed(model: SentenceTransformer, texts: list[str], repeats: int = 5) -> pd.DataFrame:
    """The model's own ``encode`` (float32, 32 texts per batch) against ``encoding.encode`` in float32 and bfloat16.

    Returns:
        The table of ``race``, with ``texts_per_second`` and ``lowest_cosine`` to the vectors of the model's own ``encode``.
    """
    work = {"plain": lambda: model.encode(texts, batch_size=PLAIN, show_progress_bar=False)}
    for precision in ("float32", "bfloat16"):
        work[precision] = partial(encoding.encode, encoding.with_precision(model, precision), texts)
    table = race(f"encoding {len(texts)} texts", work, repeats)
    table["texts_per_second"] = len(texts) / table["seconds"]
    reference = normalise(work["plain"]())
    lowest = {way: float((normalise(encode()) * reference).sum(axis=1).min()) for way, encode in work.items()}
    return table.assign(lowest_cosine=table["way"].map(lowest))


def padding(lengths: list[int], batch_size: int = PLAIN, budget: int = encoding.TOKENS) -> pd.DataFrame:
    """The share of tokens that are padding: batches as texts come, sorted batches of so many texts, sorted by budget."""
    given, order = np.asarray(lengths), np.argsort(-np.asarray(lengths), kind="stable")
    cut = lambda places: np.split(places, range(batch_size, len(places), batch_size))  # noqa: E731
    ways = {
        "as they come": cut(np.arange(len(given))),
        f"sorted, {batch_size} texts": cut(order),
        f"sorted, {budget} tokens": list(encoding.token_batches(lengths, budget)),
    }
    filled = {way: sum(len(rows) * given[rows].max() for rows in batches) for way, batches in ways.items()}
    return pd.DataFrame(
        {"way": way, "batches": len(ways[way]), "padding": 1 - given.sum() / tokens} for way, tokens in filled.items()
    )
