"""``ccq bench``: every race of this package on one machine, one table; and the tables that were committed of a full one.

To add a part: a function of a study and a number of documents that returns the table of ``timing.race`` (more columns are
kept), and a line in ``PARTS``.
"""

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from ccq_utils.analyses.bench_encoding import encoding_speed
from ccq_utils.analyses.bench_evaluation import against_bitbudget, against_mteb, fits_bitbudget
from ccq_utils.analyses.bench_search import PRODUCT, TWO_STEPS, search_speed
from ccq_utils.analyses.bench_training import WRITTEN, step_speed
from ccq_utils.common import paths
from ccq_utils.common.cache import writing_to
from ccq_utils.common.environment import processor
from ccq_utils.common.errors import StudyError
from ccq_utils.deploy.pipeline import FACTOR
from ccq_utils.models import encoding
from ccq_utils.study import figures
from ccq_utils.study.retention import sides
from ccq_utils.study.study import Study

FOLDER = paths.ROOT / "data" / "bench"
"""Tables of full runs of ``ccq bench`` that are committed."""
COLUMNS = (
    "what",
    "queries",
    "way",
    "seconds",
    "ratio",
    "ratio_to_product",
    "goal",
    "reached",
    "above_floor",
)
"""What is printed of a table, where it has it."""


@dataclass(frozen=True)
class Part:
    """One part of the bench.

    Parameters
    ----------
    run : (study, documents) -> a table with at least ``what``, ``way``, ``seconds`` and ``ratio``
    goals : way -> the ratio to the first way that it should reach
    sized : whether its table depends on the number of documents, and is named after it
    """

    run: Callable[[Study, int], pd.DataFrame]
    goals: dict[str, float] = field(default_factory=dict)
    sized: bool = False


def encoding_part(study: Study, documents: int = 0) -> pd.DataFrame:
    """Both precisions of ``encoding``, on documents of the first task; for the first transformer scored."""
    model = transformer(study)
    return encoding_speed(model.model, some(study, next(iter(study.tasks))), repeats=study.profile.cost.repeats)


