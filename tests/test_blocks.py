"""Byte blocks: bits go where variance is and nowhere not, decoded values are unbiased, faiss scans the same codes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccq_utils.codecs.byte_blocks import SCORES, BlockCodec, byte_blocks, equalised_pca, rates
from ccq_utils.codecs.codec import scores
from ccq_utils.common.errors import StudyError

VARIANCES = 0.9 ** np.arange(64)


@pytest.fixture(scope="module")
def corpus(random_vectors):
    return random_vectors(700, 64, 1, decay=0.95)


@pytest.fixture(scope="module")
def queries(random_vectors):
    return random_vectors(30, 64, 2, decay=0.95)


@pytest.mark.parametrize("bits", [8, 64, 256])
def test_rates_share_the_bits_and_leave_no_dim_out(bits):
    found = rates(VARIANCES, bits)
    assert found.sum() == pytest.approx(bits, rel=1e-6)
    assert (np.diff(found) < 0).all() and found.min() > 0


def test_rates_leave_the_same_noise_on_all_dims():
    noise = VARIANCES / (4 ** rates(VARIANCES, 100) - 1)
    assert np.allclose(noise, noise[0])


@given(st.lists(st.floats(1e-6, 1e3), min_size=2, max_size=60), st.integers(1, 60), st.booleans())
def test_blocks_cover_every_dim_once(variances, count, flat):
    variances = np.sort(np.ones(len(variances)) if flat else np.array(variances))[::-1]
    count = min(count, len(variances))
    blocks = byte_blocks(variances, count)
    assert len(blocks) == count and blocks[0][0] == 0 and blocks[-1][1] == len(variances)
    assert all(first < last for first, last in blocks)
    assert all(before[1] == after[0] for before, after in zip(blocks, blocks[1:], strict=False))


def test_large_dims_share_a_block_with_fewer():
    widths = [last - first for first, last in byte_blocks(VARIANCES, 8)]
    assert widths[0] < widths[4] < widths[-1] and min(widths) == widths[0]


@pytest.mark.parametrize("count", [0, 65])
def test_blocks_that_cannot_be_cut_are_an_error(count):
    with pytest.raises(StudyError, match=f"{count} byte blocks need at least as many dims"):
        byte_blocks(VARIANCES, count)


@pytest.mark.parametrize("calibrated", [False, True])
def test_every_block_projects_onto_the_true_values_with_factor_one(corpus, calibrated):
    codec = BlockCodec(6, seed=3, neighbours=0).fit(corpus, corpus if calibrated else None)
    true = (corpus - codec.mean_) @ codec.basis_
    decoded = codec.decode(codec.encode(corpus))
    for first, last in codec.blocks_:
        overlap = (true[:, first:last] * decoded[:, first:last]).sum() / (true[:, first:last] ** 2).sum()
        assert overlap == pytest.approx(1, abs=1e-3)


def test_centroids_as_they_are_fade(corpus):
    codec = BlockCodec(6, seed=3, neighbours=0, unbiased=False).fit(corpus)
    true = (corpus - codec.mean_) @ codec.basis_
    assert (true * codec.decode(codec.encode(corpus))).sum() < 0.95 * (true**2).sum()


def score_error(codec, corpus, count=16):
    """Root mean squared error of the scores between each (equalised) vector and its nearest neighbours."""
    true = (corpus - codec.mean_) @ codec.basis_
    exact = true @ true.T
    near = np.argsort(-exact, axis=1)[:, 1 : count + 1]
    off = true @ codec.decode(codec.encode(corpus)).T - exact
    return np.sqrt(np.mean(np.take_along_axis(off.T, near, axis=1) ** 2))


def test_kept_scores_are_nearer_to_the_true_ones(corpus):
    plain, kept = (BlockCodec(6, seed=3, neighbours=number).fit(corpus) for number in (0, 16))
    assert score_error(kept, corpus) < 0.9 * score_error(plain, corpus)


def test_kept_scores_weigh_the_error_of_each_neighbour_as_written(corpus):
    """The codes have the least cost that one pass over the blocks can reach, by the definition and not by its matrix form."""
    codec = BlockCodec(4, seed=3).fit(corpus)
    values = ((corpus - codec.mean_) @ codec.basis_).astype(np.float64)
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    codes = codec.encode(corpus)
    last_block, (first, last) = len(codec.blocks_) - 1, codec.blocks_[-1]
    for row in range(5):
        order = np.argsort(-(unit @ unit[row]))
        asked = unit[[row, *[other for other in order if other != row][: codec.neighbours]]]
        weights = np.full(len(asked), SCORES / 2 / codec.neighbours)
        weights[0] = SCORES / 2
        costs = []
        for centroid in range(256):
            tried = codes[row : row + 1].copy()
            tried[0, last_block] = centroid
            off = values[row] - codec.decode(tried)[0]
            costs.append((off[first:last] ** 2).sum() + (weights * (asked @ off) ** 2).sum())
        assert costs[codes[row, last_block]] == pytest.approx(min(costs), rel=1e-4)


@pytest.mark.parametrize("power", [0.0, 0.25, 1.0])
def test_equalised_dims_have_the_variances_that_are_stated(corpus, power):
    mean, basis, variances = equalised_pca(corpus, corpus, 20, power)
    turned = (corpus - mean) @ basis
    assert basis.shape == (64, 20) and np.allclose(turned.var(axis=0), variances, rtol=1e-3)
    if power == 0:
        assert np.allclose(basis.T @ basis, np.eye(20), atol=1e-6)
    if power == 1:  # whitened, but for dims below the floor
        above = variances > 0.99
        assert above.any() and np.allclose(variances[above], 1, atol=1e-3) and (variances <= 1.001).all()


def test_as_many_dims_are_kept_as_the_bits_bear(corpus):
    assert BlockCodec(3).fit(corpus).basis_.shape == (64, 36)
    assert BlockCodec(6).fit(corpus).basis_.shape == (64, 64)
    assert BlockCodec(3, dims_per_bit=None).fit(corpus).basis_.shape == (64, 64)


def test_scores_are_kept_only_on_the_corpus_that_was_fitted(corpus):
    assert BlockCodec(6).fit(corpus, corpus[:300]).anchors_ is None
    assert BlockCodec(6).fit(corpus).anchors_ is not None


def test_few_vectors_of_many_dims_are_enough(random_vectors):
    training, held_out = random_vectors(60, 128, 1, decay=0.98), random_vectors(90, 128, 2, decay=0.98)
    codec = BlockCodec(16).fit(training, held_out)
    exact = held_out @ held_out.T
    assert np.corrcoef(scores(codec, held_out, codec.encode(held_out)).ravel(), exact.ravel())[0, 1] > 0.7


def test_bad_vectors_and_codes_are_clear_errors(corpus):
    codec = BlockCodec(6).fit(corpus)
    with pytest.raises(StudyError, match="NaN or infinity"):
        codec.encode(np.full((1, 64), np.nan, dtype=np.float32))
    with pytest.raises(StudyError, match=r"fitted on 64 dims, the vectors have shape \(1, 63\)"):
        codec.encode(corpus[:1, :63])
    with pytest.raises(StudyError, match=r"codes have shape \(2, 5\); this codec makes 6 bytes each"):
        codec.decode(np.zeros((2, 5), dtype=np.uint8))
    with pytest.raises(StudyError, match="at least two finite vectors"):
        BlockCodec(6).fit(corpus[:1])
