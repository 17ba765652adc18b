"""Retention rows: repeated runs are averaged per query, their spread is shown, tasks are averaged with equal weight."""

import inspect
import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from ccq_utils.codecs.decoder import fit_pca
from ccq_utils.codecs.percentile import CODECS, DETERMINISTIC
from ccq_utils.data.profile import DecoderSpec
from ccq_utils.study import retention as compress
from ccq_utils.study.retention import (
    MACRO,
    Side,
    chosen_decoder,
    cosine_agreement,
    fitted_codecs,
    retention_row,
    retention_rows,
    trained_decoder,
)
from ccq_utils.study.stats import paired_interval


@pytest.fixture
def study(random_vectors):
    def interval(statistic, measured, reference=None):
        given = (measured,) if reference is None else (measured, reference)
        listed = [part if isinstance(part, list) else [part] for part in given]
        return paired_interval(statistic, *listed, resamples=100)

    vectors = random_vectors(400, 32, 1, decay=0.5)
    return SimpleNamespace(interval=interval, profile=SimpleNamespace(seeds=3, seed=7), joined=lambda part: vectors)


@pytest.fixture
def found():
    rng = np.random.default_rng(0)
    return {task: Side(task, None, None, None, rng.uniform(0.4, 0.8, size)) for task, size in (("a", 40), ("b", 80))}


def test_repeated_run_is_averaged_per_query_and_its_spread_is_shown(study, found):
    reference = found["a"].reference
    row = retention_row(study, found["a"], np.stack([0.8 * reference, 0.9 * reference, 1.0 * reference]))
    assert row["estimate"] == pytest.approx(0.9) and row["ndcg_at_10"] == pytest.approx(0.9 * reference.mean())
    assert row["seed_spread"] == pytest.approx(0.1) and row["queries"] == 40


def test_run_that_was_not_repeated_has_no_spread(study, found):
    assert np.isnan(retention_row(study, found["a"], found["a"].reference)["seed_spread"])


def test_macro_mean_weighs_tasks_alike(study, found):
    values = {"a": 0.5 * found["a"].reference, "b": 0.9 * found["b"].reference}
    rows = retention_rows(study, found, values, method="ours")
    assert [row["task"] for row in rows] == ["a", "b", MACRO]
    assert rows[-1]["estimate"] == pytest.approx(0.7) and rows[-1]["queries"] == 120
    assert {row["method"] for row in rows} == {"ours"}


def test_spread_of_the_macro_mean_is_that_of_the_means(study, found):
    values = {"a": np.outer([0.8, 1.0], found["a"].reference), "b": np.outer([1.0, 0.8], found["b"].reference)}
    rows = retention_rows(study, found, values)
    assert rows[0]["seed_spread"] == pytest.approx(0.1 * np.sqrt(2))
    assert rows[-1]["seed_spread"] == pytest.approx(0, abs=1e-12)


def test_single_task_has_no_macro_row(study, found):
    assert len(retention_rows(study, {"a": found["a"]}, {"a": found["a"].reference})) == 1


@pytest.mark.parametrize("name", [name for name in CODECS if not name.startswith("decoder")])
def test_codec_is_repeated_exactly_where_its_seed_matters(study, name):
    codecs = fitted_codecs(study, name, 4)
    assert len(codecs) == (1 if name in DETERMINISTIC else 3)
    codes = [codec.encode(study.joined("training")[:50]) for codec in codecs]
    assert all(not np.array_equal(codes[0], other) for other in codes[1:])


def test_cosines_of_a_full_pca_agree_with_the_concat(study):
    vectors = study.joined("training")[:80]
    table = cosine_agreement(study, vectors, {"PCA": [fit_pca(study.joined("training"), 32)]}, [2, 32])
    full = table[table["stop"] == 32].set_index("measure")["estimate"]
    assert full["offset"] == pytest.approx(0, abs=1e-5) and full["error"] == pytest.approx(0, abs=1e-5)
    assert full["rank correlation"] == pytest.approx(1, abs=1e-3) and full["nearest kept"] > 0.99
    narrow = table[table["stop"] == 2].set_index("measure")
    assert narrow.loc["error", "estimate"] > 0.05 and narrow.loc["nearest kept", "estimate"] < 0.9
    assert ((table["low"] <= table["estimate"]) & (table["estimate"] <= table["high"])).all()
    assert (table["texts"] == 80).all() and table["seed_spread"].isna().all()


def test_error_is_the_root_of_the_mean_square_over_all_pairs_and_has_its_spread_over_seeds(study):
    vectors = study.joined("training")[:60]
    decoders = [fit_pca(study.joined("training")[start : start + 100], 4) for start in (0, 100, 200)]
    row = cosine_agreement(study, vectors, {"ours": decoders}, [4]).set_index("measure").loc["error"]
    pairs = np.triu_indices(60, 1)
    errors = [
        ((decoder.transform(vectors) @ decoder.transform(vectors).T - vectors @ vectors.T)[pairs] ** 2).mean()
        for decoder in decoders
    ]
    assert row["estimate"] == pytest.approx(np.sqrt(np.mean(errors)), rel=1e-4)
    assert row["seed_spread"] == pytest.approx(np.sqrt(errors).std(ddof=1), rel=1e-3)


def key_of(**settings):
    """The key that a training is cached by, as JSON."""
    parts = {"training": np.eye(16, dtype=np.float32), "validation": np.eye(4, 16, dtype=np.float32)}
    parts["short"] = parts["training"][::-1].copy()
    keys = []

    def artifact(kind, key, build):
        keys.append(json.dumps(key))
        raise InterruptedError  # nothing is trained

    profile = SimpleNamespace(seed=7, decoder=DecoderSpec(dims=8, stops=[4, 8]))
    study = SimpleNamespace(joined=parts.__getitem__, profile=profile, cache=SimpleNamespace(artifact=artifact))
    with pytest.raises(InterruptedError):
        trained_decoder(study, **settings)
    return keys[0]


def test_key_of_a_training_names_its_settings_vectors_and_code(monkeypatch):
    before = key_of(start="PCA")
    assert before.startswith(
        '{"start": "PCA", "dims": 8, "depth": 1, "width": 512, "stops": [4, 8], "epochs": 20, "batch_size": 128, '
        '"learning_rate": 0.0001, "patience": 3, "seed": 7, '
        '"vectors": "734532e1bae775862c048099fea348d07af96ba753af74f5d7d99c456885e73d", "code": "'
    )
    source = inspect.getsource
    monkeypatch.setattr(inspect, "getsource", lambda part: source(part) + "# trained otherwise")
    assert key_of(start="PCA") != before


@pytest.mark.parametrize(
    "setting", [{"loss": "ranking"}, {"neighbours": 3}, {"bits": 2}, {"queries": True}, {"seed": 1}]
)
def test_key_holds_each_setting(setting):
    assert key_of(start="PCA", **setting) != key_of(start="PCA")


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"start": ["PCA"]}, {"start": "PCA"}),
        ({"start": ["PCA"], "objective": ["{}"]}, {"start": "PCA"}),
        (
            {"start": ["PCA"], "objective": ['{"loss": "ranking", "queries": true}']},
            {"start": "PCA", "loss": "ranking", "queries": True},
        ),
    ],
)
def test_chosen_decoder_is_trained_as_the_table_says(monkeypatch, table, expected):
    monkeypatch.setattr(compress, "trained_decoder", lambda study, start, **given: (given | {"start": start}, None))
    found = chosen_decoder(SimpleNamespace(read=lambda name: pd.DataFrame(table)), seed=2)
    assert found == {"seed": 2, "training": None} | expected
