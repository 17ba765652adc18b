"""Packed codes as a faiss index: what searches them here, and what plain faiss can serve.

Each byte of a code stands for a few dims of the decoded vector, whatever the other bytes are. faiss's product quantizer
stores the same thing: one byte per block and a table of 256 vectors per block. So its index holds the codes of all our
codecs as they are, and its scores are the inner products with the decoded vectors.
"""

import json
from functools import cache
from pathlib import Path

import numpy as np

from ccq_utils.codecs.byte_blocks import BlockCodec
from ccq_utils.codecs.files import VERSION, check_codes, check_made, reading
from ccq_utils.codecs.percentile import LshCodec, PercentileCodec
from ccq_utils.common.errors import StudyError
from ccq_utils.common.files import write_atomically


@cache
def load_faiss():
    """The module faiss, imported when first needed and set to one thread, once, for the rest of the process.

    torch and faiss each bring an OpenMP runtime. With more than one thread the two can stall or crash in one process, and
    faiss's k-means gives other results. On macOS set ``KMP_DUPLICATE_LIB_OK=TRUE`` where the import itself fails.
    """
    import faiss

    faiss.omp_set_num_threads(1)
    return faiss


def to_faiss(codec, codes: np.ndarray):
    """A faiss index that holds a copy of the codes. It takes queries as ``codec.project`` gives them.

    It is an ``IndexPQ`` (inner product) behind a map that pads the dims of each byte to the same width. The codec is one
    whose bytes decode one by one: byte blocks, percentile or LSH.
    """
    codes = check_codes(codec, codes)
    if not len(codes):
        raise StudyError("there are no codes to search; encode documents first")
    runs, faiss = _dims_of_bytes(codec), load_faiss()
    dims, width = runs[-1][1], max(last - first for first, last in runs)
    decoded = codec.decode(np.repeat(np.arange(256, dtype=np.uint8)[:, None], len(runs), axis=1))
    tables = np.zeros((len(runs), 256, width), dtype=np.float32)
    places = np.full((len(runs), width), -1, dtype=np.int32)  # -1 is a dim of zeros
    for number, (first, last) in enumerate(runs):
        tables[number, :, : last - first] = decoded[:, first:last]
        places[number, : last - first] = np.arange(first, last)
    coded = faiss.IndexPQ(places.size, len(runs), 8, faiss.METRIC_INNER_PRODUCT)
    faiss.copy_array_to_vector(tables.ravel(), coded.pq.centroids)
    coded.is_trained = True
    coded.add_sa_codes(np.ascontiguousarray(codes))
    padding = faiss.RemapDimensionsTransform(dims, places.size, True)
    faiss.copy_array_to_vector(places.ravel(), padding.map)
    index = faiss.IndexPreTransform(padding, coded)
    index.ntotal = len(codes)
    return index


def _dims_of_bytes(codec):
    """First dim, and last dim plus one, that each byte decodes to."""
    if isinstance(codec, BlockCodec):
        return codec.blocks_
    if not isinstance(codec, LshCodec | PercentileCodec):
        name = type(codec).__name__
        raise StudyError(f"codes of {name} do not fit a faiss index; choose byte blocks, PCA or a decoder")
    dims, bits = (codec.bits, 1) if isinstance(codec, LshCodec) else (codec.dims, codec.bits)
    return [(first, min(first + 8 // bits, dims)) for first in range(0, dims, 8 // bits)]


def search(codec, index, queries: np.ndarray, count: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Scores and numbers, ``(queries, count)``, best first, of the best documents of float queries ``(queries, D)``."""
    if count < 1:
        raise StudyError(f"k {count} must be at least 1")
    projected = codec.project(np.asarray(queries, dtype=np.float32))
    return index.search(np.ascontiguousarray(projected, dtype=np.float32), min(count, index.ntotal))


def save_index(path: Path, index, ids: list[str], marks: dict[str, str]) -> None:
    """Write the index, which ``faiss.read_index`` reads, and beside it ``NAME.json`` with ids and fingerprints."""
    if len(ids) != index.ntotal:
        raise StudyError(f"index {path.name}: {index.ntotal} codes need as many ids, got {len(ids)}")
    with write_atomically(path) as file:
        load_faiss().write_index(index, file.name)
    with write_atomically(_beside(path), "w") as file:
        json.dump({"version": VERSION, **marks, "ids": ids}, file)


def load_index(path: Path, marks: dict[str, str]) -> tuple:
    """Index and ids of a file that was made with the same codec and model."""
    with reading(f"index {path}", "make it with ccq export-faiss"):
        held = json.loads(_beside(path).read_text(encoding="utf-8"))
        check_made(held, f"index {path.name}", marks)
        return load_faiss().read_index(str(path)), held["ids"]


def _beside(path):
    return path.with_name(f"{path.name}.json")
