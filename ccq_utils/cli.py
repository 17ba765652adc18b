"""The ``ccq`` command: one subcommand per thing to do."""

import argparse
import sys

from ccq_utils.common.errors import StudyError


def main(arguments: list[str] | None = None) -> int:
    """Run a subcommand; returns the exit code. A ``StudyError`` becomes one line on stderr and exit code 2."""
    options = _parser().parse_args(arguments)
    try:
        return options.action(options)
    except StudyError as error:
        print(f"ccq: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parser():
    parser = argparse.ArgumentParser(prog="ccq", description="A study of compressed concatenation of embedding models.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    run = commands.add_parser("run", help="run the notebooks of a profile, resuming where a run stopped")
    _add_profile(run)
    run.add_argument("--only", default="", metavar="NN", help="one notebook, by number (03) or name")
    run.add_argument("--force", action="store_true", help="run notebooks again even if nothing changed")
    run.add_argument("--output", default="", metavar="DIR", help="write everything below DIR, not into the checkout")
    run.set_defaults(action=_run)

    verify = commands.add_parser("verify", help="hold a run against the committed tables and claims")
    _add_profile(verify)
    verify.add_argument(
        "--run", default="", metavar="DIR", help="a finished run's --output folder; runs anew without it"
    )
    verify.set_defaults(action=_verify)

    evaluate = commands.add_parser("evaluate", help="compare compression methods on your own BEIR folder")
    _add_profile(evaluate)
    evaluate.add_argument(
        "--task", required=True, metavar="beir:DIR", help="corpus.jsonl, queries.jsonl, qrels/test.tsv"
    )
    evaluate.add_argument("--bytes", type=int, required=True, metavar="N", help="bytes per document vector")
    evaluate.add_argument("--peers", action="store_true", help="run published methods as well (minutes)")
    evaluate.add_argument("--exclude-self", action="store_true", help="drop the document with the query's id (ArguAna)")
    evaluate.add_argument(
        "--allow-missing", action="store_true", help="accept judgements for documents that do not exist"
    )
    evaluate.add_argument("--json", default="", metavar="OUT", help="write the report there")
    evaluate.set_defaults(action=_evaluate)

    fit = commands.add_parser("fit", help="save a profile's members and a codec, to encode and search your own texts")
    _add_profile(fit)
    fit.add_argument("--out", required=True, metavar="DIR", help="folder for the saved model")
    fit.add_argument(
        "--codec", default="byte blocks", metavar="NAME", help="'byte blocks', 'decoder' (the paper's), ..."
    )
    fit.add_argument("--bytes", type=int, metavar="N", help="bytes per text; a 48th of the float vector's without it")
    fit.add_argument(
        "--texts", default="", metavar="JSONL", help="fit on these texts, not on the profile's training text"
    )
    fit.add_argument("--output", default="", metavar="DIR", help="where ccq run --output wrote to")
    _add_running(fit)
    fit.set_defaults(action=_fit)

    encode = commands.add_parser("encode", help="encode texts to packed codes with a saved model")
    encode.add_argument("model", metavar="DIR", help="what ccq fit saved")
    encode.add_argument(
        "texts", metavar="texts.jsonl", help="one JSON object with 'id' and 'text' per line; or a folder"
    )
    encode.add_argument("codes", metavar="codes.npz", help="file to write; or a folder (codes/), for a large corpus")
    encode.add_argument("--shards", action="store_true", help="write a folder of shards, whatever its name")
    encode.add_argument("--part", type=int, metavar="N", help="texts per shard (4096)")
    encode.add_argument("--threads", type=int, metavar="N", help="of each worker; equal codes need equal threads")
    _add_engine(encode)
    _add_running(encode)
    encode.set_defaults(action=_encode)

    search = commands.add_parser("search", help="search encoded texts")
    search.add_argument("model", metavar="DIR", help="what ccq fit saved")
    search.add_argument("codes", metavar="codes.npz", help="what ccq encode wrote, file or folder")
    search.add_argument("query")
    search.add_argument("-k", type=int, default=10, metavar="N", help="number of results (10)")
    _add_running(search)
    search.set_defaults(action=_search)

    export = commands.add_parser("export-faiss", help="write encoded texts as an index file that plain faiss searches")
    export.add_argument("model", metavar="DIR", help="what ccq fit saved")
    export.add_argument("codes", metavar="codes.npz", help="what ccq encode wrote")
    export.add_argument("out", metavar="OUT.faiss", help="file to write; the texts' ids go to OUT.faiss.json")
    export.set_defaults(action=_export_faiss)

    bench = commands.add_parser("bench", help="measure how fast this machine encodes, trains and searches")
    _add_profile(bench)
    bench.add_argument(
        "--documents", type=int, default=100_000, metavar="N", help="documents to search (100000); 1000000 takes 6 GB"
    )
    bench.add_argument("--output", default="", metavar="DIR", help="folder for the tables; data/bench without it")
    bench.add_argument("--part", action="append", metavar="NAME", help="only this part; may be given again")
    bench.set_defaults(action=_bench)

    sweep = commands.add_parser(
        "sweep", help="run several profiles, each into a folder of its own, resuming as run does"
    )
    sweep.add_argument("profiles", nargs="+", metavar="PROFILE", help="names or YAML files")
    sweep.add_argument("--only", default="", metavar="NN", help="one notebook of each, by number (03) or name")
    sweep.add_argument("--output", default="", metavar="DIR", help="write to DIR/PROFILE; build/sweep without it")
    sweep.add_argument("--threads", type=int, metavar="N", help="of each run")
    _add_engine(sweep)
    sweep.set_defaults(action=_sweep)

    spread = commands.add_parser("spread", help="measure how far runs that should agree lie apart: verify's tolerances")
    spread.add_argument("--threads", nargs="+", required=True, metavar="DIR", help="runs with other thread counts")
    spread.add_argument("--bootstrap", nargs="+", required=True, metavar="DIR", help="runs with another bootstrap_seed")
    spread.add_argument("--anew", action="store_true", help="forget what was measured before, on other machines too")
    spread.set_defaults(action=_spread)

    publish = commands.add_parser("publish", help="copy a finished run's notebooks, cleaned, over the committed ones")
    _add_profile(publish)
    publish.set_defaults(action=_publish)
    return parser


def _add_engine(command):
    command.add_argument("--engine", default="local", metavar="NAME", help="local (this process, the default) or ray")
    command.add_argument(
        "--address", default="", help="of a Ray cluster: auto, host:port, ray://host:port; starts one here without it"
    )
    command.add_argument(
        "--workers", type=int, metavar="N", help="Ray workers; as many as there is room for without it"
    )


def _add_running(command):
    command.add_argument("--device", default="cpu", help="where the models run: cpu (the default), cuda, mps, ...")
    command.add_argument(
        "--precision",
        default="float32",
        metavar="NAME",
        help="what transformers compute in: float32 (the default), bfloat16 (faster where the processor has it), or auto",
    )


def _add_profile(parser):
    parser.add_argument("--profile", default="default", metavar="NAME_OR_PATH", help="name or YAML file")


def _run(options):
    from ccq_utils.run import runner  # jupyter and papermill take a second to import

    return runner.run(options.profile, options.only, options.force, options.output)


def _verify(options):
    from pathlib import Path

    from ccq_utils.common import paths
    from ccq_utils.common.cache import writing_to
    from ccq_utils.data.profile import load_profile
    from ccq_utils.run import report as run_report
    from ccq_utils.run import runner, verify

    name = load_profile(options.profile).name
    folder = Path(options.run or paths.BUILD / "verify" / name)
    if not options.run and (code := runner.run(options.profile, force=True, output=str(folder))):
        return code
    found = verify.verify(name, folder)
    with writing_to(folder):
        found.to_csv(folder / "verify.csv", index=False)
    code = verify.show(found)
    print(f"every row: {run_report.shown(folder / 'verify.csv')}")
    return code


def _evaluate(options):
    from pathlib import Path

    from ccq_utils.analyses import own_task as benchmark

    flags = {"exclude_self": options.exclude_self, "allow_missing": options.allow_missing}
    report = benchmark.evaluate_task(options.task, options.bytes, options.profile, options.peers, **flags)
    if options.json:
        benchmark.write_report(report, Path(options.json))
    print(benchmark.summary(report))
    return 0


def _fit(options):
    from pathlib import Path

    from ccq_utils.codecs import files as codec_files
    from ccq_utils.data.text_files import read_texts
    from ccq_utils.deploy.pipeline import CompressedModel, check_place
    from ccq_utils.models.encoding import precision_here

    check_place(Path(options.out))  # before the long work
    codec_files.check_name(options.codec)
    precision_here(options.precision)
    texts = list(read_texts(Path(options.texts)).values()) if options.texts else None
    about = {"codec": options.codec, "general": texts is None, "output": options.output}
    running = {"device": options.device, "precision": options.precision}
    model = CompressedModel.from_profile(options.profile, options.bytes, **about, **running)
    if texts is not None:
        model.fit(texts)
    model.save(options.out)
    print(f"{options.out}: {' + '.join(model.model[0].names)}, {model.codec.bytes_per_vector} bytes per text")
    return 0


def _encode(options):
    from pathlib import Path

    from ccq_utils.data.text_files import read_texts
    from ccq_utils.deploy.pipeline import CHUNK, CompressedModel

    sharded = options.shards or options.codes.endswith("/") or Path(options.codes).is_dir()
    if sharded:
        from ccq_utils.deploy.scale import encode_corpus

        where = (options.engine, options.address, options.workers, options.threads)
        part = CHUNK if options.part is None else options.part
        done = encode_corpus(
            options.model, options.texts, options.codes, *where, options.device, part, options.precision
        )
        print(
            f"{options.codes}: {done.rows} texts, {done.bytes} bytes each, {done.made} of {done.parts} parts made now"
        )
        return 0
    if (options.engine, options.address) != ("local", "") or options.workers or options.threads or options.part:
        raise StudyError(f"engines and parts are for a folder of shards; write {options.codes}/ or add --shards")
    texts = read_texts(Path(options.texts))
    model = CompressedModel.load(options.model, options.device, options.precision)
    codes = model.encode_document(list(texts.values()))
    model.save_codes(options.codes, codes, texts)
    print(f"{options.codes}: {len(codes)} texts, {codes.shape[1]} bytes each")
    return 0


def _search(options):
    from ccq_utils.deploy.pipeline import CompressedModel

    model = CompressedModel.load(options.model, options.device, options.precision)
    codes, ids = model.load_codes(options.codes)
    scores, numbers = model.search(options.query, codes, options.k)
    for score, number in zip(scores, numbers, strict=True):
        print(f"{score:.4f}  {ids[number]}")
    return 0


def _export_faiss(options):
    from ccq_utils.codecs.faiss_index import export_faiss
    from ccq_utils.deploy.pipeline import CompressedModel

    model = CompressedModel.load(options.model, "cpu")
    codes, ids = model.load_codes(options.codes)
    names = export_faiss(model.codec, codes, ids, options.out)
    print(f"{options.out}: {len(codes)} texts, {codes.shape[1]} bytes each; ids in {names}")
    return 0


def _bench(options):
    import pandas as pd

    from ccq_utils.analyses import bench
    from ccq_utils.run import report as run_report

    for path in bench.run(options.profile, options.documents, options.output, options.part):
        print(f"{bench.shown(pd.read_csv(path))}\n{run_report.shown(path)}")
    return 0


def _sweep(options):
    from ccq_utils.run.sweep import sweep

    where = (options.engine, options.address, options.workers, options.threads)
    table = sweep(options.profiles, options.only, options.output, *where)
    print(table.to_string(index=False, max_colwidth=60))
    return int((table["outcome"] != "ok").any())


def _spread(options):
    from pathlib import Path

    from ccq_utils.run import report as run_report
    from ccq_utils.run import tolerances, verify

    runs = {cause: [Path(folder) for folder in getattr(options, cause)] for cause in tolerances.CAUSES}
    before = None if options.anew else tolerances.read_spread()
    measured = verify.measure_spread("default", runs, before)
    measured.to_csv(tolerances.SPREAD, index=False, float_format="%.3g", lineterminator="\n")
    print(run_report.shown(tolerances.SPREAD))
    return 0


def _publish(options):
    from ccq_utils.run.publish import publish
    from ccq_utils.run.report import shown

    for path in publish(options.profile):
        print(shown(path))
    return 0


if __name__ == "__main__":
    sys.exit(main())
