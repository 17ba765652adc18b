"""Models, tasks and passages from a hub that runs on loopback: the very code of profile ``paper``, with random weights.

Each piece runs in a process of its own, for huggingface_hub reads its settings when it is imported.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import VOCABULARY
from loopback_hub import put_model, put_retrieval_set, serving
from transformers import AutoModel, AutoTokenizer

from ccq_utils.common import paths
from ccq_utils.common.cache import Cache
from ccq_utils.common.errors import StudyError
from ccq_utils.data.profile import SHIPPED, HubModel, load_profile
from ccq_utils.deploy.modules import Concat, ConcatTransformer, DecoderModule
from ccq_utils.models.base_models import BUILDERS, from_hub
from ccq_utils.models.hub_models import modules, pin, snapshot

COMMIT, OTHER = "c" * 40, "0" * 40
E5, BGE, GTE, ARCTIC, LARGER = (
    "intfloat/e5-small-v2", "BAAI/bge-small-en-v1.5", "thenlper/gte-small", "Snowflake/snowflake-arctic-embed-s",
    "BAAI/bge-base-en-v1.5",
)  # fmt: skip
REVISIONS = {name: pin(HubModel(hub=name)).revision for name in (E5, BGE, GTE, ARCTIC, LARGER)}
TEXTS = [" ".join(VOCABULARY[start : start + 6]) for start in range(0, 24, 6)]
WIKIPEDIA = "wikimedia/wikipedia"
CARD = "---\nconfigs:\n- config_name: en\n  data_files:\n  - {split: train, path: en/*}\n---\n"


@pytest.fixture(scope="module")
def hub(tmp_path_factory, make_task):
    """The hub with what the tests ask it for."""
    words = [str(word) for word in VOCABULARY]
    with serving(tmp_path_factory.mktemp("hub")) as served:
        for seed, (name, pooling) in enumerate(((E5, "mean"), (BGE, "cls"), (GTE, "mean"), (ARCTIC, "cls"))):
            put_model(served.add("models", name, REVISIONS[name]), words, seed, pooling=pooling, half=name == GTE)
        put_model(served.add("models", LARGER, REVISIONS[LARGER]), words, 9, dims=64, pooling="cls")
        prompts = served.folder / "models" / ARCTIC / "config_sentence_transformers.json"
        prompts.write_text(json.dumps(json.loads(prompts.read_text()) | {"prompts": {"query": "query : "}}))
        put_model(served.add("models", "someone/plain", COMMIT), words, 7, pooling=None)
        (served.add("models", "someone/pickled", COMMIT) / "pytorch_model.bin").write_bytes(b"no weights for us")
        task = make_task(validation=frozenset(f"doc-{number:03d}" for number in range(10)))
        put_retrieval_set(served.add("datasets", "mteb/scifact", "d56462d0e63a25450459c4f213e49ffdb866f7f9"), task)
        with (served.folder / "datasets" / "mteb/scifact" / "corpus.jsonl").open("a") as corpus:
            corpus.write(json.dumps({"_id": "empty", "title": "", "text": ""}) + "\n")
        folder = served.add("datasets", "mteb/arguana", "c22ab2a51041ffd869aaddef7af8d8215647e41a")
        put_retrieval_set(folder, task, train=False)
        put_passages(served.add("datasets", WIKIPEDIA, COMMIT))
        yield served


def put_passages(folder, rows=12000):
    """Two Parquet files of titles and texts; long random ids make them large beside a block of 5 MB."""
    rng = np.random.default_rng(0)
    (folder / "en").mkdir()
    for part in range(2):
        texts = [
            " ".join(rng.choice(VOCABULARY, 50)) + ". " + " ".join(rng.choice(VOCABULARY, 50)) for _ in range(rows)
        ]
        table = pd.DataFrame({"id": [rng.bytes(1500).hex() for _ in texts], "title": "a title", "text": texts})
        table.to_parquet(folder / "en" / f"train-{part}.parquet", row_group_size=100)
    (folder / "README.md").write_text(CARD)


START = """
import json, time
sleep = time.sleep
time.sleep = lambda seconds: sleep(min(seconds, 0.5))  # the hub's library waits longer before it tries again
from ccq_utils.common.errors import StudyError
from ccq_utils.data.profile import HubModel, Profile, TaskSpec, TextSpec
from ccq_utils.models import hub_models
answer = []
tell = answer.append
"""


def run(hub, folder, code, **changes):
    """What lines of Python ``tell`` in a process of their own that knows only this hub and the cache in ``folder``."""
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_XET": "1"} | changes
    done = subprocess.run(
        [sys.executable, "-c", START + code + "\nprint(json.dumps(answer))"],
        env={**os.environ, "PYTHONPATH": str(paths.ROOT), **settings}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def ask(hub, tmp_path):
    """``run`` with an empty cache; the hub forgets what it was asked before."""
    hub.requests.clear()
    hub.sent = 0
    return partial(run, hub, tmp_path)


@pytest.fixture(scope="module")
def concat(hub, members):
    """A model of two members and a decoder, uploaded as someone/concat."""
    joined = Concat([members["reader"], members["lexical"]], [1, 0.5], ["reader", "lexical"])
    decoder = DecoderModule(joined.get_embedding_dimension(), 12, [8, 12])
    model = ConcatTransformer(modules=[joined, decoder], device="cpu")
    model.save_pretrained(str(hub.add("models", "someone/concat", COMMIT)), create_model_card=False)
    return model


@pytest.fixture(scope="module")
def loaded(hub, concat, tmp_path_factory):
    """What ``LOAD``, ``TAKEN_HOME``, ``TASKS`` and ``STUDY`` tell, by these names; the same offline from a warm cache.

    In one process each, for it takes longer to import what they use than to use it.
    """
    folder = tmp_path_factory.mktemp("loaded")
    code = {"LOAD": LOAD, "TAKEN_HOME": TAKEN_HOME, "TASKS": TASKS}
    code["STUDY"] = STUDY.format(profile=json.dumps(MINI_PAPER), output=str(folder / "out"))
    told = ""
    for name, part in code.items():
        told += f"answer.append([{name!r}])\ntell = answer[-1].append\n{part}\n"
    fresh = run(hub, folder, told, CCQ_CACHE=str(folder / "cache"))
    hub.requests.clear()
    assert run(hub, folder, told, CCQ_CACHE=str(folder / "empty"), HF_HUB_OFFLINE="1") == fresh
    assert not hub.requests
    return {name: answers for name, *answers in fresh}


LOAD = f"""
from sentence_transformers import SentenceTransformer
for spec in (HubModel(hub={E5!r}), HubModel(hub={BGE!r}), HubModel(hub={GTE!r}),
             HubModel(hub="someone/plain", revision={COMMIT!r}, pooling="mean", max_length=16)):
    folder = hub_models.snapshot(spec.hub, hub_models.pin(spec).revision)
    model = SentenceTransformer(modules=hub_models.modules(folder, spec), device="cpu")
    tell([model.encode({TEXTS!r}).tolist(), str(next(model.parameters()).dtype), model.max_seq_length])
