"""What the readers are given: odd files, and what each must give. ``REFUSED`` and words that the refusal must hold, or texts.

All is made here, after kinds of faults that users reported to tools of this field; a file is a name and its bytes.
"""

import gzip
import json
from dataclasses import dataclass, field

import numpy as np

TEXTS = {
    "a": "rain falls on the plain",
    "b": "snow lies in the hills",
    "c": "Wind and weather of the coast",
    "d": "a river runs past the market",
    "e": "stones and falcons in the north",
    "f": "bread is sold at the gate",
}
QUERIES = {"q1": "rain plain", "q2": "snow hills", "q3": "bread gate"}
QRELS = {"q1": {"a": 2, "c": 1}, "q2": {"b": 1}, "q3": {"f": 1, "a": 0}}
HEADER = "query-id\tcorpus-id\tscore\n"


@dataclass
class Input:
    """Files by name below a folder, and what reading them must give; ``meant`` None is a refusal that holds ``words``."""

    kind: str
    name: str
    files: dict[str, bytes]
    meant: object
    words: tuple[str, ...] = ()
    warns: bool = False
    spec: dict = field(default_factory=dict)


def rows(texts, key="id"):
    """JSON lines of texts by id."""
    return [json.dumps({key: name, "text": text}) for name, text in texts.items()]


def joined(lines, end="\n", last="\n"):
    """Lines as bytes."""
    return (end.join(lines) + last).encode()


GOOD = rows(TEXTS)
BROKEN = {
    "half object": "{", "array": "[1]", "number": "5", "string": '"x"', "no JSON": "words", "comment": "// a note",
    "single quotes": "{'id': 'z', 'text': 'x'}", "trailing comma": '{"id": "z", "text": "x",}',
    "two objects": '{"id": "z", "text": "x"} {"id": "y", "text": "x"}', "text missing": '{"id": "z"}',
    "other keys": '{"id": "z", "contents": "x"}', "Latin-1": b'{"id": "z", "text": "caf\xe9"}',
    "broken byte": b'{"id": "z", "text": "caf\xc3"}', "NUL": b'{"id": "z", "text": "a\0b"}',
    "NUL escaped": '{"id": "z", "text": "a\\u0000b"}', "NUL in id": '{"id": "z\\u0000", "text": "b"}',
    "half pair in text": '{"id": "z", "text": "half \\ud83d"}', "half pair in id": '{"id": "\\ude00", "text": "x"}',
    "half pair in title": '{"id": "z", "title": "\\ud83d", "text": "x"}', "id missing": '{"text": "no id"}',
    "id of 5,000 digits": '{"id": ' + "9" * 5000 + ', "text": "x"}',
    "nested 5,000 deep": '{"id": "z", "text": "x", "n": ' + "[" * 5000 + "]" * 5000 + "}",
    "text twice": '{"id": "z", "text": "x", "text": "y"}', "id twice": '{"id": "z", "id": "y", "text": "x"}',
    "a key twice below": '{"id": "z", "text": "x", "n": {"m": 1, "m": 2}}', "id again": '{"id": "a", "text": "x"}',
    "control character": b'{"id": "z", "text": "a\x01b"}', "id of zero width": '{"id": "\\u200b", "text": "x"}',
} | {
    f"{key} {value}": json.dumps({"id": "z", "text": "x", "title": "t"} | {key: json.loads(value)})
    for key, values in {
        "id": ("null", "[1]", "{}", "true", "1.0", "NaN", '""', '" "'),
        "text": ("null", "[1]", "{}", "true", "1.0", "NaN", "5", "-Infinity"),
        "title": ("0", "false", "[]", '{"a": 1}'),
    }.items()
    for value in values
}  # fmt: skip
"""A line that must be refused by its number."""
ODD = {
    "integer id": ({"id": 7, "text": "seven stones"}, ("7", "seven stones")),
    "large integer id": ({"id": 10**20, "text": "many stones"}, (str(10**20), "many stones")),
    "_id": ({"_id": "g", "text": "seven stones"}, ("g", "seven stones")),
    "title null": ({"id": "g", "title": None, "text": "seven stones"}, ("g", "seven stones")),
    "title": ({"id": "g", "title": "Stones", "text": "lie here"}, ("g", "Stones lie here")),
    "title alone": ({"id": "g", "title": "Seven stones"}, ("g", "Seven stones")),
    "title and empty text": ({"id": "g", "title": "Seven stones", "text": ""}, ("g", "Seven stones")),
    "other keys": ({"id": "g", "text": "seven stones", "n": [None, 1.5, {"id": 3}]}, ("g", "seven stones")),
    "Chinese": ({"id": "g", "text": "\u6625\u5929\u7684\u6cb3\u6d41"}, ("g", "\u6625\u5929\u7684\u6cb3\u6d41")),
    "emoji": ({"id": "g", "text": "feast \U0001f389"}, ("g", "feast \U0001f389")),
    "emoji in id": ({"id": "\U0001f600", "text": "smile"}, ("\U0001f600", "smile")),
    "line separators": ({"id": "g", "text": "a\u2028b\x85c"}, ("g", "a\u2028b\x85c")),
    "line feeds": ({"id": "g", "text": "one\ntwo\r\nthree"}, ("g", "one\ntwo\r\nthree")),
    "spaces in id": ({"id": " g ", "text": "seven stones"}, (" g ", "seven stones")),
    "line feed in id": ({"id": "g\nh", "text": "seven stones"}, ("g\nh", "seven stones")),
    "points alone": ({"id": "g", "text": "..."}, ("g", "...")),
    "long word": ({"id": "g", "text": "a" * 100_000}, ("g", "a" * 100_000)),
    "2 MB": ({"id": "g", "text": "seven stones " * 160_000}, ("g", ("seven stones " * 160_000).strip())),
    "the same text": ({"id": "g", "text": TEXTS["a"]}, ("g", TEXTS["a"])),
}
"""A row that must be read, and its id and text."""
EMPTY = {"empty": "", "spaces": " \t ", "zero width": "\u200b\u200b", "no-break space": "\xa0", "controls": "\x01\x02"}


