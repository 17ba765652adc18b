"""A corpus to shards, on both engines; a real Ray cluster of two nodes, whose workers and driver are killed."""

import errno
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import psutil
import pytest

from ccq_utils import cli
from ccq_utils.codecs.byte_blocks import BlockCodec
from ccq_utils.common.errors import StudyError
from ccq_utils.deploy import engines, scale, shards
from ccq_utils.deploy.engines import engine
from ccq_utils.deploy.modules import Concat, ConcatTransformer
from ccq_utils.deploy.pipeline import CompressedModel
from ccq_utils.deploy.scale import encode_corpus

ROOT = Path(__file__).resolve().parents[1]
COUNT, PART = 240, 16
MORE = '{"id": "more", "text": "one more"}'

PROFILE = """\
name: {name}
description: for tests
models: [lexical, wordllama]
large_model: lexical
tasks: [{{name: summary, source: "docstrings:summary", libraries: [networkx]}}]
training: {{libraries: [seaborn]}}
"""
CELL = """\
from pathlib import Path
assert not (Path("broken").exists() and profile == "two"), "the bridge is down"
(Path(output) / "results" / "{name}.csv").write_text(profile)"""


@pytest.fixture(scope="module")
def home(tmp_path_factory, make_task, members):
    """A saved model of two members and byte blocks, a corpus, and a checkout of two notebooks and two profiles."""
    folder = tmp_path_factory.mktemp("home")
    texts = list(make_task(documents=COUNT).documents.values())
    write_corpus(folder / "texts.jsonl", texts)
    joined = Concat([members["reader"], members["static"]], [1, 0.5], ["reader", "static"])
    model = CompressedModel(ConcatTransformer(modules=[joined], device="cpu"), BlockCodec(8)).fit(texts[:80])
    model.save(folder / "model")
    CompressedModel(model.model, BlockCodec(8)).fit(texts[:60]).save(folder / "other")
    checkout = folder / "checkout"
    (checkout / "notebooks" / "profiles").mkdir(parents=True)
    (checkout / "pyproject.toml").write_text("[project]\ndependencies = []\n")
    for name in ("one", "two"):
        (checkout / "notebooks" / "profiles" / f"{name}.yaml").write_text(PROFILE.format(name=name))
    for name in ("01_first", "02_second"):
        parameters = nbformat.v4.new_code_cell('profile = ""\noutput = ""', metadata={"tags": ["parameters"]})
        cells = [parameters, nbformat.v4.new_code_cell(CELL.format(name=name))]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), checkout / "notebooks" / f"{name}.ipynb")
    return folder


@pytest.fixture(scope="module")
def cluster(home):
    """Address of a cluster of two nodes with one CPU each, that listens on the loopback address alone."""
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in {**engines.OWN_CLUSTER, "CCQ_ROOT": str(home / "checkout")}.items():
            patch.setenv(variable, value)
        patch.setenv("PYTHONPATH", str(ROOT))
        from ray.cluster_utils import Cluster

        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        try:
            made.add_node(num_cpus=1)
            yield made.address
        finally:
            made.shutdown()


@pytest.fixture(scope="module")
def expected(home):
    """Shards of the local engine by name: bytes."""
    encode_corpus(home / "model", home / "texts.jsonl", home / "local", threads=1, part=PART)
    return files(home / "local")


