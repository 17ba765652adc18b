"""Profiles: one YAML file that names the models, tasks, training text and budgets of a run; every key is validated."""

import re
import reprlib
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal, get_args

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, model_validator

from ccq_utils.common.errors import StudyError
from ccq_utils.common.paths import PROFILES, place_of

SHIPPED = ("minilm", "lexical", "wordllama", "static", "model2vec")  # need no hub; ``models.BUILDERS`` makes them
TEXT_PARTS = ("training", "calibration", "validation", "short", "long")  # no task can have such a name
Commit = Annotated[str, Field(pattern="^[0-9a-f]{40}$")]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=64)]  # it names folders
Line = Annotated[str, Field(pattern=r"^[^/\\]*[^\s/\\][^/\\]*$")]
Seed, Count = Annotated[int, Field(ge=0, lt=2**31)], Annotated[int, Field(ge=1)]


def _rising(values):
    if list(values) != sorted({*values} if isinstance(values, list) else values):
        raise ValueError("the numbers must be ascending")
    return values


Ascending = Annotated[list[Count], Field(min_length=1), AfterValidator(_rising)]


def _source(*accepted):
    """The type of a key that names a source; capitals stand for what follows the colon; paths start at the profile's file."""

    def check(value: str, info: ValidationInfo) -> str:
        if not re.fullmatch("|".join(re.sub("[A-Z]+", ".+", kind) for kind in accepted), value):
            raise ValueError(f"unknown source {value!r}; accepted: {', '.join(accepted)}")
        kind, _, path = value.partition(":")
        inside = info.context if kind in ("beir", "jsonl") else None
        return f"{kind}:{(inside / place_of(path, kind)).resolve()}" if inside else value

    return Annotated[str, AfterValidator(check)]


class Strict(BaseModel):
    """What is read from YAML: no unknown key, no value of another type, nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class HubModel(Strict):
    """A base model from the Hugging Face hub, written in ``models`` or ``larger`` as ``{name: ..., hub: ID, ...}``.

    What is left out comes from mteb's record of the model, then from its own sentence-transformers files.
    """

    hub: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    revision: Commit | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None
    max_length: int | None = Field(None, ge=8)
    pooling: Literal["mean", "cls", "max", "lasttoken"] | None = None
    licence: str | None = None


class TaskSpec(Strict):
    """One retrieval task: docstrings of ``libraries``, a BEIR folder, or mteb's data from the hub at the revision it pins.

    ``exclude_self`` and ``allow_missing`` are as of ``Task``; mteb's own tasks decide both. ``max_queries`` (of a BEIR
    folder or mteb: of the test) and ``max_documents`` keep seeded samples: of a BEIR folder judged documents always stay; of
    docstrings entries are drawn first, so that tasks over the same libraries share one corpus.
    """

    name: Line
    source: _source("docstrings:summary", "docstrings:see_also", "beir:PATH", "mteb:NAME")
    libraries: list[str] = []
    validation_queries: int = Field(0, ge=0)
    max_documents: int | None = Field(None, ge=1)
    max_queries: int | None = Field(None, ge=1)
    exclude_self: bool = False
    allow_missing: bool = False


class TextSpec(Strict):
    """Text without judgements: docstrings of ``libraries``, a file with a ``text`` per line, or a data set of the hub.

    ``passages`` of ``min_words`` to ``max_words`` words are for training, ``pairs`` (short, long) for the static model. The
    last five keys are of a data set: its ``split`` and ``config`` at a ``revision`` is streamed no further than needed.
    """

    source: _source("docstrings", "jsonl:PATH", "hub:DATASET") = "docstrings"
    libraries: list[str] = []
    passages: int = Field(6000, ge=100)
    pairs: int = Field(10000, ge=100)
    calibration: int = Field(1000, ge=256)
    validation: int = Field(500, ge=16)
    min_words: int = Field(30, ge=1)
    max_words: int = Field(90, ge=2)
    config: str | None = None
    split: str = "train"
    text_field: str = "text"
    title_field: str = "title"
    revision: Commit | None = None

    @model_validator(mode="after")
    def _consistent(self):
        if self.source.startswith("hub:") and self.revision is None:
            raise ValueError(f"{self.source} needs a revision (a commit of 40 hex digits), or its text may change")
        if self.min_words > self.max_words:
            raise ValueError(f"min_words {self.min_words} is more than max_words {self.max_words}")
        return self


class LexicalSpec(Strict):
    """The lexical encoder: ``ngrams`` of characters, hashed to ``features``; each touches ``nonzeros`` of ``dims``."""

    ngrams: Annotated[tuple[Count, Count], Field(strict=False), AfterValidator(_rising)] = (3, 5)
    features: int = Field(2**16, ge=2**10)
    dims: int = Field(384, ge=8)
    nonzeros: int = Field(8, ge=1)


class StaticSpec(Strict):
    """The static encoder trained here on (summary, body) pairs of the training text."""

    dims: int = Field(256, ge=8)
    epochs: int = Field(10, ge=1)
    batch_size: int = Field(256, ge=2)
    learning_rate: float = Field(0.05, gt=0)


class DecoderSpec(Strict):
    """Decoder training: at most ``dims`` outputs, truncation depths ``stops``, early stop after ``patience`` evaluations."""

    dims: int = Field(1024, ge=1)
    stops: Ascending = [32, 64, 128, 256, 512, 1024]
    epochs: int = Field(20, ge=1)
    batch_size: int = Field(128, ge=2)
    learning_rate: float = Field(1e-3, gt=0)
    patience: int = Field(3, ge=1)
    ablation_epochs: int = Field(30, ge=1)

    @model_validator(mode="after")
    def _stops_fit(self):
        if self.stops[-1] > self.dims:
            raise ValueError(f"stop {self.stops[-1]} is larger than the decoder's {self.dims} dims")
        return self


class FinetunedModel(HubModel):
    """A model from the hub that somebody trained further from ``base``, one of the profile's models."""

    name: Word
    base: str


