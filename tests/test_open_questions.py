"""The gate of learned fusion: begins as plain concat, learns which member to trust, per query where that helps."""

import numpy as np
import pytest
import torch

from ccq_utils.concat import concat
from ccq_utils.open_questions import Gate, fit_gate


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


@pytest.mark.parametrize("per_query", [False, True])
def test_weights_sum_to_one(members, per_query):
    short, long = members
    gate = fit_gate(short, long, per_query, seed=1, steps=20)
    with torch.inference_mode():
        weights = gate(torch.from_numpy(concat(short)))
    assert torch.allclose(weights.sum(1), torch.ones(len(weights)), atol=1e-5)


def test_gate_learns_whom_to_trust_per_query(members):
    short, long = members
    query = torch.from_numpy(concat(short))
    gates = Gate(2, query.shape[1], True), fit_gate(short, long, True, seed=1)
    with torch.inference_mode():
        plain, gated = (found_first(short, long, gate(query).numpy()) for gate in gates)
    assert gated > plain + 0.05


def test_common_weights_leave_a_useless_member(members):
    short, long = members
    useless = np.random.default_rng(3).permutation(long[1])
    gate = fit_gate([short[0], short[1]], [long[0], useless], False, seed=1)
    with torch.inference_mode():
        weights = gate(torch.zeros(1, 34)).numpy()[0]
    assert weights[0] > 0.6


def test_same_seed_gives_the_same_gate(members):
    first, again = (fit_gate(*members, True, seed=2, steps=10) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first.parameters(), again.parameters(), strict=True))
