"""What several test files share: seeded vectors, a hand-made task, a cache of its own."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch and faiss bring an OpenMP runtime each; their threads can stall

import numpy as np
import pytest
import torch
from hypothesis import settings

from ccq_utils.common.cache import Cache
from ccq_utils.data.tasks import Task
from ccq_utils.study.metrics import Evaluator

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


@pytest.fixture(scope="session")
def judged_vectors(make_task):
    """A function that makes a task with judgements of one grade around given vectors, and queries near what they find."""

    def make(documents, queries, seed=5):
        task = make_task(documents=len(documents), queries=queries)
        for grades in task.qrels.values():
            grades.update(dict.fromkeys(grades, 1))
        judge, names, rng = Evaluator(task), list(task.documents), np.random.default_rng(seed)
        found = [[names.index(name) for name in task.qrels[query]] for query in judge.query_ids]
        asked = np.stack([documents[rows].mean(axis=0) for rows in found])
        asked = (asked + 0.05 * rng.standard_normal(asked.shape)).astype(np.float32)
        return task, judge, documents, asked / np.linalg.norm(asked, axis=1, keepdims=True)

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


@pytest.fixture(scope="session")
def members(tmp_path_factory):
    """Three small SentenceTransformers by name: a BERT of random weights that reads 16 tokens, with prompts and the first
    token's vector; a static model of random token vectors; a lexical one.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import AutoTokenizer, BertConfig, BertModel

    from ccq_utils.data.profile import load_profile
    from ccq_utils.models.base_models import BUILDERS
    from ccq_utils.models.lexical import LexicalEncoder
    from ccq_utils.models.static import new_static

    folder = tmp_path_factory.mktemp("members")
    wheel = BUILDERS["minilm"](load_profile("tiny"), None, Cache(folder)).folder()
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    torch.manual_seed(1)
    BertModel(BertConfig(vocab_size=30522, max_position_embeddings=64, **sizes)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(wheel).save_pretrained(folder)
    reader = Transformer(str(folder), max_seq_length=16)
    prompts = {"query": "ask: ", "document": "tell: "}
    lexical = LexicalEncoder(features=2**12, dims=48).fit(["rain on the plain", "snow", "wind and weather"], seed=1)
    return {
        "reader": SentenceTransformer(modules=[reader, Pooling(32, "cls")], device="cpu", prompts=prompts),
        "static": new_static(wheel / "tokenizer.json", 24, seed=2),
        "lexical": SentenceTransformer(modules=[lexical], device="cpu"),
    }
