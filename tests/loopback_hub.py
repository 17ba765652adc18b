"""A small model hub on loopback: the calls that huggingface_hub and datasets make, over files in a folder.

Repositories lie in ``FOLDER/models/OWNER/NAME`` and ``FOLDER/datasets/OWNER/NAME``; each has one revision.
"""

import hashlib
import json
import re
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)/(revision|tree|paths-info)/([^/]+)(?:/(.*))?")
FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


PIECE = 2**16


class Hub:
    """The server's state: ``revisions`` by repository, ``requests`` that came, bytes ``sent`` (in whole pieces), and by file
    name ``cut``, bytes after which its next download breaks off, and ``faults``, a status or another content to answer with.
    """

    def __init__(self, folder: Path):
        self.folder, self.revisions, self.requests, self.cut, self.url, self.sent = folder, {}, [], {}, "", 0
        self.faults = {}

    def add(self, kind: str, name: str, revision: str) -> Path:
        """A folder to put a repository's files into; ``kind`` is ``models`` or ``datasets``."""
        self.revisions[kind, name] = revision
        folder = self.folder / kind / name
        folder.mkdir(parents=True)
        return folder


@contextmanager
def serving(folder: Path):
    """A running hub; its address is ``url``."""
    hub = Hub(folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def do_GET(self):
            self.answer()

        def do_HEAD(self):
            self.answer()

        def do_POST(self):
            asked = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            self.answer(json.loads(asked) if asked.startswith("{") else parse_qs(asked))

        def answer(self, asked=None):
            path = unquote(urlsplit(self.path).path)
            hub.requests.append((self.command, path, self.headers.get("Range")))
            if found := API.fullmatch(path):
                self.api(*found.groups(), asked)
            elif found := FILE.fullmatch(path):
                kind, name, revision, file = found.groups()
                self.file("datasets" if kind else "models", name, revision, file)
            else:
                self.missing("EntryNotFound")

        def known(self, kind, name, revision):
            held = hub.revisions.get((kind, name))
            if held is None:
                return self.missing("RepoNotFound", 401)  # as the hub answers those who are not logged in
            return self.missing("RevisionNotFound") if revision not in (held, "main") else held

        def api(self, kind, name, call, revision, below, asked):
            commit = self.known(kind, name, revision)
            if commit is None:
                return
            root = hub.folder / kind / name
            entries = [entry(root, path) for path in sorted(root.rglob("*"))]
            if call == "revision":
                siblings = [{"rfilename": each["path"]} for each in entries if each["type"] == "file"]
                facts = {"private": False, "gated": False, "disabled": False, "tags": [], "siblings": siblings}
                self.send(json.dumps({"id": name, "sha": commit, **facts}).encode())
            elif call == "paths-info":
                self.send(json.dumps([each for each in entries if each["path"] in asked["paths"]]).encode())
            else:
                self.tree(entries, below or "")

        def tree(self, entries, below):
            deep = parse_qs(urlsplit(self.path).query).get("recursive", [""])[0].lower() in ("true", "1")
            inside = [each for each in entries if not below or each["path"].startswith(f"{below}/")]
            if below and not inside:
                return self.missing("EntryNotFound")
            rest = len(below) + 1 if below else 0
            self.send(json.dumps([each for each in inside if deep or "/" not in each["path"][rest:]]).encode())

        def file(self, kind, name, revision, file):
            commit = self.known(kind, name, revision)
            if commit is None:
                return
            path = hub.folder / kind / name / file
            if not path.is_file():
                return self.missing("EntryNotFound", commit=commit)
            content, fault = path.read_bytes(), hub.faults.get(path.name)
            if isinstance(fault, int):
                return self.send(b"{}", fault)
            name = hashlib.sha256(content).hexdigest() if path.suffix == ".safetensors" else digest(content)
            headers = {"ETag": f'"{name}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
            headers |= {"X-Linked-Size": str(len(content))}
            content = content if fault is None else fault
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
            if wanted is None:
                return self.send(content, 200, headers, hub.cut.pop(path.name, None) if self.command == "GET" else None)
            start, end = int(wanted[1]), int(wanted[2] or len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{min(end, len(content) - 1)}/{len(content)}"
            self.send(content[start : end + 1], 206, headers)

        def missing(self, code, status=404, commit=None):
            self.send(b"{}", status, {"X-Error-Code": code, **({"X-Repo-Commit": commit} if commit else {})})

        def send(self, content, status=200, headers=None, cut=None):
            self.send_response(status)
            for key, value in {"Content-Type": "application/json", **(headers or {})}.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                for start in range(0, len(content[:cut]), PIECE):
                    self.wfile.write(content[:cut][start : start + PIECE])
                    hub.sent += PIECE
            if cut is not None:
                self.close_connection = True

        def handle(self):
            with suppress(ConnectionError):  # a client that has read enough hangs up
                super().handle()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def entry(root, path):
    """One row of the hub's file listing."""
    name = path.relative_to(root).as_posix()
    if path.is_dir():
        return {"type": "directory", "path": name, "oid": digest(name.encode()), "size": 0}
    return {"type": "file", "path": name, "oid": digest(path.read_bytes()), "size": path.stat().st_size}


def digest(content):
    """What stands in for a git object id."""
    return hashlib.sha1(content).hexdigest()


def put_model(
    folder: Path, words: list[str], seed: int, dims: int = 32, pooling: str | None = "mean", half: bool = False
):
    """A BERT with random weights and a word tokenizer, in the hub's layout; ``pooling`` None: no modules.json."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    torch.manual_seed(seed)
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ":", "query", "passage", *words]))
    tokenizer = BertTokenizerFast(vocab=str(vocabulary), model_max_length=64)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=dims, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=2 * dims, max_position_embeddings=64,
    )  # fmt: skip
    BertModel(config, add_pooling_layer=False).to(torch.float16 if half else torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if pooling:
        encoder = Transformer(str(folder))
        chain = [encoder, Pooling(dims, pooling), Normalize()]
        SentenceTransformer(modules=chain, device="cpu").save(str(folder), create_model_card=False)


MTEB_CARD = """---
configs:
- config_name: default
  data_files:
  - {split: train, path: qrels/train.jsonl}
  - {split: test, path: qrels/test.jsonl}
- config_name: corpus
  data_files:
  - {split: corpus, path: corpus.jsonl}
- config_name: queries
  data_files:
  - {split: queries, path: queries.jsonl}
---
"""


def put_retrieval_set(folder: Path, task, train: bool = True) -> None:
    """A task's texts and judgements in the layout of mteb's sets; its validation queries become split ``train``."""
    texts = [
        {"_id": name, "title": text.split()[0], "text": " ".join(text.split()[1:])}
        for name, text in task.documents.items()
    ]
    write_jsonl(folder / "corpus.jsonl", texts)
    write_jsonl(folder / "queries.jsonl", [{"_id": name, "text": text} for name, text in task.queries.items()])
    (folder / "qrels").mkdir()
    for split, held in (("test", "test"), ("train", "validation")):
        rows = [
            {"query-id": query, "corpus-id": document, "score": grade}
            for query in task.query_ids(held)
            for document, grade in task.qrels[query].items()
        ]
        if split == "test" or train:
            write_jsonl(folder / "qrels" / f"{split}.jsonl", rows)
    (folder / "README.md").write_text(
        MTEB_CARD if train else MTEB_CARD.replace("  - {split: train, path: qrels/train.jsonl}\n", "")
    )


def write_jsonl(path: Path, rows: list[dict]) -> None:
    """One JSON object per line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
