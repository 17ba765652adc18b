"""The whole study on the profile ``tiny``, once, through the command line: every notebook, table, figure and verdict."""

import json
import os
import subprocess
import sys

import nbformat
import numpy as np
import pandas as pd
import pytest
from ccq_utils.study.ledger import VERDICTS
from ccq_utils.study.retention import sides

from ccq_utils import cli
from ccq_utils.analyses import block_steps, comparison
from ccq_utils.common import paths
from ccq_utils.study import ledger
from ccq_utils.study.claims import load_ledger
from ccq_utils.study.stats import Interval
from ccq_utils.study.study import Study

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

    run.output, run.cache = folder / "output", folder / "cache"
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
            estimate = next(table[column] for column in ("estimate", "gain", "measured", "seconds") if column in table)
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
    monkeypatch.setattr(paths, "results_folder", lambda profile, output_folder="": output / "results")
    return lambda *arguments: cli.main(["evaluate", "--profile", "tiny", *map(str, arguments)])


def test_evaluate_compares_methods_on_a_beir_folder(evaluate, own_set, tmp_path, capsys):
    report = tmp_path / "report.json"
    assert evaluate("--task", f"beir:{own_set}", "--bytes", 32, "--peers", "--json", report) == 0
    found = json.loads(report.read_text())
    assert (found["task"], found["queries"], found["documents"]) == ("mine", 40, 40)
    assert {model["name"] for model in found["models"]} == {"minilm", "lexical", "wordllama", "static"}
    rows = {(row["method"], row["fitted_on"]): row for row in found["methods"]}
    assert {("byte blocks", "general text"), ("byte blocks", "own corpus"), ("decoder", "general text")} <= set(rows)
    assert any(method.startswith("TurboQuant") for method, _ in rows)
    for row in rows.values():
        fits = row["bytes_per_vector"] <= 32 or row["method"].startswith("bitbudget")  # which has no byte budget
        assert fits and row["low"] <= row["retention"] <= row["high"]
        assert row["compression_factor"] == pytest.approx(found["concat"]["bytes_per_vector"] / row["bytes_per_vector"])
        assert row["retention"] == pytest.approx(row["ndcg_at_10"] / found["concat"]["ndcg_at_10"])
    assert any(row["method"] == "PQ" and "needs at least" in row["reason"] for row in found["skipped"])
    printed = capsys.readouterr().out
    assert "byte blocks" in printed and "not run: PQ, own corpus" in printed


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


# ---- the comparison of methods that notebooks and ccq evaluate share -------------------------------------------------


@pytest.fixture
def tiny(output, command, monkeypatch, tmp_path):
    """The profile ``tiny`` as that run left it; what is recorded goes elsewhere."""
    monkeypatch.setenv("CCQ_CACHE", str(command.cache))
    study = Study("tiny", "05", str(tmp_path))
    study.read = lambda name: pd.read_csv(output / "results" / f"{name}.csv")
    return study


def test_comparison_holds_ours_against_peers_and_single_models(tiny):
    table = comparison.compare(tiny, sides(tiny), peers=("TurboQuant, 1 bit", "int8"))
    assert set(table["factor"]) == set(comparison.GOALS) and set(table["fitted_on"]) == set(comparison.PLACES)
    assert {"byte blocks", "LSH", "int8", "minilm alone, byte blocks"} <= set(table["method"])
    ours = table[table["method"] == comparison.OURS]
    assert ours["ahead"].eq(0).all() and set(ours["verdict"]) == {"reference"} and ours["seed_spread"].notna().all()
    assert (table["bytes_per_vector"] <= 4 * tiny.joined("calibration").shape[1] / table["factor"]).all()
    reached = comparison.goals(table).set_index("factor")
    assert reached.loc[192, "own corpus"] > reached.loc[192, "general text"]
    for name in (*comparison.PLACES, "best_other_retention"):
        assert (reached[f"{name}_low"] <= reached[name]).all() and (reached[name] <= reached[f"{name}_high"]).all()
    drawn = table.set_index("method")["seed_spread"].notna()
    assert drawn["TurboQuant, 1 bit"].all() and drawn["minilm alone, byte blocks"].all() and not drawn["int8"].any()
    names = ledger.read_queries(tiny.results).columns
    assert {"byte blocks, 48x, own corpus #0", "peer PCA, rotated, 48x, general text #1"} <= set(names)


def test_a_peer_is_judged_among_those_at_the_same_factor_and_place_only():
    row = {"factor": 48, "fitted_on": "own corpus", "method": "PQ", "task": "a", "queries": 50}
    row |= {"ahead": -0.1, "ahead_low": -0.19, "ahead_high": -0.01, "ahead_p": 0.03}
    alone, many = comparison.judged(pd.DataFrame([row])), comparison.judged(pd.DataFrame([row] * 9))
    other = comparison.judged(pd.DataFrame([row, *[row | {"factor": 96}] * 9]))
    assert alone["verdict"][0] == other["verdict"].iloc[0] == "worse" and set(many["verdict"]) == {"no difference seen"}


def test_what_centroids_lose_comes_back_unbiased(tiny):
    table = block_steps.fading(tiny, 32)
    assert (table["kept_low"] <= table["kept"]).all() and (table["kept"] <= table["kept_high"]).all()
    faded = table.groupby("method")["kept"].mean()
    assert faded["centroids as they are"] < 0.6 and faded["unbiased"] == pytest.approx(1, abs=0.1)


def test_equalised_dims_of_power_nought_are_the_concat_itself(tiny):
    table = block_steps.equalised(tiny, sides(tiny), (0.0, block_steps.POWER))
    assert table[table["power"] == 0]["estimate"].to_numpy() == pytest.approx(1, abs=1e-3)
    assert (table[table["power"] > 0]["estimate"] != 1).all()
    assert "equalised, own corpus" in ledger.read_queries(tiny.results).columns


def test_bitbudget_rows_name_the_bytes_that_it_counts(tiny):
    table = comparison.bitbudget_table(tiny, sides(tiny)).drop_duplicates("method").set_index("method")
    dims = tiny.joined("calibration").shape[1]
    assert table.loc["bitbudget int8", "bytes_per_vector"] == dims
    assert table.loc["bitbudget float32", "estimate"] == pytest.approx(1)
