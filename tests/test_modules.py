"""Concat and Decoder inside sentence-transformers: equal to joining by hand, saved, reloaded, truncated, in two processes."""

import json
import pickle
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize

from ccq_utils.codecs import decoder
from ccq_utils.common.errors import StudyError
from ccq_utils.deploy.modules import Concat, ConcatTransformer, DecoderModule, load_model
from ccq_utils.deploy.pipeline import CompressedModel
from ccq_utils.models.vectors import concat

TEXTS = ["Rain on the plain.", "snow", "Wind, weather and 2024!", "the shortest path in a graph of many nodes"]
STOPS = [8, 16, 40]
SHARES = [1.0, 0.5, 0.7]


@pytest.fixture(scope="module")
def joined(members):
    return Concat(list(members.values()), SHARES, list(members))


@pytest.fixture(scope="module")
def trained(joined, random_vectors):
    return decoder.fit_pca(random_vectors(200, joined.get_embedding_dimension()), 40)


@pytest.fixture
def model(joined, trained):
    return ConcatTransformer(modules=[joined, DecoderModule.of(trained, STOPS), Normalize()], device="cpu")


def by_hand(members, encode):
    return concat([getattr(member, encode)(TEXTS) for member in members.values()], SHARES)


@pytest.mark.parametrize("encode", ["encode", "encode_query", "encode_document"])
def test_concat_equals_joining_by_hand_with_each_members_own_prompts(members, joined, encode):
    vectors = getattr(SentenceTransformer(modules=[joined], device="cpu"), encode)(TEXTS)
    assert vectors.dtype == np.float32 and vectors.shape == (4, 32 + 24 + 48)
    assert np.abs(vectors - by_hand(members, encode)).max() < 1e-6


def test_given_prompt_goes_to_all_members(members, joined):
    vectors = SentenceTransformer(modules=[joined], device="cpu").encode(TEXTS, prompt="find: ")
    expected = concat([member.encode(TEXTS, prompt="find: ") for member in members.values()], SHARES)
    assert np.abs(vectors - expected).max() < 1e-6


def test_truncated_member_stays_truncated(members):
    cut = SentenceTransformer(modules=list(members["static"]), device="cpu", truncate_dim=10)
    model = SentenceTransformer(modules=[Concat([members["lexical"], cut])], device="cpu")
    expected = concat([members["lexical"].encode(TEXTS), cut.encode(TEXTS)])
    assert model.get_embedding_dimension() == 58 and np.abs(model.encode(TEXTS) - expected).max() < 1e-6


def test_decoder_equals_the_studys(joined, trained, model):
    expected = trained.transform(SentenceTransformer(modules=[joined], device="cpu").encode(TEXTS))
    assert np.abs(model.encode(TEXTS) - expected).max() < 1e-6


@pytest.mark.parametrize("stop", STOPS)
def test_truncation_comes_before_normalisation(joined, trained, model, stop):
    expected = trained.transform(SentenceTransformer(modules=[joined], device="cpu").encode(TEXTS), stop)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.abs(model.encode(TEXTS, truncate_dim=stop) - expected).max() < 1e-6
        with model.truncate_embeddings(stop):
            assert np.abs(model.encode_query(TEXTS) - model.encode_query(TEXTS, truncate_dim=stop)).max() < 1e-6


def test_dim_that_is_no_stop_works_and_warns(model, trained):
    with pytest.warns(UserWarning, match=r"truncate_dim 20 is no stop of this model's decoder \(\[8, 16, 40\]\)"):
        vectors = model.encode(TEXTS, truncate_dim=20)
    assert vectors.shape == (4, 20) and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_progress_bar_tensors_and_device(model, capsys):
    tensors = model.encode(TEXTS, convert_to_tensor=True, show_progress_bar=True, device="cpu", batch_size=2)
    assert "Batches" in capsys.readouterr().err
    assert np.abs(tensors.numpy() - model.encode(TEXTS)).max() < 1e-6
    assert model.encode([]).size == 0 and model.encode("snow").shape == (40,)


def test_saved_and_reloaded_gives_the_same(model, tmp_path):
    model.save_pretrained(str(tmp_path))
    again = load_model(tmp_path, "cpu")
    assert type(again) is ConcatTransformer and again[0].names == ["reader", "static", "lexical"]
    for encode in ("encode", "encode_query", "encode_document"):
        assert np.abs(getattr(again, encode)(TEXTS) - getattr(model, encode)(TEXTS)).max() < 1e-6
    assert np.abs(again.encode(TEXTS, truncate_dim=16) - model.encode(TEXTS, truncate_dim=16)).max() < 1e-6
    assert again[0].members[0].max_seq_length == 16 and again[1].stops == STOPS
    assert not list(tmp_path.rglob("*.bin")) and not list(tmp_path.rglob("*.pkl"))


