"""Claims: entries are validated, rows are selected by columns, verdicts follow from intervals."""

import numpy as np
import pandas as pd
import pytest

from ccq_utils.common.errors import StudyError
from ccq_utils.study.claims import Claim, Expectation, _verdict, in_brief, load_claims, rule, verdicts
from ccq_utils.study.scores import score_table
from ccq_utils.study.stats import Interval
from ccq_utils.study.study import STEPS

OURS, THEIRS = {"method": "ours"}, {"method": "theirs"}


def claim(name="C1", notebook="02_concatenation_gains", statistic="difference", holds=None, **test):
    test = {"statistic": statistic} | (test or {"measured": OURS, "reference": THEIRS})
    given = {"id": name, "statement": "Ours is better", "source": "made up", "notebook": notebook, "why": "a test"}
    return Claim(**given, setting="made-up scores", test=test, holds=holds or {"above": 0})


@pytest.fixture
def results(tmp_path):
    """Write per-query scores, method -> task -> array, as notebook 02 would; returns the folder."""

    def write(runs):
        table = pd.concat([score_table(values, method=method) for method, values in runs.items()])
        table.to_parquet(tmp_path / "02_scores.parquet", index=False)
        return tmp_path

    return write


@pytest.fixture
def scores():
    rng = np.random.default_rng(5)
    return {task: rng.uniform(0.2, 0.8, 60) for task in ("a", "b")}


def shifted(scores, **by):
    rng = np.random.default_rng(6)
    return {task: values + by.get(task, 0) + rng.normal(0, 0.02, len(values)) for task, values in scores.items()}


@pytest.mark.parametrize(
    ("gains", "expected", "verdict", "note"),
    [
        ({"a": 0.1, "b": 0.1}, {"above": 0}, "holds", ""),
        ({"a": -0.1, "b": -0.1}, {"above": 0}, "does not hold", ""),
        ({"a": 0.1}, {"above": 0}, "partly", "holds on a"),
        ({"a": -0.1, "b": 0.006}, {"above": 0}, "undecided", "does not hold on a"),
        ({"a": -0.1, "b": 0.2}, {"above": 0}, "partly", "holds on b; does not hold on a"),
        ({"a": 0.1, "b": 0.1}, {"below": 0}, "does not hold", ""),
        ({}, {"within": (-0.05, 0.05)}, "holds", ""),
        ({"a": 0.1, "b": 0.1}, {"within": (-0.05, 0.05)}, "does not hold", ""),
        ({}, {"within": (-0.0001, 0.0001)}, "undecided", ""),
        ({}, {"above": 0}, "undecided", ""),
    ],
)
def test_verdict_follows_from_the_intervals(results, scores, gains, expected, verdict, note):
    folder = results({"ours": shifted(scores, **gains), "theirs": scores})
    (ruling,) = rule(folder, [claim(holds=expected)])
    assert (ruling.verdict, ruling.note) == (verdict, note)
    assert ruling.interval.queries == 120 and set(ruling.by_task) == {"a", "b"}


@pytest.mark.parametrize(
    ("mean", "a", "b", "p", "verdict", "note"),
    [
        (0.2, 0.1, -0.3, 0.001, "partly", "does not hold on b"),
        (-0.2, 0.3, -0.6, 0.001, "partly", "holds on a; does not hold on b"),
        (0.2, 0.3, 0.0, 0.2, "partly", "holds on a; mean not after Holm's correction"),
        (0.2, 0.0, 0.0, 0.2, "undecided", "mean not after Holm's correction"),
        (-0.2, 0.0, 0.0, 0.2, "undecided", "mean not after Holm's correction"),
        (0.0, 0.105, 0.0, 1.0, "undecided", ""),  # its own interval excludes zero, but it is one of two tasks
    ],
)
def test_a_task_counts_only_after_its_own_correction(mean, a, b, p, verdict, note):
    interval, *tasks = (Interval(value, value - 0.1, value + 0.1, 60) for value in (mean, a, b))
    by_task = dict(zip("ab", tasks, strict=True))
    assert _verdict(claim(), interval, by_task, p, 1) == (verdict, note)
    assert _verdict(claim(), interval, by_task, 1.0, 10**12)[0] == "undecided"


def test_an_interval_that_says_nothing_is_undecided():
    assert _verdict(claim(holds={"below": 0}), Interval(-0.17, -1, 1, 20), {}, 0.7, 2) == ("undecided", "")


def test_an_interval_that_is_not_defined_is_undecided(results):
    few = {"a": np.array([1.0, 0, 0, 0, 0, 0])}  # some resample has no hit in the reference: 0 / 0
    folder = results({"ours": few, "theirs": few})
    with np.errstate(invalid="ignore"):
        (ruling,) = rule(folder, [claim(statistic="retention")])
    assert np.isnan(ruling.interval.low) and ruling.verdict == "undecided"


