"""Objectives from the PCA start: what each changes, what they are held against, which may go on."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from ccq_utils.study.retention import Side, decoder_scores, ndcg, trained_decoder

from ccq_utils.analyses import decoders as ablations
from ccq_utils.codecs.decoder import fit_pca
from ccq_utils.codecs.percentile import widest
from ccq_utils.common.errors import StudyError
from ccq_utils.data.profile import DecoderSpec
from ccq_utils.study.stats import paired_interval


@pytest.fixture
def study(random_vectors, cache):
    vectors = {
        part: random_vectors(rows, 96, seed, decay=0.95)
        for seed, (part, rows) in enumerate({"training": 160, "validation": 60, "calibration": 80, "short": 40}.items())
    }
    profile = SimpleNamespace(seeds=2, seed=7, decoder=DecoderSpec(dims=32, stops=[8, 32], epochs=2, batch_size=32))

    def interval(statistic, measured, reference):
        return paired_interval(statistic, measured, reference, resamples=100)

    return SimpleNamespace(joined=vectors.__getitem__, profile=profile, cache=cache, interval=interval)


@pytest.fixture
def found(random_vectors):
    def side(task, seed):
        queries, documents = random_vectors(30, 96, seed, 0.95), random_vectors(50, 96, seed + 1, 0.95)
        best = (queries @ documents.T).argmax(axis=1)

        def judge(matrix):
            ranks = (matrix > matrix[np.arange(30), best][:, None]).sum(axis=1)
            return pd.DataFrame({"ndcg_at_10": 1 / np.log2(2 + ranks)})

        return Side(task, queries, documents, judge, ndcg(judge, queries @ documents.T))

    return {"a": side("a", 10), "b": side("b", 20)}


def test_every_objective_starts_from_pca_and_only_the_paper_s_has_no_further_setting(study):
    variants = ablations.objectives(study)
    assert variants["similarity"] == {"start": "PCA"}
    assert all(settings["start"] == "PCA" for settings in variants.values())
    assert len({str(settings) for settings in variants.values()}) == len(variants)


def test_codes_are_trained_for_with_the_bits_of_the_codec_at_48x(study):
    bits = {settings["bits"] for settings in ablations.objectives(study).values() if "bits" in settings}
    assert bits == {widest(32, 4 * 96 // 48)[1]} == {2}


def test_table_holds_every_place_and_differences_to_both_references(study, found):
    variants = {name: ablations.objectives(study)[name] for name in ("similarity", "ranking, coded")}
    table = ablations.compare_objectives(study, found, variants, [8, 32])
    assert table.groupby("decoder")["place"].agg(list).map(tuple).unique().tolist() == [
        ("8 dims", "32 dims", "48x", "96x", "192x")
    ]
    assert table["bytes_per_vector"].tolist() == [32, 128, 8, 4, 2] * 3
    rows = table.set_index(["decoder", "place"])
    assert (rows.loc["PCA", "over_pca"] == 0).all() and rows.loc["PCA", "over_pca_p"].isna().all()
    assert (rows.loc["similarity", "over_similarity"] == 0).all()
    decoders = [trained_decoder(study, **variants["ranking, coded"], seed=seed)[0] for seed in range(2)]
    ours = decoder_scores(found, decoders, [8])
    pca = decoder_scores(found, [fit_pca(study.joined("training"), 32)], [8])
    expected = np.mean([ours[task, 8].mean() - pca[task, 8].mean() for task in found])
    assert rows.loc[("ranking, coded", "8 dims"), "over_pca"] == pytest.approx(expected)
    kept = np.mean([ours[task, 8].mean() / side.reference.mean() for task, side in found.items()])
    assert rows.loc[("ranking, coded", "8 dims"), "retention"] == pytest.approx(kept)


def test_short_texts_are_trained_on_and_held_out_but_pca_is_that_of_the_passages(study):
    plain, history = (trained_decoder(study, "PCA", queries=queries)[1] for queries in (False, True))
    assert plain["validation_loss"][0] != history["validation_loss"][0]
    study.profile.decoder = study.profile.decoder.model_copy(update={"learning_rate": 1e-30})
    decoder = trained_decoder(study, "PCA", queries=True)[0]
    texts = study.joined("validation")
    assert np.allclose(decoder.transform(texts), fit_pca(study.joined("training"), 32).transform(texts), atol=1e-6)


def test_bad_setting_of_an_objective_is_an_error(study):
    with pytest.raises(StudyError, match="160 nearest neighbours cannot be had from 160 texts"):
        trained_decoder(study, "PCA", neighbours=160)


def verdicts(*rows):
    columns = ["decoder", "place", "over_pca", "over_pca_verdict", "over_similarity_verdict"]
    return pd.DataFrame(rows, columns=columns)


def test_objective_goes_on_only_where_it_beats_both_references_at_48x():
    same, up = "no difference seen", "better"
    none = verdicts(("a", "48x", 0.03, up, same), ("b", "48x", 0.02, same, up), ("c", "192x", 0.05, up, up))
    assert ablations.better_objective(none) is None
    some = verdicts(("a", "48x", 0.03, up, same), ("b", "48x", 0.01, up, up), ("c", "48x", 0.02, up, up))
    assert ablations.better_objective(some) == "c"
