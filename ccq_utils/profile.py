"""Profiles: one YAML file that names the models, tasks, training text and budgets of a run.

Every key is validated; an unknown key or a wrong type raises one ``StudyError`` that names the key, the file and the
accepted values.
"""

from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ccq_utils.errors import StudyError
from ccq_utils.paths import PROFILES

ModelName = Literal["minilm", "lexical", "wordllama", "static", "model2vec"]
TASK_KINDS = ("docstrings:summary", "docstrings:see_also", "beir:PATH")
TEXT_KINDS = ("docstrings", "jsonl:PATH")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TaskSpec(_Strict):
    """One retrieval task.

    ``source`` is ``docstrings:summary``, ``docstrings:see_also`` or ``beir:PATH`` (a BEIR folder; a relative path is
    read from the profile's folder). ``exclude_self`` drops the document that carries the query's own id, as mteb does
    for ArguAna. ``allow_missing`` accepts judgements for documents that do not exist (ArguAna as published has five;
    they count as never found, as in mteb). ``max_queries`` keeps a seeded sample of
    the judged queries. So does ``max_documents`` of the documents: of a BEIR folder judged documents always stay; of
    docstrings entries are drawn before there are judgements, so that tasks over the same libraries share one corpus.
    """

    name: str
    source: str
    libraries: list[str] = []
    validation_queries: int = Field(0, ge=0)
    max_documents: int | None = Field(None, ge=1)
    max_queries: int | None = Field(None, ge=1)
    exclude_self: bool = False
    allow_missing: bool = False

    @field_validator("source")
    @classmethod
    def _known_source(cls, value):
        if value not in TASK_KINDS[:2] and not value.startswith("beir:"):
            raise ValueError(f"unknown task source {value!r}; accepted: {', '.join(TASK_KINDS)}")
        return value


class TextSpec(_Strict):
    """Text without judgements: ``docstrings`` of ``libraries``, or ``jsonl:PATH`` with a ``text`` per line.

    ``passages`` are for training; ``calibration`` and ``validation`` passages are set apart from them, by document.
    Passages have ``min_words`` to ``max_words`` words. ``pairs`` (short, long) train the static model.
    """

    source: str = "docstrings"
    libraries: list[str] = []
    passages: int = Field(6000, ge=100)
    pairs: int = Field(10000, ge=100)
    calibration: int = Field(1000, ge=256)
    validation: int = Field(500, ge=16)
    min_words: int = Field(30, ge=1)
    max_words: int = Field(90, ge=2)

    @field_validator("source")
    @classmethod
    def _known_source(cls, value):
        if value != "docstrings" and not value.startswith("jsonl:"):
            raise ValueError(f"unknown text source {value!r}; accepted: {', '.join(TEXT_KINDS)}")
        return value


class LexicalSpec(_Strict):
    """The lexical encoder: ``ngrams`` in characters, ``features`` hash buckets, ``dims`` after random projection.

    ``nonzeros`` is the number of dims that each bucket touches.
    """

    ngrams: tuple[int, int] = (3, 5)
    features: int = Field(2**16, ge=2**10)
    dims: int = Field(384, ge=8)
    nonzeros: int = Field(8, ge=1)


class StaticSpec(_Strict):
    """The static encoder trained here on (summary, body) pairs of the training text."""

    dims: int = Field(256, ge=8)
    epochs: int = Field(10, ge=1)
    batch_size: int = Field(256, ge=2)
    learning_rate: float = Field(0.05, gt=0)


class DecoderSpec(_Strict):
    """Decoder training: output ``dims``, truncation depths ``stops``, early stop after ``patience`` evaluations."""

    dims: int = Field(512, ge=1)
    stops: list[int] = [32, 64, 128, 256, 512]
    epochs: int = Field(20, ge=1)
    batch_size: int = Field(128, ge=2)
    learning_rate: float = Field(1e-3, gt=0)
    patience: int = Field(3, ge=1)
    ablation_epochs: int = Field(15, ge=1)

    @model_validator(mode="after")
    def _stops_fit(self):
        if not self.stops or sorted(set(self.stops)) != self.stops or self.stops[0] < 1:
            raise ValueError(f"stops must be ascending positive numbers without repeats, got {self.stops}")
        if self.stops[-1] > self.dims:
            raise ValueError(f"stop {self.stops[-1]} is larger than the decoder's {self.dims} dims")
        return self


