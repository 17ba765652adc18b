"""The cost model against numbers worked out by hand, and the bench: complete tables, no time asserted."""

import numpy as np
import pandas as pd
import pytest

from ccq_utils import cli
from ccq_utils.analyses import bench, bench_search, cost_model
from ccq_utils.analyses.cost_model import Setup
from ccq_utils.analyses.encoding_cost import bert, encoding_costs
from ccq_utils.codecs.byte_blocks import BlockCodec
from ccq_utils.common.cache import Cache
from ccq_utils.common.errors import StudyError
from ccq_utils.data.profile import load_profile
from ccq_utils.models.base_models import BUILDERS

MEASURED = pd.DataFrame(
    {"way": ["flat", "flat", "codes"], "documents": [1000, 11_000, 11_000], "seconds": [0.002, 0.012, 0.0011]}
)
SETUPS = [
    Setup("wide", 4000, 36.0, "flat"),
    Setup("narrow", 1000, 18.0, "flat", 4000),
    Setup("coded", 100, 36.0, "codes"),
]


def test_line_through_two_sizes():
    fixed, slope = cost_model.line(MEASURED, "flat")
    assert fixed == pytest.approx(0.001) and slope == pytest.approx(1e-6)
    assert cost_model.line(MEASURED, "codes") == (0.0, pytest.approx(1e-7))


@pytest.mark.parametrize("small", [0.02, 0.0005])
def test_a_small_size_out_of_line_is_left_to_the_large_one(small):
    """Slower than the large one; or so fast that the line would begin below zero."""
    measured = MEASURED.assign(seconds=[small, 0.012, 0.0011])
    assert cost_model.line(measured, "flat") == (0.0, pytest.approx(0.012 / 11_000))


def test_costs_are_those_worked_out_by_hand():
    costs = cost_model.cost_table(SETUPS, MEASURED, (10_000, 1_000_000)).set_index(["setup", "documents"])
    wide = costs.loc["wide", 1_000_000]
    assert wide["gigabytes"] == pytest.approx(4) and wide["core_hours"] == pytest.approx(10)
    assert wide["milliseconds"] == pytest.approx(1001) and wide["queries_per_second"] == pytest.approx(1 / 1.001)
    assert wide["extrapolated"] and not costs.loc[("wide", 10_000), "extrapolated"]
    narrow = costs.loc["narrow", 1_000_000]
    assert narrow["milliseconds"] == pytest.approx(251) and narrow["core_hours"] == pytest.approx(5)
    assert costs.loc[("coded", 1_000_000), "milliseconds"] == pytest.approx(100)


def test_where_each_wins_and_by_how_much():
    costs = cost_model.cost_table(SETUPS, MEASURED, (1_000_000,))
    (row,) = cost_model.cheapest(costs).to_dict("records")
    assert (row["fewest bytes"], row["least encoding"], row["fastest query"]) == ("coded", "narrow", "coded")
    assert cost_model.factor(costs, "gigabytes", "wide", "coded") == pytest.approx(40)


def test_check_holds_the_large_size_against_the_small_one():
    (row,) = cost_model.check(MEASURED).to_dict("records")  # codes were measured at one size
    assert row["expected"] == pytest.approx(0.022) and row["off"] == pytest.approx(0.012 / 0.022)


def test_way_that_was_not_measured_is_an_error():
    with pytest.raises(StudyError, match="search was not measured for 'graph'; measured: flat, codes"):
        cost_model.line(MEASURED, "graph")


def test_encoding_is_timed_per_thousand_texts_after_a_first_call():
    times, calls = iter([10.0, 13.0]), []

    class Model:
        def encode(self, texts, show_progress_bar):
            calls.append(len(texts))

        def get_embedding_dimension(self):
            return 7

    (row,) = encoding_costs({"one": Model()}, ["text"] * 500, lambda: next(times)).to_dict("records")
    assert row == {"model": "one", "dims": 7, "seconds_per_1000": pytest.approx(6)} and calls == [8, 500]
    assert cost_model.encoding_seconds({"one": 2.0, "two": 0.5}) == 2.5


def test_model_of_a_given_shape_encodes(tmp_path):
    minilm = BUILDERS["minilm"](load_profile("tiny"), None, Cache(tmp_path)).folder()
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    assert bert(minilm, **shape).encode(["some text"], show_progress_bar=False).shape == (1, 32)


def test_figure_has_a_line_per_setup():
    costs = cost_model.cost_table(SETUPS, MEASURED)
    figure, axes = cost_model.figure(costs, dict.fromkeys(costs["setup"], "#000000"))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["wide", "narrow", "coded"]
    assert all(axis.get_xlabel() and axis.get_ylabel() for axis in axes)


# ---- bench ----------------------------------------------------------------------------------------------------------


