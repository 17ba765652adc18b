"""Figures adapt to how many panels there are, and to how long a title is."""

import errno

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from ccq_utils.common.errors import StudyError
from ccq_utils.study import figures


@pytest.fixture(autouse=True)
def own_style():
    figures.style()
    yield
    plt.close("all")


@pytest.mark.parametrize(("count", "places"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 6)])
def test_panels_stand_two_in_a_row_and_the_rest_is_blank(count, places):
    names = [f"task {number}" for number in range(count)]
    figure, axes = figures.panels(names, width=5, height=3)
    assert [axis.get_title("left") for axis in axes] == names
    assert len(figure.axes) == places and not any(axis.axison for axis in figure.axes[count:])
    assert tuple(figure.get_size_inches()) == (5 * min(count, 2), 3 * -(-count // 2))


@pytest.mark.parametrize("count", [2, 3])
def test_legend_takes_the_free_place(count):
    figure, axes = figures.panels(range(count))
    axes[0].plot([0, 1], label="ours")
    figures.legend(figure, axes)
    holder = figure.axes[-1] if count == 3 else axes[0]
    assert [text.get_text() for text in holder.get_legend().get_texts()] == ["ours"]


def test_long_titles_are_wrapped_into_their_figure_and_panel():
    figure, axes = figures.panels(
        ["a panel whose title is much longer than the panel is wide, by far", "short"], width=3
    )
    title = "A finding that needs more words than fit above this figure: " + "; ".join(["task: no difference"] * 6)
    text = figure.suptitle(title, fontweight="bold")
    figures.wrap_titles(figure)
    figure.draw_without_rendering()
    assert "\n" in text.get_text() and text.get_text().replace("\n", " ") == title
    assert text.get_window_extent().width <= figure.bbox.width
    assert "\n" in axes[0].get_title("left") and axes[1].get_title("left") == "short"


def test_a_figure_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    figure, (axis,) = figures.panels(["a"])
    axis.plot([1, 2])
    figures.save_figure(figure, tmp_path / "new", "a")
    figure.savefig(tmp_path / "a.png")
    figure.savefig(tmp_path / "a.svg", metadata={"Date": None})
    for kind in ("png", "svg"):
        assert (tmp_path / "new" / f"a.{kind}").read_bytes() == (tmp_path / f"a.{kind}").read_bytes()

    def full(target, **_):
        with open(getattr(target, "name", target), "wb") as file:
            file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(figure, "savefig", full)
    with pytest.raises(StudyError, match="the disk of .*new is full"):
        figures.save_figure(figure, tmp_path / "new", "a")
    assert (tmp_path / "new" / "a.png").read_bytes() == (tmp_path / "a.png").read_bytes()
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.png", "a.svg"]


def test_every_task_has_a_colour():
    assert len(figures.task_colours([f"task {number}" for number in range(9)])) == 9


def test_cells_hold_estimate_and_interval_in_the_tables_order():
    rows = [("z", "a", 1.0), ("z", "b", 2.0), ("c", "a", 3.0)]
    table = pd.DataFrame(rows, columns=["task", "method", "estimate"]).assign(low=0.5, high=9.0)
    found = figures.cells(table, ["task"], "method")
    assert (
        list(found.index) == ["z", "c"]
        and found.loc["z", "b"] == "2.000 [0.500, 9.000]"
        and pd.isna(found.loc["c", "b"])
    )
