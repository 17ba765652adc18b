"""Per-query scores of what is compressed: long tables, fitted where they say, never computed twice."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from ccq_utils.codecs.percentile import CODECS, DETERMINISTIC
from ccq_utils.study.metrics import Evaluator
from ccq_utils.study.scores import (
    GENERAL,
    OWN,
    FittingVectors,
    TaskVectors,
    Vectors,
    fitted_codecs,
    score_codecs,
    score_method,
    score_table,
    with_validation,
)


@pytest.fixture
def vectors(make_task, random_vectors):
    """Two tasks that share their documents and one that does not; 32 dims."""
    by_task, shared = {}, random_vectors(80, 32, 1, decay=0.8)
    for seed, (name, documents) in enumerate((("a", shared), ("b", shared), ("c", random_vectors(60, 32, 2, 0.8)))):
        evaluator = Evaluator(make_task(documents=len(documents), queries=20, seed=seed))
        by_task[name] = TaskVectors(documents[: len(evaluator.query_ids)], documents, evaluator)
    return Vectors(by_task, FittingVectors(random_vectors(300, 32, 3, 0.8), random_vectors(200, 32, 4, 0.8)))


@pytest.fixture
def study(cache):
    return SimpleNamespace(cache=cache, profile=SimpleNamespace(seed=7, seeds=2))


def test_table_has_a_row_per_seed_and_query():
    table = score_table({"a": np.array([[0.1, 0.2], [0.3, 0.4]]), "b": np.array([0.5])}, method="ours")
    assert table[["task", "query", "seed"]].values.tolist() == [
        ["a", 0, 0], ["a", 1, 0], ["a", 0, 1], ["a", 1, 1], ["b", 0, 0],
    ]  # fmt: skip
    assert table["score"].tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5]) and set(table["method"]) == {"ours"}


def test_raw_scores_are_the_evaluators(vectors):
    one = vectors.by_task["c"]
    expected = one.evaluator(one.queries @ one.documents.T)["ndcg_at_10"]
    assert vectors.raw.loc[vectors.raw["task"] == "c", "score"].tolist() == pytest.approx(expected.tolist())


def test_a_judgement_that_changes_no_score_of_the_concat_is_another_task(vectors):
    one = vectors.by_task["c"]
    task, matrix = one.evaluator.task, one.queries @ one.documents.T
    query, last = one.evaluator.query_ids[0], np.array(list(task.documents))[matrix[0].argsort()[:2]]
    first, second = (replace(task, qrels=task.qrels | {query: {name: 1}}) for name in last)
    first, second = (replace(one, evaluator=Evaluator(each)) for each in (first, second))
    assert np.array_equal(first.ndcg(matrix), second.ndcg(matrix)) and first.fingerprint != second.fingerprint


@pytest.mark.parametrize("name", [name for name in CODECS if not name.startswith("decoder")])
def test_codec_is_repeated_exactly_where_its_seed_matters(study, vectors, name):
    codecs = fitted_codecs(study, name, 4, vectors.general)
    assert len(codecs) == (1 if name in DETERMINISTIC else 2)
    codes = [codec.encode(vectors.general.training[:50]) for codec in codecs]
    assert all(not np.array_equal(codes[0], other) for other in codes[1:])
    table = score_codecs(vectors, codecs, method=name)
    assert set(table["seed"]) == set(range(len(codecs))) and set(table["scoring"]) == {"asymmetric"}


def test_documents_are_coded_once_whatever_the_queries(study, vectors, monkeypatch):
    one, (codec,) = vectors.by_task["c"], fitted_codecs(study, "PCA", 8, vectors.general)
    codes = one.coded(codec)
    assert np.array_equal(codes, codec.encode(one.documents))
    monkeypatch.setattr(codec, "encode", lambda _: 1 / 0)
    assert replace(one, queries=one.queries[::-1]).coded(codec) is codes
    assert len(score_codecs(Vectors({"c": one}, vectors.general), [codec])) == len(one.queries)
    with pytest.raises(ZeroDivisionError):
        vectors.by_task["a"].coded(codec)


def test_validation_queries_come_with_the_documents_and_fits_of_the_test_queries(make_task, random_vectors):
    task = make_task(documents=60, queries=24)
    part = {"test": 1, "validation": 2, None: 3}
    study = SimpleNamespace(
        tasks={"a": task, "b": task},
        tuning_tasks=["b"],
        concat=lambda text, split, members, shares: random_vectors(30, 8, part.get(split)),
        evaluator=lambda name, split="test": Evaluator(task, split),
    )
    test, validation = with_validation(study)
    assert [*test.by_task] == ["a", "b"] and [*validation.by_task] == ["b"] and validation.general is test.general
    ours, theirs = test.by_task["b"], validation.by_task["b"]
    assert theirs.documents is ours.documents and theirs.codes is ours.codes
    assert np.array_equal(theirs.queries, random_vectors(30, 8, 2)) and theirs.evaluator.split == "validation"
    assert np.array_equal(ours.queries, random_vectors(30, 8, 1)) and ours.evaluator.split == "test"


def test_tasks_that_share_documents_share_what_is_fitted(study, vectors):
    fitted = []

    def fit(fitting):
        fitted.append(fitting)
        return fitted_codecs(study, "PCA", 8, fitting)

    own = score_method(study, vectors, fit, {"name": "PCA"}, OWN, method="PCA")
    assert [len(fitting.training) for fitting in fitted] == [80, 60] and fitted[0].calibration is None
    general = score_method(study, vectors, fit, {"name": "PCA"}, GENERAL, method="PCA")
    assert len(fitted) == 3 and fitted[2] is vectors.general
    assert list(own["task"].unique()) == list(general["task"].unique()) == ["a", "b", "c"]
    direct = score_codecs(vectors, fitted_codecs(study, "PCA", 8, vectors.general))
    assert np.array_equal(general["score"], direct["score"])


def test_scores_are_kept_and_their_key_holds_settings_vectors_and_scoring(study, vectors):
    def score(budget=8, fit=lambda fitting: fitted_codecs(study, "LSH", 8, fitting), symmetric=False, part=vectors):
        return score_method(study, part, fit, {"name": "LSH", "budget": budget}, GENERAL, symmetric, method="LSH")

    pd.testing.assert_frame_equal(score(), score(fit=pytest.fail))
    other = Vectors(vectors.by_task | {"a": vectors.by_task["c"]}, vectors.general)
    for changed in ({"budget": 9}, {"symmetric": True}, {"part": other}):
        with pytest.raises(ZeroDivisionError):
            score(fit=lambda fitting: 1 / 0, **changed)
