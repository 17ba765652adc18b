"""Joining base models: ``x = [w1 x1; w2 x2; ...]`` of L2-normalised members (paper section 3.1; there every w is 1)."""

import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from ccq_utils.common.errors import StudyError
from ccq_utils.models.embed import normalise


def concat(
    members: Sequence[np.ndarray], weights: Sequence[float] | None = None, normalised: bool = True
) -> np.ndarray:
    """Join member vectors row by row and normalise the join: ``(n, sum d_i) float32``.

    Args:
        members: Arrays ``(n, d_i)``, one per base model, rows aligned.
        weights: One positive number per member; equal weights where None.
        normalised: Normalise each member first (the paper's way); False joins raw vectors, so that long ones dominate.

    Raises:
        StudyError: No member, members of unequal length, a NaN or zero row, a weight that is not positive.
    """
    lengths = [len(member) for member in members]
    if len(set(lengths)) != 1:
        raise StudyError(f"concat: members have {lengths} rows; give at least one and encode the same texts with each")
    weights = [1.0] * len(members) if weights is None else list(weights)
    if len(weights) != len(members) or not all(weight > 0 for weight in weights):
        raise StudyError(f"concat: weights {weights} must be {len(members)} positive numbers, one per member")
    joined = np.empty((lengths[0], sum(member.shape[1] for member in members)), dtype=np.float32)
    start = 0  # members are written in place one after another, so that only one copy of the join is ever held
    for number, (weight, member) in enumerate(zip(weights, members, strict=True), 1):
        vectors = normalise(member, f"member {number}") if normalised else member
        np.multiply(np.float32(weight), vectors, out=joined[:, start : start + member.shape[1]], casting="same_kind")
        start += member.shape[1]
    return normalise(joined, "concat", out=joined)


def subsets(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Every non-empty subset of ``names``, small ones first."""
    names = list(names)
    return [chosen for size in range(1, len(names) + 1) for chosen in itertools.combinations(names, size)]


def linear_cka(first: np.ndarray, second: np.ndarray) -> float:
    """Linear centred kernel alignment of two models' vectors for the same texts, 0 to 1 (Kornblith et al. 2019, eq. 3)."""
    first, second = first - first.mean(0), second - second.mean(0)
    cross = np.linalg.norm(first.T @ second) ** 2
    return float(cross / (np.linalg.norm(first.T @ first) * np.linalg.norm(second.T @ second)))
