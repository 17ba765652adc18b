"""Saved models that hold modules of this package, loaded without trusting any other code.

``SentenceTransformer(folder)`` asks to trust remote code for every module outside its own package, installed ones included.
"""

import importlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import import_module_class, load_file_path

from ccq_utils.common.errors import StudyError

OWN = (
    "ccq_utils.deploy.modules.Concat",
    "ccq_utils.deploy.modules.Decoder",
    "ccq_utils.models.lexical.LexicalEncoder",
    "ccq_utils.deploy.coded.Coded",
)
"""Classes that ``load_model`` loads, beside those of sentence-transformers."""


def load_model(name_or_path: str | Path, device: str | None = None, **hub) -> SentenceTransformer:
    """A saved model of sentence-transformers' modules and of ours, without trusting any other code.

    Parameters
    ----------
    name_or_path : a folder or a hub id
    device : as of SentenceTransformer; chosen by it where None
    hub : ``token``, ``cache_folder``, ``revision``, ``local_files_only``

    Raises
    ------
    StudyError : no saved model there, a file that is missing or cannot be read, a module of any other package.
    """
    from ccq_utils.deploy.modules import Concat, ConcatTransformer  # which loads its members by this function

    name = str(name_or_path)
    config = _read_json(name, "config_sentence_transformers.json", hub)
    modules, module_kwargs = {}, {}
    for entry in _read_json(name, "modules.json", hub):
        module_class, folder = _module_class(name, entry["type"]), entry["path"]
        if Path(folder).is_absolute() or ".." in Path(folder).parts:
            raise StudyError(f"model {name}: module path {folder!r} leads out of its folder")
        try:
            options = dict.fromkeys(("model_kwargs", "processor_kwargs", "config_kwargs"))
            modules[entry["name"]] = module_class.load(
                name, subfolder=folder, **hub, trust_remote_code=False, backend="torch", **options
            )
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            problem = " ".join(str(error).split())[:200]
            raise StudyError(f"model {name}: {folder or 'its main folder'} cannot be read ({problem})") from error
        module_kwargs[entry["name"]] = entry.get("kwargs", [])
    settings = {
        key: config.get(key) for key in ("prompts", "default_prompt_name", "similarity_fn_name", "truncate_dim")
    }
    kind = ConcatTransformer if any(isinstance(module, Concat) for module in modules.values()) else SentenceTransformer
    model = kind(modules=list(modules.values()), device=device, **settings)
    model.module_kwargs = {str(number): given for number, given in enumerate(module_kwargs.values()) if given} or None
    return model


def _read_json(name, file, hub):
    try:
        path = load_file_path(name, file, **hub)
        if path is None:
            raise StudyError(f"model {name}: {file} is missing; give a folder that save_pretrained wrote, or a hub id")
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:  # not JSON, or not UTF-8, or no hub id
        raise StudyError(f"model {name}: {file} cannot be read ({error})") from error


def _module_class(name, reference):
    if reference in OWN:
        package, _, kind = reference.rpartition(".")
        return getattr(importlib.import_module(package), kind)
    if not reference.startswith("sentence_transformers."):
        raise StudyError(
            f"model {name}: module {reference!r} is neither of sentence-transformers nor of ccq_utils; if you trust it, use"
            " SentenceTransformer(..., trust_remote_code=True)"
        )
    found = import_module_class(reference)
    if not (isinstance(found, type) and issubclass(found, torch.nn.Module)):
        raise StudyError(f"model {name}: {reference!r} is no module")
    return found


def hub_options(options: dict) -> dict:
    """Those of a module's ``load`` options that say where on the hub a file is."""
    return {key: options[key] for key in ("token", "cache_folder", "revision", "local_files_only") if key in options}
