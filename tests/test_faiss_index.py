"""One faiss index for all codecs: search ranks as the codec does, and plain faiss reads the file."""

import json

import numpy as np
import pytest

from ccq_utils.codecs import faiss_index
from ccq_utils.codecs.codec import scores as codec_scores
from ccq_utils.codecs.decoder import fit_pca
from ccq_utils.codecs.faiss_index import load_faiss, load_index, save_index, to_faiss
from ccq_utils.codecs.peers import make_peer
from ccq_utils.codecs.percentile import CODECS as NAMED
from ccq_utils.codecs.percentile import LshCodec, PercentileCodec, make_codec
from ccq_utils.common.errors import StudyError

ROWS, DIMS = 300, 40
CODECS = {
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


def test_scores_are_those_of_the_codec(coded):
    codec, codes, queries = coded
    scores, numbers = faiss_index.search(codec, to_faiss(codec, codes), queries, 10)
    exact = codec_scores(codec, queries, codes)
    np.testing.assert_allclose(scores, -np.sort(-exact, axis=1)[:, :10], atol=1e-4)
    np.testing.assert_allclose(scores, np.take_along_axis(exact, numbers, axis=1), atol=1e-4)


@pytest.mark.parametrize("name", NAMED)
def test_search_ranks_as_brute_force_does(name, random_vectors):
    """On vectors whose lengths differ once they are decoded, as real ones do."""
    vectors, queries = random_vectors(4000, 96, 1, decay=0.95), random_vectors(60, 96, 2, decay=0.95)
    codec = make_codec(name, 96, 12, fit_pca(vectors, 96)).fit(vectors[:1000])
    codes = codec.encode(vectors)
    scores, _ = faiss_index.search(codec, to_faiss(codec, codes), queries, 10)
    np.testing.assert_allclose(scores, -np.sort(-codec_scores(codec, queries, codes), axis=1)[:, :10], atol=1e-5)


def test_plain_faiss_reads_the_file_and_scores_what_codes_stand_for(coded, tmp_path):
    codec, codes, queries = coded
    index, path = to_faiss(codec, codes), tmp_path / "new" / "index.faiss"
    save_index(path, index, [f"text {number}" for number in range(ROWS)], MARKS)
    scores, numbers = load_faiss().read_index(str(path)).search(codec.project(queries), 10)
    values = codec.quantizer_.decode(codes) if hasattr(codec, "quantizer_") else codec.decode(codes)
    exact = codec.project(queries) @ values.T
    np.testing.assert_allclose(scores, np.take_along_axis(exact, numbers, axis=1), atol=1e-4)
    np.testing.assert_allclose(scores, -np.sort(-exact, axis=1)[:, :10], atol=1e-4)
    again, ids = load_index(path, MARKS)
    assert again.ntotal == ROWS and ids[7] == "text 7"
    assert path.stat().st_size < codes.nbytes + 4 * 256 * (DIMS + 200) + 4000  # the codes once, and their table


@pytest.fixture
def held(random_vectors):
    vectors = random_vectors(ROWS, DIMS)
    codec = PercentileCodec(32, 2).fit(vectors)
    return codec, codec.encode(vectors)


def test_more_results_than_documents_gives_all_documents(held, random_vectors):
    codec, codes = held
    scores, numbers = faiss_index.search(codec, to_faiss(codec, codes[:3]), random_vectors(2, DIMS), 10)
    assert scores.shape == (2, 3) and (np.sort(numbers, axis=1) == [0, 1, 2]).all()


def test_what_cannot_be_searched_is_one_clear_error(held, random_vectors):
    codec, codes = held
    for wrong, message in ((codes[:0], "there are no codes"), (codes[:, 1:], r"of shape \(n, 8\)")):
        with pytest.raises(StudyError, match=message):
            to_faiss(codec, wrong)
    peer = make_peer("binary", DIMS, 4).fit(random_vectors(ROWS, DIMS))
    with pytest.raises(StudyError, match="codes of BinaryCodec do not fit a faiss index"):
        to_faiss(peer, codes[:, :4])
    with pytest.raises(StudyError, match="k 0 must be at least 1"):
        faiss_index.search(codec, to_faiss(codec, codes), random_vectors(1, DIMS), 0)


def test_a_file_of_another_codec_or_without_its_ids_is_an_error(held, tmp_path):
    index, path = to_faiss(*held), tmp_path / "index.faiss"
    with pytest.raises(StudyError, match="300 codes need as many ids, got 1"):
        save_index(path, index, ["one"], MARKS)
    save_index(path, index, list(map(str, range(ROWS))), MARKS)
    with pytest.raises(StudyError, match="index index.faiss was made with another codec"):
        load_index(path, {"codec": "other"})
    beside = json.loads((tmp_path / "index.faiss.json").read_text())
    (tmp_path / "index.faiss.json").write_text(json.dumps(beside | {"version": 9}))
    with pytest.raises(StudyError, match="format version 9"):
        load_index(path, MARKS)
    whole = path.read_bytes()
    save_index(path, to_faiss(held[0], held[1][:200]), list(map(str, range(200))), MARKS)
    for content in (whole, path.read_bytes()[:-1] + b"x"):  # of the run before, damaged
        path.write_bytes(content)
        with pytest.raises(StudyError, match="it is damaged, or its ids are of another run"):
            load_index(path, MARKS)
    path.write_bytes(whole[:100])
    (tmp_path / "index.faiss.json").write_text(json.dumps(beside))
    with pytest.raises(StudyError, match="cannot be read .*make it with ccq export-faiss"):
        load_index(path, MARKS)
