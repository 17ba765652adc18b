"""What notebooks open: tables that are missing name the notebook to run, tables that are written come back."""

import numpy as np
import pandas as pd
import pytest
import torch

from ccq_utils.common import paths
from ccq_utils.common.cache import Cache
from ccq_utils.common.errors import StudyError
from ccq_utils.common.threads import one_thread
from ccq_utils.data.profile import TextSpec
from ccq_utils.study.claims import read_scores
from ccq_utils.study.scores import score_table
from ccq_utils.study.study import STEPS, Study, versions_table
from ccq_utils.study.training import decoders, trained_decoder, trained_decoders


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setenv("CCQ_CACHE", str(tmp_path / "cache"))
    return Study("tiny", "03", str(tmp_path / "output"))


@pytest.mark.parametrize("number", STEPS)
def test_missing_table_names_the_notebook_to_run(study, number):
    with pytest.raises(StudyError) as caught:
        study.read(f"{number}_table")
    assert f"table {number}_table.csv of profile 'tiny' is missing; run {STEPS[number]} first" in str(caught.value)
    output = study.results.parent
    assert f"(ccq run --profile tiny --out {output} --only {number})" in str(caught.value)


def test_a_profile_by_its_path_is_named_by_it(tmp_path):
    path = tmp_path / "its_file.yaml"
    path.write_text((paths.PROFILES / "tiny.yaml").read_text().replace("name: tiny", "name: mine"))
    with pytest.raises(StudyError, match=f"first .ccq run --profile {path} --only 01"):
        Study(path).read("01_selection")


def test_selection_before_notebook_01_names_it(study):
    with pytest.raises(StudyError, match="run 01_select_models first"):
        study.members  # noqa: B018


def test_saved_table_reads_back(study, tmp_path):
    table = pd.DataFrame({"task": ["a", "b"], "count": [1, 2], "estimate": [0.25, 1 / 3]})
    assert study.save(table, "numbers") is table
    pd.testing.assert_frame_equal(study.read("03_numbers"), table, rtol=1e-5)
    assert [path.name for path in (tmp_path / "output" / "results").iterdir()] == ["03_numbers.csv"]


def test_saving_replaces_the_table(study):
    for value in (1, 2):
        study.save(pd.DataFrame({"value": [value]}), "numbers")
    assert study.read("03_numbers")["value"].tolist() == [2]


def test_unwritable_output_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="cannot write to"):
        Study("tiny", "01", str(tmp_path / "file")).save(pd.DataFrame({"value": [1]}), "numbers")


def test_unknown_step_is_an_error():
    with pytest.raises(StudyError, match="unknown step '09'; accepted: 00, 01, 02, 03, 04, 05, 06, 07, 08"):
        Study("tiny", "09")


def test_unknown_text_names_the_known_ones(study, task):
    study.__dict__["tasks"] = {"made_up": task}  # in the place of the profile's tasks
    with pytest.raises(
        StudyError, match="unknown text 'nowhere'; accepted: made_up, training, calibration, validation"
    ):
        study.texts("nowhere")


def test_texts_follow_the_order_of_the_evaluator(study, task):
    study.__dict__["tasks"] = {"made_up": task}
    assert study.texts("made_up") == list(task.documents.values())
    queries = study.evaluator("made_up", "validation").query_ids
    assert study.texts("made_up", "validation") == [task.queries[query] for query in queries]


def test_split_without_queries_is_an_error_that_says_what_to_set(study, make_task):
    study.__dict__["tasks"] = {"made_up": make_task(validation=frozenset())}
    with pytest.raises(StudyError, match="no task has validation queries, on which models are chosen"):
        study.tuning_tasks  # noqa: B018
    with pytest.raises(StudyError, match="'made_up': no validation query has an answer"):
        study.evaluator("made_up", "validation")


def test_recorded_scores_are_written_whole_and_once(study):
    twice = score_table({"made_up": np.array([[0.0, 0.1], [1.0, 1.0]])}, method="twice", factor=48)
    assert study.record(twice) is twice and not study.results.exists()
    study.record(score_table({"made_up": np.array([0.5, 0.25])}, method="once"), members="all")
    study.save_scores()
    found = read_scores(study.results, "03_train_decoder")
    assert list(found["method"]) == ["twice"] * 4 + ["once"] * 2 and found["score"].sum() == pytest.approx(2.85)
    assert found.loc[found["factor"] == 48, "seed"].tolist() == [0, 0, 1, 1]
    assert found.loc[found["members"] == "all", "method"].eq("once").all()


