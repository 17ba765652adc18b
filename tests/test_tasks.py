"""Building tasks, from hand-made docstring entries and from BEIR folders written here."""

import gzip
import json
from dataclasses import replace

import numpy as np
import pytest

from ccq_utils.common.errors import StudyError
from ccq_utils.data import tasks
from ccq_utils.data.docstrings import Entry
from ccq_utils.data.profile import TaskSpec
from ccq_utils.data.tasks import Task, load_task
from ccq_utils.study.metrics import Evaluator

pytestmark = pytest.mark.filterwarnings("ignore:task .* has only")


def body(seed):
    """Thirty words that no other seed shares."""
    return " ".join(f"word{seed}x{number}" for number in np.random.default_rng(seed).permutation(30))


def entry(name, seed, summary=None, see_also=()):
    path = f"lib.{name}"
    return Entry("lib", path, summary or f"What {name} does", body(seed), tuple(f"lib.{other}" for other in see_also))


@pytest.fixture
def load(monkeypatch):
    """Build a docstring task of the given entries."""

    def of(kind, *entries, seed=0, **changes):
        monkeypatch.setattr(tasks, "read_library", lambda library: entries)
        tasks._documented.cache_clear()
        return load_task(TaskSpec(name="t", source=f"docstrings:{kind}", libraries=["lib"], **changes), seed)

    return of


def many(count=40, **changes):
    """A chain: each entry names the next one in See Also."""
    return [
        entry(f"f{index:02d}", index, see_also=[f"f{(index + 1) % count:02d}"], **changes) for index in range(count)
    ]


def test_summary_query_finds_its_own_body(load):
    task = load("summary", entry("a", 1), entry("b", 2))
    assert task.queries["lib.a"] == "What a does"
    assert task.documents["lib.a"] == body(1)
    assert task.qrels == {"lib.a": {"lib.a": 1}, "lib.b": {"lib.b": 1}}


def test_entries_with_a_short_body_give_no_document(load):
    short = replace(entry("short", 3), body="too few words")
    assert set(load("summary", entry("a", 1), short).documents) == {"lib.a"}


def test_near_duplicates_are_one_document_under_the_shortest_name(load):
    copy = replace(entry("deep.copy", 1), body=body(1) + " indeed")
    task = load("summary", copy, entry("copy", 1), entry("b", 2))
    assert set(task.documents) == {"lib.copy", "lib.b"}
    assert task.notes["near_duplicates_dropped"] == 1


def test_different_bodies_stay_apart(load):
    half = " ".join(body(1).split()[:15] + body(2).split()[:15])
    assert len(load("summary", entry("a", 1), replace(entry("half", 9), body=half)).documents) == 2


def test_cross_reference_to_a_near_duplicate_follows_to_the_document_that_stays(load):
    task = load("see_also", entry("copy", 1), entry("deep.copy", 1), entry("user", 2, see_also=["deep.copy"]))
    assert task.qrels["lib.user"] == {"lib.copy": 1}


def test_queries_with_equal_summaries_share_judgements(load):
    task = load("summary", entry("a", 1, "Draw a line."), entry("b", 2, "draw a  line"), entry("c", 3))
    assert task.qrels["lib.a"] == {"lib.a": 1, "lib.b": 1}
    assert "lib.b" not in task.queries


def test_see_also_never_judges_the_own_entry(load):
    task = load("see_also", entry("a", 1, see_also=["a", "b"]), entry("b", 2, see_also=["b"]))
    assert task.qrels == {"lib.a": {"lib.b": 1}}


def test_same_input_gives_the_same_manifest(load):
    first = load("summary", *many(), validation_queries=10, max_documents=30, max_queries=20)
    second = load("summary", *many(), validation_queries=10, max_documents=30, max_queries=20)
    assert first.manifest() == second.manifest()


@pytest.mark.parametrize("field", ["documents", "queries"])
def test_manifest_hash_changes_with_one_text(task, field):
    texts = dict(getattr(task, field))
    texts["doc-000"] += " more"
    assert replace(task, **{field: texts}).manifest()["sha256"] != task.manifest()["sha256"]


def test_manifest_hash_changes_with_one_grade(task):
    query = next(iter(task.qrels))
    document = next(iter(task.qrels[query]))
    qrels = task.qrels | {query: task.qrels[query] | {document: 9}}
    assert replace(task, qrels=qrels).manifest()["sha256"] != task.manifest()["sha256"]


def test_manifest_counts(task):
    manifest = task.manifest()
    assert (manifest["documents"], manifest["test_queries"], manifest["validation_queries"]) == (150, 16, 8)
    assert manifest["judgements"] == 24 * 5


def test_validation_and_test_queries_are_disjoint_and_complete(load):
    task = load("summary", *many(), validation_queries=10)
    test, validation = set(task.query_ids("test")), set(task.query_ids("validation"))
    assert len(validation) == 10 and not test & validation and test | validation == set(task.qrels)


