"""The model and its codec as one object: fit, encode, search, save, load; from Python, from a shell, from the README."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from ccq_utils import cli
from ccq_utils.codecs import files as codec_files
from ccq_utils.codecs.codec import scores
from ccq_utils.codecs.decoder import fit_pca
from ccq_utils.codecs.percentile import LshCodec, PercentileCodec
from ccq_utils.common import paths
from ccq_utils.common.errors import StudyError
from ccq_utils.deploy.card import measured
from ccq_utils.deploy.coded import coded_model
from ccq_utils.deploy.modules import Concat, ConcatTransformer, DecoderModule
from ccq_utils.deploy.pipeline import CompressedModel, model_fingerprint
from ccq_utils.models import encoding

QUERY = "bentor kosip midag"


@pytest.fixture(scope="module")
def texts(make_task):
    return list(make_task(documents=80).documents.values())


@pytest.fixture(scope="module")
def model(members):
    names = ["static", "lexical"]
    return ConcatTransformer(modules=[Concat([members[name] for name in names], [1, 0.5], names)], device="cpu")


@pytest.fixture(scope="module")
def made(model, texts, random_vectors):
    """A function: name of a codec -> a CompressedModel fitted on the texts; each call makes a new one."""
    pca = fit_pca(model.encode_document(texts), 48)

    def make(name, on=texts):
        made = {
            "equalised PCA": lambda: PercentileCodec(56, 1, rotate=True, power=0.25),
            "decoder": lambda: PercentileCodec(32, 2, decoder=DecoderModule.of(pca, [16, 32, 48])),
            "PCA, rotated": lambda: PercentileCodec(40, 1, rotate=True),
            "LSH": lambda: LshCodec(64),
        }[name]()
        return CompressedModel(model, made).fit(on)

    return make


KINDS = ["equalised PCA", "decoder", "PCA, rotated", "LSH"]
SIZES = {"equalised PCA": 7, "decoder": 8, "PCA, rotated": 5, "LSH": 8}
every = pytest.mark.parametrize("kind", KINDS)


@every
def test_codes_are_packed_and_search_is_that_of_the_codec(made, texts, kind):
    pipeline = made(kind)
    codes = pipeline.encode_document(texts)
    assert codes.dtype == np.uint8 and codes.shape == (80, SIZES[kind])
    found, numbers = pipeline.search([QUERY, texts[3]], codes, k=4)
    queries = pipeline.model.encode_query([QUERY, texts[3]])
    expected = scores(pipeline.codec, queries, codes)
    assert found.shape == numbers.shape == (2, 4)
    assert np.abs(np.sort(expected, axis=1)[:, ::-1][:, :4] - found).max() < 1e-4
    assert 3 in numbers[1]
    alone = pipeline.search(QUERY, codes[:3], k=50)
    assert alone[0].shape == (3,) and sorted(alone[1]) == [0, 1, 2]


@every
def test_fit_encode_is_fit_and_encode(made, model, texts, kind):
    pipeline = made(kind)
    again = CompressedModel(model, made(kind, texts[:70]).codec)
    assert np.array_equal(again.fit_encode_document(texts), pipeline.encode_document(texts))


@every
def test_saved_and_reloaded_is_the_same(made, texts, kind, tmp_path):
    pipeline = made(kind)
    codes = pipeline.encode_document(texts)
    pipeline.card = "## Measured\n\nNothing."
    pipeline.save(tmp_path / "model")
    pipeline.save_codes(tmp_path / "codes.safetensors", codes, [f"t{number}" for number in range(80)])
    again = CompressedModel.load(tmp_path / "model", "cpu")
    held, ids = again.load_codes(tmp_path / "codes.safetensors")
    assert np.array_equal(held, codes) and ids[:2] == ["t0", "t1"]
    assert np.array_equal(again.encode_document(texts), codes)
    assert np.abs(again.model.encode_query(texts) - pipeline.model.encode_query(texts)).max() < 1e-6
    assert np.abs(again.search(QUERY, codes)[0] - pipeline.search(QUERY, codes)[0]).max() < 1e-6
    pipeline.save_index(tmp_path / "codes.faiss", pipeline.index(codes), ids)
    index, names = again.load_index(tmp_path / "codes.faiss")
    assert names == ids and np.array_equal(again.search(QUERY, index)[1], again.search(QUERY, codes)[1])
    plain = index.search(coded_model(again).encode_query([QUERY]), 10)[1][0]  # faiss alone knows no lengths of codes
    assert len(set(plain) & set(again.search(QUERY, codes)[1])) >= 7
    assert again.marks == pipeline.marks and again.card == pipeline.card
    assert again.marks["model"] == model_fingerprint(again.model)
    assert "Nothing." in (tmp_path / "model" / "README.md").read_text()
    again.save(tmp_path / "model")  # over itself
    assert CompressedModel.load(tmp_path / "model").marks == pipeline.marks


def test_decoded_is_the_float_part(made, texts, tmp_path):
    pipeline = made("decoder")
    expected = pipeline.codec.decoder_.transform(pipeline.model.encode_document(texts))
    assert np.abs(pipeline.decoded().encode_document(texts) - expected).max() < 1e-6
    pipeline.save(tmp_path / "model")
    again = CompressedModel.load(tmp_path / "model").decoded()
    assert (
        np.abs(
            again.encode_document(texts, truncate_dim=16) - pipeline.decoded().encode_document(texts, truncate_dim=16)
        ).max()
        < 1e-6
    )
    assert again[1].stops == [16, 32, 48]
    assert CompressedModel(pipeline.model, LshCodec(64)).decoded() is pipeline.model


@pytest.mark.parametrize("codec", [PercentileCodec(16, 1, rotate=True), PercentileCodec(16, 2)], ids=["rotated", "not"])
def test_any_sentence_transformer_will_do_and_keeps_its_prompts(members, texts, tmp_path, codec):
    pipeline = CompressedModel(members["reader"], codec).fit(texts)
    codes = pipeline.encode_document(texts)
    pipeline.save(tmp_path / "model")
    again = CompressedModel.load(tmp_path / "model")
    assert again.model.prompts["query"] == "ask: " and np.array_equal(again.encode_document(texts), codes)
    assert np.abs(again.search(QUERY, codes)[0] - pipeline.search(QUERY, codes)[0]).max() < 1e-6
    projected = codec.project(members["reader"].encode_query(texts, normalize_embeddings=True))
    vectors = pipeline.decoded().encode_query(texts, normalize_embeddings=True)
    assert codec.rotate or np.abs(vectors - projected).max() < 1e-6
    assert np.abs(coded_model(again).encode_query(texts) - projected).max() < 1e-5  # values up to 4, in float32


def test_truncated_model_is_an_error(model):
    with pytest.raises(StudyError, match="truncate_dim 16 would come after the codec"):
        CompressedModel(ConcatTransformer(modules=list(model), truncate_dim=16), LshCodec(64))


def test_nothing_saved_is_pickle_and_the_manifest_names_all(made, tmp_path):
    made("decoder").save(tmp_path / "model")
    files = {
        path.relative_to(tmp_path / "model").as_posix() for path in (tmp_path / "model").rglob("*") if path.is_file()
    }
    named = json.loads((tmp_path / "model" / "pipeline.json").read_text())["files"]
    assert files - set(named) == {"pipeline.json", "README.md"}
    assert {name.rsplit(".", 1)[-1] for name in files} == {"json", "safetensors", "md"}


def test_fingerprints_tell_codecs_and_models_apart(made, members, model, texts):
    marks = {kind: made(kind).marks for kind in KINDS}
    assert len({mark["codec"] for mark in marks.values()}) == len(KINDS)
    assert len({mark["model"] for mark in marks.values()}) == 1
    assert made("equalised PCA", texts[:60]).marks["codec"] != marks["equalised PCA"]["codec"]
    heavier = Concat(list(model[0].members), [1, 0.6], model[0].names)
    assert model_fingerprint(ConcatTransformer(modules=[heavier], device="cpu")) != marks["decoder"]["model"]


# ---- bad input --------------------------------------------------------------------------------------------------


def test_codes_of_another_codec_or_model_are_an_error(made, members, texts, tmp_path):
    pipeline, other = made("equalised PCA"), made("equalised PCA", texts[:60])
    codes = pipeline.encode_document(texts)
    pipeline.save_codes(tmp_path / "codes.safetensors", codes, range(80))
    with pytest.raises(StudyError, match="codes.safetensors was made with another codec; encode the texts again"):
        other.load_codes(tmp_path / "codes.safetensors")
    moved = CompressedModel(
        ConcatTransformer(modules=[Concat([members["static"], members["lexical"]])]), pipeline.codec
    )
    with pytest.raises(StudyError, match="codes.safetensors was made with another model"):
        moved.load_codes(tmp_path / "codes.safetensors")


@pytest.mark.parametrize(
    "codes", [np.zeros((4, 8), np.uint8), np.zeros(7, np.uint8), np.zeros((4, 7)), np.zeros((4, 7), np.int8), [[1] * 7]]
)
def test_codes_of_another_shape_are_an_error(made, codes):
    with pytest.raises(StudyError, match=r"this model's are uint8 of shape \(n, 7\)"):
        made("equalised PCA").search(QUERY, codes)


@pytest.mark.parametrize("file", ["codec/codec.safetensors", "codec/codec.json", "0_Concat/static/model.safetensors"])
def test_missing_or_altered_file_is_an_error(made, tmp_path, file):
    made("decoder").save(tmp_path / "model")
    held = (tmp_path / "model" / file).read_bytes()
    (tmp_path / "model" / file).write_bytes(held[:-1] + bytes([held[-1] ^ 1]))
    with pytest.raises(StudyError, match=f"{file} is missing or was altered"):
        CompressedModel.load(tmp_path / "model")
    (tmp_path / "model" / file).unlink()
    with pytest.raises(StudyError, match=f"{file} is missing or was altered"):
        CompressedModel.load(tmp_path / "model")


def test_folder_that_holds_no_model_is_an_error(made, tmp_path):
    with pytest.raises(StudyError, match="cannot be read .FileNotFoundError.*make one with ccq fit"):
        CompressedModel.load(tmp_path)
    (tmp_path / "pipeline.json").write_text("{")
    with pytest.raises(StudyError, match="cannot be read .JSONDecodeError"):
        CompressedModel.load(tmp_path)
    (tmp_path / "pipeline.json").write_text(json.dumps({"version": 99}))
    with pytest.raises(StudyError, match="format version 99, this release reads 2"):
        CompressedModel.load(tmp_path)


def test_folder_with_other_things_is_not_overwritten(made, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    for folder in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(StudyError, match="is no empty folder and holds no saved model"):
            made("decoder").save(folder)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_what_lies_beside_a_saved_model_is_named_and_kept(made, tmp_path):
    made("LSH").save(tmp_path / "model")
    mine = tmp_path / "model" / "codec" / "my_codes.safetensors"
    mine.write_bytes(b"years of work")
    with pytest.raises(StudyError, match="holds codec/my_codes.safetensors beside a saved model; move it away"):
        made("LSH").save(tmp_path / "model")
    mine.unlink()
    (tmp_path / "model" / "pipeline.json").write_text("[]")
    with pytest.raises(StudyError, match="cannot be read .TypeError.*choose another folder, or delete it"):
        made("LSH").save(tmp_path / "model")


def test_the_working_folder_is_refused_before_the_work(made, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(CompressedModel, "from_profile", lambda *_: pytest.fail("fitted for nothing"))
    assert cli.main(["fit", "--out", "."]) == 2
    assert "is the working folder or holds it" in capsys.readouterr().err
    with pytest.raises(StudyError, match="is the working folder or holds it"):
        made("LSH").save(".")


def test_a_device_or_precision_that_is_not_there_is_refused_before_the_work(monkeypatch):
    monkeypatch.setattr("ccq_utils.study.study.Study.__init__", lambda *_, **__: pytest.fail("opened for nothing"))
    with pytest.raises(StudyError, match="device 'cuda:99' cannot be used"):
        CompressedModel.from_profile("tiny", device="cuda:99")
    with pytest.raises(StudyError, match="unknown precision 'half'"):
        CompressedModel.from_profile("tiny", precision="half")


def test_codec_files_that_do_not_fit_each_other_are_an_error(made, texts, tmp_path):
    codec_files.save_codec(made("equalised PCA").codec, tmp_path / "one")
    codec_files.save_codec(made("equalised PCA", texts[:60]).codec, tmp_path / "other")
    shutil.copy(tmp_path / "other" / "codec.safetensors", tmp_path / "one" / "codec.safetensors")
    with pytest.raises(StudyError, match="its arrays are not those of its fingerprint"):
        codec_files.load_codec(tmp_path / "one")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "codec.json").unlink(), "cannot be read .FileNotFoundError"),
        (lambda folder: (folder / "codec.safetensors").unlink(), "cannot be read .FileNotFoundError"),
        (lambda folder: (folder / "codec.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "codec.json").write_text('{"version": 1}'), "format version 1, this release reads 2"),
        (lambda folder: (folder / "codec.json").write_text('{"version": 2, "kind": "x"}'), "cannot be read .KeyError"),
    ],
)
def test_damaged_codec_is_an_error(made, tmp_path, change, message):
    codec_files.save_codec(made("equalised PCA").codec, tmp_path)
    change(tmp_path)
    with pytest.raises(StudyError, match=message):
        codec_files.load_codec(tmp_path)


def test_codec_without_a_file_format_is_an_error(tmp_path):
    with pytest.raises(StudyError, match="codec object cannot be saved; choose one of: "):
        codec_files.save_codec(object(), tmp_path)


def test_unfitted_codec_is_an_error(model, texts, tmp_path):
    pipeline = CompressedModel(model, PercentileCodec(16, 2))
    for use in (
        lambda: pipeline.encode_document(texts),
        lambda: pipeline.search(QUERY, np.zeros((4, 8), np.uint8)),
        lambda: pipeline.save(tmp_path / "model"),
    ):
        with pytest.raises(StudyError, match=r"the codec is not fitted; call fit\(texts\) first"):
            use()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([], "there are no texts"),
        ("one string", "there are no texts; give a list of strings"),
        (["a", " "], "text number 1 is ' '; give a string with at least one word"),
        (["a", ""], "text number 1 is ''"),
        (["a", None], "text number 1 is None"),
        ([3], "text number 0 is 3"),
    ],
)
def test_bad_texts_are_an_error(made, bad, message):
    pipeline = made("equalised PCA")
    for use in (pipeline.encode_document, pipeline.fit, pipeline.fit_encode_document):
        with pytest.raises(StudyError, match=re.escape(message)):
            use(bad)


@pytest.mark.parametrize(("query", "k"), [("", 3), ([], 3), ([4], 3), (QUERY, 0), (QUERY, -1)])
def test_bad_query_is_an_error(made, texts, query, k):
    pipeline = made("equalised PCA")
    with pytest.raises(StudyError, match="text number 0 is|there are no texts|k .* must be at least 1"):
        pipeline.search(query, pipeline.encode_document(texts[:5]), k)


@pytest.mark.parametrize(("ids", "count"), [(["a", "b"], 3), (["a", "a", "b"], 3), ([], 3)])
def test_ids_that_do_not_fit_the_codes_are_an_error(made, tmp_path, ids, count):
    with pytest.raises(StudyError, match="need as many different ids"):
        made("equalised PCA").save_codes(tmp_path / "codes.safetensors", np.zeros((count, 8), np.uint8), ids)


def test_damaged_codes_file_is_an_error(made, texts, tmp_path):
    pipeline, path = made("equalised PCA"), tmp_path / "codes.safetensors"
    with pytest.raises(
        StudyError, match="codes.safetensors cannot be read .FileNotFoundError.*make it with: ccq encode"
    ):
        pipeline.load_codes(path)
    pipeline.save_codes(path, pipeline.encode_document(texts), range(80))
    whole = path.read_bytes()
    for content in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[:100], b"no codes", whole.replace(b'"79"', b'"78"')):
        path.write_bytes(content)
        with pytest.raises(StudyError, match="codes.safetensors cannot be read .*make it with: ccq encode"):
            pipeline.load_codes(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--codec", "zip", "--output", "new"],
            "codec 'zip' is unknown; choose one of: 'equalised PCA'",
        ),
        (["--output", "."], "is no empty folder and holds no saved model"),
    ],
)
def test_what_cannot_be_saved_is_refused_before_it_is_fitted(tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.jsonl").write_text("")
    monkeypatch.setattr(CompressedModel, "from_profile", lambda *_, **__: pytest.fail("began the long work"))
    assert cli.main(["fit", "--profile", "tiny", "--texts", "texts.jsonl", *options]) == 2
    assert message in capsys.readouterr().err


def test_codes_over_a_folder_are_one_clear_error(tmp_path):
    with pytest.raises(StudyError, match=r"cannot write to .* \(Is a directory\)"):
        codec_files.save_codes(tmp_path, np.zeros((1, 2), dtype=np.uint8), ["a"], {})


# ---- the profile tiny, from a shell and from the README ---------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Results of two profiles in which notebook 01 chose two members that are quick to make; a cache of its own."""
    folder = tmp_path_factory.mktemp("home")
    for profile in ("tiny", "default"):
        results = folder / "data" / "results" / profile
        results.mkdir(parents=True)
        (results / "01_selection.csv").write_text("member,share\nwordllama,0.8\nlexical,0.2\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CCQ_CACHE", str(folder / "cache"))
        patch.setattr(paths, "ROOT", folder)
        yield folder