def test_drawn_vectors_have_the_mean_and_the_spectrum_and_come_again(random_vectors, monkeypatch):
    monkeypatch.setattr(bench_search, "CHUNK", 700)
    like = random_vectors(3000, 24, decay=0.8) + np.float32(0.05)
    drawn = bench_search.Drawn(like / np.linalg.norm(like, axis=1, keepdims=True), 3000)
    held = drawn.all()
    np.testing.assert_allclose(np.linalg.norm(held, axis=1), 1, atol=1e-5)
    spectrum = np.linalg.eigvalsh(np.cov(like.T))[::-1]
    assert held.var(axis=0)[1:6] == pytest.approx(spectrum[1:6], rel=0.3)
    np.testing.assert_array_equal(held, np.concatenate([part for _, part in drawn.chunks()]))
    assert len(np.unique(held[:, 0])) > 2900  # chunks differ


@pytest.fixture(scope="module")
def speed(random_vectors):
    return bench_search.search_speed(random_vectors(600, 96), 400, 16, queries=(1, 3), repeats=2)


def test_table_of_search_is_complete(speed):
    ways = {bench_search.FLAT, bench_search.PRODUCT, bench_search.SCAN, bench_search.TWO_STEPS, *bench_search.PEERS}
    assert {(row.way, row.queries) for row in speed.itertuples()} == {(way, count) for way in ways for count in (1, 3)}
    assert not speed.isna().any(axis=None)
    assert (speed[["floor_seconds", "peak_megabytes"]] > 0).all(axis=None) and (speed["repeats"] == 2).all()
    size = speed.drop_duplicates("way").set_index("way")["bytes_per_vector"]
    assert size[bench_search.FLAT] == 4 * 96 and size.drop([bench_search.FLAT, bench_search.PRODUCT]).max() == 16


def test_products_find_what_the_flat_search_finds(random_vectors):
    vectors = random_vectors(50, 8)
    found = bench_search._best_products(vectors[:4], vectors, block=7)
    np.testing.assert_array_equal(np.sort(found), np.sort(np.argsort(-vectors[:4] @ vectors.T, axis=1)[:, :10]))


def test_search_of_nothing_is_an_error(random_vectors):
    with pytest.raises(StudyError, match="at least 10 documents"):
        bench_search.search_speed(random_vectors(60, 24), 3)


def test_a_shortlist_of_all_finds_all(random_vectors):
    vectors = random_vectors(300, 32)
    codec = BlockCodec(8, neighbours=0).fit(vectors)
    shares = bench_search.shortlist_recall(codec, vectors[:9], codec.encode(vectors), (5, 10, 50, 300, 900))
    assert list(shares) == [10, 50, 300]
    assert shares[300].min() == 1 and shares[10].mean() <= shares[50].mean() <= 1


def test_goals_are_judged_by_the_ratio(speed):
    found = bench.judged(
        "search", speed.assign(ratio=12.0, ratio_to_product=np.where(speed["queries"] == 1, 11.0, 3.0))
    )
    ours = found[found["way"] == bench_search.TWO_STEPS].set_index("queries")["reached"]
    assert ours.to_dict() == {1: "yes", 3: "no"}
    assert set(found.loc[found["way"] != bench_search.TWO_STEPS, "reached"]) == {""}


def test_goals_name_what_they_are_held_against(speed):
    other = pd.DataFrame({"what": "steps", "way": ["loop", "sums"], "ratio": [1.0, 4.0], "goal": [np.nan, 3.0]})
    found = speed.assign(ratio=12.0, ratio_to_product=np.where(speed["queries"] == 1, 30.0, 3.0))
    table = bench.goals([other.assign(reached=["", "yes"]), bench.judged("search", found)])
    assert table["what"].tolist() == ["steps", "search 400 documents, one query", "search 400 documents, 3 at once"]
    assert table["against"].tolist() == ["loop", bench_search.FLAT, bench_search.PRODUCT]
    assert table["ratio"].tolist() == [4.0, 12.0, 3.0] and table["reached"].tolist() == ["yes", "yes", "no"]
    assert table["above_floor"].notna().tolist() == [False, True, True]
    _, axis = bench.goals_figure(table)
    assert [bar.get_x() + bar.get_width() for bar in axis.patches][-1] == 4.0


def test_a_profile_without_a_transformer_cannot_race_ways_to_run_one():
    class Nothing:
        models, profile = {}, type("Profile", (), {"name": "static"})

    with pytest.raises(StudyError, match="profile 'static' scores no transformer"):
        bench.transformer(Nothing())


def test_command_writes_and_prints_every_part(speed, tmp_path, monkeypatch, capsys):
    parts = {name: bench.Part(lambda study, documents: speed, sized=name == "search") for name in ("search", "another")}
    monkeypatch.setattr(bench, "PARTS", parts)
    assert cli.main(["bench", "--profile", "tiny", "--documents", "400", "--output", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "search_400.csv" in printed and "another.csv" in printed and bench_search.TWO_STEPS in printed
    held = bench.committed("search", tmp_path)
    assert len(held) == len(speed) and {"processor", "load", "goal"} <= set(held)
    assert bench.committed("third", tmp_path) is None
    assert cli.main(["bench", "--profile", "tiny", "--part", "third"]) == 2
    assert "unknown part 'third' of the bench; known: search, another" in capsys.readouterr().err
