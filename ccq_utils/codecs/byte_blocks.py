"""This study's codec: PCA dims in blocks of one byte each, as many dims to a block as eight bits suffice for.

Codes and search are those of product quantization; four things set it apart:

* *Equalised dims.* PCA dims are divided by a small power of their variance: a concat spends most of its length on a few
  dims that all documents share, and known-item queries find their document by the small ones (notebook 07).
* *Rates.* A dim of variance v gets ``log2(1 + v / n) / 2`` bits, where the noise n is the same for all dims.
* *Unbiased values.* A centroid is the mean of its cell, so it is shorter than the vectors it stands for, and the more so the
  fewer bits its dims got. Every block is stretched until its decoded values project onto the true ones with factor one.
* *Kept scores.* Where it is fitted on the corpus that it codes, centroids are chosen so that errors of the blocks cancel in
  the scores to a vector's nearest neighbours: the paper's loss, applied to codes.
"""

import itertools
from functools import lru_cache

import numpy as np
import torch

from ccq_utils.codecs.codec import Codec
from ccq_utils.codecs.decoder import principal_axes, random_rotation
from ccq_utils.common.errors import StudyError

CENTROIDS = 256
POWER, DIMS_PER_BIT, FLOOR = 0.25, 1.5, 0.3
"""Dims are divided by variance ** (POWER / 2), where no variance counts for less than FLOOR times their mean; so many dims
are kept at most. Chosen on validation queries (notebook 07); the floor matters for documents that come after fitting."""
BATCH, SAME, SCORES = 1024, 0.9999, 30.0
"""Vectors coded at once; cosine from which two vectors are one; weight of squared score errors beside those of values."""
WIDE = 32**2
"""Squared dims of a block beyond which its costs are summed neighbour by neighbour: slower, but in little memory."""
ITERATIONS, POINTS, PRIOR = 6, 20_000, 10
"""Lloyd iterations; points drawn for a Gaussian codebook; weight of a Gaussian centroid, in training vectors."""


def rates(variances: np.ndarray, bits: float) -> np.ndarray:
    """Bits per dim, ``(d,)``: capacities of Gaussian channels with equal noise, which add up to ``bits``."""
    low, high = 1e-12 * variances.max(), 1e6 * variances.max()
    for _ in range(100):  # bisection on the logarithm of the noise
        noise = np.sqrt(low * high)
        found = np.log2(1 + variances / noise) / 2
        low, high = (noise, high) if found.sum() > bits else (low, noise)
    return found


def byte_blocks(variances: np.ndarray, count: int) -> list[tuple[int, int]]:
    """``count`` runs of dims (first, last + 1) that need about eight bits each; variances in descending order."""
    dims = len(variances)
    if not 1 <= count <= dims:
        raise StudyError(f"{count} byte blocks need at least as many dims, and one byte; there are {dims} dims")
    share = np.cumsum(rates(variances, 8 * count)) / (8 * count)
    borders = [0]
    for block in range(1, count):
        border = int(np.searchsorted(share, block / count * share[-1])) + 1
        borders.append(min(max(border, borders[-1] + 1), dims - (count - block)))
    return list(zip(borders, [*borders[1:], dims], strict=True))


def equalised_pca(vectors: np.ndarray, held_out: np.ndarray, dims: int | None = None, power: float = POWER):
    """Centred PCA whose dims are divided by ``variance ** (power / 2)``, for queries and documents alike.

    Args:
        vectors: ``(n, D)`` that the axes are fitted on.
        held_out: Vectors that the variances are measured on; in the tail, fitted vectors show too little.
        dims: How many to keep, those of the largest variance; all if None.
        power: See ``POWER``.

    Returns:
        Mean ``(D,)``, basis ``(D, dims) float64``, variances of the equalised dims ``(dims,)`` in descending order.
    """
    mean = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    basis = principal_axes(vectors - mean)
    variances = (((held_out - mean) @ basis) ** 2).mean(axis=0)
    order = np.argsort(-variances, kind="stable")[:dims]
    scale = np.maximum(variances[order], FLOOR * variances.mean()) ** (-power / 2)
    return mean, basis[:, order] * scale, np.maximum(variances[order], 1e-9 * variances.max()) * scale**2


