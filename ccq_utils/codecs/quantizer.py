"""The percentile quantizer: per-dimension buckets of equal mass, calibrated once, frozen, with packed codes."""

import numpy as np

from ccq_utils.codecs.codec import require_distinct
from ccq_utils.common.errors import StudyError

BITS = (8, 4, 2, 1)
SPACINGS = ("mass", "width")


def pack(buckets: np.ndarray, bits: int) -> np.ndarray:
    """Bucket numbers ``(n, d) uint8`` to packed codes ``(n, ceil(d * bits / 8)) uint8``, first dimension in the high bits."""
    _check_bits(bits)
    per_byte = 8 // bits
    padding = -buckets.shape[1] % per_byte
    padded = np.pad(buckets, ((0, 0), (0, padding))).reshape(len(buckets), -1, per_byte)
    shifts = np.arange(per_byte - 1, -1, -1, dtype=np.uint8) * np.uint8(bits)
    return np.bitwise_or.reduce(padded << shifts, axis=2).astype(np.uint8)


def unpack(codes: np.ndarray, bits: int, dims: int) -> np.ndarray:
    """Packed codes back to bucket numbers ``(n, dims) uint8``; raises ``StudyError`` where the width does not fit."""
    _check_bits(bits)
    expected = packed_bytes(dims, bits)
    if codes.ndim != 2 or codes.shape[1] != expected:
        raise StudyError(f"codes have shape {codes.shape}; {dims} dims at {bits} bits are {expected} bytes per vector")
    shifts = np.arange(8 // bits - 1, -1, -1, dtype=np.uint8) * np.uint8(bits)
    return ((codes[:, :, None] >> shifts) & np.uint8(2**bits - 1)).reshape(len(codes), -1)[:, :dims]


def packed_bytes(dims: int, bits: int) -> int:
    """Bytes per vector of ``dims`` codes of ``bits`` bits."""
    return -(-dims * bits // 8)


class PercentileQuantizer:
    """Per-dimension buckets with decoded values, calibrated once on held-out text.

    A value gets 8, 4, 2 or 1 ``bits``. The ``spacing`` ``mass`` puts as many calibration values in each bucket (the paper's
    method), ``width`` cuts evenly. ``thresholds_`` are bucket borders, ``(2**bits - 1, d) float32``; ``levels_`` the mean
    calibration value of each bucket, which decoding gives back, ``(2**bits, d) float32``.
    """

    def __init__(self, bits: int, spacing: str = "mass"):
        _check_bits(bits)
        if spacing not in SPACINGS:
            raise StudyError(f"unknown spacing {spacing!r}; accepted: {', '.join(SPACINGS)}")
        self.bits, self.spacing = bits, spacing

    def fit(self, vectors: np.ndarray) -> "PercentileQuantizer":
        """Calibrate on ``(n, d)`` vectors, at least as many as there are buckets; returns itself."""
        size = 2**self.bits
        require_distinct(vectors, size)
        if not np.isfinite(vectors).all():
            raise StudyError("calibration vectors hold NaN or infinity; mend the model or remove the texts")
        low, high, shares = vectors.min(0), vectors.max(0), np.arange(1, size) / size
        if self.spacing == "mass":
            self.thresholds_ = np.quantile(vectors, shares, axis=0).astype(np.float32)
        else:
            self.thresholds_ = (low + shares[:, None] * (high - low)).astype(np.float32)
        borders = np.vstack([low, self.thresholds_, high])
        self.levels_ = ((borders[1:] + borders[:-1]) / 2).astype(np.float32)  # an empty bucket decodes to its middle
        for dim, (numbers, values) in enumerate(zip(self.buckets(vectors).T, vectors.T, strict=True)):
            counts, sums = np.bincount(numbers, minlength=size), np.bincount(numbers, values, size)
            filled = counts > 0
            self.levels_[filled, dim] = sums[filled] / counts[filled]
        return self

    def buckets(self, vectors: np.ndarray) -> np.ndarray:
        """Bucket numbers ``(n, d) uint8``; a value on a border belongs to the upper bucket."""
        if vectors.ndim != 2 or vectors.shape[1] != self.thresholds_.shape[1]:
            dims = self.thresholds_.shape[1]
            raise StudyError(f"quantizer was calibrated for {dims} dims, the vectors have shape {vectors.shape}")
        if not np.isfinite(vectors).all():
            raise StudyError("vectors to encode hold NaN or infinity; mend the model or remove the texts")
        if self.bits <= 2:  # several times as fast as a search
            return sum((vectors >= border).astype(np.uint8) for border in self.thresholds_)
        columns = zip(self.thresholds_.T, vectors.T, strict=True)
        return np.stack([np.searchsorted(*column, side="right") for column in columns], axis=1).astype(np.uint8)

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """Packed codes ``(n, bytes_per_vector) uint8``."""
        return pack(self.buckets(vectors), self.bits)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Values ``(n, d) float32`` that the codes stand for."""
        buckets = unpack(codes, self.bits, self.levels_.shape[1])
        if self.bits == 1:  # several times as fast
            return np.where(buckets.astype(bool), self.levels_[1], self.levels_[0])
        return np.take_along_axis(self.levels_, buckets.astype(np.intp), axis=0)


def _check_bits(bits):
    if bits not in BITS:
        raise StudyError(f"bits {bits!r} is not supported; accepted: {', '.join(map(str, BITS))}")
