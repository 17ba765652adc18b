"""Retrieval tasks: a corpus, queries and graded judgements, from docstrings, a BEIR folder or mteb.

A ``Task`` is plain data. ``mteb_tasks.as_mteb`` gives the same task to mteb; ``Evaluator`` scores vectors on it.
"""

import hashlib
import json
import re
import warnings
from collections import defaultdict
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
import scipy.sparse as sparse
from scipy.sparse.csgraph import connected_components

from ccq_utils.common.errors import StudyError
from ccq_utils.common.paths import place_of
from ccq_utils.data import hub
from ccq_utils.data.docstrings import MIN_BODY_WORDS, read_library
from ccq_utils.data.profile import TaskSpec
from ccq_utils.data.text_files import read_lines, read_texts, shows

MAX_BODY_WORDS = 100  # cut here, so that every model sees the same text: MiniLM drops what is beyond 256 tokens
MIN_SUMMARY_WORDS = 3
HEADER = ["query-id", "corpus-id", "score"]
NEAR_DUPLICATE = 0.8
"""Jaccard similarity of word 3-grams from which two bodies count as one document: setters that scikit-learn's estimators
share and pandas' families of operators fall together, different functions do not."""


@dataclass(frozen=True)
class Task:
    """One retrieval task: texts by id, and grades by query and document id; it checks itself.

    Attributes:
        validation: the query ids set apart for choices; every other query is for reporting.
        exclude_self: drop the document that has the query's own id from that query's ranking.
        allow_missing: judgements may name documents that do not exist; they count as never found.
        empty: documents without a text, beside ``documents``: they count, no model sees them, and they are never found.
    """

    name: str
    documents: dict[str, str]
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]
    validation: frozenset[str]
    exclude_self: bool = False
    allow_missing: bool = False
    licence: str = "not specified"
    notes: dict[str, int | str] = field(default_factory=dict)
    empty: tuple[str, ...] = ()

    def __post_init__(self):
        for problem in _problems(self):
            raise StudyError(f"task {self.name!r}: {problem}")
        if (count := len(self.query_ids("test"))) < 10:
            few = f"task {self.name!r} has only {count} test queries; no interval over so few can be trusted"
            warnings.warn(few, stacklevel=3)

    def query_ids(self, split: str) -> list[str]:
        """Judged query ids of ``split`` (``test`` or ``validation``), sorted."""
        wanted = {"test": False, "validation": True}[split]
        return sorted(query for query in self.qrels if (query in self.validation) == wanted)

    def manifest(self) -> dict:
        """Counts and a sha256 over all text and judgements, by which another version of the text is noticed."""
        judged = sorted((query, sorted(grades.items())) for query, grades in self.qrels.items())
        documents = self.documents | dict.fromkeys(self.empty, "")
        content = [sorted(documents.items()), sorted(self.queries.items()), judged, sorted(self.validation)]
        counts = {f"{split}_queries": len(self.query_ids(split)) for split in ("test", "validation")}
        counts["judgements"] = sum(len(grades) for grades in self.qrels.values())
        counts = {"task": self.name, "documents": len(documents)} | counts | self.notes
        return counts | {"sha256": hashlib.sha256(json.dumps(content).encode()).hexdigest()}


def _problems(task):
    if not task.documents:
        yield "the corpus is empty; give at least one document"
    for kind, texts in (("document", task.documents), ("query", task.queries)):
        for name, text in texts.items():
            if not isinstance(text, str) or not text.strip():
                yield f"{kind} {name!r} has an empty text; remove it or fill it"
    for query, grades in task.qrels.items():
        if query not in task.queries:
            yield f"a judgement names query {query!r}, which does not exist; mend the qrels"
        for name in () if task.allow_missing else grades.keys() - task.documents.keys() - set(task.empty):
            yield f"query {query!r} judges document {name!r}, which does not exist; mend the qrels or set allow_missing: true"


def load_task(spec: TaskSpec, seed: int) -> Task:
    """Build the task that a profile names; ``seed`` draws documents, queries and validation queries."""
    kind, _, rest = spec.source.partition(":")
    return {"beir": _beir_task, "mteb": _mteb_task, "docstrings": _docstring_task}[kind](spec, rest, seed)


