"""One faiss index for all codecs: its scores are those of the decoded vectors, here and in a file that plain faiss reads."""

import json

import numpy as np
import pytest

from ccq_utils.codecs import faiss_index
from ccq_utils.codecs.byte_blocks import BlockCodec
from ccq_utils.codecs.faiss_index import load_faiss, load_index, save_index, to_faiss
from ccq_utils.codecs.peers import make_peer
from ccq_utils.codecs.percentile import LshCodec, PercentileCodec
from ccq_utils.common.errors import StudyError

ROWS, DIMS = 300, 40
CODECS = {
    "blocks of unequal width": lambda: BlockCodec(7, neighbours=0),
    "LSH": lambda: LshCodec(64),
    "LSH, bits to spare": lambda: LshCodec(50),
    **{f"{bits} bit": lambda bits=bits: PercentileCodec(24, bits, rotate=True) for bits in (1, 2, 4, 8)},
    "2 bit, dims to spare": lambda: PercentileCodec(13, 2),
}
MARKS = {"codec": "abc", "model": "def"}


@pytest.fixture(params=CODECS)
def coded(request, random_vectors):
    vectors = random_vectors(ROWS, DIMS)
    codec = CODECS[request.param]().fit(vectors)
    return codec, codec.encode(vectors), random_vectors(5, DIMS, seed=1)


def test_scores_are_the_decoded_inner_products(coded):
    codec, codes, queries = coded
    scores, numbers = faiss_index.search(codec, to_faiss(codec, codes), queries, 10)
    exact = codec.project(queries) @ codec.decode(codes).T
    np.testing.assert_allclose(scores, -np.sort(-exact, axis=1)[:, :10], atol=1e-4)
    np.testing.assert_allclose(scores, np.take_along_axis(exact, numbers, axis=1), atol=1e-4)


def test_plain_faiss_reads_the_file_and_finds_the_same(coded, tmp_path):
    codec, codes, queries = coded
    index, path = to_faiss(codec, codes), tmp_path / "new" / "index.faiss"
    save_index(path, index, [f"text {number}" for number in range(ROWS)], MARKS)
    plain = load_faiss().read_index(str(path)).search(codec.project(queries), 10)
    np.testing.assert_array_equal(plain, faiss_index.search(codec, index, queries, 10))
    again, ids = load_index(path, MARKS)
    assert again.ntotal == ROWS and ids[7] == "text 7"
    assert path.stat().st_size < codes.nbytes + 4 * 256 * (DIMS + 200) + 4000  # the codes once, and their table


@pytest.fixture
def blocks(random_vectors):
    vectors = random_vectors(ROWS, DIMS)
    codec = BlockCodec(8, neighbours=0).fit(vectors)
    return codec, codec.encode(vectors)


def test_more_results_than_documents_gives_all_documents(blocks, random_vectors):
    codec, codes = blocks
    scores, numbers = faiss_index.search(codec, to_faiss(codec, codes[:3]), random_vectors(2, DIMS), 10)
    assert scores.shape == (2, 3) and (np.sort(numbers, axis=1) == [0, 1, 2]).all()


def test_what_cannot_be_searched_is_one_clear_error(blocks, random_vectors):
    codec, codes = blocks
    for wrong, message in ((codes[:0], "there are no codes"), (codes[:, 1:], r"of shape \(n, 8\)")):
        with pytest.raises(StudyError, match=message):
            to_faiss(codec, wrong)
    peer = make_peer("int8", DIMS, 8).fit(random_vectors(ROWS, DIMS))
    with pytest.raises(StudyError, match="codes of PrecisionCodec do not fit a faiss index"):
        to_faiss(peer, codes)
    with pytest.raises(StudyError, match="k 0 must be at least 1"):
        faiss_index.search(codec, to_faiss(codec, codes), random_vectors(1, DIMS), 0)


def test_a_file_of_another_codec_or_without_its_ids_is_an_error(blocks, tmp_path):
    index, path = to_faiss(*blocks), tmp_path / "index.faiss"
    with pytest.raises(StudyError, match="300 codes need as many ids, got 1"):
        save_index(path, index, ["one"], MARKS)
    save_index(path, index, list(map(str, range(ROWS))), MARKS)
    with pytest.raises(StudyError, match="index index.faiss was made with another codec"):
        load_index(path, {"codec": "other"})
    held = json.loads((tmp_path / "index.faiss.json").read_text())
    (tmp_path / "index.faiss.json").write_text(json.dumps(held | {"version": 9}))
    with pytest.raises(StudyError, match="format version 9"):
        load_index(path, MARKS)
    path.write_bytes(path.read_bytes()[:100])
    (tmp_path / "index.faiss.json").write_text(json.dumps(held))
    with pytest.raises(StudyError, match="cannot be read .*make it with ccq export-faiss"):
        load_index(path, MARKS)
