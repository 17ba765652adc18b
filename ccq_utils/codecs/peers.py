"""Published compression methods beside ours, on the same vectors at the same bytes.

faiss and sentence-transformers do the work. What is ours is how many dims a method gets, so that its code with all
per-vector constants fits the budget, and how queries are projected: each peer keeps them in float where it can.
"""

import re

import numpy as np

from ccq_utils.codecs.codec import Codec, NotPossible, require_distinct
from ccq_utils.codecs.decoder import fit_pca, principal_axes, random_rotation
from ccq_utils.codecs.faiss_index import load_faiss
from ccq_utils.codecs.percentile import POWER, LshCodec
from ccq_utils.codecs.quantizer import packed_bytes
from ccq_utils.common.errors import StudyError

PQ_DIMS = 512  # that product quantization keeps at most: a codebook's share of the training text is small as it is
# rounds of training; more take two to four times as long and move retention at 48x by .002, less than another seed does
ITQ_ROUNDS, OPQ_ROUNDS, OPQ_LLOYD, PQ_LLOYD = 5, 2, 4, 6
OPQ_POINTS = 4000  # vectors that OPQ's rotation is trained on at most
SHOWN = 200  # documents that RaBitQ's search gives back per query, of which nDCG@10 needs ten
QUERY_BITS = 8  # per dim of RaBitQ's query: 99.6 % of the same top ten as a float query, a hundred times faster


class FaissCodec:
    """A codec by faiss's index ``factory`` string, for example ``SQ8``: faiss decodes documents, queries stay in float.

    Vectors are turned to ``dims`` of centred PCA first, in a random orthogonal basis drawn by ``seed``, which spreads their
    variance evenly (faiss's own ``PCAR`` always draws the same one). None leaves them as they are.
    """

    def __init__(self, factory: str, dims: int | None = None, seed: int = 0):
        self.factory, self.dims, self.seed = factory, dims, seed

    @property
    def bytes_per_vector(self) -> int:
        """Faiss's own count, per-vector constants included."""
        return self.index_.sa_code_size()

    def fit(self, vectors: np.ndarray, calibration: np.ndarray | None = None) -> "FaissCodec":
        """Train on ``(n, D)`` vectors; where faiss cannot, the error has its reason."""
        faiss, opq = load_faiss(), re.match(r"OPQ\d+_(\d+)", self.factory)
        # with fewer faiss would stop with an error for some codecs, and with the process for others
        require_distinct(vectors, max(int(opq[1]) if opq else self.dims or 2, 256 if "PQ" in self.factory else 2))
        self.mean_, self.basis_ = np.float32(0), None
        if self.dims is not None:
            self.mean_ = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
            axes = principal_axes(vectors - self.mean_)[:, : self.dims].astype(np.float32)
            self.basis_ = axes @ random_rotation(self.dims, self.seed)
        turned = np.ascontiguousarray(self.project(vectors - self.mean_), dtype=np.float32)
        try:
            self.index_ = faiss.index_factory(turned.shape[1], self.factory, faiss.METRIC_INNER_PRODUCT)
            self._set_rounds(faiss)
            self.index_.train(turned)
            self.saved_ = faiss.serialize_index(self.index_)  # counted by shared_bytes
        except RuntimeError as error:
            reason = str(error).splitlines()[-1]
            raise NotPossible(f"faiss cannot train {self.factory!r} on {len(vectors)} vectors: {reason}") from error
        return self

    def _set_rounds(self, faiss):
        last = self.index_
        if isinstance(last, faiss.IndexPreTransform):
            first, last = faiss.downcast_VectorTransform(last.chain.at(0)), faiss.downcast_index(last.index)
            if isinstance(first, faiss.OPQMatrix):
                first.niter, first.niter_pq_0, first.niter_pq = OPQ_ROUNDS, OPQ_LLOYD, OPQ_LLOYD
                first.max_train_points = OPQ_POINTS
                self.quantizer = first.pq = faiss.ProductQuantizer(first.d_out, first.M, 8)
                self.quantizer.cp.min_points_per_centroid = 1  # its own would warn of few points, on stderr
        if hasattr(last, "pq"):
            last.pq.cp.niter, last.pq.cp.min_points_per_centroid, last.pq.cp.seed = PQ_LLOYD, 1, self.seed % 2**31

    def project(self, vectors: np.ndarray) -> np.ndarray:
        """Queries in the space of ``decode``: not centred, since that would take another amount off each document's score."""
        return vectors if self.basis_ is None else vectors @ self.basis_

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """``(n, D) -> (n, bytes_per_vector) uint8``."""
        return self.index_.sa_encode(np.ascontiguousarray(self.project(vectors - self.mean_), dtype=np.float32))

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """``(n, bytes_per_vector) uint8 -> (n, dims) float32``, less the mean where the codec turns vectors."""
        return self.index_.sa_decode(np.ascontiguousarray(codes))


class ItqCodec(LshCodec):
    """Iterative quantization (Gong and Lazebnik, CVPR 2011): signs of PCA dims, turned so that little is lost.

    Its rotation is found in float64, from a start that hangs on the space of the PCA dims and not on its axes: these
    differ between machines where variances lie close together, and codes of a few bits with them.
    """

    drawn = ()

    def fit(self, vectors: np.ndarray, calibration: np.ndarray | None = None) -> "ItqCodec":
        """Learn a rotation of the PCA dims, from the signs of random projections on."""
        require_distinct(vectors, self.bits)
        self.mean_ = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
        axes = principal_axes(vectors - self.mean_)[:, : self.bits]
        values = (vectors - self.mean_) @ axes
        rotation = axes.T @ np.random.default_rng(self.seed).standard_normal((vectors.shape[1], self.bits))
        for _ in range(ITQ_ROUNDS):
            aim = values.T @ np.where(values @ rotation >= 0, 1.0, -1.0)
            squares, basis = np.linalg.eigh(aim.T @ aim)  # of the rotation nearest to the aim
            rotation = aim @ (basis / np.sqrt(np.maximum(squares, 1e-12 * squares[-1]))) @ basis.T
        self.planes_, self.decoder_ = (axes @ rotation).astype(np.float32), None
        return self

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """``(n, D) -> (n, bits / 8) uint8``, of centred vectors."""
        return super().encode(vectors - self.mean_)


