"""The paper's codec, hashing, and the table of codecs that the study compares.

To add one: give it the methods of ``Codec`` and enter it in ``CODECS``; a test runs every entry through the same checks.
"""

from functools import partial

import numpy as np

from ccq_utils.codecs.byte_blocks import BlockCodec
from ccq_utils.codecs.codec import Codec
from ccq_utils.codecs.decoder import Decoder, fit_pca, random_rotation
from ccq_utils.codecs.quantizer import BITS, PercentileQuantizer, packed_bytes
from ccq_utils.common.errors import StudyError


class PercentileCodec:
    """The paper's pipeline: decoder, truncation to ``dims``, percentile quantizer of ``bits``.

    Args:
        decoder: A fitted decoder; None fits uncentred PCA on the vectors given to ``fit``.
        rotate: Turn the truncated vector by a random orthogonal matrix first, which spreads variance evenly over dims.
        spacing: ``mass`` (the paper's equal-mass buckets) or ``width``.
        seed: Of the rotation.
    """

    def __init__(self, dims: int, bits: int, decoder: Decoder | None = None, rotate=False, spacing="mass", seed=0):
        self.dims, self.bits, self.decoder = dims, bits, decoder
        self.rotate, self.spacing, self.seed = rotate, spacing, seed

    @property
    def bytes_per_vector(self) -> int:
        """Packed bytes of one document."""
        return packed_bytes(self.dims, self.bits)

    def fit(self, vectors: np.ndarray, calibration: np.ndarray | None = None) -> "PercentileCodec":
        """Fit PCA where no decoder is given, draw the rotation, calibrate on ``calibration`` (else on ``vectors``)."""
        self.decoder_ = self.decoder if self.decoder is not None else fit_pca(vectors, self.dims)
        if self.rotate:
            self.rotation_ = random_rotation(self.dims, self.seed)
        held_out = self.project(vectors if calibration is None else calibration)
        self.quantizer_ = PercentileQuantizer(self.bits, self.spacing).fit(held_out)
        return self

    def project(self, vectors: np.ndarray) -> np.ndarray:
        """``(n, D) -> (n, dims) float32``: decoded, truncated, normalised, turned."""
        decoded = self.decoder_.transform(vectors, self.dims)
        return decoded @ self.rotation_ if self.rotate else decoded

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """``(n, D) -> (n, bytes_per_vector) uint8``."""
        return self.quantizer_.encode(self.project(vectors))

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """``(n, bytes_per_vector) uint8 -> (n, dims) float32``."""
        return self.quantizer_.decode(codes)

    def state(self) -> tuple[dict, dict[str, np.ndarray]]:
        """Settings (JSON-ready) and arrays of a fitted codec, without its decoder."""
        settings = {key: value for key, value in vars(self).items() if key != "decoder" and not key.endswith("_")}
        arrays = {"thresholds": self.quantizer_.thresholds_, "levels": self.quantizer_.levels_}
        return settings, arrays | ({"rotation": self.rotation_} if self.rotate else {})

    @classmethod
    def from_state(cls, settings: dict, arrays: dict[str, np.ndarray], decoder: Decoder) -> "PercentileCodec":
        """The codec that ``state`` described, with the decoder that it was calibrated for."""
        codec = cls(**settings, decoder=decoder)
        codec.decoder_, codec.rotation_ = decoder, arrays.get("rotation")
        codec.quantizer_ = PercentileQuantizer(codec.bits, codec.spacing)
        codec.quantizer_.thresholds_, codec.quantizer_.levels_ = arrays["thresholds"], arrays["levels"]
        return codec


class LshCodec:
    """Locality-sensitive hashing: the signs of ``bits`` random projections (the paper's stress setting is 1024 bits).

    Planes are drawn at right angles if ``orthogonal`` is set and the vectors have as many dims as there are bits.
    """

    def __init__(self, bits: int, seed: int = 0, orthogonal: bool = True):
        self.bits, self.seed, self.orthogonal = bits, seed, orthogonal
        self.bytes_per_vector = packed_bytes(bits, 1)

    def fit(self, vectors: np.ndarray, calibration: np.ndarray | None = None) -> "LshCodec":
        """Draw the hyperplanes; nothing is learned."""
        drawn = np.random.default_rng(self.seed).standard_normal((vectors.shape[1], self.bits))
        right_angles = self.orthogonal and self.bits <= vectors.shape[1]
        self.planes_ = (np.linalg.qr(drawn)[0] if right_angles else drawn).astype(np.float32)
        return self

    def project(self, vectors: np.ndarray) -> np.ndarray:
        """``(n, D) -> (n, bits) float32``."""
        return vectors @ self.planes_

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """``(n, D) -> (n, bits / 8) uint8``."""
        return np.packbits(self.project(vectors) >= 0, axis=1)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Codes to plus and minus one, ``(n, bits) float32``; symmetric scores then rank as Hamming distance does."""
        return np.unpackbits(codes, axis=1, count=self.bits).astype(np.float32) * 2 - 1


def widest(in_dims: int, budget: int) -> tuple[int, int]:
    """The most dims, and their bits, that fit ``budget`` bytes: as many one-bit dims as the concat has, then more bits."""
    for bits in sorted(BITS):
        dims = 8 * budget // bits
        if dims <= in_dims:
            return dims, bits
    return in_dims, 8


def _paper(in_dims, budget, decoder, seed, rotate=False):
    dims, bits = widest(decoder.config["out_dims"] if decoder else in_dims, budget)
    return PercentileCodec(dims, bits, decoder, rotate, seed=seed if rotate else 0)


CODECS = {
    "byte blocks": lambda in_dims, budget, decoder, seed: BlockCodec(budget, seed),
    "PCA, rotated": lambda in_dims, budget, decoder, seed: _paper(in_dims, budget, None, seed, rotate=True),
    "PCA": lambda in_dims, budget, decoder, seed: _paper(in_dims, budget, None, seed),
    "decoder": _paper,
    "decoder, rotated": partial(_paper, rotate=True),
    "LSH": lambda in_dims, budget, decoder, seed: LshCodec(8 * budget, seed),
}
"""Name -> factory(in_dims, budget in bytes, decoder, seed). Names are the same in every table and figure."""
DETERMINISTIC = ("PCA",)
"""Codecs in which nothing is drawn or trained by gradient: the same for every seed."""


def make_codec(name: str, in_dims: int, budget: int, decoder: Decoder | None = None, seed: int = 0) -> Codec:
    """A codec of at most ``budget`` bytes per vector; raises ``StudyError`` for a name that is not in ``CODECS``."""
    if name not in CODECS:
        raise StudyError(f"unknown codec {name!r}; known: {', '.join(CODECS)}")
    if budget < 1:
        raise StudyError(f"budget {budget} must be at least one byte per vector")
    return CODECS[name](in_dims, budget, decoder, seed)
