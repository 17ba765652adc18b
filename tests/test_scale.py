"""A corpus to a folder of parts, here and with Ray."""

import gzip
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from ccq_utils import cli
from ccq_utils.codecs.percentile import PercentileCodec
from ccq_utils.common.errors import StudyError
from ccq_utils.deploy import scale
from ccq_utils.deploy.modules import Concat, ConcatTransformer
from ccq_utils.deploy.pipeline import CompressedModel
from ccq_utils.deploy.scale import encode_corpus

ROOT = Path(__file__).resolve().parents[1]
COUNT, PART = 120, 16
LISTED = "_parts.json"


@pytest.fixture(scope="module")
def home(tmp_path_factory, make_task, members):
    """A saved model of two members and a codec, another one, and a corpus."""
    folder = tmp_path_factory.mktemp("home")
    texts = list(make_task(documents=COUNT).documents.values())
    write_corpus(folder / "texts.jsonl", texts)
    joined = Concat([members["reader"], members["static"]], [1, 0.5], ["reader", "static"])
    model = CompressedModel(ConcatTransformer(modules=[joined], device="cpu"), PercentileCodec(32, 2)).fit(texts[:80])
    model.save(folder / "model")
    CompressedModel(model.model, PercentileCodec(32, 2)).fit(texts[:60]).save(folder / "other")
    encode_corpus(folder / "model", folder / "texts.jsonl", folder / "here", threads=1, part=PART)
    return folder


@pytest.fixture
def out(home, tmp_path):
    """A copy of the finished folder."""
    return Path(shutil.copytree(home / "here", tmp_path / "out"))


def write_corpus(path, texts, ids=None):
    names = [f"text {number}" for number in range(len(texts))] if ids is None else ids
    lines = [json.dumps({"id": name, "text": text}) for name, text in zip(names, texts, strict=True)]
    content = "\n".join(lines).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def files(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def rows(home):
    found = [json.loads(line) for line in (home / "texts.jsonl").read_text().splitlines()]
    return [row["text"] for row in found], [row["id"] for row in found]


def again(home, out, **changes):
    return encode_corpus(home / "model", home / "texts.jsonl", out, **{"threads": 1, "part": PART} | changes)


def test_parts_hold_what_the_model_encodes_part_by_part(home):
    model = CompressedModel.load(home / "model", "cpu")
    codes, ids = model.load_codes(home / "here")
    texts, names = rows(home)
    parts = [model.encode_document(texts[start : start + PART]) for start in range(0, COUNT, PART)]
    assert np.array_equal(codes, np.concatenate(parts)) and ids == names
    assert len(files(home / "here")) == len(parts) + 1


def test_a_corpus_of_many_files_packed_or_not_is_one_corpus(home, tmp_path):
    texts, ids = rows(home)
    (tmp_path / "corpus" / "b").mkdir(parents=True)
    write_corpus(tmp_path / "corpus" / "a.jsonl.gz", texts[:50], ids[:50])
    write_corpus(tmp_path / "corpus" / "b" / "c.jsonl", texts[50:], ids[50:])
    encode_corpus(home / "model", tmp_path / "corpus", tmp_path / "out", threads=1, part=PART)
    assert files(tmp_path / "out") == files(home / "here")


def test_a_killed_run_goes_on_from_what_is_finished(home, out, monkeypatch):
    (out / "part-000003.safetensors").unlink()
    (out / LISTED).unlink()
    (out / ".part-000003.safetensors.77.partial").write_bytes(b"half")
    model = CompressedModel.load(home / "model")
    with pytest.raises(StudyError, match="cannot be read .FileNotFoundError.*run ccq encode, which resumes"):
        model.load_codes(out)
    before = (out / "part-000002.safetensors").stat().st_ino
    assert again(home, out) == {"texts": COUNT, "parts": 8, "made": 1}
    assert files(out) == files(home / "here") and (out / "part-000002.safetensors").stat().st_ino == before
    monkeypatch.setattr(scale, "encode_part", lambda *_: pytest.fail("encoded for nothing"))
    assert again(home, out)["made"] == 0


@pytest.mark.parametrize("place", [0.02, 0.5, -20])
def test_a_damaged_part_is_refused_and_made_again(home, out, place):
    part = out / "part-000004.safetensors"
    held = bytearray(part.read_bytes())
    held[int(place * len(held)) if isinstance(place, float) else place] ^= 0x55
    part.write_bytes(held)
    with pytest.raises(StudyError, match="part-000004.safetensors cannot be read"):
        CompressedModel.load(home / "model").load_codes(out)
    with pytest.warns(UserWarning, match="part-000004.safetensors .*; it is made again"):
        assert again(home, out)["made"] == 1
    assert files(out) == files(home / "here")


def test_an_intact_part_of_another_run_is_refused(home, out):
    shutil.copy(out / "part-000001.safetensors", out / "part-000002.safetensors")
    with pytest.raises(StudyError, match="part-000002.safetensors is of another run"):
        CompressedModel.load(home / "model").load_codes(out)


def test_changed_and_fewer_texts_are_made_again_and_the_rest_goes(home, out, tmp_path):
    lines = (home / "texts.jsonl").read_text().splitlines()[: 5 * PART]
    lines[PART] = json.dumps({"id": "new", "text": "another one"})
    (tmp_path / "texts.jsonl").write_text("\n".join(lines))
    done = encode_corpus(home / "model", tmp_path / "texts.jsonl", out, threads=1, part=PART)
    assert done == {"texts": 5 * PART, "parts": 5, "made": 1}
    codes, ids = CompressedModel.load(home / "model").load_codes(out)
    assert codes.shape == (5 * PART, 8) and ids[PART] == "new"


def test_codes_of_another_model_or_precision_are_refused(home, out):
    with pytest.raises(StudyError, match="codes folder out was made with another codec"):
        CompressedModel.load(home / "other").load_codes(out)
    with pytest.raises(StudyError, match="part-000000.* holds codes of another codec; choose another folder"):
        encode_corpus(home / "other", home / "texts.jsonl", out, part=PART)
    with pytest.raises(StudyError, match="holds codes of another precision"):
        again(home, out, precision="bfloat16")
    assert files(out) == files(home / "here")


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["a", "b", "a"], "texts.jsonl line 3: the id 'a' stands twice, first in .*texts.jsonl line 1"),
        ([], "holds no text; give JSON"),
    ],
)
def test_bad_corpus_is_refused_before_the_work(home, tmp_path, ids, message):
    write_corpus(tmp_path / "texts.jsonl", ["some words"] * len(ids), ids)
    for part in (1, 64):
        with pytest.raises(StudyError, match=message):
            encode_corpus(home / "model", tmp_path / "texts.jsonl", tmp_path / "out", part=part)
    assert not (tmp_path / "out").exists()


