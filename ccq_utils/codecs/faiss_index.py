"""Packed codes as a faiss index: what searches them here, and what plain faiss can serve.

Each byte of a code stands for a few dims of the decoded vector, whatever the other bytes are. faiss's product quantizer
stores the same thing: one byte per block and a table of 256 vectors per block. So its index holds the codes of all our
codecs as they are. Its scores are inner products with what the codes stand for before that is brought to length one, which
is no sum over bytes; ``search`` ranks the best of them by the codec's own scores.
"""

import json
import warnings
from pathlib import Path

import numpy as np

from ccq_utils.codecs.files import VERSION, check_codes, check_made, reading
from ccq_utils.codecs.percentile import LshCodec, PercentileCodec
from ccq_utils.common.cache import file_digest
from ccq_utils.common.errors import StudyError
from ccq_utils.common.files import write_atomically

CANDIDATES = 10
"""Documents that are ranked by the codec's own scores, per document that is asked for. Lengths before they are brought to one
differ by a few per cent, so that more change nothing (a test)."""


def load_faiss():
    """The module faiss, imported when first needed and set to one thread in the thread that asks.

    torch and faiss each bring an OpenMP runtime. With more than one thread the two can stall or crash in one process, and
    faiss's k-means gives other results. On macOS set ``KMP_DUPLICATE_LIB_OK=TRUE`` where the import itself fails.
    """
    import faiss

    faiss.omp_set_num_threads(1)
    faiss.cvar.distance_compute_blas_threshold = 20  # its k-means of a few dims is ten times as fast as with 128,000
    return faiss


def to_faiss(codec, codes: np.ndarray):
    """A faiss index that holds a copy of the codes. It takes queries as ``codec.project`` gives them.

    It is an ``IndexPQ`` (inner product) behind a map that fills the last byte with zeros; of percentile and LSH codecs.
    """
    codes = check_codes(codec, codes)
    if not len(codes):
        raise StudyError("there are no codes to search; encode documents first")
    if not isinstance(codec, LshCodec | PercentileCodec):
        raise StudyError(f"codes of {type(codec).__name__} do not fit a faiss index; choose PCA, a decoder or LSH")
    faiss, count = load_faiss(), codec.bytes_per_vector
    every = np.repeat(np.arange(256, dtype=np.uint8)[:, None], count, axis=1)
    decoded = codec.decode(every) if isinstance(codec, LshCodec) else codec.quantizer_.decode(every)
    width = 8 if isinstance(codec, LshCodec) else 8 // codec.bits
    tables = np.pad(decoded, ((0, 0), (0, count * width - decoded.shape[1]))).reshape(256, count, width)
    coded = faiss.IndexPQ(count * width, count, 8, faiss.METRIC_INNER_PRODUCT)
    faiss.copy_array_to_vector(tables.swapaxes(0, 1).ravel(), coded.pq.centroids)
    coded.is_trained = True
    coded.add_sa_codes(np.ascontiguousarray(codes))
    index = faiss.IndexPreTransform(faiss.RemapDimensionsTransform(decoded.shape[1], count * width, False), coded)
    index.ntotal = len(codes)
    return index


def search(codec, index, queries: np.ndarray, count: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Scores and numbers, ``(queries, min(count, documents))``, best first, for float queries ``(queries, D)``."""
    if count < 1:
        raise StudyError(f"k {count} must be at least 1")
    if count > index.ntotal:
        warnings.warn(f"{count} results were asked for, there are only {index.ntotal} texts", stacklevel=2)
    projected = np.ascontiguousarray(codec.project(np.asarray(queries, dtype=np.float32)), dtype=np.float32)
    faiss, size = load_faiss(), codec.bytes_per_vector
    _, numbers = index.search(projected, min(CANDIDATES * count, index.ntotal))
    held = faiss.downcast_index(index.index).codes
    codes = faiss.rev_swig_ptr(held.data(), held.size()).reshape(-1, size)
    scores = np.stack([codec.decode(codes[row]) @ query for row, query in zip(numbers, projected, strict=True)])
    best = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(scores, best, axis=1), np.take_along_axis(numbers, best, axis=1)


def save_index(path: Path, index, ids: list[str], marks: dict[str, str]) -> None:
    """Write the index, which ``faiss.read_index`` reads, and ``NAME.json`` with ids, fingerprints and the index's sha256."""
    if len(ids) != index.ntotal:
        raise StudyError(f"index {path.name}: {index.ntotal} codes need as many ids, got {len(ids)}")
    with write_atomically(path) as file:
        load_faiss().write_index(index, file.name)
    with write_atomically(Path(f"{path}.json"), "w") as file:
        json.dump({"version": VERSION, **marks, "index": file_digest(path), "ids": ids}, file)


def load_index(path: Path, marks: dict[str, str]) -> tuple:
    """Index and ids of a file that was made with the same codec and model."""
    with reading(f"index {path}", "make it with ccq export-faiss"):
        held = json.loads(Path(f"{path}.json").read_text(encoding="utf-8"))
        check_made(held, f"index {path.name}", marks)
        if held["index"] != file_digest(path):
            raise ValueError("it is damaged, or its ids are of another run")
        return load_faiss().read_index(str(path)), held["ids"]
