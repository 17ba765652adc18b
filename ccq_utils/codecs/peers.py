"""Published compression methods beside ours, on the same vectors at the same bytes.

faiss, sentence-transformers and mteb do the work. What is ours is how many dims a method gets, so that its code with all
per-vector constants fits the budget, and how queries are projected: each peer keeps them in float where it can.
"""

import os
import re
import warnings
from functools import partial
from types import SimpleNamespace

import numpy as np

from ccq_utils.codecs.codec import Codec, unit
from ccq_utils.codecs.decoder import fit_pca, principal_axes, random_rotation
from ccq_utils.codecs.faiss_index import load_faiss
from ccq_utils.codecs.percentile import LshCodec
from ccq_utils.codecs.quantizer import packed_bytes
from ccq_utils.common.errors import StudyError

PQ_DIMS, MOST_ITQ_BITS = 512, 1024
"""Dims that product quantization keeps at most (a codebook's share of the training text is small as it is); bits up to
which ITQ is run: its rotation takes minutes beyond."""
ITQ_ROUNDS, OPQ_ROUNDS, OPQ_LLOYD, PQ_LLOYD = 5, 2, 4, 6
"""Rounds of training. More (20 of ITQ, 5 of OPQ, 10 of PQ) take two to four times as long and move retention of the default
profile's tasks at 48x by .002 in the mean, less than another seed does."""
OPQ_POINTS = 4000  # vectors that OPQ's rotation is trained on at most
SHOWN, QUERY_BITS = 200, 8
"""Documents that RaBitQ's search gives back per query, of which nDCG@10 needs ten; bits per dim of its query: 99.6 % of the
same top ten as a float query, a hundred times faster."""


class FaissCodec:
    """A codec of faiss; documents are decoded by faiss, queries stay in float.

    Args:
        factory: Faiss's index factory string, for example ``SQ8``.
        dims: Vectors are turned to so many dims of centred PCA first, in a random orthogonal basis drawn by ``seed``, which
            spreads their variance evenly (faiss's own ``PCAR`` always draws the same one). None leaves them as they are.
    """

    def __init__(self, factory: str, dims: int | None = None, seed: int = 0):
        self.factory, self.dims, self.seed = factory, dims, seed

    @property
    def bytes_per_vector(self) -> int:
        """Faiss's own count, per-vector constants included."""
        return self.index_.sa_code_size()

    def fit(self, vectors: np.ndarray, calibration: np.ndarray | None = None) -> "FaissCodec":
        """Train on ``(n, D)`` vectors; where faiss cannot, the error has its reason."""
        faiss, kept = load_faiss(), re.match(r"OPQ\d+_(\d+)", self.factory)
        needed = max(int(kept[1]) if kept else self.dims or 1, 256 if "PQ" in self.factory else 1)
        if len(vectors) < needed:  # faiss would stop with an error for some codecs, and with the process for others
            raise StudyError(f"{self.factory!r} needs at least {needed} vectors to train, got {len(vectors)}")
        self.mean_, self.basis_ = np.float32(0), None
        if self.dims is not None:
            self.mean_ = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
            axes = principal_axes(vectors - self.mean_)[:, : self.dims].astype(np.float32)
            self.basis_ = axes @ random_rotation(self.dims, self.seed)
        turned = self._turned(vectors)
        kept = os.dup(2)  # faiss warns straight to the process's stderr, once per codebook that few vectors train
        with open(os.devnull, "wb") as sink:
            os.dup2(sink.fileno(), 2)
        try:
            self.index_ = faiss.index_factory(turned.shape[1], self.factory, faiss.METRIC_INNER_PRODUCT)
            self._set_rounds(faiss)
            self.index_.train(turned)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1]
            raise StudyError(f"faiss cannot train {self.factory!r} on {len(vectors)} vectors: {reason}") from error
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        return self

    def _set_rounds(self, faiss):
        last = self.index_
        if isinstance(last, faiss.IndexPreTransform):
            first, last = faiss.downcast_VectorTransform(last.chain.at(0)), faiss.downcast_index(last.index)
            if isinstance(first, faiss.OPQMatrix):
                first.niter, first.niter_pq_0, first.niter_pq = OPQ_ROUNDS, OPQ_LLOYD, OPQ_LLOYD
                first.max_train_points = OPQ_POINTS
        if hasattr(last, "pq"):
            last.pq.cp.niter, last.pq.cp.min_points_per_centroid, last.pq.cp.seed = PQ_LLOYD, 1, self.seed % 2**31

    def _turned(self, vectors):
        return np.ascontiguousarray(self.project(vectors - self.mean_), dtype=np.float32)

    def project(self, vectors: np.ndarray) -> np.ndarray:
        """Queries in the space of ``decode``: not centred, since that would take another amount off each document's score."""
        return vectors if self.basis_ is None else vectors @ self.basis_

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """``(n, D) -> (n, bytes_per_vector) uint8``."""
        return self.index_.sa_encode(self._turned(vectors))

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """``(n, bytes_per_vector) uint8 -> (n, dims) float32``, less the mean where the codec turns vectors."""
        return self.index_.sa_decode(np.ascontiguousarray(codes))


