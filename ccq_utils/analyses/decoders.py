"""Decoders side by side: how training went, what each keeps at every stop, and whose order of texts it keeps."""

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from ccq_utils.codecs.decoder import Decoder
from ccq_utils.study.scores import Vectors, score_vectors
from ccq_utils.study.study import Study
from ccq_utils.study.training import trained_decoder

NEAREST = 10
"""How many nearest texts ``agreement`` looks at: as many as nDCG@10 does."""


def train(study: Study, variants: dict[str, dict]) -> tuple[dict[str, list[Decoder]], pd.DataFrame]:
    """Variants of a decoder (name -> settings of ``trained_decoder``), each trained with the profile's seeds.

    Returns:
        Name -> one decoder per seed; losses by ``decoder``, ``seed`` and ``epoch``.
    """
    decoders, losses = {name: [] for name in variants}, []
    for name, settings in variants.items():
        for seed in range(study.profile.seeds):
            decoder, history = trained_decoder(study, **settings, seed=seed)
            decoders[name].append(decoder)
            losses.append(history.assign(decoder=name, seed=seed))
    return decoders, pd.concat(losses, ignore_index=True)


def score_decoders(vectors: Vectors, decoders: dict[str, list[Decoder]], stops: list[int]) -> pd.DataFrame:
    """Per-query scores of what decoders give in float at every stop; label columns ``decoder`` and ``stop``."""
    parts = [
        score_vectors(vectors, [lambda x, d=d, s=stop: d.transform(x, s) for d in group], decoder=name, stop=stop)
        for name, group in decoders.items()
        for stop in stops
    ]
    return pd.concat(parts, ignore_index=True)


def agreement(before: np.ndarray, after: list[np.ndarray]) -> dict[str, np.ndarray]:
    """How cosines of decoders' outputs, ``(n, d)`` per seed, relate to those of the vectors that they map, ``(n, D)``.

    Returns:
        Per seed and text, held against all others, ``(seeds, n)``: ``offset``, the mean difference; ``error``, the root
        mean squared one; ``rank correlation``, Spearman's; ``nearest kept``, the share of the ten nearest that stay so.
    """
    others = ~np.eye(len(before), dtype=bool)
    concat, *decoded = (np.reshape((each @ each.T)[others], (len(before), -1)) for each in (before, *after))
    gap = np.stack(decoded) - concat
    x, y = rankdata(concat, axis=-1), rankdata(decoded, axis=-1)
    top = [ranks > concat.shape[1] - NEAREST for ranks in (x, y)]
    x, y = (ranks - ranks.mean(axis=-1, keepdims=True) for ranks in (x, y))
    return {
        "offset": gap.mean(axis=-1),
        "error": np.sqrt((gap**2).mean(axis=-1)),
        "rank correlation": (x * y).sum(axis=-1) / np.sqrt((x**2).sum(axis=-1) * (y**2).sum(axis=-1)),
        "nearest kept": (top[0] & top[1]).sum(axis=-1) / NEAREST,
    }
