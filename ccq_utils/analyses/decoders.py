"""Decoders side by side, in float at every stop."""

import itertools
from functools import partial

import numpy as np
import pandas as pd

from ccq_utils.codecs.decoder import Decoder
from ccq_utils.common.threads import side_by_side
from ccq_utils.study.scores import Vectors, score_table, score_vectors
from ccq_utils.study.study import Study
from ccq_utils.study.training import trained_decoder, weights_of


def train(study: Study, variants: dict[str, dict], seeds: dict[str, int] | None = None):
    """Variants of a decoder (name -> settings of ``trained_decoder``), each trained with the profile's seeds.

    ``seeds`` says, by name, how many are enough where no verdict hangs on more. Returns name -> one decoder per seed, and
    losses by ``decoder``, ``seed`` and ``epoch``.
    """
    decoders, losses = {name: [] for name in variants}, []
    for name, settings in variants.items():
        for seed in range(study.profile.seeds)[: (seeds or {}).get(name)]:
            decoder, history = trained_decoder(study, **settings, seed=seed)
            decoders[name].append(decoder)
            losses.append(history.assign(decoder=name, seed=seed))
    return decoders, pd.concat(losses, ignore_index=True)


def score_decoders(study: Study, vectors: Vectors, decoders: dict[str, list[Decoder]], stops) -> pd.DataFrame:
    """Per-query scores of what decoders give in float at every stop, kept in the cache; labels ``decoder`` and ``stop``."""
    tasks = {task: one.fingerprint for task, one in vectors.by_task.items()}
    ends = np.cumsum([len(one.queries) for one in vectors.by_task.values()])[:-1]

    def score(name, group, stop):
        def make():
            each = [score_vectors(vectors, [partial(one.transform, dims=stop)])["score"] for one in group]
            return {"scores": np.stack(each)}

        key = {"stop": stop, "decoders": weights_of(group), "tasks": tasks}
        held = np.split(study.cache.arrays("scores", key, make)["scores"], ends, axis=1)
        return score_table(dict(zip(tasks, held, strict=True)), decoder=name, stop=stop)

    given = [(*named, stop) for named, stop in itertools.product(decoders.items(), stops)]
    return pd.concat(side_by_side(score, given), ignore_index=True)