"""


TAKEN_HOME = f"""
from ccq_utils.deploy.modules import load_model
model = load_model("someone/concat", "cpu", revision={COMMIT!r})
tell([type(model).__name__, model.encode_query({TEXTS!r}).tolist(), model.encode({TEXTS!r}, truncate_dim=8).tolist()])
"""


@pytest.mark.slow
def test_a_concat_that_was_uploaded_loads_by_its_id(loaded, concat):
    ((kind, queries, cut),) = loaded["TAKEN_HOME"]
    assert kind == "ConcatTransformer" and np.abs(concat.encode_query(TEXTS) - queries).max() < 1e-6
    assert np.abs(concat.encode(TEXTS, truncate_dim=8) - cut).max() < 1e-6


def by_hand(folder, pooling):
    """Vectors ``(texts, dims)``: the transformer's tokens, pooled and normalised."""
    tokens = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        states = AutoModel.from_pretrained(folder, dtype=torch.float32)(**tokens).last_hidden_state
    mask = tokens["attention_mask"][..., None]
    pooled = states[:, 0] if pooling == "cls" else (states * mask).sum(1) / mask.sum(1)
    return torch.nn.functional.normalize(pooled).numpy()


@pytest.mark.slow
def test_models_pool_as_they_say_in_float32(loaded, hub):
    for (vectors, dtype, length), (name, pooling, longest) in zip(
        loaded["LOAD"],
        ((E5, "mean", 64), (BGE, "cls", 64), (GTE, "mean", 64), ("someone/plain", "mean", 16)),
        strict=True,
    ):
        assert np.allclose(vectors, by_hand(hub.folder / "models" / name, pooling), atol=1e-6), name
        assert (dtype, length) == ("torch.float32", longest)


