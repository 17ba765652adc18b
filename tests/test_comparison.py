"""Methods at equal bytes: who is held against whom, in which family of tests, and what counts as reached."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from ccq_utils.analyses import comparison
from ccq_utils.codecs.codec import NotPossible
from ccq_utils.codecs.decoder import fit_pca
from ccq_utils.common.errors import StudyError
from ccq_utils.study import stats
from ccq_utils.study.metrics import Evaluator
from ccq_utils.study.scores import GENERAL, OWN, FittingVectors, TaskVectors, Vectors, score_table


@pytest.fixture
def study(cache, random_vectors):
    """A study without notebooks before it, with few resamples."""
    return SimpleNamespace(
        cache=cache,
        profile=SimpleNamespace(seed=1, seeds=1),
        summarise=lambda *arguments: stats.summarise(*arguments, resamples=300),
    )


def made_up(method, shift, factor=48, fitted_on=OWN):
    """Scores of a method that lies ``shift`` above ours on average, with noise of its own, on 60 queries."""
    base = np.random.default_rng(0).uniform(0.3, 0.7, 60)
    noise = np.random.default_rng([ord(letter) for letter in method]).standard_normal(60) * 0.01
    moved = base if method == comparison.OURS else base + noise - noise.mean() + shift
    labels = {"method": method, "factor": factor, "fitted_on": fitted_on, "bytes_per_vector": 8, "shared_bytes": 0}
    return score_table({"a": moved}, **labels)


def test_a_method_is_judged_among_those_at_the_same_factor_and_text_only(study):
    ours = made_up(comparison.OURS, 0)
    raw, near = ours[["task", "query", "seed", "score"]], made_up("near", 0.003)
    table = comparison.held_against(study, pd.concat([ours, near, made_up("bad", -0.05)]), raw).set_index("method")
    assert table.loc[comparison.OURS, "estimate"] == pytest.approx(1)
    assert table.loc["near", "difference"] == pytest.approx(0.003, abs=1e-5)
    assert table["verdict"].to_dict() == {comparison.OURS: "reference", "near": "better", "bad": "worse"}
    crowd = [made_up(f"level {number}", 0) for number in range(60)]
    crowded = comparison.held_against(study, pd.concat([ours, near, *crowd]), raw).set_index("method")
    assert crowded.loc["near", "verdict"] == "no difference seen"
    elsewhere = [scores.assign(fitted_on=GENERAL) for scores in (ours, *crowd)]
    apart = comparison.held_against(study, pd.concat([ours, near, *elsewhere]), raw)
    assert apart.loc[apart["method"] == "near", "verdict"].item() == "better"


def test_half_of_a_corpus_is_searched_and_the_other_is_fitted_on(judged_vectors, random_vectors, monkeypatch, study):
    task, _, documents, queries = judged_vectors(random_vectors(90, 16), 30)
    general = FittingVectors(random_vectors(50, 16, seed=8))

    def whole(split):
        judge = Evaluator(task, split)
        asked = random_vectors(len(judge.query_ids), 16, seed=3)
        return Vectors({"a": TaskVectors(asked, documents, judge), "b": TaskVectors(asked, documents, judge)}, general)

    monkeypatch.setattr(comparison, "with_validation", lambda _: (whole("test"), whole("validation")))
    halves = comparison.held_out(study)
    assert halves["test"].by_task["a"].codes is halves["validation"].by_task["a"].codes
    assert halves["test"].by_task["a"].codes is not halves["test"].by_task["b"].codes
    for split, half in halves.items():
        one, own = half.by_task["a"], half.fitting("a", OWN)
        assert len(own.training) == 45 and own is half.fitting("b", OWN) and own is halves["test"].own["a"]
        rows = {row.tobytes() for row in documents}
        assert {row.tobytes() for row in own.training} | {row.tobytes() for row in one.documents} == rows
        judge = one.evaluator
        assert len(judge.task.documents) == 45 and len(one.queries) == len(judge.query_ids)
        assert all(set(task.qrels[query]) & set(judge.task.documents) for query in judge.query_ids)
        places = [Evaluator(task, split).query_ids.index(query) for query in judge.query_ids]
        assert np.array_equal(one.queries, whole(split).by_task["a"].queries[places])
        perfect = np.array(
            [[judge.task.qrels[query].get(k, 0) for k in judge.task.documents] for query in judge.query_ids]
        )
        assert np.allclose(one.ndcg(perfect.astype(np.float32)), 1)


def test_what_cannot_be_fitted_is_named_and_the_rest_is_scored_once(study, judged_vectors, random_vectors, monkeypatch):
    task, evaluator, documents, queries = judged_vectors(random_vectors(80, 32), 12)
    general = FittingVectors(random_vectors(300, 32, seed=8), random_vectors(260, 32, seed=9))
    vectors = Vectors({task.name: TaskVectors(queries, documents, evaluator)}, general)
    monkeypatch.setattr(comparison, "trained_decoder", lambda study: (fit_pca(general.training, 16), None))
    names = ["ITQ", "ITQ, equalised", "PQ, equalised"]
    given = comparison.methods(study, vectors, names, {"one": vectors}, seeds=2)
    scores, skipped = comparison.score_methods(study, given, 8, factor=16)
    found = scores.groupby(["method", "fitted_on"])["score"].mean()
    assert set(scores["method"]) == {*comparison.METHODS, *names, f"one alone, {comparison.OURS}"}
    assert [(row["method"], row["fitted_on"]) for row in skipped] == [("PQ, equalised", OWN)]
    assert "this fit needs at least 256" in skipped[0]["reason"]
    assert found["ITQ", OWN] != found["ITQ, equalised", OWN]
    assert found[f"one alone, {comparison.OURS}"].equals(found[comparison.OURS])
    made = scores.groupby("method")["seed"].nunique()
    assert made.to_dict() == {name: 1 if name in comparison.ONCE else 2 for name in made.index} and set(made) == {1, 2}
    monkeypatch.setattr(comparison, "make_codec", None)  # everything is in the cache
    assert comparison.score_methods(study, given, 8, factor=16)[0].equals(scores)
    for error, words in ((NotPossible, "no method can be had at 8 bytes; PQ: too few"), (StudyError, "^too few")):

        def refuse(*_, error=error, **__):  # as RaBitQ does, or a full disk
            raise error("too few")

        with pytest.raises(StudyError, match=words):
            comparison.score_methods(study, {"PQ": comparison.Method(refuse, {error.__name__: 1}, vectors)}, 8)
