"""Peers: each fits the bytes it is given, and gives what its own library gives."""

import numpy as np
import pytest
from scipy.linalg import polar

from ccq_utils.codecs.codec import NotPossible, scores, shared_bytes
from ccq_utils.codecs.decoder import principal_axes
from ccq_utils.codecs.peers import ITQ_ROUNDS, PEERS, FaissCodec, make_peer
from ccq_utils.common.errors import StudyError

DIMS = 64
DRAWN = [name for name in PEERS if name != "binary"]


@pytest.fixture(scope="module")
def corpus(random_vectors):
    return random_vectors(600, DIMS, 1, decay=0.93)


@pytest.fixture(scope="module")
def queries(random_vectors):
    return random_vectors(40, DIMS, 2, decay=0.93)


@pytest.fixture(scope="module")
def fitted(corpus):
    return {name: make_peer(name, DIMS, 32, seed=3).fit(corpus, corpus) for name in PEERS}


every = pytest.mark.parametrize("name", PEERS)


def test_few_vectors_train_without_a_word_of_faiss(corpus, capfd):
    for name in ("PQ", "OPQ"):
        make_peer(name, DIMS, 8).fit(corpus[:300])
    assert capfd.readouterr() == ("", "")


@every
def test_bytes_stay_within_the_budget(fitted, corpus, name):
    codec = fitted[name]
    assert 0 < codec.bytes_per_vector <= 32
    codes = codec.encode(corpus)
    assert codes.dtype == np.uint8 and len(codes) == len(corpus)
    if not name.startswith("mteb"):  # mteb's wrapper does not pack; its bytes are those of a packed code
        assert codes.shape[1] == codec.bytes_per_vector


@every
def test_neighbours_survive(fitted, corpus, queries, name):
    codec = fitted[name]
    near = np.argsort(-queries @ corpus.T, axis=1)[:, :10]
    found = np.argsort(-scores(codec, queries, codec.encode(corpus)), axis=1)[:, :10]
    assert (
        np.mean([len(set(a) & set(b)) / 10 for a, b in zip(near, found, strict=True)]) > 3 * 10 / 600
    )  # three times chance


@pytest.mark.parametrize("factory", ["PQ16x8np", "OPQ16_64,PQ16x8np", "SQ8", "SQ4", "L2norm,SQtqmse2"])
def test_decoded_scores_are_those_of_faiss_search(corpus, queries, factory):
    codec = FaissCodec(factory).fit(corpus)
    codec.index_.add(np.ascontiguousarray(corpus))
    found, places = codec.index_.search(np.ascontiguousarray(queries), 10)
    exact = np.take_along_axis(scores(codec, queries, codec.encode(corpus)), places, axis=1)
    assert np.allclose(found, exact, atol=2e-3)


@pytest.mark.parametrize("name", DRAWN)
def test_another_seed_draws_another_codec_and_the_same_seed_the_same(corpus, name):
    first, again, other = (make_peer(name, DIMS, 40, seed).fit(corpus).encode(corpus) for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


@pytest.mark.parametrize("name", [name for name in PEERS if name not in DRAWN])
def test_peers_that_draw_nothing_are_the_same_for_every_seed(corpus, name):
    first, other = (make_peer(name, DIMS, 32, seed).fit(corpus, corpus).encode(corpus) for seed in (1, 2))
    assert np.array_equal(first, other)


@pytest.mark.parametrize("name", ["RaBitQ, 1 bit", "ITQ", "PCA, SQ8"])
def test_a_mean_far_from_zero_does_not_handicap_a_peer(corpus, queries, name):
    """Centring transforms would score q - mean; the term that is missing then differs from document to document."""
    shift = np.zeros(DIMS, dtype=np.float32)
    shift[:8] = 1.0
    documents, asked = corpus + shift, queries + shift
    codec = make_peer(name, DIMS, 64).fit(documents)
    exact = asked @ documents.T
    near, found = (np.argsort(-part, axis=1)[:, :10] for part in (exact, scores(codec, asked, codec.encode(documents))))
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(near, found, strict=True)]) > 0.4


