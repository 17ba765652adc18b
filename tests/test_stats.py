"""Bootstrap intervals: against normal theory, by simulated coverage, and in words."""

import numpy as np
import pandas as pd
import pytest

from ccq_utils.common.errors import StudyError
from ccq_utils.study.stats import Interval, corrected_verdicts, holm, paired_interval, rank_correlation, verdict


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def reference(rng):
    return rng.uniform(0.2, 1, 200)


def width(interval):
    return interval.high - interval.low


def test_interval_of_a_mean_agrees_with_normal_theory(rng):
    values = rng.normal(0.5, 0.2, 400)
    interval = paired_interval("mean", [values])
    half = 1.96 * values.std(ddof=1) / 20
    assert interval.estimate == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.12 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.12 * half)
    assert interval.queries == 400


@pytest.mark.parametrize(("statistic", "truth"), [("mean", 0.5), ("difference", -0.1), ("retention", 0.5 / 0.6)])
def test_interval_covers_the_truth_about_as_often_as_it_says(statistic, truth):
    rng, hits = np.random.default_rng(0), 0
    for seed in range(200):
        reference = rng.uniform(0.2, 1, 40)
        measured = reference - 0.1 + rng.normal(0, 0.1, 40)
        interval = paired_interval(statistic, [measured], [reference], resamples=200, seed=seed)
        hits += interval.low <= truth <= interval.high
    assert 0.88 <= hits / 200 <= 0.99


def test_difference_and_retention_are_what_their_names_say(reference):
    assert paired_interval("difference", [reference - 0.1], [reference]).estimate == pytest.approx(-0.1)
    assert paired_interval("retention", [0.9 * reference], [reference]).estimate == pytest.approx(0.9)


def test_retention_is_the_ratio_of_means_not_the_mean_of_ratios():
    measured, reference = np.array([0.5, 1.0, 0.0, 1.0]), np.array([0.1, 1.0, 1.0, 1.0])
    assert paired_interval("retention", [measured], [reference]).estimate == pytest.approx(2.5 / 3.1)


def test_retention_of_identical_scores_is_one_without_width(reference):
    assert paired_interval("retention", [reference], [reference])[:3] == (1, 1, 1)


def test_paired_interval_is_narrower_than_an_unpaired_one(rng, reference):
    measured = reference - 0.02 + rng.normal(0, 0.02, 200)
    paired = paired_interval("difference", [measured], [reference])
    unpaired = paired_interval("difference", [measured], [rng.permutation(reference)])
    assert width(paired) < 0.3 * width(unpaired)
    assert paired.estimate == pytest.approx(unpaired.estimate)


def test_macro_mean_weighs_tasks_not_queries():
    tasks = [np.array([0.0, 0.0]), np.ones(98)]
    assert paired_interval("mean", tasks).estimate == pytest.approx(0.5)
    assert paired_interval("mean", tasks).queries == 100


def test_macro_retention_averages_the_tasks_retentions(reference):
    interval = paired_interval("retention", [0.5 * reference, reference], [reference, reference])
    assert interval.estimate == pytest.approx(0.75) and width(interval) == pytest.approx(0, abs=1e-12)


def test_resampling_tasks_widens_the_interval_where_tasks_differ(rng):
    references = [rng.uniform(0.2, 1, 300) for _ in range(3)]
    measured = [scores + shift for scores, shift in zip(references, (0.0, 0.1, 0.2), strict=True)]
    within = paired_interval("difference", measured, references)
    across = paired_interval("difference", measured, references, resample_tasks=True)
    assert within.estimate == across.estimate == pytest.approx(0.1)
    assert (
        width(within) < 1e-9
        and across.low == pytest.approx(0, abs=0.02)
        and across.high == pytest.approx(0.2, abs=0.02)
    )


def test_resampling_tasks_changes_little_where_tasks_agree(rng):
    references = [rng.uniform(0.2, 1, 200) for _ in range(3)]
    measured = [scores + rng.normal(0.1, 0.1, 200) for scores in references]
    within, across = (
        paired_interval("difference", measured, references, resample_tasks=flag) for flag in (False, True)
    )
    assert 0.9 * width(within) < width(across) < 2.2 * width(within)


def test_one_task_cannot_be_resampled(reference):
    alike = [paired_interval("mean", [reference], resample_tasks=flag) for flag in (False, True)]
    assert alike[0] == alike[1]


def test_p_value_agrees_with_the_interval():
    interval = Interval(0.1, 0.0, 0.2, 50)
    assert interval.p(0.0) == pytest.approx(0.05) and interval.p(0.1) == pytest.approx(1)
    assert Interval(0.1, 0.01, 0.19, 50).p() < 0.05 < Interval(0.1, -0.01, 0.21, 50).p()
    assert Interval(1.0, 1.0, 1.0, 50).p(1.0) == 1 and Interval(1.0, 1.0, 1.0, 50).p(0.0) == 0


