"""How long it takes to score compression settings on given vectors: this harness, bitbudget, and mteb's own way."""

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from ccq_utils.analyses.timing import race
from ccq_utils.codecs.peers import WrapperCodec
from ccq_utils.common.errors import StudyError
from ccq_utils.data.mteb_tasks import as_mteb
from ccq_utils.study.retention import Side, codec_scores

DEPTHS = {"float16": 16, "int8": 8, "int4": 4}
"""Methods of bitbudget that differ from each other in the number a value is rounded to, and their bits."""
PRODUCTS = "matrix products alone"
SAME = 1e-6
"""Two ways to compute nDCG@10 may differ by so much."""
WRAPPED = ("INT8", "INT4")
"""Types of mteb's ``CompressionWrapper``; of one bit there are ties, broken by rounding."""


class RoundedCodec:
    """What bitbudget's ``float16``, ``int8`` and ``int4`` do to the first ``dims`` dims, with the face of ``codecs``."""

    def __init__(self, dims: int, method: str):
        self.dims, self.method = dims, method
        self.bytes_per_vector = dims * DEPTHS[method] / 8

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """``(n, D) -> (n, dims)`` float16 or int8; the scale per dim, fitted on these vectors as bitbudget does, is kept."""
        cut = vectors[:, : self.dims]
        if self.method == "float16":
            return cut.astype(np.float16)
        largest = 2 ** (DEPTHS[self.method] - 1) - 1
        self.scale_ = np.abs(cut).max(axis=0) / float(largest) + 1e-9
        return np.round(cut / self.scale_).clip(-largest, largest).astype(np.int8)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """``(n, dims) float32``."""
        return codes.astype(np.float32) if self.method == "float16" else codes.astype(np.float32) * self.scale_

    def project(self, vectors: np.ndarray) -> np.ndarray:
        """The first ``dims`` dims."""
        return vectors[:, : self.dims]


