"""Published compression methods beside ours, on the same vectors at the same bytes.

Each has the face of ``codecs``. faiss, sentence-transformers, mteb and bitbudget do the work; what is ours is how many dims
a method gets, so that its code with all per-vector constants fits the budget.
"""

import os
import re
from contextlib import contextmanager

import numpy as np

from ccq_utils.codecs.byte_blocks import principal_axes
from ccq_utils.codecs.decoder import fit_pca, random_rotation
from ccq_utils.codecs.faiss_index import load_faiss
from ccq_utils.codecs.quantizer import packed_bytes
from ccq_utils.common.errors import StudyError

PQ_DIMS = 512
"""Dims that product quantization keeps at most: a codebook's share of the training text is small as it is."""
ITQ_BITS = 1024
"""Bits up to which ITQ is run."""
SHOWN = 200
"""Documents that RaBitQ's search gives back per query; nDCG@10 needs ten of them."""


@contextmanager
def _quiet():
    """Faiss's C++ side warns once per codebook of fewer than 39 vectors per centroid, straight to the process's stderr."""
    kept, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(sink)


class FaissCodec:
    """A codec of faiss by its factory string; documents are decoded by faiss, queries stay in float.

    Parameters
    ----------
    factory : faiss's index factory string, for example ``SQ8``
    dims : vectors are turned to so many PCA dims first, in a random orthogonal basis drawn by ``seed`` (faiss's own
        ``PCAR`` always draws the same one); None leaves them as they are
    """

    def __init__(self, factory: str, dims: int | None = None, seed: int = 0):
        self.factory, self.dims, self.seed = factory, dims, seed

    @property
    def bytes_per_vector(self) -> int:
        """Faiss's own count, per-vector constants included."""
        return self.index_.sa_code_size()

    def fit(self, vectors: np.ndarray, calibration: np.ndarray | None = None) -> "FaissCodec":
        """Train on ``(n, D)`` vectors; raises ``StudyError`` where faiss cannot, with faiss's reason."""
        faiss = load_faiss()
        kept = re.match(r"(?:ITQ|OPQ\d+_)(\d+)", self.factory)
        needed = max(int(kept[1]) if kept else self.dims or 1, 256 if "PQ" in self.factory else 1)
        if len(vectors) < needed:  # faiss would stop with an error for some codecs, and with the process for others
            raise StudyError(f"{self.factory!r} needs at least {needed} vectors to train, got {len(vectors)}")
        self.turn_ = None if self.dims is None else RotatedPca(vectors, self.dims, self.seed)
        metric = faiss.METRIC_L2 if "LSH" in self.factory else faiss.METRIC_INNER_PRODUCT
        turned = self._turned(vectors)
        try:
            self.index_ = faiss.index_factory(turned.shape[1], self.factory, metric)
            self._prepare(faiss)
            with _quiet():
                self.index_.train(turned)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1]
            raise StudyError(f"faiss cannot train {self.factory!r} on {len(vectors)} vectors: {reason}") from error
        return self

    def _prepare(self, faiss):
        """Ten rounds of training, the seed, and no warnings on the number of vectors."""
        chain, last = [], self.index_
        if isinstance(self.index_, faiss.IndexPreTransform):
            chain = [faiss.downcast_VectorTransform(self.index_.chain.at(i)) for i in range(self.index_.chain.size())]
            last = faiss.downcast_index(self.index_.index)
        for step in chain:
            if isinstance(step, faiss.OPQMatrix):
                step.niter, step.niter_pq, step.max_train_points = 5, 4, 4000
            if isinstance(step, faiss.ITQTransform):
                step.itq.max_iter, step.itq.seed = 20, self.seed % 2**31
        if hasattr(last, "pq"):
            last.pq.cp.niter, last.pq.cp.min_points_per_centroid, last.pq.cp.seed = 10, 1, self.seed % 2**31

    def _turned(self, vectors):
        turned = vectors if self.turn_ is None else self.turn_.centred(vectors)
        return np.ascontiguousarray(turned, dtype=np.float32)

    def project(self, vectors: np.ndarray) -> np.ndarray:
        """Queries in the space in which ``decode`` gives documents back."""
        return vectors if self.turn_ is None else self.turn_.turned(vectors)

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """``(n, D) -> (n, bytes_per_vector) uint8``."""
        return self.index_.sa_encode(self._turned(vectors))

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """``(n, bytes_per_vector) uint8 -> (n, dims) float32``, less the mean where the codec turns vectors."""
        return self.index_.sa_decode(np.ascontiguousarray(codes))


