"""A seeded sample of the campaign in ``tests/faults``, which ``make faults`` runs as a whole."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="forks, limits and small disks as Linux has them")
def test_a_sample_of_all_faults_is_right_or_refused_clearly(tmp_path):
    command = [sys.executable, str(ROOT / "tests" / "faults"), "--sample", "--out", str(tmp_path / "table.csv")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    table = pd.read_csv(tmp_path / "table.csv")
    assert len(table) >= 16 and (table["tried"] > 0).all() and not table["wrong"].any()


def test_the_committed_table_counts_what_was_tried():
    table = pd.read_csv(ROOT / "data" / "reliability.csv").set_index("kind")
    assert (table["tried"] == table[["right", "refused_clearly", "wrong"]].sum(axis=1)).all()
    assert not table["wrong"].any() and table.filter(like="kill: ", axis=0)["tried"].sum() == 60
    readers = table.dropna(subset=["mteb_right"])
    for peer in ("mteb", "datasets", "sentence_transformers"):
        assert (readers.filter(like=f"{peer}_").sum(axis=1) == readers["tried"]).all()
    total, text = table.sum(numeric_only=True), (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"tries {total['tried']:.0f} faults" in text and f"Of {readers['tried'].sum()} odd files" in text
    assert f"{total['right']:.0f} come out right, {total['refused_clearly']:.0f} are refused" in text
    silent = [f"{readers[f'{peer}_silent'].sum():.0f}" for peer in ("mteb", "datasets", "sentence_transformers")]
    assert f"take {silent[0]}, {silent[1]} and {silent[2]} silently" in text
