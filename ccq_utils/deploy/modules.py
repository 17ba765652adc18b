"""The concat as modules of sentence-transformers, and how a saved model of them is loaded.

Example:
    model = ConcatTransformer(modules=[Concat([one, other]), DecoderModule.of(trained), Normalize()])
    model.save_pretrained("folder")
    again = load_model("folder")
"""

import importlib
import json
import math
import re
import warnings
from pathlib import Path

import torch
from safetensors import SafetensorError
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import InputModule, Module
from sentence_transformers.sentence_transformer.modules import Normalize
from sentence_transformers.util import import_module_class, load_dir_path, load_file_path
from torch.nn import functional

from ccq_utils.codecs.decoder import Decoder
from ccq_utils.common.errors import StudyError

DOCUMENT_PROMPTS = ("document", "passage", "corpus")
"""Names under which sentence-transformers looks for the prompt of a document, in this order."""
FOLDER_NAME = re.compile(r"[\w-][\w.-]*")


class Concat(InputModule):
    """Texts -> the normalised vectors of all members, weighted, joined, normalised: ``(n, sum d_i) float32``.

    Each member keeps its own tokenizer, pooling, maximum length and prompts: ``encode_query`` and ``encode_document`` take
    each member's own prompt, ``encode`` its default one; a ``prompt`` that is given (and not empty) goes to all members.

    Args:
        members: SentenceTransformers, at least one.
        weights: One positive number per member; all the same where None.
        names: One folder name per member, used in errors and saved files; ``member_1``, ... where None.

    Raises:
        StudyError: No member, a member that cannot read texts by itself, members with different similarity functions, or
            weights or names that do not fit.
    """

    config_keys = ["names", "weights"]
    save_in_root = False
    forward_kwargs = {"task"}

    def __init__(self, members: list[SentenceTransformer], weights=None, names=None):
        super().__init__()
        members = list(members)
        if not members:
            raise StudyError("Concat needs at least one member; give a list of SentenceTransformers")
        self.names = [f"member_{number}" for number in range(1, len(members) + 1)] if names is None else list(names)
        self.weights = [1.0] * len(members) if weights is None else [float(weight) for weight in weights]
        self._check(members)
        self.members = torch.nn.ModuleList(members)
        self.dims = [member.get_embedding_dimension() or len(member.encode("text")) for member in members]
        self._said = set()

    def _check(self, members):
        count = len(members)
        if len(self.weights) != count or any(not (weight > 0 and math.isfinite(weight)) for weight in self.weights):
            raise StudyError(f"Concat: weights {self.weights} must be {count} positive numbers, one per member")
        if len(set(self.names)) != count or not all(FOLDER_NAME.fullmatch(name) for name in self.names):
            raise StudyError(f"Concat: names {self.names} must be {count} different folder names, one per member")
        for name, member in zip(self.names, members, strict=True):
            if not isinstance(member, SentenceTransformer):
                raise StudyError(f"Concat: {name!r} is a {type(member).__name__}; give SentenceTransformers")
            first = member[0]
            if not hasattr(first, "preprocess") or getattr(first, "tokenizer", first) is None:
                raise StudyError(
                    f"Concat: {name!r} has no tokenizer (its first module is {type(first).__name__});"
                    " a member must begin with a module that reads texts"
                )
        functions = {name: member.similarity_fn_name for name, member in zip(self.names, members, strict=True)}
        if len(set(functions.values())) > 1:
            raise StudyError(
                f"Concat: members were made for different similarity functions ({functions}); leave one out, or set"
                " similarity_fn_name of each to 'cosine' if that suits it"
            )
        if len(set(map(id, members))) < count:
            warnings.warn("Concat: the same member stands in it more than once; a weight does the same", stacklevel=4)

    def preprocess(self, inputs, prompt=None, task=None, **kwargs):
        """Every member's features, their keys preceded by the member's number; raises ``StudyError`` for what is no text."""
        for text in inputs:  # sorted by length by the library, so that a number would name the wrong one
            if not isinstance(text, str):
                raise StudyError(f"a text to encode is {text!r:.60} ({type(text).__name__}); give strings")
        if any(not text.strip() for text in inputs):
            self._say("an empty text has no meaning to search by; members give it an arbitrary or a zero vector")
        features = {}
        for number, member in enumerate(self.members):
            own = prompt or prompt_of(member, task)
            part = member.preprocess(list(inputs), prompt=own, task=task, **kwargs)
            self._say_if_truncated(self.names[number], member, [(own or "") + text for text in inputs], part)
            features |= {f"{number}.{key}": value for key, value in part.items()}
        return features

    def forward(self, features, task=None, **kwargs):
        """Members' vectors joined; one that is zero (an empty text) stays zero."""
        parts = []
        for number, (member, weight) in enumerate(zip(self.members, self.weights, strict=True)):
            start = f"{number}."
            own = {key.removeprefix(start): value for key, value in features.items() if key.startswith(start)}
            vectors = member(own, task=task)["sentence_embedding"][:, : self.dims[number]].float()
            parts.append(weight * functional.normalize(vectors, dim=-1))
        return {"sentence_embedding": functional.normalize(torch.cat(parts, dim=-1), dim=-1)}

    def _say(self, message):
        """Warn, once per message."""
        if message not in self._said:
            self._said.add(message)
            warnings.warn(message, stacklevel=2)

    def _say_if_truncated(self, name, member, texts, features):
        limit, count = _limit(member)
        message = f"texts longer than {limit} tokens are cut for member {name!r} only; other members read on"
        if limit is None or message in self._said:
            return
        mask = features.get("attention_mask")
        lengths = [limit] * len(texts) if mask is None else mask.sum(dim=1).tolist()
        if any(length >= limit and count(text) > limit for length, text in zip(lengths, texts, strict=True)):
            self._say(message)

    @property
    def max_seq_length(self):
        """Tokens past which no member reads; None where some member reads on to the end."""
        limits = [_limit(member)[0] for member in self.members]
        return None if None in limits else max(limits)

    @max_seq_length.setter
    def max_seq_length(self, value):
        raise StudyError("each member of a concat has its own limit; set model[0].members[0].max_seq_length and so on")

    def get_embedding_dimension(self):
        """Dimensions of the join."""
        return sum(self.dims)

    def save(self, output_path, *args, safe_serialization=True, **kwargs):
        """Config as JSON, each member as a SentenceTransformer in a folder of its own."""
        self.save_config(output_path)
        for name, member in zip(self.names, self.members, strict=True):
            folder = str(Path(output_path) / name)
            member.save(folder, create_model_card=False, safe_serialization=safe_serialization)

    @classmethod
    def load(cls, model_name_or_path, subfolder="", **kwargs):
        """Load what ``save`` wrote."""
        hub = hub_options(kwargs)
        config = cls.load_config(model_name_or_path, subfolder=subfolder, **hub)
        folder = load_dir_path(model_name_or_path, subfolder=subfolder, **hub)
        members = [load_model(Path(folder) / name, "cpu") for name in config["names"]]
        return cls(members, **config)


