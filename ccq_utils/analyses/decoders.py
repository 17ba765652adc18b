"""Decoder variants side by side, each trained with several seeds (notebooks 03 and 06)."""

import pandas as pd

from ccq_utils.common.progress import progress
from ccq_utils.study.retention import Side, decoder_scores, retention_rows, trained_decoder
from ccq_utils.study.study import Study


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
