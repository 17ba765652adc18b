"""Compression methods with one face: fit on vectors without judgements, encode to packed bytes, score.

``project`` maps a float vector to the space in which ``decode`` gives documents back, so that

* asymmetric scores are ``project(query) . decode(codes)`` (only documents are coded),
* symmetric scores are ``decode(encode(query)) . decode(codes)`` (both sides are coded).

To add one: give it these methods and enter it in ``CODECS``; a test runs every entry through the same checks.
"""

import numpy as np

from ccq_utils.decoder import Decoder, fit_pca
from ccq_utils.errors import StudyError
from ccq_utils.quantizer import BITS, PercentileQuantizer, packed_bytes


class PercentileCodec:
    """The paper's pipeline: decoder, truncation to ``dims``, percentile quantizer of ``bits``.

    Parameters
    ----------
    decoder : a fitted decoder; None fits uncentred PCA on the vectors given to ``fit``
    spacing : ``mass`` (the paper's equal-mass buckets) or ``width``
    rotate : turn the truncated vector by a random orthogonal matrix first, which spreads variance evenly over dims
    """

    def __init__(
        self, dims: int, bits: int, decoder: Decoder | None = None, rotate=False, spacing="mass", seed: int = 0
    ):
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
            self.rotation_ = _random_rotation(self.dims, self.seed)
        self.quantizer_ = PercentileQuantizer(self.bits, self.spacing).fit(
            self.project(vectors if calibration is None else calibration)
        )
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


class PqCodec:
    """Product quantization by faiss: ``budget`` sub-vectors of 8 bits each, after PCA to 512 dims and a random rotation.

    faiss is imported here and nowhere else. torch and faiss each bring an OpenMP runtime, and with more than one thread
    the two can stall or crash in one process, so faiss runs on one thread here. On macOS set
    ``KMP_DUPLICATE_LIB_OK=TRUE`` where the import itself fails.
    """

    def __init__(self, budget: int, iterations: int = 10, seed: int = 0):
        self.bytes_per_vector, self.iterations, self.seed = budget, iterations, seed

    def fit(self, vectors: np.ndarray, calibration: np.ndarray | None = None) -> "PqCodec":
        """Fit PCA, draw the rotation, train the codebooks on ``vectors``.

        Raises
        ------
        StudyError : fewer dims than sub-vectors, or fewer vectors than the 256 centroids of a codebook.
        """
        import faiss

        faiss.omp_set_num_threads(1)
        in_dims, parts = vectors.shape[1], self.bytes_per_vector
        if parts > in_dims or len(vectors) < 256:
            raise StudyError(
                f"PQ of {parts} bytes needs {parts} dims and 256 vectors, got {in_dims} and {len(vectors)}"
            )
        kept = max(parts, min(in_dims, 512) // parts * parts)
        self.decoder_, self.rotation_ = fit_pca(vectors, kept), _random_rotation(kept, self.seed)
        self.quantizer_ = faiss.ProductQuantizer(kept, parts, 8)
        self.quantizer_.cp.niter = self.iterations
        self.quantizer_.cp.min_points_per_centroid = 1  # faiss would print a warning below 39 points per centroid
        self.quantizer_.train(self.project(vectors))
        return self

    def project(self, vectors: np.ndarray) -> np.ndarray:
        """``(n, D) -> (n, kept) float32``: PCA, normalised, turned."""
        return self.decoder_.transform(vectors) @ self.rotation_

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """``(n, D) -> (n, bytes_per_vector) uint8``."""
        return self.quantizer_.compute_codes(np.ascontiguousarray(self.project(vectors)))

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """``(n, bytes_per_vector) uint8 -> (n, kept) float32``."""
        return self.quantizer_.decode(np.ascontiguousarray(codes))


class LshCodec:
    """Locality-sensitive hashing: the signs of ``bits`` random projections (the paper's stress setting is 1024 bits).

    Parameters
    ----------
    orthogonal : draw planes at right angles where the vectors have as many dims as there are bits
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


def _random_rotation(dims, seed):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((dims, dims)))[0].astype(np.float32)


def widest(in_dims: int, budget: int) -> tuple[int, int]:
    """The most dims, and their bits, that fit ``budget`` bytes: as many one-bit dims as the concat has, then more bits."""
    for bits in sorted(BITS):
        dims = 8 * budget // bits
        if dims <= in_dims:
            return dims, bits
    return in_dims, 8


CODECS = {
    "PCA, rotated": lambda in_dims, budget, decoder, seed: PercentileCodec(
        *widest(in_dims, budget), rotate=True, seed=seed
    ),
    "PCA": lambda in_dims, budget, decoder, seed: PercentileCodec(*widest(in_dims, budget)),
    "decoder": lambda in_dims, budget, decoder, seed: PercentileCodec(
        *widest(decoder.config["out_dims"], budget), decoder=decoder
    ),
    "decoder, rotated": lambda in_dims, budget, decoder, seed: PercentileCodec(
        *widest(decoder.config["out_dims"], budget), decoder=decoder, rotate=True, seed=seed
    ),
    "LSH": lambda in_dims, budget, decoder, seed: LshCodec(8 * budget, seed=seed),
    "PQ": lambda in_dims, budget, decoder, seed: PqCodec(budget, seed=seed),
}
"""Name -> factory(in_dims, budget in bytes, decoder, seed). Names are the same in every table and figure."""


def make_codec(name: str, in_dims: int, budget: int, decoder: Decoder | None = None, seed: int = 0):
    """A codec of at most ``budget`` bytes per vector; raises ``StudyError`` for a name that is not in ``CODECS``."""
    if name not in CODECS:
        raise StudyError(f"unknown codec {name!r}; known: {', '.join(CODECS)}")
    if budget < 1:
        raise StudyError(f"budget {budget} must be at least one byte per vector")
    return CODECS[name](in_dims, budget, decoder, seed)


def scores(codec, queries: np.ndarray, codes: np.ndarray, symmetric: bool = False) -> np.ndarray:
    """Score matrix ``(queries, documents)`` of float queries against packed codes; see the module's head."""
    left = codec.decode(codec.encode(queries)) if symmetric else codec.project(queries)
    return left @ codec.decode(codes).T