def test_holm_against_its_definition():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.9]) == pytest.approx([1, 1]) and len(holm([])) == 0


def test_holm_never_lowers_and_keeps_the_order(rng):
    p_values = rng.uniform(0, 1, 30)
    adjusted = holm(p_values)
    assert (adjusted >= p_values).all() and (np.diff(adjusted[np.argsort(p_values)]) >= 0).all()


def test_interval_holds_its_estimate(rng):
    interval = paired_interval("retention", [rng.uniform(0, 1, 30)], [rng.uniform(0, 1, 30)], resamples=200)
    assert interval.low <= interval.estimate <= interval.high


def test_same_seed_gives_the_same_interval(reference):
    first, again, other = (paired_interval("mean", [reference], resamples=200, seed=seed) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(0.1, 0.3, "better"), (-0.3, -0.1, "worse"), (-0.1, 0.1, "no difference seen"), (0.0, 0.1, "no difference seen")],
)
def test_verdict_in_words(low, high, words):
    assert verdict(Interval((low + high) / 2, low, high, 10)) == words


def test_verdict_against_a_threshold_with_words_of_its_own():
    interval = Interval(0.85, 0.83, 0.87, 10)
    assert verdict(interval, 0.89, "reproduced", "not reproduced") == "not reproduced"
    assert verdict(interval, 0.80, "reproduced", "not reproduced") == "reproduced"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("median", [[1, 2]]), "unknown statistic 'median'; accepted: difference, retention, mean"),
        (("difference", [[1, 2, 3]], [[1, 2]]), "same queries on both sides"),
        (("difference", [[1, 2]], [[1, 2], [1, 2]]), "same queries on both sides"),
        (("mean", [[1, 2], [1]]), "at least two queries"),
    ],
)
def test_bad_input_is_an_error(arguments, message):
    with pytest.raises(StudyError, match=message):
        paired_interval(*arguments)


def test_a_difference_among_many_needs_stronger_evidence():
    row = {"gain": 0.1, "gain_low": 0.01, "gain_high": 0.19, "gain_p": Interval(0.1, 0.01, 0.19, 50).p(), "queries": 50}
    assert corrected_verdicts(pd.DataFrame([row]), "gain") == ["better"]
    assert set(corrected_verdicts(pd.DataFrame([row] * 10), "gain")) == {"no difference seen"}


def test_rank_correlation_has_an_interval_that_widens_with_noise(rng):
    x = rng.standard_normal(60)
    clear, noisy = (rank_correlation(x, x + noise * rng.standard_normal(60), resamples=300) for noise in (0.1, 2.0))
    assert clear.low < clear.estimate < clear.high <= 1 and clear.queries == 60
    assert clear.estimate > noisy.estimate and width(clear) < width(noisy)
    assert rank_correlation(x, -(x**3), resamples=100).estimate == pytest.approx(-1)


def test_interval_over_models_covers_no_correlation_about_as_often_as_it_says():
    """Rows about pairs that share models: taken for independent rows, they are far too sure."""
    rng, hits = np.random.default_rng(3), {"models": 0, "rows": 0}
    pairs = [(f"m{a}", f"m{b}") for a in range(8) for b in range(a)]
    for seed in range(100):
        x, y = (np.array([side[int(a[1])] + side[int(b[1])] for a, b in pairs]) for side in rng.standard_normal((2, 8)))
        for name, given in (("models", pairs), ("rows", None)):
            if name == "models" or seed < 30:
                interval = rank_correlation(x, y, given, resamples=40, seed=seed)
                hits[name] += interval.low <= 0 <= interval.high
    assert hits["models"] / 100 > 0.84 > 0.75 > hits["rows"] / 30


def test_interval_over_models_stays_within_one_and_of_three_says_nothing():
    pairs = [(a, b) for a in range(5) for b in range(a)]
    x = np.arange(10.0)
    found = rank_correlation(x, x + np.array([0, 3] * 5), pairs)
    assert -1 <= found.low < found.estimate < found.high <= 1 and found.queries == 10
    three = rank_correlation(x[:3], x[:3], pairs[:3])
    assert (three.low, three.high) == (-1, 1) and three.estimate == pytest.approx(1)


def test_hierarchical_interval_agrees_with_resampling_by_hand(rng):
    tasks = [rng.uniform(0, 1, size) + shift for size, shift in ((40, 0.0), (90, 0.3), (25, 0.5))]
    found = paired_interval("mean", tasks, resamples=4000, resample_tasks=True)
    means = [
        np.mean([rng.choice(tasks[task], len(tasks[task])).mean() for task in rng.integers(0, 3, 3)])
        for _ in range(4000)
    ]
    low, high = np.quantile(means, [0.025, 0.975])
    assert found.low == pytest.approx(low, abs=0.03) and found.high == pytest.approx(high, abs=0.03)
