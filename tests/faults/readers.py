"""The readers' inputs through ours and through what users know: mteb's loader, ``datasets``, sentence-transformers."""

import csv
import json
import tempfile
import warnings
from functools import partial
from pathlib import Path

import inputs
from common import RIGHT, SEED, Case, here, one_line

PEERS = ("mteb", "datasets", "sentence_transformers")


def cases(home):
    """A case per input."""
    for make in (inputs.texts, inputs.folders, inputs.judgements):
        for given in make(SEED):
            yield Case(given.kind, given.name, partial(ours, home, given), given)


def written(given, folder):
    """The input's files below a folder; the path that a user would name."""
    for name, content in given.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    if given.kind != "texts":
        return folder
    name = next(iter(given.files))
    return folder / "s" if "/" in name else folder / (name if name != "other" else "t.jsonl")


def ours(home, given, folder):
    """Through ``ccq``, and where it is read the texts themselves."""
    from ccq_utils.codecs.files import read_codes
    from ccq_utils.data.profile import TaskSpec
    from ccq_utils.data.tasks import load_task
    from ccq_utils.data.text_files import read_texts

    place = written(given, folder)
    if given.kind == "texts":
        code, said, warned = here("encode", home.model, place, "--out", folder / "codes")
    elif given.meant is None:
        more = ["--allow-missing"] if given.spec else []
        code, said, warned = here(
            "evaluate", "--task", f"beir:{place}", "--bytes", "8", "--profile", home.profile, *more
        )
    else:
        code, said, warned = 0, "", []
    if given.meant is None:
        return f"exit code {code}: {said[-300:]}" if not code else one_line(said, given.words)
    with warnings.catch_warnings(record=True) as more:
        warnings.simplefilter("always")
        if given.kind == "texts":
            found, meant = read_texts(place), given.meant
            if code or read_codes(folder / "codes")[1] != list(meant):
                return f"exit code {code}: {said[-300:]}"
        else:
            task = load_task(TaskSpec(name="t", source=f"beir:{place}", **given.spec), 0)
            documents = task.documents | dict.fromkeys(task.empty, "")
            found, meant = (documents, task.queries, task.qrels), given.meant
    told = [str(each.message) for each in more] + warned
    told = [each for each in told if "test queries" not in each]
    if bool(told) != given.warns:
        return f"warned of {told}"
    return RIGHT if found == meant else f"read as {found!r:.300}"


def peer(name, home, given):
    """``right``, ``refused`` or ``silent``: taken as something else, without a word."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = globals()[f"_{name}"](home, given, written(given, Path(folder)), Path(folder))
        except Exception:
            return "refused"
    meant = given.meant
    if meant is None:
        return "silent"
    if given.kind == "texts":
        return "right" if _shown(found[0]) == _shown(meant) else "silent"
    wanted = _shown(meant[0]), meant[1], {query: _positive(grades) for query, grades in meant[2].items()}
    qrels = {query: _positive(grades) for query, grades in found[2].items()}
    qrels = {query: grades for query, grades in qrels.items() if grades}
    queries = {query: text for query, text in found[1].items() if query in qrels}
    return "right" if (_shown(found[0]), queries, qrels) == wanted else "silent"


def _positive(grades):
    return {name for name, grade in grades.items() if grade > 0}


def _shown(texts):
    """Without texts that show nothing: whether they stay is each tool's own affair."""
    return {
        name: text
        for name, text in texts.items()
        if not isinstance(text, str) or any(c.isprintable() and not c.isspace() for c in text)
    }


def _id(row):
    name = row["_id"] if row.get("_id") is not None else row["id"]
    return str(name) if type(name) is int else name


def _text(row):
    text = row.get("text")
    text = "" if text is None and row.get("title") else text
    return f"{row['title']} {text}".strip() if row.get("title") else text.strip() if isinstance(text, str) else text