def test_library_loads_it_where_remote_code_is_trusted(model, tmp_path):
    model.save_pretrained(str(tmp_path))
    with pytest.raises(ValueError, match="trust_remote_code"):
        SentenceTransformer(str(tmp_path), device="cpu", local_files_only=True)
    plain = SentenceTransformer(str(tmp_path), device="cpu", trust_remote_code=True, local_files_only=True)
    assert np.abs(plain.encode_query(TEXTS) - model.encode_query(TEXTS)).max() < 1e-6


def test_similarity_function_prompts_and_truncation_are_kept(model, tmp_path):
    kept = {"prompts": {"query": "q: ", "document": ""}, "similarity_fn_name": "dot", "truncate_dim": 16}
    ConcatTransformer(modules=list(model), device="cpu", **kept).save_pretrained(str(tmp_path), create_model_card=False)
    again = load_model(tmp_path, "cpu")
    assert {name: getattr(again, name) for name in kept} == kept


def test_concat_of_a_concat(members, joined, tmp_path):
    nested = ConcatTransformer(modules=[Concat([ConcatTransformer(modules=[joined], device="cpu"), members["static"]])])
    nested.save_pretrained(str(tmp_path), create_model_card=False)
    assert np.abs(load_model(tmp_path).encode(TEXTS) - nested.encode(TEXTS)).max() < 1e-6


# ---- bad input --------------------------------------------------------------------------------------------------


def test_empty_list_is_an_error():
    with pytest.raises(StudyError, match="Concat needs at least one member"):
        Concat([])


def test_clashing_similarity_functions_are_an_error(members):
    other = SentenceTransformer(modules=list(members["static"]), device="cpu", similarity_fn_name="euclidean")
    with pytest.raises(StudyError, match=r"different similarity functions .*'lexical': 'cosine', 'other': 'euclidean'"):
        Concat([members["lexical"], other], names=["lexical", "other"])


@pytest.mark.parametrize("shares", [[1], [1, 0], [1, -1], [1, float("nan")], [1, float("inf")]])
def test_wrong_shares_are_an_error(members, shares):
    with pytest.raises(StudyError, match="must be 2 positive numbers, one per member"):
        Concat([members["static"], members["lexical"]], shares)


@pytest.mark.parametrize("names", [["a"], ["a", "a"], ["a", "../b"], ["a", "b/c"], ["a", ""]])
def test_wrong_names_are_an_error(members, names):
    with pytest.raises(StudyError, match="must be 2 different folder names"):
        Concat([members["static"], members["lexical"]], names=names)


# ---- saved folders ----------------------------------------------------------------------------------------------


@pytest.fixture
def saved(model, tmp_path):
    model.save_pretrained(str(tmp_path / "model"), create_model_card=False)
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("modules.json", "modules.json is missing"),
        ("config_sentence_transformers.json", "config_sentence_transformers.json is missing"),
        ("1_DecoderModule/model.safetensors", "1_DecoderModule cannot be read"),
        ("0_Concat/config.json", "0_Concat cannot be read"),
        ("0_Concat/reader/modules.json", "modules.json is missing"),
        ("0_Concat/static/model.safetensors", "static: its main folder cannot be read"),
    ],
)
def test_missing_file_is_an_error(saved, file, message):
    (saved / file).unlink()
    with pytest.raises(StudyError, match=message):
        load_model(saved)


def test_damaged_weights_are_an_error(saved):
    (saved / "1_DecoderModule" / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(StudyError, match="1_DecoderModule cannot be read"):
        load_model(saved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": "os.system"}, "'os.system' is no module of sentence-transformers or ccq_utils"),
        ({"type": "sentence_transformers.util.import_from_string"}, "is no module"),
        ({"type": 5}, "cannot be read .AttributeError"),
        ({"path": None}, "cannot be read .TypeError"),
    ],
)
def test_other_code_is_not_loaded(saved, changes, message):
    modules = json.loads((saved / "modules.json").read_text())
    modules[1] |= changes
    (saved / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(StudyError, match=message):
        load_model(saved)


@pytest.mark.parametrize("home", ["ccq_utils", "ccq_utils.deploy"])
def test_models_saved_before_the_package_was_divided_still_load(model, saved, home):
    was = {"DecoderModule": f"{home}.modules.Decoder", "Concat": f"{home}.modules.Concat"}
    was["LexicalEncoder"] = "ccq_utils.lexical.LexicalEncoder"
    for path in saved.rglob("modules.json"):
        modules = json.loads(path.read_text())
        for entry in modules:
            entry["type"] = was.get(entry["type"].rpartition(".")[2], entry["type"])
        path.write_text(json.dumps(modules))
    assert f"{home}.modules.Decoder" in (saved / "modules.json").read_text()
    assert np.abs(load_model(saved).encode(TEXTS) - model.encode(TEXTS)).max() < 1e-6


def test_models_saved_with_scales_of_vectors_still_load(model, saved):
    path = saved / "0_Concat" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({"names": config["names"], "weights": [share**0.5 for share in config["shares"]]}))
    assert np.abs(load_model(saved).encode(TEXTS) - model.encode(TEXTS)).max() < 1e-6


