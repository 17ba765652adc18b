"""Learned fusion: shares begin equal and learn whom to trust; canonical correlation finds what members share."""

import numpy as np
import pytest
from notebook_cells import functions_of
from sklearn.cross_decomposition import CCA

from ccq_utils.analyses.fusion import canonical_maps, fit_canonical, fit_shares
from ccq_utils.models.vectors import concat


@pytest.fixture
def members():
    """Pairs seen by two members: the first is right for the even rows, the second for the odd ones; a flag says which."""
    rng = np.random.default_rng(0)
    short, long = [], []
    for good in (0, 1):
        ours = rng.standard_normal((300, 16))
        right = np.arange(300) % 2 == good
        theirs = np.where(right[:, None], ours + 0.3 * rng.standard_normal(ours.shape), rng.standard_normal(ours.shape))
        flag = np.where(right, 6.0, -6.0)[:, None]
        short.append(_unit(np.hstack([ours, flag])))
        long.append(_unit(np.hstack([theirs, np.zeros((300, 1))])))
    return short, long


def _unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def found_first(short, long, shares):
    cosines = sum(share[:, None] * (a @ b.T) for share, a, b in zip(shares.T, short, long, strict=True))
    return (cosines.argmax(axis=1) == np.arange(len(cosines))).mean()


@pytest.mark.parametrize("per_query", [False, True])
def test_shares_begin_equal_and_add_up_to_one(members, per_query):
    assert np.allclose(fit_shares(*members, per_query, seed=1, steps=0)(members[0]), 1 / 2)
    assert np.allclose(fit_shares(*members, per_query, seed=1, steps=20)(members[0]).sum(axis=1), 1, atol=1e-5)


def test_a_gate_learns_whom_to_trust_per_query(members):
    plain, gated = (fit_shares(*members, True, seed=1, steps=steps)(members[0]) for steps in (0, 200))
    assert found_first(*members, gated) > found_first(*members, plain) + 0.05


def test_common_shares_leave_a_useless_member(members):
    short, long = members
    useless = np.random.default_rng(3).permutation(long[1])
    shares = fit_shares(short, [long[0], useless], False, seed=1)(short)
    assert shares[0, 0] > 0.6 and (shares == shares[0]).all()


def test_same_seed_gives_the_same_gate(members):
    first, again = (fit_shares(*members, True, seed=2, steps=10)(members[0]) for _ in range(2))
    assert np.array_equal(first, again)


def test_fixed_shares_of_notebook_06_score_as_the_weighted_concat(members):
    notebook = functions_of("06_open_questions")
    matrix, shares = notebook.by_shares(notebook.fixed([3, 1]), *members)
    queries, documents = (concat(side, [3, 1]) for side in members)
    assert np.allclose(matrix, queries @ documents.T, atol=1e-6) and np.allclose(shares, [0.75, 0.25])


def test_canonical_correlation_of_two_members_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((600, 3))
    views = [shared @ rng.standard_normal((3, dims)) + rng.standard_normal((600, dims)) for dims in (5, 8)]
    maps = canonical_maps(views, ridge=1e-9)
    ours = [(view - mean) @ one for view, (mean, one) in zip(views, maps, strict=True)]
    theirs = CCA(5, max_iter=5000, tol=1e-9).fit_transform(*views)
    for component in range(2):
        expected = np.corrcoef(theirs[0][:, component], theirs[1][:, component])[0, 1]
        leading = ours[0][:, -1 - component], ours[1][:, -1 - component]
        assert np.corrcoef(*leading)[0, 1] == pytest.approx(expected, abs=1e-3)


def test_canonical_fusion_finds_what_members_share():
    """Each member sees the meaning of a pair and, louder, something of its own that differs between the two sides."""
    rng = np.random.default_rng(1)
    meaning = rng.standard_normal((400, 6))
    turns = [rng.standard_normal((6, 24)) for _ in range(3)]
    sides = [[_unit(meaning @ turn + _own(rng, 24)) for turn in turns] for _ in ("short", "long")]
    fused = fit_canonical(*sides, seed=0)
    ours = fused(sides[0]) @ fused(sides[1]).T
    plain = concat(sides[0]) @ concat(sides[1]).T
    right = [(cosines.argmax(axis=1) == np.arange(400)).mean() for cosines in (ours, plain)]
    assert fused(sides[0]).shape == (400, 24) and right[0] > right[1] + 0.1


def _own(rng, dims):
    return rng.standard_normal((400, 3)) @ rng.standard_normal((3, dims)) * 6


def test_canonical_fusion_is_the_same_for_the_same_seed(members):
    first, again = (fit_canonical(*members, seed=2)(members[0]) for _ in range(2))
    assert np.array_equal(first, again) and np.allclose(np.linalg.norm(first, axis=1), 1, atol=1e-5)
