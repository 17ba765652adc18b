"""Search of byte blocks in two steps: a fast scan of half of each byte, then exact scores of a shortlist from whole bytes.

A codebook's numbers mean nothing, so its 256 centroids may be numbered such that the high four bits of a number name one of
16 groups of 16 centroids that lie near each other. A group's mean then stands for the group, and the high halves are by
themselves a coarse code of four bits per block: what faiss's fast-scan index holds in registers and scans at the speed of
memory (Andre et al., VLDB 2015; faiss ``IndexPQFastScan``). The low halves lie beside it. Together they are the bytes of the
codes and nothing more; codes on disk keep their numbers.
"""

import numpy as np
from scipy.optimize import linear_sum_assignment

from ccq_utils.codecs.byte_blocks import CENTROIDS, BlockCodec
from ccq_utils.codecs.faiss_index import load_faiss
from ccq_utils.common.errors import StudyError

GROUPS, ROUNDS = 16, 4
LANES = 32
"""Vectors that faiss's fast scan lays out side by side."""
SHORTLIST = 200
"""Documents per query that get exact scores, and at least ``PER_RESULT`` per result; measured in notebook 08, section 3."""
PER_RESULT = 20
CHUNK, QUERIES = 65536, 64
"""Codes renumbered, and queries searched, at once."""


