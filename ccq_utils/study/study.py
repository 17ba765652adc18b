"""What a notebook opens first: the profile's tasks, models and vectors, and the tables that notebooks pass on."""

import importlib.metadata
import json
import logging
import platform
import re
import warnings
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from ccq_utils.common import paths
from ccq_utils.common.cache import Cache, file_digest, writing_to
from ccq_utils.common.errors import StudyError
from ccq_utils.data import docstrings, tasks
from ccq_utils.data.corpora import Corpora, load_corpora
from ccq_utils.data.profile import TEXT_PARTS, load_profile
from ccq_utils.data.tasks import Task
from ccq_utils.models.base_models import load_models
from ccq_utils.models.embed import embed
from ccq_utils.models.vectors import concat
from ccq_utils.study import figures
from ccq_utils.study.metrics import Evaluator
from ccq_utils.study.stats import Interval, paired_interval

STEPS = {
    "01": "01_select_models",
    "02": "02_concatenation_gains",
    "03": "03_train_decoder",
    "04": "04_calibrate_quantization",
    "05": "05_stress_tests",
    "06": "06_open_questions",
    "07": "07_take_it_home",
    "08": "08_cost_and_scale",
}
SPLITS = ("validation", "test")


class Study:
    """A profile opened by one notebook.

    Parameters
    ----------
    profile : profile name or path of a YAML file
    step : the notebook's number, ``01`` to ``08``; its tables and figures carry it
    output : folder for tables and figures; empty for the checkout's ``data/results`` and ``figures``
    """

    def __init__(self, profile: str, step: str, output: str = ""):
        if step not in STEPS:
            raise StudyError(f"unknown step {step!r}; accepted: {', '.join(STEPS)}")
        quiet()
        figures.style()
        self.profile, self.step = load_profile(profile), step
        self.cache = Cache(paths.cache_folder())
        self.results = paths.results_folder(self.profile.name, output)
        self.figures = paths.figures_folder(self.profile.name, output)
        self._vectors: dict[tuple, np.ndarray] = {}
        self._runs: dict[str, pd.Series] = {}

    # ---- inputs -------------------------------------------------------------------------------------------------

    @cached_property
    def tasks(self) -> dict[str, Task]:
        """The profile's tasks by name, in the profile's order."""
        return {spec.name: self._task(spec) for spec in self.profile.tasks}

    def _task(self, spec):
        if spec.source.startswith("beir:"):
            return tasks.load_task(spec, self.profile.seed)
        libraries = ["mteb"] if spec.source.startswith("mteb:") else spec.libraries  # mteb's version pins the revision
        key = {"spec": spec.model_dump(), "seed": self.profile.seed, **self._text_versions(libraries)}

        def build(folder):
            task = tasks.load_task(spec, self.profile.seed)
            made = vars(task) | {"validation": sorted(task.validation)}
            (folder / "task.json").write_text(json.dumps(made))

        held = json.loads((self.cache.artifact("tasks", key, build) / "task.json").read_text())
        return Task(**held | {"validation": frozenset(held["validation"])})

    @cached_property
    def corpora(self) -> Corpora:
        """Training, calibration and validation text without judgements."""
        spec = self.profile.training
        if spec.source.startswith("jsonl:"):
            return load_corpora(spec, self.profile.seed)
        key = {"spec": spec.model_dump(), "seed": self.profile.seed, **self._text_versions(spec.libraries)}

        def build(folder):
            (folder / "corpora.json").write_text(json.dumps(asdict(load_corpora(spec, self.profile.seed))))

        return Corpora(**json.loads((self.cache.artifact("corpora", key, build) / "corpora.json").read_text()))

    def _text_versions(self, libraries):
        versions = {name: importlib.metadata.version({"sklearn": "scikit-learn"}.get(name, name)) for name in libraries}
        code = [file_digest(Path(module.__file__)) for module in (docstrings, tasks)]
        return {"versions": versions, "code": code, "python": platform.python_version_tuple()[:2]}

    @cached_property
    def models(self):
        """The profile's base models by name."""
        return load_models(self.profile, lambda: self.corpora, self.cache)

    @cached_property
    def selection(self) -> pd.DataFrame:
        """What notebook 01 chose: ``member`` and ``weight``, in the order of choice."""
        return self.read("01_selection")

    @property
    def members(self) -> list[str]:
        """Selected base models in the order of choice."""
        return list(self.selection["member"])

    # ---- vectors ------------------------------------------------------------------------------------------------

    def member_vectors(self, model: str, part: str, split: str | None = None) -> np.ndarray:
        """Vectors of one base model as the model gives them.

        Parameters
        ----------
        part : a task's name for its documents (or, with ``split``, its queries), or ``training``, ``calibration``,
            ``validation``, ``short``, ``long`` for the text without judgements (the last two are sides of pairs)
        """
        if (model, part, split) not in self._vectors:
            kind = "document" if split is None else "query"
            self._vectors[model, part, split] = embed(self.models[model], self.texts(part, split), self.cache, kind)
        return self._vectors[model, part, split]

    def texts(self, part: str, split: str | None = None) -> list[str]:
        """The texts behind ``member_vectors``, in the same order."""
        if part in self.tasks:
            task = self.tasks[part]
            return (
                list(task.documents.values())
                if split is None
                else [task.queries[name] for name in task.query_ids(split)]
            )
        if part in ("short", "long"):
            return [pair[part == "long"] for pair in self.corpora.pairs[: self.profile.open_questions.pairs]]
        if part in TEXT_PARTS:
            return getattr(self.corpora, part)
        raise StudyError(f"unknown part {part!r}; accepted: {', '.join([*self.tasks, *TEXT_PARTS])}")

    def joined(
        self, part: str, split: str | None = None, members=None, weights=None, normalised: bool = True
    ) -> np.ndarray:
        """The concat of a part of the text: of the selection with its weights, or of ``members`` (equal weights if None)."""
        if members is None:
            members, weights = self.members, list(self.selection["weight"])
        vectors = [self.member_vectors(member, part, split) for member in members]
        return concat(vectors, weights, normalised)

    def evaluator(self, task: str, split: str = "test") -> Evaluator:
        """The scorer of one task and split; a task without validation queries has only ``test``."""
        if (task, split) not in self._evaluators:
            raise StudyError(f"task {task!r} has no {split} queries; set validation_queries in the profile")
        return self._evaluators[task, split]

    @cached_property
    def _evaluators(self):
        return {
            (name, split): Evaluator(task, split)
            for name, task in self.tasks.items()
            for split in SPLITS
            if task.query_ids(split)
        }

    @property
    def tuning_tasks(self) -> list[str]:
        """Tasks with validation queries, on which choices are made."""
        return [name for name in self.tasks if (name, "validation") in self._evaluators]

    # ---- statistics ---------------------------------------------------------------------------------------------

    def interval(self, statistic: str, measured, reference=None) -> Interval:
        """``paired_interval`` with the profile's resamples and seed of the bootstrap; per-query scores, or a list by task.

        The mean of several tasks resamples tasks, then queries within each.
        """
        wrap = lambda scores: scores if isinstance(scores, list) or scores is None else [scores]  # noqa: E731
        drawn = (self.profile.resamples, self.profile.bootstrap_seed)
        return paired_interval(statistic, wrap(measured), wrap(reference), *drawn, resample_tasks=True)

    # ---- outputs ------------------------------------------------------------------------------------------------

    def save(self, table: pd.DataFrame, name: str) -> pd.DataFrame:
        """Write ``STEP_name.csv`` beside the other tables and return the table."""
        with writing_to(self.results):
            self.results.mkdir(parents=True, exist_ok=True)
            partial = self.results / f".{self.step}_{name}.partial"
            table.to_csv(partial, index=False, float_format="%.6g", lineterminator="\n")
            partial.replace(self.results / f"{self.step}_{name}.csv")
        return table

    def record(self, run: str, scores: dict[str, np.ndarray]) -> None:
        """Keep the per-query nDCG@10 of a named run in ``STEP_queries.parquet``: what claims are judged by.

        Parameters
        ----------
        run : its name
        scores : task -> one score per test query, in the order of the task's evaluator, or ``(seeds, queries)`` of what
            was repeated: kept as runs ``name #0``, ``name #1`` ...; the table's column ``query`` is the position among
            the sorted ids of the task's test queries
        """
        index = [(task, query) for task in scores for query in range(len(self.evaluator(task).query_ids))]
        index = pd.MultiIndex.from_tuples(index, names=["task", "query"])
        values = np.concatenate(list(scores.values()), axis=-1).astype(np.float32)
        for seed, each in enumerate(np.atleast_2d(values)):
            self._runs[f"{run} #{seed}" if values.ndim > 1 else run] = pd.Series(each, index)
        with writing_to(self.results):
            self.results.mkdir(parents=True, exist_ok=True)
            partial = self.results / f".{self.step}_queries.partial"
            pd.DataFrame(self._runs).reset_index().to_parquet(partial, index=False, compression="zstd")
            partial.replace(self.results / f"{self.step}_queries.parquet")

    def read(self, name: str) -> pd.DataFrame:
        """Read a table of an earlier notebook, for example ``01_selection``.

        Raises
        ------
        StudyError : it is not there; the message names the notebook to run.
        """
        path = self.results / f"{name}.csv"
        if not path.is_file():
            step = STEPS.get(name[:2], "the notebook that writes it")
            raise StudyError(
                f"table {name}.csv of profile {self.profile.name!r} is missing; run {step} first"
                f" (ccq run --profile {self.profile.name} --only {name[:2]})"
            )
        return pd.read_csv(path)

    def show(self, figure, name: str) -> None:
        """Save a figure as PNG and SVG under ``figures/PROFILE`` and display it."""
        figures.save_figure(figure, self.figures, f"{self.step}_{name}")
        figures.show(figure)


def quiet() -> None:
    """Progress bars and load reports of libraries stay out of executed notebooks; their errors do not."""
    warnings.filterwarnings("ignore", message=".*IProgress not found.*")
    for name in ("sentence_transformers", "transformers", "datasets", "model2vec", "httpx", "mteb", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)


def versions_table() -> pd.DataFrame:
    """Versions of Python and of the libraries that decide the numbers."""
    pattern = re.compile(
        r"^(torch|sentence-transformers|transformers|mteb|faiss-cpu|numpy|scipy|scikit-learn|pandas|model2vec|wordllama)$"
    )
    found = {
        dist.metadata["Name"]: dist.version
        for dist in importlib.metadata.distributions()
        if pattern.match(dist.metadata["Name"] or "")
    }
    rows = [("python", platform.python_version()), *sorted(found.items())]
    return pd.DataFrame(rows, columns=["package", "version"])