def _docstring_task(spec, kind, seed):
    entries, canonical, notes = _documented(tuple(spec.libraries))
    kept = [entry for entry in entries if canonical[entry.name] == entry.name]
    kept = _sample(kept, spec.max_documents or len(kept), seed)
    documents = {entry.name: entry.body for entry in kept}
    queries, qrels = {}, {}
    if kind == "summary":
        owners = defaultdict(list)
        for entry in kept:
            owners[" ".join(re.findall(r"\w+", entry.summary.lower()))].append(entry)
        for words, same in owners.items():
            if len(words.split()) >= MIN_SUMMARY_WORDS:
                queries[same[0].name] = same[0].summary
                qrels[same[0].name] = {entry.name: 1 for entry in same}
    else:
        for entry in kept:
            if targets := {canonical.get(name) for name in entry.see_also} & documents.keys() - {entry.name}:
                queries[entry.name] = entry.body
                qrels[entry.name] = dict.fromkeys(sorted(targets), 1)
    return _sampled(spec, documents, queries, qrels, seed, notes, licence="bsd-3-clause")


@cache
def _documented(libraries):
    """Entries with enough text, cut; entry name -> name of the entry that speaks for it; counts.

    Of near-duplicates the one with the shortest path speaks; cross-references to the others point to it, so that no
    judgement calls one of two equal texts right and the other wrong.
    """
    from sklearn.feature_extraction.text import HashingVectorizer  # takes a second to import

    read = [entry for library in libraries for entry in read_library(library)]
    long = [entry for entry in read if len(entry.body.split()) >= MIN_BODY_WORDS]
    entries = [replace(entry, body=" ".join(entry.body.split()[:MAX_BODY_WORDS])) for entry in long]
    if not entries:
        raise StudyError("a task of docstrings needs libraries whose docstrings have bodies")
    shingles = HashingVectorizer(
        token_pattern=r"\w+", ngram_range=(3, 3), binary=True, norm=None, alternate_sign=False, n_features=2**22
    ).transform(entry.body for entry in entries)
    shared = (shingles @ shingles.T).tocoo()
    sizes = shingles.getnnz(axis=1)
    close = shared.data >= NEAR_DUPLICATE * (sizes[shared.row] + sizes[shared.col] - shared.data)
    graph = sparse.coo_matrix((np.ones(close.sum()), (shared.row[close], shared.col[close])), shape=shared.shape)
    label_of = dict(zip((entry.name for entry in entries), connected_components(graph, directed=False)[1], strict=True))
    longest_first = sorted(label_of, key=lambda name: (name.count("."), name), reverse=True)
    best = {label_of[name]: name for name in longest_first}
    canonical = {name: best[label] for name, label in label_of.items()}
    notes = {"entries_read": len(read), "near_duplicates_dropped": len(entries) - len(best)}
    return entries, canonical, notes


def _beir_task(spec, place, seed):
    owner, folder = f"task {spec.name!r}", place_of(place, f"task {spec.name!r}")

    def held(name):  # as it is, or packed
        return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), folder / name)

    needed = "corpus.jsonl", "queries.jsonl", "qrels/test.tsv"
    if lacking := [name for name in needed if not held(name).exists()]:
        raise StudyError(f"{owner}: {folder / lacking[0]} is missing; give {', '.join(needed)}, plain or as .gz")
    documents, queries = (read_texts(held(f"{name}.jsonl"), owner, empty=True) for name in ("corpus", "queries"))
    known = queries, None if spec.allow_missing else documents
    test = _read_qrels(held("qrels/test.tsv"), owner, *known)
    found = [path for name in ("dev", "train") if (path := held(f"qrels/{name}.tsv")).is_file()]
    tuning = _read_qrels(found[0], owner, *known) if found and spec.validation_queries else {}
    return _sampled(spec, documents, queries, test, seed, {}, tuning)


def _mteb_task(spec, name, seed):
    """A task of mteb by mteb's rules; documents that have no text (FiQA has some) are never found."""
    task, test, extra = hub.retrieval_task(name, bool(spec.validation_queries))
    splits = {split: task.dataset["default"][split] for split in (test, extra) if split}
    documents = {row["id"]: f"{row.get('title') or ''} {row['text'] or ''}".strip() for row in splits[test]["corpus"]}
    queries = {row["id"]: row["text"] for held in splits.values() for row in held["queries"]}
    judged, tuning = splits[test]["relevant_docs"], splits[extra]["relevant_docs"] if extra else {}
    notes = {"revision": task.metadata.dataset["revision"]}
    spec = spec.model_copy(update={"exclude_self": task.ignore_identical_ids, "allow_missing": True})
    return _sampled(spec, documents, queries, judged, seed, notes, tuning, task.metadata.license or "not specified")


