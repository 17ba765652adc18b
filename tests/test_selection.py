"""What notebooks 01 and 02 choose and compare: their own cells on score matrices whose answer is known."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from notebook_cells import functions_of

from ccq_utils.analyses.selection import wide
from ccq_utils.study.metrics import Evaluator

QUERIES, DOCUMENTS = 40, 12


class FirstIsRight:
    """Document i is right for query i (modulo): a query scores one where it comes first."""

    query_ids = range(QUERIES)

    def __call__(self, matrix):
        right = matrix.argmax(axis=1) == np.arange(QUERIES) % DOCUMENTS
        return pd.DataFrame({"ndcg_at_10": right.astype(float)})

    def top(self, scores):
        return np.argsort(-scores, axis=1)[:, :10]


@pytest.fixture
def cosines():
    """Model ``first`` is right on most queries, ``other`` exactly on those where it fails, ``twin`` repeats ``first``."""
    right = np.eye(DOCUMENTS)[np.arange(QUERIES) % DOCUMENTS]
    wrong = np.roll(right, 1, axis=1)
    knows = (np.arange(QUERIES) % 5 > 1)[:, None]
    models = {"first": np.where(knows, right, 0.4 * wrong), "other": np.where(knows, 0.3 * wrong, right)}
    return models | {"twin": 0.99 * models["first"]}


@pytest.fixture
def study(cosines):
    evaluator = FirstIsRight()
    profile = SimpleNamespace(models=list(cosines))
    tasks = ["a", "b"]
    return SimpleNamespace(profile=profile, tuning_tasks=tasks, tasks=tasks, evaluator=lambda *_: evaluator)


@pytest.fixture
def select(study, cosines):
    """The functions of notebook 01, with validation cosines in the place of measured ones."""
    tried_on = {(name, task): matrix for name, matrix in cosines.items() for task in study.tasks}
    return functions_of("01_select_models", study=study, tried_on=tried_on)


def test_greedy_selection_takes_the_strongest_and_then_its_complement(select, cosines):
    chosen = []
    for expected in ("first", "other", "twin"):
        tried = select.next_step(chosen)
        assert len(tried) == len(cosines) - len(chosen)
        chosen.append(max(tried, key=lambda name, tried=tried: select.macro_mean(tried[name])))
        assert chosen[-1] == expected
    assert select.macro_mean(select.validation_scores(dict.fromkeys(chosen[:2], 1.0))) == 1.0


def test_tuned_shares_are_better_than_equal_ones_and_the_best_that_were_tried(study, cosines):
    loud = cosines | {"twin": 3 * cosines["first"]}  # with "first" it outvotes "other" where both are wrong
    tried_on = {(name, task): matrix for name, matrix in loud.items() for task in study.tasks}
    select = functions_of("01_select_models", study=study, tried_on=tried_on)
    shares, tried = select.tune_shares(["other", "first", "twin"])
    assert tried[1.0, 1.0, 1.0] == pytest.approx(0.6) and tried[tuple(shares.values())] == max(tried.values()) == 1.0
    assert (
        list(shares) == ["other", "first", "twin"] and set(shares.values()) <= set(select.GRID) and shares["other"] == 1
    )
    assert select.tune_shares(["first"])[0] == {"first": 1.0}


def test_a_pair_of_complements_gains_all_that_an_oracle_would(study, cosines):
    held = {(name, "a"): matrix for name, matrix in cosines.items()}
    notebook = functions_of("01_select_models", study=study, cosines=held)
    found = notebook.compare("a", "first", "other")
    assert found["oracle_gain"].mean() == found["gain"].mean() == pytest.approx(0.4)
    alike = notebook.compare("a", "first", "twin")
    assert not alike["oracle_gain"].any() and not alike["gain"].any() and (alike["overlap"] == 1).all()


def test_a_subset_is_held_against_its_best_member_and_the_large_model(study, cosines):
    held = {(name, task, "test"): matrix for name, matrix in cosines.items() for task in study.tasks}
    notebook = functions_of("02_concatenation_gains", study=study, cosines=held, large="other")
    vars(notebook)["join_scores"].__globals__["single"] = {name: notebook.join_scores([name]) for name in cosines}
    found = notebook.measures(("first", "other"))
    assert [found[name]["a"].mean() for name in ("score", "gain", "over_large")] == pytest.approx([1.0, 0.4, 0.6])
    low = notebook.join_scores(["first", "other"], "test", [0.8, 0.2])  # a fifth of a right answer is not enough
    assert low["a"].mean() == pytest.approx(0.6)


def test_overlap_counts_common_documents(make_task):
    evaluator = Evaluator(make_task(documents=60, queries=12))
    scores = np.random.default_rng(0).random((len(evaluator.query_ids), 60))
    overlap = functions_of("01_select_models").overlap
    assert (overlap(evaluator, scores, scores) == 1).all() and (overlap(evaluator, scores, -scores) == 0).all()


def test_wide_keeps_the_order_and_names_the_ends():
    rows = [(task, name, size) for task, size in (("z", 3), ("a", 1)) for name in ("score", "gain")]
    table = pd.DataFrame(rows, columns=["task", "measure", "size"]).assign(estimate=[1, 2, 3, 4], low=0, high=9)
    found = wide(table, ["task", "size"], "measure")
    assert found["task"].tolist() == ["z", "a"] and found["gain"].tolist() == [2, 4]
    assert list(found.columns) == ["task", "size", "score", "score_low", "score_high", "gain", "gain_low", "gain_high"]
