"""Other scalar codes at the same bytes: what each promises about error, bits and counted bytes."""

from fractions import Fraction
from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccq_utils.codecs.percentile import PercentileCodec
from ccq_utils.codecs.quantizer import PercentileQuantizer, bucket_surprise
from ccq_utils.codecs.scalar import (
    ALTERNATIVES,
    CORRECTION,
    ITQ_BITS,
    LENGTH,
    CorrectedCodec,
    EntropyCodec,
    LloydMaxQuantizer,
    QueryAwareCodec,
    WaterfilledCodec,
    water_filling,
)
from ccq_utils.common.errors import StudyError

DIMS, BUDGET = 32, 4


@pytest.fixture
def parts(random_vectors):
    """Training, calibration, documents, queries."""
    return [random_vectors(600, DIMS, seed, 0.9) for seed in range(4)]


def error(quantizer, values):
    return ((quantizer.decode(quantizer.encode(values)) - values) ** 2).mean(axis=0)


@given(seed=st.integers(0, 99), bits=st.sampled_from((1, 2, 4)), power=st.sampled_from((1, 3)))
def test_lloyd_max_never_errs_more_than_equal_mass_on_what_it_was_fitted_on(seed, bits, power):
    values = (np.random.default_rng(seed).standard_normal((200, 3)) ** power).astype(np.float32)
    ours, theirs = (error(kind(bits).fit(values), values) for kind in (LloydMaxQuantizer, PercentileQuantizer))
    assert (ours <= theirs * (1 + 1e-5)).all()
    if bits > 1 and power == 3:
        assert ours.sum() < 0.9 * theirs.sum()  # heavy tails: equal mass gives them one bucket


def test_lloyd_max_comes_to_the_known_error_of_a_gaussian():
    values = np.random.default_rng(1).standard_normal((50_000, 1)).astype(np.float32)
    for bits, known in ((1, 0.3634), (2, 0.1175)):  # Max 1960, table 1
        assert error(LloydMaxQuantizer(bits).fit(values), values)[0] == pytest.approx(known, rel=0.02)


@given(seed=st.integers(0, 99), bits=st.integers(0, 8 * 20))
def test_water_filled_bits_add_up_and_no_single_bit_would_do_better_elsewhere(seed, bits):
    variances = np.random.default_rng(seed).exponential(size=20) ** 2
    given_bits = water_filling(variances, bits)
    assert given_bits.sum() == bits and given_bits.min() >= 0 and given_bits.max() <= 8
    left, last = variances / 4.0**given_bits, variances / 4.0 ** (given_bits - 1)
    if 0 < bits < 160:
        assert left[given_bits < 8].max() <= last[given_bits > 0].min() * (1 + 1e-9)


def test_norm_correction_makes_the_projection_on_the_true_vector_exact(parts):
    codec = CorrectedCodec(DIMS, 1, rotate=True).fit(*parts[:2])
    true = codec.project(parts[2]) - codec.centre_
    decoded = codec.decode(codec.encode(parts[2])) - codec.centre_
    length = (true**2).sum(axis=1)
    assert (decoded * true).sum(axis=1) == pytest.approx(length, rel=1e-3)  # a float16 has 11 bits
    plain = PercentileCodec(DIMS, 1, rotate=True).fit(*parts[:2])
    short = ((plain.decode(plain.encode(parts[2])) - codec.centre_) * true).sum(axis=1)
    assert (short < 0.9 * length).mean() > 0.9


def test_entropy_coder_counts_no_less_than_the_entropy_and_keeps_to_the_budget(parts):
    codec = EntropyCodec(12).fit(*parts[:2])
    assert 0.9 * 12 < codec.lengths(codec.encode(parts[1])).mean() <= 12
    codes = codec.encode(parts[2])
    empirical = bucket_surprise((codes - codec.low_).astype(np.uint8), 8).sum(axis=1).mean()
    assert codec.lengths(codes).mean() >= LENGTH + empirical / 8


