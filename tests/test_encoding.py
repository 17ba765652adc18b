"""Encoding in float32 and bfloat16: the model's own vectors, in the order of the texts, and never mixed in the cache."""

import contextlib

import numpy as np
import pytest
import torch

from ccq_utils.common.errors import StudyError
from ccq_utils.deploy.modules import Concat, ConcatTransformer
from ccq_utils.deploy.pipeline import CompressedModel
from ccq_utils.models import encoding
from ccq_utils.models.base_models import BaseModel
from ccq_utils.models.embed import embed, normalise

TEXTS = [
    "rain",
    "",
    "snow on the plain and wind in the hills " * 20,
    *[f"{n} drops of rain " * (n % 9) for n in range(12)],
]


@pytest.fixture(scope="module")
def reader(members):
    return members["reader"]


@pytest.fixture(scope="module")
def half(reader):
    return encoding.with_precision(reader, "bfloat16")


def lowest_cosine(first, second):
    return (normalise(first) * normalise(second)).sum(axis=1).min()


@pytest.mark.parametrize("task", [None, "query", "document"])
@pytest.mark.parametrize("tokens", [1, 40, 10_000])
def test_vectors_are_those_of_the_model_in_the_order_of_the_texts(reader, half, monkeypatch, tokens, task):
    monkeypatch.setattr(encoding, "TOKENS", tokens)
    own = {"query": reader.encode_query, "document": reader.encode_document}.get(task, reader.encode)(TEXTS)
    assert np.allclose(encoding.encode(reader, TEXTS, task), own, atol=1e-5)
    found = encoding.encode(half, TEXTS, task)
    assert found.dtype == np.float32 and 0.999 < lowest_cosine(found, own) < 1 - 1e-9


def test_prompts_make_a_difference(reader):
    query, document = (encoding.encode(reader, ["rain"], task) for task in ("query", "document"))
    assert np.abs(query - document).max() > 1e-3
    assert np.array_equal(encoding.encode(reader, ["rain"], prompt="ask: "), query)


def test_model_itself_stays_as_it_is(reader, half):
    assert next(half.parameters()).dtype == torch.bfloat16 and next(reader.parameters()).dtype == torch.float32
    assert encoding.with_precision(reader, "float32") is reader


def test_transformers_among_the_members_of_a_concat_are_in_bfloat16_and_others_are_not(members):
    joined = Concat([members["lexical"], members["reader"], members["static"]], [1, 0.5, 0.2], list("abc"))
    model = ConcatTransformer(modules=[joined], device="cpu")
    half = encoding.with_precision(model, "bfloat16")
    texts = [text for text in TEXTS if text]
    assert {values.dtype for values in half[0].members[2].parameters()} == {torch.float32}
    assert np.allclose(encoding.encode(model, texts, "query"), model.encode_query(texts), atol=1e-5)
    assert 0.999 < lowest_cosine(encoding.encode(half, texts), encoding.encode(model, texts)) < 1 - 1e-9


@pytest.mark.parametrize("name", ["static", "lexical"])
def test_models_without_a_transformer_have_one_precision(members, name, monkeypatch):
    monkeypatch.setattr(encoding, "TEXTS", 2)
    assert encoding.with_precision(members[name], "bfloat16") is members[name]
    texts = ["rain", "snow on the plain", "wind"]
    assert np.allclose(encoding.encode(members[name], texts), members[name].encode(texts), atol=1e-6)


@pytest.mark.parametrize("budget", [1, 37, 100, 10_000])
def test_batches_keep_the_budget_and_hold_each_text_once(budget):
    lengths = np.random.default_rng(0).integers(0, 50, 200).tolist()
    batches = list(encoding.token_batches(lengths, budget))
    assert sorted(np.concatenate(batches)) == list(range(200))
    assert all(len(rows) == 1 or len(rows) * max(lengths[row] for row in rows) <= budget for rows in batches)
    longest = [max(lengths[row] for row in rows) for rows in batches]
    assert longest == sorted(longest, reverse=True)


@pytest.mark.parametrize(("able", "expected"), [("avx512_bf16", "bfloat16"), ("bf16", "bfloat16"), ("avx2", "float32")])
def test_auto_asks_the_processor(monkeypatch, able, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {able: True, "amx_bf16": False})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [encoding.precision_here(name) for name in ("auto", "float32")] == [expected, "float32"]
    slow = expected == "float32"
    with pytest.warns(UserWarning, match="far longer in bfloat16") if slow else contextlib.nullcontext():
        assert encoding.precision_here("bfloat16") == "bfloat16"


def test_unknown_precision_is_an_error_that_names_the_accepted(reader):
    with pytest.raises(StudyError, match="unknown precision 'int7'; accepted: auto, float32, bfloat16"):
        CompressedModel(reader, None, precision="int7")


def test_vectors_of_different_precisions_never_mix_in_the_cache(reader, cache):
    def vectors(precision):
        prompts = {"query": "ask: ", "document": "tell: "}
        made = BaseModel("reader", "f" * 64, lambda: None, "mit", "here", prompts, lambda: 1, precision=precision)
        made.__dict__["model"] = reader
        return embed(made, [text for text in TEXTS if text], cache)

    exact, half = vectors("float32"), vectors("bfloat16")
    assert not np.array_equal(exact, half) and np.array_equal(vectors("float32"), exact)
    assert len(list((cache.folder / "embeddings").iterdir())) == 2
