"""What bits, spacing and scoring do to codes: entropy and error per document, scores by hand."""

import itertools

import numpy as np
import pytest
from notebook_cells import functions_of

from ccq_utils.codecs.decoder import fit_pca
from ccq_utils.codecs.percentile import PercentileCodec
from ccq_utils.codecs.quantizer import BITS, SPACINGS, PercentileQuantizer, unpack
from ccq_utils.models.embed import normalise
from ccq_utils.study.metrics import Evaluator
from ccq_utils.study.scores import TaskVectors, score_table

DIMS = 8


@pytest.fixture(scope="module")
def parts(random_vectors):
    values = fit_pca(random_vectors(600, 24, 3), DIMS).transform(random_vectors(600, 24, 3))
    return values[:300], values[300:]


def test_means_over_documents_are_the_entropy_and_the_error(parts):
    calibration, documents = parts
    given = {"PercentileQuantizer": PercentileQuantizer, "SPACINGS": SPACINGS, "BITS": BITS, "score_table": score_table}
    table = functions_of("04_calibrate_quantization", **given).code_quality(calibration, documents)
    assert len(table) == len(documents) * 2 * len(BITS) * len(SPACINGS)
    quantizer = PercentileQuantizer(2).fit(calibration)
    shares = [np.bincount(column) / len(column) for column in quantizer.buckets(documents).T]
    error = ((quantizer.decode(quantizer.encode(documents)) - documents) ** 2).mean(axis=0) / documents.var(axis=0)
    means = table[(table["bits"] == 2) & (table["spacing"] == "mass")].groupby("measure")["score"].mean()
    assert means["entropy"] == pytest.approx(np.mean([-(each * np.log2(each)).sum() for each in shares]), rel=1e-5)
    assert means["relative error"] == pytest.approx(error.mean(), rel=1e-4)


def test_scorings_of_two_bits_by_hand(parts, random_vectors, make_task):
    texts = random_vectors(600, 24, 3)
    evaluator = Evaluator(make_task(documents=300, queries=20))
    one, decoder = TaskVectors(texts[: len(evaluator.query_ids)], texts[300:], evaluator), fit_pca(texts, DIMS)
    given = {"itertools": itertools, "normalise": normalise, "unpack": unpack, "PercentileCodec": PercentileCodec}
    given |= {"BITS": BITS, "SPACINGS": SPACINGS, "np": np}
    found = functions_of("04_calibrate_quantization", **given).score_scorings(one, decoder, texts[:300], DIMS)
    assert len(found) == 3 + len(BITS) * 5  # equal width is scored asymmetrically only
    quantizer = PercentileQuantizer(2).fit(parts[0])
    floats = [decoder.transform(each, DIMS) for each in (one.queries, one.documents)]
    decoded = [normalise(quantizer.decode(quantizer.encode(each))) for each in floats]
    spread = decoder.transform(texts[:300], DIMS).std(axis=0)
    pairs = {
        "asymmetric": (floats[0], decoded[1]),
        "symmetric": decoded,
        "bucket numbers": [normalise(quantizer.buckets(each) + 1.0) for each in floats],
        "one scale": [normalise(each / spread) for each in decoded],
    }
    for scoring, (queries, documents) in pairs.items():
        assert found[2, "mass", scoring].tolist() == pytest.approx(one.ndcg(queries @ documents.T).tolist()), scoring
    for scoring, scale in (("asymmetric", 1), ("symmetric", 1), ("one scale", spread)):
        queries, documents = (normalise(each / scale) for each in floats)
        assert found[32, "none", scoring].tolist() == pytest.approx(one.ndcg(queries @ documents.T).tolist()), scoring
