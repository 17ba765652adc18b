"""What all parts share: a case and its outcome, a command in a process of its own, and a place to work in.

Commands run in forks of this process, which has imported what they need: seconds less for each.
"""

import ctypes
import fcntl
import io
import json
import os
import resource
import signal
import sys
import time
import traceback
import warnings
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path

RIGHT, REFUSED, WRONG = "right", "refused_clearly", "wrong"
ROOT = Path(__file__).resolve().parents[2]
SEED = 18
WRITES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir"}


@dataclass
class Case:
    """One fault: ``run(folder)`` tries it in an empty folder and gives an outcome, or a text that says what is wrong."""

    kind: str
    name: str
    run: object
    input: object = None  # of a reader, for the peers


def one_line(error: str, words=()) -> str:
    """The outcome of a command that must refuse: one line on stderr that names the thing, and no traceback."""
    lines = [line for line in error.splitlines() if line.startswith("ccq: ")]
    if "Traceback" in error or len(lines) != 1:
        return f"no single line: {error[-600:]}"
    missing = [word for word in words if word not in lines[0]]
    return f"{missing} not in: {lines[0]}" if missing else REFUSED


def refusal(call, words=()) -> str:
    """The same of a call from Python."""
    from ccq_utils.common.errors import StudyError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call()
    except StudyError as error:
        return one_line(f"ccq: {error}", words)
    except BaseException:
        return traceback.format_exc()[-600:]
    return "it was taken"


def here(*arguments) -> tuple[int, str, list[str]]:
    """A command in this process: exit code, stderr, warnings."""
    from ccq_utils import cli

    said = io.StringIO()
    with warnings.catch_warnings(record=True) as warned, redirect_stderr(said), redirect_stdout(io.StringIO()):
        warnings.simplefilter("always")
        try:
            code = cli.main([str(each) for each in arguments])
        except BaseException:
            code = 1
            traceback.print_exc()
    return code, said.getvalue(), [str(each.message) for each in warned]


class Process:
    """``ccq ARGUMENTS`` in a fork; ``before`` is called in it; ``die_at`` kills it at that file operation.

    What it says comes through a pipe, since no file may grow where a disk is full.
    """

    def __init__(self, folder, *arguments, before=None, die_at=None, out=None, encoding="utf-8", **variables):
        sys.stdout.flush()
        sys.stderr.flush()
        self.said, said = os.pipe()
        self.told, self.tell = os.pipe()
        fcntl.fcntl(said, fcntl.F_SETPIPE_SZ, 2**20)
        self.pid = os.fork()
        if self.pid:
            os.close(said)
            os.close(self.tell)
            return
        try:
            os.setsid()
            os.environ |= {key: str(value) for key, value in variables.items()}
            os.dup2(said, 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY) if out is None else out, 1)
            sys.stdout, sys.stderr = (open(number, "w", encoding=encoding, errors="strict") for number in (1, 2))
            os.chdir(folder)
            sys.argv = ["ccq", *map(str, arguments)]
            for name in ("SIGTERM", "SIGHUP", "SIGINT"):
                handler = signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL
                signal.signal(getattr(signal, name), handler)
            self._work(before, die_at)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        os._exit(1)

    def _work(self, before, die_at):
        from ccq_utils import cli

        if before:
            before()
        done = 0

        def count(event, given):
            nonlocal done
            if (
                event in WRITES
                or event == "open"
                and isinstance(given[2], int)
                and given[2] & (os.O_WRONLY | os.O_RDWR)
            ):
                done += 1
                if done == die_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        try:
            code = cli.main()
        except SystemExit as end:
            code = end.code
        os.write(self.tell, str(done).encode())
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)

    def wait(self) -> tuple[int, str]:
        """Exit code (negative: the signal) and what it said; ``writes`` are the file operations of one that ended well."""
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        said, told = (self._read(end) for end in (self.said, self.told))
        self.writes = int(told or 0)
        return code, said

    def _read(self, end):
        os.set_blocking(end, False)  # a kernel that outlives it holds the other end
        with open(end, "rb", 0) as file:
            return (file.read(2**20) or b"").decode(errors="replace")

    def kill(self, after: float, number=signal.SIGKILL):
        """End it after some seconds, unless it has ended."""
        until = time.monotonic() + after
        while time.monotonic() < until:
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                return
            time.sleep(0.005)
        os.kill(self.pid, number)


def no_rights():
    """In a fork: root's power to pass over the modes of files goes, for what is executed too."""
    library, header, held = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    library.capget(header, held)
    for capability in (1, 2, 3):  # override, read and search, owner
        library.prctl(24, capability, 0, 0, 0)
        for word in range(3):
            held[word] &= ~(1 << capability)
    library.capset(header, held)


