"""The cache: built once, checked at every read, damaged parts made again, nothing half-written."""

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from ccq_utils.codecs.codec import scores
from ccq_utils.codecs.decoder import Decoder, fit_pca, train_decoder
from ccq_utils.codecs.peers import make_peer
from ccq_utils.codecs.percentile import make_codec
from ccq_utils.common.cache import CACHE_VERSION, MANIFEST, VECTORS_VERSION, Cache
from ccq_utils.common.errors import StudyError
from ccq_utils.models.lexical import LexicalEncoder


@pytest.fixture
def build(cache):
    """Ask the cache for one artifact; ``build.count`` says how often it was really built."""

    def ask(key="k"):
        def make(folder):
            ask.count += 1
            (folder / "values.txt").write_text("content")

        return cache.artifact("kind", {"key": key}, make)

    ask.count = 0
    return ask


def test_artifact_is_built_once(build):
    assert build() == build()
    assert build.count == 1


def test_other_key_is_another_artifact(build):
    assert build("a") != build("b")
    assert build.count == 2


def test_key_order_does_not_matter(cache):
    first = cache.artifact("kind", {"a": 1, "b": 2}, lambda folder: None)
    assert cache.artifact("kind", {"b": 2, "a": 1}, pytest.fail) == first


@pytest.mark.parametrize("damage", ["changed", "cut", "removed"])
def test_damaged_file_is_noticed_and_made_again(build, damage):
    file = build() / "values.txt"
    if damage == "removed":
        file.unlink()
    else:
        file.write_text({"changed": "c0ntent", "cut": "cont"}[damage])
    with pytest.warns(UserWarning, match="of kind is damaged or foreign"):
        assert (build() / "values.txt").read_text() == "content"
    assert build.count == 2


@pytest.mark.parametrize("manifest", [None, "", "[]", "{}", '{"files": []}', '{"files": {"values.txt": "00"}}'])
def test_foreign_folder_is_made_again(build, manifest):
    folder = build()
    (folder / MANIFEST).unlink()
    if manifest is not None:
        (folder / MANIFEST).write_text(manifest)
    with pytest.warns(UserWarning, match="damaged or foreign"):
        build()
    assert build.count == 2


def test_file_in_the_place_of_an_artifact_is_replaced(build):
    folder = build()
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    folder.write_text("foreign")
    with pytest.warns(UserWarning, match="damaged or foreign"):
        assert (build() / "values.txt").read_text() == "content"


def test_build_that_fails_leaves_nothing(cache):
    def fail(folder):
        (folder / "half.txt").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.artifact("kind", {"key": 1}, fail)
    assert list((cache.folder / "kind").iterdir()) == []


def test_an_artifact_that_another_process_made_meanwhile_is_taken(cache):
    key = {"same": 1}

    def slower(folder):
        Cache(cache.folder).artifact("kind", key, lambda other: (other / "file").write_text("first"))
        (folder / "file").write_text("second")

    assert (cache.artifact("kind", key, slower) / "file").read_text() == "first"
    assert [path.name for path in (cache.folder / "kind").iterdir() if path.name.startswith(".making")] == []


def test_damage_leaves_other_artifacts_alone(build):
    other, folder = build("other"), build("damaged")
    (folder / "values.txt").write_text("x")
    with pytest.warns(UserWarning):
        build("damaged")
    assert build("other") == other and build.count == 3


def test_arrays_come_back_as_they_were(cache, random_vectors):
    made = cache.arrays("arrays", {"key": 1}, lambda: {"x": random_vectors(5, 3)})
    held = cache.arrays("arrays", {"key": 1}, pytest.fail)
    assert np.array_equal(made["x"], held["x"]) and held["x"].dtype == np.float32


def test_json_is_made_once_and_a_set_comes_back_as_a_sorted_list(cache):
    made = []

    def make():
        made.append(1)
        return {"name": "ä", "ids": frozenset("bca"), "none": None}

    found = [cache.json("kind", {"a": 1}, make) for _ in range(2)]
    assert found == [{"name": "ä", "ids": ["a", "b", "c"], "none": None}] * 2 and made == [1]


