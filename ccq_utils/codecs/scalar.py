"""Other ways to spend the same bytes on PCA dims, one bucket number per dim, beside equal-mass buckets."""

import numpy as np

from ccq_utils.codecs.decoder import fit_pca
from ccq_utils.codecs.percentile import PercentileCodec, widest
from ccq_utils.codecs.quantizer import PercentileQuantizer
from ccq_utils.common.errors import StudyError

MOST_BITS = 8
"""Bits that a dim gets at most: bucket numbers are uint8."""
ROUNDS = 30
"""Rounds of Lloyd's iteration at most; it stops where no level moves."""
CORRECTION = 2
"""Bytes per vector for its norm correction (float16)."""


class LloydMaxQuantizer(PercentileQuantizer):
    """Per-dimension levels of least squared error (Lloyd, IEEE Trans. Inf. Theory 1982; Max 1960), from equal mass on.

    Args:
        bits: 1 to 8; ``encode`` and ``decode`` pack 1, 2, 4 and 8.
    """

    def __init__(self, bits: int):
        if bits not in range(1, MOST_BITS + 1):
            raise StudyError(f"bits {bits!r} is not supported; accepted: 1 to {MOST_BITS}")
        self.bits, self.spacing = bits, "mass"

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


def water_filling(variances: np.ndarray, bits: int) -> np.ndarray:
    """Whole bits per dim, ``(d,)``, that add up to ``bits``: each goes where the error is largest, and quarters it.

    Reverse water-filling (Cover and Thomas, *Elements of Information Theory*, 10.3.3) in steps of one bit.

    Raises:
        StudyError: More bits than ``MOST_BITS`` per dim can take.
    """
    if not 0 <= bits <= MOST_BITS * len(variances):
        raise StudyError(f"{len(variances)} dims take 0 to {MOST_BITS * len(variances)} bits, not {bits}")
    error = np.outer(variances, 4.0 ** -np.arange(MOST_BITS))  # before a dim's first bit, its second, ...
    order = np.argsort(-error, axis=None, kind="stable")[:bits]
    return np.bincount(order // MOST_BITS, minlength=len(variances))


class WaterfilledCodec:
    """Uncentred PCA, not rotated; bits by reverse water-filling, Lloyd-Max levels; dims without a bit are dropped."""

    def __init__(self, budget: int):
        self.budget = self.bytes_per_vector = budget

    def fit(self, vectors: np.ndarray, calibration: np.ndarray | None = None) -> "WaterfilledCodec":
        """Fit PCA on ``(n, D)`` vectors, bits and levels on ``calibration``, else on the same."""
        self.decoder_ = fit_pca(vectors, vectors.shape[1])
        values = self.decoder_.transform(vectors if calibration is None else calibration)
        bits = water_filling(values.var(axis=0), 8 * self.budget)
        self.kept_ = np.flatnonzero(bits)
        self.used_ = (
            np.arange(MOST_BITS) >= MOST_BITS - bits[self.kept_, None]
        )  # which of a dim's eight bits are stored
        self.quantizers_, self.levels_ = {}, np.zeros((2**MOST_BITS, len(self.kept_)), dtype=np.float32)
        for count in np.unique(bits[self.kept_]):
            mine = bits[self.kept_] == count
            quantizer = LloydMaxQuantizer(int(count)).fit(values[:, self.kept_[mine]])
            self.quantizers_[tuple(np.flatnonzero(mine))] = quantizer
            self.levels_[: 2**count, mine] = quantizer.levels_
        return self

    def project(self, vectors: np.ndarray) -> np.ndarray:
        """``(n, D) -> (n, d) float32``: the dims that have bits."""
        return self.decoder_.transform(vectors)[:, self.kept_]

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """``(n, D) -> (n, bytes_per_vector) uint8``."""
        values = self.project(vectors)
        buckets = np.empty(values.shape, dtype=np.uint8)
        for dims, quantizer in self.quantizers_.items():
            buckets[:, dims] = quantizer.buckets(values[:, dims])
        return np.packbits(np.unpackbits(buckets[:, :, None], axis=2)[:, self.used_], axis=1)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """``(n, bytes_per_vector) uint8 -> (n, d) float32``."""
        bits = np.zeros((len(codes), *self.used_.shape), dtype=np.uint8)
        bits[:, self.used_] = np.unpackbits(codes, axis=1)
        return np.take_along_axis(self.levels_, np.packbits(bits, axis=2)[:, :, 0].astype(np.intp), axis=0)


ALTERNATIVES = {
    "2 bits": lambda dims, budget, seed: PercentileCodec(min(dims, 4 * budget), 2, rotate=True, seed=seed),
    "Lloyd-Max, 1 bit": lambda dims, budget, seed: LloydMaxCodec(*widest(dims, budget), rotate=True, seed=seed),
    "Lloyd-Max, 2 bits": lambda dims, budget, seed: LloydMaxCodec(min(dims, 4 * budget), 2, rotate=True, seed=seed),
    "norm correction": lambda dims, budget, seed: CorrectedCodec(
        *widest(dims, budget - CORRECTION), rotate=True, seed=seed
    ),
    "water-filling": lambda dims, budget, seed: WaterfilledCodec(budget),
}
"""Name -> factory(in_dims, budget in bytes, seed)."""
