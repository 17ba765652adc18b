"""Text without judgements: disjoint parts, pairs for trained members, and what is said about bad files."""

import json
from types import SimpleNamespace

import pytest

from ccq_utils.common.errors import StudyError
from ccq_utils.data import hub
from ccq_utils.data.corpora import load_corpora
from ccq_utils.data.profile import TextSpec

SIZES = {"passages": 100, "calibration": 256, "validation": 16, "min_words": 5, "max_words": 20}


def passage(number):
    return {"id": number, "title": f"Title {number}", "text": f"First {number}. " + f"word{number} " * 12}


@pytest.fixture
def corpora(tmp_path):
    """Write passages (or raw bytes) and load them."""

    def of(content=None, **changes):
        content = "".join(json.dumps(passage(number)) + "\n" for number in range(500)) if content is None else content
        path = tmp_path / "passages.jsonl"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return load_corpora(TextSpec(source=f"jsonl:{path}", **SIZES | changes), seed=3)

    return of


def test_parts_have_the_sizes_asked_for_and_share_no_text(corpora):
    made = corpora()
    parts = [made.training, made.calibration, made.validation]
    assert [len(part) for part in parts] == [100, 256, 16]
    assert len({text for part in parts for text in part}) == 372


def test_pairs_come_from_outside_calibration_and_validation(corpora):
    made = corpora()
    held_out = set(made.calibration) | set(made.validation)
    assert len(made.pairs) == 500 - 256 - 16
    assert not held_out & {long for _, long in made.pairs}


def test_a_pair_is_title_and_first_sentence_with_the_rest(corpora):
    short, long = corpora().pairs[0]
    number = short.split()[1]
    assert short == f"Title {number} First {number}" and set(long.split()) == {f"word{number}"}


def test_long_text_is_cut_into_passages_of_max_words(corpora):
    rows = [{"text": "One. " + "many " * 45} for _ in range(200)]
    made = corpora("".join(json.dumps(row) + "\n" for row in rows))
    assert {len(text.split()) for text in made.training} == {20, 5}


def test_a_title_alone_is_no_text_and_no_half_of_a_pair(corpora):
    rows = [passage(number) | ({"text": ""} if number % 10 == 0 else {}) for number in range(500)]
    made = corpora("".join(json.dumps(row) + "\n" for row in rows))
    assert len(made.pairs) == 450 - 256 - 16 and all(short and long for short, long in made.pairs)


def test_same_seed_gives_the_same_text(corpora):
    assert corpora() == corpora()


def test_too_little_text_is_an_error_that_counts(corpora):
    with pytest.raises(StudyError, match="gives only 228 training passages of 5 words or more, 5000 were asked for"):
        corpora(passages=5000)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ('{"text": "a b c d e"}\n{broken', "passages.jsonl line 2, no JSON object"),
        ('{"id": "a"}\n', "passages.jsonl line 1: key 'text' is missing"),
        ('["text"]\n', "passages.jsonl line 1, no JSON object"),
        (b'{"text": "\xff"}\n', "passages.jsonl line 1 cannot be read"),
        ('{"text": "a b c"}\n{"text": null}\n', "passages.jsonl line 2, key 'text'"),
        ('{"text": ["a b c"]}\n', "passages.jsonl line 1, key 'text'"),
        ('{"text": "a b c", "title": 5}\n', "passages.jsonl line 1, key 'title'"),
    ],
)
def test_bad_file_is_one_line_that_names_the_place(corpora, content, named):
    with pytest.raises(StudyError, match=named) as caught:
        corpora(content)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("row", [{"text": None}, {"text": 5}, {"text": "a", "title": 0}, {"text": "a", "title": ["b"]}])
def test_a_data_set_s_text_is_never_made_from_something_else(monkeypatch, row):
    class Builder:
        config = None

        def as_streaming_dataset(self, **_):
            return SimpleNamespace(shuffle=lambda **_: [{"title": None, "text": ""}, row])

    monkeypatch.setattr("datasets.load_dataset_builder", lambda *_, **__: Builder())
    rows = hub.stream(TextSpec(source="hub:a/b", revision="c" * 40), 0)
    assert next(rows) == ("", "")
    with pytest.raises(StudyError, match="data set 'a/b': title .* or text .* of a row is no string"):
        next(rows)


def test_missing_file_is_an_error():
    with pytest.raises(StudyError, match="training text: nowhere.jsonl is missing"):
        load_corpora(TextSpec(source="jsonl:nowhere.jsonl"), seed=0)
