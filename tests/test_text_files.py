"""The reader of files that people bring: what is odd but clear is read, all else is refused by file, line and key."""

import gzip
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccq_utils.common.errors import StudyError
from ccq_utils.data.text_files import read_folder, read_rows, read_texts, stream_texts

OK = '{"id": "a", "text": "some words"}'
text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
seen = text.filter(lambda value: any(character.isalnum() for character in value))
ids = st.one_of(st.integers(0, 10**6), seen)
rows = st.lists(
    st.fixed_dictionaries({"text": text}, optional={"title": st.none() | text, "more": st.lists(st.floats())})
)
dressed = st.tuples(
    st.sampled_from(["", "\ufeff"]), st.sampled_from(["\n", "\r\n", "\n \n"]), st.booleans(), st.booleans()
)
broken = [
    b"{", b"[1]", b"5", b'"x"', b"words", b'{"id": "z"}', b'{"id": "z", "text": "\xe9"}', b'{"id": "z", "text": "a\0b"}',
    b'{"id": "z", "text": "\\u0000"}', b'{"id": "z", "text": "half \\ud83d"}', b'{"id": "\\ude00", "text": "x"}',
    *(b'{"id": %s, "text": "x"}' % value for value in (b"null", b"[1]", b"{}", b"true", b"1.0", b"NaN", b'""', b'" "')),
    *(b'{"id": "z", "text": %s}' % value for value in (b"null", b"[1]", b"{}", b"true", b"1.0", b"NaN", b"5")),
    b'{"id": "z", "text": "x", "title": 0}', b'{"id": "z", "text": "x", "n": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    b'{"text": "no id"}', b'{"id": "z", "text": "x", "text": "y"}',
    b'{"id": "z", "text": "x", "n": [{"a": 1, "a": 1}]}', b'{"id": ' + b"9" * 5000 + b', "text": "x"}',
]  # fmt: skip


def written(content, name="x.jsonl"):
    path = Path(tempfile.mkdtemp()) / name
    path.write_bytes(content)
    return path


@pytest.mark.filterwarnings("ignore:.*empty texts")
@given(rows, st.lists(ids, unique_by=str), st.sampled_from(["id", "_id"]), dressed)
def test_any_mixture_of_valid_lines_is_read_as_written(rows, ids, key, dressed):
    mark, end, last, packed = dressed
    rows = [row | {key: name} for row, name in zip(rows, ids, strict=False)]
    content = (mark + end.join(json.dumps(row, ensure_ascii=last) for row in rows) + end * last).encode()
    found = dict(stream_texts(written(gzip.compress(content) if packed else content), empty=True, places={}))
    wanted = {str(row[key]): f"{row.get('title') or ''} {row['text']}".strip() for row in rows}
    assert list(found) == list(wanted)
    for name, one in wanted.items():
        shown = any(character.isprintable() and not character.isspace() for character in one)
        assert found[name] == (one if shown else "")


@given(st.integers(0, 5), st.integers(0, 5), st.sampled_from(broken), dressed)
def test_any_broken_line_is_named_by_its_number(before, after, line, dressed):
    mark, end, last, packed = dressed
    good = [b'{"id": %d, "text": "words"}' % number for number in range(before + after)]
    content = mark.encode() + end.encode().join([*good[:before], line, *good[before:]]) + end.encode() * last
    path = written(gzip.compress(content) if packed else content)
    place = before * (1 + (end.count("\n") > 1)) + 1
    with pytest.raises(StudyError, match=f"x.jsonl line {place}[,: ]") as caught:
        read_texts(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_a_cut_archive_and_utf16_are_refused():
    packed = gzip.compress("\n".join(f'{{"id": {number}, "text": "some words"}}' for number in range(99)).encode())
    for content in (packed[:-9], packed[:40], OK.encode("utf-16"), OK.encode("utf-16-le")):
        with pytest.raises(StudyError, match="x.jsonl line .* cannot be read"):
            read_texts(written(content))


@pytest.mark.parametrize(("first", "second"), [('"5"', "5"), ("5", "5"), ('"a"', '"a"')])
def test_ids_that_collide_are_refused_with_both_lines(first, second):
    content = "\n".join([f'{{"id": {name}, "text": "a b"}}' for name in (first, '"c"', second)])
    with pytest.raises(StudyError, match="line 3: the id .* stands twice, first in .*x.jsonl line 1"):
        read_texts(written(content.encode()))


def test_a_key_that_stands_twice_is_named_at_any_depth():
    for twice in ('"text": "a", "text": "b"', '"text": "a", "text": "a"', '"text": "a", "m": [{"text": 1, "text": 2}]'):
        with pytest.raises(StudyError, match="x.jsonl line 2: key 'text' stands twice in one object"):
            read_texts(written(f'{OK}\n{{"id": "b", {twice}}}'.encode()))


def test_empty_texts_are_counted_and_title_or_text_may_be_missing():
    lines = [OK, '{"id": 1, "text": " \\u200b"}', '{"id": 2, "title": "t"}', '{"id": 3, "title": null, "text": "x"}']
    path = written("\n".join(lines).encode())
    with pytest.warns(UserWarning, match="1 empty texts, which are never found; the first is .*line 2"):
        assert read_texts(path) == {"a": "some words", "2": "t", "3": "x"}
    with pytest.warns(UserWarning, match="1 empty texts"):
        assert read_texts(path, empty=True)["1"] == ""


def test_hidden_files_and_folders_are_never_read_and_home_is_found(tmp_path, monkeypatch):
    for name in ("b.JSONL", ".hidden/c.jsonl", "._b.jsonl", "sub/a.md", ".git/d.md", "bom.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(("\ufeff" + OK).encode())
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    assert [row[1] for row in read_rows(f"~/{tmp_path.name}", "texts")] == ["a"]
    assert read_folder(f"~/{tmp_path.name}") == {"bom.txt": OK, "sub/a.md": OK}


def test_a_folder_without_texts_and_a_parameter_of_another_type_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text(" \n")
    with pytest.warns(UserWarning, match="1 empty files"), pytest.raises(StudyError, match="holds no text file"):
        read_folder(tmp_path)
    with pytest.raises(StudyError, match=r"folder: \['x'\] is no path"):
        read_folder(["x"])