def group_numbers(centroids: np.ndarray) -> np.ndarray:
    """New numbers of centroids ``(256, width)``: ``(256,) uint8``, whose high four bits name 16 groups of 16 near ones.

    Groups begin as halves of halves along the axis of largest variance; then centroids go to the group whose mean is nearest,
    all in one assignment, since each group takes 16 (k-means with equal sizes; scipy's ``linear_sum_assignment``).
    """
    groups = [np.arange(CENTROIDS)]
    while len(groups) < GROUPS:
        groups = [half for group in groups for half in _halves(centroids, group)]
    order = np.concatenate(groups)
    for _ in range(ROUNDS):
        means = centroids[order].reshape(GROUPS, CENTROIDS // GROUPS, -1).mean(axis=1)
        costs = ((centroids[:, None] - means) ** 2).sum(axis=2)
        places = linear_sum_assignment(np.repeat(costs, CENTROIDS // GROUPS, axis=1))[1]
        order = np.argsort(places)
    numbers = np.empty(CENTROIDS, dtype=np.uint8)
    numbers[order] = np.arange(CENTROIDS)
    return numbers


def _halves(centroids, group):
    values = (centroids[group] - centroids[group].mean(axis=0)).astype(np.float64)
    axis = np.linalg.eigh(values.T @ values)[1][:, -1]
    return np.split(group[np.argsort(values @ axis, kind="stable")], 2)


class CodeIndex:
    """Packed codes of a fitted ``BlockCodec``, laid out for search.

    Parameters
    ----------
    codes : ``(n, bytes_per_vector) uint8``; not kept

    Raises
    ------
    StudyError : another codec, no codes, or codes of another width.
    """

    def __init__(self, codec: BlockCodec, codes: np.ndarray):
        if not isinstance(codec, BlockCodec):
            raise StudyError(f"a code index holds byte blocks, not codes of {type(codec).__name__}")
        if not len(codes):
            raise StudyError("there are no codes to search; encode documents first")
        if codes.ndim != 2 or codes.shape[1] != codec.bytes_per_vector:
            raise StudyError(
                f"codes have shape {codes.shape}; this codec makes {codec.bytes_per_vector} bytes per vector"
            )
        self.codec = codec
        self.numbers_ = np.stack([group_numbers(centroids) for centroids in codec.centroids_])
        self.tables_ = []  # per block what its new numbers stand for, (width, 256)
        parts = zip(self.numbers_, codec.centroids_, codec.stretch_, strict=True)
        for numbers, centroids, stretch in parts:
            self.tables_.append(np.ascontiguousarray((stretch * centroids)[np.argsort(numbers)].T))
        self._lay_out(codes)

    def _lay_out(self, codes):
        """High halves into faiss's fast scan, low halves two to a byte."""
        high = np.empty((len(codes), -(-codes.shape[1] // 2)), dtype=np.uint8)
        self.low_ = np.empty_like(high)
        rows = np.arange(codes.shape[1])
        for start in range(0, len(codes), CHUNK):
            renumbered = self.numbers_[rows, codes[start : start + CHUNK]]
            high[start : start + CHUNK] = _pack(renumbered >> 4)
            self.low_[start : start + CHUNK] = _pack(renumbered & 15)
        means = np.zeros((len(rows), GROUPS, max(len(table) for table in self.tables_)), dtype=np.float32)
        for block, table in zip(means, self.tables_, strict=True):
            block[:, : len(table)] = table.reshape(len(table), GROUPS, -1).mean(axis=2).T
        self.index_ = _fast_scan(means, high)
        self.places_ = _places(means)

    def __len__(self):
        return len(self.low_)

    @property
    def nbytes(self) -> int:
        """Bytes of all codes, high and low halves; the last 32 vectors are filled up."""
        return self.index_.codes.size() + self.low_.nbytes

    def search(
        self, queries: np.ndarray, count: int = 10, shortlist: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best documents of float queries ``(q, D)``; scores are those of ``codecs.search``.

        Parameters
        ----------
        shortlist : documents that the fast scan hands over to exact scores; see ``SHORTLIST``

        Returns
        -------
        Scores ``(q, count) float32`` and document numbers ``(q, count)``, best first, equal scores by number; no more of
        them than there are documents.
        """
        if count < 1:
            raise StudyError(f"count {count} must be at least 1")
        count = min(count, len(self))
        shortlist = min(len(self), max(count, shortlist or max(SHORTLIST, PER_RESULT * count)))
        asked = self.codec.project(np.asarray(queries, dtype=np.float32))
        parts = [self._search(asked[start : start + QUERIES], shortlist) for start in range(0, len(asked), QUERIES)]
        scores, numbers = (np.concatenate(part) for part in zip(*parts, strict=True))
        order = np.lexsort((numbers, -scores), axis=1)[:, :count]
        return np.take_along_axis(scores, order, axis=1), np.take_along_axis(numbers, order, axis=1)

    def _search(self, projected, shortlist):
        """Exact scores and numbers of a shortlist per query, in no order."""
        numbers = self.index_.search(self.codec.pad(projected), shortlist)[1]
        tables = np.empty((len(projected), len(self.tables_), CENTROIDS), dtype=np.float32)
        for number, (table, (first, last)) in enumerate(zip(self.tables_, self.codec.blocks_, strict=True)):
            tables[:, number] = projected[:, first:last] @ table
        rows = CENTROIDS * np.arange(len(self.tables_))
        pairs = zip(tables, numbers, strict=True)
        return np.stack([table.ravel().take(rows + self._codes(each)).sum(axis=1) for table, each in pairs]), numbers

    def _codes(self, numbers):
        """Renumbered codes ``(len(numbers), bytes) uint8`` of some documents, from both halves."""
        packed = self._packed()
        places = (numbers // LANES * (2 * self._block_bytes))[:, None] + self.places_[numbers % LANES]
        high = packed[places >> 1] >> ((places & 1) << 2).astype(np.uint8)
        return (high & 15) << 4 | _unpack(self.low_[numbers], len(self.tables_))

    @property
    def _block_bytes(self):
        return self.index_.codes.size() * LANES // self.index_.ntotal2

    def _packed(self):
        faiss = load_faiss()
        return faiss.rev_swig_ptr(self.index_.codes.data(), self.index_.codes.size())


def _pack(halves):
    """``(n, m)`` numbers below 16, two to a byte, the first in the low half: ``(n, ceil(m / 2)) uint8``, as faiss does."""
    if halves.shape[1] % 2:
        halves = np.pad(halves, ((0, 0), (0, 1)))
    return halves[:, ::2] | halves[:, 1::2] << 4


def _unpack(packed, count):
    """What ``_pack`` packed."""
    return np.stack([packed & 15, packed >> 4], axis=2).reshape(len(packed), -1)[:, :count]


def _fast_scan(means, packed):
    """Faiss's fast-scan index (inner product) over codes of four bits; ``means (blocks, 16, width)``."""
    faiss = load_faiss()
    count, _, width = means.shape
    plain = faiss.IndexPQ(count * width, count, 4, faiss.METRIC_INNER_PRODUCT)
    faiss.copy_array_to_vector(np.ascontiguousarray(means, dtype=np.float32).ravel(), plain.pq.centroids)
    plain.is_trained = True
    plain.add_sa_codes(np.ascontiguousarray(packed))
    return faiss.IndexPQFastScan(plain, LANES)


def _places(means):
    """Where faiss puts the code of each vector and block within 32 vectors, ``(32, blocks)``, counted in halves of bytes.

    Read off by example: every code says, one bit at a time, which vector and block it belongs to.
    """
    faiss = load_faiss()
    names = np.arange(1, LANES * len(means) + 1).reshape(LANES, len(means))
    found = 0
    for bit in range(int(names.max()).bit_length()):
        index = _fast_scan(means, _pack((names >> bit & 1).astype(np.uint8)))
        packed = faiss.vector_to_array(index.codes)
        found = found + (np.stack([packed & 15, packed >> 4], axis=1).ravel().astype(np.int64) << bit)
    places = np.empty(names.size + 1, dtype=np.int64)
    places[found] = np.arange(len(found))
    return places[names]
