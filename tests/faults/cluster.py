"""Ray on this machine, three nodes: a worker, a node, the driver are killed at drawn moments; parts are damaged.

A moment is drawn among the parts: the blow falls when so many are written. Several blows fall on one run, which ends with
the bytes of one process, or is taken up by the next.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
from common import RIGHT, ROOT, SEED, Process, content, left_over, one_line

BLOWS, PARTS = 10, 40
MOST = {"worker": 4, "node": 2}  # blows on one run: Ray tries a task four times


def tries(home, folder):
    """Kind, name and outcome of each blow; nothing where Ray is not installed."""
    try:
        from ray.cluster_utils import Cluster
    except ImportError:
        return
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT), "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    model = slow_model(home, folder / "model")
    rng = np.random.default_rng([SEED, 4])
    given = ["encode", model, home.corpus, "--part", str(len(home.texts) // PARTS), "--threads", "1"]
    one = folder / "one"
    one.mkdir()
    code, said = Process(one, *given, "--out", "out/").wait()
    assert code == 0, said
    meant = content(one / "out")
    cluster = Cluster()
    _node(cluster, include_dashboard=False)
    nodes = [_node(cluster) for _ in range(2)]
    given += ["--address", cluster.address, "--out", "out/"]
    try:
        for what in ("worker", "node"):
            blows = 0
            while blows < BLOWS:
                (place := folder / f"{what} {blows}").mkdir()
                found = _struck(what, given, place, meant, cluster, nodes, rng, min(MOST[what], BLOWS - blows))
                for name, outcome in found:
                    yield f"Ray: {what} killed", name, outcome
                blows += len(found)
        yield from _driver(given, folder, meant, rng)
        yield from _parts(given, folder, meant, rng)
    finally:
        cluster.shutdown()


def _node(cluster, **options):
    for _ in range(5):
        with suppress(Exception):  # Ray waits 30 seconds for a node, which a busy machine takes longer to start
            return cluster.add_node(num_cpus=1, **options)
    return cluster.add_node(num_cpus=1, **options)


def slow_model(home, folder):
    """MiniLM and a codec: some hundredths of a second a text, so that blows fall into the work."""
    from sentence_transformers import SentenceTransformer

    from ccq_utils.codecs.percentile import LshCodec
    from ccq_utils.data.profile import load_profile
    from ccq_utils.deploy.pipeline import CompressedModel
    from ccq_utils.models.base_models import BUILDERS

    wheel = BUILDERS["minilm"](load_profile("tiny"), None, None).folder()
    CompressedModel(SentenceTransformer(str(wheel), device="cpu"), LshCodec(64)).fit(home.texts[:20]).save(folder)
    return folder


def written(place):
    """Parts that are there."""
    return len(list((place / "out").glob("part-*")))


def _wait(place, count, process):
    until = time.monotonic() + 300
    while written(place) < count and time.monotonic() < until:
        if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return False
        time.sleep(0.01)
    return True


class Driver(Process):
    """``ccq ARGUMENTS`` in a process that shares nothing with this one: Ray's threads do not outlive a fork."""

    def __init__(self, folder, *arguments):
        self.file = folder / "said"
        command = [sys.executable, "-m", "ccq_utils.cli", *map(str, arguments)]
        with self.file.open("wb") as said:
            self.pid = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=said).pid

    def wait(self):
        """Exit code and what it said."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]), self.file.read_text(errors="replace")


def _called(process):
    try:
        return " ".join(process.cmdline())[:40]
    except psutil.Error:
        return ""


def _struck(what, given, place, meant, cluster, nodes, rng, most):
    moments = sorted(int(each) for each in rng.choice(PARTS - 6, most, False))
    process, names = Driver(place, *given), []
    for moment in moments:
        if not _wait(place, moment, process):
            break
        time.sleep(rng.random() / 2)
        if what == "worker":
            ours = [each for each in psutil.Process().children(recursive=True) if "ray::" in _called(each)]
            if workers := [each for each in ours if "Agent" not in _called(each)]:
                workers[int(rng.integers(len(workers)))].kill()
        else:
            cluster.remove_node(nodes.pop(int(rng.integers(len(nodes)))), allow_graceful=False)
            nodes.append(_node(cluster))
        names.append(f"at {written(place)} of {PARTS} parts")
    code, said = process.wait()
    outcome = RIGHT
    if code:  # refused: the next call must take it up
        outcome = one_line(said, ("Ray",))
        code, said = Driver(place, *given).wait()
    if code or content(place / "out") != meant or left_over(place):
        outcome = f"exit code {code}: {said[-400:]} {left_over(place)} same bytes: {content(place / 'out') == meant}"
    print(f"  {what}: {names}, {outcome[:200]}", flush=True)
    return [(name, outcome) for name in names]


def _driver(given, folder, meant, rng):
    (place := folder / "driver").mkdir()
    names = []
    for moment in sorted(int(each) for each in rng.choice(PARTS - 4, BLOWS, False)):
        process = Driver(place, *given, "--workers", "1")
        _wait(place, max(moment, written(place) + 1), process)
        process.kill(rng.random() / 4)
        code, said = process.wait()
        names.append((f"at {written(place)} of {PARTS} parts", "" if code in (0, -signal.SIGKILL) else said[-300:]))
        print(f"  driver: {names[-1]}", flush=True)
    code, said = Driver(place, *given, "--workers", "1").wait()
    sound = code == 0 and content(place / "out") == meant and not left_over(place)
    for name, problem in names:
        yield (
            "Ray: driver killed",
            name,
            problem or (RIGHT if sound else f"exit code {code}: {said[-300:]} {left_over(place)}"),
        )


def _parts(given, folder, meant, rng):
    for half in range(2):
        place = folder / f"damaged {half}"
        shutil.copytree(folder / "driver" / "out", place / "out")
        hurt = [
            Path(place / "out" / f"part-{number:06d}.safetensors") for number in rng.choice(PARTS, BLOWS // 2, False)
        ]
        for path in hurt:
            held = bytearray(path.read_bytes())
            held[int(rng.integers(len(held)))] ^= 0x5A
            path.write_bytes(held)
        code, said = Driver(place, *given, "--workers", "1").wait()
        sound = code == 0 and content(place / "out") == meant
        for path in hurt:
            yield "Ray: part damaged", path.name, RIGHT if sound else f"exit code {code}: {said[-300:]}"