class DecoderModule(Decoder, Module):
    """The study's decoder as a module; follow it by ``Normalize()``.

    Args:
        in_dims: Dims of the concat.
        out_dims: Dims of the output.
        stops: Dims that it was trained to be cut to; None where any will do, as with PCA.
        shape: ``depth``, ``width``, ``dropout``, ``residual`` of ``Decoder``.
    """

    config_keys = ["in_dims", "out_dims", "depth", "width", "dropout", "residual", "stops"]

    def __init__(self, in_dims: int, out_dims: int, stops: list[int] | None = None, **shape):
        super().__init__(in_dims, out_dims, **shape)
        self.stops = None if stops is None else sorted(stops)

    @classmethod
    def of(cls, trained: Decoder, stops: list[int] | None = None) -> "DecoderModule":
        """A copy of a trained decoder."""
        module = cls(**trained.config, stops=stops)
        module.load_state_dict(trained.state_dict())
        return module.eval()

    def forward(self, features, **kwargs):
        """Decodes ``sentence_embedding``, without normalising it; a plain tensor gives a plain tensor."""
        if isinstance(features, torch.Tensor):
            return super().forward(features)
        features["sentence_embedding"] = super().forward(features["sentence_embedding"])
        return features

    def get_embedding_dimension(self):
        """Dims of the output."""
        return self.config["out_dims"]

    def get_config_dict(self):
        """Shape and stops."""
        return self.config | {"stops": self.stops}

    def save(self, output_path, *args, safe_serialization=True, **kwargs):
        """Shape as JSON, weights as safetensors."""
        self.save_config(output_path)
        self.save_torch_weights(output_path, safe_serialization=safe_serialization)

    @classmethod
    def load(cls, model_name_or_path, subfolder="", **kwargs):
        """Load what ``save`` wrote."""
        hub = hub_options(kwargs)
        module = cls(**cls.load_config(model_name_or_path, subfolder=subfolder, **hub))
        return cls.load_torch_weights(model_name_or_path, subfolder=subfolder, model=module, **hub).eval()


