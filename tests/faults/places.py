"""Commands that have no room, no right, no terminal, or an output that is not theirs; two of them at once."""

import os
import signal
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

from common import RIGHT, Case, Process, content, full_after, left_over, no_rights, one_line, tmpfs, unmount
from kills import commands


def cases(home):
    """All of this file."""
    for part in (full_disks, rights, streams, outputs):
        yield from part(home)


def full_disks(home):
    """Outputs and caches that have no room, by a limit on a file's size and, where it may be mounted, by a small disk."""
    given = commands(home) | {
        "export-faiss": ["export-faiss", home.model, home.codes, "--out", "out"],
        "run": ["run", "--profile", home.profile, "--only", "00", "--out", "out"],
    }
    for name, arguments in given.items():
        for size in (0, 1, 500) if name != "run" else (300,):
            yield Case(
                "full disk", f"{name}, no file over {size} bytes", partial(_full_file, home, name, arguments, size)
            )
        for size, filled in (("64k", True), ("24k", False)):
            if filled or name in ("shards", "run"):
                what = f"{name}, a disk of {size}{', filled' if filled else ''}"
                yield Case("full disk", what, partial(_full_disk, home, name, arguments, size, filled))
    for name in ("fit", "evaluate"):
        for size in ("16k", "128k"):
            yield Case(
                "full disk", f"{name}, a cache of {size}", partial(_full_disk, home, name, given[name], size, True)
            )


def _full_file(home, name, arguments, size, folder):
    code, said = Process(folder, *arguments, before=full_after(size), CCQ_CACHE=folder / "cache").wait()
    return _refused_and_gone(name, code, said, folder)


def _full_disk(home, name, arguments, size, filled, folder):
    disk = folder / "disk"
    if not tmpfs(disk, size):
        return None  # may not be tried here
    if filled:
        with suppress(OSError), (disk / "filling").open("wb", 0) as file:
            while True:
                file.write(bytes(4096))
    try:
        cache = disk / "cache" if filled is None else folder / "cache"
        place = "" if filled is None else "disk/"
        given = [f"{place}{each}" if each in ("out", "out/") else each for each in arguments]
        code, said = Process(folder, *given, CCQ_CACHE=cache).wait()
        return _refused_and_gone(name, code, said, folder)
    finally:
        unmount(disk)


def _refused_and_gone(name, code, said, folder):
    if not code:
        return "it ended with exit code 0"
    if name != "run" and (
        left := [path for path in folder.rglob("*") if path.name in ("out",) and path.is_file()] + left_over(folder)
    ):
        return f"left behind: {left}"
    return one_line(said, ("full",))


def rights(home):
    """As a user who owns nothing; root passes over the modes of files."""
    given = commands(home) | {"export-faiss": ["export-faiss", home.model, home.codes, "--out", "out"]}
    given["run"] = ["run", "--profile", "tiny", "--out", "out"]
    for name, arguments in given.items():
        yield Case("no permission", f"{name}: the output", partial(_no_right, home, arguments, "output"))
        below = [f"file/{each}" if each in ("out", "out/") else each for each in arguments]
        yield Case("no permission", f"{name}: below a file", partial(_no_right, home, below, "output"))
    for name in ("fit", "evaluate"):
        yield Case("no permission", f"{name}: the cache", partial(_no_right, home, given[name], "cache"))
    weights = home.model / "0_Concat" / "static" / "model.safetensors"
    closed = {"encode": (home.corpus, home.model / "pipeline.json", weights), "export-faiss": (home.codes,)}
    closed |= {"fit": (home.corpus,), "evaluate": (home.task / "corpus.jsonl", home.profile)}
    for name, thing in ((name, thing) for name, things in closed.items() for thing in things):
        yield Case("no permission", f"{name}: {thing.name}", partial(_no_right, home, given[name], thing))


def _no_right(home, arguments, what, folder):
    (folder / "file").write_text("")
    (folder / "room").mkdir()
    (folder / "cache").mkdir()
    closed = {"output": folder / "room", "cache": folder / "cache"}.get(what, what)
    given = [f"room/{each}" if each in ("out", "out/") else each for each in arguments]
    mode = closed.stat().st_mode
    os.chmod(closed, 0o555 if closed.is_dir() else 0)
    try:
        code, said = Process(folder, *given, before=no_rights, CCQ_CACHE=folder / "cache").wait()
    finally:
        os.chmod(closed, mode)
    return one_line(said) if code else "it ended with exit code 0"


def streams(home):
    """Whoever reads has gone; the terminal has gone; stdout is closed, full or knows no UTF-8."""
    search = ["search", home.model, home.codes, "rain \u00e9", "-k", "50"]
    encode = commands(home)["shards"]
    for name, arguments in {"search": search, "help": ["--help"], "encode": encode}.items():
        for fault in ("reader gone", "full", "closed", "ASCII", "stderr closed"):
            yield Case("streams", f"{name}, {fault}", partial(_stream, arguments, fault))
    for number in ("SIGHUP", "SIGTERM", "SIGINT"):
        for share in (0.2, 0.5, 0.8):
            yield Case("streams", f"encode, {number} at {share}", partial(_ended, encode, number, share, home))


