"""What every compression method of this package can do, and how its codes are scored."""

from typing import Protocol

import numpy as np


class Codec(Protocol):
    """A compression method: fitted on vectors without judgements, then frozen.

    ``project`` maps a float vector to the space in which ``decode`` gives documents back. A codec may also have a method
    ``score(queries, codes)`` with an estimate of its own, which ``scores`` then uses.
    """

    @property
    def bytes_per_vector(self) -> int:
        """What one stored vector costs, its own constants included; what all vectors share is not counted."""

    def fit(self, vectors: np.ndarray, calibration: np.ndarray | None = None) -> "Codec":
        """Fit on ``(n, D)`` vectors, and what needs held-out ones on ``calibration``; returns itself."""

    def project(self, vectors: np.ndarray) -> np.ndarray:
        """Float vectors, not coded: ``(n, D) -> (n, d) float32``."""

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """Packed codes: ``(n, D) -> (n, bytes_per_vector) uint8``."""

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """What the codes stand for: ``(n, bytes_per_vector) uint8 -> (n, d) float32``."""


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length one, ``(n, d)``; a row of zeros stays."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def scores(codec: Codec, queries: np.ndarray, codes: np.ndarray, symmetric: bool = False) -> np.ndarray:
    """Score matrix ``(queries, documents)``: inner products with the decoded documents.

    Args:
        queries: Float vectors, ``(queries, D)``.
        codes: Packed codes of the documents.
        symmetric: Code the queries too, instead of keeping them in float.
    """
    if hasattr(codec, "score"):
        return codec.score(queries, codes)
    left = codec.decode(codec.encode(queries)) if symmetric else codec.project(queries)
    return left @ codec.decode(codes).T