class OpenQuestionsSpec(Strict):
    """Learned fusion is fitted on ``pairs`` of text; a fine-tuned member is ``finetuned``, or made in ``finetune_epochs``."""

    pairs: int = Field(600, ge=32)
    finetune_epochs: Ascending = [1, 3, 8]
    finetuned: FinetunedModel | None = None


class Profile(Strict):
    """A whole run. ``models`` are candidates for joining; those in ``larger`` are scored and compared, never joined.

    An entry of either is the name of a shipped model or a mapping with ``name`` and the keys of ``HubModel``, which ends up
    in ``hub_models``. ``large_model`` is the single baseline that joined small models are held against.
    """

    name: Word
    description: str
    seed: Seed = 20251004
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    models: list[str] = Field(min_length=2)
    larger: list[str] = []
    large_model: str
    hub_models: dict[str, HubModel] = {}
    max_members: int = Field(4, ge=2)
    lexical: LexicalSpec = LexicalSpec()
    static: StaticSpec = StaticSpec()
    tasks: list[TaskSpec] = Field(min_length=1)
    training: TextSpec
    decoder: DecoderSpec = DecoderSpec()
    open_questions: OpenQuestionsSpec = OpenQuestionsSpec()
    budgets: list[Count] = Field([256, 128, 64, 32, 16], min_length=1)
    resamples: int = Field(1000, ge=100)
    bootstrap_seed: Seed = 0
    seeds: int = Field(3, ge=2)

    @model_validator(mode="before")
    @classmethod
    def _names_of_models(cls, content):
        if not isinstance(content.get("hub_models", {}), dict):
            return content
        content, found = dict(content), dict(content.get("hub_models", {}))
        for key in ("models", "larger"):
            entries = content.get(key)
            for place, entry in enumerate(entries if isinstance(entries, list) else ()):
                if isinstance(entry, dict):
                    name = entry.get("name")
                    if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+", name) or name in SHIPPED:
                        problem = "needs a name of its own of letters, digits, '.', '-' and '_'"
                        raise ValueError(f"'{key}.{place}' {problem}, got {name!r}")
                    found[name] = {key: value for key, value in entry.items() if key != "name"}
                    content[key] = [*content[key][:place], name, *content[key][place + 1 :]]
        return content | ({"hub_models": found} if found else {})

    @property
    def scored_models(self) -> list[str]:
        """Candidates and larger baselines."""
        return [*self.models, *self.larger]

    @model_validator(mode="after")
    def _consistent(self):
        for key in ("models", "larger"):
            for place, name in enumerate(getattr(self, key)):
                if name not in (*SHIPPED, *self.hub_models):
                    accepted = f"{', '.join(map(repr, SHIPPED))}, or a mapping with name and hub (an id on the hub)"
                    raise ValueError(f"'{key}.{place}': unknown base model {name!r}; accepted: {accepted}")
        if (tuned := self.open_questions.finetuned) and tuned.base not in self.models:
            raise ValueError(f"the base {tuned.base!r} of {tuned.name!r} is not among models {self.models}")
        if self.large_model not in self.scored_models:
            raise ValueError(f"large_model {self.large_model!r} is not among models {self.scored_models}")
        for key, names in (("models", self.scored_models), ("tasks", [task.name for task in self.tasks])):
            if len(set(names)) != len(names):
                raise ValueError(f"{key} names one twice: {names}")
        if len(set(self.models) - {self.large_model}) < 2:
            raise ValueError(f"models hold no two beside large_model {self.large_model!r}, to join against it")
        if taken := {task.name for task in self.tasks} & set(TEXT_PARTS):
            raise ValueError(f"task name {taken.pop()!r} is that of a part of the text; name the task otherwise")
        return self


