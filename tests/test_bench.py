"""``ccq bench``: complete tables; no time is asserted. And the comparison on one's own task."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from ccq_utils.analyses import bench, comparison
from ccq_utils.cli import main
from ccq_utils.common.errors import StudyError
from ccq_utils.study.scores import FittingVectors, TaskVectors, Vectors


def test_rounds_alternate_after_one_that_warms_up():
    seen = []
    table = bench.race({name: lambda name=name: seen.append(name) for name in "ab"}, rounds=3)
    assert "".join(seen) == "abababab" and table["method"].tolist() == ["a", "b"]
    assert (table["fastest"] <= table["seconds"]).all() and (table["seconds"] <= table["slowest"]).all()
    with pytest.raises(StudyError, match="rounds 0 must be at least 1"):
        bench.race({}, rounds=0)


def test_search_has_a_row_per_method_and_number_of_queries_at_equal_bytes(random_vectors):
    table = bench.search(random_vectors(200, 64), 1200, budget=8, queries=(1, 5), rounds=1)
    assert table["queries"].tolist() == [1] * 6 + [5] * 6 and table["method"].nunique() == 6
    codes = table[table["method"] != bench.FLAT]
    assert (codes["bytes_per_vector"] == 8).all() and codes["recall"].between(0, 1).all()
    flat = table[table["method"] == bench.FLAT]
    assert (flat["recall"] == 1).all() and (flat["bytes_per_vector"] == 256).all()
    with pytest.raises(StudyError, match="at least 10 documents, got 3"):
        bench.search(random_vectors(200, 64), 3)


def test_a_foreign_table_is_refused_before_the_work_and_rows_of_other_profiles_stay(tmp_path, monkeypatch):
    def measured(study, *_):
        return pd.DataFrame({"seconds": [float(len(worked))]})

    worked = []
    monkeypatch.setattr(bench, "encoding", lambda *given: worked.append(1) or measured(*given))
    monkeypatch.setattr(bench, "search", lambda *_, **__: measured(None))
    monkeypatch.setattr(bench.Study, "concat", lambda *_: None)
    for content, words in (("my,notes\n1,2\n", "none of ours"), ('a,profile,processor,load\n"1\n', "cannot be read")):
        (tmp_path / "search.csv").write_text(content)
        with pytest.raises(StudyError, match=f"search.csv .*{words}"):
            bench.run("tiny", output=str(tmp_path))
        assert not worked and (tmp_path / "search.csv").read_text() == content
    (tmp_path / "search.csv").write_text("seconds,profile,processor,load\n9,default,x,1\n8,tiny,x,1\n")
    for count in (1, 2):
        bench.run("tiny", output=str(tmp_path))
        assert pd.read_csv(tmp_path / "search.csv")["seconds"].tolist() == [9, count]


def test_a_corpus_grows_and_its_judged_documents_are_never_fitted_on(
    judged_vectors, random_vectors, monkeypatch, cache
):
    task, evaluator, documents, queries = judged_vectors(random_vectors(80, 32), 24)
    general, fitted = FittingVectors(random_vectors(300, 32, seed=8)), []
    vectors = Vectors({task.name: TaskVectors(queries, documents, evaluator)}, general)
    study = Pretended(vectors, None, cache)
    study.tasks, study.models = {task.name: task}, {"a": None}
    monkeypatch.setattr(bench, "task_vectors", lambda study, members: vectors)
    monkeypatch.setattr(bench, "embed", lambda model, texts, cache: random_vectors(len(texts), 32, seed=9))
    monkeypatch.setattr(bench, "FittingVectors", lambda rows: fitted.append(rows) or FittingVectors(rows))
    table = bench.growth(study, ["text"] * 500, ["a"], sizes=(100, 400, 9000), fitted=(30, 300), factors=(16,))
    assert set(zip(table["documents"], table["fitted_documents"], strict=True)) == {(100, 30), (400, 30), (400, 300)}
    judged = {documents[column].tobytes() for column in evaluator.columns}
    assert len(fitted) == 3 and not judged & {row.tobytes() for rows in fitted for row in rows}
    assert (table["total_bytes"] >= table["bytes_per_vector"]).all() and set(table["members"]) == {"a"}
    assert table.loc[table["method"] == "LSH", "shared_bytes"].eq(0).all()
    monkeypatch.setattr(bench, "task_vectors", lambda *_, **__: pytest.fail("worked for nothing"))
    for count, members, sizes, message in (
        (
            19,
            ["a"],
            (100, 400),
            r"80 documents and 19 distractors come to none of \(100, 400\); give at least 20 texts",
        ),
        (99, ["a"], (50,), "none of .*; give a task of fewer documents"),
        (99, ["a", "b"], (100,), "unknown member 'b'; accepted: a$"),
    ):
        with pytest.raises(StudyError, match=message):
            bench.growth(study, ["text"] * count, members, sizes=sizes)
    with pytest.raises(StudyError, match="members a are of the corpus that grows; name distractors as well"):
        bench.run("tiny", members=["a"])


# ---- the comparison on one's own task ---------------------------------------------------------------------------


@pytest.fixture
def report():
    methods = [
        {
            "method": "PQ",
            "fitted_on": "own corpus",
            "bytes_per_vector": 8,
            "total_bytes": 99.5,
            "compression_factor": 64.0,
        }
        | {"ndcg_at_10": 0.4, "retention": 0.9, "low": 0.8, "high": 0.95}
    ]
    return {
        "task": "mine",
        "queries": 9,
        "documents": 80,
        "models": [{"name": "minilm", "ndcg_at_10": 0.41, "low": 0.3, "high": 0.5}],
        "concat": {"members": ["minilm", "lexical"], "bytes_per_vector": 512, "ndcg_at_10": 0.44},
        "methods": methods,
        "skipped": [{"method": "OPQ", "fitted_on": "own corpus", "reason": "too few"}],
    }


def test_report_is_shown_and_written(report, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(comparison, "evaluate_task", lambda *args, **options: report)
    out = tmp_path / "deep" / "report.json"
    assert main(["evaluate", "--task", "beir:mine", "--bytes", "9", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "mine: 9 queries, 80 documents" in text and "not run: OPQ, own corpus: too few" in text
    assert "0.900 [0.800, 0.950]" in text
    assert json.loads((tmp_path / "deep" / "report.json").read_text()) == report


@pytest.mark.parametrize(
    ("source", "budget", "message"),
    [("scifact", 8, "unknown task 'scifact'; accepted: beir:DIR"), ("beir:x", 0, "budget 0 must be at least one byte")],
)
def test_what_cannot_be_evaluated_is_refused_at_once(source, budget, message):
    with pytest.raises(StudyError, match=message):
        comparison.evaluate_task(source, budget)


class Pretended:
    """A study of one task whose vectors are there already."""

    def __init__(self, vectors, decoder, cache):
        from ccq_utils.data.profile import load_profile

        self.profile, self.tasks, self.members = load_profile("tiny"), vectors.by_task, ["a", "b"]
        self.decoder, self.cache = decoder, cache

    def summarise(self, scores, by, reference=None, statistic="retention"):
        from ccq_utils.study.stats import summarise

        return summarise(scores, by, reference, statistic, resamples=50)


def test_every_method_is_fitted_once_on_each_text_and_compared(judged_vectors, random_vectors, monkeypatch, cache):
    from ccq_utils.codecs.decoder import fit_pca

    task, evaluator, documents, queries = judged_vectors(random_vectors(80, 32), 12)
    general = FittingVectors(random_vectors(300, 32, seed=8), random_vectors(260, 32, seed=9))
    vectors = Vectors({task.name: TaskVectors(queries, documents, evaluator)}, general)
    study = Pretended(vectors, fit_pca(general.training, 16), cache)
    study.profile = study.profile.model_copy(update={"models": ["a"], "larger": []})
    monkeypatch.setattr(comparison, "task_vectors", lambda study, members=None: replace(vectors, own={}))
    monkeypatch.setattr(comparison, "trained_decoder", lambda study: (study.decoder, None))
    report = comparison.compare(study, 8)
    found = pd.DataFrame(report["methods"])
    assert set(found["method"]) == set(comparison.METHODS) and len(found) == 2 * len(comparison.METHODS)
    assert report["concat"]["bytes_per_vector"] == 128 and (found["compression_factor"] == 16).all()
    assert found["retention"].is_monotonic_decreasing and np.isfinite(found[["low", "high"]]).all(axis=None)
    basis = found.set_index(["method", "fitted_on"]).loc[("PCA, rotated", "own corpus")]
    assert basis["total_bytes"] == 8 + 4 * (32 * 32 + 7 * 32) / len(task.documents)
    peers = comparison.compare(study, 8, peers=True)
    assert len(peers["methods"]) + len(peers["skipped"]) == 2 * (len(comparison.METHODS) + len(comparison.PEERS) + 1)
    assert any(row["method"] == "PQ" and "this fit needs at least 256" in row["reason"] for row in peers["skipped"])
    assert json.loads(json.dumps(peers)) == peers
