"""Ours, the paper's pipeline, published peers and a base model alone at the same bytes (notebook 07, ``ccq evaluate``)."""

import itertools
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import pandas as pd

from ccq_utils.codecs.byte_blocks import Equalised
from ccq_utils.codecs.peers import make_peer
from ccq_utils.codecs.percentile import make_codec
from ccq_utils.common.cache import fingerprint
from ccq_utils.common.errors import StudyError
from ccq_utils.common.progress import progress
from ccq_utils.study.scores import FITTED_ON, Vectors, score_method
from ccq_utils.study.stats import with_verdicts
from ccq_utils.study.study import Study
from ccq_utils.study.training import trained_decoder

OURS = "byte blocks"
METHODS = (OURS, "decoder", "PCA, rotated", "LSH")
"""Ours, the paper's pipeline and its simplest rivals, by their names in ``percentile.CODECS``."""
DRAWN = (OURS, "PCA, rotated")
"""Methods that claims compare, in which a rotation is drawn."""


class Method(NamedTuple):
    """``make(dims, budget, seed=seed)`` gives a codec to fit; ``key`` is what it depends on beside these (JSON-able)."""

    make: Callable[..., Any]
    key: dict
    vectors: Vectors
    seeds: int = 1


def methods(study: Study, vectors: Vectors, peers: Iterable[str] = (), alone: dict | None = None, seeds: int = 1):
    """Name -> ``Method``: ``METHODS``, peers, base models alone.

    Args:
        peers: names in ``PEERS``; ``NAME, equalised`` is fitted on equalised dims.
        alone: base model -> its vectors, which are coded by byte blocks without the others.
        seeds: how often byte blocks and PCA with a random rotation are made; all else is made once.
    """
    decoder, _ = trained_decoder(study, study.read("03_decoders")["start"].iloc[0])
    weights = fingerprint(*(part.detach().numpy() for part in decoder.parameters()))

    def peer(name, dims, budget, seed):
        codec = make_peer(name.removesuffix(", equalised"), dims, budget, seed)
        return Equalised(codec=codec) if name.endswith(", equalised") else codec

    found = {}
    for name in METHODS:
        key = {"codec": name} | ({"decoder": weights} if name == "decoder" else {})
        found[name] = Method(partial(make_codec, name, decoder=decoder), key, vectors, seeds if name in DRAWN else 1)
    fits = {name: {"fit": "float64"} if name.startswith("ITQ") else {} for name in peers}
    found |= {name: Method(partial(peer, name), {"peer": name, **fits[name]}, vectors) for name in peers}
    return found | {f"{model} alone, {OURS}": found[OURS]._replace(vectors=own) for model, own in (alone or {}).items()}


def score_methods(study: Study, given: dict[str, Method], budget: int, **labels) -> tuple[pd.DataFrame, list[dict]]:
    """Per-query scores of every method at ``budget`` bytes per vector, fitted on general text and on one's own corpus.

    Returns:
        Long table, and what cannot be had at so few bytes or from so few vectors: ``method``, ``fitted_on``, ``reason``.
    """
    found, skipped = [], []
    chosen = [*itertools.product(FITTED_ON, given.items())]
    for fitted_on, (name, (make, key, vectors, seeds)) in progress(chosen, f"methods at {budget} bytes"):
        drawn = [study.profile.seed + number for number in range(seeds)]

        def fit(to, make=make, drawn=drawn):
            codecs = (make(to.training.shape[1], budget, seed=seed) for seed in drawn)
            return [codec.fit(to.training, to.calibration) for codec in codecs]

        try:
            key = key | {"budget": budget, "drawn": drawn}
            found.append(score_method(study, vectors, fit, key, fitted_on, method=name, **labels))
        except StudyError as error:
            skipped.append({"method": name, "fitted_on": fitted_on, "reason": str(error)})
    return pd.concat(found, ignore_index=True), skipped


def held_against(study: Study, scores: pd.DataFrame, raw: pd.DataFrame, name: str = OURS) -> pd.DataFrame:
    """Retention of every method, and its nDCG@10 less that of the method ``name`` (``difference``), paired by query.

    ``verdict`` says whether it is better or worse than ``name``, after Holm's correction for all methods and tasks at the
    same factor, fitted on the same kind of text.
    """
    by = ["factor", "fitted_on", "method"]
    same = scores["method"] == name
    apart = study.summarise(scores[~same], by, scores[same].drop(columns="method"), "difference")
    apart = with_verdicts(apart, family=["factor", "fitted_on"])
    apart = apart.rename(
        columns={"estimate": "difference"} | {end: f"difference_{end}" for end in ("low", "high", "p")}
    )
    table = study.summarise(scores, [*by, "bytes_per_vector"], raw)
    columns = ["task", *by, *(column for column in apart if column.startswith("difference")), "verdict"]
    return table.merge(apart[columns], how="left", on=["task", *by]).fillna({"verdict": "reference"})
