"""What comes from the Hugging Face hub: models, retrieval sets by mteb's name, passages by streaming.

Everything is pinned to a commit. huggingface_hub and datasets keep whole files that they fetched, take up a download whose
connection breaks, and work offline from their cache (``HF_HUB_OFFLINE=1``); no code of a repository is run and no pickle
is read. Whatever goes wrong is one ``StudyError`` that names the id and the way out.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ccq_utils.common.errors import StudyError
from ccq_utils.data.profile import HubModel, TextSpec

FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]
OTHER_BACKENDS = ["onnx/*", "openvino/*"]
TUNING_SPLITS = ("dev", "validation", "train")
SHUFFLED = 1000
"""Rows of a stream that are mixed at a time: a data set's rows often lie in the order of their titles."""


@dataclass(frozen=True)
class Pinned:
    """A hub model with nothing left open; ``None`` for a prompt means what the model's own files say."""

    revision: str
    query_prompt: str | None
    document_prompt: str | None
    licence: str


def pin(spec: HubModel) -> Pinned:
    """Fill what a profile leaves out from mteb's record of the model; no network.

    Raises
    ------
    StudyError : neither the profile nor mteb names a revision.
    """
    import mteb

    try:
        meta = mteb.get_model_meta(spec.hub)
    except KeyError:  # mteb does not know it
        meta = None
    revision = spec.revision or (meta and meta.revision)
    if not revision:
        raise StudyError(f"mteb has no revision of {spec.hub!r}; add revision: COMMIT (40 hex digits) to the profile")
    prompts = (meta and meta.loader_kwargs or {}).get("model_prompts") or {}
    return Pinned(
        revision,
        prompts.get("query") if spec.query_prompt is None else spec.query_prompt,
        prompts.get("document", prompts.get("passage")) if spec.document_prompt is None else spec.document_prompt,
        spec.licence or (meta and meta.license) or "not specified",
    )


def snapshot(name: str, revision: str) -> Path:
    """The folder of a model's configuration, tokenizer and safetensors weights; downloaded where they are not cached.

    Raises
    ------
    StudyError : no such model or revision, no network and not in the cache, or no safetensors among its files.
    """
    from huggingface_hub import snapshot_download

    with reaching(f"model {name!r}", revision):
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=FILES, ignore_patterns=OTHER_BACKENDS))
    if not any(folder.rglob("*.safetensors")):
        raise StudyError(
            f"model {name!r} has no safetensors weights at revision {revision}, and no pickle is read here;"
            " name a revision that has them"
        )
    return folder


def prompts(pinned: Pinned, folder: Callable[[], Path]) -> dict[str, str]:
    """What is put before a ``query`` and a ``document``; ``folder`` is asked for only where the model's files decide."""
    own = {}
    if None in (pinned.query_prompt, pinned.document_prompt):
        path = folder() / "config_sentence_transformers.json"
        own = (json.loads(path.read_text()).get("prompts") or {}) if path.is_file() else {}
    query, document = own.get("query"), own.get("document", own.get("passage"))
    return {
        "query": (query or "") if pinned.query_prompt is None else pinned.query_prompt,
        "document": (document or "") if pinned.document_prompt is None else pinned.document_prompt,
    }


def modules(folder: Path, spec: HubModel) -> list:
    """The model's sentence-transformers modules, float32; pooling and maximum length as the profile names them, if it does.

    Raises
    ------
    StudyError : no pooling is named, neither by the model's files nor by the profile; its modules are foreign code; or a
        file is damaged.
    """
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
        raise StudyError(
            f"model {spec.hub!r} cannot be loaded ({_line(error)}); foreign code is never run; if a file is damaged, delete"
            f" {folder} and run again"
        ) from error
    if spec.max_length:
        found[0].max_seq_length = spec.max_length
    return found


