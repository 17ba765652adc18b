"""Joining base models: the *concat* ``x = [x1; x2; ...]`` of L2-normalised members (paper section 3.1), or a weighted one."""

from collections.abc import Sequence

import numpy as np

from ccq_utils.common.errors import StudyError
from ccq_utils.models.embed import normalise


def concat(members: Sequence[np.ndarray], shares: Sequence[float] | None = None, normalised: bool = True) -> np.ndarray:
    """Join member vectors ``(n, d_i)`` row by row and normalise the join: ``(n, sum d_i) float32``.

    ``shares`` say how much each member's cosine counts in that of the join: positive numbers, which are made to add up to
    one; its vector is scaled by the square root. All are equal where None: the paper's concat. Each member is ``normalised``
    first (the paper's way); False joins raw vectors, so that long ones dominate. Raises ``StudyError`` for no member, members
    of unequal length, a NaN or zero row, a share that is not positive.
    """
    lengths = [len(member) for member in members]
    if len(set(lengths)) != 1:
        raise StudyError(f"concat: members have {lengths} rows; give at least one and encode the same texts with each")
    shares = [1.0] * len(members) if shares is None else list(shares)
    if len(shares) != len(members) or not all(share > 0 for share in shares):
        raise StudyError(f"concat: shares {shares} must be {len(members)} positive numbers, one per member")
    joined = np.empty((lengths[0], sum(member.shape[1] for member in members)), dtype=np.float32)
    start = 0  # members are written in place one after another, so that only one copy of the join is ever held
    for number, (share, member) in enumerate(zip(shares, members, strict=True), 1):
        vectors = normalise(member, f"member {number}") if normalised else member
        place = joined[:, start : start + member.shape[1]]
        np.multiply(np.float32(np.sqrt(share)), vectors, out=place, casting="same_kind")
        start += member.shape[1]
    return normalise(joined, "concat", out=joined)


def linear_cka(first: np.ndarray, second: np.ndarray) -> float:
    """Linear centred kernel alignment of two models' vectors for the same texts, 0 to 1 (Kornblith et al. 2019, eq. 3)."""
    first, second = first - first.mean(0), second - second.mean(0)
    cross = np.linalg.norm(first.T @ second) ** 2
    return float(cross / (np.linalg.norm(first.T @ first) * np.linalg.norm(second.T @ second)))


def pair_cosines(vectors: np.ndarray, pairs: int = 10_000, seed: int = 0) -> np.ndarray:
    """Cosines of ``pairs`` random pairs of two different rows, ``(pairs,)``; their standard deviation is the member's say."""
    rng = np.random.default_rng(seed)
    first, step = rng.integers(len(vectors), size=pairs), rng.integers(1, len(vectors), size=pairs)
    vectors = normalise(vectors)
    return np.einsum("ij,ij->i", vectors[first], vectors[(first + step) % len(vectors)])


def spread_shares(members: Sequence[np.ndarray]) -> list[float]:
    """Shares in proportion to 1 / standard deviation of each member's ``pair_cosines``, which add up to one.

    Contrastive training at a low temperature squeezes cosines: at equal shares such a member has hardly a say.
    """
    inverse = np.array([1 / pair_cosines(member).std() for member in members])
    return (inverse / inverse.sum()).tolist()


def centred(vectors: np.ndarray, side: np.ndarray) -> np.ndarray:
    """Normalised vectors minus the mean of ``side`` (texts of the same kind: queries, or documents), normalised again."""
    return normalise(normalise(vectors) - normalise(side).mean(axis=0))
