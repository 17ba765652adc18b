"""The whole study on the profile ``tiny``, once, through the command line: every notebook, table, figure and verdict."""

import json
import os
import subprocess
import sys

import nbformat
import numpy as np
import pandas as pd
import pytest

from ccq_utils import paths
from ccq_utils.claims import load_ledger
from ccq_utils.ledger import VERDICTS
from ccq_utils.stats import Interval

NOTEBOOKS = [path.stem for path in sorted(paths.NOTEBOOKS.glob("0*.ipynb"))]
TIMEOUT = 900  # seconds; it takes less than three minutes on two free cores


@pytest.fixture(scope="session")
def command(tmp_path_factory):
    """``ccq run --profile tiny`` into a folder of its own, with a cache of its own."""
    folder = tmp_path_factory.mktemp("study")

    def run():
        arguments = [sys.executable, "-m", "ccq_utils.cli", "run", "--profile", "tiny", "--output", folder / "output"]
        environment = os.environ | {"CCQ_CACHE": str(folder / "cache")}
        return subprocess.run(
            arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False
        )

    run.output = folder / "output"
    return run


@pytest.fixture(scope="session")
def finished(command):
    """The first run's result."""
    return command()


@pytest.fixture(scope="session")
def output(finished, command):
    """The output folder after the first run; every test below needs that run to have passed."""
    if finished.returncode:
        pytest.fail(f"the run failed:\n{finished.stderr[-3000:]}", pytrace=False)
    return command.output


@pytest.fixture(scope="session")
def tables(output):
    return {path.stem: pd.read_csv(path) for path in sorted((output / "results").glob("*.csv"))}


def test_run_exits_with_zero(finished):
    assert finished.returncode == 0, finished.stderr[-3000:]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_was_executed_to_its_end(output, name):
    notebook = nbformat.read(output / "notebooks" / f"{name}.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code if cell.source.strip())
    assert not [output for cell in code for output in cell.outputs if output.output_type == "error"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_wrote_nothing_to_stderr(output, name):
    notebook = nbformat.read(output / "notebooks" / f"{name}.ipynb", as_version=4)
    streams = [part for cell in notebook.cells if cell.cell_type == "code" for part in cell.outputs]
    assert [part.text for part in streams if part.get("name") == "stderr" and part.text.strip()] == []


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_wrote_tables(tables, name):
    assert [table for table in tables if table.startswith(name[:2])]


def test_tables_have_rows(tables):
    assert [name for name, table in tables.items() if table.empty] == []


def test_estimates_are_finite(tables):
    columns = ("estimate", "ndcg_at_10", "validation_loss")
    for name, table in tables.items():
        for column in set(columns) & set(table.select_dtypes("number")):
            assert np.isfinite(table[column]).all(), f"{name}.{column}"


def test_intervals_hold_their_estimates(tables):
    checked = 0
    for name, table in tables.items():
        if {"low", "high"} <= set(table):
            table = table.dropna(subset=["low"])
            estimate = next(table[column] for column in ("estimate", "gain", "measured") if column in table)
            inside = (table["low"] <= estimate + 1e-9) & (estimate <= table["high"] + 1e-9)
            assert inside.all(), f"{name}:\n{table[~inside]}"
            checked += len(table)
    assert checked > 50


def test_scores_lie_between_zero_and_one(tables):
    for name, table in tables.items():
        if "ndcg_at_10" in table:
            assert table["ndcg_at_10"].between(0, 1).all(), name


def test_bytes_of_codes_and_compression_factor_agree(tables):
    sweep = tables["05_budget_sweep"]
    assert (sweep["bytes_per_vector"] <= sweep["budget"]).all()
    assert (sweep["bytes_per_vector"] * sweep["compression_factor"]).round().nunique() == 1


def test_claims_have_verdicts_in_the_agreed_words(tables):
    claims = tables["06_claims"]
    assert {entry.id for entry in load_ledger()} == set(claims["claim"])
    assert set(claims["verdict"]) <= set(VERDICTS)


def test_only_the_cross_domain_claim_is_not_testable(tables):
    claims = tables["06_claims"].set_index("claim")
    assert claims.index[claims["verdict"] == "not testable here"].tolist() == ["N1"]
    assert claims.loc["N1", "note"] == "the tasks of this profile share one corpus"


def test_reproduced_claims_have_intervals_where_they_are_expected(tables):
    expected = {entry.id: entry.reproduced for entry in load_ledger()}
    for row in tables["06_claims"].dropna(subset=["measured"]).itertuples():
        holds = expected[row.claim].holds(Interval(row.measured, row.low, row.high, row.queries))
        assert holds == (row.verdict == "reproduced") or row.note, row


def test_every_notebook_shows_the_verdict_that_the_ledger_ends_with(tables):
    final = tables["06_claims"].set_index("claim")
    shown = [tables[f"{step}_claims"].set_index("claim") for step in ("01", "02", "03", "04", "05")]
    for table in shown:
        assert (table["verdict"] == final.loc[table.index, "verdict"]).all()
    assert set().union(*(table.index for table in shown)) == {
        entry.id for entry in load_ledger() if entry.notebook < "06"
    }


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_figures_exist_as_png_and_svg(output, name):
    png, svg = ({path.stem for path in (output / "figures").glob(f"{name[:2]}_*.{kind}")} for kind in ("png", "svg"))
    assert png and png == svg


def test_figures_are_images(output):
    for path in (output / "figures").glob("*"):
        head = path.read_bytes()[:400]
        assert head.startswith(b"\x89PNG") if path.suffix == ".png" else b"<svg" in head or b"<?xml" in head, path


def test_report_names_every_notebook_with_time_and_memory(output):
    report = json.loads((output / "results" / "run_report.json").read_text())
    assert report["profile"] == "tiny"
    assert [entry["name"] for entry in report["notebooks"]] == NOTEBOOKS
    assert all(entry["seconds"] > 0 and entry["peak_memory_mb"] > 0 for entry in report["notebooks"])


def test_run_prints_the_claims(finished, output):
    assert "K2b" in finished.stdout and "verdict" in finished.stdout


def test_second_run_skips_everything_and_changes_nothing(command, output):
    def content():
        return {path.name: path.read_bytes() for path in (output / "results").glob("*.csv")}

    before = content()
    again = command()
    assert again.returncode == 0, again.stderr[-3000:]
    assert [line for line in again.stderr.splitlines() if line.endswith("unchanged, skipped")] == [
        f"{name}: unchanged, skipped" for name in NOTEBOOKS
    ]
    assert content() == before