def test_decoder_is_trained_once_and_its_key_holds_each_setting(study, random_vectors):
    texts = {"training": random_vectors(120, 24, 1), "validation": random_vectors(40, 24, 2)}
    study.concat = lambda text, *_: texts[text]
    first, history = trained_decoder(study, dims=16)
    again = trained_decoder(study, dims=16)
    assert len(list((study.cache.folder / "decoders").iterdir())) == 1 and history.equals(again[1])
    settings = [
        {"seed": 1},
        {"loss": "reconstruction"},
        {"training": texts["training"][:60]},
        {"epochs": 2},
        {"depth": 2},
    ]
    settings += [{"start": "PCA"}, {"depth": 2, "dropout": 0.1}]
    for setting in settings:
        trained_decoder(study, dims=16, **setting)
    assert len(list((study.cache.folder / "decoders").iterdir())) == 1 + len(settings)
    assert first.config["out_dims"] == 16 and first.config["in_dims"] == 24


def test_decoders_are_one_per_seed_of_the_members_and_shares_and_as_wide_as_their_concat(study, random_vectors):
    asked = []

    def concat(text, split, members, shares):
        asked.append((members, shares))
        return random_vectors(60, 24, 1)

    study.concat = concat
    found = decoders(study, members=["a", "b"], shares=[0.3, 0.7])
    assert asked == [(["a", "b"], [0.3, 0.7])] * 2 * study.profile.seeds
    assert [decoder.config["out_dims"] for decoder in found] == [24] * study.profile.seeds
    assert (found[0].layers[0].weight != found[1].layers[0].weight).any()


def test_decoders_trained_side_by_side_are_those_trained_alone(study, random_vectors, tmp_path):
    texts = {"training": random_vectors(120, 24, 1), "validation": random_vectors(40, 24, 2)}
    study.concat = lambda text, *_: texts[text]
    given = [{"dims": 16, "seed": seed, "depth": 1 + seed % 2} for seed in range(6)]
    both = trained_decoders(study, given)
    study.cache = Cache(tmp_path / "other")
    with one_thread():
        alone = [trained_decoder(study, **settings) for settings in given]
    for (ours, history), (theirs, expected) in zip(both, alone, strict=True):
        assert history.equals(expected) and ours.config == theirs.config
        assert all(map(torch.equal, ours.state_dict().values(), theirs.state_dict().values()))


def test_training_text_of_a_file_is_read_again_only_when_the_file_changes(study, tmp_path, monkeypatch):
    path, row = tmp_path / "texts.jsonl", '{{"id": "{0}", "title": "Title {0}", "text": "First. {1}"}}\n'
    path.write_text("".join(row.format(number, f"word{number} " * 12) for number in range(400)))
    spec = TextSpec(source=f"jsonl:{path}", passages=100, calibration=256, validation=16, min_words=5)
    study.profile = study.profile.model_copy(update={"training": spec})
    read = study.corpora.training
    again, changed = (Study(study.profile.model_copy(update={"training": spec})) for _ in range(2))
    monkeypatch.setattr("ccq_utils.study.study.load_corpora", lambda *_: 1 / 0)
    assert again.corpora.training == read
    path.write_text(path.read_text() + row.format("new", "one more"))
    with pytest.raises(ZeroDivisionError):
        changed.corpora  # noqa: B018


def test_versions_table_names_the_libraries_that_decide_the_numbers():
    assert {"python", "torch", "numpy", "scikit-learn", "faiss-cpu"} <= set(versions_table()["package"])


def test_a_parameter_of_another_type_is_refused_by_name(study):
    for given, words in (({"output": 7}, "output: 7 is no path"), ({"output": ["x"]}, "output: .'x'. is no path")):
        with pytest.raises(StudyError, match=words):
            Study("tiny", **given)
    with pytest.raises(StudyError, match="profile: .'tiny'. is no path"):
        Study(["tiny"])
    with pytest.raises(StudyError, match="unknown step .'01'."):
        Study("tiny", ["01"])