def test_itq_does_not_hang_on_the_last_digits_of_the_vectors(random_vectors):
    """Axes of equal variance turn with them; the codes must not."""
    plain = random_vectors(600, DIMS, 4)
    moved = plain * (1 + 1e-6 * random_vectors(600, DIMS, 5))
    first, again = (make_peer("ITQ", DIMS, 8).fit(vectors).encode(plain) for vectors in (plain, moved))
    assert np.unpackbits(first ^ again).mean() < 0.001


def test_itq_is_that_of_scipys_polar_decomposition(random_vectors):
    vectors = random_vectors(500, DIMS, 1, 0.9)
    codec = make_peer("ITQ", DIMS, 2, seed=3).fit(vectors)
    axes = principal_axes(vectors - codec.mean_)[:, :16]
    values, rotation = (vectors - codec.mean_) @ axes, axes.T @ np.random.default_rng(3).standard_normal((DIMS, 16))
    for _ in range(ITQ_ROUNDS):
        rotation = polar(values.T @ np.where(values @ rotation >= 0, 1, -1))[0]
    assert codec.planes_ == pytest.approx(axes @ rotation, abs=1e-5)
    assert codec.planes_.T @ codec.planes_ == pytest.approx(np.eye(16), abs=1e-5)


def test_rabitq_keeps_its_constants_within_the_budget(corpus):
    with pytest.raises(StudyError, match="RaBitQ needs 8 bytes of constants; 8 are too few"):
        make_peer("RaBitQ, 1 bit", DIMS, 8)
    assert make_peer("RaBitQ, 1 bit", DIMS, 12).fit(corpus).bytes_per_vector == 12


def test_equalised_dims_are_turned_for_queries_and_documents_alike(fitted, corpus, queries):
    codec = fitted["PQ, equalised"]
    turned = codec.decoder_.transform(corpus)
    assert np.array_equal(codec.encode(corpus), codec.codec_.encode(turned))
    assert np.corrcoef(scores(codec, queries, codec.encode(corpus)).ravel(), (queries @ corpus.T).ravel())[0, 1] > 0.8


def test_what_is_kept_beside_the_codes_is_counted(fitted):
    basis = 4 * DIMS * DIMS
    assert shared_bytes(fitted["binary"]) == basis
    assert shared_bytes(fitted["ITQ"]) == basis + 4 * DIMS  # and the mean
    assert basis / 2 + 4 * DIMS <= shared_bytes(fitted["PCA, SQ8"]) < basis
    codebooks = 4 * 256 * DIMS
    assert codebooks < shared_bytes(fitted["PQ"]) < 1.4 * codebooks
    assert shared_bytes(fitted["PQ, equalised"]) == pytest.approx(shared_bytes(fitted["PQ"]) + basis, abs=20)


def test_too_few_vectors_are_an_error_and_no_crash(corpus):
    with pytest.raises(StudyError, match="100 of 100 texts are different; this fit needs at least 256"):
        make_peer("PQ", DIMS, 32).fit(corpus[:100])
    with pytest.raises(StudyError, match="this fit needs at least 32"):
        make_peer("PCA, SQ8", DIMS, 32).fit(corpus[:10])


@pytest.mark.parametrize("name", ["PQ", "PQ, equalised", "OPQ"])
def test_more_bytes_than_dims_are_an_error_of_their_own_kind(name):
    with pytest.raises(NotPossible, match="of 64 dims has at most as many bytes; 100 are too many"):
        make_peer(name, DIMS, 100)


def test_what_faiss_cannot_build_is_a_clear_error(corpus):
    with pytest.raises(StudyError, match="faiss cannot train 'PQ7x8'"):
        FaissCodec("PQ7x8").fit(corpus)


def test_unknown_peer_lists_the_known():
    with pytest.raises(StudyError, match="unknown peer 'zip'; known: 'PQ', 'PQ, equalised', 'OPQ'"):
        make_peer("zip", DIMS, 8)
