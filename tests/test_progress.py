"""Progress without a terminal: a line per step, then at most one a minute."""

import pytest

from ccq_utils.common import progress as module
from ccq_utils.common.progress import progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until a test moves it."""
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(module._log, "last", 0.0)
    monkeypatch.delenv("CCQ_PROGRESS", raising=False)
    return now


def test_a_quick_step_is_one_line(clock, capsys):
    assert list(progress("abc", "reading")) == ["a", "b", "c"]
    assert capsys.readouterr().err == "reading: 0 of 3\n"


def test_a_slow_step_speaks_once_a_minute_and_says_how_long_still(clock, capsys):
    for _ in progress(range(8), "encoding"):
        clock[0] += 30
    assert capsys.readouterr().err.splitlines() == [
        "encoding: 0 of 8",
        "encoding: 2 of 8, elapsed 1:00, 3:00 left",
        "encoding: 4 of 8, elapsed 2:00, 2:00 left",
        "encoding: 6 of 8, elapsed 3:00, 1:00 left",
        "encoding: 8 of 8, elapsed 4:00, 0:00 left",
        "encoding: done, 8 of 8, elapsed 4:00",
    ]


def test_a_step_within_another_is_silent_for_a_minute(clock, capsys):
    for _ in progress(range(3), "outer"):
        for _ in progress(iter("ab"), "inner"):
            clock[0] += 11
    assert capsys.readouterr().err.splitlines() == [
        "outer: 0 of 3",
        "inner: 2, elapsed 0:22",
        "outer: done, 3 of 3, elapsed 1:06",
    ]


def test_kernels_keep_their_newest_line_in_a_file(clock, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("CCQ_PROGRESS", str(tmp_path / "line"))
    for number in progress(range(3), "encoding"):
        clock[0] += 2
        assert (tmp_path / "line").read_text().startswith(f"encoding: {number} of 3")
    assert (tmp_path / "line").read_text() == "" and capsys.readouterr().err == ""
