"""The ledger: entries are validated, verdicts follow from intervals, numbers from the query-level tables."""

import numpy as np
import pandas as pd
import pytest

from ccq_utils.common.errors import StudyError
from ccq_utils.study import ledger
from ccq_utils.study.claims import Claim, Expectation, Measurement, load_ledger
from ccq_utils.study.stats import Interval, rank_correlation
from ccq_utils.study.study import STEPS


def claim(name="C1", test=None, notebook="02_concatenation_gains", **reproduced):
    test = test or {"statistic": "difference", "measured": "ours", "reference": "theirs"}
    given = {"id": name, "statement": "Ours is better", "source": "made up", "notebook": notebook, "why": "a test"}
    return Claim(**given, test=test, reproduced=reproduced or {"above": 0})


@pytest.fixture
def results(tmp_path):
    """Write query-level scores, run -> task -> array, as notebook 02 would."""

    def write(runs, step="02"):
        frames = {
            run: pd.concat({task: pd.Series(values) for task, values in tasks.items()}, names=["task", "query"])
            for run, tasks in runs.items()
        }
        pd.DataFrame(frames).reset_index().to_parquet(tmp_path / f"{step}_queries.parquet", index=False)
        return tmp_path

    return write


@pytest.fixture
def scores():
    rng = np.random.default_rng(5)
    return {task: rng.uniform(0.2, 0.8, 60) for task in ("a", "b")}


def shifted(scores, **by):
    rng = np.random.default_rng(6)
    return {task: values + by.get(task, 0) + rng.normal(0, 0.02, len(values)) for task, values in scores.items()}


def judge(folder, *claims):
    return ledger.rule(folder, list(claims))


# ---- verdicts -------------------------------------------------------------------------------------------------------


def test_gain_on_every_task_is_reproduced(results, scores):
    folder = results({"ours": shifted(scores, a=0.1, b=0.1), "theirs": scores})
    (ruling,) = judge(folder, claim())
    assert ruling.verdict == "reproduced" and ruling.interval.estimate == pytest.approx(0.1, abs=0.01)
    assert ruling.interval.queries == 120 and set(ruling.by_task) == {"a", "b"}


def test_loss_on_every_task_is_not_reproduced(results, scores):
    folder = results({"ours": shifted(scores, a=-0.1, b=-0.1), "theirs": scores})
    assert judge(folder, claim())[0].verdict == "not reproduced"


def test_gain_on_one_task_only_is_partly_and_names_it(results, scores):
    (ruling,) = judge(results({"ours": shifted(scores, a=0.1), "theirs": scores}), claim())
    assert (ruling.verdict, ruling.note) == ("partly", "only on a")


def test_no_difference_is_not_reproduced_and_says_so(results, scores):
    (ruling,) = judge(results({"ours": scores, "theirs": scores}), claim())
    assert (ruling.verdict, ruling.note) == ("not reproduced", "no difference seen")


def test_a_number_short_of_the_threshold_is_partly_where_the_claim_says_so(results, scores):
    folder = results({"ours": {task: 0.86 * values for task, values in scores.items()}, "theirs": scores})
    test = {"statistic": "retention", "measured": "ours", "reference": "theirs"}
    entry = claim(test=test, above=0.89)
    weaker, stronger = (entry.model_copy(update={"partly": Expectation(above=value)}) for value in (0.84, 0.88))
    assert [ruling.verdict for ruling in judge(folder, entry, weaker, stronger)] == [
        "not reproduced",
        "partly",
        "not reproduced",
    ]
    assert judge(folder, weaker)[0].note == "lies above 0.84" and weaker.expected == "above 0.89; partly: above 0.84"


def test_missing_run_is_not_testable_with_the_reason_given(results, scores):
    entry = claim().model_copy(update={"untestable": "no such corpus"})
    (ruling,) = judge(results({"ours": scores}), entry)
    assert (ruling.verdict, ruling.note, ruling.interval) == ("not testable here", "no such corpus", None)