def retrieval_task(name: str, tuning: bool):
    """An mteb retrieval task with its data, loaded by mteb itself.

    Parameters
    ----------
    tuning : load the first of the splits ``dev``, ``validation``, ``train`` as well, where there is one

    Returns
    -------
    The task, the name of its test split, and the name of the split to tune on or None.

    Raises
    ------
    StudyError : mteb knows no such task, it is no monolingual retrieval task of texts, or its data cannot be had.
    """
    import mteb
    from datasets import get_dataset_split_names
    from mteb.abstasks.retrieval import AbsTaskRetrieval

    try:
        task = mteb.get_task(name)
    except KeyError as error:
        raise StudyError(f"mteb knows no task {name!r}: {_line(error)}") from error
    if not isinstance(task, AbsTaskRetrieval) or task.metadata.is_multilingual or task.modalities != ["text"]:
        raise StudyError(f"mteb's task {name!r} is not retrieval of texts in one language; name one that is")
    source = task.metadata.dataset
    test = "test" if "test" in task.eval_splits else task.eval_splits[0]
    with reaching(f"data set {source['path']!r} of task {name!r}", source["revision"]):
        held = get_dataset_split_names(source["path"], revision=source["revision"], config_name="default")
        extra = next((split for split in TUNING_SPLITS if tuning and split in held and split != test), None)
        task.filter_eval_splits([test, *([extra] if extra else [])])
        task.load_data()
        task.convert_v1_dataset_format_to_v2(num_proc=None)
    return task, test, extra


def stream(spec: TextSpec, seed: int) -> Iterator[tuple[str, str]]:
    """(title, text) of a data set's rows in a seeded order; files are read in blocks, and no further than is taken.

    Raises
    ------
    StudyError : no such data set, configuration, split, revision or column, or no network.
    """
    from datasets import load_dataset_builder
    from datasets.packaged_modules.parquet.parquet import ParquetConfig
    from pyarrow.dataset import ParquetFragmentScanOptions

    name = spec.source.partition(":")[2]
    with reaching(f"data set {name!r}", spec.revision):
        builder = load_dataset_builder(name, spec.config, revision=spec.revision)
        if isinstance(builder.config, ParquetConfig):  # else up to 128 MB of each file are fetched at once
            builder.config.fragment_scan_options = ParquetFragmentScanOptions(pre_buffer=False)
        for row in builder.as_streaming_dataset(split=spec.split).shuffle(seed=seed, buffer_size=SHUFFLED):
            if spec.text_field not in row:
                raise StudyError(
                    f"data set {name!r} has no column {spec.text_field!r}; text_field may be: {', '.join(row)}"
                )
            yield str(row.get(spec.title_field) or ""), str(row[spec.text_field] or "")


@contextmanager
def reaching(what: str, revision: str):
    """Turn what can go wrong between here and the hub into one ``StudyError``; an error of another kind passes."""
    import httpx
    from huggingface_hub import constants, errors

    try:
        yield
    except StudyError:
        raise
    except Exception as error:
        chain = list(_causes(error))
        words = " ".join(map(str, chain))

        def caused(*kinds):
            return any(isinstance(each, kinds) for each in chain)

        if caused(errors.RevisionNotFoundError) or "Revision" in words and "doesn't exist" in words:
            way = f"has no revision {revision}; copy a commit from the history on its page"
        elif caused(errors.GatedRepoError):
            way = "asks for consent; accept its terms on its page and set HF_TOKEN"
        elif constants.HF_HUB_OFFLINE and caused(
            errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError, ConnectionError, FileNotFoundError
        ):
            way = "is not, or not wholly, in the cache, and HF_HUB_OFFLINE is set; unset it and run once with a network"
        elif caused(errors.RepositoryNotFoundError) or type(error).__name__ == "DatasetNotFoundError":
            way = "is not on the hub, or is private; check the id, or set HF_TOKEN where you have access"
        elif caused(httpx.TransportError, errors.HfHubHTTPError, errors.LocalEntryNotFoundError, ConnectionError):
            way = (
                f"cannot be fetched from {constants.ENDPOINT} ({_line(chain[-1])}) and is not, or not wholly, in the cache;"
                " check the network and run again: what was fetched is kept"
            )
        elif isinstance(error, (ValueError, FileNotFoundError)):  # a configuration, split or file that is not there
            way = f"is not as expected at revision {revision}: {_line(error)}"
        else:
            raise
        raise StudyError(f"{what} {way}") from error


def _causes(error):
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _line(error):
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