def test_texts_that_change_meanwhile_are_an_error(home, tmp_path, monkeypatch):
    shutil.copy(home / "texts.jsonl", tmp_path / "texts.jsonl")
    planned = scale.plan_parts

    def plan_and_change(texts, part):
        plan = planned(texts, part)
        texts.write_text(texts.read_text().replace('"text 100"', '"x"'))
        return plan

    monkeypatch.setattr(scale, "plan_parts", plan_and_change)
    with pytest.raises(StudyError, match="texts.jsonl were changed while they were encoded"):
        encode_corpus(home / "model", tmp_path / "texts.jsonl", tmp_path / "out", threads=1, part=PART)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"address": "here"}, "no Ray cluster at 'here' .*see ray start, or local"),
        ({"address": "ray://127.0.0.1:1"}, "no Ray cluster at 'ray://127.0.0.1:1' .*refused"),
    ],
)
def test_what_cannot_be_had_is_one_clear_error(home, tmp_path, options, message):
    with pytest.raises(StudyError, match=message):
        again(home, tmp_path / "out", **options)


def test_a_model_that_was_fitted_again_is_read_again(home, tmp_path):
    shutil.copytree(home / "model", tmp_path / "model")
    encode_corpus(tmp_path / "model", home / "texts.jsonl", tmp_path / "one", threads=1, part=PART)
    shutil.rmtree(tmp_path / "model")
    shutil.copytree(home / "other", tmp_path / "model")
    assert encode_corpus(tmp_path / "model", home / "texts.jsonl", tmp_path / "two", threads=1, part=PART)["made"] == 8


def test_without_ray_the_error_says_how_to_get_it(home, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        StudyError, match=r"Ray is not installed; get it by: pip install 'compressed-concatenation\[ray\]'"
    ):
        again(home, tmp_path / "out", address="local")


def test_commands_encode_to_a_folder_and_search_it(home, tmp_path, capsys):
    model, corpus, out = str(home / "model"), str(home / "texts.jsonl"), f"{tmp_path}/codes/"
    assert cli.main(["encode", model, corpus, "--out", out, "--part", "50", "--threads", "1"]) == 0
    assert capsys.readouterr().out == f"{out}: {COUNT} texts, 3 of 3 parts made now\n"
    assert cli.main(["search", model, out, rows(home)[0][7], "-k", "2"]) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith("  text 7")
    assert cli.main(["encode", model, corpus, "--out", f"{tmp_path}/codes.safetensors", "--threads", "2"]) == 2
    assert "are for a folder of parts; write" in capsys.readouterr().err


# ---- real clusters on this machine: five seconds each to start ------------------------------------------------------


@pytest.fixture
def quiet_ray(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # the loopback address alone
    import ray

    return ray


@pytest.mark.slow
def test_ray_writes_the_same_bytes_and_its_cluster_ends_with_the_work(home, tmp_path, quiet_ray):
    assert again(home, tmp_path / "out", address="local", workers=2)["made"] == 8
    assert files(tmp_path / "out") == files(home / "here")
    assert not quiet_ray.is_initialized()


def refuse(argument):
    raise StudyError(f"{argument} is refused")


@pytest.mark.slow
def test_what_goes_wrong_on_a_cluster_is_one_clear_error(home, tmp_path, quiet_ray):
    quiet_ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers do not find this file
    quiet_ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        for options, message in (
            ({"workers": 3}, "has room for 2 workers that need"),
            ({"device": "cuda"}, "has room for 0 workers that need"),
        ):
            with pytest.raises(StudyError, match=message):
                again(home, tmp_path / "new", address="auto", **options)
        for work, message in ((refuse, "^it is refused"), (os._exit, "keeps dying .*take smaller parts")):
            with pytest.raises(StudyError, match=message):
                list(scale._on_ray(work, [(0, "it" if work is refuse else 1)], "auto", 1, 1, "cpu"))
        assert quiet_ray.is_initialized(), "a connection of the caller's own is left as it is"
    finally:
        quiet_ray.shutdown()