def test_within_needs_the_whole_interval_inside(results, scores):
    folder = results({"ours": shifted(scores), "theirs": scores})
    narrow, wide = claim("C1", within=(-0.0001, 0.0001)), claim("C2", within=(-0.05, 0.05))
    assert [ruling.verdict for ruling in judge(folder, narrow, wide)] == ["not reproduced", "reproduced"]


def test_many_claims_need_stronger_evidence(results, scores):
    rng = np.random.default_rng(1)
    noise = {task: values + 0.026 + rng.normal(0, 0.1, len(values)) for task, values in scores.items()}
    folder = results({"ours": noise, "theirs": scores})
    alone = judge(folder, claim())[0]
    among = judge(folder, *(claim(f"C{number}") for number in range(40)))[0]
    assert alone.interval == among.interval and alone.interval.low > 0
    assert (alone.verdict, among.verdict, among.note) == ("reproduced", "partly", "not after Holm's correction")


def test_correction_counts_the_claims_of_one_notebook(results, scores):
    folder = results({"ours": shifted(scores, a=0.01, b=0.01), "theirs": scores})
    others = [claim(f"C{number}", notebook="03_train_decoder") for number in range(500)]
    assert judge(folder, claim())[0].verdict == judge(folder, claim(), *others)[0].verdict == "reproduced"


# ---- numbers --------------------------------------------------------------------------------------------------------


def test_retention_is_macro_mean_of_ratios_of_means(results, scores):
    ours = {"a": 0.5 * scores["a"], "b": scores["b"]}
    test = {"statistic": "retention", "measured": "ours", "reference": "theirs"}
    (ruling,) = judge(results({"ours": ours, "theirs": scores}), claim(test=test, above=0.7))
    assert ruling.interval.estimate == pytest.approx(0.75, abs=1e-6)


def test_seeds_are_averaged_per_query_and_their_spread_is_reported(results, scores):
    runs = {f"ours #{seed}": {task: values + 0.1 * seed for task, values in scores.items()} for seed in range(3)}
    (ruling,) = judge(results(runs | {"theirs": scores}), claim())
    assert ruling.seeds == 3 and ruling.interval.estimate == pytest.approx(0.1)
    assert ruling.spread == pytest.approx(0.1)


def test_run_names_that_begin_alike_are_not_mixed(results, scores):
    runs = {"ours": scores, "ours, other": shifted(scores, a=1, b=1), "theirs": scores}
    assert judge(results(runs), claim())[0].interval.estimate == pytest.approx(0)


def test_retention_difference_uses_each_its_own_reference(results, scores):
    half = {task: 0.5 * values for task, values in scores.items()}
    names = {"measured": "ours", "reference": "theirs", "other": "half", "other_reference": "theirs"}
    folder = results({"ours": scores, "theirs": scores, "half": half})
    (ruling,) = judge(folder, claim(test={"statistic": "retention difference", **names}))
    assert ruling.interval.estimate == pytest.approx(0.5)


def test_correlation_over_the_rows_of_a_table(tmp_path):
    x = np.linspace(0, 1, 20)
    pd.DataFrame({"x": x, "y": -(x**3)}).to_csv(tmp_path / "01_pairs.csv", index=False)
    test = {"statistic": "correlation", "table": "01_pairs", "x": "x", "y": "y"}
    (ruling,) = judge(tmp_path, claim(test=test, below=0))
    assert ruling.verdict == "reproduced" and ruling.interval.estimate == pytest.approx(-1)


def test_correlation_over_pairs_leaves_out_the_models_that_they_share(tmp_path):
    names = [(a, b) for a in "abcde" for b in "abcde" if a < b]
    table = pd.DataFrame(names, columns=["first", "second"])
    table = table.assign(x=[ord(a) + ord(b) for a, b in names], y=[-ord(a) - 0.3 * ord(b) for a, b in names])
    table.to_csv(tmp_path / "01_pairs.csv", index=False)
    test = {"statistic": "correlation", "table": "01_pairs", "x": "x", "y": "y"}
    rows, models = (
        judge(tmp_path, claim(test=each, below=0))[0].interval for each in (test, test | {"pairs": ["first", "second"]})
    )
    assert models == rank_correlation(table["x"], table["y"], names) and models != rows