class Equalised:
    """Float vectors with equalised dims, not coded; or a codec on such dims, which cost it no bytes."""

    def __init__(self, power: float = POWER, codec: Codec | None = None):
        self.power, self.codec = power, codec

    @property
    def bytes_per_vector(self) -> int:
        """Bytes of the codec, or four per dim."""
        return self.codec.bytes_per_vector if self.codec else 4 * self.basis_.shape[1]

    def fit(self, vectors: np.ndarray, calibration: np.ndarray | None = None) -> "Equalised":
        """Fit PCA, the scale of its dims, and the codec."""
        parts = [vectors] if calibration is None else [vectors, calibration]
        self.mean_, basis, _ = equalised_pca(vectors, parts[-1], power=self.power)
        self.basis_ = basis.astype(np.float32)
        if self.codec:
            self.codec.fit(*((part - self.mean_) @ self.basis_ for part in parts))
        return self

    def project(self, vectors: np.ndarray) -> np.ndarray:
        """``(n, D) -> (n, d)``, turned and scaled, then as the codec projects."""
        turned = vectors @ self.basis_
        return self.codec.project(turned) if self.codec else turned

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """Codes, or the centred values themselves."""
        turned = (vectors - self.mean_) @ self.basis_
        return self.codec.encode(turned) if self.codec else turned

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """As the codec decodes, or what ``encode`` gave."""
        return self.codec.decode(codes) if self.codec else codes