def test_shards_survive(cache):
    for value in (1, 2, 3):
        cache.add_shard("store", {"x": np.full((2, 2), value, np.float32)})
    assert sorted(shard.get_tensor("x")[0, 0] for shard in Cache(cache.folder).shards("store")) == [1, 2, 3]


def test_shard_of_a_strided_array_is_stored_right(cache):
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    cache.add_shard("store", {"x": values.T})
    assert np.array_equal(next(cache.shards("store")).get_tensor("x"), values.T)


def test_store_that_does_not_exist_has_no_shards(cache):
    assert list(cache.shards("nothing")) == []


@pytest.mark.parametrize("content", [b"", b"foreign", None])
def test_damaged_shard_is_dropped_with_a_warning(cache, content):
    for value in (1, 2):
        cache.add_shard("store", {"x": np.full(4, value, np.float32)})
    path = sorted((cache.folder / "embeddings" / "store").glob("*.safetensors"))[0]
    path.write_bytes(path.read_bytes()[:-1] if content is None else content)
    with pytest.warns(UserWarning, match=f"{path.name} of store is damaged"):
        assert len(list(cache.shards("store"))) == 1
    assert not path.exists()


def test_unwritable_folder_is_one_clear_error_for_artifacts(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="cannot write to .*file.*choose another folder"):
        Cache(tmp_path / "file" / "cache").artifact("kind", {}, lambda folder: None)


def test_unwritable_folder_is_one_clear_error_for_shards(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="cannot write to"):
        Cache(tmp_path / "file").add_shard("store", {"x": np.zeros(1, np.float32)})


def test_large_rows_lie_in_a_file_without_a_name_and_small_ones_in_memory(cache, monkeypatch):
    monkeypatch.setattr("ccq_utils.common.cache.IN_MEMORY", 1000)
    small, large = cache.rows(10, 5), cache.rows(100, 5)
    large[:] = np.arange(500).reshape(100, 5)
    assert small.shape == (10, 5) and small.base is None and type(large) is np.ndarray
    assert isinstance(large.base, np.memmap) and large.dtype == np.float32 and large[99, 4] == 499
    assert list(cache.folder.iterdir()) == []


def test_cached_results_are_those_of_the_version(random_vectors):
    """What is kept under these versions: where a number moves, raise its version and renew the numbers together."""
    training, held_out = random_vectors(256, 24, 1), random_vectors(64, 24, 2)
    torch.manual_seed(0)
    decoder = Decoder(24, 8)
    history = train_decoder(
        decoder, training, held_out, stops=[4, 8], epochs=3, batch_size=64, learning_rate=1e-2, patience=None, seed=0
    )
    lexical = LexicalEncoder(features=2**10, dims=16).fit(["rain on the plain", "snow", "wind and weather"], seed=1)
    found = {
        "trained decoder": history["validation_loss"].iloc[-1],
        "PCA": np.abs(fit_pca(training, 4).transform(held_out)).mean(),
        "lexical": np.abs(SentenceTransformer(modules=[lexical], device="cpu").encode(["rain and wind"])).mean(),
    }
    made = {name: make_codec(name, 24, 4, None, 7) for name in ("LSH", "PCA", "PCA, rotated", "equalised PCA")}
    made |= {name: make_peer(name, 24, 2, 7) for name in ("ITQ", "binary")}
    for name, codec in made.items():
        codec.fit(training, held_out)
        found[f"scores, {name}"] = np.square(scores(codec, held_out[:8], codec.encode(held_out))).mean()
    assert (CACHE_VERSION, VECTORS_VERSION, found) == (*KNOWN[:2], pytest.approx(KNOWN[2], rel=5e-3))


KNOWN = (
    6,
    5,
    {
        "trained decoder": 0.14779,
        "PCA": 0.41881,
        "lexical": 0.20611,
        "scores, LSH": 65.73,
        "scores, PCA": 0.08985,
        "scores, PCA, rotated": 0.09136,
        "scores, equalised PCA": 0.08717,
        "scores, ITQ": 0.95058,
        "scores, binary": 1.16453,
    },
)
"""``CACHE_VERSION``, ``VECTORS_VERSION`` (of *lexical*), and what they compute."""
