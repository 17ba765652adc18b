"""Encoding through the cache, with a fake model that counts what it encodes."""

import tracemalloc

import numpy as np
import pytest

from ccq_utils.common import cache as cache_module
from ccq_utils.common.errors import StudyError
from ccq_utils.models import embed as embed_module
from ccq_utils.models.base_models import BaseModel
from ccq_utils.models.embed import embed, normalise


class Fake:
    """Encodes a text to (length, number of words, first letter) and writes down what it was asked for."""

    def __init__(self):
        self.seen, self.special, self.fail_after = [], {}, None
        self.encode_query = self.encode_document = self.encode

    def __getitem__(self, place):
        return self

    def encode(self, texts, prompt=None, **options):
        if self.fail_after is not None and len(self.seen) >= self.fail_after:
            raise KeyboardInterrupt
        self.seen += [(prompt or "") + text for text in texts]
        return np.array([self.special.get(text) or vector((prompt or "") + text) for text in texts], np.float32)


def vector(text):
    return [len(text), len(text.split()), ord(text[0])]


def base_model(fingerprint="f" * 64, prompts=("", "")):
    named = dict(zip(("query", "document"), prompts, strict=True))
    model = BaseModel("fake", fingerprint, lambda: None, "mit", "here", named, lambda: 1)
    model.__dict__["model"] = Fake()  # in the place of the SentenceTransformer
    return model


@pytest.fixture
def model():
    return base_model()


TEXTS = [f"{letter} text" + " more" * number for number, letter in enumerate("abcdefgh")]


def test_rows_are_in_the_order_of_the_texts(model, cache):
    texts = [TEXTS[index] for index in (3, 0, 7, 1)]
    assert embed(model, texts, cache).tolist() == [vector(text) for text in texts]


def test_each_text_is_encoded_once(model, cache):
    embed(model, TEXTS[:5], cache)
    embed(model, TEXTS, cache)
    embed(model, TEXTS[::-1], cache)
    assert sorted(model.model.seen) == TEXTS


def test_duplicates_are_encoded_once_and_returned_each_time(model, cache):
    found = embed(model, ["same text", "other", "same text"], cache)
    assert found[0].tolist() == found[2].tolist() == vector("same text")
    assert sorted(model.model.seen) == ["other", "same text"]


def test_texts_are_encoded_as_they_come(model, cache):
    """Longest first over all, the time left would be far too high."""
    embed(model, TEXTS, cache)
    assert model.model.seen == TEXTS


def test_vectors_from_the_cache_equal_fresh_ones(model, cache):
    fresh = embed(model, TEXTS, cache)
    assert np.array_equal(embed(base_model(), TEXTS, cache), fresh)


def test_other_fingerprint_is_encoded_anew(model, cache):
    embed(model, TEXTS, cache)
    other = base_model("0" * 64)
    embed(other, TEXTS, cache)
    assert sorted(other.model.seen) == TEXTS


def test_query_and_document_prompts_give_different_vectors(cache):
    model = base_model(prompts=("query: ", "passage: "))
    embed(model, ["text"], cache, "query")
    embed(model, ["text"], cache, "document")
    assert model.model.seen == ["query: text", "passage: text"]


def test_interrupted_run_resumes_with_what_is_missing(model, cache, monkeypatch):
    monkeypatch.setattr(embed_module, "SHARD", 2)
    model.model.fail_after = 4
    with pytest.raises(KeyboardInterrupt):
        embed(model, TEXTS, cache)
    again = base_model()
    assert embed(again, TEXTS, cache).tolist() == [vector(text) for text in TEXTS]
    assert len(again.model.seen) == 4 and not set(again.model.seen) & set(model.model.seen)


def test_memory_holds_a_shard_not_the_corpus(model, cache, monkeypatch):
    """3,000 texts of 384 dims are 4.6 MB of vectors; what Python holds while they are read is texts' keys and a shard."""
    monkeypatch.setattr(cache_module, "IN_MEMORY", 2**20)
    model.model.encode = lambda texts, **options: np.full((len(texts), 384), 2, np.float32)
    texts = [f"text {number}" for number in range(3_000)]
    embed(model, texts, cache)
    tracemalloc.start()
    found = embed(model, texts[::-1], cache)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.shape == (3_000, 384) and (found == 2).all() and peak < found.nbytes / 2
    found[0] = 1  # not read-only
    assert not [path for path in cache.folder.rglob("*") if path.is_file() and path.suffix != ".safetensors"]


def test_damaged_shard_is_encoded_again(model, cache, monkeypatch):
    monkeypatch.setattr(embed_module, "SHARD", 2)
    embed(model, TEXTS, cache)
    next(cache.folder.rglob("*.safetensors")).write_bytes(b"foreign")
    again = base_model()
    with pytest.warns(UserWarning, match="its texts are encoded again"):
        assert embed(again, TEXTS, cache).tolist() == [vector(text) for text in TEXTS]
    assert len(again.model.seen) == 2


@pytest.mark.parametrize("bad", ["", "  \n", None, 3])
def test_empty_text_is_an_error_that_names_model_and_place(model, cache, bad):
    with pytest.raises(StudyError, match="text number 1 for 'fake'"):
        embed(model, ["fine", bad], cache)


@pytest.mark.parametrize(
    ("values", "words"), [([np.nan, 0, 1], "NaN or infinity"), ([np.inf, 0, 1], "NaN"), ([0, 0, 0], "the zero vector")]
)
def test_vector_without_direction_is_an_error_and_is_not_cached(model, cache, values, words):
    model.model.special["bad text"] = values
    with pytest.raises(StudyError, match=f"model 'fake': text number 1, 'bad text', is {words}"):
        embed(model, ["fine text here", "bad text"], cache)
    assert not list(cache.folder.rglob("*.safetensors"))


def test_normalise_gives_rows_of_length_one(random_vectors):
    assert np.allclose(np.linalg.norm(normalise(3 * random_vectors(10, 4)), axis=1), 1)


def test_normalise_names_the_row_and_counts_bad_ones():
    with pytest.raises(StudyError, match=r"things: row 1 is the zero vector \(2 such rows\)"):
        normalise(np.array([[1.0, 0], [0, 0], [0, 0]]), "things")