def texts(seed):
    """JSON lines and folders of them, as ``ccq encode`` takes them."""
    rng = np.random.default_rng(seed)

    def case(name, content, meant=TEXTS, words=(), warns=False, file="t.jsonl"):
        held = content if isinstance(content, dict) else {file: content}
        return Input("texts", name, held, meant, words, warns)

    plain = joined(GOOD)
    packed = gzip.compress(plain)
    yield case("plain", plain)
    yield case("byte order mark", b"\xef\xbb\xbf" + plain)
    yield case("CRLF", joined(GOOD, "\r\n", "\r\n"))
    yield case("blank lines", joined(GOOD, "\n\n  \n\r\n", "\n\n"))
    yield case("no last line feed", joined(GOOD, last=""))
    yield case(
        "mark, CRLF and blank lines, packed", gzip.compress(b"\xef\xbb\xbf" + joined(GOOD, "\r\n\r\n", "")), file="t.gz"
    )
    yield case("packed", packed, file="t.jsonl.gz")
    yield case("packed without its name", packed)
    yield case("packed in two members", gzip.compress(joined(GOOD[:3])) + gzip.compress(joined(GOOD[3:])))
    yield case("named as packed", plain, file="t.jsonl.gz")
    yield case("escaped", joined([json.dumps(json.loads(line), ensure_ascii=True) for line in GOOD]))
    yield case("spaces around", joined([f"  {line}\t" for line in GOOD]))
    yield case("one text", joined(GOOD[:1]), dict([*TEXTS.items()][:1]))
    yield case(
        "folder",
        {
            "s/a.jsonl": joined(GOOD[:2]),
            "s/b/c.jsonl": joined(GOOD[2:4]),
            "s/d.jsonl.gz": gzip.compress(joined(GOOD[4:])),
        },
    )
    hidden = {"s/.a.jsonl": b"{", "s/._t.jsonl": b"\xb0", "s/.git/b.jsonl": b"[", "s/notes.txt": b"words"}
    yield case("folder with hidden files", {"s/t.jsonl": plain} | hidden)
    for name, (row, (key, text)) in ODD.items():
        yield case(name, joined([*GOOD, json.dumps(row, ensure_ascii=False)]), TEXTS | {key: text})
    for name, text in EMPTY.items():
        yield case(f"text of {name}", joined([*GOOD, json.dumps({"id": "g", "text": text})]), warns=True)
    for name, line in BROKEN.items():
        at = int(rng.integers(1 if name == "id again" else 0, len(GOOD)))
        lines = [part.encode() for part in GOOD]
        lines.insert(at, line if isinstance(line, bytes) else line.encode())
        numbers = (f"line {at + 1}",) if name != "id again" else ("stands twice", "line 1")
        yield case(f"line: {name}", b"\n".join(lines), None, numbers)
    yield case(
        "integer and string of one id",
        joined([*GOOD, '{"id": "5", "text": "x"}', '{"id": 5, "text": "y"}']),
        None,
        ("line 8", "line 7"),
    )
    twice = {"s/a.jsonl": plain, "s/b.jsonl": joined(GOOD[2:])}
    yield case("an id in two files", twice, None, ("b.jsonl line 1", "a.jsonl line 3"))
    for name, content in (("UTF-16", "utf-16"), ("UTF-16, no mark", "utf-16-le"), ("UTF-32", "utf-32")):
        yield case(name, plain.decode().encode(content), None, ("line 1", "UTF-8"))
    for name, size in (("cut in the middle", len(packed) // 2), ("cut at the end", len(packed) - 4)):
        yield case(f"archive {name}", packed[:size], None, ("line", "cannot be read"))
    damaged = bytearray(packed)
    damaged[len(packed) // 2] ^= 0xFF
    yield case("archive with a wrong byte", bytes(damaged), None, ("line",))
    yield case("last line cut", plain[:-9], None, ("line 6",))
    yield case("an array", json.dumps([json.loads(line) for line in GOOD]).encode(), None, ("line 1", "object"))
    yield case("pretty JSON", json.dumps([json.loads(line) for line in GOOD], indent=1).encode(), None, ("line 1",))
    yield case("a table", b"id,text\na,rain\nb,snow\n", None, ("line 1",), file="t.csv")
    yield case("plain text", b"rain\nsnow\n", None, ("line 1",), file="t.txt")
    yield case("nothing", b"", None, ("holds no text",))
    yield case("blank lines alone", b"\n\n \n", None, ("holds no text",))
    yield case("empty texts alone", joined(rows(dict.fromkeys(TEXTS, " "))), None, ("holds no text",))
    yield case("no file", {"other": b""}, None, ("is missing",))
    yield case("folder without texts", {"s/notes.txt": b"words"}, None, ("holds no text",))
    for number in range(20):
        extra = list(ODD.values())
        chosen = [extra[at] for at in rng.choice(len(extra) - 3, 3, False)]
        ids = [f"x{number}-{place}" for place in range(3)]
        rows_of = [{key: row[key] for key in row if key != "_id"} for row, _ in chosen]
        named = [row | {"id": name} for name, row in zip(ids, rows_of, strict=True)]
        lines = [json.dumps(row, ensure_ascii=bool(number % 2)) for row in named]
        meant = TEXTS | {name: text for name, (_, (_, text)) in zip(ids, chosen, strict=True)}
        end = ("\n", "\r\n", "\n\n")[number % 3]
        yield case(f"drawn mixture {number}", b"\xef\xbb\xbf" * (number % 2) + joined([*GOOD, *lines], end), meant)


def folders(seed):
    """BEIR folders: what stands in the corpus and in the queries."""
    rng = np.random.default_rng(seed)
    whole = (TEXTS, QUERIES, QRELS)

    def case(name, meant=whole, words=(), corpus=None, queries=None, warns=False, **files):
        held = {"corpus.jsonl": joined(GOOD) if corpus is None else corpus}
        held |= {"queries.jsonl": joined(rows(QUERIES)) if queries is None else queries}
        held |= {"qrels/test.tsv": tsv(QRELS)} | {name.replace("__", "/"): content for name, content in files.items()}
        return Input(
            "BEIR folders", name, {key: held[key] for key in held if held[key] != b"none"}, meant, words, warns
        )

    yield case("plain")
    yield case("_id", corpus=joined(rows(TEXTS, "_id")), queries=joined(rows(QUERIES, "_id")))
    yield case(
        "mark and CRLF",
        corpus=b"\xef\xbb\xbf" + joined(GOOD, "\r\n"),
        queries=b"\xef\xbb\xbf" + joined(rows(QUERIES), "\r\n"),
    )
    yield case("blank lines", corpus=joined(GOOD, "\n\n"), queries=joined(rows(QUERIES), "\n \n"))
    packed = {"corpus.jsonl.gz": gzip.compress(joined(GOOD)), "queries.jsonl.gz": gzip.compress(joined(rows(QUERIES)))}
    yield case("packed", corpus=b"none", queries=b"none", **packed)
    numbers = {str(at): text for at, text in enumerate(TEXTS.values())}
    judged = {
        query: {str([*TEXTS].index(name)): grade for name, grade in grades.items()} for query, grades in QRELS.items()
    }
    lines = [json.dumps({"_id": int(name), "text": text}) for name, text in numbers.items()]
    yield case("integer ids", (numbers, QUERIES, judged), corpus=joined(lines), **{"qrels__test.tsv": tsv(judged)})
    for name, (row, (key, text)) in ODD.items():
        more = joined([*GOOD, json.dumps(row, ensure_ascii=False)])
        yield case(f"document: {name}", ({**TEXTS, key: text}, QUERIES, QRELS), corpus=more)
    for name, text in EMPTY.items():
        more = joined([*GOOD, json.dumps({"id": "g", "text": text})])
        yield case(f"document: text of {name}", ({**TEXTS, "g": ""}, QUERIES, QRELS), corpus=more, warns=True)
    titled = [
        json.dumps({"_id": name, "title": text.split()[0], "text": " ".join(text.split()[1:])})
        for name, text in TEXTS.items()
    ]
    yield case("titles", corpus=joined(titled))
    yield case(
        "an unjudged query without a text",
        corpus=None,
        queries=joined([*rows(QUERIES), '{"id": "q9", "text": ""}']),
        warns=True,
    )
    unjudged = joined([*rows(QUERIES), '{"id": "q9", "text": "unjudged"}'])
    yield case("an unjudged query", queries=unjudged)
    for name in rng.permutation([*BROKEN])[:24]:
        line = BROKEN[name] if isinstance(BROKEN[name], bytes) else BROKEN[name].encode()
        words = ("queries.jsonl line 4",) if name != "id again" else ()
        if name != "id again":
            yield case(f"query: {name}", None, words, queries=joined(rows(QUERIES)) + line)
    for name in rng.permutation([*BROKEN])[:24]:
        line = BROKEN[name] if isinstance(BROKEN[name], bytes) else BROKEN[name].encode()
        yield case(f"document: {name}", None, ("corpus.jsonl line 7",), corpus=joined(GOOD) + line)
    yield case(
        "a judged query without a text",
        None,
        ("line 2", "'q1'", "no text"),
        queries=joined(rows(QUERIES | {"q1": " "})),
    )
    yield case(
        "a query twice",
        None,
        ("queries.jsonl line 4", "line 1"),
        queries=joined([*rows(QUERIES), '{"id": "q1", "text": "x"}']),
    )
    for name in ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv"):
        yield case(
            f"no {name}", None, (name, "missing"), **{name.replace("/", "__").replace(".jsonl", ".jsonl"): b"none"}
        )
    yield case("no query", None, ("queries.jsonl", "holds no text"), queries=b"")
    yield case("no document", None, ("corpus.jsonl", "holds no text"), corpus=b"\n")
    yield case("a corpus in UTF-16", None, ("corpus.jsonl line 1",), corpus=joined(GOOD).decode().encode("utf-16"))


def tsv(qrels, header=HEADER, end="\n"):
    """Judgements as a table."""
    lines = [f"{query}\t{name}\t{grade}" for query, grades in qrels.items() for name, grade in grades.items()]
    return (header.replace("\n", end) + end.join(lines) + end).encode()


def judgements(seed):
    """BEIR folders: what stands in ``qrels/test.tsv``."""
    plain, meant = tsv(QRELS).decode(), (TEXTS, QUERIES, QRELS)

    def case(name, content, meant=meant, words=(), warns=False, **spec):
        files = {"corpus.jsonl": joined(GOOD), "queries.jsonl": joined(rows(QUERIES))}
        content = content if isinstance(content, bytes) else content.encode()
        return Input("judgements", name, files | {"qrels/test.tsv": content}, meant, words, warns, spec)

    def without(query):
        return (
            TEXTS,
            {key: text for key, text in QUERIES.items() if key != query},
            {key: QRELS[key] for key in QRELS if key != query},
        )

    yield case("plain", plain)
    yield case("no header", plain.removeprefix(HEADER))
    yield case("mark", "\ufeff" + plain)
    yield case("CRLF", plain.replace("\n", "\r\n"))
    yield case("blank lines", plain.replace("\n", "\n\n"))
    yield case("no last line feed", plain[:-1])
    yield case("packed", gzip.compress(plain.encode()))
    yield case("signs and leading zeros", plain.replace("\t2\n", "\t+02\n"))
    yield case("the same twice", plain + "q2\tb\t1\n", warns=True)
    yield case("a negative grade", plain + "q2\ta\t-1\n", (TEXTS, QUERIES, {**QRELS, "q2": {"b": 1, "a": -1}}))
    yield case("a query judged zero", plain.replace("q2\tb\t1", "q2\tb\t0"), without("q2"))
    yield case("a query not judged", plain.replace("q2\tb\t1\n", ""), without("q2"))
    missing = (TEXTS, QUERIES, {**QRELS, "q2": {"b": 1, "nowhere": 1}})
    yield case("no such document, allowed", plain + "q2\tnowhere\t1\n", missing, allow_missing=True)
    yield case("no such document", plain + "q2\tnowhere\t1\n", None, ("line 7", "'nowhere'", "does not exist"))
    yield case("no such query", plain + "q9\ta\t1\n", None, ("line 7", "'q9'", "does not exist"))
    yield case("a space after an id", plain.replace("q1\ta\t2", "q1 \ta\t2"), None, ("line 2", "'q1 '"))
    yield case("a contradiction", plain + "q2\tb\t0\n", None, ("line 7", "line 4"))
    for name, content in (
        ("empty", ""),
        ("header only", HEADER),
        ("zero", tsv({"q1": {"a": 0}})),
        ("negative", tsv({"q1": {"a": -1}})),
    ):
        yield case(f"{name} alone", content, None, ("no judgement above zero",))
    for name, grade in (
        ("fraction", "1.0"),
        ("word", "high"),
        ("nothing", ""),
        ("NaN", "nan"),
        ("huge", "9" * 30),
        ("boolean", "true"),
        ("hex", "0x1"),
        ("power", "1e0"),
        ("Arabic digit", "\u0661"),
    ):
        yield case(f"grade: {name}", plain.replace("\t2\n", f"\t{grade}\n"), None, ("line 2", "whole number"))
    headers = {
        "other words": "qid\tpid\tlabel",
        "capitals": "Query-ID\tCorpus-ID\tScore", "other order": "corpus-id\tquery-id\tscore",
        "relevance": "query-id\tcorpus-id\trelevance", "a fourth column": "query-id\tcorpus-id\tscore\tnote",
    }  # fmt: skip
    for name, header in headers.items():
        yield case(
            f"header: {name}",
            plain.replace(HEADER, f"{header}\n"),
            None,
            ("line 1", "query-id<TAB>corpus-id<TAB>score"),
        )
    for name, line in {
        "commas": plain.replace("\t", ","), "spaces": plain.replace("\t", " "), "semicolons": plain.replace("\t", ";"),
        "TREC": "q1\t0\ta\t1\n", "TREC with spaces": "q1 0 a 1\n", "two columns": plain + "q1\ta\n",
        "a tab at the end": plain.replace("\t2\n", "\t2\t\n"), "quotes": plain.replace("q1\ta", '"q1"\ta'),
        "JSON lines": '{"query-id": "q1", "corpus-id": "a", "score": 1}\n',
    }.items():  # fmt: skip
        yield case(f"table: {name}", line, None, ("line",))
    yield case("UTF-16", plain.encode("utf-16"), None, ("line 1", "UTF-8"))
    yield case("a broken byte", plain.encode() + b"q1\t\xe9\t1\n", None, ("line 7", "UTF-8"))
    yield case("NUL", plain + "q1\t\0\t1\n", None, ("line 7", "NUL"))
    yield case("packed and cut", gzip.compress(plain.encode())[:-9], None, ("cannot be read",))
    yield case(
        "a query judged for no document that is there",
        tsv({"q1": {"g": 1}}),
        None,
        ("can be found",),
        allow_missing=True,
    )
