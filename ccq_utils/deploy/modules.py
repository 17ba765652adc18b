"""The concat as modules of sentence-transformers, and how a saved model of them is loaded.

model = ConcatTransformer(modules=[Concat([one, other]), DecoderModule.of(trained), Normalize()])
"""

import importlib
import json
import math
import re
import warnings
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import InputModule, Module
from sentence_transformers.sentence_transformer.modules import Normalize
from sentence_transformers.util import import_module_class, load_dir_path, load_file_path
from torch.nn import functional

from ccq_utils.codecs.decoder import Decoder
from ccq_utils.codecs.files import check_links, reading
from ccq_utils.common.errors import StudyError

CLASSES = {"Concat": __name__, "DecoderModule": __name__, "Coded": "ccq_utils.deploy.coded"}
CLASSES["LexicalEncoder"] = "ccq_utils.models.lexical"
"""Modules of this package that a saved model may name, wherever they lay when it was saved, and where they lie now."""
PROMPTS = {"query": ["query"], "document": ["document", "passage", "corpus"]}
"""Names of the prompts that ``encode_query`` and ``encode_document`` look for, in the library's order."""


class Concat(InputModule):
    """Texts -> all members' normalised vectors, joined by ``shares`` of the cosine (equal where None), of length one.

    Each member keeps its own tokenizer, pooling, maximum length and prompts: ``encode_query`` and ``encode_document`` take
    each member's own prompt, ``encode`` its default one; a ``prompt`` that is given (and not empty) goes to all members.
    ``names`` are those of the folders that members are saved in.
    """

    config_keys = ["names", "shares"]
    save_in_root = False
    forward_kwargs = {"task"}

    def __init__(self, members: list[SentenceTransformer], shares=None, names=None):
        super().__init__()
        if not (count := len(members)):
            raise StudyError("Concat needs at least one member; give a list of SentenceTransformers")
        self.names = list(names or (f"member_{number}" for number in range(1, count + 1)))
        self.shares = [float(share) for share in shares or [1] * count]
        if len(self.shares) != count or not all(0 < share < math.inf for share in self.shares):
            raise StudyError(f"Concat: shares {self.shares} must be {count} positive numbers, one per member")
        _check_names(self.names, count)
        functions = {name: member.similarity_fn_name for name, member in zip(self.names, members, strict=True)}
        if len(set(functions.values())) > 1:
            raise StudyError(f"Concat: members were made for different similarity functions ({functions})")
        self.members = torch.nn.ModuleList(members)
        self.dims = [member.get_embedding_dimension() or len(member.encode("text")) for member in members]

    def preprocess(self, inputs, prompt=None, task=None, **kwargs):
        """Every member's features, their keys preceded by the member's number."""
        features = {}
        for number, member in enumerate(self.members):
            known = [name for name in PROMPTS.get(task, []) if name in member.prompts]
            own_prompt = member.prompts.get(known[0] if known else member.default_prompt_name)
            own = member.preprocess(list(inputs), prompt=prompt or own_prompt, task=task, **kwargs)
            features |= {f"{number}.{key}": value for key, value in own.items()}
        return features

    def forward(self, features, task=None, **kwargs):
        """Members' vectors joined; one that is zero (an empty text) stays zero."""
        parts = []
        for number, (member, dims, share) in enumerate(zip(self.members, self.dims, self.shares, strict=True)):
            own = {key.partition(".")[2]: features[key] for key in features if key.startswith(f"{number}.")}
            vectors = member(own, task=task)["sentence_embedding"][:, :dims].float()
            parts.append(share**0.5 * functional.normalize(vectors, dim=-1))
        return {"sentence_embedding": functional.normalize(torch.cat(parts, dim=-1), dim=-1)}

    @property
    def max_seq_length(self):
        """Tokens past which no member reads; infinity where some member reads on to the end."""
        limits = [member.max_seq_length for member in self.members]
        return math.inf if None in limits else max(limits)

    def get_embedding_dimension(self):
        """Dims of the concat."""
        return sum(self.dims)

    def save(self, output_path, *args, **kwargs):
        """Config as JSON, each member as a SentenceTransformer in a folder of its own."""
        self.save_config(output_path)
        for name, member in zip(self.names, self.members, strict=True):
            member.save(str(Path(output_path) / name), create_model_card=False)

    @classmethod
    def load(cls, model_name_or_path, subfolder="", **kwargs):
        """What ``save`` wrote."""
        folder = load_dir_path(model_name_or_path, subfolder=subfolder, **hub_options(kwargs))
        config = cls.load_config(folder)
        if weights := config.pop("weights", None):  # models of earlier releases hold scales of vectors
            config["shares"] = [weight**2 for weight in weights]
        _check_names(config["names"], len(config["names"]))
        return cls([load_model(Path(folder) / name, "cpu") for name in config["names"]], **config)