class RabitqCodec(FaissCodec):
    """RaBitQ of one bit by faiss, after centred PCA with a random rotation (it needs one); its own estimator."""

    CONSTANTS = 8  # bytes beside the bits

    def __init__(self, in_dims: int, budget: int, seed: int = 0):
        if budget <= self.CONSTANTS:
            raise NotPossible(f"RaBitQ needs {self.CONSTANTS} bytes of constants; {budget} are too few")
        super().__init__("RaBitQ", min(in_dims, 8 * (budget - self.CONSTANTS)), seed)

    def score(self, queries: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Faiss's estimate for the best ``SHOWN`` documents of each query, the lowest number for all others."""
        index = load_faiss().clone_index(self.index_)
        index.qb = QUERY_BITS
        index.add_sa_codes(np.ascontiguousarray(codes))
        found, order = index.search(self.project(queries), min(SHOWN, len(codes)))
        matrix = np.full((len(queries), len(codes)), np.finfo(np.float32).min, dtype=np.float32)
        np.put_along_axis(matrix, order, found, axis=1)
        return matrix


class BinaryCodec:
    """sentence-transformers' ``quantize_embeddings(vectors, "ubinary")`` after uncentred PCA to as many dims as fit."""

    def __init__(self, dims: int):
        self.dims, self.bytes_per_vector = dims, packed_bytes(dims, 1)

    def fit(self, vectors: np.ndarray, calibration: np.ndarray | None = None) -> "BinaryCodec":
        """Fit PCA."""
        self.decoder_ = fit_pca(vectors, self.dims)
        return self

    def project(self, vectors: np.ndarray) -> np.ndarray:
        """``(n, D) -> (n, dims)``, in float, as sentence-transformers' rescoring does."""
        return self.decoder_.transform(vectors)

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """``(n, D) -> (n, bytes_per_vector) uint8``."""
        from sentence_transformers.util.quantization import quantize_embeddings

        return np.ascontiguousarray(quantize_embeddings(self.decoder_.transform(vectors), "ubinary"))

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Signs, ``(n, dims) float32``."""
        return np.unpackbits(codes, axis=1, count=self.dims).astype(np.float32) * 2 - 1


class Equalised:
    """A peer on the dims of equalised PCA, which cost its codes no byte; it decodes and counts its bytes itself."""

    def __init__(self, codec: Codec):
        self.codec_ = codec
        self.decode = codec.decode

    def fit(self, vectors: np.ndarray, calibration: np.ndarray | None = None) -> "Equalised":
        """Fit equalised PCA, and the peer on what it gives."""
        self.decoder_ = fit_pca(vectors, vectors.shape[1], POWER, calibration)
        self.codec_.fit(self.decoder_.transform(vectors))
        self.bytes_per_vector = self.codec_.bytes_per_vector
        return self

    def project(self, vectors: np.ndarray) -> np.ndarray:
        """As the peer projects equalised dims."""
        return self.codec_.project(self.decoder_.transform(vectors))

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """The peer's codes."""
        return self.codec_.encode(self.decoder_.transform(vectors))


def _pq_dims(dims, budget):
    if budget > dims:
        raise NotPossible(f"product quantization of {dims} dims has at most as many bytes; {budget} are too many")
    return max(budget, min(dims, PQ_DIMS) // budget * budget)


PEERS = {
    "PQ": lambda dims, size, seed: FaissCodec(f"PQ{size}x8np", _pq_dims(dims, size), seed),
    "PQ, equalised": lambda dims, size, seed: Equalised(PEERS["PQ"](dims, size, seed)),
    "OPQ": lambda dims, size, seed: FaissCodec(f"OPQ{size}_{_pq_dims(dims, size)},PQ{size}x8np", seed=seed),
    "PCA, SQ8": lambda dims, size, seed: FaissCodec("SQ8", min(dims, size), seed),
    "PCA, SQ4": lambda dims, size, seed: FaissCodec("SQ4", min(dims, 2 * size), seed),
    "ITQ": lambda dims, size, seed: ItqCodec(min(dims, 8 * size), seed),
    "ITQ, equalised": lambda dims, size, seed: Equalised(PEERS["ITQ"](dims, size, seed)),
    "RaBitQ, 1 bit": RabitqCodec,
    "TurboQuant, 1 bit": lambda dims, size, seed: FaissCodec("L2norm,SQtqmse1", min(dims, 8 * size), seed),
    "TurboQuant, 2 bit": lambda dims, size, seed: FaissCodec("L2norm,SQtqmse2", min(dims, 4 * size), seed),
    "binary": lambda dims, size, seed: BinaryCodec(min(dims, 8 * size)),
}
"""Name -> factory(in_dims, bytes per vector, seed)."""


def make_peer(name: str, in_dims: int, budget: int, seed: int = 0) -> Codec:
    """A peer's codec of at most ``budget`` bytes per vector; raises ``StudyError`` for a name that is not in ``PEERS``."""
    if name not in PEERS:
        raise StudyError(f"unknown peer {name!r}; known: {', '.join(map(repr, PEERS))}")
    return PEERS[name](in_dims, budget, seed)
