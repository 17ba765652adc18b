"""Decoders side by side: a decoder per seed, scores at every stop, what agreement of cosines means."""

from types import SimpleNamespace

import numpy as np
import pytest
from notebook_cells import functions_of
from scipy.stats import rankdata

from ccq_utils.analyses.decoders import score_decoders, train
from ccq_utils.codecs.decoder import fit_pca
from ccq_utils.data.profile import DecoderSpec
from ccq_utils.study.metrics import Evaluator
from ccq_utils.study.scores import FittingVectors, TaskVectors, Vectors

agreement = functions_of("03_train_decoder", rankdata=rankdata, vectors=None).agreement


@pytest.fixture
def texts(random_vectors):
    return random_vectors(60, 24, 3)


def test_each_variant_is_trained_once_per_seed_with_its_losses(texts, random_vectors, cache):
    spec = DecoderSpec(dims=8, stops=[4, 8], epochs=2, batch_size=32)
    vectors = {"training": random_vectors(64, 24, 1), "validation": texts}
    study = SimpleNamespace(
        profile=SimpleNamespace(seeds=2, seed=7, decoder=spec), cache=cache, concat=lambda text, *_: vectors[text]
    )
    decoders, losses = train(
        study, {"PCA start": {"start": "PCA"}, "narrow": {"start": "random", "dims": 4}}, {"PCA start": 1}
    )
    assert [decoder.config["out_dims"] for group in decoders.values() for decoder in group] == [8, 4, 4]
    assert losses.groupby(["decoder", "seed"], sort=False).size().tolist() == [3] * 3
    weights = [decoder.layers[0].weight for decoder in decoders["narrow"]]
    assert (weights[0] != weights[1]).any()


def test_scores_at_a_stop_are_those_of_the_truncated_output(texts, make_task):
    evaluator = Evaluator(make_task(documents=60, queries=20))
    one = TaskVectors(texts[: len(evaluator.query_ids)], texts, evaluator)
    decoders = [fit_pca(texts[:40], 8), fit_pca(texts[20:], 8)]
    vectors = Vectors({"a": one, "b": one}, FittingVectors(texts))
    found = score_decoders(vectors, {"PCA": decoders}, [4, 8])
    queries, documents = (decoders[1].transform(part, 4) for part in (one.queries, one.documents))
    kept = found[(found["stop"] == 4) & (found["seed"] == 1) & (found["task"] == "b")]
    assert kept["score"].tolist() == pytest.approx(one.ndcg(queries @ documents.T).tolist())
    assert len(found) == 2 * 2 * 2 * len(one.queries)


def test_cosines_agree_with_themselves(texts):
    found = agreement(texts, [texts, texts[:, ::-1]])
    assert np.abs(found["offset"]).max() < 1e-6 and found["error"].max() < 1e-6
    assert found["rank correlation"].min() > 0.999 and (found["nearest kept"] == 1).all()
    assert found["error"].shape == (2, 60)


def test_an_offset_of_all_cosines_is_an_error_that_changes_no_order(texts):
    shifted = np.hstack([texts, np.ones((len(texts), 1), dtype=np.float32)]) / np.sqrt(2, dtype=np.float32)
    found = agreement(texts, [shifted])
    gap = (1 - (texts @ texts.T)) / 2  # the cosine c becomes (1 + c) / 2
    assert found["offset"][0] == pytest.approx(gap.sum(axis=1) / 59, abs=1e-5)
    assert found["error"].min() > 0.1 and found["rank correlation"].min() > 0.999
    assert found["nearest kept"].mean() > 0.99


def test_nearest_that_are_lost_are_counted(texts, random_vectors):
    unrelated = agreement(texts, [random_vectors(60, 24, 9, decay=1)])
    assert unrelated["nearest kept"].mean() == pytest.approx(10 / 59, abs=0.08)
