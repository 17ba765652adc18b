"""The ``ccq`` command: one subcommand per thing to do. What takes long to import is imported by the command that needs it."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

from ccq_utils.common import files, paths
from ccq_utils.common.errors import StudyError
from ccq_utils.common.progress import quiet_libraries

plain = {"add_completion": False, "rich_markup_mode": None, "pretty_exceptions_enable": False}
app = typer.Typer(help="A study of compressed concatenation of embedding models.", **plain)

Profile = Annotated[str, typer.Option(metavar="NAME_OR_PATH", help="name or YAML file")]
Model = Annotated[str, typer.Argument(metavar="DIR", help="what ccq fit saved")]
Codes = Annotated[str, typer.Argument(metavar="codes", help="what ccq encode wrote, file or folder")]
Device = Annotated[str, typer.Option(help="where the models run: cpu, cuda, mps, ...")]
Precision = Annotated[str, typer.Option(metavar="NAME", help="transformers compute in: float32, bfloat16 or auto")]
Finished = Annotated[str, typer.Option(metavar="DIR", help="--out of a finished run")]
Out = typer.Option("--out", "--output", metavar="DIR", help="write below DIR, not into the checkout")
Force = Annotated[bool, typer.Option("--force", help="replace a file that no ccq command wrote")]


def main(arguments: list[str] | None = None) -> int:
    """Run a subcommand; returns the exit code. What a user can mend becomes one line on stderr and exit code 2."""
    if arguments is None:
        _prepare()
    if not sys.stderr.isatty():
        quiet_libraries()
    try:
        code = app((sys.argv[1:] if arguments is None else arguments) or ["--help"], "ccq", standalone_mode=False) or 0
        sys.stdout.flush()
        return code
    except StudyError as problem:
        line = str(problem)
    except TyperException as problem:  # a wrong option or argument
        line = f"{problem.format_message()}; ccq COMMAND --help shows what there is"
    except BrokenPipeError:  # whoever reads our lines has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except OSError as problem:
        if problem.errno not in files.FULL + files.DENIED:
            raise
        line = f"{problem.strerror}: {problem.filename or 'standard output'}; what was finished is kept"
    print(f"ccq: {line}", file=sys.stderr)
    return 2


def _prepare():
    """A process of our own: ended by its terminal it ends as by Ctrl-C; a stream may be closed, or know no UTF-8."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
        getattr(sys, name).reconfigure(errors="backslashreplace")
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) == signal.SIG_DFL:  # nohup ignores it
            signal.signal(getattr(signal, name), signal.default_int_handler)


@app.command()
def run(
    profile: Profile = "default",
    only: Annotated[str, typer.Option(metavar="NN", help="one notebook, by number (03) or name")] = "",
    force: Annotated[bool, typer.Option("--force", help="run notebooks again even if nothing changed")] = False,
    output: Annotated[str, Out] = "",
):
    """Run the notebooks of a profile, resuming where a run stopped."""
    from ccq_utils.run import runner

    return runner.run(profile, only, force, output)


@app.command()
def verify(profile: Profile = "default", run: Finished = ""):
    """Hold a finished run, or without --run a new one, against the committed tables and claims."""
    from ccq_utils.data.profile import load_profile
    from ccq_utils.run import runner, verify

    name = load_profile(profile).name
    folder = Path(run or paths.BUILD / "verify" / name)
    return (0 if run else runner.run(profile, force=True, output=str(folder))) or verify.show(name, folder)


@app.command()
def publish(profile: Profile = "default"):
    """Put the outputs of a finished run into the committed notebooks, its claims and times beside them."""
    from ccq_utils.run.publish import publish

    for path in publish(profile):
        print(paths.shown(path))


@app.command()
def evaluate(
    task: Annotated[str, typer.Option(metavar="beir:DIR", help="corpus.jsonl, queries.jsonl, qrels/test.tsv")],
    bytes: Annotated[int, typer.Option(metavar="N", help="bytes per document vector")],
    profile: Profile = "default",
    peers: Annotated[bool, typer.Option("--peers", help="run published methods as well (minutes)")] = False,
    exclude_self: Annotated[bool, typer.Option("--exclude-self", help="drop the document with the query's id")] = False,
    allow_missing: Annotated[bool, typer.Option("--allow-missing", help="accept judgements of no document")] = False,
    run: Finished = "",
    out: Annotated[str, typer.Option("--out", "--json", metavar="JSON", help="write the report there")] = "",
    force: Force = False,
):
    """Compare compression methods on your own BEIR folder."""
    if out:
        files.check_output(out, '{\n "task": ', force)
    from ccq_utils.analyses import comparison

    options = {"exclude_self": exclude_self, "allow_missing": allow_missing}
    report = comparison.evaluate_task(task, bytes, profile, peers, run, **options)
    if out:
        with files.write_atomically(out, "w") as file:
            file.write(json.dumps(report, indent=1, allow_nan=False) + "\n")
    print(comparison.summary(report))


