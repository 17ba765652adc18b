"""Base models from the hub: what a profile leaves open, their files, their modules; no code is run, no pickle is read."""

import json
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ccq_utils.common.cache import file_digest
from ccq_utils.common.errors import StudyError
from ccq_utils.data.hub import in_one_line, reaching
from ccq_utils.data.profile import HubModel

FILES = {"allow_patterns": ["*.json", "*.txt", "*.model", "*.safetensors"], "ignore_patterns": ["onnx/*", "openvino/*"]}


def pin(spec: HubModel) -> HubModel:
    """Fill what a profile leaves out from mteb's record of the model; a prompt that is still None is left to its files."""
    import mteb

    try:
        meta = mteb.get_model_meta(spec.hub)
    except KeyError:  # mteb does not know it
        meta = None
    prompts = (meta and meta.loader_kwargs or {}).get("model_prompts") or {}
    known = {"revision": meta and meta.revision, "licence": meta and meta.license or "not specified"}
    known |= {"query_prompt": prompts.get("query"), "document_prompt": prompts.get("document", prompts.get("passage"))}
    pinned = spec.model_copy(update={key: value for key, value in known.items() if getattr(spec, key) is None})
    if not pinned.revision:
        raise StudyError(f"mteb has no revision of {spec.hub!r}; add revision: COMMIT (40 hex digits) to the profile")
    return pinned


def snapshot(name: str, revision: str) -> Path:
    """The folder of a model's configuration, tokenizer and safetensors weights; downloaded where they are not cached."""
    from huggingface_hub import errors, snapshot_download

    def fetch(**options):
        folder = Path(snapshot_download(name, revision=revision, **FILES, **options))
        for blob in map(Path.resolve, folder.rglob("*.safetensors")):  # named by the sha256 that the hub stated
            if re.fullmatch("[0-9a-f]{64}", blob.name) and file_digest(blob) != blob.name:
                blob.unlink()
                raise StudyError(f"model {name!r}: weights came damaged and were removed from the cache; run again")
        if not any(folder.rglob("*.safetensors")):
            raise StudyError(f"model {name!r} has no safetensors weights at revision {revision}; name another")
        return folder

    with reaching(f"model {name!r}", revision):
        try:
            return fetch()
        except StudyError:
            raise
        except Exception:  # perhaps no hub is there, and an older huggingface_hub kept no list of the commit's files
            with suppress(errors.LocalEntryNotFoundError):
                return fetch(local_files_only=True)
            raise


def prompts(pinned: HubModel, folder: Callable[[], Path]) -> dict[str, str]:
    """What is put before a ``query`` and a ``document``; ``folder`` is asked for only where the model's files decide."""
    found = {"query": pinned.query_prompt, "document": pinned.document_prompt}
    if None in found.values():
        path = folder() / "config_sentence_transformers.json"
        own = (json.loads(path.read_text()).get("prompts") or {}) if path.is_file() else {}
        own = {"query": own.get("query"), "document": own.get("document", own.get("passage"))}
        found = {kind: (own[kind] or "") if prompt is None else prompt for kind, prompt in found.items()}
    return found


def modules(folder: Path, spec: HubModel) -> list:
    """The model's sentence-transformers modules, float32; pooling and maximum length as the profile says, if it does."""
    from safetensors import SafetensorError
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    arguments = {"use_safetensors": True, "dtype": "float32"}  # some weights are stored as float16
    try:
        if spec.pooling:
            encoder = Transformer(str(folder), model_kwargs=arguments)
            found = [encoder, Pooling(encoder.get_embedding_dimension(), spec.pooling), Normalize()]
        elif (folder / "modules.json").is_file():
            found = list(SentenceTransformer(str(folder), device="cpu", model_kwargs=arguments))
        else:
            raise StudyError(f"the files of {spec.hub!r} do not say how tokens are pooled; add pooling: to the profile")
    except (OSError, ValueError, ImportError, KeyError, SafetensorError) as error:
        way = f"foreign code is never run; if a file is damaged, delete {folder} and run again"
        raise StudyError(f"model {spec.hub!r} cannot be loaded ({in_one_line(error)}); {way}") from error
    if spec.max_length:
        found[0].max_seq_length = spec.max_length
    return found
