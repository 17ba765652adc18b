"""How fast a corpus of codes is searched on one core: byte blocks in two ways, float vectors, and codecs of faiss.

A million real documents do not exist here, so vectors are drawn: a real one plus Gaussian noise with the spectrum of the real
ones, in their principal axes (a rotation of all vectors changes no score), of length one. Queries are documents with noise.
Time does not depend on which vectors they are; what a shortlist finds does, and is measured on real ones as well.

The flat search is faiss's (the kernel behind ``IndexFlatIP``). Builds of faiss differ in whether it multiplies matrices for a
batch of queries; the same search by numpy's matrix product therefore stands beside it.

All times are seconds of one processor core (``time.process_time``, one thread): what other programs do meanwhile does not
count, except through caches and memory that they share.
"""

import resource
import time
from collections.abc import Iterator

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from ccq_utils.analyses.timing import race
from ccq_utils.codecs.byte_blocks import BlockCodec
from ccq_utils.codecs.faiss_index import load_faiss
from ccq_utils.codecs.percentile import search
from ccq_utils.codecs.two_step_search import CodeIndex
from ccq_utils.common.errors import StudyError
from ccq_utils.models.embed import normalise
from ccq_utils.study import figures

FLAT, PRODUCT = "float vectors, flat", "float vectors, matrix product"
SCAN, TWO_STEPS = "byte blocks, IndexPQ", "byte blocks, two steps"
PEERS = ("PQ, 4 bit, fast scan", "LSH", "RaBitQ", "RaBitQ, fast scan")
SHADES = {FLAT: "#222222", PRODUCT: "#222222", SCAN: "#5b2a86", TWO_STEPS: "#5b2a86"}
CHUNK = 20_000
"""Vectors drawn at once; all that is held in float but for the flat search's."""
NOISE, SPREAD = 0.5, 0.7
"""Length of the noise in a query; share of a real vector's deviation from the mean that a drawn one's noise has."""
BANDWIDTH_BYTES = 2**29
"""Read at most to measure the bandwidth of memory: more than caches hold on most machines."""
RESULTS = 10