@app.command()
def fit(
    out: Annotated[str, typer.Option("--out", "--output", metavar="DIR", help="folder for the saved model")],
    profile: Profile = "default",
    codec: Annotated[str, typer.Option(metavar="NAME", help="or decoder (the paper's), ...")] = "equalised PCA",
    bytes: Annotated[int | None, typer.Option(metavar="N", min=1, help="per text; else a 48th of the floats")] = None,
    texts: Annotated[str, typer.Option(metavar="JSONL", help="fit on these, not on the profile's training text")] = "",
    run: Finished = "",
    device: Device = "cpu",
    precision: Precision = "float32",
):
    """Save a profile's members and a codec, to encode and search your own texts."""
    from ccq_utils.codecs.percentile import check_name
    from ccq_utils.data.text_files import read_texts
    from ccq_utils.deploy.pipeline import CompressedModel, check_place

    check_name(codec)
    check_place(Path(out))  # before the long work
    with files.only_one(Path(out)):
        own = list(read_texts(Path(texts)).values()) if texts else []
        model = CompressedModel.from_profile(profile, bytes, codec, not own, run, device, precision)
        (model.fit(own) if own else model).save(out)
    print(f"{out}: {' + '.join(model.model[0].names)}, {model.codec.bytes_per_vector} bytes per text")


@app.command()
def encode(
    model: Model,
    texts: Annotated[str, typer.Argument(metavar="texts.jsonl", help="'id' and 'text' on each line; or a folder")],
    out: Annotated[str, typer.Option(metavar="codes.safetensors", help="file to write; or a folder/ of parts")],
    part: Annotated[int, typer.Option(metavar="N", min=1, help="texts per part of a folder")] = 4096,
    threads: Annotated[int | None, typer.Option(metavar="N", min=1, help="per worker of a folder")] = None,
    address: Annotated[str, typer.Option(help="of Ray: local (started here), auto, host:port, ray://host:port")] = "",
    workers: Annotated[int | None, typer.Option(metavar="N", min=1, help="of Ray; else all that have room")] = None,
    device: Device = "cpu",
    precision: Precision = "float32",
    force: Force = False,
):
    """Encode texts to packed codes with a saved model."""
    if out.endswith("/") or Path(out).is_dir():
        from ccq_utils.deploy.scale import encode_corpus

        done = encode_corpus(model, texts, out, address, workers, threads, device, part, precision)
        print(f"{out}: {done['texts']} texts, {done['made']} of {done['parts']} parts made now")
        return
    if address or workers or threads:
        raise StudyError(f"workers and threads are for a folder of parts; write {out}/")
    files.check_output(out, '{"ccq":', force)
    from ccq_utils.data.text_files import read_texts
    from ccq_utils.deploy.pipeline import CompressedModel

    rows = read_texts(Path(texts))
    loaded = CompressedModel.load(model, device, precision)
    coded = loaded.encode_document(list(rows.values()), list(rows))
    loaded.save_codes(out, coded, rows)
    print(f"{out}: {len(coded)} texts, {coded.shape[1]} bytes each")


@app.command()
def search(
    model: Model,
    codes: Codes,
    query: str,
    k: Annotated[int, typer.Option("-k", metavar="N", help="number of results")] = 10,
    device: Device = "cpu",
    precision: Precision = "float32",
):
    """Search encoded texts, or the index of them that export-faiss wrote (a name that ends in .faiss)."""
    from ccq_utils.deploy.pipeline import CompressedModel

    loaded = CompressedModel.load(model, device, precision)
    coded, ids = (loaded.load_index if codes.endswith(".faiss") else loaded.load_codes)(codes)
    for score, number in zip(*loaded.search(query, coded, k), strict=True):
        print(f"{score:.4f}  {ids[number]}")


@app.command()
def export_faiss(
    model: Model,
    codes: Codes,
    out: Annotated[str, typer.Option(metavar="OUT.faiss", help="file to write; ids go to OUT.faiss.json")],
    force: Force = False,
):
    """Write encoded texts as an index file that plain faiss searches."""
    files.check_output(out, "IxPT" if Path(f"{out}.json").is_file() else "what no file begins with", force)
    files.check_output(f"{out}.json", '", "ids": [', force)
    from ccq_utils.deploy.pipeline import CompressedModel

    loaded = CompressedModel.load(model, "cpu")
    coded, ids = loaded.load_codes(codes)
    loaded.save_index(out, loaded.index(coded), ids)
    print(f"{out}: {len(coded)} texts, {coded.shape[1]} bytes each; ids in {out}.json")


@app.command()
def bench(
    profile: Profile = "default",
    documents: Annotated[int, typer.Option(metavar="N", help="vectors to search; 1000000 takes 6 GB")] = 100_000,
    output: Annotated[str, Out] = "",
    distractors: Annotated[str, typer.Option(metavar="JSONL", help="let a corpus grow by these instead")] = "",
    members: Annotated[list[str] | None, typer.Option(metavar="NAME", help="of what grows; once per member")] = None,
    run: Finished = "",
):
    """Measure how fast this machine encodes and searches, or what codecs keep as a corpus grows."""
    import pandas as pd

    from ccq_utils.analyses import bench

    for path in bench.run(profile, documents, output=output, distractors=distractors, members=members or (), run=run):
        print(f"{pd.read_csv(path).to_string(index=False, float_format='{:.4g}'.format)}\n{paths.shown(path)}")


if __name__ == "__main__":
    sys.exit(main())