class ItqCodec(LshCodec):
    """Iterative quantization (Gong and Lazebnik, CVPR 2011): signs of PCA dims, turned so that little is lost.

    All in float64, and from a start that hangs on the space of the PCA dims and not on its axes: these differ between
    machines where variances lie close together, and codes of a few bits with them.
    """

    def fit(self, vectors: np.ndarray, calibration: np.ndarray | None = None) -> "ItqCodec":
        """Learn a rotation of the PCA dims, from a random one on."""
        if self.bits > MOST_ITQ_BITS:
            raise StudyError(f"ITQ of {self.bits} bits is not run: its rotation takes minutes beyond {MOST_ITQ_BITS}")
        if len(vectors) < self.bits:
            raise StudyError(f"ITQ needs at least {self.bits} vectors to train, got {len(vectors)}")
        self.mean_ = vectors.mean(axis=0, dtype=np.float64)
        axes = principal_axes(vectors - self.mean_)[:, : self.bits]
        values = (vectors - self.mean_) @ axes
        aim = axes.T @ np.random.default_rng(self.seed).standard_normal((vectors.shape[1], self.bits))
        for _ in range(1 + ITQ_ROUNDS):
            left, _, right = np.linalg.svd(aim)
            rotation = left @ right  # the one nearest to the aim
            aim = values.T @ np.where(values @ rotation >= 0, 1.0, -1.0)
        self.planes_ = (axes @ rotation).astype(np.float32)
        return self

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """``(n, D) -> (n, bits / 8) uint8``, of centred vectors."""
        return super().encode(vectors - self.mean_.astype(np.float32))


