"""The whole study on the profile ``tiny``, once, through the command line: every notebook, table, figure and verdict."""

import json
import os
import subprocess
import sys

import nbformat
import numpy as np
import pandas as pd
import pytest

from ccq_utils import cli
from ccq_utils.common import paths
from ccq_utils.run.publish import STATES
from ccq_utils.study.claims import load_claims
from ccq_utils.study.stats import Interval

NOTEBOOKS = [path.stem for path in sorted(paths.NOTEBOOKS.glob("0*.ipynb"))]
TIMEOUT = 900  # seconds; two free cores need a tenth of it


@pytest.fixture(scope="session")
def command(tmp_path_factory):
    """``ccq run --profile tiny`` into a folder of its own, with a cache of its own."""
    folder = tmp_path_factory.mktemp("study")

    def run():
        arguments = [sys.executable, "-m", "ccq_utils.cli", "run", "--profile", "tiny", "--output", folder / "output"]
        environment = os.environ | {"CCQ_CACHE": str(folder / "cache"), "PYTHONPATH": str(paths.ROOT)}
        return subprocess.run(
            arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False
        )

    run.output, run.cache = folder / "output", folder / "cache"
    return run


@pytest.fixture(scope="session")
def finished(command):
    """The first run's result; every test below needs it to have passed."""
    done = command()
    if done.returncode:
        pytest.fail(f"the run failed:\n{done.stderr[-3000:]}", pytrace=False)
    return done


@pytest.fixture(scope="session")
def output(finished, command):
    return command.output