class RotatedPca:
    """Centred PCA in a random orthogonal basis of the kept dims, which spreads their variance evenly.

    Documents are centred, queries are not: q.x and q.(x - mean) differ by the same for all documents of a query.
    """

    def __init__(self, vectors: np.ndarray, dims: int, seed: int):
        self.mean, axes = principal_axes(vectors)
        self.basis = axes[:, ::-1][:, :dims].astype(np.float32) @ random_rotation(dims, seed)

    def turned(self, vectors: np.ndarray) -> np.ndarray:
        """``(n, D) -> (n, dims) float32``."""
        return vectors @ self.basis

    def centred(self, vectors: np.ndarray) -> np.ndarray:
        """``(n, D) -> (n, dims) float32``, less the mean."""
        return self.turned(vectors - self.mean)


class ItqCodec(FaissCodec):
    """Iterative quantization: PCA and a learned rotation, then signs; scored by the projected float query."""

    def __init__(self, bits: int, seed: int = 0):
        super().__init__(f"ITQ{bits},LSH", seed=seed)
        if bits > ITQ_BITS:
            raise StudyError(f"ITQ of {bits} bits is not run: its rotation takes minutes beyond {ITQ_BITS}")

    def project(self, vectors: np.ndarray) -> np.ndarray:
        """``(n, D) -> (n, bits) float32``, not centred (see ``RotatedPca``)."""
        apply = self.index_.chain.at(0).apply
        return apply(self._turned(vectors)) - apply(np.zeros((1, vectors.shape[1]), dtype=np.float32))

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Codes to plus and minus one, ``(n, bits) float32``."""
        faiss = load_faiss()
        return faiss.downcast_index(self.index_.index).sa_decode(np.ascontiguousarray(codes))


class RabitqCodec:
    """RaBitQ by faiss with 1, 2 or 4 bits, after centred PCA with a random rotation (it needs one); its own estimator."""

    def __init__(self, budget: int, bits: int, seed: int = 0):
        self.budget, self.bits, self.seed = budget, bits, seed

    def fit(self, vectors: np.ndarray, calibration: np.ndarray | None = None) -> "RabitqCodec":
        """Train on ``(n, D)`` vectors; raises ``StudyError`` where the per-vector constants alone exceed the budget."""
        faiss = load_faiss()
        name = "RaBitQ" if self.bits == 1 else f"RaBitQ{self.bits}"
        constants = faiss.index_factory(8, name, faiss.METRIC_INNER_PRODUCT).sa_code_size() - self.bits
        dims = min(vectors.shape[1], (self.budget - constants) * 8 // self.bits // 8 * 8)  # whole bytes of codes
        if dims < 8:
            raise StudyError(
                f"RaBitQ of {self.bits} bits needs {constants} bytes of constants; {self.budget} are too few"
            )
        if len(vectors) < dims:
            raise StudyError(f"RaBitQ on {dims} PCA dims needs as many vectors to train, got {len(vectors)}")
        self.turn_ = RotatedPca(vectors, dims, self.seed)
        self.index_ = faiss.index_factory(dims, name, faiss.METRIC_INNER_PRODUCT)
        self.index_.train(self.turn_.centred(vectors))
        self.index_.qb = (
            8  # bits per dim of the query: 99.6 % of the same top ten as a float query, a hundred times faster
        )
        return self

    @property
    def bytes_per_vector(self) -> int:
        """Faiss's own count, per-vector constants included."""
        return self.index_.sa_code_size()

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """``(n, D) -> (n, bytes_per_vector) uint8``."""
        return self.index_.sa_encode(self.turn_.centred(vectors))

    def score(self, queries: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Faiss's estimate for the best ``SHOWN`` documents of each query, the lowest number for all others."""
        self.index_.reset()
        self.index_.add_sa_codes(np.ascontiguousarray(codes))
        found, order = self.index_.search(self.turn_.turned(queries), min(SHOWN, len(codes)))
        matrix = np.full((len(queries), len(codes)), np.finfo(np.float32).min, dtype=np.float32)
        np.put_along_axis(matrix, order, found, axis=1)
        return matrix


class PrecisionCodec:
    """sentence-transformers' ``quantize_embeddings`` after uncentred PCA to as many dims as fit.

    Parameters
    ----------
    precision : ``int8`` (ranges from the calibration vectors) or ``ubinary`` (thresholds at zero)
    rescored : keep the query in float, as sentence-transformers' rescoring does; False codes both sides
    """

    def __init__(self, dims: int, precision: str, rescored: bool = True):
        self.dims, self.precision, self.rescored = dims, precision, rescored
        self.bytes_per_vector = packed_bytes(dims, 1 if precision == "ubinary" else 8)

    def fit(self, vectors: np.ndarray, calibration: np.ndarray | None = None) -> "PrecisionCodec":
        """Fit PCA; keep the ranges of the calibration vectors."""
        self.decoder_ = fit_pca(vectors, self.dims)
        held_out = self._reduced(vectors if calibration is None else calibration)
        self.ranges_ = np.stack([held_out.min(axis=0), held_out.max(axis=0)])
        return self

    def _reduced(self, vectors):
        return self.decoder_.transform(vectors, self.dims)

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """``(n, D) -> (n, bytes_per_vector) uint8``."""
        from sentence_transformers.util.quantization import quantize_embeddings

        made = quantize_embeddings(self._reduced(vectors), self.precision, ranges=self.ranges_)
        return np.ascontiguousarray(made).view(np.uint8)

    def project(self, vectors: np.ndarray) -> np.ndarray:
        """``(n, D) -> (n, dims)``: in float where codes are rescored, else coded as documents are."""
        return self._reduced(vectors) if self.rescored else self.decode(self.encode(vectors))

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Signs for bits, the library's integers scaled back to their ranges for int8; ``(n, dims) float32``."""
        if self.precision == "ubinary":
            return np.unpackbits(codes, axis=1, count=self.dims).astype(np.float32) * 2 - 1
        low, high = self.ranges_
        return (codes.view(np.int8).astype(np.float32) + 128) * (high - low) / 255 + low


class WrapperCodec:
    """mteb's ``CompressionWrapper`` after uncentred PCA to as many dims as fit; it codes queries and documents apart."""

    def __init__(self, dims: int, dtype: str):
        self.dims, self.dtype = dims, dtype
        self.bytes_per_vector = packed_bytes(dims, {"INT8": 8, "INT4": 4, "BINARY": 1}[dtype])

    def fit(self, vectors: np.ndarray, calibration: np.ndarray | None = None) -> "WrapperCodec":
        """Fit PCA; the wrapper itself learns nothing beforehand."""
        self.decoder_ = fit_pca(vectors, self.dims)
        return self

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """What the wrapper hands to the search, as bytes; ``(n, 4 * dims) uint8``, for it does not pack."""
        return self._wrapped(vectors).view(np.uint8)

    def score(self, queries: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Cosines of what the wrapper makes of both sides, as ``mteb.evaluate`` would compute them."""
        left, right = (
            part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12)
            for part in (self._wrapped(queries), codes.view(np.float32))
        )
        return left @ right.T

    def _wrapped(self, vectors):
        import warnings

        from mteb.models import CompressionWrapper, ModelMeta
        from mteb.types import OutputDType

        class Given:
            """A model whose vectors are there already."""

            mteb_model_meta = ModelMeta.create_empty()

            def encode(self, inputs, **_):
                return inputs

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that ranges of fewer than 10,000 vectors are unstable
            wrapper = CompressionWrapper(Given(), OutputDType[self.dtype])
            given = self.decoder_.transform(vectors, self.dims)
            made = wrapper.encode(given, task_metadata=None, hf_split="", hf_subset="")
        return np.ascontiguousarray(made, dtype=np.float32)


def _pq_dims(in_dims, budget):
    return max(budget, min(in_dims, PQ_DIMS) // budget * budget)


PEERS = {
    "PQ": lambda dims, budget, seed: FaissCodec(f"PQ{budget}x8np", _pq_dims(dims, budget), seed),
    "OPQ": lambda dims, budget, seed: FaissCodec(f"OPQ{budget}_{_pq_dims(dims, budget)},PQ{budget}x8np", seed=seed),
    "PCA, SQ8": lambda dims, budget, seed: FaissCodec("SQ8", min(dims, budget), seed),
    "PCA, SQ4": lambda dims, budget, seed: FaissCodec("SQ4", min(dims, 2 * budget), seed),
    "ITQ": lambda dims, budget, seed: ItqCodec(min(dims, 8 * budget), seed),
    **{
        f"RaBitQ, {bits} bit": lambda dims, budget, seed, bits=bits: RabitqCodec(budget, bits, seed)
        for bits in (1, 2, 4)
    },
    **{
        f"TurboQuant, {bits} bit": lambda dims, budget, seed, bits=bits: FaissCodec(
            f"L2norm,SQtqmse{bits}", min(dims, 8 * budget // bits), seed
        )
        for bits in (1, 2, 3, 4)
    },
    "binary, both coded": lambda dims, budget, seed: PrecisionCodec(min(dims, 8 * budget), "ubinary", rescored=False),
    "binary, float query": lambda dims, budget, seed: PrecisionCodec(min(dims, 8 * budget), "ubinary"),
    "int8": lambda dims, budget, seed: PrecisionCodec(min(dims, budget), "int8"),
    **{
        f"mteb wrapper, {dtype.lower()}": lambda dims, budget, seed, dtype=dtype, bits=bits: WrapperCodec(
            min(dims, 8 * budget // bits), dtype
        )
        for dtype, bits in (("INT8", 8), ("INT4", 4), ("BINARY", 1))
    },
}
"""Name -> factory(in_dims, budget in bytes, seed)."""
DRAWN = (
    "PQ",
    "OPQ",
    "PCA, SQ8",
    "PCA, SQ4",
    "ITQ",
    *(name for name in PEERS if name.startswith(("RaBitQ", "TurboQuant"))),
)
"""Peers in which something is drawn: a rotation, or where k-means begins."""


def make_peer(name: str, in_dims: int, budget: int, seed: int = 0):
    """A peer's codec of at most ``budget`` bytes per vector; raises ``StudyError`` for a name that is not in ``PEERS``."""
    if name not in PEERS:
        raise StudyError(f"unknown peer {name!r}; known: {', '.join(PEERS)}")
    return PEERS[name](in_dims, budget, seed)


def bitbudget_scores(name: str, queries: np.ndarray, documents: np.ndarray) -> tuple[np.ndarray, float]:
    """A method of the package bitbudget: its score matrix and the bytes per vector that it counts.

    Every method fits what it fits on the documents themselves.
    """
    from bitbudget import METHODS

    matrix, size = METHODS[name](documents, queries)
    return np.asarray(matrix, dtype=np.float32), float(size)
