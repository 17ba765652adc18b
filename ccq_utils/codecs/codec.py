"""What every compression method of this package can do, and how its codes are scored."""

from collections import Counter
from typing import Protocol

import numpy as np
import torch

from ccq_utils.common.errors import StudyError


class NotPossible(StudyError):
    """A codec that cannot be had: of these bytes, or from these vectors. What goes wrong otherwise is a plain StudyError."""


class Codec(Protocol):
    """A compression method: fitted on vectors without judgements, then frozen; every one has

    * ``fit(vectors, calibration=None)``: on ``(n, D)`` vectors, what needs held-out ones on ``calibration``; gives itself;
    * ``project(vectors)``: not coded, ``(n, D) -> (n, d) float32``, the space in which ``decode`` gives documents back;
    * ``encode(vectors)`` and ``decode(codes)``: packed codes, ``(n, bytes_per_vector) uint8``, and what they stand for;
    * ``bytes_per_vector``: with a vector's own constants; ``shared_bytes`` counts what all vectors share.

    It may have ``score(queries, codes)``, an estimate of its own, which ``scores`` then uses. Arrays that are fitted end in
    ``_``; ``shared_bytes`` counts them, but for those that ``drawn`` names: a seed draws them again.
    """


def require_distinct(rows, needed: int) -> None:
    """Raises ``NotPossible`` for fewer than ``needed`` texts, or vectors ``(n, d)``, and where most of them are the same."""
    found = Counter(hash(row if isinstance(row, str) else row.tobytes()) for row in rows)
    if len(rows) < needed or 2 * len(found) <= needed or 2 * max(found.values()) > len(rows):
        known = f"{len(found)} of {len(rows)} texts are different"
        raise NotPossible(f"{known}; this fit needs at least {needed}, most of them different")


def scores(codec: Codec, queries: np.ndarray, codes: np.ndarray, symmetric: bool = False) -> np.ndarray:
    """Scores ``(queries, documents)`` of ``(queries, D)``, in float or coded too (``symmetric``), with decoded documents."""
    if hasattr(codec, "score"):
        if symmetric:
            raise StudyError(f"{type(codec).__name__} has a score of its own, for float queries; leave symmetric out")
        return codec.score(queries, codes)
    left = codec.decode(codec.encode(queries)) if symmetric else codec.project(queries)
    return left @ codec.decode(codes).T


def shared_bytes(codec) -> int:
    """Bytes that must be kept beside the codes, however many there are: basis, codebooks, levels, thresholds."""
    drawn = getattr(codec, "drawn", ())
    return sum(_bytes(value) for name, value in vars(codec).items() if name.endswith("_") and name not in drawn)


def _bytes(value):
    if isinstance(value, torch.nn.Module):
        return sum(part.nbytes for part in value.parameters())
    return value.nbytes if isinstance(value, np.ndarray) else shared_bytes(value) if hasattr(value, "__dict__") else 0
