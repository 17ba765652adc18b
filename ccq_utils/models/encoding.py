"""Faster ways to run the transformers in a SentenceTransformer on a processor, with the library's own way to fall back on.

A way is a twin of the model in which only the transformers run otherwise: tokenizers, prompts, pooling and all that follows
stay as they are, in float32. Which way is fastest depends on the processor, so ``auto`` tries them on a sample of the texts.
"""

import copy
import importlib.util
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from torch import nn

from ccq_utils.common.errors import StudyError
from ccq_utils.deploy.modules import Concat, prompt_of

TOKENS = 1024
"""Tokens per batch and thread, padding included: the activations of a small transformer then stay in a core's cache."""
SAMPLE, WORTH, BATCH = 64, 512, 32
"""Texts of a trial; texts from which on ``auto`` tries, as fewer take less time than a trial; texts per plain batch."""
ONNX = ("onnx", "onnxscript", "onnxruntime")
LOWEST = 0.999
"""Cosine to the plain vector that every text of a trial must keep. Measured with MiniLM on the default profile's 3,800
documents and 900 validation queries, lowest cosine and change of nDCG@10 (summary, See Also): bf16 0.9999, 0.0 % and -0.2 %;
int8 0.985, -0.7 % and -1.1 %; int8 but for the widest matrices 0.991, -0.8 % and -0.3 %; int8 with one scale per matrix
0.849, -1.7 % and -0.5 %. What may be lost is 0.5 %, and nothing was measured between 0.991 and 0.9999."""


@dataclass(frozen=True)
class Choice:
    """The way that was taken: its ``speed_up`` over plain and ``lowest_cosine`` to plain in the trial, and what became of the
    other ways (``passed_over``: way -> reason).
    """

    way: str = "plain"
    speed_up: float = 1.0
    lowest_cosine: float = 1.0
    passed_over: dict[str, str] | None = None

    def __str__(self):
        others = "".join(f"; {way}: {reason}" for way, reason in (self.passed_over or {}).items())
        return f"{self.way}, {self.speed_up:.1f} times as fast as plain, lowest cosine {self.lowest_cosine:.4f}{others}"


def check_way(way: str) -> str:
    """The way's name; raises ``StudyError`` with the accepted ones where it is none."""
    if way not in WAYS:
        raise StudyError(f"unknown encoding {way!r}; accepted: {', '.join(WAYS)}")
    return way


def offered() -> list[str]:
    """The ways that ``auto`` tries on this machine; another one can still be asked for by name.

    ``bf16`` needs a processor that multiplies bfloat16, as others emulate it slowly. ``int8`` needs onnxruntime and dot
    products of bytes; its export takes some ten seconds, and where there is bf16 that was faster and closer.
    """
    able = {name for name, value in torch.cpu.get_capabilities().items() if value is True}
    ways = ["batched"]
    if able & {"amx_bf16", "avx512_bf16", "arm_bf16", "bf16"}:
        ways.append("bf16")
    elif able & {"avx512_vnni", "avx_vnni", "arm_dot", "dot"} and all(map(_installed, ONNX)):
        ways.append("int8")
    return ways


def machine() -> dict:
    """All that a choice depends on but the model and the texts."""
    packages = {name: version(name) if _installed(name) else None for name in ("torch", *ONNX)}
    return {"processor": {**torch.cpu.get_capabilities()}, "threads": torch.get_num_threads(), "packages": packages}


