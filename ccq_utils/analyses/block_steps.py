"""What each step of byte blocks is worth, what its constants were chosen by, and what an ideal code would keep."""

import itertools

import numpy as np
import pandas as pd

from ccq_utils.analyses.comparison import GOALS, OURS
from ccq_utils.codecs.byte_blocks import DIMS_PER_BIT, POWER, PRIOR, SCORES, BlockCodec, equalised_pca
from ccq_utils.codecs.ideal import Equalised, IdealCode
from ccq_utils.common.progress import progress
from ccq_utils.study.retention import Side, retention_rows, sides
from ccq_utils.study.scoring import PLACES, score_method, what_to_fit_on
from ccq_utils.study.stats import Interval
from ccq_utils.study.study import Study


def equalised(study: Study, found: dict[str, Side], powers=(0.0, 0.125, POWER, 0.5, 1.0)) -> pd.DataFrame:
    """The float concat, nothing coded, with its PCA dims divided by ``variance ** (power / 2)``; all dims are kept.

    Runs: ``equalised, PLACE`` at the power that byte blocks take.
    """
    rows, fittings = [], what_to_fit_on(study, found)
    for place, power in itertools.product(PLACES, powers):
        fit = lambda part, power=power: [part.fit(Equalised(power))]  # noqa: E731
        values, _ = score_method(study, found, fittings, place, {"equalised": power}, fit)
        if power == POWER:
            study.record(f"equalised, {place}", {task: scores[0] for task, scores in values.items()})
        rows += retention_rows(study, found, values, fitted_on=place, power=power)
    return pd.DataFrame(rows)


STEPS = {
    OURS: {},
    "scores not kept": {"neighbours": 0},
    "dims not equalised": {"neighbours": 0, "power": 0, "dims_per_bit": None},
    "centroids as they are": {"neighbours": 0, "unbiased": False},
    "blocks of equal width": {"neighbours": 0, "allocate": False},
}
"""Ablations of byte blocks, as settings of ``BlockCodec``."""
IDEAL = {"ideal code, unbiased": True, "ideal code, least error": False}
"""What the best codes of Gaussian dims would keep: with unbiased values, or with the least squared error. Real dims are no
Gaussians, so that a real code can do a little better than either."""
CHOICES = {
    "power": (0.0, 0.125, POWER, 0.5),
    "dims_per_bit": (0.75, DIMS_PER_BIT, 3.0),
    "neighbours": (0, 16, 48),
    "scores": (3.0, SCORES, 300.0),
    "prior": (1, PRIOR, 100),
}
"""Constants of byte blocks that were chosen, and the values that were tried."""
CHOSEN = {"power": POWER, "dims_per_bit": DIMS_PER_BIT, "neighbours": 16, "scores": SCORES, "prior": PRIOR}
"""What was chosen."""


def score_blocks(study: Study, found: dict[str, Side], fittings: dict, place: str, budget: int, seeds: int, **changed):
    """``score_method`` of byte blocks with settings changed, with the first ``seeds`` seeds."""
    changed = {name: value for name, value in changed.items() if value != CHOSEN.get(name, ...)}
    drawn = range(study.profile.seed, study.profile.seed + seeds)
    fit = lambda part: [part.fit(BlockCodec(budget, seed, **changed)) for seed in drawn]  # noqa: E731
    key = {"codec": OURS, "budget": budget, "seeds": seeds, **changed}
    return score_method(study, found, fittings, place, key, fit)


