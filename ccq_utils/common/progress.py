"""How far a long step is: a bar on a terminal and in a notebook, a line now and then where there is neither.

Under ``ccq run`` kernels keep their newest line in the file that ``CCQ_PROGRESS`` names, and the runner shows it.
"""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace

EVERY = 60.0  # seconds between two lines of a log
_log = SimpleNamespace(depth=0, last=-EVERY)  # steps under way, one within the other; when the last line was written


def progress(items: Iterable, description: str, total: int | None = None) -> Iterator:
    """Yield ``items`` and show how many of ``total`` (else ``len(items)``) are done, and how long the rest will take."""
    total = len(items) if total is None and hasattr(items, "__len__") else total
    if "CCQ_PROGRESS" not in os.environ and (sys.stderr.isatty() or "ipykernel.kernelapp" in sys.modules):
        from tqdm.auto import tqdm

        yield from tqdm(items, desc=description, total=total, leave=False)
        return
    started, of = time.monotonic(), "" if total is None else f" of {total}"
    _log.depth += 1
    try:
        _say(f"{description}: 0{of}", now=_log.depth == 1)  # a step within another one is silent for a minute
        done, elapsed = 0, 0.0
        for done, item in enumerate(items, start=1):
            yield item
            elapsed = time.monotonic() - started
            left = f", {clock(elapsed / done * (total - done))} left" if total else ""
            _say(f"{description}: {done}{of}, elapsed {clock(elapsed)}{left}")
        if elapsed > EVERY:
            _say(f"{description}: done, {done}{of}, elapsed {clock(elapsed)}", now=True)
    finally:
        _log.depth -= 1
        if _log.depth == 0 and "CCQ_PROGRESS" in os.environ:
            Path(os.environ["CCQ_PROGRESS"]).write_text("")


def quiet_libraries() -> None:
    """Keep the bars of libraries out of a log; call it before they are imported."""
    os.environ |= {"TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


def clock(seconds: float | None) -> str:
    """Seconds as minutes:seconds, ``?`` where unknown."""
    return "?" if seconds is None else "{}:{:02d}".format(*divmod(round(seconds), 60))


def _say(line, now=False):
    file = os.environ.get("CCQ_PROGRESS")
    if now or time.monotonic() - _log.last >= (1.0 if file else EVERY):
        _log.last = time.monotonic()
        if file:
            Path(file).write_text(line, encoding="utf-8")
        else:
            print(line, file=sys.stderr, flush=True)
