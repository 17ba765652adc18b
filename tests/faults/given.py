"""What is given to a command: profiles, parameters, damaged files, saved models of strangers."""

import json
import os
import pickle
import resource
import shutil
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import yaml
from common import PROFILE, REFUSED, RIGHT, SEED, Case, Process, content, here, one_line, refusal
from kills import commands


def cases(home):
    """All of this file."""
    yield from profiles(home)
    yield from damage(home)
    for name, path, change, resealed in strangers(home):
        yield Case("strangers' models", name, partial(stranger, home, path, change, resealed))


def profiles(home):
    """YAML files that are wrong in one thing."""
    plain = yaml.safe_load(PROFILE)
    bad = {
        "seed": (-1, 2**70, 1.5, "abc", None, True, [1]), "budgets": ([], None, [0], [-5], "64", [1.5], {}),
        "name": ("", "a/b", "../../x", "my study", 2024, None, "default", "tiny", "Default", "x" * 99, ".", ".."),
        "models": ([], None, "lexical", ["lexical"], ["lexical", "lexical"], ["lexical", "bert"], [1, 2], [{"name": "e5"}],
                   [{"hub": "a/b"}]),
        "tasks": ([], None, {"name": "x"}, ["beir:x"]), "large_model": ("bert", None, 1), "resamples": (0, "many"),
        "seeds": (0, 1), "bootstrap_seed": (-3,), "max_members": (0, 1), "precision": ("float16", 32),
        "hub_models": ([{"hub": "a/b"}], None, {"e5": {}}),
        "lexical": ({"ngrams": [5, 3]}, {"ngrams": [0, 0]}, {"ngrams": [1]}, {"dims": 0}, {"dim": 64}, []),
        "static": ({"epochs": 0}, {"learning_rate": 0}, {"learning_rate": float("nan")}, {"batch_size": "x"}),
        "decoder": ({"stops": [16, 8]}, {"stops": []}, {"stops": [8, 8]}, {"dims": 8, "stops": [16]},
                    {"learning_rate": float("inf")}),
        "open_questions": ({"finetune_epochs": [5, 1]}, {"finetune_epochs": []}, {"pairs": 1}, {"finetuned": {"name": "x"}}),
        "training": ({"passages": 1}, {"source": "jsonl"}, {"source": "hub:a/b"}, {"source": "csv:x"}, None, "docstrings",
                     {"min_words": 60, "max_words": 20}),
        "description": (None, 5), "modles": (["lexical"],), "workers": (3,),
    }  # fmt: skip
    for key, values in bad.items():
        for value in values:
            yield _profile(home, f"{key}: {value!r:.40}", yaml.safe_dump(plain | {key: value}), (key,))
    for key in ("name", "description", "models", "large_model", "tasks", "training"):
        yield _profile(
            home, f"no {key}", yaml.safe_dump({name: plain[name] for name in plain if name != key}), (f"'{key}'",)
        )
    task = plain["tasks"][0]
    for key, value in {
        "name": "a/b",
        "source": "beir",
        "libraries": "networkx",
        "max_documents": 0,
        "validation_queries": -1,
        "max_docs": 5,
    }.items():
        yield _profile(
            home, f"tasks.0.{key}: {value!r}", yaml.safe_dump(plain | {"tasks": [task | {key: value}]}), (key,)
        )
    for part in ("training", "short"):
        yield _profile(
            home, f"a task's name is {part!r}", yaml.safe_dump(plain | {"tasks": [task | {"name": part}]}), (part,)
        )
    yield _profile(home, "two tasks of one name", yaml.safe_dump(plain | {"tasks": [task, task]}), ("twice",))
    bomb = "\n".join([f"a{at}: &a{at} [{', '.join([f'*a{at - 1}'] * 9) if at else 'x'}]" for at in range(9)])
    for name, text, words in (
        ("a key twice", PROFILE + "seed: 1\nseed: 2\n", ("'seed'", "twice")),
        ("a key twice below", PROFILE.replace("dims: 64", "dims: 64, dims: 32"), ("'dims'", "twice")),
        ("not closed", PROFILE + "x: [1, 2\n", ("YAML",)), ("a tab", PROFILE + "\tx: 1\n", ("YAML",)),
        ("a Python object", PROFILE + "x: !!python/object/apply:os.system [ls]\n", ("YAML",)),
        ("a nest of anchors", bomb, ("a0",)), ("a list", "- 1\n", ("name",)), ("nothing", "", ("name",)),
        ("a number", "5", ("name",)),
        ("a whole-number key", PROFILE + "1: x\n", ("'1'",)),
        ("two documents", PROFILE + "---\n" + PROFILE, ("YAML",)), ("NUL", PROFILE + "\0", ("YAML",)),
        ("UTF-16", PROFILE.encode("utf-16"), ("YAML",)), ("Latin-1", PROFILE.encode() + b"# \xfc\n", ("YAML",)),
    ):  # fmt: skip
        yield _profile(home, name, text, words)
    for name, text in (
        ("plain", PROFILE),
        ("a mark", "\ufeff" + PROFILE),
        ("CRLF", PROFILE.replace("\n", "\r\n")),
        ("comments", "# \u00e9\n" + PROFILE),
    ):
        yield Case("profiles", name, partial(_read_profile, text))
    for name, call, words in _parameters(home):
        yield Case("parameters", name, lambda folder, call=call, words=words: refusal(call, words))


