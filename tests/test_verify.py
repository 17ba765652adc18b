"""``ccq verify``: equal tables pass, a number changed by hand fails, and the likely cause is named."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from ccq_utils import cli
from ccq_utils.common import paths
from ccq_utils.common.errors import StudyError
from ccq_utils.run import report as run_report
from ccq_utils.run import tolerances, verify

SPREAD = pd.DataFrame({"table": "03_table", "column": ["estimate"], "threads": 0.005, "bootstrap": 0.001}).set_index(
    ["table", "column"]
)
TABLE = pd.DataFrame({"task": ["a", "b"], "stop": [32, 32], "estimate": [0.5, 0.6], "verdict": ["better", "worse"]})


def status(**changes):
    found = verify.compare(TABLE, TABLE.assign(**changes), "03_table", SPREAD)
    return found["status"].tolist()


def test_equal_tables_are_ok():
    assert status() == ["OK", "OK"]


@pytest.mark.parametrize(
    ("value", "word"), [(0.5045, "OK"), (0.4955, "OK"), (0.51, "close"), (0.52, "DIFFERENT"), (np.nan, "DIFFERENT")]
)
def test_distance_decides_the_word(value, word):
    assert status(estimate=[value, 0.6]) == [word, "OK"]


def test_rows_are_matched_by_what_they_are_about_not_by_position():
    found = verify.compare(TABLE, TABLE[::-1].reset_index(drop=True), "03_table", SPREAD)
    assert found["status"].tolist() == ["OK", "OK"]


def test_a_row_on_one_side_only_is_different():
    found = verify.compare(TABLE, TABLE.assign(stop=[32, 64]), "03_table", SPREAD)
    assert sorted(found["status"]) == ["DIFFERENT", "DIFFERENT", "OK"]


def test_a_verdict_that_turns_within_the_tolerance_is_close():
    assert status(verdict=["worse", "worse"]) == ["close", "OK"]


def test_an_empty_note_is_the_same_before_and_after_a_csv():
    first, again = (TABLE.assign(note=["", value]) for value in ("", np.nan))
    assert verify.compare(first, again, "03_table", SPREAD)["status"].tolist() == ["OK", "OK"]


def test_small_spread_leaves_the_tolerance_of_one_query():
    still = SPREAD * 0
    off = [verify.compare(TABLE, TABLE.assign(estimate=[0.5 + by, 0.6]), "03_table", still) for by in (0.0019, 0.008)]
    assert [found["status"][0] for found in off] == ["OK", "DIFFERENT"]


def test_a_large_number_may_move_by_half_a_percent_of_itself():
    table = TABLE.assign(estimate=[0.5, 2.704])
    off = [
        verify.compare(table, TABLE.assign(estimate=[0.5, 2.704 - by]), "03_table", SPREAD * 0) for by in (0.0068, 0.05)
    ]
    assert [found["status"][1] for found in off] == ["OK", "DIFFERENT"]


def test_table_that_nothing_is_like_is_an_error():
    with pytest.raises(StudyError, match="no entry that fits table '04_table'; measure it: `ccq spread`"):
        verify.compare(
            TABLE.rename(columns={"estimate": "x"}), TABLE.rename(columns={"estimate": "x"}), "04_table", SPREAD
        )


@pytest.mark.parametrize(("table", "column"), [("04_young", "estimate"), ("03_young", "other")])
def test_young_table_varies_as_what_is_most_like_it(table, column):
    committed = TABLE.rename(columns={"estimate": column})
    off = [
        verify.compare(committed, committed.assign(**{column: [0.5 + by, 0.6]}), table, SPREAD) for by in (0.004, 0.02)
    ]
    assert [found["status"][0] for found in off] == ["OK", "DIFFERENT"]


@pytest.mark.parametrize(("p", "word"), [(0.045, "OK"), (0.2, "close")])
def test_a_p_value_alone_is_never_different(p, word):
    committed = TABLE.assign(ahead_p=[0.001, 0.4])
    assert verify.compare(committed, committed.assign(ahead_p=[p, 0.9]), "03_table", SPREAD)["status"][0] == word


def test_column_named_after_another_task_varies_as_its_table_does():
    table = TABLE.rename(columns={"estimate": "scifact"})
    off = [verify.compare(table, table.assign(scifact=[0.5 + by, 0.6]), "03_table", SPREAD) for by in (0.004, 0.02)]
    assert [found["status"][0] for found in off] == ["OK", "DIFFERENT"]


def test_nearly_every_committed_number_has_a_measured_spread():
    spread = tolerances.read_spread()
    assert (
        list(spread) == list(tolerances.CAUSES) and spread.ge(0).all(axis=None) and np.isfinite(spread).all(axis=None)
    )
    numbers = {
        (path.stem, name)
        for path in (paths.ROOT / "data" / "results" / "default").glob("[0-9]*.csv")
        if not path.name.startswith(verify.TIMINGS)
        for name in pd.read_csv(path).select_dtypes("float").columns
    }
    assert len(numbers & set(spread.index)) > 0.8 * len(numbers), sorted(numbers - set(spread.index))


def test_tables_of_every_committed_profile_can_be_compared():
    spread = tolerances.read_spread()
    tables = (paths.ROOT / "data" / "results").glob("*/[0-9]*.csv")
    for path in (path for path in tables if not path.name.startswith(verify.TIMINGS)):
        table = pd.read_csv(path)
        assert set(verify.compare(table, table, path.stem, spread)["status"]) == {"OK"}, path


def test_tolerances_are_narrow_where_it_counts():
    """Nothing may hide behind a tolerance: a retention at 48x that is 0.035 off is DIFFERENT."""
    committed = pd.read_csv(paths.ROOT / "data" / "results" / "default" / "05_at_48x.csv")
    moved = committed.assign(estimate=committed["estimate"] - 0.035)
    assert set(verify.compare(committed, moved, "05_at_48x", tolerances.read_spread())["status"]) == {"DIFFERENT"}


def test_spread_is_the_largest_difference_per_cause(tmp_path, monkeypatch):
    for name, by in (("committed", 0), ("one", 0.01), ("two", -0.03), ("seed", 0.002)):
        folder = tmp_path / name if name == "committed" else tmp_path / name / "results"
        folder.mkdir(parents=True)
        TABLE.assign(estimate=TABLE["estimate"] + [by, 0]).to_csv(folder / "03_table.csv", index=False)
    monkeypatch.setattr(paths, "results_folder", lambda profile: tmp_path / "committed")
    runs = {"threads": [tmp_path / "one", tmp_path / "two"], "bootstrap": [tmp_path / "seed"]}
    (row,) = verify.measure_spread("default", runs).to_dict("records")
    assert (row["table"], row["column"]) == ("03_table", "estimate")
    assert row["threads"] == pytest.approx(0.03) and row["bootstrap"] == pytest.approx(0.002)
    before = pd.DataFrame([{"table": "03_table", "column": "estimate", "threads": 0.01, "bootstrap": 0.004}])
    (row,) = verify.measure_spread("default", runs, before.set_index(["table", "column"])).to_dict("records")
    assert row["threads"] == pytest.approx(0.03) and row["bootstrap"] == pytest.approx(0.004)
    (row,) = verify.measure_spread("default", runs, before.set_index(["table", "column"])[:0]).to_dict("records")
    assert row["bootstrap"] == pytest.approx(0.002)  # a table that was not measured before


@pytest.fixture
def committed(tmp_path, monkeypatch):
    """A checkout whose committed default results are a copy, and a finished run with the same tables."""
    if not (paths.ROOT / "data" / "results" / "default" / "06_claims.csv").is_file():
        pytest.skip("no committed results")
    copy, run = tmp_path / "committed", tmp_path / "run"
    shutil.copytree(paths.ROOT / "data" / "results" / "default", copy)
    shutil.copytree(copy, run / "results")
    monkeypatch.setattr(paths, "results_folder", lambda profile, output="": copy)
    return copy, run


def test_the_committed_tables_verify_against_themselves(committed, capsys):
    assert cli.main(["verify", "--run", str(committed[1])]) == 0
    assert "0 DIFFERENT" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["06_claims.csv", "05_at_48x.csv"])
def test_a_number_changed_by_hand_fails(committed, capsys, name):
    path = committed[0] / name
    table = pd.read_csv(path)
    column = "measured" if "measured" in table else "estimate"
    table.loc[1, column] += 0.0004
    table.to_csv(path, index=False, float_format="%.6g", lineterminator="\n")
    assert cli.main(["verify", "--run", str(committed[1])]) == 1
    printed = capsys.readouterr().out
    assert f"DIFFERENT {name} [sha256] changed since its run" in printed


@pytest.mark.parametrize("profile", ["default", "wiki"])
def test_committed_tables_are_those_of_their_run_and_bear_their_claims(profile):
    folder = paths.ROOT / "data" / "results" / profile
    if not (folder / "06_claims.csv").is_file():
        pytest.skip("no committed results")
    found = pd.concat([verify._edited(folder), verify._recomputed(folder)])
    assert set(found["status"]) == {"OK"}, found[found["status"] != "OK"].to_string()


def test_a_hand_edit_is_named_as_the_cause(committed):
    path = committed[0] / "05_at_48x.csv"
    path.write_text(path.read_text().replace("0.9", "0.8", 1))
    found = verify.verify("default", committed[1])
    assert set(found.loc[found["status"] == "DIFFERENT", "cause"]) == {"committed table was changed since its run"}


def test_a_run_without_a_report_is_compared_all_the_same(committed, capsys):
    (committed[1] / "results" / run_report.NAME).unlink()
    assert cli.main(["verify", "--run", str(committed[1])]) == 0


def test_a_claim_that_its_query_scores_do_not_bear_fails(committed, capsys):
    path = committed[0] / "06_claims.csv"
    table = pd.read_csv(path)
    table.loc[0, "measured"] += 0.001
    table.to_csv(path, index=False)
    assert cli.main(["verify", "--run", str(committed[1])]) == 1
    assert "DIFFERENT 06_claims, recomputed" in capsys.readouterr().out


def test_other_version_is_named_as_the_likely_cause(committed):
    path = committed[1] / "results" / run_report.NAME
    report = json.loads(path.read_text())
    report["packages"]["numpy"] = "9.9.9"
    path.write_text(json.dumps(report))
    shift(committed[1] / "results" / "03_retention.csv")
    (cause,) = causes(committed)
    assert cause.startswith("other library versions: numpy") and cause.endswith("-> 9.9.9")


def shift(path, by=0.2):
    table = pd.read_csv(path)
    table["estimate"] -= by
    table.to_csv(path, index=False)


def causes(committed):
    found = verify.verify("default", committed[1])
    assert found["cause"].ne("").eq(found["status"] != "OK").all()
    return set(found["cause"]) - {""}


def test_other_text_is_the_cause_of_its_task_and_of_means_only(committed):
    results = committed[1] / "results"
    table = pd.read_csv(results / "01_tasks.csv")
    table.loc[table["task"] == "summary", "sha256"] = "another"
    table.to_csv(results / "01_tasks.csv", index=False)
    shift(results / "05_at_48x.csv")
    found = verify.verify("default", committed[1]).query("table == '05_at_48x'").set_index("row")["cause"]
    assert found[found.str.contains("other text")].index.str.contains("summary|macro mean").all()
    assert found[found.index.str.startswith("see_also")].str.startswith("none is seen").all()


def test_a_table_on_one_side_only_is_different(committed):
    (committed[1] / "results" / "03_loss.csv").unlink()
    (committed[1] / "results" / "03_width.csv").rename(committed[1] / "results" / "03_young.csv")
    found = verify.verify("default", committed[1]).query("status == 'DIFFERENT'").set_index("table")["column"]
    assert found["03_loss"] == "table is missing from the run"
    assert found["03_young"].startswith("table is missing from the committed tables")


def test_tables_of_times_are_not_compared(committed):
    for folder, seconds in ((committed[0], 1.0), (committed[1] / "results", 9.0)):
        TABLE.assign(estimate=seconds).to_csv(folder / "08_other.csv", index=False)
    (committed[0] / "08_more.csv").write_text("setup\none\n")  # not even that a table is there
    found = verify.verify("default", committed[1])
    assert set(found["status"]) == {"OK"} and not {"08_other", "08_more"} & set(found["table"])


def test_missing_run_is_one_clear_error(tmp_path, capsys):
    assert cli.main(["verify", "--run", str(tmp_path / "nowhere")]) == 2
    assert "no tables in" in capsys.readouterr().err