class BlockCodec:
    """Byte blocks: equalised PCA, a rotation within each block, a codebook of 256 centroids per block, unbiased values.

    Fitted on the corpus that it codes, codebooks are trained on it, and a prior keeps a centroid from following the dozen
    vectors next to it. Fitted on other text, codebooks are those of a Gaussian, which do as well there and cannot overfit;
    variances and stretch come from held-out (calibration) vectors.

    Args:
        budget: Bytes per vector; at most one per kept dim of the vectors is used.
        neighbours: Where the codec is fitted on the corpus itself, codes are chosen to keep the scores to so many nearest
            vectors of the corpus, and to the vector itself, beside the values; 0 takes the nearest centroids.
        unbiased, allocate: False leaves the step out (for ablations): centroids as they are; blocks of equal width.
        power, dims_per_bit: See ``POWER``; power 0 leaves the dims as they are, dims_per_bit None keeps all dims.
    """

    def __init__(
        self, budget: int, seed=0, neighbours=16, unbiased=True, allocate=True, power=POWER, dims_per_bit=DIMS_PER_BIT
    ):
        self.budget, self.seed, self.neighbours = budget, seed, neighbours
        self.unbiased, self.allocate, self.power, self.dims_per_bit = unbiased, allocate, power, dims_per_bit

    @property
    def bytes_per_vector(self) -> int:
        """One byte per block."""
        return len(self.blocks_)

    def fit(self, vectors: np.ndarray, calibration: np.ndarray | None = None) -> "BlockCodec":
        """Fit PCA on ``(n, D)`` vectors, and blocks, codebooks and stretch on ``calibration``.

        Without ``calibration``, ``vectors`` are taken for the corpus that is going to be coded, and fit everything.
        """
        if len(vectors) < 2 or not np.isfinite(vectors).all():
            raise StudyError(f"byte blocks need at least two finite vectors to fit, got shape {vectors.shape}")
        own = calibration is None
        held_out = vectors if own else calibration
        most = None if self.dims_per_bit is None else round(8 * self.budget * self.dims_per_bit)
        self.mean_, basis, variances = equalised_pca(vectors, held_out, most, self.power)
        dims, count = len(variances), min(self.budget, len(variances))
        even = np.linspace(0, dims, count + 1).astype(int).tolist()
        self.blocks_ = byte_blocks(variances, count) if self.allocate else list(itertools.pairwise(even))
        turned = [
            basis[:, first:last] @ random_rotation(last - first, self.seed + number)
            for number, (first, last) in enumerate(self.blocks_)
        ]
        self.basis_ = np.ascontiguousarray(np.concatenate(turned, axis=1), dtype=np.float32)
        values = self._turn(held_out)
        self.centroids_ = [
            _codebook(values[:, first:last] if own else None, last - first, np.sqrt(variances[first:last].mean()))
            for first, last in self.blocks_
        ]
        self.anchors_ = _unit(torch.from_numpy(values)) if own and self.neighbours else None
        self.stretch_ = np.ones(count, dtype=np.float32)
        if self.unbiased:
            decoded = self.decode(self._nearest(values))
            for number, (first, last) in enumerate(self.blocks_):
                true = values[:, first:last]
                if (overlap := float((true * decoded[:, first:last]).sum())) > 0:
                    self.stretch_[number] = (true**2).sum() / overlap
        return self

    def _turn(self, vectors):
        if vectors.ndim != 2 or vectors.shape[1] != len(self.mean_):
            raise StudyError(f"codec was fitted on {len(self.mean_)} dims, the vectors have shape {vectors.shape}")
        if not np.isfinite(vectors).all():
            raise StudyError("vectors to encode hold NaN or infinity; mend the model or remove the texts")
        return (vectors - self.mean_) @ self.basis_

    def _nearest(self, values):
        blocks = zip(self.centroids_, self.blocks_, strict=True)
        return np.stack(
            [_cells(*map(torch.from_numpy, (values[:, slice(*dims)], cells))).numpy() for cells, dims in blocks], axis=1
        ).astype(np.uint8)

    def project(self, vectors: np.ndarray) -> np.ndarray:
        """``(n, D) -> (n, d) float32``, turned; the mean is left in, since it adds the same to all scores of a query."""
        return vectors @ self.basis_

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """``(n, D) -> (n, bytes_per_vector) uint8``: the nearest centroid of each block, then scores kept (see the class)."""
        values = self._turn(vectors)
        codes = self._nearest(values)
        for start in range(0, len(codes), BATCH) if self.anchors_ is not None else ():
            part = slice(start, start + BATCH)
            codes[part] = self._keep_scores(torch.from_numpy(values[part]), codes[part])
        return codes

    def _keep_scores(self, values, codes):
        """One pass over the blocks: the centroid with the least squared error of values plus that of scores."""
        table = [torch.from_numpy(a * b) for a, b in zip(self.centroids_, self.stretch_, strict=True)]
        decoded = torch.from_numpy(self.decode(codes))
        unit = _unit(values)
        cosines = unit @ self.anchors_.T
        cosines[cosines > SAME] = -1  # the vector itself
        near = self.anchors_[cosines.topk(min(self.neighbours, len(self.anchors_) - 1)).indices]
        asked = torch.cat([unit[:, None], near], dim=1)  # (n, 1 + neighbours, D)
        weights = torch.full((asked.shape[1],), SCORES / 2 / max(1, near.shape[1]))
        weights[0] = SCORES / 2
        off = ((values - decoded)[:, None] * asked).sum(dim=2)
        chosen = np.empty_like(codes)
        for number, (cells, (first, last)) in enumerate(zip(table, self.blocks_, strict=True)):
            mine, part = values[:, first:last], asked[:, :, first:last]
            # the error of each score if this block decoded to nothing; a centroid then takes its own score off
            rest = off + (decoded[:, None, first:last] * part).sum(dim=2)
            weighted = part * weights[:, None]
            aim = mine + (rest[:, None] @ weighted)[:, 0]
            # |mine - c|^2 + sum of weight (rest - part . c)^2, less what is the same for all centroids c
            cost = (cells**2).sum(dim=1) - 2 * aim @ cells.T
            if (last - first) ** 2 <= WIDE:
                cost += (part.mT @ weighted).flatten(1) @ (cells[:, :, None] * cells[:, None]).flatten(1).T
            else:  # the squares of a wide block would not fit in memory
                for place, weight in enumerate(weights):
                    cost += weight * (part[:, place] @ cells.T) ** 2
            best = cost.argmin(dim=1)
            decoded[:, first:last] = cells[best]
            off = rest - (cells[best][:, None] * part).sum(dim=2)
            chosen[:, number] = best
        return chosen

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """``(n, bytes_per_vector) uint8 -> (n, d) float32``, of turned vectors less the mean."""
        if codes.ndim != 2 or codes.shape[1] != self.bytes_per_vector:
            raise StudyError(f"codes have shape {codes.shape}; this codec makes {self.bytes_per_vector} bytes each")
        parts = zip(self.centroids_, self.stretch_, codes.T, strict=True)
        return np.concatenate([(stretch * centroids)[column] for centroids, stretch, column in parts], axis=1)

    def state(self) -> tuple[dict, dict[str, np.ndarray]]:
        """Settings (JSON-ready) and arrays of a fitted codec; ``anchors``, the corpus it was fitted on, only choose codes."""
        arrays = {"mean": self.mean_, "basis": self.basis_, "stretch": self.stretch_}
        arrays["centroids"] = np.concatenate(self.centroids_, axis=1)
        if self.anchors_ is not None:
            arrays["anchors"] = self.anchors_.numpy()
        settings = {name: value for name, value in vars(self).items() if not name.endswith("_")}
        return settings | {"blocks": self.blocks_}, arrays

    @classmethod
    def from_state(cls, settings: dict, arrays: dict[str, np.ndarray]) -> "BlockCodec":
        """The codec that ``state`` described; without ``anchors`` it takes the nearest centroids."""
        codec = cls(**{name: value for name, value in settings.items() if name != "blocks"})
        codec.blocks_ = [tuple(block) for block in settings["blocks"]]
        codec.mean_, codec.basis_, codec.stretch_ = (arrays[name] for name in ("mean", "basis", "stretch"))
        borders = [last for _, last in codec.blocks_[:-1]]
        codec.centroids_ = [np.ascontiguousarray(part) for part in np.split(arrays["centroids"], borders, axis=1)]
        codec.anchors_ = torch.from_numpy(arrays["anchors"]) if "anchors" in arrays else None
        return codec


