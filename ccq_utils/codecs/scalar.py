"""Other ways to spend the same bytes on PCA dims, one bucket number per dim, beside equal-mass buckets."""

import numpy as np

from ccq_utils.codecs.percentile import PercentileCodec, widest
from ccq_utils.codecs.quantizer import PercentileQuantizer

ROUNDS = 30
"""Rounds of Lloyd's iteration at most; it stops where no level moves."""
CORRECTION = 2
"""Bytes per vector for its norm correction (float16)."""


class LloydMaxQuantizer(PercentileQuantizer):
    """Per-dimension levels of least squared error (Lloyd, IEEE Trans. Inf. Theory 1982; Max 1960), from equal mass on."""

    def fit(self, vectors: np.ndarray) -> "LloydMaxQuantizer":
        """Calibrate on ``(n, d)`` vectors: borders halfway between levels, levels at bucket means, in turn."""
        super().fit(vectors)
        for _ in range(ROUNDS):
            before = self.levels_
            self.thresholds_ = (before[1:] + before[:-1]) / 2
            self.levels_ = self._bucket_means(vectors)
            if np.array_equal(self.levels_, before):
                break
        return self


class LloydMaxCodec(PercentileCodec):
    """``PercentileCodec`` with Lloyd-Max levels in place of equal mass."""

    def fit(self, vectors: np.ndarray, calibration: np.ndarray | None = None) -> "LloydMaxCodec":
        """As ``PercentileCodec``; then the levels."""
        super().fit(vectors, calibration)
        held_out = self.project(vectors if calibration is None else calibration)
        self.quantizer_ = LloydMaxQuantizer(self.bits).fit(held_out)
        return self


class CorrectedCodec(PercentileCodec):
    """``PercentileCodec`` with RaBitQ's estimator: one factor per vector, so that it decodes to its own length along itself.

    About the centre of the calibration vectors, ``decoded . x = x . x`` up to the rounding of a float16 (Gao and Long, SIGMOD
    2024, arXiv 2405.12497).
    """

    @property
    def bytes_per_vector(self) -> int:
        """Packed bytes of one document and its factor."""
        return super().bytes_per_vector + CORRECTION

    def fit(self, vectors: np.ndarray, calibration: np.ndarray | None = None) -> "CorrectedCodec":
        """As ``PercentileCodec``; then the centre."""
        super().fit(vectors, calibration)
        self.centre_ = self.project(vectors if calibration is None else calibration).mean(axis=0)
        return self

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """``(n, D) -> (n, bytes_per_vector) uint8``, the factor last."""
        codes, left = super().encode(vectors), self.project(vectors) - self.centre_
        overlap = (left * (super().decode(codes) - self.centre_)).sum(axis=1)
        factors = np.divide((left**2).sum(axis=1), overlap, out=np.ones_like(overlap), where=overlap > 0)
        factors = np.minimum(factors, np.finfo(np.float16).max).astype(np.float16)
        return np.hstack([codes, factors[:, None].view(np.uint8)])

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """``(n, bytes_per_vector) uint8 -> (n, dims) float32``."""
        factors = np.ascontiguousarray(codes[:, -CORRECTION:]).view(np.float16).astype(np.float32)
        return self.centre_ + factors * (super().decode(codes[:, :-CORRECTION]) - self.centre_)


ALTERNATIVES = {
    "2 bits": lambda dims, budget, seed: PercentileCodec(min(dims, 4 * budget), 2, rotate=True, seed=seed),
    "Lloyd-Max, 1 bit": lambda dims, budget, seed: LloydMaxCodec(*widest(dims, budget), rotate=True, seed=seed),
    "Lloyd-Max, 2 bits": lambda dims, budget, seed: LloydMaxCodec(min(dims, 4 * budget), 2, rotate=True, seed=seed),
    "norm correction": lambda dims, budget, seed: CorrectedCodec(
        *widest(dims, budget - CORRECTION), rotate=True, seed=seed
    ),
}
"""Name -> factory(in_dims, budget in bytes, seed)."""