def _profile(home, name, text, words):
    def run(folder):
        (folder / "own.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        code, said, _ = here("run", "--profile", folder / "own.yaml", "--out", folder / "out")
        if (folder / "out").exists():
            return "it began to run"
        return one_line(said, ("own.yaml", *words)) if code else "it ended with exit code 0"

    return Case("profiles", name, run)


def _read_profile(text, folder):
    from ccq_utils.data.profile import load_profile

    (folder / "own.yaml").write_bytes(text.encode())
    found = load_profile(folder / "own.yaml")
    return (
        RIGHT
        if (found.name, found.models, found.lexical.dims) == ("faults", ["lexical", "wordllama"], 64)
        else str(found)
    )


def _parameters(home):
    """What papermill can put into a notebook's parameters, given to what the notebooks call with them."""
    from ccq_utils.data.profile import load_profile
    from ccq_utils.data.text_files import read_folder, read_texts
    from ccq_utils.deploy.pipeline import CompressedModel
    from ccq_utils.study.study import Study

    for value in (7, ["x"], {"a": 1}, 1.5, True, b"x"):
        yield f"output={value!r}", partial(Study, "tiny", "01", value), ("output",)
        yield f"profile={value!r}", partial(Study, value, "01"), ("profile",)
        yield f"folder={value!r}", partial(read_folder, value), ("folder",)
        yield f"texts={value!r}", partial(read_texts, value), ("texts",)
    for value in ("99", "1", 1, ["01"], None, "select"):
        yield f"step={value!r}", partial(Study, "tiny", value), ("step",)
    for value in ("nope", "../tiny", "x.yaml", ""):
        yield f"profile={value!r}", partial(Study, value), ("profile",)
    yield "profile=None", partial(load_profile, None), ("profile",)
    yield "a folder that is not there", partial(read_folder, "/nowhere"), ("/nowhere",)
    model = CompressedModel.load(home.model, "cpu")
    for name, value in {
        "a dict": {"a": "x"},
        "a string": "some words",
        "an array": np.array(["x"]),
        "bytes": b"x",
        "nothing": [],
        "None": [None],
        "a number": ["x", 5],
        "spaces": [" "],
    }.items():
        yield f"encode_document of {name}", partial(model.encode_document, value), ("string",)
        yield f"fit on {name}", partial(model.fit, value), ("string",)
    for name, texts in {
        "2 equal": ["x y"] * 2,
        "4 equal": ["x y"] * 4,
        "10,000 equal": ["x y"] * 10_000,
        "9,999 equal and one": ["x y"] * 9999 + ["z"],
        "one": ["x"],
    }.items():
        yield (
            f"fit on {name} texts",
            partial(model.fit, texts),
            (f"of {len(texts)} texts are different", "needs at least"),
        )
    for k in (0, -1):
        yield f"k={k}", partial(model.search, "x", model.load_codes(home.codes)[0], k), ("k",)


def damage(home):
    """Bytes that changed on disk: told and made again, or refused; never read as something else."""
    rng = np.random.default_rng([SEED, 2])
    for name in ("codes", "part", "parts", "index", "model", "cache"):
        for way in ("a byte", "a byte", "a byte", "cut", "empty", "zeros"):
            yield Case("damaged files", f"{name}: {way}", partial(_damaged, home, name, way, rng.random()))


def _damaged(home, name, way, share, folder):
    place = {"codes": home.codes, "index": home.index, "model": home.model}.get(name)
    if name in ("part", "parts"):
        code, said, _ = here(*[each if each != "out/" else f"{folder}/out/" for each in commands(home)["shards"]])
        meant = content(folder / "out")
        victim = folder / "out" / ("part-000007.safetensors" if name == "part" else "_parts.json")
    elif name == "cache":
        return _damaged_cache(way, share, folder)
    elif name == "model":
        shutil.copytree(place, folder / "model")
        files = sorted(path for path in (folder / "model").rglob("*") if path.is_file() and path.name != "README.md")
        victim = files[int(share * len(files))]
    else:
        shutil.copy(place, folder / place.name)
        shutil.copy(f"{home.index}.json", folder)
        victim = folder / place.name
    _hurt(victim, way, share)
    model = folder / "model" if name == "model" else home.model
    codes = folder / ("out" if name in ("part", "parts") else home.index.name if name == "index" else home.codes.name)
    codes = home.codes if name == "model" else codes
    code, said, _ = here("search", model, codes, "rain", "-k", "3")
    outcome = one_line(said) if code else "it was read"
    if name in ("part", "parts") and outcome == REFUSED:
        code, said, _ = here(*[each if each != "out/" else f"{folder}/out/" for each in commands(home)["shards"]])
        return RIGHT if code == 0 and content(folder / "out") == meant else f"not made again: {said[-300:]}"
    return outcome


def _damaged_cache(way, share, folder):
    from ccq_utils.common.cache import Cache

    def get():
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            found = Cache(folder).arrays("kind", {"a": 1}, lambda: {"x": np.arange(99.0)})["x"]
        return np.array_equal(found, np.arange(99.0)), len(told)

    get()
    _hurt(next(folder.rglob("arrays.safetensors")), way, share)
    return RIGHT if get() == (True, 1) and get() == (True, 0) else "the damage was read"


def _hurt(path, way, share):
    held = bytearray(path.read_bytes())
    if way == "a byte":
        held[int(share * len(held))] ^= 0x5A
    path.write_bytes({"a byte": held, "cut": held[: len(held) // 2], "empty": b"", "zeros": bytes(len(held))}[way])


class Bomb:
    """What a pickle of a stranger can be."""

    def __reduce__(self):
        return (open, ("run", "w"))


def strangers(home):
    """Saved models from whom one does not know: refused, nothing run, nothing allocated, nothing read outside."""
    found = [path.relative_to(home.model) for path in home.model.rglob("*.safetensors")]
    for path in found:
        yield from _stranger(f"a terabyte in the header of {path}", path, _huge)
        yield from _stranger(f"a pickle named {path}", path, lambda file: file.write_bytes(pickle.dumps(Bomb())))
        yield from _stranger(
            f"a header of 2**62 bytes in {path}",
            path,
            lambda file: file.write_bytes((2**62).to_bytes(8, "little") + b"{}"),
        )
        for target in ("/etc/passwd", "/dev/zero", "../../../secret"):
            yield from _stranger(f"{path} is a link to {target}", path, partial(_link, target))
    for path in sorted(home.model.rglob("modules.json")):
        path = path.relative_to(home.model)
        for kind in (
            "os.system",
            "builtins.exec",
            "sentence_transformers.util.import_from_string",
            "custom.Module",
            "torch.nn.Linear",
            "ccq_utils.cli.main",
            "",
            "ccq_utils.deploy.pipeline.CompressedModel",
            5,
        ):
            yield from _stranger(f"class {kind!r} in {path}", path, partial(_entry, type=kind))
        for place in ("../other", "/etc", "0_Concat/../..", "a/../../b"):
            yield from _stranger(f"path {place!r} in {path}", path, partial(_entry, path=place))
    changed = [("modules.json", held) for held in ("{}", "[1]", "[{}]", "[]", "[" * 5000)]
    other = ("[]", '{"similarity_fn_name": "x"}', '{"truncate_dim": "x"}', '{"prompts": [1]}')
    changed += [("config_sentence_transformers.json", held) for held in other]
    for path, held in ((Path(path), held) for path, held in changed):
        yield from _stranger(f"{held:.40} in {path}", path, lambda file, held=held: file.write_text(held))
    for names in ([".", "static"], ["..", "static"], ["../../x", "static"], ["/etc", "x"], ["a"], [1, 2], "ab", None):
        yield from _stranger(f"names of members {names!r}", Path("0_Concat/config.json"), partial(_edit, names=names))
    for path, changes in (
        (Path("codec/decoder.json"), {"in_dims": 2**20, "out_dims": 2**20}),
        (Path("codec/codec.json"), {"kind": "os.system"}),
        (Path("codec/codec.json"), {"settings": {"dims": 2**40}}),
    ):
        yield from _stranger(f"{changes} in {path}", path, partial(_edit, **changes))
    for name in ("../secret", "/etc/passwd", "a/../../secret"):
        yield from _stranger(
            f"a list of files that names {name}", Path("pipeline.json"), partial(_edit, files={name: "0" * 64})
        )
    yield from _stranger("a list of files that is none", Path("pipeline.json"), lambda file: file.write_text("[1]"))
    yield from _stranger("no list of files", Path("pipeline.json"), lambda file: file.unlink())


def _stranger(name, path, change):
    for resealed in (False, True):
        yield f"{name}{', sums made right' if resealed else ''}", path, change, resealed


def stranger(home, path, change, resealed, folder):
    """Load the changed copy, in a fork that may not take much memory."""
    from ccq_utils.common.cache import file_digest

    shutil.copytree(home.model, folder / "model")
    (folder / "secret").write_text("secret")
    change(folder / "model" / path)
    manifest = folder / "model" / "pipeline.json"
    if resealed and manifest.is_file() and path.name != "pipeline.json":
        held = json.loads(manifest.read_text())
        held["files"] = {
            name: file_digest(folder / "model" / name)
            for name in held["files"]
            if (folder / "model" / name).resolve().is_relative_to(folder / "model")
        }
        manifest.write_text(json.dumps(held))

    def little():
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**31, used + 2**31))

    found = []
    for model in (folder / "model", home.model):
        out = os.open(folder / "found", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        code, said = Process(folder, "search", model, home.codes, "rain", before=little, out=out).wait()
        found.append((folder / "found").read_text())
        os.close(out)
        if code:
            break
    if (folder / "run").exists():
        return "code of the stranger was run"
    return one_line(said) if code else RIGHT if found[0] == found[1] else "it was loaded and finds something else"


def _huge(file):
    header = json.dumps({"x": {"dtype": "F32", "shape": [2**19, 2**19], "data_offsets": [0, 2**40]}}).encode()
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))


def _link(target, file):
    file.unlink()
    file.symlink_to(target)


def _entry(file, **changes):
    entries = json.loads(file.read_text())
    entries[-1] |= changes
    file.write_text(json.dumps(entries))


def _edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