def _datasets(home, given, place, folder):
    from datasets import load_dataset

    def read(kind, source, **more):
        options = {"data_dir": str(source)} if source.is_dir() else {"data_files": str(source)}
        return load_dataset(kind, **options, **more, split="train", cache_dir=str(folder / "cache"))

    if given.kind == "texts":
        return ({_id(row): _text(row) for row in read("json", place)},)
    held = [
        next(path for path in (place / name, place / f"{name}.gz") if path.is_file())
        for name in ("corpus.jsonl", "queries.jsonl")
    ]
    documents, queries = ({_id(row): _text(row) for row in read("json", path)} for path in held)
    qrels = {}
    for row in read("csv", place / "qrels/test.tsv", sep="\t"):
        query, name = (str(row[key]) if type(row[key]) is int else row[key] for key in ("query-id", "corpus-id"))
        qrels.setdefault(query, {})[name] = row["score"]
    return documents, queries, qrels


def _mteb(home, given, place, folder):
    import datasets
    from mteb.abstasks.retrieval_dataset_loaders import RetrievalDatasetLoader

    if given.kind == "texts":
        first = next(iter(given.meant or inputs.TEXTS))
        (folder / "queries.jsonl").write_text('{"_id": "q", "text": "rain"}\n')
        (folder / "qrels").mkdir()
        (folder / "qrels" / "test.tsv").write_text(f"{inputs.HEADER}q\t{first}\t1\n", encoding="utf-8")
        corpus = "s/**/*.jsonl*" if place.name == "s" else place.name
    else:
        corpus = next(name for name in given.files if name.startswith("corpus"))
    queries = next((name for name in given.files if name.startswith("queries")), "queries.jsonl")
    card = f"---\nconfigs:\n- config_name: corpus\n  data_files:\n  - {{split: corpus, path: '{corpus}'}}\n"
    card += f"- config_name: queries\n  data_files:\n  - {{split: queries, path: {queries}}}\n"
    if "qrels/test.tsv" not in given.files and given.kind != "texts":
        raise FileNotFoundError
    with (folder / "qrels" / "test.tsv").open(
        encoding="utf-8"
    ) as file:  # the loader takes JSON lines alone beside JSON lines
        rows = [dict(row) for row in csv.DictReader(file, delimiter="\t")]
    (folder / "qrels" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "README.md").write_text(
        card + "- config_name: default\n  data_files:\n  - {split: test, path: qrels/test.jsonl}\n---\n"
    )
    datasets.config.HF_DATASETS_CACHE = folder / "cache"
    found = RetrievalDatasetLoader(str(folder), None).load()
    documents = {_id(row): _text(row) for row in found["corpus"]}
    return documents, {row["id"]: row["text"] for row in found["queries"]}, found["relevant_docs"]


def _sentence_transformers(home, given, place, folder):
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    def read(path):
        found = {}
        for one in sorted(path.rglob("*.jsonl*")) if path.is_dir() else [path]:
            with one.open(encoding="utf-8") as file:
                rows = [json.loads(line) for line in file if line.strip()]
            found |= {_id(row): _text(row) for row in rows}
        return found

    if given.kind == "texts":
        documents, queries = read(place), {"q": "rain"}
        qrels = {"q": {next(iter(documents)): 1}}
    else:
        documents, queries, qrels = read(place / "corpus.jsonl"), read(place / "queries.jsonl"), {}
        with (place / "qrels" / "test.tsv").open(encoding="utf-8") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                qrels.setdefault(row["query-id"], {})[row["corpus-id"]] = int(row["score"])
    relevant = {query: _positive(grades) for query, grades in qrels.items()}
    evaluator = InformationRetrievalEvaluator(queries, documents, relevant, show_progress_bar=False, write_csv=False)
    scores = evaluator(home.static)
    if not all(0 <= score <= 1 for score in scores.values()):
        raise ArithmeticError
    return documents, queries, qrels