def choices(study: Study, factor: int = 96) -> pd.DataFrame:
    """Byte blocks on validation queries with one constant changed at a time: what they were chosen by.

    Rows per ``constant``, ``value`` and ``fitted_on`` with retention and interval (mean over tasks); the last three matter on
    one's own corpus only.
    """
    found, rows = sides(study, "validation"), []
    fittings, budget = what_to_fit_on(study, found), 4 * study.joined("calibration").shape[1] // factor
    tried = [(name, value) for name, values in CHOICES.items() for value in values]
    for name, value in progress(tried, "constants of byte blocks"):
        for place in PLACES if name in ("power", "dims_per_bit") else PLACES[1:]:
            values, _ = score_blocks(study, found, fittings, place, budget, study.profile.seeds, **{name: value})
            labels = {"constant": name, "value": value, "fitted_on": place, "factor": factor}
            rows.append(retention_rows(study, found, values, **labels)[-1])
    return pd.DataFrame(rows)


def ablation(study: Study, found: dict[str, Side]) -> pd.DataFrame:
    """What each step of byte blocks is worth, and how far the ideal code of Gaussian dims is; once per seed.

    Fitted on the own corpus; at the largest factor on general text as well. Runs: ``byte blocks, 192x`` and ``centroids
    as they are, 192x``, fitted on general text.
    """
    rows, fittings = [], what_to_fit_on(study, found)
    seeds, first = study.profile.seeds, study.profile.seed
    for factor, place in progress([*((factor, PLACES[1]) for factor in GOALS), (max(GOALS), PLACES[0])], "ablation"):
        budget = 4 * study.joined("calibration").shape[1] // factor
        scored = {
            name: score_blocks(study, found, fittings, place, budget, seeds, **changed)
            for name, changed in STEPS.items()
        }
        for name, unbiased in IDEAL.items():
            fit = lambda part, unbiased=unbiased, size=budget: [  # noqa: E731
                part.fit(IdealCode(size, unbiased, first + seed)) for seed in range(seeds)
            ]
            scored[name] = score_method(study, found, fittings, place, {"ideal": unbiased, "budget": budget}, fit)
        for name, (values, size) in scored.items():
            labels = {"factor": factor, "fitted_on": place, "step": name, "bytes_per_vector": size}
            rows += retention_rows(study, found, values, **labels)
            if place == PLACES[0] and name in (OURS, "centroids as they are"):
                study.record(f"{name}, {factor}x", values)
    return pd.DataFrame(rows)


def fading(study: Study, budget: int) -> pd.DataFrame:
    """How much of each PCA dim comes back when held-out text is coded: 1 is in full, 0 nothing; 64 neighbours at a time.

    Rows per ``method`` and ``dim`` (PCA dims of the training text, descending variance): ``share`` of the variance,
    ``kept`` = sum of true times decoded value over sum of true squared, with an interval over ``texts``; codecs are drawn
    once per seed and averaged. No step drops dims or scales them here.
    """
    training, held_out = study.joined("training"), study.joined("calibration")
    mean, basis, variances = equalised_pca(training, training, None, power=0)
    true, share, rows = (held_out - mean) @ basis, variances / variances.sum(), []
    groups = np.array_split(np.arange(len(share)), max(1, len(share) // 64))
    settings = {
        "unbiased": {},
        "centroids as they are": {"unbiased": False},
        "blocks of equal width": {"allocate": False},
    }
    for name, changed in settings.items():
        overlap = []
        for seed in range(study.profile.seeds):
            codec = BlockCodec(budget, study.profile.seed + seed, power=0, dims_per_bit=None, **changed)
            codec.fit(training, held_out)
            decoded = codec.decode(codec.encode(held_out)) @ codec.basis_.T @ basis
            overlap.append(np.stack([(true[:, dims] * decoded[:, dims]).sum(axis=1) for dims in groups]))
        for number, dims in enumerate(groups):
            each, whole = [part[number] for part in overlap], (true[:, dims] ** 2).sum(axis=1)
            *kept, texts = study.interval("retention", np.mean(each, axis=0), whole)
            spread = np.std([part.sum() / whole.sum() for part in each], ddof=1)
            named = Interval(*kept, texts).named("kept") | {"texts": texts, "seed_spread": spread}
            rows.append({"method": name, "dim": int(dims[0]), "share": share[dims].sum(), **named})
    return pd.DataFrame(rows)