class Encoder:
    """A model and the way it is run.

    Parameters
    ----------
    model : on the CPU and with transformers (alone or as members of a ``Concat``), or it is run the plain way
    way : ``plain`` (the model's own ``encode``); ``batched``, float32 in batches of ``TOKENS`` per thread; ``bf16`` and
        ``int8``, batched as well; ``auto``, the fastest of these on this machine that keeps cosines of ``LOWEST``
    batch_size : texts per batch of the plain way

    Attributes
    ----------
    choice : what was chosen, or set to what was chosen before; None before there were texts to choose by

    Raises
    ------
    StudyError : an unknown way.
    """

    def __init__(self, model: SentenceTransformer, way: str = "auto", batch_size: int = BATCH):
        self.model, self.asked, self.batch_size = model, check_way(way), batch_size
        self.choice: Choice | None = None
        self._twin = None

    def choose(self, texts: list[str], task: str | None = None, **options) -> Choice:
        """The way for these texts: tried on a sample of them once, then kept. Options as of ``encode``."""
        if self.choice is not None:
            return self.choice
        if self.asked == "plain" or (self.asked == "auto" and len(texts) < WORTH):
            return Choice()
        if self.model.device.type != "cpu" or not is_transformer(self.model):
            self.choice = Choice(passed_over={self.asked: "no transformer on the CPU"})
        else:
            picked = np.random.default_rng(0).permutation(len(texts))[:SAMPLE]
            self.choice = self._tried([texts[place] for place in picked], task, options)
        return self.choice

    def encode(self, texts: list[str], task: str | None = None, **options) -> np.ndarray:
        """Vectors ``(len(texts), dims) float32`` in the order of the texts.

        Parameters
        ----------
        task : ``query`` and ``document`` for the model's ``encode_query`` and ``encode_document``
        options : of ``SentenceTransformer.encode``, ``prompt`` for example
        """
        choice = self.choose(texts, task, **options)
        if choice.way == "plain" or not texts:
            return self._plain(texts, task, options)
        if self._twin is None:
            self._twin = faster(self.model, choice.way)
        return batched(self._twin, texts, task, **options)

    def _plain(self, texts, task, options):
        found = _encode(self.model, task)(texts, batch_size=self.batch_size, show_progress_bar=False, **options)
        return np.asarray(found, dtype=np.float32)

    def _tried(self, sample, task, options):
        reference, plain = _timed(lambda texts: self._plain(texts, task, options), sample)
        best, passed_over = Choice(), {}
        for way in offered() if self.asked == "auto" else [self.asked]:
            try:
                twin = faster(self.model, way)
                vectors, seconds = _timed(lambda texts, twin=twin: batched(twin, texts, task, **options), sample)
                found = Choice(way, plain / seconds, lowest_cosine(vectors, reference))
            except Exception as error:  # whatever goes wrong in another library, the plain way is there
                passed_over[way] = f"failed ({type(error).__name__}: {str(error).strip()[:120]})"
                continue
            if self.asked == "auto" and not found.lowest_cosine >= LOWEST:
                passed_over[way] = f"lowest cosine {found.lowest_cosine:.4f}, below {LOWEST}"
            elif self.asked == "auto" and found.speed_up <= best.speed_up:
                passed_over[way] = f"{found.speed_up:.1f} times as fast as plain"
            else:
                best, self._twin = found, twin
        if self.asked in passed_over:
            warnings.warn(f"encoding {self.asked}: {passed_over[self.asked]}; plain is used", stacklevel=4)
        elif not best.lowest_cosine >= LOWEST:
            warnings.warn(f"encoding {best}: asked for by name, and not what auto would accept", stacklevel=4)
        return Choice(best.way, best.speed_up, best.lowest_cosine, passed_over)


def faster(model: SentenceTransformer, way: str) -> SentenceTransformer:
    """A twin of a model in which transformers run in a way; it shares all weights that the way does not change.

    Raises
    ------
    StudyError : an unknown way, or ``int8`` without the extra ``onnx``.
    """
    if way not in FORWARDS:
        raise StudyError(f"unknown way {way!r} to run a transformer; accepted: {', '.join(FORWARDS)}")
    return _twin(model, FORWARDS[way])


def batched(model: SentenceTransformer, texts: list[str], task: str | None = None, **options) -> np.ndarray:
    """As ``Encoder.encode``, by a model as it is, in batches of ``TOKENS`` per thread."""
    reader = _readers(model)[0]
    prompt = options.get("prompt") or prompt_of(reader, task) or ""
    counted = reader[0].tokenizer([prompt + text for text in texts], truncation=True, max_length=reader.max_seq_length)
    found = None
    for rows in token_batches([len(ids) for ids in counted["input_ids"]], TOKENS * torch.get_num_threads()):
        batch = [texts[row] for row in rows]
        vectors = _encode(model, task)(batch, batch_size=len(batch), show_progress_bar=False, **options)
        if found is None:
            found = np.empty((len(texts), vectors.shape[1]), dtype=np.float32)
        found[rows] = vectors
    return found


