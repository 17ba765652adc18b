"""Faster ways of encoding: the same vectors in the same order, by a way that is checked before it is taken."""

from dataclasses import asdict

import numpy as np
import pytest
import torch

from ccq_utils.analyses import bench_encoding
from ccq_utils.codecs.percentile import PercentileCodec
from ccq_utils.common.errors import StudyError
from ccq_utils.deploy.modules import Concat, ConcatTransformer
from ccq_utils.deploy.pipeline import CompressedModel
from ccq_utils.models import encoding
from ccq_utils.models.base_models import BaseModel
from ccq_utils.models.embed import embed
from ccq_utils.models.encoding import LOWEST, Choice, Encoder, batched, faster, lowest_cosine, token_batches

TEXTS = [
    "rain",
    "",
    "snow on the plain and wind in the hills " * 20,
    *[f"{n} drops of rain " * (n % 9 + 1) for n in range(12)],
]
WAYS = ("batched", "bf16", "int8")
NAMED = "token_embeddings"


@pytest.fixture(scope="module")
def reader(members):
    return members["reader"]


@pytest.fixture(scope="module")
def twins(reader):
    return {way: faster(reader, way) for way in WAYS}


@pytest.fixture
def eager(monkeypatch):
    """``auto`` tries however few texts there are, and only what costs no export."""
    monkeypatch.setattr(encoding, "WORTH", 2)
    monkeypatch.setattr(encoding, "offered", lambda: ["batched", "bf16"])


def breaks(monkeypatch, way, forward):
    monkeypatch.setitem(encoding.FORWARDS, way, forward)


def far_off(transformer):
    """A fast way that is wrong."""

    def forward(features, **kwargs):
        shape = (*features["input_ids"].shape, 32)
        return features | {"token_embeddings": torch.randn(shape, generator=torch.Generator().manual_seed(0))}

    return forward


def cannot(transformer):
    raise RuntimeError("no such instruction")


# ---- ways -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [None, "query", "document"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("tokens", [1, 40, 10_000])
def test_vectors_are_those_of_plain_in_the_order_of_the_texts(reader, twins, monkeypatch, way, tokens, task):
    monkeypatch.setattr(encoding, "TOKENS", tokens)
    plain = Encoder(reader, "plain").encode(TEXTS, task)
    found = batched(twins[way], TEXTS, task)
    assert found.dtype == np.float32 and found.shape == plain.shape
    assert lowest_cosine(found, plain) > (0.98 if way == "int8" else LOWEST)
    if way == "batched":
        assert np.allclose(found, plain, atol=1e-5)


def test_prompts_make_a_difference(twins):
    query, document = (batched(twins["bf16"], ["rain"], task) for task in ("query", "document"))
    assert np.abs(query - document).max() > 1e-3
    assert np.array_equal(batched(twins["bf16"], ["rain"], prompt="ask: "), query)


@pytest.mark.parametrize("way", ["plain", *WAYS])
def test_no_text_one_text_and_one_without_words(reader, twins, way):
    encoder = Encoder(reader, way)
    encoder.choice, encoder._twin = Choice(way), twins.get(way)
    assert len(encoder.encode([])) == 0
    assert encoder.encode(["rain"]).shape == encoder.encode([""]).shape == (1, 32)


def test_model_itself_stays_as_it_is(reader):
    before = {name: values.clone() for name, values in reader.state_dict().items()}
    twin = faster(reader, "bf16")
    assert "forward" not in vars(reader[0]) and twin[0] is not reader[0]
    assert all(torch.equal(values, before[name]) for name, values in reader.state_dict().items())


def test_members_of_a_concat_are_run_in_the_way(members):
    joined = Concat([members["lexical"], members["reader"], members["static"]], [1, 0.5, 0.2], list("abc"))
    model = ConcatTransformer(modules=[joined], device="cpu")
    texts = [text for text in TEXTS if text][:1] + TEXTS[3:9]
    for task in ("query", "document"):
        plain = Encoder(model, "plain").encode(texts, task)
        found = batched(faster(model, "bf16"), texts, task)
        assert LOWEST < lowest_cosine(found, plain) < 1 - 1e-9
        assert np.allclose(batched(faster(model, "batched"), texts, task), plain, atol=1e-5)


