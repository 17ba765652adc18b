"""Tolerances: agreeing runs pass, whatever column holds the number; a changed result does not."""

import numpy as np
import pandas as pd
import pytest

from ccq_utils.common import paths
from ccq_utils.run import verify
from ccq_utils.run.tolerances import FLOOR, OWN_INTERVAL, allowed, ends, is_p_value, read_spread

TABLES = sorted((paths.ROOT / "data" / "results" / "default").glob("[0-9]*.csv"))
TABLES = [path for path in TABLES if not path.name.startswith(verify.TIMINGS)]
STILL = pd.DataFrame({"threads": 0.0, "bootstrap": 0.0}, index=pd.MultiIndex.from_tuples([("03_table", "estimate")]))
STILL.index.names = ["table", "column"]


@pytest.mark.parametrize(
    ("column", "others", "expected"),
    [
        ("estimate", ["low", "high"], ("low", "high")),
        ("high", ["low", "high"], ("low", "high")),
        ("gain", ["gain_low", "gain_high"], ("gain_low", "gain_high")),
        ("gain_low", ["gain", "gain_high"], ("gain_low", "gain_high")),
        ("ndcg_at_10", ["low", "high", "ndcg_low", "ndcg_high"], ("ndcg_low", "ndcg_high")),
        ("seed_spread", ["low", "high"], None),
    ],
)
def test_a_number_finds_its_interval(column, others, expected):
    assert ends(column, pd.DataFrame(columns=[column, *others])) == expected


def test_a_wide_interval_lets_its_number_move():
    table = pd.DataFrame({"estimate": [0.5, 0.5], "low": [0.499, 0.4], "high": [0.501, 0.6]})
    assert allowed(table, "estimate", "03_table", STILL) == pytest.approx([0.0025, OWN_INTERVAL * 0.1])


def test_a_spread_of_seeds_moves_as_its_scores_do():
    table = pd.DataFrame({"estimate": [0.5, 0.6], "seed_spread": [0.001, 0.0002]})
    assert (allowed(table, "seed_spread", "03_table", STILL) == FLOOR).all()
    assert (allowed(table, "seed_spread", "03_table", STILL + 0.005) == 0.005).all()


def test_a_loss_has_a_scale_of_its_own():
    table = pd.DataFrame({"validation_loss": [0.004, 0.002]})
    assert allowed(table, "validation_loss", "03_table", STILL) == pytest.approx(0.0002)


@pytest.mark.parametrize("seed", range(2))
def test_runs_that_vary_as_measured_are_not_different(seed):
    """Every number moves by a normal deviate half as wide as its tolerance: a machine that nobody measured."""
    rng, spread = np.random.default_rng(seed), read_spread()
    for path in TABLES:
        table = pd.read_csv(path)
        numbers = [name for name in table.select_dtypes("float") if not is_p_value(name)]
        moved = table.copy()
        for name in numbers:
            moved[name] += 0.5 * allowed(table, name, path.stem, spread) * rng.standard_normal(len(table))
        found = verify.compare(table, moved, path.stem, spread)
        assert "DIFFERENT" not in set(found["status"]), found[found["status"] == "DIFFERENT"].to_string()


@pytest.mark.parametrize(("name", "off"), [("03_retention", 0.03), ("05_at_48x", 0.035), ("05_budget_sweep", 0.06)])
def test_a_result_that_is_off_is_different(name, off):
    """Few bytes vary most: tables that hold 16-byte codes let all of their numbers move further."""
    table = pd.read_csv(paths.ROOT / "data" / "results" / "default" / f"{name}.csv")
    found = verify.compare(table, table.assign(estimate=table["estimate"] - off), name, read_spread())
    assert (found["status"] == "DIFFERENT").mean() > 0.8