def test_wrong_pooling_gives_other_vectors(hub):
    """What the tests above tell apart."""
    folder = hub.folder / "models" / E5
    assert not np.allclose(by_hand(folder, "mean"), by_hand(folder, "cls"), atol=0.01)


def attempt(*calls):
    """Code that tells the ``StudyError`` of each call."""
    return "".join(f"try:\n    {call}\nexcept StudyError as error:\n    tell(str(error))\n" for call in calls)


def test_foreign_code_and_damaged_weights_are_refused(hub, tmp_path):
    spec = HubModel(hub=E5)
    for damage in ("foreign", "damaged"):
        folder = tmp_path / damage
        shutil.copytree(hub.folder / "models" / E5, folder)
        if damage == "foreign":
            steps = json.loads((folder / "modules.json").read_text())
            steps[1]["type"] = "custom.Pooling"
            (folder / "modules.json").write_text(json.dumps(steps))
            (folder / "custom.py").write_text("raise SystemExit('foreign code was run')")
        else:
            (folder / "model.safetensors").write_bytes(b"damaged")
        with pytest.raises(StudyError, match=rf"model '{E5}' cannot be loaded \(.*delete .*{damage} and run again"):
            modules(folder, spec)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "and HF_HUB_OFFLINE is set; unset it and run once with a network"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "cannot be fetched from http://127.0.0.1:9 .*check the network"),
    ],
)
def test_without_hub_and_with_a_cold_cache_the_error_says_so(ask, hub, settings, words):
    [text] = ask(attempt(f"hub_models.snapshot({E5!r}, {REVISIONS[E5]!r})"), **settings)
    assert text.startswith(f"model {E5!r}") and "\n" not in text
    assert re.search(words, text), text
    assert hub.requests == []


def test_a_cache_that_an_older_huggingface_hub_filled_loads_without_a_hub(ask, tmp_path):
    """It has the snapshot, but no list of the commit's files."""
    [folder] = ask(f"tell(str(hub_models.snapshot({E5!r}, {REVISIONS[E5]!r})))")
    shutil.rmtree(tmp_path / "hf" / "hub" / f"models--{E5.replace('/', '--')}" / "trees")
    for settings in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}):
        found = f"spec = HubModel(hub={E5!r})\nfolder = hub_models.snapshot(spec.hub, hub_models.pin(spec).revision)\n"
        assert ask(f"{found}hub_models.modules(folder, spec)\ntell(str(folder))", **settings) == [folder]


@pytest.mark.slow
def test_a_download_that_fails_is_one_line_and_leaves_a_sound_cache(ask, hub):
    """``someone/N`` has the N-th fault: broken off, refused, too short, another content."""
    content = os.urandom(10**5)
    faults = [None, 404, 429, 500, content[:-100], content[:-1] + bytes([content[-1] ^ 1])]
    for number, fault in enumerate(faults):
        (hub.add("models", f"someone/{number}", COMMIT) / f"{number}.safetensors").write_bytes(content)
        hub.faults[f"{number}.safetensors"] = fault
    hub.cut["0.safetensors"] = 20_000
    calls = [f"hub_models.snapshot('someone/{number}', {COMMIT!r})" for number in range(len(faults))]
    found = ask(attempt(*calls))
    assert all(text.startswith("model 'someone/") and "\n" not in text for text in found)
    assert {"1", "4", "5"} <= {text[15] for text in found}  # huggingface_hub may try the others again by itself
    hub.faults.clear()
    code = f"import hashlib, os\npaths = [{', '.join(calls)}]\n"
    code += (
        "tell([hashlib.sha256((path / name).read_bytes()).hexdigest() for path in paths for name in os.listdir(path)])"
    )
    assert ask(code) == [[hashlib.sha256(content).hexdigest()] * len(faults)]