def test_validation_takes_at_most_half_of_the_queries(load):
    assert len(load("summary", *many(20), validation_queries=1000).query_ids("validation")) == 10


def test_max_queries_keeps_that_many_queries(load):
    assert len(load("summary", *many(), max_queries=15).queries) == 15


@pytest.mark.parametrize("kind", ["summary", "see_also"])
def test_max_documents_keeps_judged_documents(load, kind):
    task = load(kind, *many(), max_queries=12, max_documents=30, exclude_self=kind == "see_also")
    assert len(task.documents) == 30
    assert all(document in task.documents for grades in task.qrels.values() for document in grades)


def test_max_documents_gives_both_kinds_of_docstring_task_one_corpus(load):
    entries = [entry(f"f{number}", number, see_also=[f"f{number + 1}"]) for number in range(60)]
    tasks = [load(kind, *entries, max_documents=30) for kind in ("summary", "see_also")]
    assert tasks[0].documents == tasks[1].documents and len(tasks[0].documents) == 30


def test_own_documents_stay_where_they_are_excluded_from_rankings(load):
    task = load("see_also", *many(), max_queries=12, max_documents=30, exclude_self=True)
    assert set(task.qrels) <= set(task.documents)


def test_unknown_split_is_an_error(task):
    with pytest.raises(KeyError, match="train"):
        task.query_ids("train")


def test_libraries_without_documented_entries_are_an_error(load):
    with pytest.raises(StudyError, match="needs libraries whose docstrings have bodies"):
        load("summary")


def test_few_queries_are_a_warning(make_task):
    with pytest.warns(UserWarning, match="'made_up' has only 9 test queries"):
        make_task(queries=9, validation=frozenset())


def test_enough_queries_are_no_warning(make_task, recwarn):
    make_task(queries=10, validation=frozenset())
    assert not recwarn.list


# ---- BEIR folders ---------------------------------------------------------------------------------------------------

CORPUS = [
    {"_id": "d1", "title": "Rain", "text": "falls on the plain"},
    {"_id": "d2", "title": "", "text": "snow"},
    {"_id": "d3", "text": "no title"},
]
QUERIES = [
    {"_id": "q1", "text": "wet weather"},
    {"_id": "q2", "text": "cold weather"},
    {"_id": "q3", "text": "unjudged"},
]
QRELS = "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\nq2\td2\t1\n"


@pytest.fixture
def beir(tmp_path):
    """Write the folder above with some files replaced (None leaves one out) and load it."""

    def of(spec=(), **changes):
        content = {"corpus": lines(CORPUS), "queries": lines(QUERIES), "test": QRELS} | changes
        names = {"corpus": "corpus.jsonl", "queries": "queries.jsonl"}
        (tmp_path / "qrels").mkdir()
        for part, text in content.items():
            if text is not None:
                content = text if isinstance(text, bytes) else text.encode()
                place = names.get(part, part if ".jsonl" in part else f"qrels/{part.removesuffix('.tsv.gz')}.tsv")
                (tmp_path / (place + ".gz" * part.endswith(".tsv.gz"))).write_bytes(content)
        return load_task(TaskSpec(name="weather", source=f"beir:{tmp_path}", **dict(spec)), seed=0)

    return of


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_beir_title_and_text_are_joined(beir):
    assert beir().documents == {"d1": "Rain falls on the plain", "d2": "snow", "d3": "no title"}


def test_beir_grades_are_read_and_unjudged_queries_left_out(beir):
    task = beir()
    assert task.qrels == {"q1": {"d1": 2, "d2": 0}, "q2": {"d2": 1}}
    assert set(task.queries) == {"q1", "q2"}


def test_beir_query_without_a_relevant_document_is_left_out(beir):
    assert set(beir(test="query-id\tcorpus-id\tscore\nq1\td1\t0\nq2\td2\t1\n").qrels) == {"q2"}


def test_beir_validation_comes_from_the_dev_file(beir):
    task = beir({"validation_queries": 5}, test="q1\td1\t1\n", dev="q1\td1\t1\nq2\td2\t1\n")
    assert task.query_ids("test") == ["q1"] and task.query_ids("validation") == ["q2"]