@pytest.fixture(scope="session")
def tables(output):
    return {path.stem: pd.read_csv(path) for path in sorted((output / "results").glob("*.csv"))}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_ran_to_its_end_and_left_tables_and_figures(output, tables, name):
    notebook = nbformat.read(output / "notebooks" / f"{name}.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code if cell.source.strip())
    for part in (part for cell in code for part in cell.outputs):
        assert part.output_type != "error" and not (part.get("name") == "stderr" and part.text.strip()), part
    assert [table for table in tables if table.startswith(name[:2])]
    png, svg = ({path.stem for path in (output / "figures").glob(f"{name[:2]}_*.{kind}")} for kind in ("png", "svg"))
    assert png and png == svg


def test_figures_are_images(output):
    for path in (output / "figures").glob("*"):
        head = path.read_bytes()[:400]
        assert head.startswith(b"\x89PNG") if path.suffix == ".png" else b"<svg" in head or b"<?xml" in head, path


def test_tables_hold_finite_numbers_within_their_intervals(tables):
    checked = 0
    for name, table in tables.items():
        assert len(table), name
        for column in {"estimate", "ndcg_at_10", "validation_loss"} & set(table.select_dtypes("number")):
            assert np.isfinite(table[column]).all(), f"{name}.{column}"
        if "ndcg_at_10" in table:
            assert table["ndcg_at_10"].between(0, 1).all(), name
        if {"low", "high"} <= set(table):
            table = table.dropna(subset=["low"])
            estimate = next(table[column] for column in ("estimate", "gain", "measured", "seconds") if column in table)
            inside = (table["low"] <= estimate + 1e-9) & (estimate <= table["high"] + 1e-9)
            assert inside.all(), f"{name}:\n{table[~inside]}"
            checked += len(table)
    assert checked > 50


def test_claims_have_the_verdicts_that_their_intervals_bear(tables):
    claims = tables["07_claims"]
    expected = {entry.id: entry.holds for entry in load_claims()}
    assert set(expected) == set(claims["claim"]) and set(claims["verdict"]) <= set(STATES)
    for row in claims.dropna(subset=["measured"]).itertuples():
        judged = expected[row.claim].judge(Interval(row.measured, row.low, row.high, row.queries))
        assert judged == row.verdict or isinstance(row.note, str), row
    claims = claims.set_index("claim")
    # 32 bytes are none of tiny's sizes, and product quantization needs more documents than tiny has
    assert set(claims.index[claims["verdict"] == "not testable here"]) == {"N1", "R3", "R4", "S4"}
    assert claims.loc["N1", "note"] == "the tasks of this profile share one corpus"


def test_every_notebook_shows_the_verdict_that_the_claims_end_with(tables):
    final = tables["07_claims"].set_index("claim")
    for table in (table.set_index("claim") for name, table in tables.items() if name.endswith("_claims")):
        assert (table["verdict"] == final.loc[table.index, "verdict"]).all()


def test_the_report_is_of_a_cold_run_and_the_summary_prints_the_claims(finished, output):
    report = json.loads((output / "results" / "run_report.json").read_text())
    assert report["profile"] == "tiny" and report["cold"]
    assert [entry["name"] for entry in report["notebooks"]] == NOTEBOOKS
    assert all(entry["seconds"] > 0 for entry in report["notebooks"])
    assert "K2b" in finished.stdout and "verdict" in finished.stdout


def test_the_log_holds_whole_lines_and_no_bars(finished):
    assert "\r" not in finished.stderr and "%|" not in finished.stderr
    assert all(line.startswith(tuple(NOTEBOOKS)) for line in finished.stderr.splitlines()), finished.stderr


def test_second_run_skips_everything_and_changes_nothing(command, output):
    def content():
        return {path.name: path.read_bytes() for path in (output / "results").glob("*.csv")}

    before = content()
    again = command()
    assert again.returncode == 0, again.stderr[-3000:]
    assert again.stderr.splitlines() == [f"{name}: unchanged, skipped" for name in NOTEBOOKS]
    assert content() == before


# ---- ccq evaluate: somebody's own BEIR folder with the pipeline of that run ------------------------------------------


@pytest.fixture
def own_set(tmp_path):
    """Forty documents with a query each, as a BEIR folder."""
    folder = tmp_path / "mine"
    (folder / "qrels").mkdir(parents=True)
    words = "array matrix graph window signal token vector color frame tree".split()
    texts = [f"Return the {a} of a {b} as a new {b}, sorted by {a}." for a in words[:8] for b in words[5:]]
    documents = [{"_id": f"d{number}", "title": "", "text": text} for number, text in enumerate(texts)]
    asked = [{"_id": f"q{number}", "text": " ".join(text.split()[2:7])} for number, text in enumerate(texts)]
    for name, rows in (("corpus", documents), ("queries", asked)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = "".join(f"q{number}\td{number}\t1\n" for number in range(len(texts)))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + rows)
    return folder


@pytest.fixture
def evaluate(output, command, monkeypatch):
    """``ccq evaluate`` of the profile ``tiny``, as that run left it."""
    monkeypatch.setenv("CCQ_CACHE", str(command.cache))
    return lambda *arguments: cli.main(["evaluate", "--profile", "tiny", "--run", str(output), *map(str, arguments)])


def test_evaluate_compares_methods_on_a_beir_folder(evaluate, own_set, tmp_path, capsys):
    report = tmp_path / "report.json"
    assert evaluate("--task", f"beir:{own_set}", "--bytes", 32, "--peers", "--json", report) == 0
    found = json.loads(report.read_text())
    assert (found["task"], found["queries"], found["documents"]) == ("mine", 40, 40)
    assert {model["name"] for model in found["models"]} == {"minilm", "lexical", "wordllama", "static"}
    rows = {(row["method"], row["fitted_on"]): row for row in found["methods"]}
    assert {("equalised PCA", "general text"), ("equalised PCA", "own corpus"), ("decoder", "general text")} <= set(
        rows
    )
    for row in rows.values():
        assert row["bytes_per_vector"] <= 32 and row["low"] - 1e-9 <= row["retention"] <= row["high"] + 1e-9
        assert row["compression_factor"] == pytest.approx(found["concat"]["bytes_per_vector"] / row["bytes_per_vector"])
        assert row["retention"] == pytest.approx(row["ndcg_at_10"] / found["concat"]["ndcg_at_10"])
    assert any(row["method"] == "PQ" and "needs at least" in row["reason"] for row in found["skipped"])
    printed = capsys.readouterr().out
    assert "equalised PCA" in printed and "not run: PQ, own corpus" in printed


@pytest.mark.parametrize(
    ("task", "size", "message"),
    [
        ("mine", 32, "unknown task 'mine'; accepted: beir:DIR"),
        ("beir:nowhere", 32, "nowhere"),
        ("beir:{folder}", 0, "budget 0 must be at least one byte"),
    ],
)
def test_evaluate_explains_what_is_wrong(evaluate, own_set, capsys, task, size, message):
    assert evaluate("--task", task.format(folder=own_set), "--bytes", size) == 2
    assert message in capsys.readouterr().err
