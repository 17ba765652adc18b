"""Profiles: the shipped ones load, and every mistake is one line that names key, file and accepted values."""

from pathlib import Path

import pytest
import yaml

from ccq_utils.common import paths
from ccq_utils.common.errors import StudyError
from ccq_utils.data.profile import Profile, load_profile

CONTENT = {
    "name": "mini",
    "description": "for tests",
    "models": ["lexical", "wordllama"],
    "larger": ["static"],
    "large_model": "static",
    "tasks": [{"name": "summary", "source": "docstrings:summary", "libraries": ["networkx"]}],
    "training": {"libraries": ["seaborn"]},
}


@pytest.fixture
def message(tmp_path):
    """The error of the profile above with some keys changed; asserts that it is one line."""

    def of(**changes):
        path = tmp_path / "mini.yaml"
        path.write_text(yaml.safe_dump({**CONTENT, **changes}))
        with pytest.raises(StudyError) as caught:
            load_profile(path)
        assert "\n" not in str(caught.value) and "mini.yaml" in str(caught.value)
        return str(caught.value)

    return of


@pytest.mark.parametrize("path", sorted(paths.PROFILES.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_profiles_load_by_name_and_by_path(path):
    profile = load_profile(path.stem)
    assert profile.name == path.stem and profile == load_profile(path)


def test_three_profiles_are_shipped():
    assert {"default", "tiny", "paper"} <= {path.stem for path in paths.PROFILES.glob("*.yaml")}


def test_unknown_key_names_key_file_and_accepted_keys(message):
    assert message(modells=[]) == (
        f"profile mini.yaml: unknown key 'modells', perhaps 'models'; accepted: {', '.join(Profile.model_fields)}"
    )


@pytest.mark.parametrize(
    ("changes", "key", "accepted"),
    [
        ({"decoder": {"width": 3}}, "decoder.width", "stops"),
        ({"tasks": [{**CONTENT["tasks"][0], "splits": 1}]}, "tasks.0.splits", "validation_queries"),
    ],
)
def test_unknown_nested_key_names_its_own_accepted_keys(message, changes, key, accepted):
    text = message(**changes)
    assert f"unknown key {key!r}" in text and accepted in text and "large_model" not in text


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"seed": "seven"}, "key 'seed': Input should be a valid integer"),
        ({"decoder": {"epochs": 0}}, "key 'decoder.epochs': Input should be greater than or equal to 1, got 0"),
        ({"training": {"passages": "many"}}, "key 'training.passages'"),
        ({"tasks": []}, "key 'tasks'"),
    ],
)
def test_wrong_type_or_value_names_the_key(message, changes, expected):
    assert expected in message(**changes)


def test_missing_key_is_named(tmp_path):
    path = tmp_path / "mini.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in CONTENT.items() if key != "models"}))
    with pytest.raises(StudyError, match="key 'models': Field required"):
        load_profile(path)


def test_unknown_names_list_the_accepted_ones(message):
    text = message(models=["lexical", "bert"])
    assert "'models.1'" in text and "'minilm'" in text and "'bert'" in text
    task = message(tasks=[{"name": "a", "source": "msmarco"}])
    assert "unknown source 'msmarco'; accepted: docstrings:summary, docstrings:see_also, beir:PATH" in task
    text = message(training={"source": "wikipedia"})
    assert "unknown source 'wikipedia'; accepted: docstrings, jsonl:PATH" in text


def test_inconsistent_values_are_refused(message):
    assert "stop 64 is larger than the decoder's 32 dims" in message(decoder={"dims": 32, "stops": [16, 64]})
    assert "the numbers must be ascending" in message(decoder={"stops": [64, 32]})
    assert "large_model 'minilm' is not among models" in message(large_model="minilm")
    assert "hold no two beside large_model 'lexical'" in message(large_model="lexical")
    assert "models names one twice" in message(models=["lexical", "lexical"])
    assert "tasks names one twice" in message(tasks=CONTENT["tasks"] * 2)
    named = [CONTENT["tasks"][0] | {"name": "training"}]
    assert "task name 'training' is that of a part of the text" in message(tasks=named)


def test_unknown_profile_names_the_known_ones():
    with pytest.raises(StudyError, match=r"unknown profile 'nope'; known: .*default.*tiny.*\.yaml"):
        load_profile("nope")
    with pytest.raises(StudyError, match="unknown profile 'folder/nope.yaml'"):
        load_profile("folder/nope.yaml")


@pytest.mark.parametrize("text", ["models: [", "- a list", "", "\x00"])
def test_what_is_no_profile_is_refused(tmp_path, text):
    (tmp_path / "mini.yaml").write_text(text)
    with pytest.raises(StudyError, match="profile mini.yaml"):
        load_profile(tmp_path / "mini.yaml")


def test_relative_paths_are_read_from_the_profile_s_folder(tmp_path, monkeypatch):
    sources = {
        "tasks": [{"name": "a", "source": "beir:sets/a"}, {"name": "b", "source": f"beir:{tmp_path}/b"}],
        "training": {"source": "jsonl:../wiki.jsonl"},
    }
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mini.yaml").write_text(yaml.safe_dump({**CONTENT, **sources}))
    monkeypatch.chdir(tmp_path)
    profile = load_profile(Path("folder/mini.yaml"))
    assert [task.source for task in profile.tasks] == [f"beir:{tmp_path}/folder/sets/a", f"beir:{tmp_path}/b"]
    assert profile.training.source == f"jsonl:{tmp_path}/wiki.jsonl"


