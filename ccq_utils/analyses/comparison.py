"""Ours and its peers at equal bytes, fitted on general text or on one's own corpus."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd

from ccq_utils.codecs.byte_blocks import BlockCodec
from ccq_utils.codecs.ideal import OnEqualised
from ccq_utils.codecs.peers import DRAWN, PEERS, make_peer
from ccq_utils.common.cache import fingerprint
from ccq_utils.common.errors import StudyError
from ccq_utils.common.progress import progress
from ccq_utils.study.retention import MACRO, Side, chosen_decoder, fitted_codecs, retention_rows, sides
from ccq_utils.study.scoring import PLACES, score_method, what_to_fit_on
from ccq_utils.study.stats import Interval, corrected_verdicts
from ccq_utils.study.study import Study

OURS = "byte blocks"
PAPER = "decoder"
EQUALISED = ("PQ", "RaBitQ, 1 bit", "TurboQuant, 1 bit", "binary, float query")
"""Peers that are run on equalised dims as well: the strongest of each kind."""
GOALS = {24: 0.995, 48: 0.98, 96: 0.95, 192: 0.88}
"""Compression factor -> retention that this study set out to reach, fitted on general text or on one's own corpus."""


def compare(study: Study, found: dict[str, Side], peers=tuple(PEERS)) -> pd.DataFrame:
    """Ours, the paper's decoder and hashing, every peer and every base model alone at the bytes of each goal, in both places.

    The decoder is trained on general text; on one's own corpus its quantizer is calibrated. What draws or trains something
    is made once per seed. Rows per ``factor``, ``fitted_on``, ``method`` and task (and their mean): bytes per vector,
    nDCG@10, retention with interval; ``ahead`` is ours minus the method, paired nDCG@10, with interval and p-value;
    ``verdict`` says whether ours is better or worse, after Holm's correction for all methods and tasks at the same factor
    and place. Runs: ``byte blocks, FACTORx, PLACE`` and ``peer PCA, rotated, FACTORx, PLACE``.
    """
    return _compared(study, found, methods_for(study, found, peers), record=(OURS, "PCA, rotated"))


def equalised_peers(study: Study, found: dict[str, Side], peers=EQUALISED) -> pd.DataFrame:
    """Peers on equalised dims, the first idea of byte blocks, which any codec can borrow: what do the others add to it?

    Rows as in ``compare``; ``METHOD, equalised`` is fitted on the concat whose PCA dims were divided by a power of their
    variance, as in ``ideal.Equalised``.
    """
    ways = {OURS: methods_for(study, found)[OURS]}
    ways |= {f"{name}, equalised": peer_way(study, found, name, equalised=True) for name in peers}
    return _compared(study, found, ways)


def _compared(study, found, ways, record=()):
    """Every way at the bytes of each goal in both places, ours first; ``record`` names those whose runs are kept."""
    rows = []
    for factor in progress(GOALS, "peers at each compression"):
        budget = 4 * study.joined("calibration").shape[1] // factor
        for place in PLACES:
            reference = None
            for name, way in ways.items():
                try:
                    values, size = way(place, budget)
                except StudyError:  # not to be had at this budget or from so few vectors; its rows are missing
                    continue
                if name == OURS:
                    reference = values
                if name in record:
                    study.record(f"{'' if name == OURS else 'peer '}{name}, {factor}x, {place}", values)
                labels = {"factor": factor, "fitted_on": place, "method": name, "bytes_per_vector": size}
                rows += _ahead(study, reference, values, retention_rows(study, found, values, **labels), name == OURS)
    return judged(pd.DataFrame(rows))


def judged(table: pd.DataFrame) -> pd.DataFrame:
    """The table with ``verdict``: a family of tests is all methods and tasks at one factor, fitted in one place."""
    families = [family for _, family in table.groupby(["factor", "fitted_on"], sort=False)]
    table = pd.concat([family.assign(verdict=corrected_verdicts(family, "ahead")) for family in families])
    table.loc[table["method"] == OURS, "verdict"] = "reference"
    return table


