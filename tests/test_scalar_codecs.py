"""Other scalar codes at the same bytes: what each promises about error and counted bytes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccq_utils.codecs.percentile import PercentileCodec
from ccq_utils.codecs.quantizer import PercentileQuantizer
from ccq_utils.codecs.scalar import (
    ALTERNATIVES,
    CorrectedCodec,
    LloydMaxQuantizer,
)

DIMS, BUDGET = 32, 4


@pytest.fixture
def parts(random_vectors):
    """Training, calibration, documents, queries."""
    return [random_vectors(600, DIMS, seed, 0.9) for seed in range(4)]


def error(quantizer, values):
    return ((quantizer.decode(quantizer.encode(values)) - values) ** 2).mean(axis=0)


@settings(max_examples=10)
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


def test_norm_correction_makes_the_projection_on_the_true_vector_exact(parts):
    codec = CorrectedCodec(DIMS, 1, rotate=True).fit(*parts[:2])
    true = codec.project(parts[2]) - codec.centre_
    decoded = codec.decode(codec.encode(parts[2])) - codec.centre_
    length = (true**2).sum(axis=1)
    assert (decoded * true).sum(axis=1) == pytest.approx(length, rel=1e-3)  # a float16 has 11 bits
    plain = PercentileCodec(DIMS, 1, rotate=True).fit(*parts[:2])
    short = ((plain.decode(plain.encode(parts[2])) - codec.centre_) * true).sum(axis=1)
    assert (short < 0.9 * length).mean() > 0.9


@pytest.mark.parametrize("name", ALTERNATIVES)
def test_codes_have_the_bytes_that_are_stated_and_decode_to_something_like_the_vector(parts, name):
    training, calibration, documents, queries = parts
    codec = ALTERNATIVES[name](DIMS, BUDGET, 0).fit(training, calibration)
    codes = codec.encode(documents)
    decoded = codec.decode(codes)
    assert decoded.shape[0] == len(documents) and np.array_equal(decoded, codec.decode(codes))
    assert codes.dtype == np.uint8 and codes.shape[1] == codec.bytes_per_vector <= BUDGET
    scores = codec.project(queries[:50]) @ decoded.T
    assert np.corrcoef(scores.ravel(), (queries[:50] @ documents.T).ravel())[0, 1] > 0.5
