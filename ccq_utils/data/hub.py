"""What comes from the Hugging Face hub as data: retrieval sets by mteb's name, passages by streaming.

Everything is pinned to a commit, taken from the hub's own cache where it is there, and no code of a repository is run.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from ccq_utils.common.errors import StudyError
from ccq_utils.data.profile import TextSpec

TUNING_SPLITS = ("dev", "validation", "train")
SHUFFLED = 1000  # rows of a stream that are mixed at a time: they often lie in the order of their titles


def retrieval_task(name: str, tuning: bool):
    """An mteb task with its data, the name of its test split, and that of the first of ``TUNING_SPLITS`` or None."""
    import mteb
    from datasets import get_dataset_split_names
    from mteb.abstasks.retrieval import AbsTaskRetrieval

    try:
        task = mteb.get_task(name)
    except KeyError as error:
        raise StudyError(f"mteb knows no task {name!r}: {in_one_line(error)}") from error
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
    """(title, text) of a data set's rows in a seeded order; files are read in blocks, and no further than is taken."""
    from datasets import load_dataset_builder
    from datasets.packaged_modules.parquet.parquet import ParquetConfig
    from pyarrow.dataset import ParquetFragmentScanOptions

    name = spec.source.partition(":")[2]
    with reaching(f"data set {name!r}", spec.revision):
        builder = load_dataset_builder(name, spec.config, revision=spec.revision)
        if isinstance(builder.config, ParquetConfig):  # else up to 128 MB of each file are fetched at once
            builder.config.fragment_scan_options = ParquetFragmentScanOptions(pre_buffer=False)
        for row in builder.as_streaming_dataset(split=spec.split).shuffle(seed=seed, buffer_size=SHUFFLED):
            if (field := spec.text_field) not in row:
                raise StudyError(f"data set {name!r} has no column {field!r}; text_field may be: {', '.join(row)}")
            title, text = row.get(spec.title_field), row[field]
            if not isinstance(text, str) or not isinstance(title, str | None):
                raise StudyError(f"data set {name!r}: title {title!r:.30} or text {text!r:.30} of a row is no string")
            yield title or "", text


@contextmanager
def reaching(what: str, revision: str):
    """Turn what can go wrong between here and the hub into one ``StudyError``; an error of another kind passes."""
    import httpx
    from huggingface_hub import constants, errors

    offline = (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError, ConnectionError, FileNotFoundError)
    unreached = (httpx.TransportError, errors.HfHubHTTPError, errors.LocalEntryNotFoundError, ConnectionError)
    try:
        yield
    except StudyError:
        raise
    except Exception as error:
        chain = [error]
        while cause := chain[-1].__cause__ or chain[-1].__context__:
            chain.append(cause)
        words = " ".join(map(str, chain))

        def caused(*kinds):
            return any(isinstance(each, kinds) for each in chain)

        if caused(errors.RevisionNotFoundError) or "Revision" in words and "doesn't exist" in words:
            way = f"has no revision {revision}; copy a commit from the history on its page"
        elif caused(errors.GatedRepoError):
            way = "asks for consent; accept its terms on its page and set HF_TOKEN"
        elif constants.HF_HUB_OFFLINE and caused(*offline):
            way = "is not, or not wholly, in the cache, and HF_HUB_OFFLINE is set; unset it and run once with a network"
        elif caused(errors.RepositoryNotFoundError) or type(error).__name__ == "DatasetNotFoundError":
            way = "is not on the hub, or is private; check the id, or set HF_TOKEN where you have access"
        elif caused(*unreached):
            way = f"cannot be fetched from {constants.ENDPOINT} ({in_one_line(chain[-1])}) and is not, or not wholly, in the"
            way += " cache; check the network and run again: what was fetched is kept"
        elif isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            way = f"could not be fetched whole and kept ({in_one_line(error)}); check disk and network and run again"
        elif isinstance(error, (ValueError, FileNotFoundError)):  # a configuration, split or file that is not there
            way = f"is not as expected at revision {revision}: {in_one_line(error)}"
        else:
            raise
        raise StudyError(f"{what} {way}") from error


def in_one_line(error: Exception) -> str:
    """Kind and message of an error, at most 200 characters of it, for a ``StudyError``."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