class OpenQuestionsSpec(_Strict):
    """Notebook 06: ``pairs`` of text that learned fusion is fitted on, ``finetune_epochs`` after which the fine-tuned
    member is looked at.
    """

    pairs: int = Field(1000, ge=32)
    finetune_epochs: list[int] = [1, 5, 20]


class Profile(_Strict):
    """A whole run. ``large_model`` is the single baseline that joined small models are held against; what is trained
    for a comparison is trained with ``seeds`` seeds.
    """

    name: str
    description: str
    seed: int = 20251004
    models: list[ModelName] = Field(min_length=2)
    large_model: ModelName
    max_members: int = Field(4, ge=1)
    lexical: LexicalSpec = LexicalSpec()
    static: StaticSpec = StaticSpec()
    tasks: list[TaskSpec] = Field(min_length=1)
    training: TextSpec
    decoder: DecoderSpec = DecoderSpec()
    open_questions: OpenQuestionsSpec = OpenQuestionsSpec()
    budgets: list[int] = [512, 256, 128, 64, 32, 16]
    resamples: int = Field(1000, ge=100)
    seeds: int = Field(3, ge=2)

    @model_validator(mode="after")
    def _consistent(self):
        if self.large_model not in self.models:
            raise ValueError(f"large_model {self.large_model!r} is not among models {self.models}")
        if len(set(self.models)) != len(self.models):
            raise ValueError(f"models names one twice: {self.models}")
        names = [task.name for task in self.tasks]
        if len(set(names)) != len(names):
            raise ValueError(f"tasks names one twice: {names}")
        return self


def load_profile(name_or_path: str | Path) -> Profile:
    """Read ``notebooks/profiles/NAME.yaml``, or any YAML file by its path.

    Raises
    ------
    StudyError : no such profile, not YAML, an unknown key, a wrong type or an unknown name in it.
    """
    path = profile_path(name_or_path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StudyError(f"profile {path.name} is not readable YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise StudyError(
            f"profile {path.name} must hold keys and values; accepted keys: {', '.join(Profile.model_fields)}"
        )
    try:
        profile = Profile.model_validate(content)
    except ValidationError as error:
        raise StudyError(_explain(error, path)) from error
    return _absolute(profile, path.parent)


def profile_path(name_or_path: str | Path) -> Path:
    """The YAML file of a profile name or path; raises ``StudyError`` with the known names when there is none."""
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = PROFILES / f"{name_or_path}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(found.stem for found in PROFILES.glob("*.yaml")))
        raise StudyError(f"unknown profile {str(name_or_path)!r}; known: {known}; or give a path that ends in .yaml")
    return path.resolve()


def _explain(error, path):
    parts = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"]) or "profile"
        if problem["type"] == "extra_forbidden":
            parts.append(f"unknown key {key!r}; accepted: {', '.join(_fields_at(problem['loc'][:-1]))}")
        else:
            got = "" if problem["type"] == "missing" else f", got {problem['input']!r:.80}"
            parts.append(f"key {key!r}: {problem['msg'].removeprefix('Value error, ')}{got}")
    return f"profile {path.name}: " + "; ".join(parts)


def _fields_at(location):
    model = Profile
    for part in location:
        if isinstance(part, str):
            annotation = model.model_fields[part].annotation
            model = next(
                kind for kind in (annotation, *getattr(annotation, "__args__", ())) if hasattr(kind, "model_fields")
            )
    return model.model_fields


def _absolute(profile, folder):
    """Relative ``beir:`` and ``jsonl:`` paths are read from the folder of the profile's file."""

    def absolute(source):
        kind, _, path = source.partition(":")
        return f"{kind}:{(folder / path).resolve()}" if kind in ("beir", "jsonl") else source

    tasks = [task.model_copy(update={"source": absolute(task.source)}) for task in profile.tasks]
    training = profile.training.model_copy(update={"source": absolute(profile.training.source)})
    return profile.model_copy(update={"tasks": tasks, "training": training})
