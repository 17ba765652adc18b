"""Why a rotation helps: the formula of the effective dims against Gaussian dims, margins against scores."""

from types import SimpleNamespace

import numpy as np
import pytest
from ccq_utils.study.retention import Side
from ccq_utils.study.scoring import PLACES, Fitting

from ccq_utils.analyses import rotation
from ccq_utils.codecs.decoder import random_rotation
from ccq_utils.codecs.percentile import PercentileCodec
from ccq_utils.codecs.quantizer import PercentileQuantizer
from ccq_utils.study.metrics import Evaluator
from ccq_utils.study.stats import paired_interval


def one_bit(values):
    quantizer = PercentileQuantizer(1).fit(values)
    return quantizer.decode(quantizer.encode(values))


@pytest.mark.parametrize("decay", [0.98, 0.99, 1.0])
def test_rotation_lowers_the_noise_of_scores_by_dims_over_effective_dims(decay):
    dims, rng = 256, np.random.default_rng(3)
    scale = decay ** np.arange(dims)
    documents, queries = (rng.standard_normal((rows, dims)) * scale for rows in (4000, 400))
    turn, true = random_rotation(dims, 1), queries @ documents.T
    decoded = [one_bit(documents), one_bit(documents @ turn) @ turn.T]
    noise = [rotation.score_noise(true, queries @ each.T).mean() for each in decoded]
    expected = dims / rotation.effective_dims(scale**2)
    assert noise[0] / noise[1] == pytest.approx(expected, rel=0.1)
    assert np.var(documents - decoded[0]) == pytest.approx(np.var(documents - decoded[1]), rel=0.03)
    share = expected * rotation.ONE_BIT / (rotation.ONE_BIT**2 * (expected - 1) + rotation.ONE_BIT)
    raw = [(queries @ each.T - true).var(axis=1).mean() for each in decoded]
    assert raw[0] / raw[1] == pytest.approx(share, rel=0.1)


def test_effective_dims_count_equal_dims_and_nothing_else():
    assert rotation.effective_dims(np.ones(7)) == pytest.approx(7)
    assert rotation.effective_dims([1, 0, 0]) == pytest.approx(1)
    assert 1 < rotation.effective_dims([4, 1]) < 2


def test_noise_of_scores_does_not_see_a_common_factor_or_offset():
    rng = np.random.default_rng(0)
    true = rng.standard_normal((5, 300))
    decoded = 0.6 * true + 0.1 * rng.standard_normal((5, 300))
    expected = rotation.score_noise(true, decoded)
    assert rotation.score_noise(true, 7 * decoded + 3) == pytest.approx(expected)
    assert expected == pytest.approx((0.1 / 0.6) ** 2, rel=0.5)
    assert rotation.score_noise(true, 0.6 * true) == pytest.approx(np.zeros(5), abs=1e-12)


@pytest.fixture
def study(make_task, random_vectors, monkeypatch):
    """Two tasks with vectors of 32 dims, whose queries resemble their documents."""
    found = {}
    for seed, name in enumerate(("a", "b")):
        judge = Evaluator(make_task(seed=seed, exclude_self=bool(seed)), "validation")
        documents, drawn = random_vectors(150, 32, seed, 0.9), random_vectors(len(judge.query_ids), 32, seed + 9, 0.9)
        for row, column in zip(judge.rows, judge.columns, strict=True):
            drawn[row] += documents[column]
        queries = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
        reference = judge(queries @ documents.T)["ndcg_at_10"].to_numpy()
        found[name] = Side(name, queries, documents, judge, reference)
    fittings = {(place, task): Fitting(side.documents) for place in PLACES for task, side in found.items()}
    monkeypatch.setattr(rotation, "sides", lambda study, split: found)
    monkeypatch.setattr(rotation, "what_to_fit_on", lambda study, found: fittings)
    wrap = lambda scores: scores if isinstance(scores, list) else [scores]  # noqa: E731
    return SimpleNamespace(
        profile=SimpleNamespace(seed=1, seeds=2),
        joined=lambda part: random_vectors(50, 32, 5),
        interval=lambda statistic, ours, theirs: paired_interval(statistic, wrap(ours), wrap(theirs), 100),
        found=found,
    )


def test_shares_add_up_and_margins_are_the_differences_of_scores(study):
    table = rotation.margins(study, [0, 4, 16, 64])
    assert table.groupby("task")[["variance", "estimate"]].sum().to_numpy() == pytest.approx(1)
    assert table[table["task"] == "a"][["first", "last"]].to_numpy().tolist() == [[0, 3], [4, 15], [16, 31]]
    side = study.found["b"]
    scores = side.queries @ side.documents.T
    row = 0
    relevant = side.judge.columns[side.judge.rows == row]
    others = np.delete(scores[row], [*relevant, side.judge.own[row]])
    expected = scores[row, relevant].mean() - np.sort(others)[-rotation.BEST :].mean()
    apart = rotation._apart(side, side.queries, side.documents)
    assert (side.queries * apart)[row].sum() == pytest.approx(expected, rel=1e-4)


def test_score_error_tells_what_the_codecs_do(study):
    table = rotation.score_error(study, [8, 32, 64])
    assert table["dims"].tolist() == [8] * 3 + [32] * 3 and table["task"].tolist() == ["a", "b", "macro mean"] * 2
    row = table[(table["task"] == "a") & (table["dims"] == 32)].iloc[0]
    side = study.found["a"]
    plain = PercentileCodec(32, 1).fit(side.documents)
    scores = plain.project(side.queries) @ plain.decode(plain.encode(side.documents)).T
    kept = side.judge(scores)["ndcg_at_10"].mean() / side.reference.mean()
    assert row["plain"] == pytest.approx(kept)
    assert row["estimate"] > 1 and row["predicted"] > 1 and row["by_variances"] > 1
    assert row["as_decoded"] < row["estimate"] and row["as_decoded_predicted"] < 1 / rotation.ONE_BIT