def _sampled(spec, documents, queries, qrels, seed, notes, tuning=None, licence="not specified"):
    """The task of the sizes asked for; validation queries are drawn from ``tuning``, where it is None from ``qrels``."""
    validation = frozenset(_sample(sorted((tuning or {}).keys() - qrels.keys()), spec.validation_queries, seed))
    qrels = {**qrels, **{query: tuning[query] for query in sorted(validation)}}
    qrels = {query: grades for query, grades in qrels.items() if any(grade > 0 for grade in grades.values())}
    if spec.max_queries:
        kept = validation.union(_sample(sorted(qrels.keys() - validation), spec.max_queries, seed))
        qrels = {query: grades for query, grades in qrels.items() if query in kept}
    if spec.max_documents and spec.max_documents < len(documents):
        judged = {name for grades in qrels.values() for name in grades}
        judged |= set(qrels) & set(documents) if spec.exclude_self else set()
        room = max(0, spec.max_documents - len(judged))
        judged |= set(_sample(sorted(set(documents) - judged), room, seed))
        documents = {name: text for name, text in documents.items() if name in judged}
    if tuning is None:
        validation = frozenset(_sample(sorted(qrels), min(spec.validation_queries, len(qrels) // 2), seed + 1))
    queries = {query: text for query, text in queries.items() if query in qrels}
    empty = tuple(name for name, text in documents.items() if not shows(text))
    documents = {name: text for name, text in documents.items() if shows(text)}
    notes = notes | ({"empty_documents": len(empty)} if empty else {})
    rules = {"exclude_self": spec.exclude_self, "allow_missing": spec.allow_missing, "licence": licence}
    task = Task(spec.name, documents, queries, qrels, validation, **rules, notes=notes, empty=empty)
    judged = ((query, name) for query in task.query_ids("test") for name, grade in qrels[query].items() if grade > 0)
    if not any(name in documents and not (spec.exclude_self and name == query) for query, name in judged):
        raise StudyError(f"task {spec.name!r}: no test query is judged above zero for a document that can be found")
    return task


def _sample(items, count, seed):
    order = np.random.default_rng(seed).permutation(len(items))[:count]
    return [items[index] for index in sorted(order)]


def _read_qrels(path, owner, queries, documents):
    """Grades by query and document, without queries that have none above zero; ``documents`` is None where some may lack."""
    qrels, places, again, number = defaultdict(dict), {}, 0, -1
    lines = ((where, line.split("\t")) for where, line in read_lines(path, owner) if line.strip())
    for number, (where, row) in enumerate(lines):
        if number or row != HEADER:
            if len(row) != 3 or not re.fullmatch("[+-]?[0-9]{1,6}", row[2]):
                expected = f"the header {'<TAB>'.join(HEADER)}, then these three, the score a whole number"
                raise StudyError(f"{where} is {'<TAB>'.join(row)!r:.80}; expected is {expected}")
            query, document, grade = row[0], row[1], int(row[2])
            again += (query, document) in places
            before = places.setdefault((query, document), where).removeprefix(f"{owner}: ")
            if qrels[query].setdefault(document, grade) != grade:
                given = f"grade {grade} for query {query!r} and document {document!r}"
                raise StudyError(f"{where}: {given}, but {qrels[query][document]} in {before}; remove one of them")
    qrels = {query: grades for query, grades in qrels.items() if any(grade > 0 for grade in grades.values())}
    for (query, name), where in places.items():
        if query in qrels and not queries.get(query):
            problem = "has no text" if query in queries else "does not exist"
            raise StudyError(f"{where}: query {query!r:.60} {problem}; mend it, or remove its judgements")
        if query in qrels and documents is not None and name not in documents:
            raise StudyError(f"{where}: document {name!r:.60} does not exist; mend it or set allow_missing: true")
    if not qrels:
        problem = f"all {len(places)} are zero or negative" if places else "header only" if number == 0 else "empty"
        raise StudyError(f"{owner}: {path} holds no judgement above zero ({problem}); nothing can be measured")
    if again:
        warnings.warn(f"{owner}: {path} holds {again} judgements a second time; each counts once", stacklevel=4)
    return qrels
