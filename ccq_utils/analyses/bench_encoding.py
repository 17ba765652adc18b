"""How much faster than plain each way of encoding is on this machine, and what it keeps."""

import numpy as np
import pandas as pd
from sentence_transformers import SentenceTransformer

from ccq_utils.analyses.timing import race
from ccq_utils.common.errors import StudyError
from ccq_utils.models import encoding


def encoding_speed(
    model: SentenceTransformer, texts: list[str], ways: list[str] | None = None, repeats: int = 5
) -> pd.DataFrame:
    """Plain ``encode`` (float32, 32 texts per batch) against ways of ``encoding``, on a model with transformers.

    Parameters
    ----------
    ways : those that are worth a trial on this machine where None

    Returns
    -------
    The table of ``race``, with ``texts_per_second`` and ``lowest_cosine`` to the plain vectors; a way that cannot be had here
    is missing.
    """
    work, lowest = {"plain": lambda: encoding.Encoder(model, "plain").encode(texts)}, {"plain": 1.0}
    reference = work["plain"]()
    for way in encoding.offered() if ways is None else ways:
        try:
            twin = encoding.faster(model, way)
            lowest[way] = encoding.lowest_cosine(encoding.batched(twin, texts), reference)
        except (StudyError, RuntimeError):
            continue
        work[way] = lambda twin=twin: encoding.batched(twin, texts)
    table = race(f"encoding {len(texts)} texts", work, repeats)
    table["texts_per_second"] = len(texts) / table["seconds"]
    return table.assign(lowest_cosine=table["way"].map(lowest))


def padding(lengths: list[int], batch_size: int = encoding.BATCH, budget: int = encoding.TOKENS) -> pd.DataFrame:
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
