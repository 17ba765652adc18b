"""``ccq verify``: equal tables pass, each kind of number has its tolerance, a hand edit fails, likely causes are named."""

import hashlib
import json
import shutil

import numpy as np
import pandas as pd
import pytest

from ccq_utils import cli
from ccq_utils.common import paths
from ccq_utils.run import report as run_report
from ccq_utils.run import verify

TABLE = pd.DataFrame(
    {"task": ["a", "b"], "queries": 9, "estimate": [0.5, 0.6], "low": [0.49, 0.1], "high": [0.51, 0.9]}
).assign(loss=0.001, verdict="worse", note="", p=0.01)


def status(**changes):
    return verify.compare(TABLE, TABLE.assign(**changes), "03_table")["status"].tolist()


def test_equal_tables_are_ok_in_any_order():
    assert status() == ["OK", "OK"]
    assert set(verify.compare(TABLE, TABLE[::-1].reset_index(drop=True), "03_table")["status"]) == {"OK"}


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"estimate": [0.5049, 0.6]}, "OK"),
        ({"estimate": [0.4801, 0.6]}, "close"),
        ({"estimate": [0.53, 0.6]}, "DIFFERENT"),
        ({"estimate": [np.nan, 0.6]}, "DIFFERENT"),
        ({"low": [0.4701, 0.1]}, "close"),
        ({"low": [0.46, 0.1]}, "DIFFERENT"),
        ({"loss": [0.00104, 0.001]}, "OK"),
        ({"loss": [0.00119, 0.001]}, "close"),
        ({"loss": [0.0013, 0.001]}, "DIFFERENT"),
        ({"p": [0.9, 0.01]}, "OK"),
        ({"note": ["other words", ""]}, "close"),
        ({"verdict": ["better", "worse"]}, "DIFFERENT"),  # its interval is far from 0
    ],
)
def test_each_kind_has_its_tolerance(changes, word):
    assert status(**changes) == [word, "OK"]


def test_a_wide_interval_lets_its_number_move():
    assert status(estimate=[0.5, 0.9]) == ["OK", "close"]


def test_a_tie_of_validation_queries_may_choose_other_bits_and_with_them_other_bytes():
    sweep = TABLE.assign(budget=256, dims=1024, bits=2, bytes_per_vector=256)
    other = sweep.assign(dims=[1280, 1024], bits=[1, 2], bytes_per_vector=[160, 256])
    assert verify.compare(sweep, other, "05_budget_sweep")["status"].tolist() == ["close", "OK"]
    worse = verify.compare(sweep, other.assign(estimate=[0.53, 0.6]), "05_budget_sweep")
    assert worse["status"].tolist() == ["DIFFERENT", "OK"]
    fixed = TABLE.assign(bytes_per_vector=[256, 64])  # bytes that nothing chose name the row
    assert "DIFFERENT" in set(verify.compare(fixed, fixed.assign(bytes_per_vector=[160, 64]), "08_table")["status"])


def test_what_seeds_move_a_machine_may_move():
    drawn = TABLE.assign(seed_spread=[0.02, np.nan])
    moved = [verify.compare(drawn, drawn.assign(estimate=[to, 0.6]), "07_table")["status"][0] for to in (0.559, 0.561)]
    assert moved == ["close", "DIFFERENT"]


def test_a_changed_count_or_text_is_a_missing_row():
    found = verify.compare(TABLE, TABLE.assign(queries=[9, 8]), "03_table")
    assert found["column"].tolist() == ["", "missing from the run", "missing from the committed table"]


@pytest.mark.parametrize(
    ("low", "expected", "note", "word"),
    [(0.875, "above 0.89; partly: above 0.84", "", "close"), (0.93, "above 0.89", "", "DIFFERENT")]
    + [(0.93, "above 0.89", "not after Holm's correction", "close")],
)
def test_a_verdict_may_turn_near_its_threshold(low, expected, note, word):
    row = {"claim": "K2", "measured": 0.94, "low": low, "high": 0.95, "expected": expected, "note": note}
    old, new = (pd.DataFrame([row | {"verdict": verdict}]) for verdict in ("partly", "reproduced"))
    assert verify.compare(old, new, "07_claims")["status"].tolist() == [word]


