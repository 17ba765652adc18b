"""Damage: as much as it says, the same for a seed, and a grown corpus that only makes ranks worse."""

from types import SimpleNamespace

import numpy as np
import pytest
from ccq_utils.study.retention import Side, ndcg

from ccq_utils.analyses import stress
from ccq_utils.analyses.stress import TEXT_DAMAGE, damage, flip_bits
from ccq_utils.codecs.percentile import make_codec
from ccq_utils.study.metrics import Evaluator
from ccq_utils.study.stats import paired_interval

TEXT = "Compute the shortest paths between all nodes of a graph"


@pytest.fixture
def codes():
    return np.random.default_rng(0).integers(0, 256, (500, 16), dtype=np.uint8)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_about_the_named_share_of_bits_is_flipped(codes, share):
    flipped = np.unpackbits(codes ^ flip_bits(codes, share, seed=1)).mean()
    assert flipped == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / codes.size / 8))


@pytest.mark.parametrize(("share", "expected"), [(0, 0), (1, 255)])
def test_flipping_nothing_and_everything(codes, share, expected):
    assert np.all(codes ^ flip_bits(codes, share, seed=1) == expected)


def test_flips_are_the_same_for_a_seed_and_leave_the_codes_alone(codes):
    before = codes.copy()
    first, again, other = (flip_bits(codes, 0.1, seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert np.array_equal(codes, before) and first.dtype == np.uint8


@pytest.mark.parametrize("kind", TEXT_DAMAGE)
def test_damage_is_the_same_for_a_seed(kind):
    assert damage(TEXT, kind, 3) == damage(TEXT, kind, 3)


def test_as_written_changes_nothing():
    assert all(damage(TEXT, "as written", seed) == TEXT for seed in range(20))


@pytest.mark.parametrize(("kind", "most"), [("one typo", 1), ("three typos", 3)])
def test_typos_replace_that_many_letters(kind, most):
    counts = [sum(old != new for old, new in zip(TEXT, damage(TEXT, kind, seed), strict=True)) for seed in range(50)]
    assert max(counts) == most and np.mean(counts) > 0.85 * most  # a letter is now and then replaced by itself


def test_typos_leave_blanks_and_signs_alone():
    assert [damage("12 + (3)", "three typos", seed) for seed in range(5)] == ["12 + (3)"] * 5


def test_halves_join_to_the_whole():
    assert damage(TEXT, "first half", 0) == "Compute the shortest paths between"
    assert damage(TEXT, "last half", 0) == "all nodes of a graph"


@pytest.mark.parametrize("kind", TEXT_DAMAGE)
def test_damaged_text_is_never_empty(kind):
    assert damage("word", kind, 0)


@pytest.fixture(params=[False, True], ids=["whole ranking", "own document excluded"])
def grown(request, make_task, random_vectors):
    """``distractors`` on a small task whose judged documents lie near their queries."""
    task = make_task(exclude_self=request.param)
    documents = random_vectors(150, 16, 1, decay=1)
    names, judge = list(task.documents), Evaluator(task)
    near = [documents[[names.index(name) for name in list(task.qrels[query])[:2]]] for query in judge.query_ids]
    queries = np.stack([pair.mean(0) for pair in near])
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    side = Side("made_up", queries, documents, judge, ndcg(judge, queries @ documents.T))
    extra = random_vectors(2000, 16, 2, decay=1)
    study = SimpleNamespace(
        tasks={"made_up": task},
        joined=lambda part: extra,
        interval=lambda statistic, measured, reference: paired_interval(statistic, [measured], [reference], 100),
    )
    codecs = [make_codec("LSH", 16, 8, seed=seed).fit(extra) for seed in range(2)]
    return side, stress.distractors(study, {"made_up": side}, {"LSH": codecs})


def test_corpus_grows_to_all_passages(grown):
    _, table = grown
    assert list(table.loc[table["method"] == "concat", "added"]) == [0, 600, 1800, 6000]


def test_corpus_that_did_not_grow_scores_as_before(grown):
    side, table = grown
    before = table[(table["method"] == "concat") & (table["added"] == 0)]
    assert before["ndcg_at_10"].item() == pytest.approx(side.reference.mean())


def test_distractors_only_push_judged_documents_down(grown):
    _, table = grown
    scores = list(table.loc[table["method"] == "concat", "ndcg_at_10"])
    assert scores == sorted(scores, reverse=True) and scores[0] > scores[-1] > 0


def test_concat_retains_itself_over_the_same_grown_corpus(grown):
    _, table = grown
    assert np.allclose(table.loc[table["method"] == "concat", "estimate"], 1)
    assert (table.loc[(table["method"] == "LSH") & (table["added"] > 0), "estimate"] < 1).all()