def test_mean_over_seeds_of_chosen_rows(tmp_path):
    table = pd.DataFrame({"decoder": ["deep"] * 3 + ["flat"] * 3, "rise": [1.2, 1.21, 1.19, 1, 1, 1]})
    table.to_csv(tmp_path / "03_overfitting.csv", index=False)
    test = {"statistic": "seeds", "table": "03_overfitting", "y": "rise", "rows": {"decoder": "deep"}}
    (ruling,) = judge(tmp_path, claim(test=test, above=1.05))
    assert ruling.verdict == "reproduced" and ruling.interval.estimate == pytest.approx(1.2) and ruling.seeds == 3


def test_tables_hold_a_row_per_claim_and_per_task(results, scores):
    rulings = judge(results({"ours": scores, "theirs": scores}), claim("C1"), claim("C2"))
    assert ledger.claims_table(rulings)["claim"].tolist() == ["C1", "C2"]
    assert len(ledger.by_task_table(rulings)) == 4


# ---- the file -------------------------------------------------------------------------------------------------------


def test_shipped_ledger_is_valid_and_covers_the_papers_claims():
    claims = load_ledger()
    assert {
        "K1",
        "K2",
        "K3",
        "M1",
        "M2",
        "M3",
        "M4",
        "D1",
        "D2",
        "D3",
        "D4",
        "D5",
        "O1",
        "O2",
        "O3",
        "O4",
        "S1",
        "S2",
    } <= {entry.id for entry in claims}
    assert {entry.notebook for entry in claims} <= set(STEPS.values())
    assert all(entry.why for entry in claims)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("- {id: A", "not readable YAML"),
        ("- {id: A}", "statement"),
        ("nothing: here", "list"),
        (
            "- {id: A, statement: s, source: p, notebook: n, why: w, reproduced: {above: 0},"
            " test: {statistic: difference, measured: x}}",
            "needs reference",
        ),
        (
            "- {id: A, statement: s, source: p, notebook: n, why: w, reproduced: {},"
            " test: {statistic: difference, measured: x, reference: y}}",
            "one of above, below, within",
        ),
    ],
)
def test_bad_ledger_is_an_error_that_names_the_place(tmp_path, text, named):
    path = tmp_path / "claims.yaml"
    path.write_text(text)
    with pytest.raises(StudyError, match=named) as caught:
        load_ledger(path)
    assert "\n" not in str(caught.value)


def test_claim_named_twice_is_an_error(tmp_path):
    entry = (
        "- {id: A, statement: s, source: p, notebook: n, why: w, reproduced: {above: 0},"
        " test: {statistic: difference, measured: x, reference: y}}\n"
    )
    (tmp_path / "claims.yaml").write_text(entry * 2)
    with pytest.raises(StudyError, match="names a claim twice: .'A'."):
        load_ledger(tmp_path / "claims.yaml")


@pytest.mark.parametrize(
    ("expected", "holds", "fails"),
    [
        ({"above": 0.1}, False, False),
        ({"above": 0.0}, True, False),
        ({"below": 0.0}, False, True),
        ({"within": (0.0, 0.2)}, True, False),
        ({"within": (0.3, 0.4)}, False, True),
    ],
)
def test_expectation_against_an_interval(expected, holds, fails):
    interval = Interval(0.1, 0.05, 0.15, 10)
    expectation = Expectation(**expected)
    assert (expectation.holds(interval), expectation.fails(interval)) == (holds, fails)


def test_measurement_says_what_is_compared():
    test = Measurement(statistic="retention", measured="decoder", reference="concat")
    assert str(test) == "retention: decoder over concat"
