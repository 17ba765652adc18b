"""Other ways to spend the same bytes on PCA dims, one bucket number per dim (notebook 04), beside rotated equal-mass codes.

Each has the face of ``codecs``. What is fitted is shared by all vectors and not counted; what is stored per vector is.
"""

from collections.abc import Callable

import numpy as np

from ccq_utils.codecs.decoder import fit_pca, random_rotation
from ccq_utils.codecs.ideal import OnEqualised
from ccq_utils.codecs.peers import ItqCodec
from ccq_utils.codecs.percentile import PercentileCodec, widest
from ccq_utils.codecs.quantizer import PercentileQuantizer
from ccq_utils.common.errors import StudyError

MOST_BITS = 8
"""Bits that a dim gets at most: bucket numbers are uint8."""
ROUNDS = 30
"""Rounds of Lloyd's iteration at most; it stops where no level moves."""
ITQ_BITS = 512
"""Bits up to which ITQ's rotation is learned here."""
CORRECTION, LENGTH = 2, 2
"""Bytes per vector for its norm correction (float16), and for the length of an entropy-coded vector (uint16)."""


class LloydMaxQuantizer(PercentileQuantizer):
    """Per-dimension levels of least squared error (Lloyd, IEEE Trans. Inf. Theory 1982; Max 1960), from equal mass on.

    Parameters
    ----------
    bits : 1 to 8; ``encode`` and ``decode`` pack 1, 2, 4 and 8
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
        self.quantizer_ = LloydMaxQuantizer(self.bits).fit(
            self.project(vectors if calibration is None else calibration)
        )
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

    Raises
    ------
    StudyError : more bits than ``MOST_BITS`` per dim can take.
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
        held_out = vectors if calibration is None else calibration
        self.decoder_ = fit_pca(vectors, vectors.shape[1])
        values = self.decoder_.transform(held_out)
        bits = water_filling(values.var(axis=0), 8 * self.budget)
        self.order_ = np.argsort(-bits, kind="stable")[: np.count_nonzero(bits)]
        self.bits_ = bits[self.order_]
        self.quantizers_ = [
            LloydMaxQuantizer(int(count)).fit(values[:, self.order_[self.bits_ == count]])
            for count in np.unique(self.bits_)[::-1]
        ]
        return self

    def project(self, vectors: np.ndarray) -> np.ndarray:
        """``(n, D) -> (n, d) float32``: dims that have bits, those with the most first."""
        return self.decoder_.transform(vectors)[:, self.order_]

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """``(n, D) -> (n, bytes_per_vector) uint8``."""
        values, parts = self.project(vectors), []
        for quantizer in self.quantizers_:
            buckets = quantizer.buckets(values[:, self.bits_ == quantizer.bits])
            parts.append(np.unpackbits(buckets[:, :, None], axis=2)[:, :, -quantizer.bits :].reshape(len(values), -1))
        return np.packbits(np.hstack(parts), axis=1)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """``(n, bytes_per_vector) uint8 -> (n, d) float32``."""
        stream, start, parts = np.unpackbits(codes, axis=1), 0, []
        for quantizer in self.quantizers_:
            taken = quantizer.bits * quantizer.dims
            each = stream[:, start : start + taken].reshape(len(codes), quantizer.dims, quantizer.bits)
            padded = np.pad(each, ((0, 0), (0, 0), (MOST_BITS - quantizer.bits, 0)))
            buckets = np.packbits(padded, axis=2)[:, :, 0]
            parts.append(np.take_along_axis(quantizer.levels_, buckets.astype(np.intp), axis=0))
            start += taken
        return np.hstack(parts)


class QueryAwareCodec(PercentileCodec):
    """``PercentileCodec``, rotated, in the metric that makes the expected squared error of a score smallest.

    If documents' dims are multiplied by m_j and queries' divided by it, scores stay what they are. After a rotation each dim
    errs by the same share of the mean variance, so that a score errs in proportion to ``sum m_j^2 v_j * sum w_j / m_j^2``,
    with v the documents' variances and w the queries' mean squares: least for ``m_j^4 = w_j / v_j`` (Cauchy and Schwarz), and
    m = 1 where queries spread as documents do.

    Parameters
    ----------
    queries : ``(m, D)`` to measure w on, without judgements
    """

    def __init__(self, dims: int, bits: int, queries: np.ndarray, seed: int = 0):
        super().__init__(dims, bits, rotate=True, seed=seed)
        self.queries = queries

    def fit(self, vectors: np.ndarray, calibration: np.ndarray | None = None) -> "QueryAwareCodec":
        """Fit PCA on the vectors, m and the quantizer on ``calibration``, else on the same."""
        held_out = vectors if calibration is None else calibration
        self.decoder_, self.rotation_ = fit_pca(vectors, self.dims), random_rotation(self.dims, self.seed)
        values, asked = (self.decoder_.transform(part, self.dims) for part in (held_out, self.queries))
        variances, squares = values.var(axis=0), (asked**2).mean(axis=0)
        floor = 1e-9 * variances.max()
        self.scale_ = (np.maximum(squares, floor) / np.maximum(variances, floor)) ** 0.25
        self.quantizer_ = PercentileQuantizer(self.bits).fit((values * self.scale_) @ self.rotation_)
        return self

    def project(self, vectors: np.ndarray) -> np.ndarray:
        """Queries, ``(n, D) -> (n, dims) float32``."""
        return (self.decoder_.transform(vectors, self.dims) / self.scale_) @ self.rotation_

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """Documents, ``(n, D) -> (n, bytes_per_vector) uint8``."""
        return self.quantizer_.encode((self.decoder_.transform(vectors, self.dims) * self.scale_) @ self.rotation_)


class EntropyCodec:
    """Uncentred PCA, not rotated; one step for all dims, bucket numbers as short as their probability allows.

    An arithmetic coder needs ``ceil(-log2 P) + 1`` bits for a vector of probability P (Shannon, Fano and Elias; Cover and
    Thomas, 5.9). P is the product over dims of the buckets' shares among calibration vectors, each count plus one half
    (Krichevsky and Trofimov), within the range that calibration saw; what lies outside takes the outermost bucket. Those
    bits, rounded up to bytes, and ``LENGTH`` are what is counted. The step is the finest whose mean on the calibration
    vectors is within the budget.
    """

    def __init__(self, budget: int):
        self.budget = budget

    def fit(self, vectors: np.ndarray, calibration: np.ndarray | None = None) -> "EntropyCodec":
        """Fit PCA on ``(n, D)`` vectors, step, probabilities and levels on ``calibration``, else on the same.

        Raises
        ------
        StudyError : a budget that the coarsest step exceeds.
        """
        self.decoder_ = fit_pca(vectors, vectors.shape[1])
        values = self.project(vectors if calibration is None else calibration)
        self.mean_, spread = values.mean(axis=0), values.std(axis=0).max()
        fine, coarse = 0.01 * spread, 100 * spread
        if self._tabulate(values, coarse) > self.budget:
            raise StudyError(f"an entropy-coded vector takes more than {self.budget} bytes; give more")
        for _ in range(16):  # bisection on the logarithm of the step
            step = np.sqrt(fine * coarse)
            fine, coarse = (step, coarse) if self._tabulate(values, step) > self.budget else (fine, step)
        self._tabulate(values, coarse)
        self.coded_ = []
        return self

    def _tabulate(self, values, step):
        """Probabilities and levels at a step; returns the mean bytes of the values that they come from."""
        self.step_ = step
        numbers = np.rint((values - self.mean_) / step).astype(np.int32)
        self.low_, self.high_ = numbers.min(axis=0), numbers.max(axis=0)
        sizes = self.high_ - self.low_ + 1
        self.first_ = np.cumsum(sizes) - sizes  # all dims' buckets in one row, dim after dim
        places = (numbers - self.low_ + self.first_).ravel()
        counts = np.bincount(places, minlength=sizes.sum())
        sums = np.bincount(places, weights=values.ravel(), minlength=sizes.sum())
        dims = np.repeat(np.arange(len(sizes)), sizes)
        middles = self.mean_[dims] + (np.arange(sizes.sum()) - self.first_[dims] + self.low_[dims]) * step
        self.levels_ = np.where(counts > 0, sums / np.maximum(counts, 1), middles).astype(np.float32)
        self.surprise_ = -np.log2((counts + 0.5) / (len(values) + 0.5 * sizes[dims]))
        return self.lengths(numbers).mean()

    def lengths(self, codes: np.ndarray) -> np.ndarray:
        """Counted bytes of each vector, ``(n,)``."""
        bits = self.surprise_[codes - self.low_ + self.first_].sum(axis=1)
        return np.ceil((np.ceil(bits) + 1) / 8) + LENGTH

    @property
    def bytes_per_vector(self) -> float:
        """Mean over all vectors that were coded since fitting."""
        return float(np.concatenate(self.coded_).mean())

    def project(self, vectors: np.ndarray) -> np.ndarray:
        """``(n, D) -> (n, D) float32``."""
        return self.decoder_.transform(vectors)

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """Bucket numbers, ``(n, D) int32``: not packed, for their lengths alone are counted."""
        numbers = np.rint((self.project(vectors) - self.mean_) / self.step_).astype(np.int32)
        codes = np.clip(numbers, self.low_, self.high_)
        self.coded_.append(self.lengths(codes))
        return codes

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """``(n, D) int32 -> (n, D) float32``."""
        return self.levels_[codes - self.low_ + self.first_]


def _rotated(kind: type, bits: int | None = None, constants: int = 0) -> Callable:
    """Factory of a rotated codec: at its widest where ``bits`` is None; ``constants`` are bytes set apart per vector."""

    def make(in_dims, budget, queries, seed):
        left = budget - constants
        if left < 1:
            raise StudyError(f"{constants} bytes of constants leave no code in a budget of {budget}")
        shape = widest(in_dims, left) if bits is None else (min(in_dims, 8 * left // bits), bits)
        return kind(*shape, rotate=True, seed=seed)

    return make


def _itq(bits, seed):
    if bits > ITQ_BITS:
        raise StudyError(f"ITQ of {bits} bits is not run here: its rotation takes a minute beyond {ITQ_BITS}")
    return ItqCodec(bits, seed)


ALTERNATIVES = {
    "2 bits": _rotated(PercentileCodec, 2),
    "Lloyd-Max, 1 bit": _rotated(LloydMaxCodec),
    "Lloyd-Max, 2 bits": _rotated(LloydMaxCodec, 2),
    "norm correction": _rotated(CorrectedCodec, constants=CORRECTION),
    "water-filling": lambda in_dims, budget, queries, seed: WaterfilledCodec(budget),
    "query-aware": lambda in_dims, budget, queries, seed: QueryAwareCodec(*widest(in_dims, budget), queries, seed),
    "ITQ": lambda in_dims, budget, queries, seed: _itq(min(in_dims, 8 * budget), seed),
    "entropy-coded": lambda in_dims, budget, queries, seed: EntropyCodec(budget),
    "equalised dims": lambda in_dims, budget, queries, seed: OnEqualised(
        PercentileCodec(*widest(in_dims, budget), rotate=True, seed=seed)
    ),
}
"""Name -> factory(in_dims, budget in bytes, training queries, seed)."""
DETERMINISTIC = ("water-filling", "entropy-coded")
"""Alternatives in which nothing is drawn: the same for every seed."""
