"""Intervals: against scipy's bootstrap and resampling by hand, by simulated coverage, and in words."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import bootstrap, ttest_1samp

from ccq_utils.common.errors import StudyError
from ccq_utils.study.stats import MACRO, Interval, holm, macro, over_seeds, rank_correlation, summarise, with_verdicts


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def table(values, **labels):
    """Long table of ``{task: scores}`` or ``{task: (seeds, scores)}``."""
    rows = [
        {"task": task, "query": query, "seed": seed, "score": score, **labels}
        for task, found in values.items()
        for seed, scores in enumerate(np.atleast_2d(found))
        for query, score in enumerate(scores)
    ]
    return pd.DataFrame(rows)


def only(measured, reference=None, statistic="retention", **options):
    """The one row of a table of one group on one task."""
    (row,) = summarise(measured, [], reference, statistic, **options).itertuples()
    return row


@pytest.mark.parametrize("statistic", ["retention", "difference", "mean"])
def test_one_task_agrees_with_scipy(rng, statistic):
    reference = rng.uniform(0.2, 1, 300)
    measured = 0.9 * reference + rng.normal(0, 0.1, 300)
    formula = {
        "retention": lambda ours, theirs, axis: ours.mean(axis) / theirs.mean(axis),
        "difference": lambda ours, theirs, axis: ours.mean(axis) - theirs.mean(axis),
        "mean": lambda ours, theirs, axis: ours.mean(axis),
    }[statistic]
    expected = bootstrap((measured, reference), formula, paired=True, method="percentile", rng=rng).confidence_interval
    against = None if statistic == "mean" else table({"a": reference})
    row = only(table({"a": measured}), against, statistic, resamples=8000)
    width = expected.high - expected.low
    assert row.estimate == pytest.approx(formula(measured, reference, 0))
    assert (row.low, row.high) == pytest.approx((expected.low, expected.high), abs=0.08 * width)
    assert row.queries == 300 and np.isnan(row.seed_spread)


def test_mean_over_tasks_agrees_with_resampling_by_hand(rng):
    tasks = {name: rng.uniform(0, 1, n) + shift for name, n, shift in (("a", 40, 0.0), ("b", 90, 0.3), ("c", 25, 0.5))}
    found = summarise(table(tasks), [], resamples=4000)
    each = list(tasks.values())
    drawn = [
        np.mean([rng.choice(each[task], len(each[task])).mean() for task in rng.integers(0, 3, 3)]) for _ in range(4000)
    ]
    row = macro(found).iloc[0]
    assert row["task"] == MACRO and row["queries"] == 155 and len(found) == 4
    assert row["estimate"] == pytest.approx(np.mean([scores.mean() for scores in each]))
    assert [row["low"], row["high"]] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.03)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng, hits = np.random.default_rng(0), 0
    for seed in range(200):
        reference = rng.uniform(0.2, 1, 40)
        measured = table({"a": reference - 0.1 + rng.normal(0, 0.1, 40)})
        row = only(measured, table({"a": reference}), resamples=200, seed=seed)
        hits += row.low <= 0.5 / 0.6 <= row.high
    assert 0.88 <= hits / 200 <= 0.99


def test_pairing_narrows_the_interval_and_unpaired_queries_are_refused(rng):
    reference = rng.uniform(0.2, 1, 200)
    measured = table({"a": reference - 0.02 + rng.normal(0, 0.02, 200)})
    paired, unpaired = (
        only(measured, table({"a": scores}), "difference") for scores in (reference, rng.permutation(reference))
    )
    assert paired.high - paired.low < 0.3 * (unpaired.high - unpaired.low)
    assert paired.estimate == pytest.approx(unpaired.estimate)
    with pytest.raises(StudyError, match="task 'a': a paired interval needs the same queries"):
        summarise(measured, [], table({"a": reference[:-1]}))


def test_seeds_are_averaged_per_query_and_their_spread_is_that_of_the_mean():
    reference = {"a": np.linspace(0.2, 0.8, 30), "b": np.linspace(0.1, 0.5, 50)}
    measured = {"a": np.outer([0.8, 1.0], reference["a"]), "b": np.outer([1.0, 0.8], reference["b"])}
    found = summarise(table(measured), [], table(reference)).set_index("task")
    assert found["estimate"].tolist() == pytest.approx([0.9, 0.9, 0.9])
    assert found["seed_spread"].tolist() == pytest.approx([0.1 * np.sqrt(2), 0.1 * np.sqrt(2), 0], abs=1e-7)


def test_groups_are_told_apart_and_held_against_the_reference_that_agrees():
    base = np.linspace(0.2, 0.8, 20)
    scores = pd.concat([table({"a": share * base}, method="ours", factor=f) for f, share in ((48, 0.9), (96, 0.5))])
    reference = pd.concat([table({"a": share * base}, factor=f) for f, share in ((96, 0.5), (48, 1.0))])
    found = summarise(scores, ["method", "factor"], reference)
    assert found[["method", "factor"]].values.tolist() == [["ours", 48], ["ours", 96]]
    assert found["estimate"].tolist() == pytest.approx([0.9, 1.0])
    assert found["ndcg_at_10"].tolist() == pytest.approx([0.9 * base.mean(), 0.5 * base.mean()])
    with pytest.raises(StudyError, match="the reference has no scores for"):
        summarise(scores, ["method", "factor"], reference[reference["factor"] == 48])


def test_a_group_of_one_task_gets_no_mean_over_tasks():
    scores = pd.concat([table({"a": [0.1, 0.2], "b": [0.3, 0.4]}, kind="both"), table({"b": [0.1, 0.3]}, kind="one")])
    found = summarise(scores, ["kind"])
    assert found[["task", "kind"]].values.tolist() == [["a", "both"], ["b", "both"], [MACRO, "both"], ["b", "one"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((table({"a": [1, 2]}), [], table({"a": [1, 2]}), "median"), "unknown statistic 'median'; accepted: retention"),
        ((table({"a": [1]}), []), "at least two queries"),
    ],
)
def test_bad_input_is_an_error(arguments, message):
    with pytest.raises(StudyError, match=message):
        summarise(*arguments)


def test_p_value_agrees_with_the_interval():
    assert Interval(0.1, 0.0, 0.2, 50).p(0.0) == pytest.approx(0.05)
    assert Interval(0.1, 0.01, 0.19, 50).p() < 0.05 < Interval(0.1, -0.01, 0.21, 50).p()
    assert Interval(1.0, 1.0, 1.0, 50).p(1.0) == 1 and Interval(1.0, 1.0, 1.0, 50).p(0.0) == 0


def test_p_value_of_few_seeds_or_models_is_students():
    values = [1.01, 1.0, 1.02]
    assert over_seeds(values).p(1.0) == pytest.approx(ttest_1samp(values, 1.0).pvalue)
    cut = Interval(0.9, 0.4, 1.0, 10, 4)  # the upper end was cut at 1
    assert cut.p(0.9 - 0.5) == pytest.approx(0.05) and cut.p(0.2) > 0.01


def test_more_than_64_tasks_have_a_mean():
    found = summarise(table({f"task {number}": [0.1, 0.2, 0.3] for number in range(70)}), [], resamples=100)
    assert found.iloc[-1]["task"] == MACRO and found.iloc[-1]["estimate"] == pytest.approx(0.2)


def test_holm_against_its_definition():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.9]) == pytest.approx([1, 1]) and len(holm([])) == 0


def test_verdicts_are_corrected_within_their_family_only():
    row = {"estimate": 0.1, "low": 0.01, "high": 0.19, "p": Interval(0.1, 0.01, 0.19, 50).p()}
    rows = pd.DataFrame([row | {"factor": 48}, *[row | {"factor": 96}] * 5, row | {"factor": 24, "p": np.nan}])
    words = with_verdicts(rows, ["factor"])["verdict"].tolist()
    assert words == ["better", *["no difference seen"] * 6]
    worse = pd.DataFrame([{"estimate": -0.1, "low": -0.2, "high": -0.05, "p": 0.001}])
    assert with_verdicts(worse)["verdict"].tolist() == ["worse"]


def test_rank_correlation_over_models_covers_nothing_about_as_often_as_it_says():
    rng, hits = np.random.default_rng(3), 0
    pairs = [(f"m{a}", f"m{b}") for a in range(8) for b in range(a)]
    for _ in range(60):
        x, y = (np.array([side[int(a[1])] + side[int(b[1])] for a, b in pairs]) for side in rng.standard_normal((2, 8)))
        interval = rank_correlation(x, y, pairs)
        hits += interval.low <= 0 <= interval.high
    assert 0.84 < hits / 60


def test_rank_correlation_of_three_models_says_nothing():
    three = rank_correlation([1, 2, 3], [1, 2, 3], [(1, 2), (1, 3), (2, 3)])
    assert (three.low, three.high) == (-1, 1) and three.estimate == pytest.approx(1)


def test_mean_over_seeds_has_students_interval():
    found = over_seeds([1.0, 2.0, 3.0])
    assert found.estimate == 2 and found.high - 2 == pytest.approx(4.3027 / np.sqrt(3), abs=1e-4)
    assert over_seeds([1.0]) is None and over_seeds([1.0, 1.0, 1.0]) == (1.0, 1.0, 1.0, 3, 2)
