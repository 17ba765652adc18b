"""Our vector-level scores against mteb's and pytrec_eval's on the same vectors."""

from dataclasses import replace

import mteb
import numpy as np
import pytest
import pytrec_eval
from sentence_transformers import SentenceTransformer

from ccq_utils.common.errors import StudyError
from ccq_utils.data.mteb_tasks import as_mteb
from ccq_utils.models.lexical import LexicalEncoder
from ccq_utils.study.metrics import METRICS, Evaluator

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # inside mteb


@pytest.fixture(autouse=True)
def unrounded(monkeypatch):
    """mteb rounds its means to five digits, which would hide differences up to 5e-6."""

    def keep(value, digits=None):
        return round(value) if digits is None else value

    monkeypatch.setattr("mteb._evaluators.retrieval_metrics.round", keep, raising=False)


@pytest.fixture(scope="module")
def encoder():
    lexical = LexicalEncoder(features=2**12, dims=64).fit(["rain on the plain", "snow"], seed=1)
    return SentenceTransformer(modules=[lexical], device="cpu")


def our_scores(task, split, encoder):
    queries = encoder.encode([task.queries[name] for name in task.query_ids(split)])
    return Evaluator(task, split)(queries @ encoder.encode(list(task.documents.values())).T)


def mteb_scores(task, split, encoder):
    result = mteb.evaluate(encoder, as_mteb(task), cache=None, co2_tracker=False, show_progress_bar=False)
    return result.task_results[0].scores[split][0]


@pytest.mark.parametrize("split", ["test", "validation"])
@pytest.mark.parametrize("exclude_self", [False, True])
def test_scores_equal_those_of_mteb(make_task, encoder, exclude_self, split):
    task = make_task(exclude_self=exclude_self)
    ours, theirs = our_scores(task, split, encoder).mean(), mteb_scores(task, split, encoder)
    assert 0.05 < ours["ndcg_at_10"] < 0.95  # neither nothing nor all found, or agreement would say little
    assert {name: ours[name] for name in METRICS} == pytest.approx({name: theirs[name] for name in METRICS}, abs=1e-6)


def test_excluded_own_document_counts_as_not_found_as_in_mteb(make_task, encoder):
    task = make_task(documents=40, exclude_self=True)
    judged = {query: grades | {query: 3} for query, grades in task.qrels.items()}
    task = replace(task, qrels=judged)
    ours, theirs = our_scores(task, "test", encoder).mean(), mteb_scores(task, "test", encoder)
    assert {name: ours[name] for name in METRICS} == pytest.approx({name: theirs[name] for name in METRICS}, abs=1e-6)


def test_self_exclusion_changes_the_scores(make_task, encoder):
    with_own, without = (our_scores(make_task(exclude_self=flag), "test", encoder).mean() for flag in (False, True))
    assert not np.allclose(with_own, without)


@pytest.mark.parametrize("exclude_self", [False, True])
def test_tied_scores_equal_those_of_pytrec_eval(make_task, exclude_self):
    evaluator = Evaluator(task := make_task(exclude_self=exclude_self))
    scores = np.random.default_rng(0).integers(0, 8, (len(evaluator.query_ids), len(task.documents))).astype(np.float32)
    run = {
        query: {
            name: float(score)
            for name, score in zip(task.documents, row, strict=True)
            if not exclude_self or name != query
        }
        for query, row in zip(evaluator.query_ids, scores, strict=True)
    }
    theirs = pytrec_eval.RelevanceEvaluator(task.qrels, {"ndcg_cut.10", "recall.100", "recip_rank"}).evaluate(run)
    for query, ours in evaluator(scores).iterrows():
        assert ours["ndcg_at_10"] == pytest.approx(theirs[query]["ndcg_cut_10"], abs=1e-6)
        assert ours["recall_at_100"] == pytest.approx(theirs[query]["recall_100"], abs=1e-6)
        first = theirs[query]["recip_rank"]
        assert ours["mrr_at_10"] == pytest.approx(first if first >= 0.1 else 0, abs=1e-6)


def ideal_scores(task):
    names = list(task.documents)
    return np.array(
        [[task.qrels[query].get(name, 0) for name in names] for query in task.query_ids("test")], dtype=np.float32
    )


def test_a_split_without_an_answer_is_named(make_task):
    with pytest.raises(StudyError, match="task 'made_up': no validation query has an answer among the documents"):
        Evaluator(make_task(validation=frozenset()), "validation")


def test_ideal_ranking_scores_one(task):
    assert np.allclose(Evaluator(task)(ideal_scores(task)), 1)


def test_judged_document_that_does_not_exist_is_never_found(task):
    qrels = {query: grades | {"nowhere": 3} for query, grades in task.qrels.items()}
    missing = replace(task, qrels=qrels, allow_missing=True)
    found = Evaluator(missing)(ideal_scores(task))
    assert np.allclose(found["recall_at_100"], 4 / 5)
    assert (found["ndcg_at_10"] < 0.8).all()


def test_task_whose_judged_documents_all_miss_scores_zero(task):
    missing = replace(task, qrels={query: {"nowhere": 1} for query in task.qrels}, allow_missing=True)
    assert (Evaluator(missing)(ideal_scores(task)) == 0).all(axis=None)


def test_blocks_and_whole_matrix_give_the_same(task, random_vectors, monkeypatch):
    whole = Evaluator(task)(random_vectors(16, 150))
    monkeypatch.setattr("ccq_utils.study.metrics.BLOCK", 5)
    assert Evaluator(task)(random_vectors(16, 150)).equals(whole)


def test_given_scores_are_left_as_they_are(make_task, random_vectors):
    scores = random_vectors(16, 150)
    before = scores.copy()
    evaluator = Evaluator(make_task(exclude_self=True))
    evaluator(scores), evaluator.top(scores)
    assert np.array_equal(scores, before)


def test_top_is_sorted_and_leaves_the_own_document_out(make_task, random_vectors):
    task = make_task(exclude_self=True)
    evaluator, scores = Evaluator(task), random_vectors(16, 150)
    names = list(task.documents)
    scores[np.arange(16), [names.index(query) for query in evaluator.query_ids]] = 9
    top = evaluator.top(scores)
    found = np.take_along_axis(scores, top, axis=1)
    assert top.shape == (16, 10) and (np.diff(found, axis=1) <= 0).all() and found.max() < 9


def test_nan_score_is_an_error(task, random_vectors):
    scores = random_vectors(16, 150)
    scores[3, 7] = np.nan
    with pytest.raises(StudyError, match="'made_up': a score is NaN"):
        Evaluator(task)(scores)


@pytest.mark.parametrize("shape", [(16, 149), (15, 150), (17, 150), (150, 16)])
def test_scores_of_another_shape_are_an_error(task, random_vectors, shape):
    with pytest.raises(StudyError, match=r"'made_up': scores have shape .* expected"):
        Evaluator(task)(random_vectors(*shape))