@pytest.mark.parametrize("budget", [1, 7, 64, 1000])
def test_batches_respect_the_budget_and_hold_each_text_once(budget):
    lengths = np.random.default_rng(0).integers(1, 50, 200).tolist()
    batches = list(token_batches(lengths, budget))
    assert sorted(np.concatenate(batches)) == list(range(200))
    for rows in batches:
        assert len(rows) == 1 or len(rows) * max(lengths[row] for row in rows) <= budget
    longest = [max(lengths[row] for row in rows) for rows in batches]
    assert longest == sorted(longest, reverse=True)


def test_batches_of_nothing_and_of_empty_texts():
    assert list(token_batches([], 10)) == []
    assert [rows.tolist() for rows in token_batches([0, 0, 0], 2)] == [[0, 1], [2]]


# ---- choice ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [Encoder, lambda model, way: CompressedModel(model, None, encoding=way)])
def test_unknown_way_is_an_error_that_names_the_accepted(reader, make):
    with pytest.raises(StudyError, match="unknown encoding 'int7'; accepted: plain, auto, batched, bf16, int8"):
        make(reader, "int7")
    with pytest.raises(StudyError, match="unknown way 'auto' to run a transformer; accepted: batched, bf16, int8"):
        faster(reader, "auto")


def test_auto_reports_what_it_took_and_what_it_passed_over(reader, eager, monkeypatch):
    seconds = {"plain": 3.0, "batched": 2.0, "bf16": 1.0}
    order = iter(seconds.values())
    monkeypatch.setattr(encoding, "_timed", lambda encode, texts: (encode(texts), next(order)))
    encoder = Encoder(reader)
    choice = encoder.choose(TEXTS)
    assert (choice.way, choice.speed_up) == ("bf16", 3.0) and LOWEST < choice.lowest_cosine <= 1 + 1e-6
    assert "bf16, 3.0 times as fast as plain, lowest cosine" in str(choice)
    assert encoder.choose(["other texts"]) is choice


def test_auto_takes_plain_where_nothing_is_faster(reader, eager, monkeypatch):
    order = iter([1.0, 2.0, 3.0])
    monkeypatch.setattr(encoding, "_timed", lambda encode, texts: (encode(texts), next(order)))
    choice = Encoder(reader).choose(TEXTS)
    assert choice.way == "plain" and set(choice.passed_over) == {"batched", "bf16"}


def test_auto_never_takes_a_way_below_the_threshold(reader, eager, monkeypatch):
    breaks(monkeypatch, "bf16", far_off)
    order = iter([3.0, 2.0, 0.01])
    monkeypatch.setattr(encoding, "_timed", lambda encode, texts: (encode(texts), next(order)))
    choice = Encoder(reader).choose(TEXTS)
    assert choice.way == "batched" and f"below {LOWEST}" in choice.passed_over["bf16"]


def test_auto_passes_over_a_way_that_gives_nan(reader, eager, monkeypatch):
    half = encoding.FORWARDS["bf16"]

    def nan(transformer):
        return lambda features, **_: {**(found := half(transformer)(features)), NAMED: found[NAMED] * np.nan}

    breaks(monkeypatch, "bf16", nan)
    assert "below" in Encoder(reader).choose(TEXTS).passed_over["bf16"]


def test_a_way_that_fails_gives_place_to_plain(reader, eager, monkeypatch):
    for way in ("batched", "bf16"):
        breaks(monkeypatch, way, cannot)
    encoder = Encoder(reader)
    assert np.allclose(encoder.encode(TEXTS), Encoder(reader, "plain").encode(TEXTS))
    assert "no such instruction" in encoder.choice.passed_over["bf16"]
    with pytest.warns(UserWarning, match="encoding bf16: failed .* plain is used"):
        assert Encoder(reader, "bf16").choose(TEXTS).way == "plain"


