"""Commands that are killed at drawn moments and taken up: what they give is what an unkilled one gives, to the byte."""

import os
import shutil
import signal
import time
from functools import partial
from pathlib import Path

import numpy as np
from common import RIGHT, SEED, Case, Process, content, left_over

KILLS = 12  # of each command


def commands(home):
    """Name -> arguments (they write ``out``) of the commands that are killed."""
    own = ["--profile", home.profile]
    return {
        "encode": ["encode", home.model, home.corpus, "--out", "out"],
        "shards": ["encode", home.model, home.corpus, "--out", "out/", "--part", "20", "--threads", "1"],
        "fit": ["fit", *own, "--texts", home.corpus, "--out", "out"],
        "evaluate": ["evaluate", *own, "--task", f"beir:{home.task}", "--bytes", "8", "--out", "out"],
    }


class Unkilled:
    """What each command gives, how many file operations and seconds it takes; each is run once, when it is asked for."""

    def __init__(self, home, folder):
        self.home, self.folder, self.held = home, folder, {}

    def __call__(self, name):
        if name not in self.held:
            (place := self.folder / name).mkdir(parents=True)
            started = time.monotonic()
            whole = Process(place, *commands(self.home)[name], CCQ_CACHE=place / "cache")
            code, said = whole.wait()
            assert code == 0, said
            self.held[name] = content(place / "out"), whole.writes, time.monotonic() - started
        return self.held[name]


def cases(home, folder):
    """Half of the moments are drawn among the file operations, half among the seconds of a run."""
    unkilled = Unkilled(home, folder)
    for name in commands(home):
        for at, share in enumerate(np.random.default_rng([SEED, *name.encode()]).random(KILLS)):
            yield Case(
                f"kill: {name}",
                f"at {share:.3f} of its {'writes' if at % 2 else 'seconds'}",
                partial(_killed, home, unkilled, name, share, at % 2),
            )


def _killed(home, unkilled, name, share, by_writes, folder):
    meant, writes, seconds = unkilled(name)
    given, cache = commands(home)[name], folder / "cache"
    code = 0
    while not code:  # until it is killed before it has ended
        shutil.rmtree(folder)
        folder.mkdir()
        first = Process(folder, *given, die_at=1 + int(share * writes) if by_writes else None, CCQ_CACHE=cache)
        if not by_writes:
            first.kill(share * seconds)
            seconds *= 0.7
        code, said = first.wait()
        if code not in (0, -signal.SIGKILL) or code == 0 and by_writes:
            return f"exit code {code}: {said[-400:]}"
    there = folder / "out"
    if there.is_file() and there.read_bytes() != meant:
        return "half a file stands at the output"
    code, said = Process(folder, *given, CCQ_CACHE=cache).wait()
    if code:
        return f"not taken up, exit code {code}: {said[-400:]}"
    if content(there) != meant:
        return "what was taken up is not what the unkilled command gave"
    left = left_over(folder)
    return f"left behind: {left}" if left else RIGHT


def tries(home, folder):
    """``ccq run`` of the first notebooks of profile tiny, killed at drawn cells, runner or kernel, and each time taken up.

    One run is killed again and again; the last call ends it. All its kills are right if its tables and figures are those
    of a run that was never killed.
    """
    rng = np.random.default_rng([SEED, 1])
    import nbformat

    cells = {path: len(nbformat.read(path, 4).cells) for path in sorted((home.root / "notebooks").glob("0*.ipynb"))}
    places = [(path.name, cell) for path, count in cells.items() for cell in range(1, count)]
    drawn = sorted(rng.choice(len(places), KILLS, False))
    victims = rng.permutation(["runner", "kernel"] * (KILLS // 2))
    moments = [(places[at], victim, rng.random()) for at, victim in zip(drawn, victims, strict=True)]
    problems = []

    def call(out, moment=None):
        given = ["run", "--profile", "tiny", "--out", out]
        before = partial(_die_at_cell, *moment) if moment else None
        return Process(folder, *given, before=before, CCQ_CACHE=out.with_suffix(".cache"))

    whole, killed = folder / "whole", folder / "killed"
    code, said = call(whole).wait()
    assert code == 0, said
    for moment in moments:
        code, said = call(killed, moment).wait()
        print(f"  killed: {moment[1]} at {moment[0]}, exit code {code}", flush=True)
        if code not in (-signal.SIGKILL, 1) or code == 1 and "the kernel died" not in said:
            problems.append(f"{moment}: exit code {code}: {said[-300:]}")
    code, said = call(killed).wait()
    if code:
        problems.append(f"not taken up: {said[-400:]}")
    for part in ("results", "figures"):
        one, other = (content(place / part) for place in (whole, killed))
        problems += [
            f"{part}/{name} is another one"
            for name in one
            if name != "run_report.json" and one[name] != other.get(name)
        ]
    if left := left_over(killed, killed.with_suffix(".cache")):
        problems.append(f"left behind: {left}")
    return [(f"{victim} at {place}", "; ".join(problems) or RIGHT) for place, victim, _ in moments]


def _die_at_cell(place, victim, wait):
    import threading

    import papermill
    import psutil

    execute = papermill.execute_notebook

    def die():
        children = psutil.Process().children()
        os.kill(os.getpid() if victim == "runner" or not children else children[0].pid, signal.SIGKILL)

    def killing(notebook, *given, on_cell_execute, **more):
        def told(cell_index, **about):
            on_cell_execute(cell_index=cell_index, **about)
            if (Path(notebook).name, cell_index) >= tuple(place) and not asked:
                asked.append(threading.Timer(wait, die))
                asked[0].start()

        return execute(notebook, *given, on_cell_execute=told, **more)

    asked = []
    papermill.execute_notebook = killing