TASKS = """
from ccq_utils.data.tasks import load_task
for name in ("SciFact", "ArguAna"):
    task = load_task(TaskSpec(name=name.lower(), source=f"mteb:{name}", validation_queries=8), 1)
    tell([task.manifest(), task.exclude_self, task.documents["doc-007"], sorted(task.validation)])
"""


@pytest.mark.slow
def test_tasks_by_mteb_s_name_keep_its_rules(loaded, make_task):
    (scifact, excluded, text, validation), (arguana, own_excluded, *_) = loaded["TASKS"]
    whole = make_task(validation=frozenset(f"doc-{number:03d}" for number in range(10)))
    assert text == whole.documents["doc-007"]
    assert scifact["documents"] == len(whole.documents) + 1 and scifact["empty_documents"] == 1
    assert scifact["revision"] == "d56462d0e63a25450459c4f213e49ffdb866f7f9"
    assert (scifact["test_queries"], scifact["validation_queries"]) == (len(whole.query_ids("test")), 8)
    assert set(validation) <= whole.validation
    assert not excluded and own_excluded and arguana["validation_queries"] == 0


STREAM = f"""
from ccq_utils.data.corpora import load_corpora
spec = dict(source="hub:{WIKIPEDIA}", config="en", revision={COMMIT!r}, passages=200, pairs=100)
spec |= dict(calibration=256, validation=16)
"""


@pytest.mark.slow
def test_passages_are_streamed_no_further_than_needed_in_a_seeded_order(ask, hub):
    load = "tell(vars(load_corpora(TextSpec(**spec), {})))"
    first, second, other = ask(STREAM + "\n".join(load.format(seed) for seed in (1, 1, 2)))
    size = sum(path.stat().st_size for path in (hub.folder / "datasets" / WIKIPEDIA).rglob("*.parquet"))
    assert hub.sent < 3 * size / 2
    assert first == second != other
    assert (len(first["training"]), len(first["calibration"]), len(first["validation"])) == (200, 256, 16)
    assert len(first["pairs"]) >= 100 and first["pairs"][0][0].startswith("a title ")


@pytest.mark.slow
def test_what_cannot_be_had_is_named(ask):
    load, plain = "load_corpora(TextSpec(**spec | {}), 1)", 'HubModel(hub="someone/plain")'
    wanted = {
        f'hub_models.snapshot("someone/nothing", {COMMIT!r})': "model 'someone/nothing' is not on the hub",
        f"hub_models.snapshot({E5!r}, {OTHER!r})": f"model {E5!r} has no revision {OTHER}; copy a commit",
        f'hub_models.snapshot("someone/pickled", {COMMIT!r})': "no safetensors weights at revision",
        f'hub_models.modules(hub_models.snapshot("someone/plain", {COMMIT!r}), {plain})': "add pooling:",
        f"hub_models.pin({plain})": "add revision: COMMIT",
        'load_task(TaskSpec(name="x", source="mteb:SciFakt"), 1)': "mteb knows no task 'SciFakt'",
        'load_task(TaskSpec(name="x", source="mteb:Banking77Classification"), 1)': "Classification' is not retrieval",
        'load_task(TaskSpec(name="x", source="mteb:NFCorpus"), 1)': "'mteb/nfcorpus' of task 'NFCorpus' is not on the hub",
        load.format({"text_field": "body"}): "has no column 'body'; text_field may be: id, title, text",
        load.format({"config": "de"}): "'de' not found. Available: ['en']",
        load.format({"split": "dev"}): "train",
        load.format({"revision": OTHER}): f"data set {WIKIPEDIA!r} has no revision {OTHER}",
    }
    found = ask(STREAM + "from ccq_utils.data.tasks import load_task\n" + attempt(*wanted))
    for text, words in zip(found, wanted.values(), strict=True):
        assert words in text and "\n" not in text, text