class Drawn:
    """Vectors ``(n, D) float32`` of length one around real ones, with noise of their spectrum; drawn again chunk by chunk.

    Parameters
    ----------
    like : real vectors ``(m, D)``
    count : how many to draw
    """

    def __init__(self, like: np.ndarray, count: int, seed: int = 0):
        variances, axes = np.linalg.eigh(np.cov(like.T.astype(np.float64)))
        mean = like.mean(axis=0)
        middles = mean + np.float32(np.sqrt(1 - SPREAD**2)) * (like - mean)  # with the noise, the variances of ``like``
        self.middles_ = middles @ axes[:, ::-1].astype(np.float32)
        self.deviations_ = SPREAD * np.sqrt(np.maximum(variances[::-1], 0)).astype(np.float32)
        self.count, self.seed = count, seed

    def chunks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Places and vectors, at most ``CHUNK`` at a time; the same ones each time."""
        for start in range(0, self.count, CHUNK):
            rows = min(CHUNK, self.count - start)
            rng = np.random.default_rng([self.seed, start])
            drawn = rng.standard_normal((rows, len(self.deviations_)), dtype=np.float32)
            drawn *= self.deviations_
            drawn += self.middles_[rng.integers(0, len(self.middles_), rows)]
            yield slice(start, start + rows), normalise(drawn)

    def all(self) -> np.ndarray:
        """All of them, held once: ``4 * n * D`` bytes."""
        held = np.empty((self.count, len(self.deviations_)), dtype=np.float32)
        for place, part in self.chunks():
            held[place] = part
        return held

    def queries(self, count: int) -> np.ndarray:
        """Documents of the first chunk with noise of length ``NOISE``, of length one: ``(count, D)``."""
        rng, first = np.random.default_rng([self.seed, 1]), next(self.chunks())[1]
        noise = normalise(rng.standard_normal((count, first.shape[1])).astype(np.float32))
        return normalise(first[rng.integers(0, len(first), count)] + NOISE * noise)


def search_speed(
    like: np.ndarray, documents: int = 100_000, budget: int = 128, queries=(1, 64), repeats: int = 5, seed: int = 0
) -> pd.DataFrame:
    """Exhaustive asymmetric search, top 10, on one core, at ``budget`` bytes per vector.

    Parameters
    ----------
    like : real vectors ``(m, D)`` whose spectrum is drawn from
    queries : how many are asked at once

    Returns
    -------
    The table of ``race`` per number of queries, its seconds those of a core, with ``documents``, ``queries``,
    ``ratio_to_product`` (how many times as fast as the flat search by numpy's matrix product), ``bytes_per_vector``,
    ``gigabytes_per_second`` scanned, ``floor_seconds`` (the bytes that a way scans, read once at the measured bandwidth),
    ``above_floor`` (how many times as long as that), ``index_megabytes``, ``found`` (share of what an exhaustive
    search of the same vectors or codes finds) and ``peak_megabytes`` (the process's, up to the end).

    Raises
    ------
    StudyError : fewer documents than results, or no repeat.
    """
    if documents < RESULTS or repeats < 1:
        raise StudyError(f"search is timed on at least {RESULTS} documents and once, got {documents} and {repeats}")
    drawn = Drawn(like, documents, seed)
    with threadpool_limits(1):
        asked = drawn.queries(max(queries))
        ways, scanned, sizes = _code_ways(drawn, budget)
        speed, tables = bandwidth(min(BANDWIDTH_BYTES, documents * 4 * like.shape[1])), []
        faiss, held = load_faiss(), drawn.all()
        flat = {
            FLAT: lambda part: faiss.knn(part, held, RESULTS, metric=faiss.METRIC_INNER_PRODUCT),
            PRODUCT: lambda part: _best_products(part, held),
        }
        for way in flat:
            scanned[way] = sizes[way] = 4 * held.shape[1]
        for count in queries:
            part = asked[:count]
            work = {way: lambda run=run, part=part: run(part) for way, run in (flat | ways).items()}
            table = race(f"search, {documents} documents, {count} at once", work, repeats, time.process_time)
            product = table.set_index("way").loc[PRODUCT, "seconds"]
            table["ratio_to_product"] = product / table["seconds"]
            tables.append(table.assign(what="search", documents=documents, queries=count))
        overlap = _overlap(ways[TWO_STEPS](asked)[1], ways[SCAN](asked)[1])
    found = pd.concat(tables, ignore_index=True)
    scanned, size = documents * found["way"].map(scanned), found["way"].map(sizes)
    found["bytes_per_vector"], found["gigabytes_per_second"] = size, scanned / found["seconds"] / 1e9
    found["floor_seconds"] = scanned / speed
    found["above_floor"] = found["seconds"] / found["floor_seconds"]
    found["index_megabytes"] = documents * size / 1e6
    found["found"] = np.where(found["way"] == TWO_STEPS, overlap.mean(), 1.0)
    return found.assign(peak_megabytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)


def bandwidth(size: int = BANDWIDTH_BYTES, repeats: int = 5) -> float:
    """Bytes per second that one core reads from memory: the fastest of some passes over ``size`` bytes."""
    held = np.ones(max(1, size // 8), dtype=np.int64)
    taken = []
    for _ in range(repeats):
        started = time.process_time()
        held.max()
        taken.append(time.process_time() - started)
    return held.nbytes / max(min(taken), 1e-9)


def _code_ways(drawn, budget):
    """Name -> search of a batch of float queries, for everything that holds codes; bytes scanned, and held, per vector."""
    first = next(drawn.chunks())[1]
    codec = BlockCodec(budget, drawn.seed, neighbours=0).fit(first)
    others = _peers(first, budget)
    codes = np.empty((drawn.count, codec.bytes_per_vector), dtype=np.uint8)
    for place, part in drawn.chunks():
        codes[place] = codec.encode(part)
        for index, dims in others.values():
            index.add(np.ascontiguousarray(part[:, :dims]))
    plain, two_steps = codec.to_faiss(codes), CodeIndex(codec, codes)
    ways = {
        SCAN: lambda part: plain.search(codec.pad(codec.project(part)), RESULTS),
        TWO_STEPS: lambda part: two_steps.search(part, RESULTS),
    }
    sizes = {SCAN: codec.bytes_per_vector, TWO_STEPS: codec.bytes_per_vector}
    scanned = {SCAN: codec.bytes_per_vector, TWO_STEPS: codec.bytes_per_vector / 2}
    for name, (index, dims) in others.items():
        ways[name] = lambda part, index=index, dims=dims: index.search(np.ascontiguousarray(part[:, :dims]), RESULTS)
        sizes[name] = scanned[name] = index.sa_code_size() if "RaBitQ" in name else index.code_size
    return ways, scanned, sizes


def _peers(first, budget):
    """Trained, empty indexes of faiss at ``budget`` bytes per vector, each with the leading principal dims that it takes."""
    faiss, dims = load_faiss(), first.shape[1]
    fast, lsh, rabitq, fast_rabitq = PEERS
    found = {lsh: (faiss.IndexLSH(dims, 8 * budget, 8 * budget > dims), dims)}
    if dims >= 2 * budget:
        kept = dims // (2 * budget) * 2 * budget
        found[fast] = (faiss.IndexPQFastScan(kept, 2 * budget, 4, faiss.METRIC_INNER_PRODUCT), kept)
    constants = faiss.IndexRaBitQ(8, faiss.METRIC_INNER_PRODUCT).sa_code_size() - 1
    kept = min(dims, 8 * (budget - constants)) // 8 * 8
    if kept > 0:
        for name, kind in ((rabitq, faiss.IndexRaBitQ), (fast_rabitq, faiss.IndexRaBitQFastScan)):
            found[name] = (kind(kept, faiss.METRIC_INNER_PRODUCT), kept)
            found[name][0].qb = 8  # bits per dim of the query, as in ``peers``
    for index, kept in found.values():
        index.train(np.ascontiguousarray(first[:10_000, :kept]))
    return {name: found[name] for name in PEERS if name in found}


def shortlist_recall(codec, queries: np.ndarray, codes: np.ndarray, sizes=(10, 20, 50, 100, 200, 400)) -> dict:
    """What the two steps find of the exhaustive search's first ten: shortlist -> share per query, ``(q,)``.

    Parameters
    ----------
    codec : a fitted ``BlockCodec``
    queries : ``(q, D)`` float
    sizes : shortlists; those beyond the number of documents are left out
    """
    count = min(RESULTS, len(codes))
    exact, index = search(codec, queries, codes, count)[1], CodeIndex(codec, codes)
    return {
        size: _overlap(index.search(queries, count, size)[1], exact) for size in sizes if count <= size <= len(codes)
    }


def _overlap(found, exact):
    """Share of each query's exact results that were found, ``(q,)``."""
    return np.array([len({*one} & {*other}) / len(other) for one, other in zip(found, exact, strict=True)])


def _best_products(queries, held, block=16384):
    """The flat search by matrix products, ``block`` vectors at a time: numbers ``(q, RESULTS)``, in no order."""
    best = places = None
    for start in range(0, len(held), block):
        scores = queries @ held[start : start + block].T
        kept = np.argpartition(-scores, min(RESULTS, scores.shape[1]) - 1, axis=1)[:, :RESULTS]
        found = [np.take_along_axis(scores, kept, axis=1), kept + start]
        best, places = found if best is None else (np.hstack(pair) for pair in zip((best, places), found, strict=True))
    return np.take_along_axis(places, np.argpartition(-best, RESULTS - 1, axis=1)[:, :RESULTS], axis=1)


def speed_figure(table: pd.DataFrame):
    """Milliseconds per query and way of one corpus size, a panel per number of queries at once; the floor is marked."""
    asked = table["queries"].unique()
    drawn, axes = figures.panels([f"{count} at once" if count > 1 else "one query" for count in asked], width=6.5)
    for axis, count in zip(axes, asked, strict=True):
        part = table[table["queries"] == count][::-1]
        shades = part["way"].map(SHADES).fillna("#999999")
        axis.barh(part["way"], 1000 * part["seconds"] / count, color=shades)
        axis.plot(1000 * part["floor_seconds"] / count, part["way"], "|", color="#d55e00", ms=14, mew=2.5)
        axis.set(xscale="log", xlabel="milliseconds per query, one core (mark: its bytes read once)")
        axis.grid(axis="y", visible=False)
        axis.tick_params(axis="y", labelleft=axis is axes[0])
    return drawn, axes