def token_batches(lengths: list[int], budget: int) -> Iterator[np.ndarray]:
    """Places of texts in batches, longest texts first: number of texts times longest at most ``budget``, or one text."""
    order, start = np.argsort(-np.asarray(lengths), kind="stable"), 0
    while start < len(order):
        stop = start + max(1, budget // max(1, lengths[order[start]]))
        yield order[start:stop]
        start = stop


def is_transformer(model: SentenceTransformer) -> bool:
    """Whether there is anything in a model that can be run in another way: a transformer, or a concat with one."""
    return bool(_readers(model))


def lowest_cosine(vectors: np.ndarray, reference: np.ndarray) -> float:
    """The lowest cosine between rows of two arrays; NaN where a vector has no direction."""
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(reference, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(((vectors * reference).sum(axis=1) / norms).min())


def _encode(model, task):
    return {"query": model.encode_query, "document": model.encode_document}.get(task, model.encode)


def _timed(encode, texts):
    """What ``encode`` makes of the texts, and the seconds of the faster of two runs after one that warms up."""
    encode(texts[:2])
    taken = []
    for _ in range(2):
        started = time.perf_counter()
        found = encode(texts)
        taken.append(time.perf_counter() - started)
    return found, min(taken)


def _readers(model):
    """The SentenceTransformers that begin with a transformer: the model or members of its ``Concat``."""
    if isinstance(model[0], Concat):
        return [reader for member in model[0].members for reader in _readers(member)]
    return [model] if isinstance(model[0], Transformer) else []


def _twin(module, forward_of: Callable):
    twin = copy.copy(module)
    if isinstance(module, Transformer):
        twin.forward = forward_of(module)
    else:
        twin._modules = {name: _twin(child, forward_of) for name, child in module._modules.items()}
    return twin


def _bf16(transformer):
    """Weights in bfloat16 (autocast would cast them anew in each batch); what comes out is float32 again."""
    half = copy.deepcopy(transformer).to(torch.bfloat16)

    def forward(features, **kwargs):
        features = half(features, **kwargs)
        features[half.module_output_name] = features[half.module_output_name].float()
        return features

    return forward


class _Graph(nn.Module):
    """Token ids and attention mask -> what the transformer makes of them."""

    def __init__(self, transformer):
        super().__init__()
        self.transformer = transformer

    def forward(self, ids, mask):
        features = self.transformer({"input_ids": ids, "attention_mask": mask})
        return features[self.transformer.module_output_name]


def _int8(transformer):
    """Dynamic quantization by onnxruntime: weights with a scale per channel, activations scaled as they come."""
    for package in ONNX:
        if not _installed(package):
            raise StudyError(f"package {package!r} is not installed; run: pip install -e '.[onnx]'")
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from ccq_utils.deploy.onnx_export import write_graph

    tokens = transformer.tokenizer(["two words", "three more words"], padding=True, return_tensors="pt")
    given = (tokens["input_ids"], tokens["attention_mask"])
    shape = {0: torch.export.Dim("texts", min=1), 1: torch.export.Dim("tokens", min=1, max=transformer.max_seq_length)}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as scratch:
        exported, small = Path(scratch) / "float.onnx", Path(scratch) / "int8.onnx"
        write_graph(_Graph(transformer), given, ["ids", "mask"], "tokens", (shape, shape), exported)
        quantize_dynamic(
            exported, small, per_channel=True, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul"]
        )
        session = onnxruntime.InferenceSession(small.read_bytes(), options, providers=["CPUExecutionProvider"])

    def forward(features, **kwargs):
        given = {"ids": features["input_ids"].numpy(), "mask": features["attention_mask"].numpy()}
        return features | {transformer.module_output_name: torch.from_numpy(session.run(None, given)[0])}

    return forward


def _installed(package):
    return importlib.util.find_spec(package) is not None


FORWARDS = {"batched": lambda transformer: transformer.forward, "bf16": _bf16, "int8": _int8}
WAYS = ("plain", "auto", *FORWARDS)
"""What ``encoding`` of a profile and ``--encoding`` take."""
