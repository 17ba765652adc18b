"""Two-step search of byte blocks: whole bytes, exact scores; and the index file that plain faiss reads."""

import json

import numpy as np
import pytest

from ccq_utils import cli
from ccq_utils.codecs.byte_blocks import BlockCodec
from ccq_utils.codecs.faiss_index import export_faiss, faiss_index, load_faiss
from ccq_utils.codecs.percentile import LshCodec, search
from ccq_utils.codecs.two_step_search import GROUPS, CodeIndex, _pack, _unpack, group_numbers
from ccq_utils.common.errors import StudyError

ROWS, DIMS = 500, 40


@pytest.fixture(scope="module", params=[8, 7], ids=["even", "odd"])
def coded(request, random_vectors):
    vectors = random_vectors(ROWS, DIMS)
    codec = BlockCodec(request.param, neighbours=0).fit(vectors)
    return codec, codec.encode(vectors), random_vectors(5, DIMS, seed=1)


@pytest.fixture(scope="module")
def index(coded):
    return CodeIndex(*coded[:2])


def test_numbers_are_a_permutation_whose_high_halves_name_near_centroids():
    rng = np.random.default_rng(0)
    corners = np.array([[group >> bit & 1 for bit in range(4)] for group in range(GROUPS)]) * [400, 200, 100, 50]
    centroids = (np.repeat(corners, GROUPS, axis=0) + rng.standard_normal((256, 4)))[rng.permutation(256)]
    numbers = group_numbers(centroids.astype(np.float32))
    assert sorted(numbers) == list(range(256))
    spread = [centroids[numbers >> 4 == group].std(axis=0).max() for group in range(GROUPS)]
    assert max(spread) < 3  # each group is one cluster


def test_halves_of_bytes_come_back():
    halves = np.random.default_rng(0).integers(0, 16, (6, 5), dtype=np.uint8)
    packed = _pack(halves)
    assert packed.shape == (6, 3)
    np.testing.assert_array_equal(_unpack(packed, 5), halves)


def test_new_numbers_keep_what_codes_stand_for(coded, index):
    codec, codes, _ = coded
    found = index._codes(np.arange(ROWS)[::-1])[::-1]
    np.testing.assert_array_equal(found, index.numbers_[np.arange(codes.shape[1]), codes])
    parts = [table[:, column].T for table, column in zip(index.tables_, found.T, strict=True)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), codec.decode(codes))


