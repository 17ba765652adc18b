"""Packing and the percentile quantizer: properties that hold for any input, and faiss as a second opinion."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from notebook_cells import functions_of

from ccq_utils.codecs.quantizer import BITS, SPACINGS, PercentileQuantizer, pack, packed_bytes, unpack
from ccq_utils.common.errors import StudyError

bucket_surprise = functions_of("04_calibrate_quantization").bucket_surprise


@st.composite
def bucket_numbers(draw):
    bits = draw(st.sampled_from(BITS))
    shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 21)))
    return bits, draw(arrays(np.uint8, shape, elements=st.integers(0, 2**bits - 1)))


@pytest.fixture(scope="module")
def calibration():
    """Three skewed dimensions and one whose mean is far from zero."""
    rng = np.random.default_rng(0)
    return np.column_stack(
        [rng.exponential(1, 1024), rng.standard_normal(1024) ** 3, -rng.exponential(2, 1024), rng.normal(50, 1, 1024)]
    ).astype(np.float32)


@pytest.fixture(scope="module")
def fitted(calibration):
    return {
        (bits, spacing): PercentileQuantizer(bits, spacing).fit(calibration) for bits in BITS for spacing in SPACINGS
    }


quantizers = st.tuples(st.sampled_from(BITS), st.sampled_from(SPACINGS))
vectors = arrays(np.float32, st.tuples(st.integers(1, 8), st.just(4)), elements=st.floats(-100, 100, width=32))


@given(bucket_numbers())
def test_unpack_undoes_pack(case):
    bits, buckets = case
    assert np.array_equal(unpack(pack(buckets, bits), bits, buckets.shape[1]), buckets)


@given(bucket_numbers())
def test_packed_size_is_the_bits_rounded_up_to_bytes(case):
    bits, buckets = case
    codes = pack(buckets, bits)
    assert codes.dtype == np.uint8
    assert codes.shape == (len(buckets), packed_bytes(buckets.shape[1], bits))
    assert 0 <= 8 * codes.shape[1] - bits * buckets.shape[1] < 8


def test_one_bit_packing_is_that_of_numpy():
    bits = np.random.default_rng(0).integers(0, 2, (5, 19), dtype=np.uint8)
    assert np.array_equal(pack(bits, 1), np.packbits(bits, axis=1))


def test_first_dimension_is_in_the_high_bits():
    assert pack(np.array([[1, 2, 3]], np.uint8), 4).tolist() == [[0x12, 0x30]]


@given(quantizers, vectors)
def test_decoded_value_lies_in_its_bucket(fitted, which, values):
    quantizer = fitted[which]
    assert np.array_equal(quantizer.encode(quantizer.decode(quantizer.encode(values))), quantizer.encode(values))


@given(quantizers, vectors)
def test_larger_value_never_gets_a_smaller_bucket(fitted, which, values):
    ordered = np.sort(values, axis=0)
    assert (np.diff(fitted[which].buckets(ordered).astype(int), axis=0) >= 0).all()


@pytest.mark.parametrize("bits", BITS)
def test_value_on_a_border_belongs_to_the_upper_bucket(fitted, bits):
    quantizer = fitted[bits, "mass"]
    expected = np.repeat(np.arange(1, 2**bits)[:, None], 4, axis=1)
    assert np.array_equal(quantizer.buckets(quantizer.thresholds_), expected)


@given(quantizers, vectors)
def test_decoded_values_keep_the_order(fitted, which, values):
    quantizer = fitted[which]
    assert (np.diff(quantizer.decode(quantizer.encode(np.sort(values, axis=0))), axis=0) >= 0).all()


@given(quantizers, vectors)
def test_encoding_does_not_move_thresholds(fitted, which, values):
    quantizer = fitted[which]
    before = quantizer.thresholds_.copy(), quantizer.levels_.copy()
    quantizer.encode(values)
    assert np.array_equal(quantizer.thresholds_, before[0]) and np.array_equal(quantizer.levels_, before[1])


@given(quantizers, vectors)
def test_code_of_a_vector_does_not_depend_on_its_neighbours(fitted, which, values):
    quantizer = fitted[which]
    assert np.array_equal(np.vstack([quantizer.encode(row[None]) for row in values]), quantizer.encode(values))


@pytest.mark.parametrize("bits", BITS)
def test_equal_mass_buckets_are_nearly_equally_full(fitted, calibration, bits):
    quantizer = fitted[bits, "mass"]
    buckets = quantizer.buckets(calibration)
    counts = np.stack([np.bincount(column, minlength=2**bits) for column in buckets.T])
    assert np.abs(counts - 1024 / 2**bits).max() <= 2
    assert (bucket_surprise(buckets, bits).mean(axis=0) > bits - 0.1).all()


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_equal_width_buckets_waste_bits_on_skewed_dimensions(fitted, calibration, bits):
    entropy = bucket_surprise(fitted[bits, "width"].buckets(calibration), bits).mean(axis=0)
    assert (entropy[:3] < 0.85 * bits).all()


def test_equal_width_thresholds_cut_the_range_evenly(fitted, calibration):
    low, high = calibration.min(0), calibration.max(0)
    expected = low + (high - low) * np.array([[0.25], [0.5], [0.75]])
    assert np.allclose(fitted[2, "width"].thresholds_, expected, rtol=1e-5)


def test_one_bit_threshold_is_the_median_not_zero(fitted, calibration):
    assert np.allclose(fitted[1, "mass"].thresholds_[0], np.median(calibration, axis=0), rtol=1e-5)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_levels_are_bucket_means(fitted, calibration, spacing):
    quantizer = fitted[2, spacing]
    buckets = quantizer.buckets(calibration)
    for bucket in range(4):
        assert quantizer.levels_[bucket, 0] == pytest.approx(calibration[buckets[:, 0] == bucket, 0].mean(), rel=1e-4)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_more_bits_mean_less_error(fitted, calibration, spacing):
    errors = []
    for bits in (1, 2, 4, 8):
        quantizer = fitted[bits, spacing]
        errors.append(np.square(quantizer.decode(quantizer.encode(calibration)) - calibration).mean())
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.05 * errors[0]


def test_mean_surprise_is_the_entropy_of_known_shares():
    buckets = np.array([[0, 0], [0, 1], [0, 2], [0, 3]], np.uint8)
    assert bucket_surprise(buckets, 2).mean(axis=0).tolist() == [0, 2]


@pytest.mark.parametrize("bits", BITS)
def test_bytes_on_disk_are_the_bytes_claimed(random_vectors, bits):
    vectors = random_vectors(300, 13)
    quantizer = PercentileQuantizer(bits).fit(vectors)
    codes, file = quantizer.encode(vectors), io.BytesIO()
    np.save(file, codes)
    header = 128
    assert len(codes.tobytes()) == 300 * packed_bytes(13, bits) == file.tell() - header


def test_same_value_everywhere_decodes_to_itself():
    vectors = np.stack([np.full(256, 0.25), np.arange(256)], axis=1).astype(np.float32)
    for bits in BITS:
        quantizer = PercentileQuantizer(bits).fit(vectors)
        assert np.allclose(quantizer.decode(quantizer.encode(vectors))[:, 0], 0.25)


@pytest.mark.parametrize("bits", [3, 0, 16, "8", None])
def test_unsupported_bits_are_an_error(bits):
    with pytest.raises(StudyError, match=f"bits {bits!r} is not supported; accepted: 8, 4, 2, 1"):
        PercentileQuantizer(bits)


def test_unknown_spacing_is_an_error():
    with pytest.raises(StudyError, match="unknown spacing 'log'; accepted: mass, width"):
        PercentileQuantizer(4, "log")


@pytest.mark.parametrize(("bits", "size"), [(8, 255), (4, 15), (2, 3), (1, 1)])
def test_fewer_vectors_than_buckets_and_equal_ones_are_an_error(random_vectors, bits, size):
    with pytest.raises(StudyError, match=f"{size} of {size} texts are different; this fit needs at least {size + 1}"):
        PercentileQuantizer(bits).fit(random_vectors(size, 4))
    with pytest.raises(StudyError, match=f"1 of 300 texts are different; this fit needs at least {size + 1}"):
        PercentileQuantizer(bits).fit(random_vectors(1, 4).repeat(300, axis=0))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_value_in_calibration_is_an_error(random_vectors, bad):
    vectors = random_vectors(20, 4)
    vectors[3, 2] = bad
    with pytest.raises(StudyError, match="calibration vectors hold NaN or infinity"):
        PercentileQuantizer(2).fit(vectors)


@pytest.mark.parametrize("bits", [4, 1])
def test_bad_value_to_encode_is_an_error(fitted, bits):
    with pytest.raises(StudyError, match="vectors to encode hold NaN"):
        fitted[bits, "mass"].encode(np.full((2, 4), np.nan, np.float32))


@pytest.mark.parametrize("shape", [(2, 3), (2, 5), (4,)])
def test_vectors_of_other_dims_are_an_error(fitted, shape):
    with pytest.raises(StudyError, match="calibrated for 4 dims"):
        fitted[1, "mass"].encode(np.zeros(shape, np.float32))


def test_codes_of_another_width_are_an_error(fitted):
    with pytest.raises(StudyError, match="4 dims at 4 bits are 2 bytes per vector"):
        fitted[4, "mass"].decode(np.zeros((3, 4), np.uint8))


def test_eight_bits_of_equal_width_reconstruct_as_well_as_faiss(random_vectors):
    faiss = pytest.importorskip("faiss")
    faiss.omp_set_num_threads(1)
    vectors = random_vectors(2000, 16)
    theirs = faiss.IndexScalarQuantizer(16, faiss.ScalarQuantizer.QT_8bit)
    theirs.train(vectors)
    ours = PercentileQuantizer(8, "width").fit(vectors)
    their_error = np.square(theirs.sa_decode(theirs.sa_encode(vectors)) - vectors).mean()
    our_error = np.square(ours.decode(ours.encode(vectors)) - vectors).mean()
    assert 0.5 * their_error < our_error < 1.1 * their_error
