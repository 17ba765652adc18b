"""What a notebook opens first: the profile's tasks, models and vectors, and the tables that notebooks pass on."""

import importlib.metadata
import logging
import platform
import warnings
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from ccq_utils.common import paths
from ccq_utils.common.cache import LIBRARIES, Cache, file_digest
from ccq_utils.common.errors import StudyError
from ccq_utils.common.files import write_atomically
from ccq_utils.data.corpora import Corpora, load_corpora
from ccq_utils.data.profile import TEXT_PARTS, Profile, load_profile
from ccq_utils.data.tasks import Task, load_task
from ccq_utils.models.base_models import load_models
from ccq_utils.models.embed import embed
from ccq_utils.models.vectors import concat
from ccq_utils.study import figures
from ccq_utils.study.metrics import Evaluator
from ccq_utils.study.stats import summarise

NAMES = """primer select_models concatenation_gains train_decoder calibrate_quantization stress_tests open_questions
more_per_byte take_it_home"""
STEPS = {f"{number:02}": f"{number:02}_{name}" for number, name in enumerate(NAMES.split())}
"""Number of a notebook -> its name."""


class Study:
    """A profile, by its name, path or loaded already, opened by one notebook.

    Tables and figures carry the notebook's number ``step``, ``00`` to ``08``, empty for who only reads. They go to the folder
    ``output``; where it is empty, to the checkout's ``data/results`` and ``figures``.
    """

    def __init__(self, profile: str | Profile, step: str = "", output: str = ""):
        if not isinstance(step, str) or step and step not in STEPS:
            raise StudyError(f"unknown step {step!r}; accepted: {', '.join(STEPS)}")
        warnings.filterwarnings("ignore", message=".*IProgress not found.*")  # stays out of executed notebooks
        for name in "sentence_transformers transformers datasets model2vec httpx mteb huggingface_hub".split():
            logging.getLogger(name).setLevel(logging.ERROR)  # and load reports, but no errors
        figures.style()
        given = profile.name if isinstance(profile, Profile) else profile
        self.command = f"ccq run --profile {given}{f' --out {output}' if output else ''}"  # what makes its tables
        self.profile = profile if isinstance(profile, Profile) else load_profile(profile)
        self.step = step
        self.cache = Cache(paths.cache_folder())
        self.results, self.figures, _ = paths.folders(self.profile.name, output)
        self._vectors: dict[tuple, np.ndarray] = {}
        self._evaluators, self._scores = {}, []

    @cached_property
    def tasks(self) -> dict[str, Task]:
        """The profile's tasks by name, in the profile's order."""
        return {spec.name: self._task(spec) for spec in self.profile.tasks}

    def _task(self, spec):
        if not spec.source.startswith("mteb:"):
            return load_task(spec, self.profile.seed)

        key = {"spec": spec.model_dump(), "seed": self.profile.seed, "fields": [*Task.__dataclass_fields__]}
        key["mteb"] = importlib.metadata.version("mteb")  # which pins the revision of the task's data
        held = self.cache.json("task", key, lambda: vars(load_task(spec, self.profile.seed)))
        return Task(**held | {"validation": frozenset(held["validation"])})

    @cached_property
    def corpora(self) -> Corpora:
        """Training, calibration and validation text without judgements."""
        spec, seed = self.profile.training, self.profile.seed
        kind, _, place = spec.source.partition(":")
        if kind != "hub" and not Path(place).is_file():
            return load_corpora(spec, seed)
        key = {"spec": spec.model_dump(), "seed": seed} | ({} if kind == "hub" else {"file": file_digest(Path(place))})
        return Corpora(**self.cache.json("corpora", key, lambda: asdict(load_corpora(spec, seed))))

    @cached_property
    def models(self):
        """The profile's base models by name."""
        return load_models(self.profile, lambda: self.corpora, self.cache)

    @cached_property
    def selection(self) -> pd.DataFrame:
        """What notebook 01 chose: ``member``, in the order of choice, and ``share`` of each in the weighted concat."""
        return self.read("01_selection")

    @property
    def members(self) -> list[str]:
        """Selected base models in the order of choice."""
        return list(self.selection["member"])

    def member_vectors(self, model: str, text: str, split: str | None = None) -> np.ndarray:
        """Vectors of one base model as the model gives them, ``(n, dims) float32``.

        ``text`` is a task's name for its documents (or, with ``split``, its queries), or one of ``TEXT_PARTS``, embedded as
        queries where a ``split`` is given.
        """
        key = (model, text, split)
        if key not in self._vectors:
            kind, task = "document" if split is None else "query", self.tasks.get(text)
            ids = None if task is None else list(task.documents) if split is None else task.query_ids(split)
            self._vectors[key] = embed(self.models[model], self.texts(text, split), self.cache, kind, ids)
        return self._vectors[key]

    def texts(self, text: str, split: str | None = None) -> list[str]:
        """The texts behind ``member_vectors``, in the same order."""
        if task := self.tasks.get(text):
            return [task.queries[name] for name in task.query_ids(split)] if split else list(task.documents.values())
        if text in ("short", "long"):
            return [pair[text == "long"] for pair in self.corpora.pairs[: self.profile.open_questions.pairs]]
        if text in TEXT_PARTS:
            return getattr(self.corpora, text)
        raise StudyError(f"unknown text {text!r}; accepted: {', '.join([*self.tasks, *TEXT_PARTS])}")

    def concat(self, text: str, split: str | None = None, members=None, shares=None, normalised=True) -> np.ndarray:
        """The concat of a text, ``(n, D)``: of the selection or of ``members``; weighted where ``shares`` are given."""
        found = [self.member_vectors(member, text, split) for member in members or self.members]
        return concat(found, shares, normalised)

    def evaluator(self, task: str, split: str = "test") -> Evaluator:
        """The scorer of one task and split, made once."""
        if (task, split) not in self._evaluators:
            self._evaluators[task, split] = Evaluator(self.tasks[task], split)
        return self._evaluators[task, split]

    @property
    def tuning_tasks(self) -> list[str]:
        """Tasks with validation queries, on which choices are made."""
        if found := [name for name, task in self.tasks.items() if task.query_ids("validation")]:
            return found
        raise StudyError("no task has validation queries, on which models are chosen; set validation_queries of one")

    def summarise(self, scores: pd.DataFrame, by: list[str], reference=None, statistic="retention") -> pd.DataFrame:
        """``stats.summarise`` with the profile's resamples and seed of the bootstrap."""
        return summarise(scores, by, reference, statistic, self.profile.resamples, self.profile.bootstrap_seed)

    def save(self, table: pd.DataFrame, name: str) -> pd.DataFrame:
        """Write ``STEP_name.csv`` beside the other tables and return the table."""
        with write_atomically(self.results / f"{self.step}_{name}.csv") as path:
            table.to_csv(path, index=False, float_format="%.6g", lineterminator="\n")
        return table

    def record(self, scores: pd.DataFrame, **labels) -> pd.DataFrame:
        """Keep per-query scores for ``save_scores`` and return them; ``labels`` are further columns."""
        self._scores.append(scores.assign(**labels))
        return scores

    def save_scores(self) -> None:
        """Write all that was recorded to ``STEP_scores.parquet``, by which claims are judged; once, when all is there."""
        table = pd.concat(self._scores, ignore_index=True)
        for column in table.columns.drop("score"):
            table[column] = table[column].astype("category")
        with write_atomically(self.results / f"{self.step}_scores.parquet") as path:
            table.to_parquet(path, index=False, compression="zstd")

    def read(self, name: str) -> pd.DataFrame:
        """A table of an earlier notebook, for example ``01_selection``; where it is missing, the error says what to run."""
        path = self.results / f"{name}.csv"
        if not path.is_file():
            notebook = STEPS.get(name[:2], "the notebook that writes it")
            way = f"run {notebook} first ({self.command} --only {name[:2]})"
            raise StudyError(f"table {name}.csv of profile {self.profile.name!r} is missing; {way}")
        return pd.read_csv(path)

    def show(self, figure, name: str) -> None:
        """Save a figure as PNG and SVG under ``figures/PROFILE`` and display it."""
        figures.save_figure(figure, self.figures, f"{self.step}_{name}")
        figures.show(figure)


def versions_table() -> pd.DataFrame:
    """Versions of Python and of the libraries that decide the numbers."""
    deciding = {*LIBRARIES, "mteb", "pandas", "wordllama"} - {"tokenizers"}
    found = {dist.metadata["Name"]: dist.version for dist in importlib.metadata.distributions()}
    rows = [("python", platform.python_version()), *sorted(item for item in found.items() if item[0] in deciding)]
    return pd.DataFrame(rows, columns=["package", "version"])