def test_an_index_takes_the_codes_bytes(coded, index):
    codec, codes, _ = coded
    filled = -(-ROWS // 32) * 32
    assert index.nbytes <= filled * 2 * -(-codec.bytes_per_vector // 2)
    if codec.bytes_per_vector % 2 == 0:
        assert index.nbytes <= codes.nbytes * filled / ROWS


@pytest.mark.parametrize("shortlist", [1, 10, 100, ROWS])
def test_scores_are_decoded_dot_products_whatever_the_shortlist(coded, index, shortlist):
    codec, codes, queries = coded
    scores, numbers = index.search(queries, 10, shortlist)
    exact = codec.project(queries) @ codec.decode(codes).T
    np.testing.assert_allclose(scores, np.take_along_axis(exact, numbers, axis=1), atol=1e-5)
    assert (np.diff(scores, axis=1) <= 0).all()


def test_a_shortlist_of_all_is_the_exhaustive_search(coded, index):
    codec, codes, queries = coded
    scores, _ = index.search(queries, 10, ROWS)
    np.testing.assert_allclose(scores, search(codec, queries, codes, 10)[0], atol=1e-5)


def test_one_query_is_searched_as_in_a_batch(coded, index):
    queries = np.concatenate([coded[2]] * 20)  # more than are searched at once
    alone, together = index.search(queries[:1], 10), index.search(queries, 10)
    np.testing.assert_array_equal(alone[1][0], together[1][0])
    np.testing.assert_array_equal(together[1][:5], together[1][-5:])


def test_shortlist_finds_the_best_of_clustered_documents(random_vectors):
    middles = random_vectors(100, DIMS)
    vectors = np.repeat(middles, 10, axis=0) + 0.1 * random_vectors(1000, DIMS, seed=1, decay=1.0)
    codec = BlockCodec(16, neighbours=0).fit(vectors)
    codes = codec.encode(vectors)
    exact = search(codec, middles[:50], codes, 10)[1]
    found = CodeIndex(codec, codes).search(middles[:50], 10, 100)[1]
    assert np.mean([len(set(one) & set(other)) / 10 for one, other in zip(found, exact, strict=True)]) > 0.95


def test_equal_codes_come_in_the_order_of_their_numbers(coded):
    codec, codes, queries = coded
    index = CodeIndex(codec, np.repeat(codes[:1], 70, axis=0))
    scores, numbers = index.search(queries, 5)
    assert len(np.unique(scores[0])) == 1
    np.testing.assert_array_equal(numbers, np.tile(np.arange(5), (len(queries), 1)))


def test_more_results_than_documents_gives_all_documents(coded):
    codec, codes, queries = coded
    scores, numbers = CodeIndex(codec, codes[:3]).search(queries, 10)
    assert scores.shape == (5, 3) and (np.sort(numbers, axis=1) == [0, 1, 2]).all()


@pytest.mark.parametrize("make", [CodeIndex, faiss_index])
def test_what_cannot_be_searched_is_one_clear_error(coded, make, random_vectors):
    codec, codes, _ = coded
    with pytest.raises(StudyError, match="there are no codes"):
        make(codec, codes[:0])
    with pytest.raises(StudyError, match="bytes per vector"):
        make(codec, codes[:, 1:])
    with pytest.raises(StudyError, match="byte blocks"):
        make(LshCodec(64).fit(random_vectors(9, DIMS)), codes)


def test_count_below_one_is_an_error(coded, index):
    with pytest.raises(StudyError, match="count 0 must be at least 1"):
        index.search(coded[2], 0)


# ---- export ---------------------------------------------------------------------------------------------------------


def test_plain_faiss_finds_what_codecs_search_finds(coded, tmp_path):
    codec, codes, queries = coded
    names = export_faiss(codec, codes, [f"text {number}" for number in range(ROWS)], tmp_path / "new" / "index.faiss")
    index = load_faiss().read_index(str(tmp_path / "new" / "index.faiss"))
    assert index.ntotal == ROWS and index.d == DIMS
    scores, numbers = index.search(queries, 10)
    expected, places = search(codec, queries, codes, 10)
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    exact = codec.project(queries) @ codec.decode(codes).T
    np.testing.assert_allclose(np.take_along_axis(exact, numbers, axis=1), scores, atol=1e-5)
    ids = json.loads(names.read_text())["ids"]
    assert len(ids) == ROWS and ids[numbers[0, 0]] == f"text {numbers[0, 0]}"
    assert len({*numbers[0]} & {*places[0]}) >= 9  # ties may change places


def test_ids_must_be_as_many_as_codes(coded, tmp_path):
    with pytest.raises(StudyError, match="500 codes need as many ids, got 1"):
        export_faiss(*coded[:2], ["one"], tmp_path / "index.faiss")
    assert not list(tmp_path.iterdir())


def test_command_exports_a_saved_model(members, tmp_path, monkeypatch, capsys):
    from ccq_utils.deploy.modules import Concat, ConcatTransformer
    from ccq_utils.deploy.pipeline import CompressedModel

    texts = [f"{word} and {other}" for word in ("rain", "snow", "wind") for other in ("sun", "sea", "sand", "hail")]
    joined = Concat([members["static"], members["lexical"]])
    model = CompressedModel(ConcatTransformer(modules=[joined], device="cpu"), BlockCodec(6))
    codes = model.fit_encode_document(texts)
    monkeypatch.setattr(CompressedModel, "load", lambda folder, device=None: model)
    model.save_codes(tmp_path / "codes.npz", codes, texts)
    out = tmp_path / "out.faiss"
    assert cli.main(["export-faiss", "model", str(tmp_path / "codes.npz"), str(out)]) == 0
    assert "12 texts, 6 bytes each" in capsys.readouterr().out
    query = np.asarray(model.model.encode_query(["rain"], show_progress_bar=False))
    scores = load_faiss().read_index(str(out)).search(query, 3)[0]
    np.testing.assert_allclose(scores, model.search(["rain"], codes, 3)[0], atol=1e-5)
