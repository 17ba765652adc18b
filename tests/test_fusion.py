"""Learned fusion: the gate begins as plain concat and learns whom to trust; canonical correlation finds what is shared."""

import numpy as np
import pytest
import torch
from sklearn.cross_decomposition import CCA

from ccq_utils.analyses.fusion import CanonicalFusion, Gate, fit_canonical, fit_gate
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


def found_first(short, long, weights):
    cosines = sum(weight[:, None] * (a @ b.T) for weight, a, b in zip(weights.T, short, long, strict=True))
    return (cosines.argmax(axis=1) == np.arange(len(cosines))).mean()


@pytest.mark.parametrize("per_query", [False, True])
def test_gate_begins_as_plain_concat(per_query):
    assert torch.allclose(Gate(3, 8, per_query)(torch.randn(5, 8)), torch.full((5, 3), 1 / 3))


def test_gate_learns_whom_to_trust_per_query(members):
    short, long = members
    gates = Gate(2, concat(short).shape[1], True), fit_gate(short, long, True, seed=1)
    plain, gated = (gate.weights(short) for gate in gates)
    assert np.allclose(gated.sum(axis=1), 1, atol=1e-5)
    assert found_first(short, long, gated) > found_first(short, long, plain) + 0.05


def test_common_weights_leave_a_useless_member(members):
    short, long = members
    useless = np.random.default_rng(3).permutation(long[1])
    gate = fit_gate([short[0], short[1]], [long[0], useless], False, seed=1)
    assert gate.weights(short)[0, 0] > 0.6


def test_same_seed_gives_the_same_gate(members):
    first, again = (fit_gate(*members, True, seed=2, steps=10) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first.parameters(), again.parameters(), strict=True))


def test_canonical_correlation_of_two_members_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((600, 3))
    views = [shared @ rng.standard_normal((3, dims)) + rng.standard_normal((600, dims)) for dims in (5, 8)]
    fusion = CanonicalFusion(ridge=1e-9).fit(views)
    ours = [(view - mean) @ one for view, mean, one in zip(views, fusion.means_, fusion.maps_, strict=True)]
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
    ours = fused.transform(sides[0]) @ fused.transform(sides[1]).T
    plain = concat(sides[0]) @ concat(sides[1]).T
    right = [(cosines.argmax(axis=1) == np.arange(400)).mean() for cosines in (ours, plain)]
    assert fused.transform(sides[0]).shape == (400, 24) and right[0] > right[1] + 0.1


def _own(rng, dims):
    return rng.standard_normal((400, 3)) @ rng.standard_normal((3, dims)) * 6


def test_canonical_fusion_is_the_same_for_the_same_seed(members):
    first, again = (fit_canonical(*members, seed=2).transform(members[0]) for _ in range(2))
    assert np.array_equal(first, again) and np.allclose(np.linalg.norm(first, axis=1), 1, atol=1e-5)