def write_corpus(path, texts, ids=None):
    names = [f"text {number}" for number in range(len(texts))] if ids is None else ids
    lines = [json.dumps({"id": name, "text": text}) for name, text in zip(names, texts, strict=True)]
    content = "\n".join(lines).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def files(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def workers():
    """The worker processes of this process's clusters."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "ray::_Worker" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:  # it ended meanwhile
            continue
    return found


def on_ray(home, cluster, out, **changes):
    options = {"engine_name": "ray", "address": cluster, "workers": 2, "threads": 1, "part": PART} | changes
    return encode_corpus(home / "model", home / "texts.jsonl", out, **options)


# ---- shards on the local engine ---------------------------------------------------------------------------------


def test_shards_hold_what_the_model_encodes_part_by_part(home, expected):
    model = CompressedModel.load(home / "model", "cpu")
    codes, ids = model.load_codes(home / "local")
    rows = [json.loads(line) for line in (home / "texts.jsonl").read_text().splitlines()]
    texts = [row["text"] for row in rows]
    parts = [model.encode_document(texts[start : start + PART]) for start in range(0, COUNT, PART)]
    assert np.array_equal(codes, np.concatenate(parts)) and ids == [row["id"] for row in rows]
    assert len(expected) == COUNT // PART + 1 and expected["_manifest.json"]
    frame = pd.read_parquet(home / "local")
    assert list(frame.columns) == ["id", "code"] and frame["code"][3] == codes[3].tobytes()


def test_a_corpus_of_many_files_packed_or_not_is_one_corpus(home, expected, tmp_path):
    rows = [json.loads(line) for line in (home / "texts.jsonl").read_text().splitlines()]
    texts, ids = [row["text"] for row in rows], [row["id"] for row in rows]
    (tmp_path / "corpus" / "b").mkdir(parents=True)
    write_corpus(tmp_path / "corpus" / "a.jsonl.gz", texts[:100], ids[:100])
    write_corpus(tmp_path / "corpus" / "b" / "c.jsonl", texts[100:], ids[100:])
    encode_corpus(home / "model", tmp_path / "corpus", tmp_path / "out", threads=1, part=PART)
    assert files(tmp_path / "out") == expected


def test_what_is_finished_is_not_made_again(home, expected, tmp_path, monkeypatch):
    shutil.copytree(home / "local", tmp_path / "out")
    (tmp_path / "out" / "part-000003.parquet").unlink()
    (tmp_path / "out" / "_manifest.json").unlink()
    (tmp_path / "out" / ".part-000003.parquet.77.partial").write_bytes(b"half")
    before = (tmp_path / "out" / "part-000002.parquet").stat().st_ino
    done = encode_corpus(home / "model", home / "texts.jsonl", tmp_path / "out", threads=1, part=PART)
    assert (done.rows, done.bytes, done.parts, done.made) == (COUNT, 8, 15, 1)
    assert files(tmp_path / "out") == expected and (tmp_path / "out" / "part-000002.parquet").stat().st_ino == before
    monkeypatch.setattr(scale, "Coder", lambda *_, **__: pytest.fail("loaded a model for nothing"))
    assert encode_corpus(home / "model", home / "texts.jsonl", tmp_path / "out", part=PART).made == 0


@pytest.mark.parametrize("place", [40, 0.5, -20])
def test_a_damaged_shard_is_refused_and_made_again(home, expected, tmp_path, place):
    shutil.copytree(home / "local", tmp_path / "out")
    shard = tmp_path / "out" / "part-000004.parquet"
    held = bytearray(shard.read_bytes())
    held[int(place * len(held)) if isinstance(place, float) else place] ^= 0x55
    shard.write_bytes(held)
    with pytest.raises(StudyError, match="part-000004.parquet is missing or damaged; ccq encode makes it again"):
        CompressedModel.load(home / "model").load_codes(tmp_path / "out")
    with pytest.warns(UserWarning, match="shard part-000004.parquet .*; it is made again"):
        done = encode_corpus(home / "model", home / "texts.jsonl", tmp_path / "out", threads=1, part=PART)
    assert done.made == 1 and files(tmp_path / "out") == expected


def test_changed_and_fewer_texts_are_made_again_and_the_rest_goes(home, expected, tmp_path):
    shutil.copytree(home / "local", tmp_path / "out")
    lines = (home / "texts.jsonl").read_text().splitlines()[: 5 * PART]
    lines[PART] = json.dumps({"id": "new", "text": "another one"})
    (tmp_path / "texts.jsonl").write_text("\n".join(lines))
    with pytest.warns(UserWarning) as said:
        done = encode_corpus(home / "model", tmp_path / "texts.jsonl", tmp_path / "out", threads=1, part=PART)
    messages = [str(warning.message) for warning in said]
    assert sum("part-000001.parquet is of other texts" in message for message in messages) == 1
    assert sum("is of an earlier corpus; it is removed" in message for message in messages) == 10
    assert done.made == 1 and done.parts == 5
    codes, ids = CompressedModel.load(home / "model").load_codes(tmp_path / "out")
    assert codes.shape == (5 * PART, 8) and ids[PART] == "new"


def test_shards_of_another_model_are_refused(home, expected, tmp_path):
    shutil.copytree(home / "local", tmp_path / "out")
    other = CompressedModel.load(home / "other")
    with pytest.raises(StudyError, match="codes folder out was made with another codec"):
        other.load_codes(tmp_path / "out")
    with pytest.raises(StudyError, match="holds codes of another codec .part-000000.parquet.; choose another folder"):
        encode_corpus(home / "other", home / "texts.jsonl", tmp_path / "out", part=PART)
    assert files(tmp_path / "out") == expected
    CompressedModel.load(home / "model").save(tmp_path / "slim", anchors=False)  # it has the same fingerprints
    with pytest.raises(StudyError, match="holds codes of another codec_file"):
        encode_corpus(tmp_path / "slim", home / "texts.jsonl", tmp_path / "out", part=PART)


def test_shards_of_another_precision_are_refused(home, expected, tmp_path):
    shutil.copytree(home / "local", tmp_path / "out")
    with pytest.raises(StudyError, match="holds codes of another precision .part-000000.parquet"):
        encode_corpus(home / "model", home / "texts.jsonl", tmp_path / "out", part=PART, precision="bfloat16")
    assert files(tmp_path / "out") == expected


def test_an_unfinished_or_foreign_folder_is_not_read(home, expected, tmp_path):
    model = CompressedModel.load(home / "model")
    with pytest.raises(StudyError, match="holds no finished shards .*ccq encode, which resumes"):
        model.load_codes(tmp_path)
    for content in ("{", "{}", "[]"):
        (tmp_path / "_manifest.json").write_text(content)
        with pytest.raises(StudyError, match="_manifest.json cannot be read"):
            model.load_codes(tmp_path)
    (tmp_path / "_manifest.json").write_text('{"version": 9}')
    with pytest.raises(StudyError, match="format version 9, this release reads 1"):
        model.load_codes(tmp_path)


def test_interruption_keeps_what_is_finished(home, expected, tmp_path, monkeypatch):
    write = shards.write

    def interrupted(folder, part, *rest):
        if part.number == 5:
            raise KeyboardInterrupt
        write(folder, part, *rest)

    monkeypatch.setattr(shards, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        encode_corpus(home / "model", home / "texts.jsonl", tmp_path / "out", threads=1, part=PART)
    monkeypatch.setattr(shards, "write", write)
    assert encode_corpus(home / "model", home / "texts.jsonl", tmp_path / "out", threads=1, part=PART).made == 10
    assert files(tmp_path / "out") == expected


@pytest.mark.parametrize(
    ("ids", "message"),
    [(["a", "b", "a"], "the id 'a' stands twice; ids must differ"), ([], "holds no text; give JSON")],
)
def test_bad_corpus_is_refused_before_the_work(home, tmp_path, monkeypatch, ids, message):
    monkeypatch.setattr(scale, "engine", lambda *_: pytest.fail("began the long work"))
    write_corpus(tmp_path / "texts.jsonl", ["some words"] * len(ids), ids)
    for part in (1, 64):
        with pytest.raises(StudyError, match=message):
            encode_corpus(home / "model", tmp_path / "texts.jsonl", tmp_path / "out", part=part)
    assert not (tmp_path / "out").exists()


def test_equal_keys_are_no_equal_ids(home, tmp_path, monkeypatch):
    monkeypatch.setattr(scale, "_key", lambda name: 7)
    write_corpus(tmp_path / "texts.jsonl", ["one", "two"], ["a", "b"])
    assert [part.first for part in scale.plan_parts(tmp_path / "texts.jsonl", 1)] == ["a", "b"]


def test_broken_gzip_is_one_clear_error(tmp_path):
    write_corpus(tmp_path / "texts.jsonl.gz", ["some words here"] * 50)
    whole = (tmp_path / "texts.jsonl.gz").read_bytes()
    for content in (whole[:-20], whole[:40] + bytes(8) + whole[48:], b"no archive"):
        (tmp_path / "texts.jsonl.gz").write_bytes(content)
        with pytest.raises(StudyError, match="texts.jsonl.gz is no whole gzip file .*; pack it again"):
            scale.plan_parts(tmp_path / "texts.jsonl.gz", 10)


@pytest.mark.parametrize(
    "changed",
    [
        lambda text: text.replace('"text 100"', '"x"'),
        lambda text: text[: text.index("\n")],
        lambda text: f"{text}\n{MORE}",
    ],
)
def test_texts_that_change_meanwhile_are_an_error(home, tmp_path, monkeypatch, changed):
    shutil.copy(home / "texts.jsonl", tmp_path / "texts.jsonl")
    begin = shards.begin

    def change(folder):
        begin(folder)
        content = (tmp_path / "texts.jsonl").read_text()
        (tmp_path / "texts.jsonl").write_text(changed(content))

    monkeypatch.setattr(shards, "begin", change)
    with pytest.raises(StudyError, match="texts.jsonl were changed while they were encoded"):
        encode_corpus(home / "model", tmp_path / "texts.jsonl", tmp_path / "out", part=PART)


def test_a_full_disk_is_one_clear_error(home, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StudyError, match="the disk of .* is full; free space and run again: what is finished is kept"):
        encode_corpus(home / "model", home / "texts.jsonl", tmp_path / "out", part=PART)


# ---- engines ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "spark"}, "engine 'spark' is unknown; choose one of: local, ray"),
        ({"workers": 2}, "the local engine is one process"),
        ({"address": "auto"}, "the local engine is one process"),
        ({"name": "ray", "workers": 0}, "workers 0 must be at least 1"),
        ({"name": "ray", "threads": -1}, "threads -1 must be at least 1"),
        ({"name": "ray", "address": "here"}, "address 'here' is none of: auto, host:port, ray://host:port"),
        ({"name": "ray", "address": "ray://127.0.0.1:1"}, "no Ray cluster answers at ray://127.0.0.1:1 .*refused"),
        ({"name": "ray", "address": "127.0.0.1:1"}, "start one with: ray start --head --port=1"),
    ],
)
def test_an_engine_that_cannot_be_had_is_one_clear_error(options, message):
    with pytest.raises(StudyError, match=message), engine(**options):
        pytest.fail("there is no such engine")


def test_without_ray_the_extra_is_named(home, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(StudyError, match=r"engine 'ray' needs Ray; install it with: pip install '\.\[ray\]'"),
        engine("ray"),
    ):
        pytest.fail("there is no Ray")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert scale.demonstration(None, []).empty and "pip install '.[ray]'" in capsys.readouterr().out


def test_ray_is_not_imported_unless_asked_for(home, tmp_path):
    code = (
        "import sys; from ccq_utils import cli; from ccq_utils import scale;"
        f" assert cli.main(['encode', {str(home / 'model')!r}, {str(home / 'texts.jsonl')!r}, {str(tmp_path)!r}]) == 0;"
        " assert 'ray' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path}: {COUNT} texts, 8 bytes each, 1 of 1 parts made now\n"


def test_commands_encode_to_a_folder_and_search_it(home, tmp_path, capsys):
    model, corpus, out = str(home / "model"), str(home / "texts.jsonl"), f"{tmp_path}/codes/"
    assert cli.main(["encode", model, corpus, out, "--part", "100", "--threads", "1"]) == 0
    assert capsys.readouterr().out == f"{out}: {COUNT} texts, 8 bytes each, 3 of 3 parts made now\n"
    text = json.loads((home / "texts.jsonl").read_text().splitlines()[7])["text"]
    assert cli.main(["search", model, out, text, "-k", "2"]) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith("  text 7")
    for options in (["--engine", "ray"], ["--part", "9"], ["--workers", "2"]):
        assert cli.main(["encode", model, corpus, f"{tmp_path}/codes.npz", *options]) == 2
        assert "codes.npz/ or add --shards" in capsys.readouterr().err
    assert cli.main(["encode", model, corpus, out, "--part", "0"]) == 2
    assert "part 0 must be at least 1 text" in capsys.readouterr().err


# ---- a real cluster of two nodes --------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_workers_give_the_local_engines_bytes(home, cluster, expected, tmp_path, capfd, monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    done = on_ray(home, cluster, tmp_path / "out")
    assert files(tmp_path / "out") == expected and done.made == 15
    assert "parts encoded: " in capfd.readouterr().err


@pytest.mark.slow
def test_killed_workers_lose_nothing_and_duplicate_nothing(home, cluster, expected, tmp_path, monkeypatch):
    """Both are stopped after the first shard, get a part that they cannot finish, and are killed with it a second later."""
    written, killed, write = [], [], shards.write

    def kill():
        for process in killed:
            process.kill()

    def recorded(folder, part, *rest):
        write(folder, part, *rest)
        written.append(part.number)
        if len(written) == 1:
            killed.extend(workers())
            for process in killed:
                process.send_signal(signal.SIGSTOP)
            threading.Timer(1, kill).start()
        elif len(written) == COUNT // PART:
            assert {process.pid for process in workers()}.isdisjoint(process.pid for process in killed)

    monkeypatch.setattr(shards, "write", recorded)
    on_ray(home, cluster, tmp_path / "out")
    assert len(killed) == 2 and not any(process.is_running() for process in killed)
    assert sorted(written) == list(range(COUNT // PART)) and files(tmp_path / "out") == expected


@pytest.mark.slow
def test_an_item_that_always_kills_its_worker_is_one_clear_error(cluster):
    exits = partial(partial, os._exit)  # each worker's work is os._exit(item)
    with engine("ray", cluster, workers=1) as run, pytest.raises(StudyError, match="keeps dying .*take smaller parts"):
        list(run(exits, [("item", 1)]))


@pytest.mark.slow
def test_a_killed_driver_is_resumed_even_by_the_other_engine(home, cluster, tmp_path):
    out = tmp_path / "out"
    arguments = [str(home / "model"), str(home / "texts.jsonl"), f"{out}/", "--part", "2", "--threads", "1"]
    command = [sys.executable, "-m", "ccq_utils.cli", "encode", *arguments, "--engine", "ray", "--address", cluster]
    driver = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        while len(list(out.glob("part-*.parquet"))) < 5:
            assert driver.poll() is None, driver.stderr.read()
            time.sleep(0.002)
    finally:
        driver.kill()
        driver.communicate()
    kept = {path.name: path.stat().st_ino for path in out.glob("part-*.parquet")}
    assert 5 <= len(kept) < COUNT // 2 and not (out / "_manifest.json").exists()
    done = encode_corpus(home / "model", home / "texts.jsonl", out, threads=1, part=2)
    assert done.made == COUNT // 2 - len(kept)
    assert all((out / name).stat().st_ino == inode for name, inode in kept.items())
    encode_corpus(home / "model", home / "texts.jsonl", tmp_path / "whole", threads=1, part=2)
    assert files(out) == files(tmp_path / "whole")


@pytest.mark.slow
def test_errors_of_workers_and_clusters_too_small_are_one_clear_error(home, cluster, tmp_path):
    for options, message in (
        ({"workers": 3}, "the Ray cluster has 2 CPUs and 0 GPUs, too few for 3 workers of 1 CPUs each"),
        ({"device": "cuda"}, "too few for 2 workers of 1 CPUs and a GPU each"),
        ({"device": "abacus"}, "device 'abacus' cannot be used"),
    ):
        with pytest.raises(StudyError, match=message):
            on_ray(home, cluster, tmp_path / "out", **options)


@pytest.mark.slow
def test_demonstration_compares_the_engines(home, cluster):
    import ray

    model = CompressedModel.load(home / "model", "cpu")
    texts = [json.loads(line)["text"] for line in (home / "texts.jsonl").read_text().splitlines()]
    ray.init(cluster, log_to_driver=False)
    try:
        table = scale.demonstration(model, texts, part=PART)
        assert ray.is_initialized(), "a connection of the caller's own is left as it is"
    finally:
        ray.shutdown()
    assert table[["engine", "workers", "texts"]].values.tolist() == [
        ["local", 1, 240],
        ["ray", 1, 240],
        ["ray", 2, 240],
    ]
    assert table["equal_bytes"].all() and (table["texts_per_second"] > 0).all()


@pytest.mark.slow
def test_a_cluster_of_its_own_listens_on_loopback_alone_and_ends_with_the_work(home, expected, tmp_path):
    code = (
        "import sys; import psutil; from ccq_utils import cli, shards; write, seen = shards.write, []\n"
        "def watched(*given):\n"
        "    write(*given)\n"
        "    family = [psutil.Process(), *psutil.Process().children(recursive=True)]\n"
        "    seen.extend(c.laddr.ip for p in family for c in p.net_connections('inet') if c.status == 'LISTEN')\n"
        "shards.write = watched\n"
        f"code = cli.main(['encode', *{[str(home / 'model'), str(home / 'texts.jsonl')]}, {str(tmp_path / 'out')!r} + '/',"
        f" '--engine', 'ray', '--workers', '2', '--threads', '1', '--part', '{PART}'])\n"
        "print(*sorted(set(seen))); psutil.wait_procs(psutil.Process().children(recursive=True), timeout=20)\n"
        "sys.exit(code or len(psutil.Process().children(recursive=True)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    said, addresses = done.stdout.splitlines()
    assert said.endswith("15 of 15 parts made now") and files(tmp_path / "out") == expected
    assert addresses and {name.removeprefix("::ffff:") for name in addresses.split()} <= {"127.0.0.1", "::1"}