def load_profile(name_or_path: str | Path) -> Profile:
    """Read ``notebooks/profiles/NAME.yaml``, or any YAML file by its path; a mistake is one line that names file and key."""
    path = profile_path(name_or_path)
    content = read_yaml(path, f"profile {path.name}")
    try:
        profile = Profile.model_validate(content if isinstance(content, dict) else {}, context=path.parent)
    except ValidationError as error:
        raise StudyError(f"profile {path.name}: {explained(error)}") from error
    others = {found.stem.casefold() for found in PROFILES.glob("*.yaml") if found.resolve() != path}
    if profile.name.casefold() in others:
        raise StudyError(f"profile {path.name}: key 'name': {profile.name!r} is a shipped profile; choose another name")
    return profile


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value]
        if twice := [key for key, _ in node.value if keys.count(key.value) > 1]:
            lines = " and ".join(str(key.start_mark.line + 1) for key in twice if key.value == twice[0].value)
            raise yaml.YAMLError(f"key {twice[0].value!r} stands twice, in lines {lines}")
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, owner: str):
    """What a YAML file holds; a ``StudyError`` that begins with ``owner`` where it cannot be read or a key stands twice."""
    try:
        return yaml.load(path.read_text(encoding="utf-8-sig"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, OSError) as error:
        raise StudyError(f"{owner} is not readable YAML: {' '.join(str(error).split()):.300}") from error


def profile_path(name_or_path: str | Path) -> Path:
    """The YAML file of a profile name or path."""
    path = place_of(name_or_path, "profile")
    if path.suffix not in (".yaml", ".yml"):
        path = PROFILES / f"{name_or_path}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(found.stem for found in PROFILES.glob("*.yaml")))
        raise StudyError(f"unknown profile {str(name_or_path)!r}; known: {known}; or give a path that ends in .yaml")
    return path.resolve()


def explained(error: ValidationError, whole: str = "key 'profile'") -> str:
    """What is wrong with which key, in one line; ``whole`` names what no key is to blame for."""
    return "; ".join(_explained(problem, whole) for problem in error.errors())


def _explained(problem, whole):
    key, got = ".".join(map(str, problem["loc"])), f", got {reprlib.repr(problem['input'])}"
    if problem["type"] == "extra_forbidden":
        model = Profile
        for part in problem["loc"][:-1]:
            if part in model.model_fields:  # neither the place in a list nor the name of a model
                annotation = model.model_fields[part].annotation
                model = next(kind for kind in (annotation, *get_args(annotation)) if hasattr(kind, "model_fields"))
        near = get_close_matches(str(problem["loc"][-1]), model.model_fields, 1)
        near = f", perhaps {near[0]!r}" if near else ""
        return f"unknown key {key!r}{near}; accepted: {', '.join(model.model_fields)}"
    got = "" if problem["type"] in ("missing", "value_error") and isinstance(problem["input"], dict) else got
    return f"{f'key {key!r}' if key else whole}: {problem['msg'].removeprefix('Value error, ')}{got[:100]}"