def settings(dims: int, count: int = 20) -> list[tuple[str, int]]:
    """``count`` pairs of a bitbudget method and a depth of truncation, deep ones first."""
    depths = depths_of(dims, -(-count // len(DEPTHS)))
    return [(method, int(depth)) for depth in depths for method in DEPTHS][:count]


def depths_of(dims: int, count: int) -> np.ndarray:
    """``count`` depths from all dims to an eighth of them, but not below 16: documents of one code tie, and each harness
    breaks ties its own way.
    """
    return np.linspace(dims, max(dims // 8, min(dims, 16)), count).astype(int)


def against_bitbudget(side: Side, count: int = 20, repeats: int = 5) -> pd.DataFrame:
    """nDCG@10 of ``count`` settings on one task by ``codec_scores`` and by bitbudget's ``evaluate``, one thread each.

    Both also give a recall; bitbudget's is of the float ranking, ours of the judgements.

    Returns
    -------
    The table of ``race``, with ``difference``, the largest in nDCG@10 from bitbudget's own function before it rounds. Its
    third way, the bare products of queries and documents, is what no way to compute scores can be faster than.

    Raises
    ------
    StudyError : bitbudget is not installed, a task that bitbudget cannot score alike, or scores that differ.
    """
    try:
        from bitbudget import METHODS
        from bitbudget.eval import evaluate
        from bitbudget.metrics import ndcg_at_k
    except ImportError as error:
        raise StudyError("package 'bitbudget' is not installed; run: pip install -e '.[dev]'") from error
    task, chosen = side.judge.task, settings(side.documents.shape[1], count)
    if not fits_bitbudget(side):
        raise StudyError(f"task {task.name!r}: bitbudget excludes no document and weighs grades above 1 otherwise")
    judged = list(task.documents), side.judge.query_ids, task.qrels

    def ours():
        codecs = [RoundedCodec(depth, method) for method, depth in chosen]
        return codec_scores({task.name: side}, codecs)[task.name].mean(axis=1)

    def theirs():
        cuts = [(side.documents[:, :depth], side.queries[:, :depth]) for _, depth in chosen]
        return [evaluate(*cut, *judged, methods=[name]) for cut, (name, _) in zip(cuts, chosen, strict=True)]

    def products():
        return [side.queries[:, :depth] @ side.documents[:, :depth].T for _, depth in chosen]

    def unrounded(name, depth):
        matrix, _ = METHODS[name](side.documents[:, :depth], side.queries[:, :depth])
        return ndcg_at_k(matrix, judged[1], judged[0], judged[2])

    differ = _largest_difference(ours(), [unrounded(name, depth) for name, depth in chosen])
    ways = {"bitbudget": theirs, "codec_scores": ours, PRODUCTS: products}
    with threadpool_limits(1):
        table = race(f"{count} settings of bitbudget, {task.name}", ways, repeats)
    return table.assign(difference=differ)


def fits_bitbudget(side: Side) -> bool:
    """Whether bitbudget scores a task as we do: it excludes no document and weighs grades above 1 otherwise."""
    task = side.judge.task
    return not (task.exclude_self or any(grade > 1 for grades in task.qrels.values() for grade in grades.values()))


def against_mteb(side: Side, count: int = 20, repeats: int = 5) -> pd.DataFrame:
    """The same against ``mteb.evaluate`` of a ``CompressionWrapper`` around a model that looks its vectors up.

    ``count`` pairs of a type in ``WRAPPED`` and a number of dims, to which both sides reduce the vectors by uncentred PCA.
    """
    task, dims = side.judge.task, side.documents.shape[1]
    depths = depths_of(dims, -(-count // len(WRAPPED)))
    codecs = [WrapperCodec(int(depth), dtype).fit(side.documents) for depth in depths for dtype in WRAPPED][:count]
    judged = {query: task.qrels[query] for query in side.judge.query_ids}
    local = as_mteb(replace(task, qrels=judged, validation=frozenset()))

    def ours():
        return codec_scores({task.name: side}, codecs)[task.name].mean(axis=1)

    def theirs():
        return [_mteb_score(local, side, codec) for codec in codecs]

    differ = _largest_difference(ours(), theirs())
    with threadpool_limits(1):
        table = race(f"{count} settings of mteb, {task.name}", {"mteb": theirs, "codec_scores": ours}, repeats)
    return table.assign(difference=differ)


def _largest_difference(ours, theirs):
    differ = float(np.abs(np.subtract(ours, theirs)).max())
    if differ > SAME:
        raise StudyError(f"nDCG@10 differs by {differ:.2g} between two ways to compute it; their times say nothing")
    return differ


class _Given:
    """An mteb model whose vectors are there already, reduced as a codec reduces them."""

    def __init__(self, side, codec):
        from mteb.models import ModelMeta

        self.mteb_model_meta = ModelMeta.create_empty()
        task = side.judge.task
        asked = [task.queries[query] for query in side.judge.query_ids]
        self.rows = {
            kind: {text.strip(): row for row, text in enumerate(texts)}
            for kind, texts in (("query", asked), ("document", task.documents.values()))
        }
        self.vectors = {"query": side.queries, "document": side.documents}
        self.reduced = lambda vectors: codec.decoder_.transform(vectors, codec.dims)

    def encode(self, inputs, *, prompt_type=None, **_):
        """The vectors of the texts of all batches."""
        kind = prompt_type.value
        rows = [self.rows[kind][text.strip()] for batch in inputs for text in batch["text"]]
        return self.reduced(self.vectors[kind][rows])

    def similarity(self, first, second):
        """Cosines."""
        from mteb.similarity_functions import cos_sim

        return cos_sim(first, second)


def _mteb_score(local, side, codec):
    """Mean nDCG@10 as mteb finds it; its rounding to five digits, which would hide differences, is set aside."""
    import mteb
    from mteb._evaluators import retrieval_metrics
    from mteb.models import CompressionWrapper
    from mteb.types import OutputDType

    retrieval_metrics.round = lambda value, digits=None: round(value) if digits is None else value
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that ranges of fewer than 10,000 vectors are unstable
            model = CompressionWrapper(_Given(side, codec), OutputDType[codec.dtype])
            found = mteb.evaluate(model, local, cache=None, co2_tracker=False, show_progress_bar=False)
    finally:
        del retrieval_metrics.round
    return found.task_results[0].scores["test"][0]["ndcg_at_10"]