def _stream(arguments, fault, folder):
    out, before = None, None
    if fault == "reader gone":
        read, out = os.pipe()
        os.close(read)
    elif fault == "full":
        out = os.open("/dev/full", os.O_WRONLY)
    elif fault in ("closed", "stderr closed"):
        before = partial(_closed, "stdout" if fault == "closed" else "stderr")
    code, said = Process(
        folder, *arguments, out=out, before=before, encoding="ascii" if fault == "ASCII" else "utf-8"
    ).wait()
    if out is not None:
        os.close(out)
    if "Traceback" in said or left_over(folder):
        return f"{said[-500:]} {left_over(folder)}"
    if fault in ("closed", "ASCII", "stderr closed"):
        return RIGHT if code == 0 else f"exit code {code}: {said[-300:]}"
    if fault == "full":
        return one_line(said, ("No space left",)) if code else "it ended with exit code 0"
    return RIGHT if code == 1 and "ccq: " not in said else f"exit code {code}: {said[-300:]}"


def _closed(name):
    import sys

    os.close({"stdout": 1, "stderr": 2}[name])
    setattr(sys, name, None)  # as Python starts without it


def _ended(arguments, number, share, home, folder):
    process = Process(folder, *arguments)
    until = time.monotonic() + 60
    while time.monotonic() < until and len(list((folder / "out").glob("part*"))) < 20 * share:
        time.sleep(0.002)
    process.kill(0, getattr(signal, number))
    code, said = process.wait()
    if code == 0:
        return RIGHT  # it had ended before
    if code != 130 or "Traceback" in said or left_over(folder):
        return f"exit code {code}: {said[-300:]} {left_over(folder)}"
    return RIGHT


def outputs(home):
    """Outputs that would replace what is not ours, or cannot be written: refused before the work, all files as they were."""
    own = ["--profile", home.profile]
    texts, codes, model = home.corpus, home.codes, home.model
    yield from _outputs("two inputs, no output", ["encode", model, texts, "notes.txt"], ("--out",))
    yield from _outputs("a second input", ["encode", model, texts, texts, "--out", "out"], ("argument",))
    for name in ("notes.txt", "table.csv", "other.json", "picture.png", "nothing", "own.jsonl"):
        yield from _outputs(f"encode onto {name}", ["encode", model, texts, "--out", name], ("none of ours",))
        yield from _outputs(f"export onto {name}", ["export-faiss", model, codes, "--out", name], ("none of ours",))
        yield from _outputs(
            f"evaluate onto {name}",
            ["evaluate", *own, "--task", f"beir:{home.task}", "--bytes", "8", "--out", name],
            ("none of ours",),
        )
        yield from _outputs(f"fit onto {name}", ["fit", *own, "--texts", texts, "--out", name], ("no empty folder",))
    yield from _outputs("encode onto itself", ["encode", model, texts, "--out", texts], ("none of ours",))
    yield from _outputs("export onto its codes", ["export-faiss", model, codes, "--out", codes], ("none of ours",))
    yield from _outputs(
        "export, foreign ids", ["export-faiss", model, codes, "--out", "x.faiss"], ("x.faiss.json", "none of ours")
    )
    yield from _outputs(
        "encode into a folder of others", ["encode", model, texts, "--out", "docs/"], ("other things than codes",)
    )
    yield from _outputs(
        "encode into the model", ["encode", model, texts, "--out", f"{model}/"], ("other things than codes",)
    )
    yield from _outputs(
        "fit into a folder of others", ["fit", *own, "--texts", texts, "--out", "docs"], ("no empty folder",)
    )
    yield from _outputs("export onto a folder", ["export-faiss", model, codes, "--out", "docs"], ("is no file",))
    yield from _outputs(
        "bench onto a foreign table", ["bench", "--profile", "tiny", "--out", "docs"], ("none of ours",)
    )
    yield from _outputs(
        "evaluate onto a device",
        ["evaluate", *own, "--task", f"beir:{home.task}", "--bytes", "8", "--out", "/dev/null"],
        ("is no file",),
    )
    yield from _outputs("run into a folder of notebooks", ["run", "--profile", "tiny", "--out", "."], ("no run wrote",))
    for name in ("encode", "shards", "fit"):
        yield Case("two at once", name, partial(_two, home, name))


def _outputs(name, arguments, words):
    yield Case("outputs", name, partial(_output, arguments, words))


def _output(arguments, words, folder):
    files = {
        "notes.txt": b"mine",
        "table.csv": b"a,b\n1,2\n",
        "other.json": b'{"a": 1}',
        "picture.png": b"\x89PNG" + bytes(99),
        "nothing": b"",
    }
    files |= {
        "own.jsonl": b'{"id": 1, "text": "x"}\n',
        "x.faiss.json": b'{"version": 1}',
        "docs/a.txt": b"mine",
        "docs/search.csv": b"a\n1\n",
    }
    files |= {"notebooks/mine.ipynb": b"{}"}
    for path, held in files.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(held)
    given = [path for path in arguments if isinstance(path, Path) and path.is_file()]
    before = content(folder), [content(path) for path in given]
    code, said = Process(folder, *arguments, CCQ_CACHE=folder.parent / "outputs.cache").wait()
    if (content(folder), [content(path) for path in given]) != before:
        return "a file was changed"
    return one_line(said, words) if code else "it ended with exit code 0"


def _two(home, name, folder):
    """The second is refused, with the first one's process; or both are right."""
    given = commands(home)[name]
    lone = folder / "lone"
    lone.mkdir()
    code, said = Process(lone, *given, CCQ_CACHE=folder / "cache").wait()
    first, second = (Process(folder, *given, CCQ_CACHE=folder / "cache", **{"_": at}) for at in range(2))
    ends = [process.wait() for process in (first, second)]
    bad = [end for end in ends if end[0] and "is writing to" not in end[1]]
    if (
        code
        or bad
        or all(end[0] for end in ends)
        or content(folder / "out") != content(lone / "out")
        or left_over(folder)
    ):
        return f"{said} {ends} {left_over(folder)}"
    return RIGHT