class ConcatTransformer(SentenceTransformer):
    """A SentenceTransformer that normalises what it truncates, and warns of a ``truncate_dim`` that is no stop.

    The library cuts the vectors that come out of the last module, ``Normalize`` included, so they become shorter than one.
    Cosines do not mind; dot products and int8 codes do.

    mteb and model cards call it by its members, ``concat/lexical+minilm``, unless ``model_card_data.model_name`` is set.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.model_card_data.model_name is None and isinstance(self[0], Concat):
            self.model_card_data.model_name = f"concat/{'+'.join(self[0].names)}"

    def encode(self, *args, truncate_dim: int | None = None, normalize_embeddings: bool = False, **kwargs):
        """As the library's, with vectors of length one also where they are truncated."""
        dims = self.truncate_dim if truncate_dim is None else truncate_dim
        if dims is not None and dims < self._full_dims():
            stops = next((module.stops for module in self if isinstance(module, DecoderModule)), [])
            if stops is not None and dims not in stops:
                made = f"its stops are {', '.join(map(str, stops))}" if stops else "it has no decoder, and so no stops"
                warnings.warn(f"truncate_dim {dims} is no stop of this model ({made}); expect less of it", stacklevel=2)
            normalize_embeddings = normalize_embeddings or isinstance(self[-1], Normalize | Concat)
        return super().encode(*args, truncate_dim=truncate_dim, normalize_embeddings=normalize_embeddings, **kwargs)

    def _full_dims(self):
        with self.truncate_embeddings(None):
            return self.get_embedding_dimension()


def with_modules(model: SentenceTransformer, modules: list, **settings) -> ConcatTransformer:
    """A model of other modules with a model's prompts, on its device."""
    prompts = {"prompts": dict(model.prompts), "default_prompt_name": model.default_prompt_name}
    return ConcatTransformer(modules=modules, device=str(model.device), **prompts, **settings)


CLASSES = {
    "Concat": "ccq_utils.deploy.modules.Concat",
    "DecoderModule": "ccq_utils.deploy.modules.DecoderModule",
    "Decoder": "ccq_utils.deploy.modules.DecoderModule",
    "Coded": "ccq_utils.deploy.coded.Coded",
    "LexicalEncoder": "ccq_utils.models.lexical.LexicalEncoder",
}
"""Modules of this package that a saved model may name, wherever they lay when it was saved, and where they lie now."""


