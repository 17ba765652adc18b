"""Compressed concatenation of small embedding models: the shared code of the notebooks, and a model to take home.

>>> from ccq_utils import CompressedModel
>>> model = CompressedModel.from_profile("default")
>>> codes = model.fit_encode_document(["one text", "another", "..."])
>>> scores, numbers = model.search("What do I want to know?", codes, k=5)
"""

import importlib

__version__ = "0.1.0"
__all__ = ["CompressedModel", "Concat", "Decoder", "PercentileQuantizer", "Study", "StudyError", "load_model"]

_HOMES = {"CompressedModel": "deploy.pipeline", "Concat": "deploy.modules", "Decoder": "codecs.decoder"}
_HOMES |= {"PercentileQuantizer": "codecs.quantizer", "Study": "study.study", "StudyError": "common.errors"}
_HOMES["load_model"] = "deploy.modules"


def __getattr__(name: str):
    """Import a public name when it is first asked for: torch alone takes seconds."""
    if name not in _HOMES:
        raise AttributeError(f"module 'ccq_utils' has no attribute {name!r}")
    return getattr(importlib.import_module(f"ccq_utils.{_HOMES[name]}"), name)
