"""Decoders side by side, in float at every stop."""

import itertools
from functools import partial

import pandas as pd

from ccq_utils.codecs.decoder import Decoder
from ccq_utils.common.threads import side_by_side
from ccq_utils.study.scores import Vectors, score_vectors
from ccq_utils.study.study import Study
from ccq_utils.study.training import trained_decoders


def train(study: Study, variants: dict[str, dict], seeds: dict[str, int] | None = None):
    """Variants of a decoder (name -> settings of ``trained_decoders``), each trained with the profile's seeds.

    ``seeds`` says, by name, how many are enough where no verdict hangs on more. Returns name -> one decoder per seed, and
    losses by ``decoder``, ``seed`` and ``epoch``.
    """
    decoders, losses = {name: [] for name in variants}, []
    each = [(name, seed) for name in variants for seed in range(study.profile.seeds)[: (seeds or {}).get(name)]]
    trained = trained_decoders(study, [{**variants[name], "seed": seed} for name, seed in each])
    for (name, seed), (decoder, history) in zip(each, trained, strict=True):
        decoders[name].append(decoder)
        losses.append(history.assign(decoder=name, seed=seed))
    return decoders, pd.concat(losses, ignore_index=True)


def score_decoders(vectors: Vectors, decoders: dict[str, list[Decoder]], stops) -> pd.DataFrame:
    """Per-query scores of what decoders give in float at every stop; labels ``decoder`` and ``stop``."""

    def score(name, group, stop):
        return score_vectors(vectors, [partial(one.transform, dims=stop) for one in group], decoder=name, stop=stop)

    given = [(*named, stop) for named, stop in itertools.product(decoders.items(), stops)]
    return pd.concat(side_by_side(score, given), ignore_index=True)
