"""Decoder variants side by side, each trained with several seeds (notebooks 03 and 06)."""

import numpy as np
import pandas as pd

from ccq_utils.compress import Side, ndcg, retention_row, trained_decoder
from ccq_utils.embed import normalise
from ccq_utils.progress import progress
from ccq_utils.study import Study


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
    Rows with ``decoder``, ``stop``, retention with interval, and ``seed_spread``: the standard deviation of the
    retention over seeds.
    """
    rows = []
    for name, settings in progress(variants.items(), "decoder variants"):
        decoders = [trained_decoder(study, **settings, seed=seed)[0] for seed in range(study.profile.seeds)]
        kept = [stop for stop in stops if stop <= decoders[0].config["out_dims"]]
        scores = {
            (task, stop, seed): ndcg(side.judge, normalise(queries[:, :stop]) @ normalise(documents[:, :stop]).T)
            for task, side in found.items()
            for seed, decoder in enumerate(decoders)
            for queries, documents in [(decoder.transform(side.queries), decoder.transform(side.documents))]
            for stop in kept
        }
        for stop in kept:
            for task, side in found.items():
                each = np.stack([scores[task, stop, seed] for seed in range(len(decoders))])
                spread = (each.mean(axis=1) / side.reference.mean()).std(ddof=1)
                rows.append(
                    retention_row(study, side, each.mean(axis=0), decoder=name, stop=stop) | {"seed_spread": spread}
                )
            if stop in (record or {}):
                for seed in range(len(decoders)):
                    study.record(f"{name}, {record[stop]} #{seed}", {task: scores[task, stop, seed] for task in found})
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