def some(study: Study, part: str) -> list[str]:
    """As many texts of a part as the profile's notebook 08 encodes, from all over it."""
    texts, count = study.texts(part), study.profile.cost.texts
    return texts[:: max(1, len(texts) // count)][:count]


def transformer(study: Study):
    """The first base model of a profile that is a transformer.

    Raises
    ------
    StudyError : it has none.
    """
    for model in study.models.values():
        if encoding.transformers_of(model.model):
            return model
    raise StudyError(f"profile {study.profile.name!r} scores no transformer; the other models have one way to be run")


def training_part(study: Study, documents: int = 0) -> pd.DataFrame:
    """A step of the profile's own decoder, at its batch size."""
    spec = study.profile.decoder
    return step_speed(
        study.joined("training"), spec.dims, list(spec.stops), (spec.batch_size,), study.profile.cost.repeats
    )


def evaluation_part(study: Study, documents: int = 0) -> pd.DataFrame:
    """Settings of compression on validation queries: against mteb, and bitbudget where it can score a task."""
    found, tables, spec = sides(study, "validation"), [], study.profile.cost
    if importlib.util.find_spec("bitbudget") and (alike := [side for side in found.values() if fits_bitbudget(side)]):
        tables.append(against_bitbudget(alike[0], spec.settings, spec.repeats))
    tables.append(against_mteb(next(iter(found.values())), spec.settings, spec.repeats))
    return pd.concat(tables, ignore_index=True)


def search_part(study: Study, documents: int) -> pd.DataFrame:
    """Search at a 48th of the concat's bytes, of vectors drawn like those of the profile's training text."""
    like = study.joined("training")
    budget, repeats = max(1, 4 * like.shape[1] // FACTOR), study.profile.cost.repeats
    return search_speed(like, documents, budget, repeats=repeats, seed=study.profile.seed)


PARTS = {
    "encoding": Part(encoding_part, {"bfloat16": 3.5}),
    "training": Part(training_part, {WRITTEN: 3.0}),
    "evaluation": Part(evaluation_part, {"codec_scores": 5.0}),
    "search": Part(search_part, {TWO_STEPS: 10.0}, sized=True),
}
"""Name -> what ``ccq bench`` runs, in this order."""


def run(profile: str = "default", documents: int = 100_000, output: str = "", parts=None) -> list[Path]:
    """Run the parts and write ``PART.csv`` of each, ``PART_DOCUMENTS.csv`` where it is sized; returns the files.

    Parameters
    ----------
    profile : one whose notebook 01 has been run; its members' vectors are what is searched, encoded, trained on
    documents : how many are searched
    output : folder to write into; empty for ``data/bench``
    parts : some of ``PARTS``; all if None

    Raises
    ------
    StudyError : an unknown part, an unknown profile, or one that was not run.
    """
    if unknown := [name for name in parts or () if name not in PARTS]:
        raise StudyError(f"unknown part {unknown[0]!r} of the bench; known: {', '.join(PARTS)}")
    study, folder, written = Study(profile, "08"), Path(output) if output else FOLDER, []
    for name in parts or PARTS:
        load = os.getloadavg()[0]
        table = judged(name, PARTS[name].run(study, documents))
        table = table.assign(profile=study.profile.name, processor=processor(), load=load)
        with writing_to(folder):
            folder.mkdir(parents=True, exist_ok=True)
            written.append(folder / f"{name}{f'_{documents}' if PARTS[name].sized else ''}.csv")
            table.to_csv(written[-1], index=False, float_format="%.6g", lineterminator="\n")
    return written


def judged(name: str, table: pd.DataFrame) -> pd.DataFrame:
    """A part's table with its name, each way's ``goal``, and whether its lowest ratio ``reached`` it (empty without goal)."""
    goal = table["way"].map(PARTS[name].goals)
    ratio = table[[column for column in table if column.startswith("ratio")]].min(axis=1)
    reached = (ratio >= goal).map({True: "yes", False: "no"}).where(goal.notna(), "")
    return table.assign(part=name, goal=goal, reached=reached)


def goals(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """What had a goal in parts' tables: ``what``, ``way``, ``against``, ``ratio``, ``goal``, ``reached``, ``above_floor``.

    Where a way is held against two, the one that it beats by less; ``above_floor`` is how many times as long a search takes
    as reading its bytes once, NaN of what is no search.
    """
    rows = []
    for table in tables:
        for what, part in table.groupby(_what(table), sort=False):
            kept = part[part["goal"].notna()].assign(what=what, against=part["way"].iloc[0])
            if "ratio_to_product" in kept:
                kept["against"] = kept["against"].mask(kept["ratio_to_product"] < kept["ratio"], PRODUCT)
                kept["ratio"] = kept[["ratio", "ratio_to_product"]].min(axis=1)
            rows.append(kept.reindex(columns=["what", "way", "against", "ratio", "goal", "reached", "above_floor"]))
    return pd.concat(rows, ignore_index=True)


def _what(table):
    if "queries" not in table:
        return table["what"]
    count = table["queries"].map(lambda asked: "one query" if asked == 1 else f"{asked} at once")
    return table["what"] + table["documents"].map(" {:,} documents, ".format) + count


def goals_figure(table: pd.DataFrame):
    """Bars of ratios on a logarithmic axis, with the goals marked."""
    import matplotlib.pyplot as plt

    drawn, axis = plt.subplots(figsize=(9, 0.55 * len(table) + 1.6))
    table = table[::-1]
    names = table["what"] + "\n" + table["way"] + " against " + table["against"]
    shades = table["reached"].map({"yes": figures.PALETTE[0], "no": "#999999"})
    axis.barh(names, table["ratio"] - 1, left=1, color=shades)
    axis.axvline(1, color="#222222", lw=1)
    axis.plot(table["goal"], names, "|", color="#d55e00", ms=22, mew=3)
    for name, ratio in zip(names, table["ratio"], strict=True):
        axis.text(ratio, name, f" {ratio:.1f}", va="center", fontsize=10)
    reach = table[["ratio", "goal"]]
    ends = min(1, 0.7 * reach.min(axis=None)), 1.5 * reach.max(axis=None)
    axis.set(xscale="log", xlabel="times as fast (mark: goal)", xlim=ends)
    low, high = axis.get_xlim()
    figures.log_ticks(axis, [tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if low <= tick <= high])
    axis.tick_params(axis="y", labelsize=9)
    axis.grid(axis="y", visible=False)
    return drawn, axis


def readable(table: pd.DataFrame):
    """A part's table for a notebook."""
    digits = {"seconds": "{:.3g}", "low": "{:.3g}", "high": "{:.3g}", "ratio": "{:.2f}", "ratio_to_product": "{:.2f}"}
    digits |= {"goal": "{:g}", "reached": None, "bytes_per_vector": "{:g}", "above_floor": "{:.1f}", "found": "{:.3f}"}
    digits |= {"lowest_cosine": "{:.5f}", "loss_difference": "{:.2g}", "difference": "{:.2g}"}
    kept = {name: text for name, text in digits.items() if name in table}
    shown = table.assign(what=_what(table))[["what", "way", *kept]]
    return shown.style.hide().format({name: text for name, text in kept.items() if text}, na_rep="")


def committed(part: str, folder: Path = FOLDER) -> pd.DataFrame | None:
    """The committed tables of a part, all sizes, joined; None where there are none."""
    found = sorted(folder.glob(f"{part}_*.csv"), key=lambda path: int(path.stem.rpartition("_")[2]))
    return pd.concat([pd.read_csv(path) for path in found], ignore_index=True) if found else None


def shown(table: pd.DataFrame) -> str:
    """The columns that are compared, as text."""
    table = table[[name for name in COLUMNS if name in table]]
    return table.to_string(index=False, float_format="{:.4g}".format, na_rep="")