def test_max_queries_counts_test_queries_beside_those_of_the_dev_file(beir):
    task = beir({"validation_queries": 5, "max_queries": 1}, test="q1\td1\t1\n", dev="q2\td2\t1\n")
    assert task.query_ids("test") == ["q1"] and task.query_ids("validation") == ["q2"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (
            {"test": None},
            ["weather", "test.tsv", "is missing; give corpus.jsonl, queries.jsonl, qrels/test.tsv, plain or as .gz"],
        ),
        ({"corpus": None}, ["weather", "corpus.jsonl", "is missing; give"]),
        ({"queries": None}, ["weather", "queries.jsonl", "is missing; give"]),
        ({"test": QRELS + "q2\td9\t1\n"}, ["weather", "test.tsv line 5", "'d9'", "does not exist", "allow_missing"]),
        ({"test": QRELS + "q9\td1\t1\n"}, ["weather", "test.tsv line 5", "'q9'", "does not exist"]),
        ({"corpus": ""}, ["weather", "corpus.jsonl holds no text"]),
        ({"queries": lines([{"_id": "q1", "text": ""}, QUERIES[1]])}, ["test.tsv line 2", "'q1' has no text"]),
        ({"queries": lines([{"_id": "q1", "text": None}, QUERIES[1]])}, ["weather", "queries.jsonl line 1", "'text'"]),
        ({"corpus": lines(CORPUS) + "{broken\n"}, ["weather", "corpus.jsonl line 4"]),
        ({"corpus": '{"_id": "d1"}\n'}, ["weather", "corpus.jsonl line 1", "text"]),
        ({"corpus": '["d1", "text"]\n'}, ["weather", "corpus.jsonl line 1"]),
        ({"test": QRELS + "q1 d1 1\n"}, ["weather", "test.tsv line 5", "q1 d1 1"]),
        ({"test": QRELS + "q1\td3\thigh\n"}, ["weather", "test.tsv line 5", "high"]),
        ({"corpus": lines([*CORPUS, CORPUS[1]])}, ["corpus.jsonl line 4", "'d2' stands twice", "line 2"]),
        ({"queries": lines([*QUERIES, QUERIES[0]])}, ["queries.jsonl line 4", "'q1' stands twice", "line 1"]),
        ({"corpus": b'{"_id": "d1", "text": "Schnee f\xe4llt"}\n'}, ["corpus.jsonl line 1", "UTF-8"]),
        ({"test": b"q1\td1\t1\nq\xe4\td2\t1\n"}, ["weather", "test.tsv line 2", "UTF-8"]),
        ({"test": ""}, ["test.tsv", "no judgement above zero", "empty"]),
        ({"test": "query-id\tcorpus-id\tscore\n"}, ["test.tsv", "no judgement above zero", "header only"]),
        ({"test": "q1\td1\t0\nq2\td2\t-1\n"}, ["test.tsv", "no judgement above zero", "all 2 are zero or negative"]),
        ({"test": "corpus-id\tquery-id\tscore\n" + QRELS}, ["line 1", "query-id<TAB>corpus-id<TAB>score"]),
        ({"test": QRELS.replace("\t", ",")}, ["line 1", "query-id<TAB>corpus-id<TAB>score"]),
        ({"test": QRELS + "q1\td1\t1\n"}, ["line 5", "grade 1", "but 2 in", "line 2"]),
        ({"test": QRELS + f"q1\td3\t{10**20}\n"}, ["line 5", "whole number"]),
        ({"corpus": lines([{"_id": "d2", "text": ""}, {"_id": "d1", "text": " "}, CORPUS[2]])}, ["can be found"]),
    ],
)
@pytest.mark.filterwarnings("ignore:.*empty texts")
def test_bad_beir_folder_is_one_line_that_names_the_thing(beir, changes, named):
    with pytest.raises(StudyError) as caught:
        beir(**changes)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in named), str(caught.value)


def test_allow_missing_accepts_a_judgement_for_a_missing_document(beir):
    assert beir({"allow_missing": True}, test=QRELS + "q2\td9\t1\n").qrels["q2"] == {"d2": 1, "d9": 1}


def test_an_empty_document_stays_and_is_never_found(beir):
    with pytest.warns(UserWarning, match="1 empty texts, which are never found; the first is .*corpus.jsonl line 4"):
        task = beir(corpus=lines([*CORPUS, {"_id": "d4", "text": " "}]), test=QRELS + "q1\td4\t2\n")
    assert task.manifest()["documents"] == 4 and "d4" not in task.documents
    perfect = Evaluator(task)(np.array([[9.0, 0, 0], [0, 9, 0]]))
    assert perfect["recall_at_100"].tolist() == [0.5, 1]


def test_a_judgement_that_stands_twice_counts_once_with_a_warning(beir):
    with pytest.warns(UserWarning, match="1 judgements a second time"):
        assert beir(test=QRELS + "q1\td1\t2\n").qrels["q1"] == {"d1": 2, "d2": 0}


def test_packed_files_and_windows_lines_are_read_alike(beir, tmp_path):
    task = beir(
        test=None,
        corpus=None,
        queries="\ufeff" + lines(QUERIES).replace("\n", "\r\n\r\n"),
        **{"corpus.jsonl.gz": gzip.compress(lines(CORPUS).encode()), "test.tsv.gz": gzip.compress(QRELS.encode())},
    )
    assert task.manifest()["documents"] == 3 and set(task.queries) == {"q1", "q2"}


def test_task_checks_itself_when_made_by_hand():
    with pytest.raises(StudyError, match="the corpus is empty"):
        Task("none", {}, {}, {}, frozenset())
