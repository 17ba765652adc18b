"""Decoder variants side by side, each trained with several seeds (notebooks 03 and 06)."""

import numpy as np
import pandas as pd

from ccq_utils.codecs.decoder import fit_pca
from ccq_utils.codecs.percentile import widest
from ccq_utils.common.progress import progress
from ccq_utils.study.retention import Side, codec_scores, decoder_scores, fitted_codecs, retention_rows, trained_decoder
from ccq_utils.study.stats import corrected_verdicts
from ccq_utils.study.study import Study

NEIGHBOURS = 7
"""Nearest texts that stand beside each anchor of a near-neighbour batch: a batch of 128 holds 16 anchors."""
FACTORS = (48, 96, 192)
"""Compression factors at which ``compare_objectives`` codes what a decoder gives; codes are trained for the first."""
REFERENCES = {"over_pca": "PCA", "over_similarity": "similarity"}


def compare_decoders(
    study: Study,
    found: dict[str, Side],
    variants: dict[str, dict],
    stops: list[int],
    record: dict[int, str] | None = None,
) -> pd.DataFrame:
    """Retention per task, variant and stop, scores averaged per query over the profile's seeds.

    Parameters
    ----------
    variants : name -> settings of ``trained_decoder``
    record : stop -> how runs name it: per-query scores there are recorded as ``VARIANT, NAME #SEED``

    Returns
    -------
    ``retention_rows`` with ``decoder`` and ``stop``.
    """
    rows = []
    for name, settings in progress(variants.items(), "decoder variants"):
        decoders = [trained_decoder(study, **settings, seed=seed)[0] for seed in range(study.profile.seeds)]
        kept = [stop for stop in stops if stop <= decoders[0].config["out_dims"]]
        scores = decoder_scores(found, decoders, kept)
        for stop in kept:
            values = {task: scores[task, stop] for task in found}
            rows += retention_rows(study, found, values, decoder=name, stop=stop)
            if stop in (record or {}):
                study.record(f"{name}, {record[stop]}", values)
    return pd.DataFrame(rows)


def training_curves(study: Study, variants: dict[str, dict]) -> pd.DataFrame:
    """Losses per epoch of each variant and seed: ``decoder``, ``seed``, ``epoch``, ``training_loss``, ``validation_loss``."""
    return pd.concat(
        [
            trained_decoder(study, **settings, seed=seed)[1].assign(decoder=name, seed=seed)
            for name, settings in variants.items()
            for seed in range(study.profile.seeds)
        ],
        ignore_index=True,
    )


def overfitting(curves: pd.DataFrame) -> pd.DataFrame:
    """Per variant and seed, at the last epoch: ``rise`` (held-out loss over its lowest), ``gap`` (held-out over training)."""
    rows = []
    for (name, seed), part in curves.groupby(["decoder", "seed"], sort=False):
        last = part.iloc[-1]
        rise = last["validation_loss"] / part["validation_loss"].min()
        rows.append(
            {"decoder": name, "seed": seed, "rise": rise, "gap": last["validation_loss"] / last["training_loss"]}
        )
    return pd.DataFrame(rows)


def objectives(study: Study) -> dict[str, dict]:
    """Name -> settings of ``trained_decoder``, all from the PCA start: each idea that might beat it, with either loss."""
    in_dims = study.joined("validation").shape[1]
    bits = widest(min(study.profile.decoder.dims, in_dims), 4 * in_dims // FACTORS[0])[1]
    losses = {"similarity": {}, "ranking": {"loss": "ranking"}}
    ideas = {
        "": {},
        ", near batches": {"neighbours": NEIGHBOURS},
        ", queries too": {"queries": True},
        ", coded": {"bits": bits},
    }
    crossed = {
        f"{name}{idea}": {"start": "PCA"} | loss | settings
        for name, loss in losses.items()
        for idea, settings in ideas.items()
    }
    return crossed | {"near pairs": {"start": "PCA", "loss": "near pairs"}}


def compare_objectives(
    study: Study, found: dict[str, Side], variants: dict[str, dict], stops: list[int]
) -> pd.DataFrame:
    """Uncentred PCA and decoders that were trained from it, in float at each stop and coded, in the mean over tasks.

    Documents are coded by the codec *decoder, rotated* at ``FACTORS``, queries stay in float; scores are averaged per query
    over the profile's seeds.

    Parameters
    ----------
    variants : name -> settings of ``trained_decoder``, among them ``similarity``

    Returns
    -------
    Per ``decoder`` and ``place`` (``64 dims``, ``48x``): ``bytes_per_vector``, ``retention`` with interval, ``over_pca`` and
    ``over_similarity``, the paired differences of nDCG@10 to plain PCA and to the paper's loss, with verdicts that
    hold for all rows together.
    """
    training, seeds = study.joined("training"), range(study.profile.seeds)
    pca = fit_pca(training, min(study.profile.decoder.dims, training.shape[1]))
    values = {"PCA": _float_and_coded(study, found, [pca for _ in seeds], stops)}
    for name, settings in progress(variants.items(), "objectives"):
        decoders = [trained_decoder(study, **settings, seed=seed)[0] for seed in seeds]
        values[name] = _float_and_coded(study, found, decoders, stops)
    raw, rows = [side.reference for side in found.values()], []
    for name, places in values.items():
        for (place, size), scores in places.items():
            retention = study.interval("retention", scores, raw)
            row = {"decoder": name, "place": place, "bytes_per_vector": size, **retention.named("retention")}
            row["queries"] = retention.queries
            for column, reference in REFERENCES.items():
                against = study.interval("difference", scores, values[reference][place, size])
                compared = name not in ("PCA", reference)
                row |= {**against.named(column), f"{column}_p": against.p() if compared else np.nan}
            rows.append(row)
    table = pd.DataFrame(rows)
    return table.assign(**{f"{column}_verdict": corrected_verdicts(table, column) for column in REFERENCES})


def _float_and_coded(study, found, decoders, stops):
    """(place, bytes per vector) -> per task, nDCG@10 per query, averaged over seeds."""
    kept = [stop for stop in stops if stop <= decoders[0].config["out_dims"]]
    in_float = decoder_scores(found, decoders, kept)
    values = {(f"{stop} dims", 4 * stop): {task: in_float[task, stop] for task in found} for stop in kept}
    for factor in FACTORS:
        budget = 4 * decoders[0].config["in_dims"] // factor
        codecs = fitted_codecs(study, "decoder, rotated", budget, decoders=decoders)
        values[f"{factor}x", codecs[0].bytes_per_vector] = codec_scores(found, codecs)
    return {place: [scores[task].mean(axis=0) for task in found] for place, scores in values.items()}


def better_objective(table: pd.DataFrame) -> str | None:
    """The variant that is better than plain PCA and than the paper's loss at the first of ``FACTORS``, if there is one."""
    coded = table[table["place"] == f"{FACTORS[0]}x"]
    better = coded[(coded["over_pca_verdict"] == "better") & (coded["over_similarity_verdict"] == "better")]
    return None if better.empty else better.loc[better["over_pca"].idxmax(), "decoder"]