HUB = {"name": "e5", "hub": "intfloat/e5-small-v2"}


def test_a_hub_model_is_written_among_the_models_and_ends_up_under_its_name(tmp_path):
    path = tmp_path / "mini.yaml"
    changes = {"models": ["lexical", HUB | {"pooling": "mean"}], "larger": [{"name": "big", "hub": "a/b"}]}
    path.write_text(yaml.safe_dump({**CONTENT, **changes, "large_model": "big"}))
    profile = load_profile(path)
    assert (profile.models, profile.larger) == (["lexical", "e5"], ["big"])
    assert profile.scored_models == ["lexical", "e5", "big"]
    assert (profile.hub_models["e5"].pooling, profile.hub_models["big"].hub) == ("mean", "a/b")


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"hub": "a/b"}, "'models.1' needs a name of its own"),
        ({"name": "minilm", "hub": "a/b"}, "'models.1' needs a name of its own"),
        ({"name": "a/b", "hub": "a/b"}, "letters, digits"),
        ({"name": "e5"}, "key 'hub_models.e5.hub': Field required"),
        (HUB | {"hub": "e5-small-v2"}, "key 'hub_models.e5.hub'"),
        (HUB | {"revision": "main"}, "key 'hub_models.e5.revision'"),
        (HUB | {"pooling": "median"}, "'mean', 'cls', 'max' or 'lasttoken'"),
        (
            HUB | {"prompt": "query: "},
            "unknown key 'hub_models.e5.prompt', perhaps 'query_prompt'; accepted: hub, revision, query_prompt",
        ),
    ],
)
def test_mistakes_in_a_hub_model_are_named(message, entry, expected):
    assert expected in message(models=["lexical", entry])


def test_larger_baselines_are_other_models(message):
    assert "models names one twice" in message(larger=["static", "lexical"])
    assert "'larger.0': unknown base model 'bert'" in message(larger=["bert"])


def test_streamed_text_is_pinned(message):
    assert "hub:a/b needs a revision" in message(training={"source": "hub:a/b"})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"seed": -1}, "key 'seed'"),
        ({"seed": 2**70}, "key 'seed'"),
        ({"seed": True}, "key 'seed'"),
        ({"bootstrap_seed": -3}, "key 'bootstrap_seed'"),
        ({"seeds": "3"}, "key 'seeds'"),
        ({"budgets": []}, "key 'budgets'"),
        ({"budgets": None}, "key 'budgets'"),
        ({"budgets": [16, 0]}, "key 'budgets.1'"),
        (
            {"open_questions": {"finetune_epochs": [5, 1]}},
            "key 'open_questions.finetune_epochs': the numbers must be asc",
        ),
        ({"open_questions": {"finetune_epochs": []}}, "key 'open_questions.finetune_epochs'"),
        ({"lexical": {"ngrams": [5, 3]}}, "key 'lexical.ngrams': the numbers must be ascending"),
        ({"lexical": {"ngrams": [0, 3]}}, "key 'lexical.ngrams.0'"),
        ({"static": {"learning_rate": float("inf")}}, "key 'static.learning_rate'"),
        ({"training": {"min_words": 60, "max_words": 20}}, "min_words 60 is more than max_words 20"),
        ({"hub_models": None}, "key 'hub_models'"),
        ({"hub_models": [1]}, "key 'hub_models'"),
        ({"name": ""}, "key 'name'"),
        ({"name": "../../x"}, "key 'name'"),
        ({"name": "a b"}, "key 'name'"),
        ({"name": "Default"}, "key 'name': 'Default' is a shipped profile"),
        ({"tasks": [CONTENT["tasks"][0] | {"name": "a/b"}]}, "key 'tasks.0.name'"),
        ({"tasks": [CONTENT["tasks"][0] | {"name": ""}]}, "key 'tasks.0.name'"),
    ],
)
def test_values_out_of_range_or_order_are_refused(message, changes, expected):
    assert expected in message(**changes)


def test_a_key_that_stands_twice_is_named_with_its_lines(tmp_path):
    (tmp_path / "mini.yaml").write_text(
        yaml.safe_dump(CONTENT) + "training: {min_words: 3, min_words: 4}\nname: mine\n"
    )
    with pytest.raises(StudyError, match=r"mini.yaml is not readable YAML: key 'name' stands twice, in lines 8 and 18"):
        load_profile(tmp_path / "mini.yaml")


def test_a_nest_of_anchors_and_a_parameter_of_another_type_are_refused_at_once(tmp_path):
    nest = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
    (tmp_path / "mini.yaml").write_text(nest)
    with pytest.raises(StudyError, match="unknown key 'a11'"):
        load_profile(tmp_path / "mini.yaml")
    for value in (7, ["default"], None):
        with pytest.raises(StudyError, match="profile: .* is no path; expected is a string"):
            load_profile(value)
