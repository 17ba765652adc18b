"""Methods at equal bytes: who is held against whom, in which family of tests, and what counts as reached."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from notebook_cells import functions_of

from ccq_utils.analyses import comparison
from ccq_utils.codecs.decoder import fit_pca
from ccq_utils.study import stats
from ccq_utils.study.scores import GENERAL, OWN, FittingVectors, TaskVectors, Vectors, score_table


@pytest.fixture
def study(cache, random_vectors):
    """A study without notebooks before it, with few resamples."""
    return SimpleNamespace(
        cache=cache,
        profile=SimpleNamespace(seed=1, seeds=1),
        read=lambda name: pd.DataFrame({"start": ["PCA"]}),
        summarise=lambda *arguments: stats.summarise(*arguments, resamples=300),
    )


def made_up(method, shift, factor=48, fitted_on=OWN):
    """Scores of a method that lies ``shift`` above ours on average, with noise of its own, on 60 queries."""
    base = np.random.default_rng(0).uniform(0.3, 0.7, 60)
    noise = np.random.default_rng([ord(letter) for letter in method]).standard_normal(60) * 0.01
    moved = base if method == comparison.OURS else base + noise - noise.mean() + shift
    labels = {"method": method, "factor": factor, "fitted_on": fitted_on, "bytes_per_vector": 8}
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


def test_goals_look_at_the_better_fitting_and_at_the_best_other_method():
    lines = [(comparison.OURS, GENERAL, 0.97), (comparison.OURS, OWN, 0.99), ("PQ", OWN, 0.95), ("PQ", GENERAL, 0.96)]
    rows = [
        {"task": task, "factor": 48, "fitted_on": fitted_on, "method": method, "bytes_per_vector": 10}
        | {"estimate": kept + more, "low": kept - 0.02, "high": kept + 0.02}
        for method, fitted_on, kept in lines
        for task, more in (("a", 0.5), ("b", -0.5), (stats.MACRO, 0))
    ]
    notebook = functions_of("07_more_per_byte", macro=stats.macro, comparison=comparison)
    (row,) = notebook.reached_goals(pd.DataFrame(rows)).to_dict("records")
    assert row["reached"] and not row["supported"] and row["goal"] == notebook.GOALS[48]
    assert (row[GENERAL], row[OWN], row["best_other_retention"]) == (0.97, 0.99, 0.96)
    assert row["best_other"] == f"PQ, {GENERAL}"


def test_what_cannot_be_fitted_is_named_and_the_rest_is_scored_once(study, judged_vectors, random_vectors, monkeypatch):
    task, evaluator, documents, queries = judged_vectors(random_vectors(80, 32), 12)
    general = FittingVectors(random_vectors(300, 32, seed=8), random_vectors(260, 32, seed=9))
    vectors = Vectors({task.name: TaskVectors(queries, documents, evaluator)}, general)
    monkeypatch.setattr(comparison, "trained_decoder", lambda study, start: (fit_pca(general.training, 16), None))
    names = ["int8", "int8, equalised", "PQ, equalised"]
    given = comparison.methods(study, vectors, names, {"one": vectors}, seeds=2)
    scores, skipped = comparison.score_methods(study, given, 8, factor=16)
    found = scores.groupby(["method", "fitted_on"])["score"].mean()
    assert set(scores["method"]) == {*comparison.METHODS, *names, "one alone, byte blocks"}
    assert [(row["method"], row["fitted_on"]) for row in skipped] == [("PQ, equalised", OWN)]
    assert "at least 256 vectors" in skipped[0]["reason"]
    assert found["int8", OWN] != found["int8, equalised", OWN]
    assert found["one alone, byte blocks"].equals(found[comparison.OURS])
    assert scores.groupby("method")["seed"].nunique().eq(2).sum() == 3 and {
        method.seeds for method in given.values()
    } == {1, 2}
    monkeypatch.setattr(comparison, "make_codec", None)  # everything is in the cache
    assert comparison.score_methods(study, given, 8, factor=16)[0].equals(scores)