def methods_for(study: Study, found: dict[str, Side], peers=()) -> dict[str, Callable]:
    """Method -> function of (place, budget): nDCG@10 per task, ``(seeds, queries)``, and bytes per vector; ours first."""
    fittings, spec = what_to_fit_on(study, found), study.profile
    decoders = [chosen_decoder(study, number) for number in range(spec.seeds)]
    weights = [fingerprint(*(part.detach().numpy() for part in decoder.parameters())) for decoder in decoders]

    def codec(name, found=found, fittings=fittings, **key):
        def way(place, budget):
            fit = lambda part: fitted_codecs(study, name, budget, part.training, part.calibration, decoders)  # noqa: E731
            return score_method(
                study, found, fittings, place, {"codec": name, "budget": budget, "seeds": spec.seeds, **key}, fit
            )

        return way

    @cache
    def single(model):
        """A base model's own sides, held against the raw concat of all, and what to fit on."""
        own = sides(study, "test", [model])
        scored = {task: replace(side, reference=found[task].reference) for task, side in own.items()}
        return scored, what_to_fit_on(study, own, [model])

    def alone(model):
        def way(place, budget):
            fit = lambda part: [part.fit(BlockCodec(budget, spec.seed + seed)) for seed in range(spec.seeds)]  # noqa: E731
            return score_method(study, *single(model), place, {"one": OURS, "budget": budget}, fit)

        return way

    ways = {OURS: codec(OURS), PAPER: codec(PAPER, decoders=weights), "PCA, rotated": codec("PCA, rotated")}
    ways |= {"LSH": codec("LSH")} | {name: peer_way(study, found, name) for name in peers}
    ways |= {f"{model} alone, {OURS}": alone(model) for model in spec.models}
    return ways


def peer_way(study: Study, found: dict[str, Side], name: str, equalised: bool = False) -> Callable:
    """A peer as ``methods_for`` gives it, on equalised dims where asked for."""
    fittings, spec = what_to_fit_on(study, found), study.profile
    drawn = [spec.seed + seed for seed in range(spec.seeds if name in DRAWN else 1)]

    def make(dims, budget, seed):
        codec = make_peer(name, dims, budget, seed)
        return OnEqualised(codec) if equalised else codec

    def way(place, budget):
        fit = lambda part: [part.fit(make(part.training.shape[1], budget, seed)) for seed in drawn]  # noqa: E731
        return score_method(
            study, found, fittings, place, {"peer": name, "budget": budget, "equalised": equalised}, fit
        )

    return way


def _ahead(study, ours, values, rows, same):
    """Adds the paired difference of ours to a method's rows, per task and for their mean."""
    left, right = ([np.atleast_2d(part[task]).mean(axis=0) for task in values] for part in (ours, values))
    for row, pair in zip(rows, [*zip(left, right, strict=True), (left, right)], strict=False):
        found = study.interval("difference", *pair)
        row |= found.named("ahead")
        row["ahead_p"] = np.nan if same else found.p()
    return rows


def goals(table: pd.DataFrame) -> pd.DataFrame:
    """What was reached of the goals: ours in both places (mean over tasks) and the best other method, with intervals.

    ``reached`` looks at the better of ours; ``supported`` says whether its whole interval lies above the goal.
    ``better_than_ours`` names methods that are significantly better on some task, both fitted where ours is better,
    ``better_elsewhere`` those that are so where both are fitted in the other place.
    """
    rows, mean = [], table[table["task"] == table["task"].iloc[-1]].set_index(["factor", "fitted_on", "method"])
    interval = ["estimate", "low", "high"]
    for factor, goal in GOALS.items():
        ours = {place: mean.loc[(factor, place, OURS)] for place in PLACES}
        others = mean.loc[factor].drop(OURS, level="method")
        best = others["estimate"].idxmax()
        place = max(PLACES, key=lambda place: ours[place]["estimate"])
        row = {"factor": factor, "bytes_per_vector": ours[PLACES[0]]["bytes_per_vector"], "goal": goal}
        for name in PLACES:
            row |= Interval(*ours[name][interval], 0).named(name)
        row |= {"reached": ours[place]["estimate"] >= goal, "supported": ours[place]["low"] >= goal}
        row |= {"better_fitted_on": place, "best_other": f"{best[1]}, {best[0]}"}
        row |= Interval(*others.loc[best, interval], 0).named("best_other_retention")
        for column, where in (("better_than_ours", place), ("better_elsewhere", next(p for p in PLACES if p != place))):
            row[column] = _better(table[(table["factor"] == factor) & (table["fitted_on"] == where)])
        rows.append(row)
    return pd.DataFrame(rows)


def _better(table):
    """Methods that are significantly better than ours, with the tasks on which they are."""
    found = table[table["verdict"] == "worse"].groupby("method", sort=True)["task"].agg(", ".join)
    return "; ".join(f"{method} ({tasks})" for method, tasks in found.items()) or "none"


def macro(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the mean over tasks, or of the only task."""
    means = table["task"] == MACRO
    return table[means] if means.any() or table.empty else table[table["task"] == table["task"].iloc[0]]