def test_without_onnxruntime_int8_is_neither_offered_nor_run(reader, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_vnni": True, "amx_bf16": False})
    assert encoding.offered() == ["batched", "int8"]
    installed = encoding._installed
    monkeypatch.setattr(encoding, "_installed", lambda package: package != "onnxruntime" and installed(package))
    assert encoding.offered() == ["batched"] and encoding.machine()["packages"]["onnxruntime"] is None
    with pytest.raises(StudyError, match="'onnxruntime' is not installed; run: pip install"):
        faster(reader, "int8")
    with pytest.warns(UserWarning, match="int8: failed .*plain is used"):
        assert Encoder(reader, "int8").choose(TEXTS).way == "plain"


def test_a_way_asked_for_by_name_is_taken_with_a_warning_where_it_is_far_off(reader, monkeypatch):
    breaks(monkeypatch, "bf16", far_off)
    with pytest.warns(UserWarning, match="asked for by name"):
        assert Encoder(reader, "bf16").choose(TEXTS).way == "bf16"


@pytest.mark.parametrize("name", ["static", "lexical"])
def test_models_without_a_transformer_go_the_plain_way(members, eager, name):
    encoder = Encoder(members[name])
    assert np.array_equal(encoder.encode(["rain", "snow"]), members[name].encode(["rain", "snow"]))
    assert encoder.choice.way == "plain"


def test_few_texts_are_not_worth_a_trial(reader):
    encoder = Encoder(reader)
    assert np.array_equal(encoder.encode(["rain"]), Encoder(reader, "plain").encode(["rain"]))
    assert encoder.choice is None


# ---- where it is used -----------------------------------------------------------------------------------------------


def base_model(reader, way):
    prompts = {"query": "ask: ", "document": "tell: "}
    made = BaseModel("reader", "f" * 64, lambda: None, "mit", "here", prompts, lambda: 1, encoding=way)
    made.__dict__["model"] = reader
    return made


def test_vectors_of_different_ways_never_mix_in_the_cache(reader, cache):
    texts = [text for text in TEXTS if text]
    plain, half = (embed(base_model(reader, way), texts, cache) for way in ("plain", "bf16"))
    names = [f"reader-{'f' * 16}", f"reader-{'f' * 16}-bf16"]
    assert sorted(path.name for path in (cache.folder / "embeddings").iterdir()) == names
    assert not np.array_equal(plain, half) and lowest_cosine(half, plain) > LOWEST
    assert np.array_equal(embed(base_model(reader, "plain"), texts, cache), plain)


def test_choice_is_kept_and_not_made_again(reader, cache, eager, monkeypatch):
    texts = [text for text in TEXTS if text]
    first = base_model(reader, "auto")
    found = embed(first, texts, cache)
    monkeypatch.setattr(Encoder, "_tried", lambda *_: pytest.fail("tried again"))
    again = base_model(reader, "auto")
    assert np.array_equal(embed(again, texts, cache), found)
    embed(again, ["new text"] * 2, cache)
    assert asdict(again.encoder.choice) == asdict(first.encoder.choice)


def test_compressed_model_codes_alike(members):
    model = ConcatTransformer(modules=[Concat([members["lexical"], members["reader"]], names=["a", "b"])], device="cpu")
    texts = [f"{number} drops of {word} in the hills" for number in range(150) for word in ("rain", "snow")]
    codec = PercentileCodec(16, 8).fit(CompressedModel(model, None)._vectors(texts, "document"))
    plain, fast = (CompressedModel(model, codec, encoding=way) for way in ("plain", "bf16"))
    decoded = [codec.decode(each.encode_document(texts)) for each in (plain, fast)]
    assert fast.encoder.choice.way == "bf16" and lowest_cosine(*decoded) > 0.99
    assert plain.marks == fast.marks


# ---- bench ----------------------------------------------------------------------------------------------------------


def test_bench_has_a_row_per_way(reader):
    table = bench_encoding.encoding_speed(reader, TEXTS, ["batched", "bf16"], repeats=2)
    assert table["way"].tolist() == ["plain", "batched", "bf16"] and (table["lowest_cosine"] > LOWEST).all()
    assert (table["low"] <= table["seconds"]).all() and (table["seconds"] <= table["high"]).all()
    assert table["ratio"][0] == 1 and (table["repeats"] == 2).all()


def test_sorting_saves_padding():
    lengths = np.random.default_rng(0).integers(1, 250, 500).tolist()
    table = bench_encoding.padding(lengths).set_index("way")["padding"]
    assert table.iloc[0] > 0.4 > 0.1 > table.iloc[2] >= 0
