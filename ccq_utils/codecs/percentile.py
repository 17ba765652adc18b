"""The paper's codec, hashing, and the table of codecs that the study compares.

To add one: give it the methods of ``Codec`` and enter it in ``CODECS``; a test runs every entry through the same checks.
"""

import copy
from functools import partial

import numpy as np

from ccq_utils.codecs.codec import Codec
from ccq_utils.codecs.decoder import Decoder, fit_pca, random_rotation
from ccq_utils.codecs.quantizer import BITS, PercentileQuantizer, packed_bytes
from ccq_utils.common.errors import StudyError


class PercentileCodec:
    """The paper's pipeline: decoder, truncation to ``dims``, percentile quantizer of ``bits``.

    Without a fitted ``decoder``, ``fit`` makes one: uncentred PCA, equalised by ``power`` (see ``fit_pca``). ``rotate`` turns
    the truncated vector by a random orthogonal matrix of ``seed``, which spreads variance evenly over dims. ``spacing`` is
    ``mass`` (the paper's equal-mass buckets) or ``width``.
    """

    drawn = ("rotation_",)

    def __init__(self, dims: int, bits: int, decoder=None, rotate=False, spacing="mass", seed=0, power=0.0):
        self.dims, self.bits, self.decoder = dims, bits, decoder
        self.rotate, self.spacing, self.seed, self.power = rotate, spacing, seed, power

    @property
    def bytes_per_vector(self) -> int:
        """Packed bytes of one document."""
        return packed_bytes(self.dims, self.bits)

    def fit(self, vectors: np.ndarray, calibration: np.ndarray | None = None) -> "PercentileCodec":
        """Fit PCA where no decoder is given, draw the rotation, calibrate on ``calibration`` (else on ``vectors``)."""
        made = copy.copy(self)  # so that a fit that fails changes nothing
        made.decoder_ = self.decoder or fit_pca(vectors, self.dims, self.power, calibration)
        if self.rotate:
            made.rotation_ = random_rotation(self.dims, self.seed)
        held_out = made.project(vectors if calibration is None else calibration)
        made.quantizer_ = PercentileQuantizer(self.bits, self.spacing).fit(held_out)
        vars(self).update(vars(made))
        return self

    def project(self, vectors: np.ndarray) -> np.ndarray:
        """``(n, D) -> (n, dims) float32``: decoded, truncated, normalised, turned."""
        decoded = self.decoder_.transform(vectors, self.dims)
        return decoded @ self.rotation_ if self.rotate else decoded

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """``(n, D) -> (n, bytes_per_vector) uint8``."""
        return self.quantizer_.encode(self.project(vectors))

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """``(n, bytes_per_vector) uint8 -> (n, dims) float32``, of length one: scores are cosines, as the paper's."""
        values = self.quantizer_.decode(codes)
        return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)  # zeros stay

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

    Planes are drawn at right angles if ``orthogonal`` is set and the vectors have as many dims as there are bits. Vectors go
    through ``decoder`` first, if there is one.
    """

    drawn = ("planes_",)

    def __init__(self, bits: int, seed: int = 0, orthogonal: bool = True, decoder: Decoder | None = None):
        self.bits, self.seed, self.orthogonal, self.decoder = bits, seed, orthogonal, decoder

    @property
    def bytes_per_vector(self) -> int:
        """A bit per plane."""
        return packed_bytes(self.bits, 1)

    def fit(self, vectors: np.ndarray, calibration: np.ndarray | None = None) -> "LshCodec":
        """Draw the hyperplanes; nothing is learned."""
        self.decoder_ = self.decoder
        dims = vectors.shape[1] if self.decoder is None else self.decoder.config["out_dims"]
        drawn = np.random.default_rng(self.seed).standard_normal((dims, self.bits))
        right_angles = self.orthogonal and self.bits <= dims
        self.planes_ = (np.linalg.qr(drawn)[0] if right_angles else drawn).astype(np.float32)
        return self

    def project(self, vectors: np.ndarray) -> np.ndarray:
        """``(n, D) -> (n, bits) float32``."""
        return (vectors if self.decoder_ is None else self.decoder_.transform(vectors)) @ self.planes_

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """``(n, D) -> (n, bits / 8) uint8``."""
        return np.packbits(self.project(vectors) >= 0, axis=1)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Codes to plus and minus one, ``(n, bits) float32``; symmetric scores then rank as Hamming distance does."""
        return np.unpackbits(codes, axis=1, count=self.bits).astype(np.float32) * 2 - 1

    def state(self) -> tuple[dict, dict[str, np.ndarray]]:
        """Settings (JSON-ready) and planes, without the decoder."""
        return {"bits": self.bits, "seed": self.seed, "orthogonal": self.orthogonal}, {"planes": self.planes_}

    @classmethod
    def from_state(cls, settings: dict, arrays: dict[str, np.ndarray], decoder: Decoder | None) -> "LshCodec":
        """The codec that ``state`` described."""
        codec = cls(**settings, decoder=decoder)
        codec.decoder_, codec.planes_ = decoder, arrays["planes"]
        return codec


def _percentile(in_dims, budget, decoder, seed, bits, rotate=False, usual=2, power=None):
    decoder = decoder if power is None else None  # a power is that of PCA
    most = decoder.config["out_dims"] if decoder else in_dims
    bits = bits or next((bits for bits in BITS[::-1] if bits >= usual and 8 * budget // bits <= most), 8)
    dims = min(most, 8 * budget // bits)
    return PercentileCodec(dims, bits, decoder, rotate, seed=seed if rotate else 0, power=power or 0.0)


POWER = 0.375
"""Of equalised PCA: of 0.25, 0.375 and 0.5 the best in the mean of 48x and 192x (.906 against .902 and .905) on validation
queries of four sets: the default profile's two, SciFact and NFCorpus (there a concat of two MiniLMs)."""
CODECS = {
    "equalised PCA": partial(_percentile, rotate=True, usual=1, power=POWER),
    "PCA": partial(_percentile, power=0.0),
    "PCA, rotated": partial(_percentile, rotate=True, usual=1, power=0.0),
    "decoder": _percentile,
    "decoder, rotated": partial(_percentile, rotate=True, usual=1),
    "decoder, LSH": lambda in_dims, budget, decoder, seed, bits: LshCodec(8 * budget, seed, decoder=decoder),
    "LSH": lambda in_dims, budget, decoder, seed, bits: LshCodec(8 * budget, seed),
}
"""Name -> factory(in_dims, budget in bytes, decoder, seed, bits per dim). Names are the same in every table and figure."""
DETERMINISTIC = ("PCA",)  # codecs in which nothing is drawn or trained by gradient: the same for every seed
GRADED = ("equalised PCA", "PCA", "PCA, rotated", "decoder", "decoder, rotated")
"""Codecs that can spend their bytes on few dims with many bits, or on many with few."""


def check_name(name: str) -> None:
    """Raises ``StudyError`` for a name of no codec."""
    if name not in CODECS:
        raise StudyError(f"codec {name!r} is unknown; choose one of: {', '.join(map(repr, CODECS))}")


def make_codec(name: str, in_dims: int, budget: int, decoder=None, seed: int = 0, bits: int | None = None) -> Codec:
    """A codec of at most ``budget`` bytes per vector.

    ``bits`` are per dim, of a codec in ``GRADED``, which then keeps as many dims as fit; its usual number where None: 1
    after a rotation, else 2, and more where there are fewer dims than would fill the bytes.
    """
    check_name(name)
    if budget < 1:
        raise StudyError(f"budget {budget} must be at least one byte per vector")
    return CODECS[name](in_dims, budget, decoder, seed, bits)
