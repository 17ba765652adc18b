"""Every codec through the same checks, and each against an independent way to the same numbers."""

import numpy as np
import pytest

from ccq_utils.codecs.codec import scores
from ccq_utils.codecs.decoder import fit_pca
from ccq_utils.codecs.percentile import CODECS, LshCodec, PercentileCodec, make_codec, widest
from ccq_utils.common.errors import StudyError

DIMS, BUDGETS = 48, (4, 12)


@pytest.fixture(scope="module")
def training(random_vectors):
    return random_vectors(600, DIMS, 1, decay=0.9)


@pytest.fixture(scope="module")
def documents(random_vectors):
    return random_vectors(300, DIMS, 2, decay=0.9)


@pytest.fixture(scope="module")
def queries(random_vectors):
    return random_vectors(40, DIMS, 3, decay=0.9)


@pytest.fixture(scope="module")
def fitted(training):
    decoder = fit_pca(training, 32)
    return {
        (name, budget): make_codec(name, DIMS, budget, decoder, seed=5).fit(training)
        for name in CODECS
        for budget in BUDGETS
    }


every = pytest.mark.parametrize(("name", "budget"), [(name, budget) for name in CODECS for budget in BUDGETS])


@every
def test_codes_are_bytes_within_the_budget(fitted, documents, name, budget):
    codec = fitted[name, budget]
    codes = codec.encode(documents)
    assert codes.dtype == np.uint8
    assert codes.shape == (300, codec.bytes_per_vector)
    assert 0 < codec.bytes_per_vector <= budget


@every
def test_decode_gives_the_dims_of_project(fitted, documents, name, budget):
    codec = fitted[name, budget]
    decoded = codec.decode(codec.encode(documents))
    assert decoded.shape == codec.project(documents).shape and decoded.dtype == np.float32


class Halves:
    """Codes of one byte per dim, the value's whole part; decoded to its middle."""

    def project(self, vectors):
        return vectors

    def encode(self, vectors):
        return np.floor(vectors).astype(np.uint8)

    def decode(self, codes):
        return codes + np.float32(0.5)


def test_scores_code_documents_alone_or_both_sides():
    queries = np.array([[1.2, 2.0], [0.0, 4.9]], dtype=np.float32)
    codes = np.array([[1, 2], [3, 0]], dtype=np.uint8)  # stand for (1.5, 2.5) and (3.5, 0.5)
    assert np.allclose(scores(Halves(), queries, codes), [[6.8, 5.2], [12.25, 2.45]])
    assert np.allclose(scores(Halves(), queries, codes, symmetric=True), [[8.5, 6.5], [12, 4]])


@pytest.mark.parametrize("name", CODECS)
def test_neighbours_survive_and_more_bytes_keep_more(fitted, queries, documents, name):
    near, kept = np.argsort(-queries @ documents.T, axis=1)[:, :10], []
    for budget in BUDGETS:
        codec = fitted[name, budget]
        found = np.argsort(-scores(codec, queries, codec.encode(documents)), axis=1)[:, :10]
        kept.append(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(near, found, strict=True)]))
    assert kept[1] > kept[0] > 5 * 10 / 300  # five times chance


@every
def test_encoding_is_deterministic_for_a_seed(fitted, training, documents, name, budget):
    again = make_codec(name, DIMS, budget, fit_pca(training, 32), seed=5).fit(training)
    assert np.array_equal(again.encode(documents), fitted[name, budget].encode(documents))


@pytest.mark.parametrize("name", ["PCA, rotated", "decoder, rotated", "LSH", "byte blocks"])
def test_other_seed_gives_other_codes(fitted, training, documents, name):
    other = make_codec(name, DIMS, 12, fit_pca(training, 32), seed=6).fit(training)
    assert not np.array_equal(other.encode(documents), fitted[name, 12].encode(documents))


def test_rotation_keeps_float_scores(training, queries, documents):
    plain, turned = (PercentileCodec(16, 8, rotate=flag).fit(training) for flag in (False, True))
    products = [codec.project(queries) @ codec.project(documents).T for codec in (plain, turned)]
    assert np.allclose(*products, atol=1e-5)


def test_eight_bits_of_all_dims_keep_scores(training, queries, documents):
    codec = PercentileCodec(DIMS, 8).fit(training)
    difference = scores(codec, queries, codec.encode(documents)) - queries @ documents.T
    assert np.sqrt(np.square(difference).mean()) < 0.01  # values past the calibration's ends are cut


def test_calibration_set_is_used_where_it_is_given(training, random_vectors):
    calibration = random_vectors(300, DIMS, 9, decay=0.5)
    codec = PercentileCodec(8, 2).fit(training, calibration)
    shares = np.stack(
        [np.bincount(column, minlength=4) for column in codec.quantizer_.buckets(codec.project(calibration)).T]
    )
    assert np.abs(shares - 75).max() <= 2


def test_lsh_ranks_as_hamming_distance_does(fitted, queries, documents):
    codec = fitted["LSH", 12]
    left, right = (np.unpackbits(codec.encode(vectors), axis=1) for vectors in (queries, documents))
    hamming = (left[:, None] != right[None]).sum(axis=2)
    assert np.array_equal(scores(codec, queries, codec.encode(documents), symmetric=True), 96 - 2 * hamming)


def test_lsh_of_a_vector_and_its_opposite_share_no_bit(fitted, queries):
    codec = fitted["LSH", 12]
    assert np.array_equal(codec.encode(-queries), ~codec.encode(queries))


def test_lsh_distance_estimates_the_angle(queries, documents):
    codec = LshCodec(4096, seed=1).fit(queries)
    share = 0.5 - scores(codec, queries, codec.encode(documents), symmetric=True) / (2 * 4096)
    assert np.abs(share - np.arccos(np.clip(queries @ documents.T, -1, 1)) / np.pi).max() < 0.05


@pytest.mark.parametrize(
    ("in_dims", "budget", "expected"),
    [(64, 8, (64, 1)), (64, 4, (32, 1)), (64, 16, (64, 2)), (60, 16, (32, 4)), (8, 64, (8, 8))],
)
def test_widest_spends_the_budget_on_dims_first(in_dims, budget, expected):
    assert widest(in_dims, budget) == expected


def test_unknown_codec_is_an_error_that_lists_the_known():
    with pytest.raises(StudyError, match="unknown codec 'zip'; known: byte blocks, PCA, rotated, .*LSH"):
        make_codec("zip", DIMS, 4)


def test_budget_below_one_byte_is_an_error():
    with pytest.raises(StudyError, match="budget 0 must be at least one byte"):
        make_codec("LSH", DIMS, 0)
