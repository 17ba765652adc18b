"""The concat: length one, scores that are (weighted) means of member cosines, bad members named."""

import numpy as np
import pytest

from ccq_utils.common.errors import StudyError
from ccq_utils.models.vectors import centred, concat, linear_cka, pair_cosines, spread_shares


@pytest.fixture
def members(random_vectors):
    return [random_vectors(12, 8, 1), 5 * random_vectors(12, 5, 2), 0.1 * random_vectors(12, 3, 3)]


def cosines(vectors):
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors @ vectors.T


def test_shape_type_and_length_one(members):
    joined = concat(members)
    assert joined.shape == (12, 16) and joined.dtype == np.float32
    assert np.allclose(np.linalg.norm(joined, axis=1), 1, atol=1e-6)


def test_score_is_the_mean_of_member_cosines(members):
    joined = concat(members)
    assert np.allclose(joined @ joined.T, np.mean([cosines(member) for member in members], axis=0), atol=1e-6)


@pytest.mark.parametrize("scale", [1, 10])
def test_score_with_shares_is_the_share_weighted_mean_of_member_cosines(members, scale):
    joined = concat(members, [0.5 * scale, 0.3 * scale, 0.2 * scale])  # shares are made to add up to one
    expected = sum(share * cosines(member) for share, member in zip((0.5, 0.3, 0.2), members, strict=True))
    assert np.allclose(joined @ joined.T, expected, atol=1e-6)
    assert np.allclose(concat(members, [scale] * 3), concat(members), atol=1e-6)


def test_length_of_a_member_does_not_matter_when_normalised(members):
    assert np.allclose(concat(members), concat([3 * members[0], *members[1:]]), atol=1e-6)


def test_raw_join_lets_long_members_dominate(members):
    raw = concat(members, normalised=False)
    assert np.allclose(np.linalg.norm(raw, axis=1), 1, atol=1e-6)
    assert np.abs(raw @ raw.T - cosines(members[1])).max() < 0.1 < np.abs(raw @ raw.T - cosines(members[0])).max()


def test_one_member_is_itself_normalised(random_vectors):
    assert np.allclose(concat([4 * random_vectors(5, 3)]), random_vectors(5, 3), atol=1e-6)


def test_members_are_left_as_they_are(members):
    before = [member.copy() for member in members]
    concat(members, [1, 2, 3])
    assert all(np.array_equal(member, copy) for member, copy in zip(members, before, strict=True))


def test_no_members_are_an_error():
    with pytest.raises(StudyError, match="give at least one"):
        concat([])


def test_misaligned_rows_are_an_error(members):
    with pytest.raises(StudyError, match=r"members have \[12, 11\] rows"):
        concat([members[0], members[1][:-1]])


@pytest.mark.parametrize("shares", [[1, 1], [1, 1, 0], [1, 1, -1], [1, 1, np.nan], [1, 1, 1, 1]])
def test_bad_shares_are_an_error(members, shares):
    with pytest.raises(StudyError, match=r"concat: shares .* must be 3 positive numbers, one per member"):
        concat(members, shares)


@pytest.mark.parametrize(("value", "words"), [(np.nan, "NaN or infinity"), (0, "the zero vector")])
def test_bad_row_is_an_error_that_names_member_and_row(members, value, words):
    members[1][4] = value
    with pytest.raises(StudyError, match=f"member 2: row 4 is {words}"):
        concat(members)


def test_cka_of_a_rotation_is_one(random_vectors):
    vectors = random_vectors(50, 8)
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((8, 8)))[0]
    assert linear_cka(vectors, 3 * vectors @ rotation + 1) == pytest.approx(1, abs=1e-5)


def test_cka_is_symmetric(random_vectors):
    first, second = random_vectors(50, 8, 1), random_vectors(50, 5, 2)
    assert linear_cka(first, second) == pytest.approx(linear_cka(second, first))


def test_cka_of_independent_vectors_is_near_zero(random_vectors):
    assert 0 <= linear_cka(random_vectors(3000, 8, 1), random_vectors(3000, 8, 2)) < 0.02


def test_pairs_are_of_two_different_rows_and_drawn_once():
    assert not pair_cosines(np.eye(3)).any()
    assert np.array_equal(pair_cosines(np.eye(3) + 0.1), pair_cosines(np.eye(3) + 0.1))


def test_a_squeezed_member_gets_the_share_that_gives_it_an_equal_say(random_vectors):
    plain = random_vectors(400, 16, 1)
    plain /= np.linalg.norm(plain, axis=1, keepdims=True)
    squeezed = np.hstack([plain, np.full((400, 1), 2, dtype=np.float32)])  # cosine (c + 4) / 5: a fifth of the spread
    shares = spread_shares([plain, squeezed])
    assert sum(shares) == pytest.approx(1) and shares[1] == pytest.approx(5 * shares[0], rel=1e-3)


def test_centring_each_side_undoes_a_shift_of_one_side(random_vectors):
    queries, documents = random_vectors(300, 8, 1), random_vectors(500, 8, 2)
    assert np.allclose(np.linalg.norm(centred(queries, queries), axis=1), 1, atol=1e-6)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    shifted = queries + np.eye(8, dtype=np.float32)[0]
    mean = centred(shifted, shifted) @ centred(documents, documents).T
    assert abs(mean.mean()) < 0.01 < (shifted @ documents.T / np.linalg.norm(shifted, axis=1, keepdims=True)).std()
