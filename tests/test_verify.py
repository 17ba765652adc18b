"""``ccq verify``: equal tables pass, a number changed by hand fails, and the likely cause is named."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml

from ccq_utils import cli, paths, run_report, verify

RULES = [{"table": "*", "column": "*", "absolute": 0.01}]
TABLE = pd.DataFrame({"task": ["a", "b"], "stop": [32, 32], "estimate": [0.5, 0.6], "verdict": ["better", "worse"]})


def status(**changes):
    found = verify.compare(TABLE, TABLE.assign(**changes), "03_table", RULES)
    return found["status"].tolist()


def test_equal_tables_are_ok():
    assert status() == ["OK", "OK"]


@pytest.mark.parametrize(
    ("value", "word"), [(0.509, "OK"), (0.491, "OK"), (0.52, "close"), (0.54, "DIFFERENT"), (np.nan, "DIFFERENT")]
)
def test_distance_decides_the_word(value, word):
    assert status(estimate=[value, 0.6]) == [word, "OK"]


def test_rows_are_matched_by_what_they_are_about_not_by_position():
    found = verify.compare(TABLE, TABLE[::-1].reset_index(drop=True), "03_table", RULES)
    assert found["status"].tolist() == ["OK", "OK"]


def test_a_row_on_one_side_only_is_different():
    found = verify.compare(TABLE, TABLE.assign(stop=[32, 64]), "03_table", RULES)
    assert sorted(found["status"]) == ["DIFFERENT", "DIFFERENT", "OK"]


def test_a_verdict_that_turns_within_the_tolerance_is_close():
    assert status(verdict=["worse", "worse"]) == ["close", "OK"]


def test_an_empty_note_is_the_same_before_and_after_a_csv():
    first, again = (TABLE.assign(note=["", value]) for value in ("", np.nan))
    assert verify.compare(first, again, "03_table", RULES)["status"].tolist() == ["OK", "OK"]


def test_column_without_a_tolerance_is_an_error():
    with pytest.raises(Exception, match="no entry for column 'estimate' of table '03_table'"):
        verify.compare(TABLE, TABLE, "03_table", [{"table": "04_*", "column": "*", "absolute": 1}])


def test_every_committed_number_has_a_tolerance():
    rules = yaml.safe_load(verify.TOLERANCES.read_text())
    assert all(entry["why"] for entry in rules)
    for folder in (paths.ROOT / "data" / "results").glob("*"):
        for path in folder.glob("[0-9]*.csv"):
            table = pd.read_csv(path)
            assert set(verify.compare(table, table, path.stem, rules)["status"]) == {"OK"}, path


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
    (cause,) = verify.likely_causes(committed[0], committed[1] / "results")
    assert cause.startswith("other library versions: numpy") and cause.endswith("-> 9.9.9")


def test_missing_run_is_one_clear_error(tmp_path, capsys):
    assert cli.main(["verify", "--run", str(tmp_path / "nowhere")]) == 2
    assert "no tables in" in capsys.readouterr().err
