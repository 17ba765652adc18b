"""``ccq bench``: every race of this package on one machine, one table; and the tables that were committed of a full one.

To add a part: a function of a study and a number of documents that returns the table of ``timing.race`` (more columns are
kept), and a line in ``PARTS``.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from ccq_utils import paths
from ccq_utils.bench_search import TWO_STEPS, search_speed
from ccq_utils.cache import writing_to
from ccq_utils.errors import StudyError
from ccq_utils.pipeline import FACTOR
from ccq_utils.run_report import processor
from ccq_utils.study import Study

FOLDER = paths.ROOT / "data" / "bench"
"""Tables of full runs of ``ccq bench`` that are committed, ``PART_DOCUMENTS.csv``."""
COLUMNS = (
    "part",
    "what",
    "documents",
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
    """

    run: Callable[[Study, int], pd.DataFrame]
    goals: dict[str, float] = field(default_factory=dict)


def search_part(study: Study, documents: int) -> pd.DataFrame:
    """Search at a 48th of the concat's bytes, of vectors drawn like those of the profile's training text."""
    like = study.joined("training")
    return search_speed(like, documents, max(1, 4 * like.shape[1] // FACTOR), seed=study.profile.seed)


PARTS = {"search": Part(search_part, {TWO_STEPS: 10.0})}
"""Name -> what ``ccq bench`` runs, in this order."""


def run(profile: str = "default", documents: int = 100_000, output: str = "", parts=None) -> list[Path]:
    """Run the parts and write ``PART_DOCUMENTS.csv`` of each; returns the files.

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
            written.append(folder / f"{name}_{documents}.csv")
            table.to_csv(written[-1], index=False, float_format="%.6g", lineterminator="\n")
    return written


def judged(name: str, table: pd.DataFrame) -> pd.DataFrame:
    """A part's table with its name, each way's ``goal``, and whether its lowest ratio ``reached`` it (empty without goal)."""
    goal = table["way"].map(PARTS[name].goals)
    ratio = table[[column for column in table if column.startswith("ratio")]].min(axis=1)
    reached = (ratio >= goal).map({True: "yes", False: "no"}).where(goal.notna(), "")
    return table.assign(part=name, goal=goal, reached=reached)


def committed(part: str, folder: Path = FOLDER) -> pd.DataFrame | None:
    """The committed tables of a part, all sizes, joined; None where there are none."""
    found = sorted(folder.glob(f"{part}_*.csv"), key=lambda path: int(path.stem.rpartition("_")[2]))
    return pd.concat([pd.read_csv(path) for path in found], ignore_index=True) if found else None


def shown(table: pd.DataFrame) -> str:
    """The columns that are compared, as text."""
    table = table[[name for name in COLUMNS if name in table]]
    return table.to_string(index=False, float_format="{:.4g}".format, na_rep="")
