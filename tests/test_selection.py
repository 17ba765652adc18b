"""Choices on validation queries: greedy selection takes what raises the score, and says by how much, with intervals."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from ccq_utils.analyses import selection
from ccq_utils.study.study import Study

QUERIES, DOCUMENTS = 40, 12


class Judge:
    """Document i is right for query i (modulo): a query scores one where it comes first."""

    def __call__(self, matrix):
        right = matrix.argmax(axis=1) == np.arange(QUERIES) % DOCUMENTS
        return pd.DataFrame({"ndcg_at_10": right.astype(float)})


@pytest.fixture
def study(monkeypatch):
    """Model ``first`` is right on most queries, ``other`` exactly on those where it fails, ``twin`` repeats ``first``."""
    right = np.eye(DOCUMENTS)[np.arange(QUERIES) % DOCUMENTS]
    wrong = np.roll(right, 1, axis=1)
    knows = (np.arange(QUERIES) % 5 > 1)[:, None]
    cosines = {"first": np.where(knows, right, 0.4 * wrong), "other": np.where(knows, 0.3 * wrong, right)}
    cosines["twin"] = 0.99 * cosines["first"]
    monkeypatch.setattr(selection, "member_scores", lambda study, model, task, split: cosines[model])

    profile = SimpleNamespace(models=list(cosines), max_members=3, resamples=200, bootstrap_seed=0)
    held = SimpleNamespace(profile=profile, tuning_tasks=["a", "b"], evaluator=lambda task, split: Judge())
    held.interval = lambda *scores: Study.interval(held, *scores)
    return held


def test_selection_takes_the_strongest_and_then_the_complement(study):
    trials = selection.forward_selection(study)
    assert trials.loc[trials["chosen"], "member"].tolist() == ["first", "other", "twin"]
    assert trials.groupby("step")["chosen"].sum().tolist() == [1, 1, 1]
    assert len(trials) == 3 + 2 * len(selection.WEIGHTS) + len(selection.WEIGHTS)


def test_gain_is_paired_over_what_the_step_before_chose(study):
    chosen = selection.forward_selection(study).query("chosen").set_index("step")
    assert np.isnan(chosen.loc[1, "gain"]) and chosen.loc[1, "score"] == pytest.approx(0.6)
    assert chosen.loc[2, "gain"] == pytest.approx(0.4) and chosen.loc[2, "gain_low"] > 0.2
    # the twin drowns the other, so the third step loses what the second gained
    assert chosen.loc[3, "gain"] == pytest.approx(-0.4) and chosen.loc[3, "gain_high"] < -0.2


def test_every_validation_score_has_its_interval(study):
    trials = selection.forward_selection(study)
    for name in ("score", "a", "b"):
        assert ((trials[f"{name}_low"] <= trials[name]) & (trials[name] <= trials[f"{name}_high"])).all()
    assert (trials["score_high"] - trials["score_low"]).max() < (trials["a_high"] - trials["a_low"]).max()
