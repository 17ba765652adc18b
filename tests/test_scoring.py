"""Scores of methods: computed once, from the cache afterwards, anew where anything that they depend on has changed."""

from types import SimpleNamespace

import numpy as np
import pytest

from ccq_utils.codecs.byte_blocks import BlockCodec
from ccq_utils.common.cache import Cache, fingerprint, remembered
from ccq_utils.study.retention import Side
from ccq_utils.study.scoring import PLACES, Fitting, score_method


class Judge:
    """The score of the first document, in place of nDCG."""

    def __call__(self, matrix):
        return {"ndcg_at_10": SimpleNamespace(to_numpy=lambda: matrix[:, 0].astype(float))}


@pytest.fixture
def study(tmp_path):
    return SimpleNamespace(cache=Cache(tmp_path), profile=SimpleNamespace(seed=1, seeds=2))


@pytest.fixture
def found(random_vectors):
    make = lambda seed: Side("a", random_vectors(5, 16, seed), random_vectors(300, 16, 9), Judge(), np.ones(5))  # noqa: E731
    return {"a": make(1), "b": make(2)}


def score(study, found, fittings, budget=4, count=None):
    def fit(part):
        count.append(part) if count is not None else None
        return [part.fit(BlockCodec(budget, seed)) for seed in (1, 2)]

    return score_method(study, found, fittings, PLACES[1], {"budget": budget}, fit)


def test_scores_are_computed_once_and_per_fitting(study, found, random_vectors):
    shared, own = (Fitting(random_vectors(300, 16, seed)) for seed in (3, 4))
    fitted = []
    both = {(PLACES[1], "a"): shared, (PLACES[1], "b"): shared}
    values, size = score(study, found, both, count=fitted)
    assert (
        len(fitted) == 1
        and size == 4
        and {task: each.shape for task, each in values.items()} == {"a": (2, 5), "b": (2, 5)}
    )
    again, _ = score(study, found, both, count=fitted)
    assert len(fitted) == 1 and all(np.array_equal(again[task], values[task]) for task in found)
    parted, _ = score(study, found, {(PLACES[1], "a"): shared, (PLACES[1], "b"): own}, count=fitted)
    assert fitted[1:] == [shared, own] and np.array_equal(parted["a"], values["a"])
    assert not np.array_equal(parted["b"], values["b"])


@pytest.mark.parametrize("change", ["settings", "seed", "queries", "judgements"])
def test_what_scores_depend_on_makes_them_anew(study, found, random_vectors, change):
    fittings, fitted = {(PLACES[1], task): Fitting(random_vectors(300, 16, 3)) for task in found}, []
    fittings[PLACES[1], "b"] = fittings[PLACES[1], "a"]
    score(study, found, fittings, count=fitted)
    if change == "seed":
        study.profile.seed = 7
    if change == "queries":
        found = found | {"a": Side("a", random_vectors(5, 16, 8), found["a"].documents, Judge(), np.ones(5))}
    if change == "judgements":
        found = found | {"a": Side("a", found["a"].queries, found["a"].documents, Judge(), np.zeros(5))}
    score(study, found, fittings, 2 if change == "settings" else 4, fitted)
    assert len(fitted) == 2


def test_an_array_is_told_by_what_it_holds(random_vectors):
    one = random_vectors(3, 4, 1)
    assert fingerprint(one) == fingerprint(one.copy()) == fingerprint(np.asfortranarray(one))
    others = [one + 1, one.reshape(4, 3), one.astype(np.float64)]
    assert len({fingerprint(one), *map(fingerprint, others)}) == 4


def test_only_the_last_results_are_remembered():
    calls = []

    @remembered(2)
    def total(array):
        calls.append(array)
        return array.sum()

    one, two, three = (np.full(2, number) for number in (1, 2, 3))
    assert [total(array) for array in (one, two, one, three, one, two)] == [2, 4, 2, 6, 2, 4]
    assert [array[0] for array in calls] == [1, 2, 3, 2]  # three pushed out two, the longest unused
