"""The concat and its codec as one object: fit on texts, encode documents to a few bytes each, search, save, load."""

import json
import tempfile
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize
from transformers.utils import logging

from ccq_utils.codecs import faiss_index, files
from ccq_utils.codecs.codec import require_distinct
from ccq_utils.codecs.percentile import make_codec
from ccq_utils.common.cache import digest, file_digest
from ccq_utils.common.errors import StudyError
from ccq_utils.common.files import scratch_folder
from ccq_utils.common.progress import progress
from ccq_utils.deploy.modules import Concat, ConcatTransformer, DecoderModule, check_device, load_model, with_modules
from ccq_utils.models import encoding
from ccq_utils.models.embed import named, normalise

MANIFEST, USUAL = "pipeline.json", "equalised PCA"
CHUNK = 4096  # texts whose float vectors are held at once: 16 MB per 1,000 dims


class CompressedModel:
    """A model and the codec of its vectors, fitted or not yet. Documents become packed codes; queries stay in float.

    ``model`` is any SentenceTransformer, usually ``ConcatTransformer(modules=[Concat([...])])``; its vectors are normalised.
    ``card`` is Markdown for the saved README.md; ``precision``, of ``models.encoding.PRECISIONS``, is not saved.
    """

    def __init__(self, model: SentenceTransformer, codec, card: str = "", precision: str = "float32"):
        if model.truncate_dim is not None:
            raise StudyError(f"truncate_dim {model.truncate_dim} would come after the codec; set it on the members")
        if not isinstance(model[-1], Concat | Normalize):
            model = with_modules(model, [*model, Normalize()])
        self.model, self.codec, self.card = model, codec, card
        self.encoder = encoding.with_precision(model, encoding.precision_here(precision))

    @classmethod
    def from_profile(
        cls, profile="default", budget=None, codec=USUAL, general=False, output="", device="cpu", precision=None
    ) -> "CompressedModel":
        """The members that notebook 01 of a profile (name or YAML file) chose, joined with the shares that it chose, if any.

        ``codec`` is a name in ``codecs.percentile.CODECS`` (``decoder`` trains one for these shares), of ``budget`` bytes per
        document, or a 48th of the concat's. It is fitted on the profile's training text where ``general``; otherwise call
        ``fit`` with your own. ``output`` is where its notebooks wrote to, or empty; ``precision`` the profile's where None.
        """
        from ccq_utils.deploy import card  # these read the study's tables
        from ccq_utils.study.study import Study
        from ccq_utils.study.training import trained_decoder

        check_device(device)
        encoding.precision_here(precision or "float32")
        study = Study(profile, output=output)
        chosen = study.selection[study.selection["share"] > 0]
        names, shares = list(chosen["member"]), list(chosen["share"])
        joined = Concat([study.models[name].model for name in names], shares, names)
        dims, decoder = joined.get_embedding_dimension(), None
        if codec.startswith("decoder"):
            trained = trained_decoder(study, members=names, shares=shares)[0]
            width = trained.config["out_dims"]
            decoder = DecoderModule.of(trained, {width, *(min(stop, width) for stop in study.profile.decoder.stops)})
        made = make_codec(codec, dims, budget or max(1, 4 * dims // 48), decoder, study.profile.seed)
        if general:
            made.fit(*(study.concat(text, None, names, shares) for text in ("training", "calibration")))
        model = ConcatTransformer(modules=[joined], device=device)
        return cls(model, made, card.measured(study), precision or study.profile.precision)

    def fit(self, texts: list[str]) -> "CompressedModel":
        """Fit the codec on the texts that will be coded, or on others like them."""
        require_distinct(texts := _checked(texts), 2)
        self.codec.fit(self.vectors(texts))
        return self

    def fit_encode_document(self, texts: list[str]) -> np.ndarray:
        """``fit(texts).encode_document(texts)`` in one pass of the members; all float vectors are held at once."""
        require_distinct(texts := _checked(texts), 2)
        return self.codec.fit(vectors := self.vectors(texts)).encode(vectors)

    def encode_document(self, texts: list[str], ids: Sequence[str] = ()) -> np.ndarray:
        """Packed codes, shape (texts, bytes), uint8, in the order of the texts; errors name ``ids`` where they are given."""
        files.require_fit(self.codec)
        texts = _checked(texts)
        parts = [(texts[start : start + CHUNK], ids[start : start + CHUNK]) for start in range(0, len(texts), CHUNK)]
        parts = progress(parts, "texts encoded") if len(parts) > 1 else parts
        return np.concatenate([self.codec.encode(self.vectors(part, ids=names)) for part, names in parts])

    def index(self, codes: np.ndarray):
        """A faiss index of the codes: build it once where several searches follow, or to save it."""
        files.require_fit(self.codec)
        return faiss_index.to_faiss(self.codec, codes)

    def search(self, queries: str | list[str], codes, k: int = 10) -> tuple[np.ndarray, np.ndarray]:
        """Scores and numbers, ``(queries, k)`` or ``(k,)``, of the best documents in ``codes`` or an ``index`` of them."""
        alone = isinstance(queries, str)
        vectors = self.vectors([queries] if alone else queries, "query")
        index = codes if hasattr(codes, "ntotal") else self.index(codes)
        scores, numbers = faiss_index.search(self.codec, index, vectors, k)
        return (scores[0], numbers[0]) if alone else (scores, numbers)

    def vectors(self, texts: Iterable[str], task: str = "document", ids: Sequence[str] = ()) -> np.ndarray:
        """Float vectors of documents or of ``query`` texts, ``(texts, dims) float32``: what the codec is fitted on."""
        vectors = encoding.encode(self.encoder, texts := _checked(texts), task)
        normalise(vectors, "model", lambda row: named(row, texts, ids))
        return vectors

    def decoded(self) -> SentenceTransformer:
        """The float part alone, for sentence-transformers: members joined and, where the codec has a decoder, decoded."""
        if (module := getattr(self.codec, "decoder_", None)) is None:
            return self.model
        module = module if isinstance(module, DecoderModule) else DecoderModule.of(module)
        return with_modules(self.model, [*self.model, module, Normalize()])

    @cached_property
    def _model_mark(self):
        return model_fingerprint(self.model)

    @property
    def marks(self) -> dict[str, str]:
        """Fingerprints of the fitted codec and of the model, which codes files carry."""
        files.require_fit(self.codec)
        return {"codec": files.fingerprint(self.codec), "model": self._model_mark}

    def save(self, folder: str | Path) -> None:
        """Write model, codec, card, and all files' sha256 to a folder that is new, empty, or a saved model's (replaced)."""
        from ccq_utils.deploy import card

        folder = Path(folder).resolve()
        check_place(folder)
        with scratch_folder(folder) as scratch:
            made = scratch / "model"
            files.save_codec(self.codec, made / "codec")
            self.decoded().save_pretrained(str(made), create_model_card=False)
            (made / "README.md").write_text(card.model_card(self), encoding="utf-8")
            about = {"version": files.VERSION, **self.marks, "modules": len(self.model), "card": self.card}
            about["files"] = _sums(made)
            (made / MANIFEST).write_text(json.dumps(about, indent=1))
            if folder.exists():
                folder.replace(scratch / "replaced")  # deleted once the new one is there
            made.replace(folder)

    @classmethod
    def load(cls, folder: str | Path, device: str | None = None, precision: str = "float32") -> "CompressedModel":
        """What ``save`` wrote, on a device; raises ``StudyError`` where files are missing, altered or of another version."""
        folder = Path(folder)
        about = read_manifest(folder)
        for name, expected in about["files"].items():
            if ".." in Path(name).parts or not (folder / name).is_file() or file_digest(folder / name) != expected:
                raise StudyError(f"saved model {folder}: {name} is missing or was altered; save the model again")
        _quiet()
        whole, codec, count = load_model(folder, device), files.load_codec(folder / "codec"), about["modules"]
        if count < len(whole):
            codec.decoder_ = whole[count]  # the same weights, with their stops
            whole = with_modules(whole, list(whole)[:count])
        loaded = cls(whole, codec, about["card"], precision)
        loaded._model_mark = about["model"]
        return loaded

    def save_codes(self, path: str | Path, codes: np.ndarray, ids: Iterable) -> None:
        """Write codes and ids to a safetensors file that knows which codec and model made it."""
        files.save_codes(Path(path), codes, list(ids), self.marks)

    def load_codes(self, path: str | Path) -> tuple[np.ndarray, list[str]]:
        """Codes and ids of a file or a folder of parts; raises ``StudyError`` where another codec or model made them."""
        return files.load_codes(Path(path), self.marks)

    def save_index(self, path: str | Path, index, ids: Iterable) -> None:
        """Write an ``index`` for plain faiss (queries: ``coded_model(self).encode_query``), ids to ``PATH.json``."""
        faiss_index.save_index(Path(path), index, [str(name) for name in ids], self.marks)

    def load_index(self, path: str | Path) -> tuple:
        """Index and ids of what ``save_index`` wrote; raises ``StudyError`` where another codec or model made it."""
        return faiss_index.load_index(Path(path), self.marks)


def read_manifest(folder: Path) -> dict:
    """The list of a saved model's files (``files``, sha256 by name) with its fingerprints; none of them checked yet."""
    files.check_links(folder)
    with files.reading(f"saved model {folder}", "make one with ccq fit"):
        about = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files.check_made(about, f"saved model {folder}")
        return {name: about[name] for name in ("codec", "model", "files", "modules", "card")}


def check_place(folder: Path) -> None:
    """Raises ``StudyError`` where a model cannot be saved: a file, the working folder, or one that holds something else."""
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and MANIFEST not in there)):
        raise StudyError(f"{folder} is no empty folder and holds no saved model; choose another one")
    if Path.cwd().is_relative_to(folder.resolve()):
        raise StudyError(f"{folder} is the working folder or holds it, which saving would replace; name another one")
    with files.reading(f"saved model {folder}", "choose another folder, or delete it"):
        ours = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"] if there else ()
    if others := sorted(there - {MANIFEST, "README.md", *ours}):
        raise StudyError(f"{folder} holds {others[0]} beside a saved model; move it away, for saving deletes it")


def model_fingerprint(model: SentenceTransformer) -> str:
    """sha256 over all files that saving a model writes, except the card and the versions that it was saved with."""
    _quiet()
    with scratch_folder(Path(tempfile.gettempdir()) / "ccq") as scratch:
        model.save_pretrained(str(scratch), create_model_card=False)
        sums = _sums(scratch)
        for path in scratch.rglob("config*.json"):
            held = json.loads(path.read_text(encoding="utf-8"))
            sums[path.relative_to(scratch).as_posix()] = {key: held[key] for key in held if "version" not in key}
    return digest(sums)


def _quiet():
    logging.set_verbosity_error()  # load reports and bars of transformers
    logging.disable_progress_bar()


def _sums(folder):
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: file_digest(path) for name, path in found.items() if name not in (MANIFEST, "README.md")}


def _checked(texts):
    if isinstance(texts, str | bytes | dict | np.ndarray) or not (texts := list(texts)):
        raise StudyError("there are no texts; give a list of strings (of a dict its values), no string or array")
    for number, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise StudyError(f"text number {number} is {text!r:.60}; give a string with at least one word")
    return texts