class RabitqCodec(FaissCodec):
    """RaBitQ by faiss with 1, 2 or 4 bits, after centred PCA with a random rotation (it needs one); its own estimator."""

    def __init__(self, bits: int, in_dims: int, budget: int, seed: int = 0):
        faiss, factory = load_faiss(), "RaBitQ" if bits == 1 else f"RaBitQ{bits}"
        constants = faiss.index_factory(8, factory, faiss.METRIC_INNER_PRODUCT).sa_code_size() - bits
        dims = min(in_dims, (budget - constants) * 8 // bits // 8 * 8)  # whole bytes of codes
        if dims < 8:
            raise StudyError(f"RaBitQ of {bits} bits needs {constants} bytes of constants; {budget} are too few")
        super().__init__(factory, dims, seed)

    def score(self, queries: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Faiss's estimate for the best ``SHOWN`` documents of each query, the lowest number for all others."""
        index = load_faiss().clone_index(self.index_)
        index.qb = QUERY_BITS
        index.add_sa_codes(np.ascontiguousarray(codes))
        found, order = index.search(self.project(queries), min(SHOWN, len(codes)))
        matrix = np.full((len(queries), len(codes)), np.finfo(np.float32).min, dtype=np.float32)
        np.put_along_axis(matrix, order, found, axis=1)
        return matrix


class PrecisionCodec:
    """sentence-transformers' ``quantize_embeddings`` after uncentred PCA to as many dims as fit.

    Args:
        precision: ``int8`` (ranges from the calibration vectors) or ``ubinary`` (thresholds at zero).
        rescored: Keep the query in float, as sentence-transformers' rescoring does; False codes both sides.
    """

    def __init__(self, dims: int, precision: str, rescored: bool = True):
        self.dims, self.precision, self.rescored = dims, precision, rescored
        self.bytes_per_vector = packed_bytes(dims, 1 if precision == "ubinary" else 8)

    def fit(self, vectors: np.ndarray, calibration: np.ndarray | None = None) -> "PrecisionCodec":
        """Fit PCA; keep the ranges of the calibration vectors."""
        self.decoder_ = fit_pca(vectors, self.dims)
        held_out = self.decoder_.transform(vectors if calibration is None else calibration)
        self.ranges_ = np.stack([held_out.min(axis=0), held_out.max(axis=0)])
        return self

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """``(n, D) -> (n, bytes_per_vector) uint8``."""
        from sentence_transformers.util.quantization import quantize_embeddings

        made = quantize_embeddings(self.decoder_.transform(vectors), self.precision, ranges=self.ranges_)
        return np.ascontiguousarray(made).view(np.uint8)

    def project(self, vectors: np.ndarray) -> np.ndarray:
        """``(n, D) -> (n, dims)``: in float where codes are rescored, else coded as documents are."""
        return self.decoder_.transform(vectors) if self.rescored else self.decode(self.encode(vectors))

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Signs for bits, the library's integers scaled back to their ranges for int8; ``(n, dims) float32``."""
        if self.precision == "ubinary":
            return np.unpackbits(codes, axis=1, count=self.dims).astype(np.float32) * 2 - 1
        low, high = self.ranges_
        return (codes.view(np.int8).astype(np.float32) + 128) * (high - low) / 255 + low


class WrapperCodec(PrecisionCodec):
    """mteb's ``CompressionWrapper`` after uncentred PCA to as many dims as fit; it codes queries and documents apart.

    ``encode`` gives what the wrapper hands to the search, as bytes, ``(n, 4 * dims) uint8``: it does not pack.
    """

    def __init__(self, dims: int, dtype: str):
        super().__init__(dims, dtype, rescored=False)
        self.bytes_per_vector = packed_bytes(dims, {"INT8": 8, "INT4": 4, "BINARY": 1}[dtype])

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """As above."""
        from mteb.models import CompressionWrapper, ModelMeta
        from mteb.types import OutputDType

        given = SimpleNamespace(mteb_model_meta=ModelMeta.create_empty(), encode=lambda vectors, **_: vectors)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that ranges of fewer than 10,000 vectors are unstable
            wrapper = CompressionWrapper(given, OutputDType[self.precision])
            made = wrapper.encode(self.decoder_.transform(vectors), task_metadata=None, hf_split="", hf_subset="")
        return np.ascontiguousarray(made, dtype=np.float32).view(np.uint8)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """The wrapper's vectors, of length one, as ``mteb.evaluate`` compares them."""
        return unit(codes.view(np.float32))


def _turboquant(bits, dims, size, seed):
    return FaissCodec(f"L2norm,SQtqmse{bits}", min(dims, 8 * size // bits), seed)


def _pq_dims(dims, budget):
    return max(budget, min(dims, PQ_DIMS) // budget * budget)


PEERS = {
    "PQ": lambda dims, size, seed: FaissCodec(f"PQ{size}x8np", _pq_dims(dims, size), seed),
    "OPQ": lambda dims, size, seed: FaissCodec(f"OPQ{size}_{_pq_dims(dims, size)},PQ{size}x8np", seed=seed),
    "PCA, SQ8": lambda dims, size, seed: FaissCodec("SQ8", min(dims, size), seed),
    "PCA, SQ4": lambda dims, size, seed: FaissCodec("SQ4", min(dims, 2 * size), seed),
    "ITQ": lambda dims, size, seed: ItqCodec(min(dims, 8 * size), seed),
    **{f"RaBitQ, {bits} bit": partial(RabitqCodec, bits) for bits in (1, 2, 4)},
    **{f"TurboQuant, {bits} bit": partial(_turboquant, bits) for bits in (1, 2, 3, 4)},
    "binary, both coded": lambda dims, size, seed: PrecisionCodec(min(dims, 8 * size), "ubinary", rescored=False),
    "binary, float query": lambda dims, size, seed: PrecisionCodec(min(dims, 8 * size), "ubinary"),
    "int8": lambda dims, size, seed: PrecisionCodec(min(dims, size), "int8"),
    "mteb wrapper, int8": lambda dims, size, seed: WrapperCodec(min(dims, size), "INT8"),
    "mteb wrapper, int4": lambda dims, size, seed: WrapperCodec(min(dims, 2 * size), "INT4"),
    "mteb wrapper, binary": lambda dims, size, seed: WrapperCodec(min(dims, 8 * size), "BINARY"),
}
"""Name -> factory(in_dims, bytes per vector, seed)."""
DRAWN = tuple(name for name in PEERS if not name.startswith(("binary", "int8", "mteb")))
"""Peers in which something is drawn: a rotation, or where k-means begins."""


def make_peer(name: str, in_dims: int, budget: int, seed: int = 0) -> Codec:
    """A peer's codec of at most ``budget`` bytes per vector; raises ``StudyError`` for a name that is not in ``PEERS``."""
    if name not in PEERS:
        raise StudyError(f"unknown peer {name!r}; known: {', '.join(PEERS)}")
    return PEERS[name](in_dims, budget, seed)
