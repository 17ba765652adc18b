"""Per-query retrieval scores from a score matrix, without a sort: each judged document is held against the best ones.

The rank of a judged document is one plus the number of documents that score higher, ties broken by document id in
descending order as ``pytrec_eval`` (mteb's scorer) does; a test holds the metrics against mteb to 1e-6.
"""

import numpy as np
import pandas as pd

from ccq_utils.common.errors import StudyError
from ccq_utils.data.tasks import Task

METRICS = ("ndcg_at_10", "mrr_at_10", "recall_at_100")
NEVER = np.iinfo(np.int64).max  # the rank of a judged document that is excluded, or that comes after ``DEPTH``
DEPTH = 100  # ranks that a metric looks at
BLOCK = 256  # queries per block of scores: 256 x 10,000 documents are 10 MB of float32


class Evaluator:
    """Scores rankings of one split of a task; prepares the judgements once and serves any number of score matrices.

    Columns of the scores are documents in the order of ``task.documents``, rows queries in that of ``query_ids``.
    """

    def __init__(self, task: Task, split: str = "test"):
        self.task, self.split, self.query_ids = task, split, task.query_ids(split)
        if not self.query_ids:
            raise StudyError(f"task {task.name!r}: no {split} query has an answer among the documents; give it more")
        document_ids = list(task.documents)
        column = {name: index for index, name in enumerate(document_ids)}
        self.tie_rank = np.empty(len(document_ids), dtype=np.int64)
        self.tie_rank[np.argsort(np.array(document_ids, dtype=object))[::-1]] = np.arange(len(document_ids))
        self.own = np.array([column.get(query, -1) if task.exclude_self else -1 for query in self.query_ids])
        # A judgement for a document that does not exist stays in the ideal ranking and is never found, as in mteb.
        grades = [{k: grade for k, grade in task.qrels[query].items() if grade > 0} for query in self.query_ids]
        best = [sorted(given.values(), reverse=True)[:10] for given in grades]
        self.ideal = np.array([sum(gain / np.log2(rank + 2) for rank, gain in enumerate(gains)) for gains in best])
        self.relevant = np.array([len(given) for given in grades])
        judged = [(row, column[k], gain) for row, of in enumerate(grades) for k, gain in of.items() if k in column]
        self.rows, self.columns, self.gains = np.array(judged, dtype=np.int64).reshape(-1, 3).T

    def __call__(self, matrix: np.ndarray) -> pd.DataFrame:
        """Metrics of scores ``(queries, documents)``, higher is better: a row per query, a column per metric."""
        size, task = len(self.query_ids), f"task {self.task.name!r}"
        if matrix.shape != (expected := (size, len(self.task.documents))):
            raise StudyError(f"{task}: scores have shape {matrix.shape}, expected {expected} (queries, documents)")
        ranks, depth = np.full(len(self.rows), NEVER), min(DEPTH, expected[1])
        for start in range(0, size, BLOCK):
            block, pairs = slice(start, start + BLOCK), slice(*np.searchsorted(self.rows, (start, start + BLOCK)))
            rows, columns, costs = self.rows[pairs], self.columns[pairs], self._costs(matrix[block], block)
            costs.partition(depth - 1, axis=1)
            if np.isnan(costs).any():
                raise StudyError(f"{task}: a score is NaN; check the vectors that were scored")
            best, given = costs[rows - start, :depth], -matrix[rows, columns]  # the best are in no order
            above, equal = (best < given[:, None]).sum(axis=1), (best == given[:, None]).sum(axis=1)
            last = best.max(axis=1)
            for pair in np.flatnonzero((equal > 1) | (given == last)):  # others may tie with the last
                ties = (matrix[rows[pair]] == -given[pair]) & (self.tie_rank < self.tie_rank[columns[pair]])
                above[pair] += np.count_nonzero(np.flatnonzero(ties) != self.own[rows[pair]])
            ranks[pairs] = np.where(given <= last, above + 1, NEVER)
        ranks[self.columns == self.own[self.rows]] = NEVER
        dcg = np.bincount(self.rows, np.where(ranks <= 10, self.gains / np.log2(ranks + 1.0), 0), size)
        first = np.full(size, NEVER)
        np.minimum.at(first, self.rows, ranks)
        found = np.bincount(self.rows, ranks <= DEPTH, size)
        values = dcg / self.ideal, np.where(first <= 10, 1 / first, 0), found / self.relevant
        return pd.DataFrame(dict(zip(METRICS, values, strict=True)), index=pd.Index(self.query_ids, name="query"))

    def _costs(self, scores, block):
        """Minus the scores, in which a query's own document, where it is excluded, comes last."""
        costs, (rows,) = -scores, np.nonzero(self.own[block] >= 0)
        costs[rows, self.own[block][rows]] = np.inf
        return costs

    def top(self, scores: np.ndarray) -> np.ndarray:
        """Columns of the ten best documents per query, ``(queries, 10)``, best first, own document excluded."""
        costs = self._costs(scores, slice(None))
        part = np.argpartition(costs, min(10, costs.shape[1]) - 1, axis=1)[:, :10]
        order = np.argsort(np.take_along_axis(costs, part, axis=1), axis=1, kind="stable")
        return np.take_along_axis(part, order, axis=1)