class DecoderModule(Decoder, Module):
    """The study's decoder as a module, with the ``stops`` to cut it to (None: any); follow it by ``Normalize()``."""

    def __init__(self, in_dims: int, out_dims: int, stops: list[int] | None = None, **shape):
        super().__init__(in_dims, out_dims, **shape)
        self.stops = None if stops is None else sorted(stops)

    @classmethod
    def of(cls, trained: Decoder, stops: list[int] | None = None) -> "DecoderModule":
        """A copy of a trained decoder."""
        module = cls(**trained.config, stops=stops)
        module.load_state_dict(trained.state_dict())
        return module.eval()

    def forward(self, features, dims=None, **kwargs):
        """Decodes ``sentence_embedding``, without normalising it; a plain tensor gives a plain tensor."""
        if isinstance(features, torch.Tensor):
            return super().forward(features, dims)
        return features | {"sentence_embedding": super().forward(features["sentence_embedding"])}

    def get_embedding_dimension(self):
        """Dims of the output."""
        return self.config["out_dims"]

    def get_config_dict(self):
        """Shape and stops."""
        return self.config | {"stops": self.stops}

    def save(self, output_path, *args, **kwargs):
        """Shape as JSON, weights as safetensors."""
        self.save_config(output_path)
        self.save_torch_weights(output_path)

    @classmethod
    def load(cls, model_name_or_path, subfolder="", **kwargs):
        """What ``save`` wrote."""
        where = {"model_name_or_path": model_name_or_path, "subfolder": subfolder, **hub_options(kwargs)}
        with torch.device("meta"):  # shapes alone: a config may state any size, memory is taken for what the file holds
            module = cls(**cls.load_config(**where))
        module.load_state_dict(cls.load_torch_weights(**where), assign=True)
        return module.eval()


class ConcatTransformer(SentenceTransformer):
    """A SentenceTransformer that normalises what it truncates, and warns of a ``truncate_dim`` that is no stop.

    The library truncates after ``Normalize``; cosines do not mind, dot products and int8 codes do.
    """

    def encode(self, *args, truncate_dim: int | None = None, normalize_embeddings: bool = False, **kwargs):
        """As the library's, with vectors of length one also where they are truncated."""
        dims = self.truncate_dim if truncate_dim is None else truncate_dim
        if dims is not None:
            stops = next((module.stops for module in self if isinstance(module, DecoderModule)), None)
            if stops and dims not in stops:
                warnings.warn(f"truncate_dim {dims} is no stop of this model's decoder ({stops})", stacklevel=2)
            normalize_embeddings = normalize_embeddings or isinstance(self[-1], Normalize | Concat)
        return super().encode(*args, truncate_dim=truncate_dim, normalize_embeddings=normalize_embeddings, **kwargs)


def _check_names(names, count):
    if len(set(names)) != count or not all(re.fullmatch(r"[\w-][\w.-]*", name) for name in names):
        raise StudyError(f"Concat: names {names} must be {count} different folder names, one per member")


def with_modules(model: SentenceTransformer, modules: list, **settings) -> ConcatTransformer:
    """A model of other modules with a model's prompts, on its device."""
    prompts = {"prompts": dict(model.prompts), "default_prompt_name": model.default_prompt_name}
    return ConcatTransformer(modules=modules, device=str(model.device), **prompts, **settings)


def load_model(name_or_path: str | Path, device: str | None = None, **hub) -> SentenceTransformer:
    """A folder's or hub id's model of the library's modules and ours; ``StudyError`` for other code and damaged files."""
    check_device(device)
    check_links(Path(name_or_path))
    name, modules, held = str(name_or_path), [], {}
    options = {"model_kwargs": {"use_safetensors": True}, "processor_kwargs": None, "config_kwargs": None}
    options |= {"backend": "torch", "trust_remote_code": False}
    with reading(f"model {name}", "give a folder that save_pretrained wrote, or a hub id"):
        for file in ("config_sentence_transformers.json", "modules.json"):
            if (path := load_file_path(name, file, **hub)) is None:
                raise FileNotFoundError(f"{file} is missing")
            held[file] = json.loads(Path(path).read_text(encoding="utf-8"))
        config, entries = held.values()
        for entry in entries:
            if Path(entry["path"]).is_absolute() or ".." in Path(entry["path"]).parts:
                raise StudyError(f"model {name}: module path {entry['path']!r} leads out of it; do not load it")
            module_class = _module_class(name, entry["type"])
            weights = (str(Path(entry["path"], file)) for file in ("model.safetensors", "pytorch_model.bin"))
            if [load_file_path(name, file, **hub) is None for file in weights] == [True, False]:
                raise StudyError(f"model {name}: weights in {entry['path']!r} are a pickle, which is not read here")
            with reading(f"model {name}: {entry['path'] or 'its main folder'}", "save or fetch it again"):
                modules.append(module_class.load(name, subfolder=entry["path"], **hub, **options))
        names = ("prompts", "default_prompt_name", "similarity_fn_name", "truncate_dim")
        kind = ConcatTransformer if any(isinstance(module, Concat) for module in modules) else SentenceTransformer
        model = kind(modules=modules, device=device, **{key: config.get(key) for key in names})
        model.module_kwargs = {str(at): each["kwargs"] for at, each in enumerate(entries) if each.get("kwargs")} or None
        return model


def check_device(device: str | None) -> None:
    """One clear ``StudyError`` for a device that torch does not have here."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0][:120]
        raise StudyError(f"device {device!r} cannot be used ({reason}); leave it out, or take 'cpu'") from error


def _module_class(name, reference):
    package, _, kind = reference.rpartition(".")
    kind = "DecoderModule" if kind == "Decoder" else kind  # its name in earlier releases
    if package.startswith("ccq_utils.") and kind in CLASSES:
        return getattr(importlib.import_module(CLASSES[kind]), kind)
    found = import_module_class(reference) if package.startswith("sentence_transformers.") else None
    if not (isinstance(found, type) and issubclass(found, torch.nn.Module)):
        raise StudyError(f"model {name}: {reference!r} is no module of sentence-transformers or ccq_utils; not run")
    return found


def hub_options(options: dict) -> dict:
    """Those of a module's ``load`` options that say where on the hub a file is."""
    return {key: options[key] for key in ("token", "cache_folder", "revision", "local_files_only") if key in options}
