"""What the percentile quantizer's bits, spacing and scoring do to codes and to retrieval."""

import itertools

import numpy as np
import pandas as pd

from ccq_utils.codecs.decoder import Decoder
from ccq_utils.codecs.percentile import PercentileCodec
from ccq_utils.codecs.quantizer import BITS, SPACINGS, PercentileQuantizer, bucket_surprise, unpack
from ccq_utils.models.embed import normalise
from ccq_utils.study.scores import TaskVectors, score_table


def code_quality(calibration: np.ndarray, documents: np.ndarray) -> pd.DataFrame:
    """Entropy and error of the codes of ``(n, d)`` documents that the quantizer never saw.

    Returns:
        One row per document, bits, spacing and measure. ``entropy`` is the surprise of the document's buckets in bits per
        dim, so that its mean is the codes' entropy; ``relative error`` the squared error over the dim's variance.
    """
    parts = []
    for bits, spacing in itertools.product(BITS, SPACINGS):
        quantizer = PercentileQuantizer(bits, spacing).fit(calibration)
        error = (quantizer.decode(quantizer.encode(documents)) - documents) ** 2 / documents.var(axis=0)
        surprise = bucket_surprise(quantizer.buckets(documents), bits)
        for measure, values in (("entropy", surprise), ("relative error", error)):
            held = {"documents": values.mean(axis=1)}
            parts.append(score_table(held, measure=measure, bits=bits, spacing=spacing))
    return pd.concat(parts, ignore_index=True)


def score_scorings(
    vectors: TaskVectors, decoder: Decoder, calibration: np.ndarray, dims: int
) -> dict[tuple, np.ndarray]:
    """nDCG@10 per query by (bits, spacing, scoring) of one decoder on one task.

    Scorings: ``asymmetric`` (float query), ``symmetric`` (both decoded), ``bucket numbers`` (the cosine of bucket numbers,
    as if they were values), ``one scale`` (both decoded, each dim over the spread of its levels: what bucket numbers do to
    the scale, without what they do to the values). (32, none, float) is the decoder's float output.
    """
    queries, documents = (decoder.transform(part, dims) for part in (vectors.queries, vectors.documents))
    found = {(32, "none", "float"): vectors.ndcg(queries @ documents.T)}
    for bits, spacing in itertools.product(BITS, SPACINGS):
        codec = PercentileCodec(dims, bits, decoder, spacing=spacing).fit(calibration)
        codes = [codec.encode(part) for part in (vectors.queries, vectors.documents)]
        decoded = [codec.decode(each) for each in codes]
        spread = codec.quantizer_.levels_.std(axis=0)
        pairs = {
            "asymmetric": (queries, decoded[1]),
            "symmetric": decoded,
            "bucket numbers": [normalise(unpack(each, bits, dims) + np.float32(1)) for each in codes],  # never all zero
            "one scale": [normalise(each / spread) for each in decoded],
        }
        for scoring, (left, right) in pairs.items():
            found[bits, spacing, scoring] = vectors.ndcg(left @ right.T)
    return found
