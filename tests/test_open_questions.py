"""Open questions: vectors of a model that is not the profile's, and what damage does to codes of any vectors."""

from types import SimpleNamespace

import numpy as np
import pytest

from ccq_utils.analyses.open_questions import mapped, score_damaged, vectors_with
from ccq_utils.codecs.percentile import LshCodec
from ccq_utils.models.vectors import concat
from ccq_utils.study.metrics import Evaluator
from ccq_utils.study.scores import FittingVectors, TaskVectors, Vectors


@pytest.fixture
def vectors(make_task, random_vectors):
    documents = random_vectors(80, 32, 1)
    evaluator = Evaluator(make_task(documents=80, queries=20))
    one = TaskVectors(documents[: len(evaluator.query_ids)], documents, evaluator)
    return Vectors({"a": one}, FittingVectors(random_vectors(60, 32, 3), random_vectors(40, 32, 4)))


def test_damage_is_done_to_documents_only(vectors):
    codec = LshCodec(256, 1).fit(vectors.general.calibration)
    means = score_damaged(vectors, codec, lambda codes: codes).groupby("state")["score"].mean()
    assert means["coded"] == means["flipped"] > 0
    turned = score_damaged(vectors, codec, lambda codes: ~codes).groupby("state")["score"].mean()
    assert turned["coded"] == means["coded"] > turned["flipped"]


def test_a_map_is_applied_to_every_vector(vectors):
    found = mapped(vectors, lambda rows: rows[:, :8])
    assert found.dims == 8 and found.general.calibration.shape == (40, 8)
    assert np.array_equal(found.by_task["a"].queries, vectors.by_task["a"].queries[:, :8])


def test_another_model_joins_the_profiles_after_them(cache, members, make_task, random_vectors):
    task = make_task(documents=30, queries=10)
    model = SimpleNamespace(
        name="other", fingerprint="1", precision="float32", prompts={"query": "", "document": ""}, encoder=members["static"]
    )  # fmt: skip
    texts = {
        "made_up": list(task.documents.values()),
        "training": ["one text", "two texts"],
        "calibration": ["a third"],
    }
    study = SimpleNamespace(
        tasks={"made_up": task},
        cache=cache,
        texts=lambda text, split=None: texts[text][: len(task.query_ids("test"))] if split else texts[text],
        member_vectors=lambda name, text, split=None: random_vectors(len(study.texts(text, split)), 8, 1),
        evaluator=lambda name: Evaluator(task),
    )
    joined = vectors_with(study, model, ["first"])
    assert joined.dims == 8 + 24 and joined.general.calibration.shape == (1, 32)
    expected = concat([random_vectors(30, 8, 1), members["static"].encode(texts["made_up"])])
    assert np.allclose(joined.by_task["made_up"].documents, expected, atol=1e-5)