@pytest.fixture
def committed(tmp_path, monkeypatch):
    """Committed results and a finished run with the same tables."""
    copy, run = tmp_path / "committed", tmp_path / "run"
    copy.mkdir()
    TABLE.to_csv(copy / "03_table.csv", index=False)
    pd.DataFrame({"task": ["a", "b"], "sha256": ["x", "y"]}).to_csv(copy / "01_tasks.csv", index=False)
    tables = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in copy.glob("*.csv")}
    report = {"packages": {"numpy": "1"}, "threads": "2", "tables": tables}
    (copy / run_report.NAME).write_text(json.dumps(report))
    shutil.copytree(copy, run / "results")
    monkeypatch.setattr(paths, "results_folder", lambda profile, output="": copy)
    return copy, run


def test_a_run_verifies_against_equal_tables(committed, capsys):
    assert cli.main(["verify", "--run", str(committed[1])]) == 0
    printed = capsys.readouterr().out
    assert "6 OK, 0 close, 0 DIFFERENT" in printed and "Likely causes" not in printed
    assert len(pd.read_csv(committed[1] / "verify.csv")) == 6


def test_a_committed_table_that_was_edited_fails(committed, capsys):
    path = committed[0] / "03_table.csv"
    path.write_text(path.read_text().replace("0.5,", "0.5004,"))
    assert cli.main(["verify", "--run", str(committed[1])]) == 1
    assert "DIFFERENT 03_table.csv [sha256] changed since its run" in capsys.readouterr().out


def test_likely_causes_are_named(committed, capsys):
    results = committed[1] / "results"
    (results / run_report.NAME).write_text(json.dumps({"packages": {"numpy": "2"}, "threads": "1"}))
    pd.DataFrame({"task": ["a", "b"], "sha256": ["x", "other"]}).to_csv(results / "01_tasks.csv", index=False)
    assert cli.main(["verify", "--run", str(committed[1])]) == 1
    printed = capsys.readouterr().out
    assert "Likely causes: numpy 1 -> 2; threads 2 -> 1" in printed and "01_tasks [b, y]" in printed


def test_a_verdict_beside_a_retention_is_that_of_its_difference():
    row = {"method": "ours", "estimate": 0.9, "low": 0.8, "high": 0.95, "difference": -0.01, "difference_low": -0.02}
    for high, word in ((-0.001, "close"), (-0.1, "DIFFERENT")):
        row |= {"difference_high": high, "difference_low": high - 0.02}
        old, new = (pd.DataFrame([row | {"verdict": verdict}]) for verdict in ("worse", "no difference seen"))
        assert verify.compare(old, new, "07_peers")["status"].tolist() == [word]


def test_a_table_on_one_side_only_is_different(committed):
    shutil.move(committed[1] / "results" / "03_table.csv", committed[1] / "results" / "03_young.csv")
    found = verify.verify("default", committed[1]).query("status == 'DIFFERENT'").set_index("table")["column"]
    assert found["03_table"] == "missing from the run" and found["03_young"] == "missing from the committed tables"


def test_missing_run_is_one_clear_error(tmp_path, capsys):
    assert cli.main(["verify", "--run", str(tmp_path / "nowhere")]) == 2
    assert "no tables in" in capsys.readouterr().err


@pytest.mark.parametrize("profile", ["default", "small"])
def test_committed_tables_are_those_of_their_run_and_bear_their_claims(profile):
    folder = paths.ROOT / "data" / "results" / profile
    if not list(folder.glob("*_scores.parquet")):
        pytest.skip("no committed per-query scores")
    found = pd.concat([verify.edited(folder), verify.recomputed(folder)])
    assert set(found["status"]) == {"OK"}, found[found["status"] != "OK"].to_string()