def load_model(name_or_path: str | Path, device: str | None = None, **hub) -> SentenceTransformer:
    """A saved model of sentence-transformers' modules and of ours. No other code is run.

    ``SentenceTransformer(folder)`` would ask to trust remote code for every module outside its own package.

    Args:
        name_or_path: A folder or a hub id.
        device: As of SentenceTransformer; it chooses where None.
        hub: ``token``, ``cache_folder``, ``revision``, ``local_files_only``.

    Raises:
        StudyError: No saved model there, a file that is missing or damaged, or a module of any other package.
    """
    name = str(name_or_path)
    config = _read_json(name, "config_sentence_transformers.json", hub)
    modules, module_kwargs = [], {}
    options = dict.fromkeys(("model_kwargs", "processor_kwargs", "config_kwargs")) | {"backend": "torch"}
    for entry in _read_json(name, "modules.json", hub):
        module_class, folder = _module_class(name, entry["type"]), entry["path"]
        if Path(folder).is_absolute() or ".." in Path(folder).parts:
            raise StudyError(f"model {name}: module path {folder!r} leads out of its folder")
        try:
            modules.append(module_class.load(name, subfolder=folder, **hub, trust_remote_code=False, **options))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            problem = " ".join(str(error).split())[:200]
            raise StudyError(f"model {name}: {folder or 'its main folder'} cannot be read ({problem})") from error
        if entry.get("kwargs"):
            module_kwargs[str(len(modules) - 1)] = entry["kwargs"]
    names = ("prompts", "default_prompt_name", "similarity_fn_name", "truncate_dim")
    kind = ConcatTransformer if any(isinstance(module, Concat) for module in modules) else SentenceTransformer
    model = kind(modules=modules, device=device, **{key: config.get(key) for key in names})
    model.module_kwargs = module_kwargs or None
    return model


def _read_json(name, file, hub):
    try:
        path = load_file_path(name, file, **hub)
        if path is None:
            raise StudyError(f"model {name}: {file} is missing; give a folder that save_pretrained wrote, or a hub id")
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:  # not JSON, or not UTF-8, or no hub id
        raise StudyError(f"model {name}: {file} cannot be read ({error})") from error


def _module_class(name, reference):
    if reference.startswith("ccq_utils.") and (own := CLASSES.get(reference.rpartition(".")[2])):
        package, _, kind = own.rpartition(".")
        return getattr(importlib.import_module(package), kind)
    if not reference.startswith("sentence_transformers."):
        raise StudyError(
            f"model {name}: module {reference!r} is neither of sentence-transformers nor of ccq_utils; if you trust it, use"
            " SentenceTransformer(..., trust_remote_code=True)"
        )
    found = import_module_class(reference)
    if not (isinstance(found, type) and issubclass(found, torch.nn.Module)):
        raise StudyError(f"model {name}: {reference!r} is no module")
    return found


def hub_options(options: dict) -> dict:
    """Those of a module's ``load`` options that say where on the hub a file is."""
    return {key: options[key] for key in ("token", "cache_folder", "revision", "local_files_only") if key in options}


def prompt_of(member: SentenceTransformer, task: str | None) -> str | None:
    """The prompt that ``encode_query`` (task ``query``), ``encode_document`` or ``encode`` (None) of a member would use."""
    names = {"query": ("query",), "document": DOCUMENT_PROMPTS}.get(task, ())
    name = next((name for name in names if name in member.prompts), member.default_prompt_name)
    return member.prompts.get(name)


def _limit(member):
    """The tokens that a member reads at most, None if it reads all, and what counts the tokens of a text."""
    tokenizer = getattr(member[0], "tokenizer", None)
    if hasattr(tokenizer, "encode_batch"):  # of the package tokenizers: a static model
        cut = tokenizer.truncation
        return (
            cut["max_length"] if cut else None
        ), lambda text: math.inf if tokenizer.encode(text, add_special_tokens=False).overflowing else 0
    limit = member.max_seq_length
    if not callable(tokenizer) or limit is None or math.isinf(limit):
        return None, None
    return int(limit), lambda text: len(tokenizer(text, truncation=False, verbose=False)["input_ids"])