def full_after(size):
    """In a fork: no file may grow past ``size`` bytes, as on a disk that is full."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def tmpfs(folder, size) -> bool:
    """Put a small disk at a folder; False where that is not allowed."""
    folder.mkdir(exist_ok=True)
    library = ctypes.CDLL(None, use_errno=True)
    return library.mount(b"faults", str(folder).encode(), b"tmpfs", 0, f"size={size}".encode()) == 0


def unmount(folder):
    """Take it away."""
    ctypes.CDLL(None).umount2(str(folder).encode(), 2)


def content(place):
    """A file's bytes, or those of all files below a folder."""
    place = Path(place)
    if place.is_file():
        return place.read_bytes()
    paths = [path for path in sorted(place.rglob("*")) if path.is_file()]
    return {str(path.relative_to(place)): path.read_bytes() for path in paths}


def left_over(*folders):
    """Temporary files and locks below folders."""
    found = [
        path for folder in folders for path in Path(folder).rglob(".*") if path.name.endswith((".partial", ".lock"))
    ]
    return [path.name for path in found]


PROFILE = """name: faults
description: two members that are quick to make
models: [lexical, wordllama]
larger: [static]
large_model: static
lexical: {dims: 64}
tasks: [{name: summary, source: "docstrings:summary", libraries: [seaborn], max_documents: 60, max_queries: 20}]
training: {libraries: [networkx], passages: 100, calibration: 256, validation: 16, pairs: 100, min_words: 5, max_words: 20}
decoder: {dims: 16, stops: [8, 16], epochs: 1, batch_size: 64}
budgets: [16]
resamples: 100
seeds: 2
"""


class Home:
    """A checkout of its own in ``CCQ_ROOT``, a saved model, a corpus, a BEIR folder, codes and an index."""

    def __init__(self, root: Path):
        import numpy as np
        from sentence_transformers import SentenceTransformer

        from ccq_utils.codecs.percentile import PercentileCodec
        from ccq_utils.data.docstrings import read_library
        from ccq_utils.data.profile import load_profile
        from ccq_utils.deploy.modules import Concat, ConcatTransformer
        from ccq_utils.deploy.pipeline import CompressedModel
        from ccq_utils.models.base_models import BUILDERS
        from ccq_utils.models.lexical import LexicalEncoder
        from ccq_utils.models.static import new_static

        self.root, self.profile = root, root / "own" / "faults.yaml"
        self.profile.parent.mkdir()
        self.profile.write_text(PROFILE)
        results = root / "data" / "results" / "faults"
        results.mkdir(parents=True)
        (results / "01_selection.csv").write_text("member,share\nwordllama,0.8\nlexical,0.2\n")
        rng = np.random.default_rng(SEED)
        words = sorted({word for entry in read_library("seaborn") for word in entry.body.split() if word.isalpha()})
        self.texts = [" ".join(rng.choice(words, 20)) for _ in range(400)]
        self.corpus = root / "corpus.jsonl"
        lines = [json.dumps({"id": f"t{at}", "text": text}) + "\n" for at, text in enumerate(self.texts)]
        self.corpus.write_text("".join(lines))
        tokenizer = BUILDERS["minilm"](load_profile("tiny"), None, None).folder() / "tokenizer.json"
        static = new_static(tokenizer, 24, seed=2)
        lexical = LexicalEncoder(features=2**12, dims=48).fit(self.texts[:100], seed=1)
        lexical = SentenceTransformer(modules=[lexical], device="cpu")
        joined = ConcatTransformer(modules=[Concat([static, lexical], [1, 0.5], ["static", "lexical"])], device="cpu")
        self.static = static
        self.model = root / "model"
        model = CompressedModel(joined, PercentileCodec(32, 2, rotate=True)).fit(self.texts[:200])
        model.save(self.model)
        CompressedModel(joined, PercentileCodec(16, 1)).fit(self.texts[:200]).save(root / "other")
        self.codes, self.index = root / "codes.safetensors", root / "index.faiss"
        codes = model.encode_document(self.texts)
        model.save_codes(self.codes, codes, [f"t{at}" for at in range(len(codes))])
        model.save_index(self.index, model.index(codes), [f"t{at}" for at in range(len(codes))])
        self.task = root / "task"
        (self.task / "qrels").mkdir(parents=True)
        (self.task / "corpus.jsonl").write_text("".join(lines[:300]))
        asked = [{"id": f"q{at}", "text": " ".join(self.texts[at].split()[:6])} for at in range(30)]
        (self.task / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
        judged = "".join(f"q{at}\tt{at}\t1\n" for at in range(30))
        (self.task / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
        os.chmod(root, 0o755)


def checkout(root: Path, notebooks="0[0-3]_*.ipynb"):
    """The folders that the package reads, below ``root``: profiles, the first notebooks, the text of the study."""
    (root / "notebooks").mkdir(parents=True)
    (root / "data").mkdir()
    (root / "notebooks" / "profiles").symlink_to(ROOT / "notebooks" / "profiles")
    for path in sorted((ROOT / "notebooks").glob(notebooks)):
        (root / "notebooks" / path.name).symlink_to(path)
    held = [path.relative_to(ROOT) for path in (ROOT / "data").iterdir() if path.name not in ("results", "cache")]
    for name in (*held, "pyproject.toml", "requirements.lock", "ccq_utils"):
        (root / name).symlink_to(ROOT / name)
