"""How far a number of a table may move between two runs that agree (``ccq verify``).

The same study on another machine does not give the same digits: sums are added in another order, and training amplifies
that. A number may move by the largest of

* what was measured: the largest difference in its column between runs with other thread counts and processors, and with
  other seeds of the bootstrap (``data/spread.csv``; ``ccq spread`` measures it anew);
* ``FLOOR``, one query in 500 whose answer leaves the top ten; a loss or a share has a scale of its own, and may move by
  ``FLOOR_SHARE`` of its column's largest value;
* ``OWN_SHARE`` of itself, for losses and counts are not bounded by one as scores are;
* ``OWN_INTERVAL`` of half its own 95 % interval: a number that moves by a tenth of what its interval leaves open says the
  same as before. The interval's ends may move as much, which is three times the error that 2,000 resamples leave in them.

A spread over seeds moves as far as the scores that it is the spread of: seeds are few, and each of them moves on its own.
p-values have no tolerance; they follow from an estimate and its interval, which stand beside them.
"""

import numpy as np
import pandas as pd

from ccq_utils.common import paths
from ccq_utils.common.errors import StudyError

SPREAD = paths.ROOT / "data" / "spread.csv"
CAUSES = ("threads", "bootstrap")
FLOOR, FLOOR_SHARE, OWN_SHARE, OWN_INTERVAL = 0.002, 0.05, 0.005, 0.1
SCORES = ("estimate", "measured", "score", "ndcg_at_10", "validation")
"""Columns whose spread over seeds a column ``seed_spread`` holds."""


def read_spread() -> pd.DataFrame:
    """The measured spread, index (table, column), one column per cause."""
    if not SPREAD.is_file():
        raise StudyError(f"{SPREAD.name} is missing; run from a whole checkout, or measure it with `ccq spread`")
    return pd.read_csv(SPREAD).set_index(["table", "column"])


def is_p_value(column: str) -> bool:
    """Whether a column holds p-values."""
    return column == "p" or column.endswith("_p")


def allowed(committed: pd.DataFrame, column: str, table: str, spread: pd.DataFrame | float) -> np.ndarray:
    """How far each row's number may move, ``(rows,)``; see the module's head.

    Parameters
    ----------
    committed : the whole table; other columns hold the numbers' intervals
    table : its name, ``NN_name``
    spread : what ``read_spread`` gives, or one tolerance for all, relative to the column's largest number
    """
    values = committed[column].abs()
    largest = max(values.max(), 1e-9)
    if isinstance(spread, float):
        return np.full(len(committed), spread * largest)
    widest = max(_measured(table, column, spread), _floor(column, largest))
    if column.endswith("spread"):
        scores = [name for name in SCORES if name in committed]
        widest = max([FLOOR, widest, *(_measured(table, name, spread) for name in scores)])
    found = np.maximum(widest, OWN_SHARE * values.fillna(0).to_numpy())
    if pair := ends(column, committed):
        low, high = (committed[name].to_numpy(float) for name in pair)
        found = np.fmax(found, OWN_INTERVAL * (high - low) / 2)
    return found


def ends(column: str, committed: pd.DataFrame) -> tuple[str, str] | None:
    """The columns of the interval that a number is the estimate or an end of; None where it has none."""
    stem = column.removesuffix("low").removesuffix("high")
    names = {"estimate": "", "measured": "", "ndcg_at_10": "ndcg_"}
    prefixes = [stem if stem != column else names.get(column, f"{column}_"), f"{column}_"]
    pairs = [(f"{prefix}low", f"{prefix}high") for prefix in prefixes]
    return next((pair for pair in pairs if set(pair) <= set(committed)), None)


def _floor(column, largest):
    own_scale = column.endswith(("loss", "share"))
    return min(FLOOR, FLOOR_SHARE * largest) if own_scale else FLOOR


def _measured(table, column, spread):
    """The column's spread; what was not measured varies as what is most like it does.

    That is the column's table (a column may be named after a task of another profile); for a table that is younger than the
    measurement, columns of the same name anywhere, else the tables of its notebook.
    """
    largest = spread[list(CAUSES)].max(axis=1)
    tables, columns = largest.index.get_level_values("table"), largest.index.get_level_values("column")
    usual = ~columns.map(is_p_value)
    for chosen in (
        (tables == table) & (columns == column),
        (tables == table) & usual,
        columns == column,
        (tables.str[:2] == table[:2]) & usual,
    ):
        if chosen.any():
            return largest[chosen].max()
    raise StudyError(f"{SPREAD.name} has no entry that fits table {table!r}; measure it: `ccq spread`")
