"""How far a long step is: a bar on a terminal and in a notebook, a line now and then where there is neither.

Under ``ccq run`` kernels keep their newest line in the file that ``CCQ_PROGRESS`` names, and the runner shows it; nothing
of it gets into a notebook's outputs.
"""

import os
import sys
import time
from collections.abc import Iterable, Iterator

EVERY = 60.0
"""Seconds between two lines of a log."""


def progress(items: Iterable, description: str, total: int | None = None) -> Iterator:
    """Yield ``items`` and show how many of how many are done, and how long the rest will take.

    Args:
        items: What to go through.
        description: What is being done, such as ``"encoding with minilm"``.
        total: How many items there are, where ``len(items)`` does not say.
    """
    total = len(items) if total is None and hasattr(items, "__len__") else total
    if "CCQ_PROGRESS" not in os.environ and (sys.stderr.isatty() or _in_notebook()):
        from tqdm.auto import tqdm

        yield from tqdm(items, desc=description, total=total, leave=False)
    else:
        yield from _in_lines(items, description, total)


def quiet_libraries() -> None:
    """Keep the bars of libraries out of a log; call it before they are imported."""
    os.environ |= {"TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


def clock(seconds: float | None) -> str:
    """Seconds as minutes:seconds, ``?`` where unknown."""
    return "?" if seconds is None else "{}:{:02d}".format(*divmod(round(seconds), 60))


def _in_lines(items, description, total):
    """A step within another one speaks only when a minute has passed without a line."""
    started = time.monotonic()
    of = "" if total is None else f" of {total}"
    _Log.depth += 1
    try:
        _Log.say(f"{description}: 0{of}", now=_Log.depth == 1)
        done = 0
        for done, item in enumerate(items, start=1):
            yield item
            elapsed = time.monotonic() - started
            left = f", {clock(elapsed / done * (total - done))} left" if total else ""
            _Log.say(f"{description}: {done}{of}, elapsed {clock(elapsed)}{left}")
        if time.monotonic() - started > EVERY:
            _Log.say(f"{description}: done, {done}{of}, elapsed {clock(time.monotonic() - started)}", now=True)
    finally:
        _Log.depth -= 1
        if _Log.depth == 0:
            _Log.clear()


class _Log:
    """Where lines go. ``depth`` counts the steps that are under way."""

    depth, last = 0, -EVERY

    @classmethod
    def say(cls, line: str, now: bool = False) -> None:
        file = os.environ.get("CCQ_PROGRESS")
        if not (now or time.monotonic() - cls.last >= (1.0 if file else EVERY)):
            return
        cls.last = time.monotonic()
        if file:
            with open(file, "w", encoding="utf-8") as current:
                current.write(line)
        else:
            print(line, file=sys.stderr, flush=True)

    @classmethod
    def clear(cls) -> None:
        if file := os.environ.get("CCQ_PROGRESS"):
            open(file, "w", encoding="utf-8").close()


def _in_notebook():
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return type(shell).__name__ == "ZMQInteractiveShell"