def test_missing_run_is_not_testable_with_the_reason_given(results, scores):
    entry = claim().model_copy(update={"untestable": "no such corpus"})
    (ruling,) = rule(results({"ours": scores}), [entry])
    assert (ruling.verdict, ruling.note, ruling.interval) == ("not testable here", "no such corpus", None)
    assert rule(results({"ours": scores}), [claim(notebook="03_train_decoder")])[0].verdict == "not testable here"


def test_a_selection_of_two_runs_is_refused(tmp_path, scores):
    parts = [score_table(scores, method=method, factor=factor) for method in ("ours", "theirs") for factor in (48, 96)]
    pd.concat(parts).to_parquet(tmp_path / "02_scores.parquet")
    with pytest.raises(StudyError, match="claim C1: .*'ours'.* selects more than one run; name further columns"):
        rule(tmp_path, [claim()])
    both = {"measured": OURS | {"factor": 48}, "reference": THEIRS | {"factor": 96}}
    assert rule(tmp_path, [claim(**both)])[0].interval.estimate == 0


def test_many_claims_of_one_notebook_need_stronger_evidence(results, scores):
    rng = np.random.default_rng(1)
    noise = {task: values + 0.026 + rng.normal(0, 0.1, len(values)) for task, values in scores.items()}
    folder = results({"ours": noise, "theirs": scores})
    (alone,) = rule(folder, [claim()])
    among = rule(folder, [claim(f"C{number}") for number in range(40)])[0]
    elsewhere = rule(folder, [claim(), *(claim(f"C{n}", "03_train_decoder") for n in range(40))])[0]
    assert alone.interval == among.interval and alone.interval.low > 0
    assert (alone.verdict, elsewhere.verdict) == ("holds", "holds")
    assert (among.verdict, among.note) == ("undecided", "mean not after Holm's correction")


def test_retention_difference_and_seeds(results, scores):
    halves = {task: np.outer([0.4, 0.6], values) for task, values in scores.items()}
    folder = results({"ours": halves, "theirs": scores})
    statistic = {"measured": OURS, "reference": THEIRS, "other": THEIRS, "other_reference": THEIRS}
    (ruling,) = rule(folder, [claim(statistic="retention difference", **statistic)])
    assert ruling.interval.estimate == pytest.approx(-0.5) and ruling.verdict == "does not hold"
    assert ruling.seeds == 2 and ruling.spread == pytest.approx(np.std([0.4, 0.6], ddof=1))


def test_claims_on_tables(tmp_path):
    pairs = [(f"m{a}", f"m{b}") for a in range(5) for b in range(a)]
    table = pd.DataFrame(pairs, columns=["first", "second"]).assign(x=np.arange(10.0), y=-np.arange(10.0))
    table.to_csv(tmp_path / "01_pairs.csv", index=False)
    table.assign(kind=["deep", "flat"] * 5).to_csv(tmp_path / "01_seeds.csv", index=False)
    correlated = claim(statistic="correlation", table="01_pairs", x="x", y="y", pairs=["first", "second"])
    seeds = claim(statistic="seeds", table="01_seeds", y="x", rows={"kind": "deep"}, holds={"above": 1})
    found = rule(tmp_path, [correlated, seeds])
    assert found[0].interval.estimate == pytest.approx(-1) and found[1].interval.estimate == pytest.approx(4)
    assert found[1].seeds == 5
    tested = [str(ruling.claim.test) for ruling in found]
    assert tested == ["Spearman of x and y in 01_pairs", "x in 01_seeds, mean over seeds"]


def test_expectations_refuse_what_contradicts_itself():
    with pytest.raises(ValueError, match="give one of above, below, within"):
        Expectation(above=0, below=1)
    with pytest.raises(ValueError, match="a test by retention needs reference"):
        claim(statistic="retention", measured=OURS)
    within = Expectation(within=(-1, 1))
    intervals = [Interval(0, -0.5, 0.5, 9), Interval(3, 2, 4, 9), Interval(1, 0, 2, 9)]
    assert [within.judge(interval) for interval in intervals] == ["holds", "does not hold", "undecided"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        ("[", "is not readable YAML"),
        ("- {id: A}", "key '0.statement': Field required"),
    ],
)
def test_bad_file_is_one_clear_error(tmp_path, content, message):
    path = tmp_path / "claims.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(StudyError, match=message):
        load_claims(path)


def test_shipped_claims_name_notebooks_and_each_other_apart():
    claims = load_claims()
    assert {claim.notebook for claim in claims} <= set(STEPS.values())
    assert len({claim.id for claim in claims}) == len(claims) > 20


def test_verdicts_of_a_range_of_notebooks(tmp_path):
    first, last = (set(verdicts(tmp_path, *span)["claim"]) for span in (("01", "02"), ("03", "08")))
    assert first and last and first | last == {claim.id for claim in load_claims()} and not first & last


def test_a_shown_table_has_six_columns_and_the_note_beside_the_verdict(results, scores):
    table = verdicts(results({"ours": scores, "theirs": scores})).assign(note="a note").head(1)
    view = in_brief(table)
    assert list(view.data.columns) == ["claim", "statement", "setting", "measured", "expected", "verdict"]
    assert view.data["verdict"].item() == "not testable here (a note)" and view.data["measured"].item() == ""