def _unit(vectors):
    return vectors / vectors.norm(dim=1, keepdim=True).clamp(min=1e-12)


def _cells(points, centroids):
    """The nearest centroid of each point, ``(n,)``."""
    return (points @ centroids.T - (centroids**2).sum(dim=1) / 2).argmax(dim=1)


def _centroids(points, centroids, prior, weight):
    """Lloyd's iterations, each centroid drawn to its ``prior`` with as much weight as ``weight`` points."""
    for _ in range(ITERATIONS):
        cells = _cells(points, centroids)
        counts = torch.bincount(cells, minlength=CENTROIDS)[:, None] + weight
        sums = torch.zeros_like(centroids).index_add_(0, cells, points) + weight * prior
        centroids = torch.where(counts > 0, sums / counts.clamp(min=1), centroids)
    return centroids


@lru_cache(maxsize=1024)
def _gaussian_codebook(width):
    """Centroids of a standard Gaussian of ``width`` dims, ``(256, width)``; the same for all codecs."""
    points = torch.randn(POINTS, width, generator=torch.Generator().manual_seed(width))
    return _centroids(points, points[:CENTROIDS], 0, 0)


def _codebook(values, width, spread):
    """256 centroids of ``(n, width)`` values, drawn to those of a Gaussian of the same spread, or these themselves."""
    gaussian = float(spread) * _gaussian_codebook(width)
    if values is None:
        return gaussian.numpy()
    return _centroids(torch.from_numpy(np.ascontiguousarray(values)), gaussian, gaussian, PRIOR).numpy()
