"""Decoders side by side, in float at every stop and behind the quantizer."""

import itertools
from functools import partial

import numpy as np
import pandas as pd

from ccq_utils.codecs.decoder import Decoder
from ccq_utils.codecs.percentile import PercentileCodec
from ccq_utils.codecs.quantizer import BITS, SPACINGS, unpack
from ccq_utils.models.embed import normalise
from ccq_utils.study.scores import TaskVectors, Vectors, score_table, score_vectors
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
    parts = []
    for (name, group), stop in itertools.product(decoders.items(), stops):

        def make(group=group, stop=stop):
            each = [score_vectors(vectors, [partial(one.transform, dims=stop)])["score"] for one in group]
            return {"scores": np.stack(each)}

        tasks = {task: one.fingerprint for task, one in vectors.by_task.items()}
        key = {"stop": stop, "decoders": weights_of(group), "tasks": tasks}
        held = study.cache.arrays("scores", key, make)["scores"]
        ends = np.cumsum([len(one.queries) for one in vectors.by_task.values()])[:-1]
        parts.append(score_table(dict(zip(tasks, np.split(held, ends, axis=1), strict=True)), decoder=name, stop=stop))
    return pd.concat(parts, ignore_index=True)


def score_scorings(vectors: TaskVectors, decoder: Decoder, calibration: np.ndarray, dims: int) -> dict:
    """nDCG@10 per query by (bits, spacing, scoring) of one decoder on one task; 32 bits are its float output.

    Scorings: ``asymmetric`` (float query), ``symmetric`` (both decoded), ``bucket numbers`` (the cosine of bucket numbers,
    as if they were values), ``one scale`` (both decoded, each dim over the spread of its calibration values: what bucket
    numbers do to the scale, without what they do to the values). Equal width is scored asymmetrically only.
    """
    held_out, *values = (decoder.transform(part, dims) for part in (calibration, vectors.queries, vectors.documents))
    spread, found = held_out.std(axis=0), {}

    def score(bits, spacing, scoring, left, right):
        found[bits, spacing, scoring] = vectors.ndcg(left @ right.T)

    for scoring, scale in (("asymmetric", 1), ("symmetric", 1), ("one scale", spread)):
        score(32, "none", scoring, *(normalise(each / scale) for each in values))
    for bits, spacing in itertools.product(BITS, SPACINGS):
        codec = PercentileCodec(dims, bits, decoder, spacing=spacing).fit(calibration)
        documents = codec.encode(vectors.documents)
        score(bits, spacing, "asymmetric", values[0], codec.decode(documents))
        if spacing == "mass":
            codes = [codec.encode(vectors.queries), documents]
            decoded = [codec.decode(each) for each in codes]
            numbers = [normalise(unpack(each, bits, dims) + np.float32(1)) for each in codes]  # never all zero
            score(bits, spacing, "symmetric", *decoded)
            score(bits, spacing, "bucket numbers", *numbers)
            score(bits, spacing, "one scale", *(normalise(each / spread) for each in decoded))
    return found
