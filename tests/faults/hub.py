"""A hub that cuts, refuses, or sends something else: one line each, and a sound cache after."""

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
from common import RIGHT, ROOT, SEED, one_line
from loopback_hub import serving

COMMIT = "c" * 40
CLIENT = """
import hashlib, json, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from ccq_utils.common.errors import StudyError
from ccq_utils.models.hub_models import snapshot

def fetch(name):
    try:
        folder = snapshot(name, "c" * 40)
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in Path(folder).iterdir()}
    except StudyError as error:
        return f"ccq: {error}"
    except BaseException as error:
        return f"Traceback {type(error).__name__}: {error}"

with ThreadPoolExecutor(16) as pool:
    print(json.dumps(list(pool.map(fetch, sys.argv[1:]))))
"""


def faults(content):
    """Name -> which file, where its download breaks off, and what is answered in its place."""
    rng = np.random.default_rng([SEED, 3])
    found = {
        f"weights cut after {size} bytes": ("safetensors", size, None) for size in (0, 1000, 20_000, 70_000, 99_999)
    }
    for kind in ("safetensors", "json"):
        for status in (401, 403, 404, 429, 500, 503):
            found[f"{kind}: {status}"] = (kind, None, status)
    for name, other in (("a hundred bytes short", content[:-100]), ("half", content[: len(content) // 2]), ("nothing", b""),
                        ("longer", content + b"more"), ("zeros", bytes(len(content))),
                        ("a page of HTML", b"<html>" + bytes(len(content) - 6))):  # fmt: skip
        found[f"weights: {name}"] = ("safetensors", None, other)
    for place in rng.integers(0, len(content), 5):
        found[f"weights: byte {place} is another"] = (
            "safetensors",
            None,
            content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :],
        )
    return found


def tries(home, folder, few=None):
    """Each fault on a model of its own, all at once; then without faults."""
    content, config = os.urandom(10**5), b'{"model_type": "x"}'
    given = dict(list(faults(content).items())[:: -(-30 // few) if few else 1])
    (folder / "served").mkdir()
    with serving(folder / "served") as server:
        for number, (kind, cut, answer) in enumerate(given.values()):
            held = server.add("models", f"someone/{number}", COMMIT)
            (held / f"{number}.safetensors").write_bytes(content)
            (held / f"{number}.json").write_bytes(config)
            if cut is not None:
                server.cut[f"{number}.{kind}"] = cut
            else:
                server.faults[f"{number}.{kind}"] = answer
        names = [f"someone/{number}" for number in range(len(given))]
        first = _ask(server.url, folder / "home", names)
        server.faults.clear()
        second = _ask(server.url, folder / "home", names)
    away = _ask("http://127.0.0.1:9", folder / "empty", names[:1]) + _ask(
        server.url, folder / "empty", names[:1], HF_HUB_OFFLINE="1"
    )
    meant = [hashlib.sha256(each).hexdigest() for each in (content, config)]
    for number, (name, told, after) in enumerate(zip(given, first, second, strict=True)):
        whole = dict(zip((f"{number}.safetensors", f"{number}.json"), meant, strict=True))
        outcome = (
            RIGHT
            if told == whole
            else one_line(told, (f"someone/{number}",))
            if isinstance(told, str)
            else f"taken as {told}"
        )
        yield name, outcome if after == whole else f"{outcome}, and after: {after}"
    for name, told in zip(("no hub", "offline with an empty cache"), away, strict=True):
        yield name, one_line(told, ("someone/0",)) if isinstance(told, str) else f"taken as {told}"


def _ask(url, home, names, **changes):
    settings = {
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
        "PYTHONPATH": str(ROOT),
    } | changes
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, *names], env=os.environ | settings, capture_output=True, text=True
    )
    return json.loads(done.stdout) if done.returncode == 0 else [f"Traceback {done.stderr[-500:]}"] * len(names)
