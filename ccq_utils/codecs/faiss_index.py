"""Codes as an index file of faiss, for those who serve vectors with it and know nothing of this package."""

import json
from functools import cache
from pathlib import Path

import numpy as np

from ccq_utils.codecs.byte_blocks import BlockCodec
from ccq_utils.common.cache import writing_to
from ccq_utils.common.errors import StudyError


@cache
def load_faiss():
    """The module faiss, imported when first needed and set to one thread, once, for the rest of the process.

    torch and faiss each bring an OpenMP runtime. With more than one thread the two can stall or crash in one process, and
    faiss's k-means gives other results. On macOS set ``KMP_DUPLICATE_LIB_OK=TRUE`` where the import itself fails.
    """
    import faiss

    faiss.omp_set_num_threads(1)
    return faiss


def faiss_index(codec: BlockCodec, codes: np.ndarray):
    """A faiss index that takes queries as the model gives them, ``(q, D) float32``, and scores as ``codecs.search`` does.

    It is an ``IndexIDMap`` (row numbers, int64) of an ``IndexPreTransform``: the codec's projection as a
    ``LinearTransform``, then ``IndexPQ`` (inner product) with the codes as they are. The mean is left out, as in
    ``BlockCodec.project``: it adds the same to all scores of a query.

    Raises
    ------
    StudyError : a codec whose queries are not projected linearly, no codes, or codes of another width.
    """
    if not isinstance(codec, BlockCodec):
        raise StudyError(
            f"only byte blocks become a faiss index, not codes of {type(codec).__name__}; fit 'byte blocks'"
        )
    if not len(codes):
        raise StudyError("there are no codes to export; encode documents first")
    if codes.ndim != 2 or codes.shape[1] != codec.bytes_per_vector:
        raise StudyError(f"codes have shape {codes.shape}; this codec makes {codec.bytes_per_vector} bytes per vector")
    faiss = load_faiss()
    coded = codec.to_faiss(codes)
    matrix = np.ascontiguousarray(
        codec.pad(codec.basis_).T
    )  # (padded dims, D): what pads queries pads the basis' columns
    turn = faiss.LinearTransform(matrix.shape[1], matrix.shape[0], False)
    faiss.copy_array_to_vector(matrix.ravel(), turn.A)
    turn.is_trained = True
    index = faiss.IndexPreTransform(turn, coded)
    index.ntotal = 0  # numbers can only be given to an index that says it is empty
    numbered = faiss.IndexIDMap(index)
    index.ntotal = numbered.ntotal = len(codes)
    faiss.copy_array_to_vector(np.arange(len(codes), dtype=np.int64), numbered.id_map)
    return numbered


def export_faiss(codec: BlockCodec, codes: np.ndarray, ids: list[str], path: str | Path) -> Path:
    """Write ``path``, which ``faiss.read_index`` reads, and ``path`` + ``.json``: the ids by the row numbers that it returns.

    Returns
    -------
    The path of the ids.

    Raises
    ------
    StudyError : as ``faiss_index``; not as many ids as codes.
    """
    path = Path(path)
    if len(ids) != len(codes):
        raise StudyError(f"{len(codes)} codes need as many ids, got {len(ids)}")
    index, names = faiss_index(codec, codes), path.with_name(f"{path.name}.json")
    about = {
        "dims": codec.basis_.shape[0],
        "bytes_per_vector": codec.bytes_per_vector,
        "ids": [str(name) for name in ids],
    }
    with writing_to(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        load_faiss().write_index(index, str(partial))
        partial.replace(path)
        names.write_text(json.dumps(about))
    return names
