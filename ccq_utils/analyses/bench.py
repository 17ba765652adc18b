"""``ccq bench``: how fast this machine encodes and searches; with distractors, what codecs keep as a corpus grows.

Times are seconds of processor cores that worked (``time.process_time``): what other programs do meanwhile does not count.
All run on one core, methods in alternating rounds after one that warms up; medians are reported.
"""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from ccq_utils.analyses.comparison import methods, score_methods
from ccq_utils.analyses.stress import grown
from ccq_utils.codecs import faiss_index
from ccq_utils.codecs.faiss_index import load_faiss
from ccq_utils.codecs.files import reading
from ccq_utils.codecs.percentile import make_codec
from ccq_utils.common import paths
from ccq_utils.common.environment import processor
from ccq_utils.common.errors import StudyError
from ccq_utils.common.files import check_output, write_atomically
from ccq_utils.common.progress import progress
from ccq_utils.common.threads import one_thread
from ccq_utils.data.text_files import read_texts
from ccq_utils.models.embed import embed, normalise
from ccq_utils.models.encoding import encode, transformers_of, with_precision
from ccq_utils.models.vectors import concat
from ccq_utils.study.scores import OWN, FittingVectors, task_vectors
from ccq_utils.study.study import Study

FOLDER = paths.ROOT / "data" / "bench"  # where the committed tables lie
OURS = ("equalised PCA", "PCA, rotated")
FLAT = "flat, float32"
GROWN, FITTED = (10_000, 30_000, 100_000), (1000, 3000, 10_000)
"""Documents of a corpus that grows; how many of them codecs are fitted on."""
FACTOR, RESULTS, NOISE, CHUNK = 48, 10, 0.5, 20_000
"""Compression; results per query; length of the noise in a query beside a document; vectors drawn at once."""


def run(profile="default", documents=100_000, texts=128, output="", distractors="", members=(), run="") -> list[Path]:
    """Measure, and write ``encoding.csv`` and ``search.csv`` into ``output`` (``data/bench``); returns their paths.

    Rows of other profiles stay. So many ``texts`` are encoded, so many ``documents`` searched: a million takes 6 GB. With
    ``distractors``, JSON lines, it is ``bench_growth.csv`` of the concat of ``members``, or of those that ``run`` chose.
    """
    study, folder = Study(profile, output=run), Path(output or FOLDER)
    parts = {"encoding": lambda: encoding(study, texts)}
    parts["search"] = lambda: search(study.concat("training"), documents, seed=study.profile.seed)
    if members and not distractors:
        raise StudyError(f"members {', '.join(members)} are of the corpus that grows; name distractors as well")
    if distractors:
        texts = list(read_texts(Path(distractors)).values())
        parts = {"bench_growth": lambda: growth(study, texts, list(members) or study.members)}
    before = {name: _held(folder / f"{name}.csv") for name in parts}
    for name, part in parts.items():
        load = os.getloadavg()[0]
        table = part().assign(profile=study.profile.name, processor=processor(), load=load)
        table = pd.concat([*(held[held["profile"] != table["profile"][0]] for held in before[name]), table])
        with write_atomically(folder / f"{name}.csv") as file:
            table.to_csv(file, index=False, float_format="%.6g", lineterminator="\n")
    return [folder / f"{name}.csv" for name in parts]


def _held(path):
    """The table that is there already, if any; before the long work, a ``StudyError`` for what is none of ours."""
    check_output(path, ",profile,processor,load\n", None)
    with reading(f"table {path}", "move it away"):
        return [pd.read_csv(path)] if path.is_file() else []


def race(methods: dict[str, Callable[[], object]], rounds: int = 5, what: str = "rounds") -> pd.DataFrame:
    """Seconds of one core that each method takes: ``method``, ``seconds`` (median), ``fastest``, ``slowest``."""
    if rounds < 1:
        raise StudyError(f"rounds {rounds} must be at least 1")
    taken = {name: [] for name in methods}
    with one_thread():
        for number in progress(range(rounds + 1), what):
            for name, work in methods.items():
                started = time.process_time()
                work()
                if number:
                    taken[name].append(time.process_time() - started)
    rows = [(name, np.median(seconds), min(seconds), max(seconds)) for name, seconds in taken.items()]
    return pd.DataFrame(rows, columns=["method", "seconds", "fastest", "slowest"])


