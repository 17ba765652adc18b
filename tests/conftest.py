"""What several test files share: seeded vectors, a hand-made task, a cache of its own."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch and faiss bring an OpenMP runtime each; their threads can stall

import numpy as np
import pytest
from hypothesis import settings

from ccq_utils.cache import Cache
from ccq_utils.tasks import Task

settings.register_profile("study", deadline=None, derandomize=True, database=None, max_examples=40)
settings.load_profile("study")


@pytest.fixture(scope="session")
def random_vectors():
    """A function (rows, dims, seed) -> rows of length one, float32, the first dims with most of the variance."""

    def draw(rows, dims, seed=0, decay=0.97):
        values = np.random.default_rng(seed).standard_normal((rows, dims)) * decay ** np.arange(dims)
        return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)

    return draw


@pytest.fixture(scope="session")
def make_task():
    """A function that makes a task of random words with graded judgements; query ids are document ids as well."""

    def make(documents=150, queries=24, seed=0, **changes):
        rng = np.random.default_rng(seed)
        names = [f"doc-{number:03d}" for number in range(documents)]
        text = {name: " ".join(rng.choice(VOCABULARY, 12)) for name in names}
        asked, qrels = {}, {}
        for query in names[:queries]:
            best, good, *others = map(str, rng.choice(names, 5, False))
            qrels[query] = dict(zip((best, good, *others), (3, 2, 1, 1, 0), strict=True))
            known = [*text[best].split()[:4], *text[good].split()[:3], *text[query].split()[:3]]
            asked[query] = " ".join([*known, *rng.choice(VOCABULARY, 3)])
        given = {"validation": frozenset(names[: queries // 3])} | changes
        return Task("made_up", text, asked, qrels, **given)

    return make


VOCABULARY = np.array(
    [a + b + c for a in ("ba", "ko", "mi", "ru", "ze") for b in ("len", "tor", "sip", "dag") for c in ("ax", "um", "o")]
)


@pytest.fixture
def task(make_task):
    return make_task()


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")
