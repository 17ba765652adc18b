"""Every codec through the same checks, and each against an independent way to the same numbers."""

import json

import numpy as np
import pytest

from ccq_utils.codecs.codec import scores, shared_bytes
from ccq_utils.codecs.decoder import fit_pca
from ccq_utils.codecs.files import fingerprint, load_codec, require_fit, save_codec
from ccq_utils.codecs.percentile import CODECS, LshCodec, PercentileCodec, make_codec
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
    own = Halves()
    own.score = lambda queries, codes: "its own"
    assert scores(own, queries, codes) == "its own"
    with pytest.raises(StudyError, match="Halves has a score of its own, for float queries; leave symmetric out"):
        scores(own, queries, codes, symmetric=True)


def test_a_fit_that_fails_leaves_the_codec_as_it_was(training, documents):
    codec, new = PercentileCodec(8, 2).fit(training), PercentileCodec(8, 2)
    before = codec.encode(documents)
    for each in (codec, new):
        with pytest.raises(StudyError, match="this fit needs at least 4"):
            each.fit(documents[:3])
    assert np.array_equal(codec.encode(documents), before)
    with pytest.raises(StudyError, match="the codec is not fitted"):
        require_fit(new)


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


@pytest.mark.parametrize("name", ["PCA, rotated", "decoder, rotated", "LSH", "equalised PCA"])
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
def test_usual_bits_are_few_and_more_where_dims_do_not_fill_the_bytes(in_dims, budget, expected):
    codec = make_codec("equalised PCA", in_dims, budget)
    assert (codec.dims, codec.bits) == expected


def test_what_is_kept_beside_the_codes_is_counted(fitted):
    """Basis, thresholds and levels; neither rotation nor planes, which a seed draws again."""
    assert shared_bytes(fitted["equalised PCA", 4]) == 4 * (32 * DIMS + 32 + 2 * 32)
    assert shared_bytes(fitted["PCA", 4]) == 4 * (16 * DIMS + 3 * 16 + 4 * 16)
    assert shared_bytes(fitted["LSH", 12]) == 0
    assert shared_bytes(fitted["decoder, LSH", 12]) == 4 * 32 * DIMS


@pytest.mark.parametrize("name", CODECS)
def test_a_saved_codec_is_the_same_again(fitted, documents, queries, name, tmp_path):
    codec = fitted[name, 12]
    save_codec(codec, tmp_path)
    again = load_codec(tmp_path)
    codes = again.encode(documents)
    assert np.array_equal(codes, codec.encode(documents)) and fingerprint(again) == fingerprint(codec)
    assert np.array_equal(scores(again, queries, codes), scores(codec, queries, codes))


def test_a_codec_of_another_release_is_one_clear_error(fitted, tmp_path):
    save_codec(fitted["PCA", 12], tmp_path)
    held = json.loads((tmp_path / "codec.json").read_text())
    (tmp_path / "codec.json").write_text(json.dumps(held | {"version": 1, "kind": "byte blocks"}))
    with pytest.raises(StudyError, match="has format version 1, this release reads 2"):
        load_codec(tmp_path)


def test_decoded_vectors_have_length_one(fitted, documents):
    codec = fitted["PCA", 12]
    assert np.allclose(np.linalg.norm(codec.decode(codec.encode(documents)), axis=1), 1, atol=1e-5)


def test_unknown_codec_is_an_error_that_lists_the_known():
    with pytest.raises(
        StudyError, match="codec 'zip' is unknown; choose one of: 'equalised PCA', 'PCA', 'PCA, rotated', .*'LSH'"
    ):
        make_codec("zip", DIMS, 4)


def test_budget_below_one_byte_is_an_error():
    with pytest.raises(StudyError, match="budget 0 must be at least one byte"):
        make_codec("LSH", DIMS, 0)