@pytest.fixture
def written(tmp_path, texts):
    lines = [json.dumps({"id": f"text {number}", "text": text}) for number, text in enumerate(texts)]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines))
    return tmp_path / "texts.jsonl"


@pytest.mark.slow
@pytest.mark.parametrize("own", [True, False])
def test_commands_fit_encode_export_and_search(home, tmp_path, written, texts, capsys, own):
    model, codes = str(tmp_path / "model"), str(tmp_path / "codes.safetensors")
    fitted_on = ["--texts", str(written)] if own else []
    assert cli.main(["fit", "--profile", "tiny", "--out", model, "--bytes", "12", *fitted_on]) == 0
    assert capsys.readouterr().out == f"{model}: wordllama + lexical, 12 bytes per text\n"
    assert cli.main(["encode", model, str(written), "--out", codes]) == 0
    assert capsys.readouterr().out == f"{codes}: 80 texts, 12 bytes each\n"
    assert cli.main(["search", model, codes, texts[7], "-k", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    index = str(tmp_path / "index.faiss")
    assert cli.main(["export-faiss", model, codes, "--out", index]) == 0
    assert capsys.readouterr().out == f"{index}: 80 texts, 12 bytes each; ids in {index}.json\n"
    assert cli.main(["search", model, index, texts[7], "-k", "3"]) == 0
    assert capsys.readouterr().out.splitlines() == lines
    assert len(lines) == 3 and lines[0].endswith("  text 7") and float(lines[0].split()[0]) > float(lines[2].split()[0])


@pytest.mark.slow
def test_commands_say_what_is_wrong(home, tmp_path, written, capsys):
    for arguments, message in (
        (["search", str(tmp_path), "codes.safetensors", "query"], "make one with ccq fit"),
        (
            ["encode", str(tmp_path), str(tmp_path / "none.jsonl"), "--out", "codes.safetensors"],
            "none.jsonl is missing",
        ),
        (
            ["fit", "--profile", "tiny", "--output", str(tmp_path / "m"), "--codec", "zip"],
            "codec 'zip' is unknown; choose one of: 'equalised PCA'",
        ),
        (
            ["fit", "--profile", "paper", "--output", str(tmp_path / "m")],
            "table 01_selection.csv of profile 'paper' is missing",
        ),
    ):
        assert cli.main(arguments) == 2
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_the_readmes_five_lines_run_as_they_stand(home, texts, tmp_path, monkeypatch):
    readme = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
    section = readme.partition("## Your own documents")[2].partition("\n## ")[0]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL).group(1)
    lines = [line for line in code.splitlines() if line.strip()]
    assert len(lines) == 5 and 'from_profile("default")' in code
    monkeypatch.chdir(tmp_path)
    names = {"texts": texts}
    exec(code.replace('"default"', '"tiny"'), names)  # a smaller text to make the members from
    assert names["codes"].shape == (80, names["model"].codec.bytes_per_vector) and len(names["numbers"]) == 5
    assert np.array_equal(CompressedModel.load("my_model").encode_document(texts), names["codes"])


@pytest.mark.slow
def test_card_holds_the_studys_numbers(home, texts, tmp_path):
    source = Path(__file__).resolve().parents[1] / "data" / "results" / "default"
    place = tmp_path / "out" / "results"
    shutil.copytree(source, place)
    selection = "member,share\nwordllama,0.8\nlexical,0.2\n"
    (place / "01_selection.csv").write_text(selection)
    pipeline = CompressedModel.from_profile("tiny", output=str(tmp_path / "out")).fit(texts)
    pipeline.save(tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    table = codec_table(place)
    assert f"| {table['method']} | {table['bytes_per_vector']} | {table['estimate']:.3f} " in card
    assert card.startswith("---\nlibrary_name: sentence-transformers\n") and "| wordllama | 256 | 0.8 | {} |" in card


def test_card_of_a_profile_with_one_task_has_its_rows(tmp_path):
    row = {"scoring": "asymmetric", "task": "mine", "method": "PCA", "bytes_per_vector": 8}
    tables = {
        "01_candidates": {"name": "a", "licence": "mit", "source": "here"},
        "01_single_scores": {"model": "a", "estimate": 0.5},
        "05_at_48x": row | {"estimate": 0.9, "low": 0.8, "high": 1},
    }
    for name, held in tables.items():
        pd.DataFrame([held]).to_csv(tmp_path / f"{name}.csv", index=False)
    profile = SimpleNamespace(name="one", tasks=[SimpleNamespace(name="mine")])
    given = {"read": lambda name: pd.read_csv(tmp_path / f"{name}.csv"), "results": tmp_path, "profile": profile}
    assert "| PCA | 8 | 0.900 [0.800, 1.000] |" in measured(SimpleNamespace(**given, members=["a"]))


def codec_table(folder):
    table = pd.read_csv(folder / "05_at_48x.csv")
    means = table[(table["scoring"] == "asymmetric") & (table["task"] == "macro mean")]
    return means.sort_values("estimate").iloc[-1]


def test_what_is_no_list_of_strings_is_refused_and_equal_texts_are_no_fit(made):
    model = made("LSH")
    for texts in ({"a": "some words"}, "some words", np.array(["some words"])):
        with pytest.raises(StudyError, match=r"give a list of strings \(of a dict its values\)"):
            model.encode_document(texts)
    for count in (2, 4, 100):
        with pytest.raises(StudyError, match=f"1 of {count} texts are different; this fit needs at least 2"):
            model.fit(["the same words"] * count)
    with pytest.raises(StudyError, match="2 of 10000 texts are different; this fit needs at least 2, most of them"):
        model.fit(["the same words"] * 9999 + ["another"])


def test_a_vector_of_zeros_is_refused_by_number_and_id(made, monkeypatch):
    model = made("LSH")
    monkeypatch.setattr(encoding, "encode", lambda *_: np.float32([[1, 0], [0, 1], [0, 0]]))
    with pytest.raises(StudyError, match=r"text number 2 \(id 'z'\), 'c', is the zero vector \(1 such rows\)"):
        model.encode_document(["a", "b", "c"], ["x", "y", "z"])