def test_a_module_path_that_leads_out_of_the_folder_is_refused(tmp_path, members):
    members["static"].save_pretrained(str(tmp_path / "model"))
    path = tmp_path / "model" / "modules.json"
    entries = json.loads(path.read_text())
    for outside in ("../other", "/etc"):
        path.write_text(json.dumps([entries[0] | {"path": outside}]))
        with pytest.raises(StudyError, match="leads out of it"):
            load_model(tmp_path / "model")


def test_a_device_that_is_not_there_is_one_clear_error(tmp_path, members):
    members["static"].save_pretrained(str(tmp_path / "model"))
    with pytest.raises(StudyError, match="device 'warp' cannot be used"):
        load_model(tmp_path / "model", device="warp")


class Bomb:
    """What a pickle of a stranger can be."""

    def __reduce__(self):
        return (open, ("run", "w"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: edit(folder / "1_DecoderModule" / "config.json", in_dims=2**20, out_dims=2**16), "size mismatch"),
        (lambda folder: edit(folder / "0_Concat" / "config.json", names=[".", "static"]), "different folder names"),
        (lambda folder: edit(folder / "0_Concat" / "config.json", names=["../../other", "static"]), "different folder names"),
        (lambda folder: huge(folder / "1_DecoderModule" / "model.safetensors"), "1_DecoderModule cannot be read"),
        (lambda folder: huge(folder / "0_Concat" / "static" / "model.safetensors"), "main folder cannot be read"),
        (lambda folder: pickled(folder / "1_DecoderModule", "model.safetensors"), "1_DecoderModule cannot be read"),
        (lambda folder: pickled(folder / "1_DecoderModule", "pytorch_model.bin"), "'1_DecoderModule' are a pickle"),
        (lambda folder: pickled(folder / "0_Concat" / "reader", "pytorch_model.bin"), "'' are a pickle"),
    ],
)  # fmt: skip
def test_a_model_of_a_stranger_is_refused_and_nothing_is_run(saved, change, message, tmp_path, monkeypatch):
    change(saved)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StudyError, match=message):
        load_model(saved)
    assert not (tmp_path / "run").exists()


def test_a_configuration_of_other_types_is_one_clear_error(saved):
    edit(saved / "config_sentence_transformers.json", similarity_fn_name="nearest")
    with pytest.raises(StudyError, match="model .* cannot be read .ValueError: .*nearest.*; give a folder"):
        load_model(saved)


def test_links_stay_within_a_model_s_folder_and_the_hub_s_cache(saved, model, tmp_path):
    weights = saved / "1_DecoderModule" / "model.safetensors"
    held = tmp_path / "models--one--concat"
    shutil.copytree(saved, held / "snapshots" / "c0ffee")
    (held / "blobs").mkdir()
    weights.rename(held / "blobs" / "sum")
    for folder, of in ((saved, saved / "copy"), (held / "snapshots" / "c0ffee", held / "blobs" / "sum")):
        place = folder / "1_DecoderModule" / "model.safetensors"
        place.unlink(missing_ok=True)
        if not of.exists():
            shutil.copy(held / "blobs" / "sum", of)
        place.symlink_to(of)
        assert np.abs(load_model(folder).encode(TEXTS) - model.encode(TEXTS)).max() < 1e-6
    for outside in (tmp_path / "secret", Path("/dev/zero"), held / "blobs" / "sum", tmp_path):
        weights.unlink()
        weights.symlink_to(outside)
        for load in (load_model, CompressedModel.load):
            with pytest.raises(StudyError, match="model.safetensors is a link out of its folder; do not load it"):
                load(saved)


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def huge(path):
    """A header that states a tensor of a terabyte."""
    name = next(iter(load_file(path)))
    header = json.dumps({name: {"dtype": "F32", "shape": [2**19, 2**19], "data_offsets": [0, 2**40]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))


def pickled(folder, name):
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Bomb()))
