"""Damage: as much as it says, the same for a seed; codecs at a budget are made as often as asked."""

from types import SimpleNamespace

import numpy as np
import pytest

from ccq_utils.analyses.stress import TEXT_DAMAGE, best_bits, bits_grid, damage, flip_bits, grown, score_coded
from ccq_utils.codecs.codec import scores
from ccq_utils.codecs.decoder import fit_pca
from ccq_utils.codecs.percentile import make_codec
from ccq_utils.study.metrics import Evaluator
from ccq_utils.study.scores import FittingVectors, TaskVectors, Vectors
from ccq_utils.study.stats import summarise

TEXT = "Compute the shortest paths between all nodes of a graph"


@pytest.fixture(scope="module")
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
def test_damage_is_the_same_for_a_seed_and_never_empty(kind):
    assert damage(TEXT, kind, 3) == damage(TEXT, kind, 3)
    assert damage("word", kind, 0)


@pytest.mark.parametrize(("kind", "most"), [("as written", 0), ("one typo", 1), ("three typos", 3)])
def test_typos_replace_that_many_letters_and_nothing_else(kind, most):
    counts = [sum(old != new for old, new in zip(TEXT, damage(TEXT, kind, seed), strict=True)) for seed in range(50)]
    assert set(counts) == {most}
    assert damage("12 + (3)", kind, 0) == "12 + (3)"


def test_halves_join_to_the_whole():
    assert damage(TEXT, "first half", 0) == "Compute the shortest paths between"
    assert damage(TEXT, "last half", 0) == "all nodes of a graph"


@pytest.fixture(params=[False, True], ids=["whole ranking", "own document excluded"])
def small(request, make_task, random_vectors, cache):
    """A study and the vectors of its task, whose judged documents lie near their queries."""
    task = make_task(exclude_self=request.param)
    documents, names, evaluator = random_vectors(150, 16, 1, decay=1), list(task.documents), Evaluator(task)
    near = [documents[[names.index(name) for name in list(task.qrels[query])[:2]]] for query in evaluator.query_ids]
    queries = np.stack([pair.mean(0) for pair in near])
    one = TaskVectors(queries / np.linalg.norm(queries, axis=1, keepdims=True), documents, evaluator)
    study = SimpleNamespace(
        tasks={"a": task}, cache=cache, profile=SimpleNamespace(seed=7, seeds=2), summarise=summarise
    )
    return study, Vectors({"a": one}, FittingVectors(random_vectors(300, 16, 2, 1), random_vectors(300, 16, 3, 1)))


def test_distractors_only_push_judged_documents_down(small, random_vectors):
    study, vectors = small
    added = random_vectors(6000, 16, 4, decay=1)
    means = [grown(study, vectors, added[:count]).raw["score"].mean() for count in (0, 600, 6000)]
    assert means[0] == pytest.approx(vectors.raw["score"].mean())
    assert means == sorted(means, reverse=True) and means[0] > means[-1] > 0


@pytest.mark.parametrize("symmetric", [True, False])
def test_codecs_at_a_budget_are_made_as_often_as_asked(small, symmetric):
    study, vectors = small
    found = score_coded(study, vectors, "LSH", 2, seeds=2, factor=32)
    assert set(found["seed"]) == {0, 1} and set(score_coded(study, vectors, "LSH", 2)["seed"]) == {0}
    assert set(score_coded(study, vectors, "PCA", 2, seeds=2)["seed"]) == {0}
    one, codec = vectors.by_task["a"], make_codec("LSH", 16, 2, seed=8).fit(vectors.general.training)
    expected = one.ndcg(scores(codec, one.queries, codec.encode(one.documents), symmetric))
    rows = found[(found["seed"] == 1) & (found["scoring"] == ("symmetric" if symmetric else "asymmetric"))]
    assert rows["score"].tolist() == pytest.approx(expected.tolist())
    assert set(found["factor"]) == {32} and set(found["bytes_per_vector"]) == {2} and set(found["dims"]) == {16}


def test_other_decoders_bits_and_flips_are_scored_anew(small):
    study, vectors = small
    decoders = [[fit_pca(vectors.general.training[start : start + 100], 8)] * 2 for start in (0, 100)]
    means = [score_coded(study, vectors, "decoder", 2, group)["score"].mean() for group in decoders]
    means += [score_coded(study, vectors, "decoder", 2, decoders[0], bits=bits)["score"].mean() for bits in (1, 4)]
    assert len(set(means)) == 4
    assert score_coded(study, vectors, "decoder", 2, decoders[0], flipped=0.3)["score"].mean() < means[0]


def test_flips_damage_stored_documents_and_no_query(small):
    """All bits flipped turn every score of signs around: what was last comes first, whichever way the query is kept."""
    study, vectors = small
    one, codec = vectors.by_task["a"], make_codec("LSH", 16, 2, seed=7).fit(vectors.general.training)
    codes = codec.encode(one.documents)
    found = score_coded(study, vectors, "LSH", 2, flipped=1)
    for scoring in ("symmetric", "asymmetric"):
        expected = one.ndcg(-scores(codec, one.queries, codes, scoring == "symmetric"))
        assert found[found["scoring"] == scoring]["score"].tolist() == pytest.approx(expected.tolist())


def test_each_scoring_gets_the_bits_that_keep_most_and_no_more_dims_than_its_map_has(small):
    study, vectors = small
    decoders = [fit_pca(vectors.general.training, 8)]
    grid = bits_grid(study, vectors, ["decoder", "PCA", "LSH"], [2, 4], decoders)
    assert set(grid["method"]) == {"decoder", "PCA"} and set(grid["bits"]) == {1, 2, 4, 8}
    dims = grid.drop_duplicates(["method", "budget", "bits"]).set_index(["method", "budget", "bits"])["dims"]
    assert dims["decoder", 4, 1] == 8 and dims["PCA", 4, 1] == 16 and dims["decoder", 4, 8] == dims["PCA", 4, 8] == 4
    assert (grid["bytes_per_vector"] <= grid["budget"]).all()
    chosen = best_bits(grid)
    kept = grid.set_index(["method", "budget", "scoring", "bits"])["estimate"].sort_index()
    assert all(kept[key].max() == kept[(*key, bits)] for key, bits in chosen.items())
    found = score_coded(study, vectors, "PCA", 2, bits=chosen).drop_duplicates("scoring").set_index("scoring")["bits"]
    assert found.to_dict() == {scoring: chosen["PCA", 2, scoring] for scoring in ("symmetric", "asymmetric")}