def test_a_code_of_the_counted_length_gives_the_vector_back(parts):
    codec = EntropyCodec(8).fit(*parts[:2])
    code = codec.encode(parts[2][:1])
    ends = [*codec.first_[1:], len(codec.surprise_)]
    shares = [
        [Fraction(float(2.0**-each)) for each in codec.surprise_[a:b]] for a, b in zip(codec.first_, ends, strict=True)
    ]
    shares = [[share / sum(dim) for share in dim] for dim in shares]
    low, width = Fraction(0), Fraction(1)
    for dim, number in zip(shares, (code - codec.low_)[0], strict=True):
        low, width = low + width * sum(dim[:number], Fraction(0)), width * dim[number]
    bits = int(8 * (codec.lengths(code)[0] - LENGTH))
    sent = Fraction(ceil(low * 2**bits), 2**bits)  # the first number of so many bits within the vector's interval
    assert low <= sent < low + width
    found = []
    for dim in shares:
        borders = [sum(dim[:number], Fraction(0)) for number in range(len(dim) + 1)]
        number = max(place for place in range(len(dim)) if borders[place] <= sent)
        sent = (sent - borders[number]) / dim[number]
        found.append(number)
    assert found == (code - codec.low_)[0].tolist()


def test_query_aware_scale_keeps_scores_and_lowers_their_error_where_queries_are_spread_otherwise(parts):
    training, calibration, documents, queries = parts
    queries = queries[:, ::-1].copy()  # large where documents are small
    aware = QueryAwareCodec(DIMS, 1, queries).fit(training, calibration)
    plain = PercentileCodec(DIMS, 1, rotate=True).fit(training, calibration)
    true = plain.project(queries) @ plain.project(documents).T
    turned = (aware.decoder_.transform(documents, DIMS) * aware.scale_) @ aware.rotation_
    assert aware.project(queries) @ turned.T == pytest.approx(true, abs=1e-4)
    wrong = [
        ((codec.project(queries) @ codec.decode(codec.encode(documents)).T - true).var(axis=1)).mean()
        for codec in (aware, plain)
    ]
    assert wrong[0] < 0.8 * wrong[1]


@pytest.mark.parametrize("name", ALTERNATIVES)
def test_codes_have_the_bytes_that_are_stated_and_decode_to_something_like_the_vector(parts, name):
    training, calibration, documents, queries = parts
    codec = ALTERNATIVES[name](DIMS, BUDGET, queries, 0).fit(training, calibration)
    codes = codec.encode(documents)
    decoded = codec.decode(codes)
    assert decoded.shape[0] == len(documents) and np.array_equal(decoded, codec.decode(codes))
    if name == "entropy-coded":
        assert codec.bytes_per_vector == codec.lengths(codes).mean()
    else:
        assert codes.dtype == np.uint8 and codes.shape[1] == codec.bytes_per_vector <= BUDGET
    scores = codec.project(queries[:50]) @ decoded.T
    assert np.corrcoef(scores.ravel(), (queries[:50] @ documents.T).ravel())[0, 1] > 0.5


def test_water_filled_codes_are_the_buckets_bit_by_bit(parts):
    codec = WaterfilledCodec(5).fit(*parts[:2])
    assert codec.bits_.sum() == 40 and len(set(codec.bits_)) > 2
    values = codec.project(parts[2])
    expected = np.empty_like(values)
    for quantizer in codec.quantizers_:
        mine = codec.bits_ == quantizer.bits
        expected[:, mine] = np.take_along_axis(
            quantizer.levels_, quantizer.buckets(values[:, mine]).astype(int), axis=0
        )
    assert np.array_equal(codec.decode(codec.encode(parts[2])), expected)


def test_what_cannot_be_had_is_said(parts):
    with pytest.raises(StudyError, match="bits 9 is not supported; accepted: 1 to 8"):
        LloydMaxQuantizer(9)
    with pytest.raises(StudyError, match="2 dims take 0 to 16 bits, not 17"):
        water_filling(np.ones(2), 17)
    with pytest.raises(StudyError, match=f"{CORRECTION} bytes of constants leave no code in a budget of 2"):
        ALTERNATIVES["norm correction"](DIMS, 2, parts[3], 0)
    with pytest.raises(StudyError, match="an entropy-coded vector takes more than 2 bytes"):
        EntropyCodec(2).fit(*parts[:2])
    with pytest.raises(StudyError, match=f"ITQ of {ITQ_BITS + 8} bits is not run here"):
        ALTERNATIVES["ITQ"](2 * ITQ_BITS, ITQ_BITS // 8 + 1, parts[3], 0)
