"""How the percentile quantizer is calibrated, and what each choice costs (notebook 04)."""

import itertools

import numpy as np
import pandas as pd

from ccq_utils.codecs.decoder import Decoder
from ccq_utils.codecs.percentile import PercentileCodec
from ccq_utils.codecs.quantizer import BITS, SPACINGS, PercentileQuantizer, bucket_surprise, unpack
from ccq_utils.models.embed import normalise
from ccq_utils.study.retention import Side, codec_rows, codec_scores, ndcg, retention_row
from ccq_utils.study.stats import corrected_verdicts
from ccq_utils.study.study import Study


def quantizer_grid(study: Study, found: dict[str, Side], decoders: list[Decoder], dims: int) -> pd.DataFrame:
    """Retention for every number of bits, spacing and scoring, at the same stop.

    Scorings: ``asymmetric`` (float query), ``symmetric`` (both decoded), ``bucket numbers`` (both sides compared by the
    cosine of their bucket numbers, as if those were values), and ``one scale`` (both decoded, each dim divided by the
    spread of its levels: what bucket numbers do to the scale, without what they do to the values). ``float`` rows are
    the stop itself.
    ``over_width`` is the paired nDCG@10 difference to equal-width buckets at the same bits and scoring.
    """
    rows, kept = [], {}
    for side in found.values():
        each = [_grid_scores(side, decoder, study.joined("calibration"), dims) for decoder in decoders]
        values = {setting: np.stack([scored[setting] for scored in each]) for setting in each[0]}
        for (bits, spacing, scoring), scored in values.items():
            labels = {"bits": bits, "spacing": spacing, "scoring": scoring, "bytes_per_vector": dims * bits // 8}
            rows.append(retention_row(study, side, scored, **labels))
            if spacing == "none":
                continue
            difference = study.interval("difference", scored.mean(axis=0), values[bits, "width", scoring].mean(axis=0))
            named = difference.named("over_width") | {"over_width_p": difference.p()}
            rows[-1] |= named if spacing == "mass" else named | {"over_width_p": np.nan}
            if scoring == "asymmetric":
                kept.setdefault(f"equal {spacing}, {bits} bit", {})[side.task] = scored
    for run, scores in kept.items():
        study.record(run, scores)
    return pd.DataFrame(rows)


def _grid_scores(side, decoder, calibration, dims):
    """nDCG@10 per query for every (bits, spacing, scoring) of one decoder on one task."""
    queries, documents = decoder.transform(side.queries, dims), decoder.transform(side.documents, dims)
    values = {(32, "none", "float"): ndcg(side.judge, queries @ documents.T)}
    for bits, spacing in itertools.product(BITS, SPACINGS):
        codec = PercentileCodec(dims, bits, decoder, spacing=spacing).fit(calibration)
        coded = [codec.encode(vectors) for vectors in (side.queries, side.documents)]
        decoded = [codec.decode(codes) for codes in coded]
        pairs = {"asymmetric": (queries, decoded[1]), "symmetric": decoded}
        pairs["bucket numbers"] = [_bucket_numbers(codec, codes) for codes in coded]
        pairs["one scale"] = [normalise(part / codec.quantizer_.levels_.std(axis=0)) for part in decoded]
        for scoring, (left, right) in pairs.items():
            values[bits, spacing, scoring] = ndcg(side.judge, left @ right.T)
    return values


def _bucket_numbers(codec, codes):
    buckets = unpack(codes, codec.bits, codec.dims).astype(np.float32)
    return normalise(buckets + 1)  # counting from one, so that no vector is all zeros


def bucket_quality(study: Study, decoders: list[Decoder], documents: np.ndarray, dims: int) -> pd.DataFrame:
    """Entropy and error of the codes of documents that the quantizer never saw, per bits and spacing.

    ``entropy`` is in bits per dimension, ``relative error`` the squared error over the dimension's variance, both means
    over dimensions. Both are means over documents too (a document's part in the entropy is the surprise of its buckets,
    minus log2 of the share of documents in each), so that intervals resample documents; shares and variances are held
    fixed, as resampled shares would always be less even than measured ones. ``over_width`` is the paired difference to
    equal-width buckets. Averaged per document over the decoders; ``seed_spread`` is over them.
    """
    each = {}
    for decoder in decoders:
        calibration, vectors = (decoder.transform(part, dims) for part in (study.joined("calibration"), documents))
        for bits, spacing in itertools.product(BITS, SPACINGS):
            quantizer = PercentileQuantizer(bits, spacing).fit(calibration)
            for measure, values in _per_document(quantizer, vectors).items():
                each.setdefault((measure, bits, spacing), []).append(values)
    rows = []
    for (measure, bits, spacing), values in each.items():
        mean, equal_width = (np.mean(each[measure, bits, name], axis=0) for name in (spacing, "width"))
        difference = study.interval("difference", mean, equal_width)
        named = difference.named("over_width") | {"over_width_p": difference.p()}
        spread = {"seed_spread": np.mean(values, axis=1).std(ddof=1)}
        labels = {"measure": measure, "bits": bits, "spacing": spacing}
        rows.append(labels | study.interval("mean", mean)._asdict() | spread | named)
        if spacing == "width":
            rows[-1]["over_width_p"] = np.nan
    table = pd.DataFrame(rows)
    words = {"better": "larger", "worse": "smaller"}
    table["verdict"] = [words.get(word, word) for word in corrected_verdicts(table, "over_width")]
    table.loc[table["spacing"] == "width", "verdict"] = "reference"
    return table.rename(columns={"queries": "documents"})


def _per_document(quantizer, vectors):
    """Per document, mean over dimensions: surprise of its buckets (bits), squared error over the dimension's variance."""
    surprise = bucket_surprise(quantizer.buckets(vectors), quantizer.bits)
    error = (quantizer.decode(quantizer.encode(vectors)) - vectors) ** 2 / vectors.var(axis=0)
    return {"entropy": surprise.mean(axis=1), "relative error": error.mean(axis=1)}


def calibration_sizes(
    study: Study, found: dict[str, Side], decoders: list[Decoder], dims: int, sizes: list[int]
) -> pd.DataFrame:
    """Retention against the number of calibration passages; documents coded, queries in float.

    Every seed has its decoder and its draw of passages. Sizes below the number of buckets are left out.
    """
    calibration, seed = study.joined("calibration"), study.profile.seed
    draws = [np.random.default_rng(seed + number).permutation(calibration) for number in range(len(decoders))]
    rows = []
    for size in sorted({min(size, len(calibration)) for size in sizes}):
        for bits in BITS:
            if size >= 2**bits:
                codecs = [
                    PercentileCodec(dims, bits, decoder).fit(draw[:size])
                    for decoder, draw in zip(decoders, draws, strict=True)
                ]
                rows += codec_rows(study, found, codecs, symmetric=(False,), bits=bits, size=size)
    return pd.DataFrame(rows)


def calibration_texts(study: Study, found: dict[str, Side], decoders: list[Decoder], dims: int) -> pd.DataFrame:
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
        for (name, vectors), bits in itertools.product((texts | {"the corpus itself": side.documents}).items(), (4, 1)):
            if len(vectors) < 2**bits:
                continue
            codecs = [PercentileCodec(dims, bits, decoder).fit(vectors) for decoder in decoders]
            values = codec_scores({side.task: side}, codecs)[side.task]
            if place := {"held-out text": "general text", "the corpus itself": "the corpus"}.get(name):
                kept.setdefault(f"calibrated on {place}, {bits} bit", {})[side.task] = values
            mean = values.mean(axis=0)
            difference = study.interval("difference", mean, reference.setdefault(bits, mean))
            row = retention_row(study, side, values, bits=bits, calibration=name, passages=len(vectors))
            rows.append(row | difference.named("difference") | {"difference_p": difference.p()})
            if name == "held-out text":
                rows[-1]["difference_p"] = np.nan
    for run, scores in kept.items():
        study.record(run, scores)
    table = pd.DataFrame(rows)
    return table.assign(verdict=corrected_verdicts(table, "difference"))
