"""How the percentile quantizer is calibrated, and what each choice costs (notebook 04)."""

import numpy as np
import pandas as pd
from scipy.stats import skew

from ccq_utils.codecs import PercentileCodec
from ccq_utils.compress import Side, codec_rows, ndcg, retention_row
from ccq_utils.decoder import Decoder
from ccq_utils.embed import normalise
from ccq_utils.quantizer import BITS, SPACINGS, PercentileQuantizer, bucket_entropy, unpack
from ccq_utils.study import Study


def quantizer_grid(study: Study, found: dict[str, Side], decoder: Decoder, dims: int) -> pd.DataFrame:
    """Retention for every number of bits, spacing and scoring, at the same stop.

    Scorings: ``asymmetric`` (float query), ``symmetric`` (both decoded), ``bucket numbers`` (both sides compared by the
    cosine of their bucket numbers, as if those were values), and ``one scale`` (both decoded, each dim divided by the
    spread of its levels: what bucket numbers do to the scale, without what they do to the values). ``float`` rows are
    the stop itself.
    ``over_width`` is the paired nDCG@10 difference to equal-width buckets at the same bits and scoring.
    """
    calibration = study.joined("calibration")
    codecs = {
        (bits, spacing): PercentileCodec(dims, bits, decoder, spacing=spacing).fit(calibration)
        for bits in BITS
        for spacing in SPACINGS
    }
    rows, kept = [], {}
    for side in found.values():
        queries, documents = decoder.transform(side.queries, dims), decoder.transform(side.documents, dims)
        labels = {"bits": 32, "spacing": "none", "scoring": "float", "bytes_per_vector": 4 * dims}
        rows.append(retention_row(study, side, ndcg(side.judge, queries @ documents.T), **labels))
        values = {}
        for (bits, spacing), codec in codecs.items():
            coded = [codec.encode(vectors) for vectors in (side.queries, side.documents)]
            decoded = [codec.decode(codes) for codes in coded]
            numbers = [_bucket_numbers(codec, codes) for codes in coded]
            scaled = [normalise(values / codec.quantizer_.levels_.std(axis=0)) for values in decoded]
            pairs = {"asymmetric": (queries, decoded[1]), "symmetric": decoded}
            pairs |= {"bucket numbers": numbers, "one scale": scaled}
            for scoring, (left, right) in pairs.items():
                values[bits, spacing, scoring] = ndcg(side.judge, left @ right.T)
                labels = {
                    "bits": bits,
                    "spacing": spacing,
                    "scoring": scoring,
                    "bytes_per_vector": codec.bytes_per_vector,
                }
                rows.append(retention_row(study, side, values[bits, spacing, scoring], **labels))
        for row in rows[-len(values) :]:
            other = values[row["bits"], "width", row["scoring"]]
            difference = study.interval("difference", values[row["bits"], row["spacing"], row["scoring"]], other)
            row.update(over_width=difference.estimate, over_width_low=difference.low, over_width_high=difference.high)
            row.update(over_width_p=np.nan if row["spacing"] == "width" else difference.p())
        for bits, spacing in codecs:
            kept.setdefault(f"equal {spacing}, {bits} bit", {})[side.task] = values[bits, spacing, "asymmetric"]
    for run, scores in kept.items():
        study.record(run, scores)
    return pd.DataFrame(rows)


def _bucket_numbers(codec, codes):
    buckets = unpack(codes, codec.bits, codec.dims).astype(np.float32)
    return normalise(buckets + 1)  # counting from one, so that no vector is all zeros


def bucket_quality(calibration: np.ndarray, vectors: np.ndarray) -> pd.DataFrame:
    """Per bits, spacing and dimension: entropy of the codes (bits), squared error relative to variance, skewness."""
    rows = []
    for bits in BITS:
        for spacing in SPACINGS:
            quantizer = PercentileQuantizer(bits, spacing).fit(calibration)
            buckets = quantizer.buckets(vectors)
            error = ((quantizer.decode(quantizer.encode(vectors)) - vectors) ** 2).mean(0) / vectors.var(0)
            measured = {
                "dim": np.arange(vectors.shape[1]),
                "entropy": bucket_entropy(buckets, bits),
                "relative_error": error,
            }
            rows.append(
                pd.DataFrame({"bits": bits, "spacing": spacing, **measured, "skewness": skew(calibration, axis=0)})
            )
    return pd.concat(rows, ignore_index=True)


def calibration_sizes(
    study: Study, found: dict[str, Side], decoder: Decoder, dims: int, sizes: list[int]
) -> pd.DataFrame:
    """Retention against the number of calibration passages; sizes below the number of buckets are left out."""
    calibration = study.joined("calibration")
    rows = []
    for size in sorted({min(size, len(calibration)) for size in sizes}):
        for bits in BITS:
            if size >= 2**bits:
                codec = PercentileCodec(dims, bits, decoder).fit(calibration[:size])
                rows += codec_rows(study, found, codec, symmetric=(False,), bits=bits, size=size)
    return pd.DataFrame(rows)


def calibration_texts(study: Study, found: dict[str, Side], decoder: Decoder, dims: int) -> pd.DataFrame:
    """Retention when the quantizer is calibrated on other text: held-out training text, one library of it, the corpus itself.

    The difference is paired against calibration on the held-out training text. The corpus is used without its queries
    and judgements.
    """
    calibration, groups = study.joined("calibration"), np.array(study.corpora.groups)
    texts = {"held-out text": calibration}
    texts |= {
        f"only {group}": calibration[groups == group] for group in np.unique(groups) if len(np.unique(groups)) > 1
    }
    rows, kept = [], {}
    for side in found.values():
        reference = {}
        for name, vectors in (texts | {"the corpus itself": side.documents}).items():
            for bits in (4, 1):
                if len(vectors) < 2**bits:
                    continue
                codec = PercentileCodec(dims, bits, decoder).fit(vectors)
                values = ndcg(side.judge, codec.project(side.queries) @ codec.decode(codec.encode(side.documents)).T)
                reference.setdefault(bits, values)
                if place := {"held-out text": "general text", "the corpus itself": "the corpus"}.get(name):
                    kept.setdefault(f"calibrated on {place}, {bits} bit", {})[side.task] = values
                difference = study.interval("difference", values, reference[bits])
                row = retention_row(study, side, values, bits=bits, calibration=name, passages=len(vectors))
                rows.append(
                    row
                    | {
                        "difference": difference.estimate,
                        "difference_low": difference.low,
                        "difference_high": difference.high,
                    }
                )
    for run, scores in kept.items():
        study.record(run, scores)
    return pd.DataFrame(rows)
