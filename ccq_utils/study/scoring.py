"""Methods scored on every task, fitted on general text or on each task's own corpus, and never twice.

What a method scores depends on the vectors, on what it was fitted on, on its settings and on the code of the codecs: the
cache keeps per-query scores by all of these, so that a run that was killed goes on from them, and a change of the analysis
alone fits nothing anew.
"""

import importlib.metadata
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from statistics import mean

import numpy as np

from ccq_utils.codecs import byte_blocks as blocks
from ccq_utils.codecs import ideal, peers, quantizer
from ccq_utils.codecs import percentile as codecs
from ccq_utils.codecs.decoder import Decoder, fit_pca, random_rotation
from ccq_utils.common.cache import file_digest, fingerprint
from ccq_utils.study import metrics as evaluate
from ccq_utils.study.retention import Side, codec_scores, fitted_codecs
from ccq_utils.study.study import Study

PLACES = ("general text", "own corpus")


@dataclass(frozen=True, eq=False)
class Fitting:
    """What a method may be fitted on for one task, no query, no judgement; without calibration it is the corpus itself."""

    training: np.ndarray
    calibration: np.ndarray | None = None

    @cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) of the vectors."""
        return fingerprint(self.training, *([] if self.calibration is None else [self.calibration]))

    def fit(self, codec):
        """Fit a codec on it, and return it."""
        return codec.fit(self.training, self.calibration)


def what_to_fit_on(study: Study, found: dict[str, Side], members=None, weights=None) -> dict[tuple, Fitting]:
    """(place, task) -> what to fit on; tasks with the same documents share the same object."""
    general = Fitting(*(study.joined(part, None, members, weights) for part in ("training", "calibration")))
    own, shared = {}, {}
    for task, side in found.items():
        texts = tuple(study.tasks[task].documents.items())
        own[task] = shared.setdefault(hash(texts), Fitting(side.documents))
    return {(place, task): general if place == PLACES[0] else own[task] for place in PLACES for task in found}


def score_method(study: Study, found: dict[str, Side], fittings: dict, place: str, key: dict, fit: Callable):
    """nDCG@10 per task, ``(seeds, queries)``, documents coded and queries in float, and bytes per vector
    (their mean where corpora differ).

    Parameters
    ----------
    found : the tasks' vectors
    fittings : what ``what_to_fit_on`` gives
    key : all that ``fit`` depends on beside the vectors and the profile's seeds, JSON-able
    fit : called once per distinct ``Fitting``, gives codecs, one per seed
    """
    values, sizes, seeds = {}, [], [study.profile.seed, study.profile.seeds]
    for fitting in {id(fittings[place, task]): fittings[place, task] for task in found}.values():
        part = {task: side for task, side in found.items() if fittings[place, task] is fitting}

        def make(fitting=fitting, part=part):
            codecs = fit(fitting)
            scored = {f"task {task}": scores for task, scores in codec_scores(part, codecs).items()}
            return scored | {"bytes": np.array([codecs[0].bytes_per_vector])}

        vectors = {"fitted": fitting.fingerprint, "sides": {task: side.fingerprint for task, side in part.items()}}
        held = study.cache.arrays("scores", {"key": key, "seeds": seeds, **vectors, **_code()}, make)
        sizes.append(held["bytes"][0].item())
        values |= {task: held[f"task {task}"] for task in part}
    return {task: values[task] for task in found}, mean(sizes)


@cache
def _code():
    """Digests of the code and versions of the libraries that scores depend on."""
    modules = [file_digest(Path(module.__file__)) for module in (blocks, codecs, evaluate, ideal, peers, quantizer)]
    functions = [inspect.getsource(part) for part in (Decoder, fit_pca, random_rotation, fitted_codecs, codec_scores)]
    versions = [
        importlib.metadata.version(name) for name in ("faiss-cpu", "numpy", "torch", "sentence-transformers", "mteb")
    ]
    return {"code": modules + functions, "versions": versions}