def growth(study: Study, texts: list[str], members, sizes=GROWN, fitted=FITTED, factors=(48, 192)) -> pd.DataFrame:
    """What codecs keep of the last task as ``texts`` that answer nothing join its corpus, fitted on few of all documents.

    Judged documents are never fitted on. Retention is against the concat on the same documents.
    """
    task, tables = list(study.tasks)[-1], []
    count = len(study.tasks[task].documents)
    if unknown := [name for name in members if name not in study.models]:
        raise StudyError(f"unknown member {unknown[0]!r}; accepted: {', '.join(study.models)}")
    if not any(count <= size <= count + len(texts) for size in sizes):
        needed = [f"at least {size - count} texts" for size in sizes if size >= count] or ["a task of fewer documents"]
        raise StudyError(f"{count} documents and {len(texts)} distractors come to none of {sizes}; give {needed[0]}")
    whole = task_vectors(study, members=members)
    alone, judge = replace(whole, by_task={task: whole.by_task[task]}), whole.by_task[task].evaluator
    added = concat([embed(study.models[name], texts[: max(sizes) - count], study.cache) for name in members])
    for size in [size for size in sizes if count <= size <= count + len(added)]:
        grown_to = grown(study, alone, added[: size - count])
        order = np.random.default_rng(study.profile.seed).permutation(np.setdiff1d(np.arange(size), judge.columns))
        for most in [most for most in fitted if most <= len(order)]:
            own = {task: FittingVectors(grown_to.by_task[task].documents[order[:most]])}
            given = methods(study, replace(grown_to, own=own), ("binary", "PQ"), own=(*OURS, "LSH"))
            for factor in factors:
                labels = {"documents": size, "fitted_documents": most, "factor": factor}
                found, _ = score_methods(study, given, 4 * added.shape[1] // factor, [OWN], **labels)
                by = [*labels, "method", "bytes_per_vector", "shared_bytes"]
                tables.append(study.summarise(found, by, grown_to.raw))
    table = pd.concat(tables).assign(members=" + ".join(members))
    return table.assign(total_bytes=table["bytes_per_vector"] + table["shared_bytes"] / table["documents"])


def encoding(study: Study, count: int = 128, rounds: int = 5) -> pd.DataFrame:
    """Each selected member and large model on texts from all over the training text, transformers in bfloat16 as well."""
    texts, runs = study.texts("training"), {}
    texts = texts[:: max(1, len(texts) // count)][:count]
    for name in dict.fromkeys([*study.members, study.profile.large_model]):
        model = study.models[name].model
        for precision in ("float32", "bfloat16") if transformers_of(model) else ("float32",):
            runs[name, precision] = partial(encode, with_precision(model, precision), texts)
    table = race(runs, rounds, "rounds of encoding")
    table[["model", "precision"]] = table.pop("method").tolist()
    table["dims"] = [study.models[name].model.get_embedding_dimension() for name in table["model"]]
    return table.assign(texts=len(texts), texts_per_second=len(texts) / table["seconds"])


def search(like: np.ndarray, documents: int, budget: int = 0, queries=(1, 64), seed: int = 0, rounds: int = 5):
    """Exhaustive search for the best ten: our indexes, float vectors, and faiss's own codecs at equal bytes.

    There are no million real documents here, so each vector is the sum of two real ones of ``like``, ``(n, dims)``, of length
    one: that decides how much a search finds, not how long it takes. ``budget`` is bytes per vector, a 48th of the float's
    where 0. Gives a row per method and number of ``queries`` at once; ``recall`` is the share of the float's first ten found.
    """
    if documents < RESULTS:
        raise StudyError(f"search is timed on at least {RESULTS} documents, got {documents}")
    rng, dims = np.random.default_rng(seed), like.shape[1]
    pairs = rng.integers(0, len(like), (2, documents))
    held = np.empty((documents, dims), dtype=np.float32)
    for start in range(0, documents, CHUNK):
        held[start : start + CHUNK] = normalise(np.add(*like[pairs[:, start : start + CHUNK]]))
    noise = normalise(rng.standard_normal((max(queries), dims)).astype(np.float32))
    asked = normalise(held[rng.integers(0, documents, max(queries))] + NOISE * noise)
    sizes, searches = _indexes(held, budget or max(1, 4 * dims // FACTOR), seed)
    with one_thread():
        first = {name: find(asked) for name, find in searches.items()}
    recall = {name: np.mean([*map(np.isin, first[FLAT], rows)]) for name, rows in first.items()}
    tables = []
    for count in queries:
        work = {name: partial(find, asked[:count]) for name, find in searches.items()}
        table = race(work, rounds, f"rounds of search, {count} at once").assign(documents=documents, queries=count)
        tables.append(table.assign(queries_per_second=count / table["seconds"]))
    found = pd.concat(tables, ignore_index=True)
    return found.assign(bytes_per_vector=found["method"].map(sizes), recall=found["method"].map(recall))


def _indexes(held, budget, seed):
    """Bytes per vector and search (queries to document numbers) of every method."""
    faiss, dims, sample = load_faiss(), held.shape[1], held[:CHUNK]
    flat = faiss.IndexFlatIP(dims)
    flat.add(held)
    sizes, searches = {FLAT: 4 * dims}, {FLAT: lambda asked: flat.search(asked, RESULTS)[1]}
    for name in OURS:
        codec = make_codec(name, dims, budget, seed=seed).fit(sample, sample[: len(sample) // 2])
        codes = [codec.encode(held[start : start + CHUNK]) for start in range(0, len(held), CHUNK)]
        index = faiss_index.to_faiss(codec, np.concatenate(codes))
        sizes[name] = codec.bytes_per_vector
        searches[name] = lambda asked, codec=codec, index=index: faiss_index.search(codec, index, asked, RESULTS)[1]
    wide = dims // (2 * budget) * 2 * budget
    factories = {"faiss PQ": f"PCA{wide},PQ{budget}x8np", "faiss PQ, fast scan": f"PCA{wide},PQ{2 * budget}x4fs"}
    factories["faiss SQ8"] = f"PCA{budget},SQ8"
    for name, factory in factories.items():
        if len(sample) < max(256, wide):  # too few to train on
            continue
        index = faiss.index_factory(dims, factory, faiss.METRIC_INNER_PRODUCT)
        index.train(sample[:10_000])
        index.add(held)
        sizes[name], searches[name] = budget, lambda asked, index=index: index.search(asked, RESULTS)[1]
    return sizes, searches