MINI_PAPER = {
    "name": "mini-paper",
    "description": "the paper's models and tasks as the loopback hub has them",
    "models": [{"name": name.split("/")[1], "hub": name} for name in (E5, BGE, GTE, ARCTIC)],
    "larger": [{"name": "bge-base", "hub": LARGER}],
    "large_model": "bge-base",
    "max_members": 2,
    "tasks": [
        {"name": "scifact", "source": "mteb:SciFact", "validation_queries": 8},
        {"name": "arguana", "source": "mteb:ArguAna"},
    ],
    "training": {
        "source": f"hub:{WIKIPEDIA}", "config": "en", "revision": COMMIT,
        "passages": 100, "pairs": 100, "calibration": 256, "validation": 16,
    },
    "decoder": {"dims": 32, "stops": [8, 16, 32], "epochs": 2, "batch_size": 64, "ablation_epochs": 2},
    "resamples": 100,
    "seeds": 2,
}  # fmt: skip


STUDY = """
import numpy as np
from ccq_utils.study.study import Study
study = Study(Profile.model_validate(json.loads({profile!r})), "01", {output!r})
for name, model in study.models.items():
    card = model.card
    rows = [study.member_vectors(name, *which) for which in (["scifact"], ["arguana"], ["scifact", "test"])]
    tell([name, card["query_prompt"], card["document_prompt"], card["source"], [float(each.sum()) for each in rows]])
"""


@pytest.mark.slow
def test_a_study_of_a_paper_like_profile_loads_all_from_the_hub(loaded):
    found = {name: about for name, *about in loaded["STUDY"]}
    assert list(found) == [*(name.split("/")[1] for name in (E5, BGE, GTE, ARCTIC)), "bge-base"]
    assert found["e5-small-v2"][:2] == ["query: ", "passage: "]
    assert found["snowflake-arctic-embed-s"][0] == "query : "  # from the model's own files
    assert all(REVISIONS[name] in found[name.split("/")[1]][2] for name in (E5, BGE, GTE, ARCTIC))


def test_weights_that_came_damaged_are_removed_and_named(tmp_path, monkeypatch):
    (tmp_path / ("0" * 64)).write_text("damaged")
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "model.safetensors").symlink_to(tmp_path / ("0" * 64))
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path / "snapshot"))
    with pytest.raises(StudyError, match="'a/b': weights came damaged and were removed from the cache; run again"):
        snapshot("a/b", "c" * 40)
    assert not (tmp_path / ("0" * 64)).exists()


def test_shipped_names_are_those_with_a_builder():
    assert set(SHIPPED) == set(BUILDERS)


def test_what_mteb_records_of_a_model_is_looked_up_once(tmp_path, monkeypatch):
    given = "e5", HubModel(hub=E5), load_profile("paper"), Cache(tmp_path)
    first = from_hub(*given)
    monkeypatch.setattr("ccq_utils.models.hub_models.pin", None)
    again = from_hub(*given)
    assert (again.fingerprint, again.prompts, again.licence) == (first.fingerprint, first.prompts, first.licence)
    assert first.prompts == {"query": "query: ", "document": "passage: "} and REVISIONS[E5] in first.source


def test_the_paper_profile_leaves_no_model_unpinned_and_has_published_scores():
    profile = load_profile("paper")
    known = pd.read_csv(paths.ROOT / "data" / "published_ndcg.csv").set_index("model")
    for spec in profile.hub_models.values():
        assert len(pin(spec).revision) == 40 and spec.hub in known.index
    assert all(spec.source.partition(":")[2] in known.columns for spec in profile.tasks)
    assert pin(profile.hub_models["e5-small-v2"]).query_prompt == "query: "
