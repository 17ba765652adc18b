"""What bits and spacing do to codes: entropy and error are means over documents, with intervals over them."""

from types import SimpleNamespace

import numpy as np
import pytest

from ccq_utils.analyses.calibration import bucket_quality
from ccq_utils.codecs.decoder import fit_pca
from ccq_utils.codecs.quantizer import PercentileQuantizer
from ccq_utils.study.stats import paired_interval

DIMS = 8


@pytest.fixture
def vectors(random_vectors):
    return random_vectors(600, 24, 3)


@pytest.fixture
def quality(vectors):
    def interval(statistic, measured, reference=None):
        return paired_interval(statistic, [measured], None if reference is None else [reference], resamples=200)

    study = SimpleNamespace(interval=interval, joined=lambda part: vectors[:300])
    decoders = [fit_pca(vectors[start : start + 200], DIMS) for start in (0, 200)]
    return bucket_quality(study, decoders, vectors[300:], DIMS), decoders


def test_estimates_are_the_entropy_and_the_error_averaged_over_dims_and_decoders(quality, vectors):
    table, decoders = quality
    entropy, error = [], []
    for decoder in decoders:
        calibration, documents = (decoder.transform(part, DIMS) for part in (vectors[:300], vectors[300:]))
        quantizer = PercentileQuantizer(2).fit(calibration)
        buckets = quantizer.buckets(documents)
        for dim in range(DIMS):
            shares = np.bincount(buckets[:, dim]) / len(buckets)
            entropy.append(-(shares * np.log2(shares)).sum())
        decoded = quantizer.decode(quantizer.encode(documents))
        error.append((((decoded - documents) ** 2).mean(axis=0) / documents.var(axis=0)).mean())
    rows = table[(table["bits"] == 2) & (table["spacing"] == "mass")].set_index("measure")
    assert rows.loc["entropy", "estimate"] == pytest.approx(np.mean(entropy))
    assert rows.loc["relative error", "estimate"] == pytest.approx(np.mean(error), rel=1e-5)
    assert rows.loc["relative error", "seed_spread"] == pytest.approx(np.std(error, ddof=1), rel=1e-3)
    assert (rows["documents"] == 300).all()


def test_intervals_hold_their_estimates_and_verdicts_follow_them(quality):
    table, _ = quality
    assert ((table["low"] < table["estimate"]) & (table["estimate"] < table["high"])).all()
    assert set(table.loc[table["spacing"] == "width", "verdict"]) == {"reference"}
    larger = table[table["verdict"] == "larger"]
    assert len(larger) and (larger["over_width_low"] > 0).all()
