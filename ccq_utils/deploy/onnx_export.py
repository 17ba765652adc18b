"""The pipeline for browsers and small devices: ONNX graphs of the codec, of the query's projection, and of the whole where
all members are made of tensors. Needs the extra ``onnx`` (``pip install -e '.[onnx]'``).

Tokenizers stay outside: each member reads token ids and an attention mask. Codes of byte blocks are the nearest centroids,
which is what a codec does that was not fitted on the corpus itself.
"""

import importlib.util
import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from torch import nn
from torch.nn import functional

from ccq_utils.codecs.byte_blocks import BlockCodec
from ccq_utils.codecs.files import require_fit
from ccq_utils.codecs.percentile import PercentileCodec
from ccq_utils.common.cache import writing_to
from ccq_utils.common.errors import StudyError
from ccq_utils.deploy.modules import prompt_of

OPSET = 20
"""Of the exported graphs; onnxruntime 1.17 (2024) and newer run it, onnxruntime-web included."""

OUTPUTS = {"encode": "codes", "project": "projected", "decode": "values"}


class PercentileGraph(nn.Module):
    """Concat vectors ``(n, D)`` -> packed codes ``(n, bytes) uint8``; ``project`` gives the values before the buckets."""

    def __init__(self, codec: PercentileCodec):
        super().__init__()
        self.decoder, self.dims, self.bits = codec.decoder_, codec.dims, codec.bits
        self.rotation = nn.Buffer(torch.from_numpy(codec.rotation_)) if codec.rotate else None
        self.thresholds = nn.Buffer(torch.from_numpy(np.ascontiguousarray(codec.quantizer_.thresholds_.T)))
        self.levels = nn.Buffer(torch.from_numpy(codec.quantizer_.levels_))
        shifts = self.bits * torch.arange(8 // self.bits - 1, -1, -1)
        self.weights = nn.Buffer(2**shifts)  # of the buckets in a byte

    def project(self, vectors):
        """``(n, D) -> (n, dims)``: decoded, truncated, normalised, turned."""
        decoded = functional.normalize(self.decoder(vectors)[:, : self.dims], dim=-1)
        return decoded if self.rotation is None else decoded @ self.rotation

    def forward(self, vectors):
        """The number of thresholds that a value reaches is its bucket; buckets are packed, the first in the high bits."""
        reached = self.project(vectors)[:, :, None] >= self.thresholds
        buckets = reached.sum(dim=2)
        per_byte = len(self.weights)
        padded = functional.pad(buckets, (0, -self.dims % per_byte)).unflatten(1, (-1, per_byte))
        return (padded * self.weights).sum(dim=2).to(torch.uint8)

    def decode(self, codes):
        """``(n, bytes) uint8 -> (n, dims)``: each bucket's level."""
        buckets = codes.to(torch.int64)[:, :, None] // self.weights % 2**self.bits
        return self.levels.gather(0, buckets.flatten(1)[:, : self.dims])


class BlockGraph(nn.Module):
    """Concat vectors ``(n, D)`` -> the nearest centroid of each block, ``(n, blocks) uint8``."""

    def __init__(self, codec: BlockCodec):
        super().__init__()
        self.blocks = codec.blocks_
        self.basis, self.mean = (nn.Buffer(torch.from_numpy(part)) for part in (codec.basis_, codec.mean_))
        self.centroids = nn.Buffer(torch.from_numpy(np.concatenate(codec.centroids_, axis=1).T.copy()))
        widths = torch.tensor([last - first for first, last in self.blocks])
        self.levels = nn.Buffer(self.centroids.T * torch.from_numpy(codec.stretch_).repeat_interleave(widths))

    def project(self, vectors):
        """``(n, D) -> (n, D)``, turned."""
        return vectors @ self.basis

    def forward(self, vectors):
        """Nearest by largest product less half the centroid's squared length."""
        values = (vectors - self.mean) @ self.basis
        near = [
            (values[:, first:last] @ cells - (cells**2).sum(dim=0) / 2).argmax(dim=1)
            for first, last, cells in ((first, last, self.centroids[first:last]) for first, last in self.blocks)
        ]
        return torch.stack(near, dim=1).to(torch.uint8)

    def decode(self, codes):
        """``(n, blocks) uint8 -> (n, D)``: each block's centroid, stretched."""
        columns = enumerate(self.blocks)
        parts = [self.levels[:, first:last][codes[:, block].to(torch.int64)] for block, (first, last) in columns]
        return torch.cat(parts, dim=1)


class Part(nn.Module):
    """One method of a graph as a graph of its own: ``project``, the query's side, or ``decode``."""

    def __init__(self, coder, method: str):
        super().__init__()
        self.coder, self.method = coder, method

    def forward(self, values):
        """What the method gives."""
        return getattr(self.coder, self.method)(values)


class Whole(nn.Module):
    """Token ids and attention masks of all members -> concat vectors -> what ``head`` makes of them."""

    def __init__(self, joined, head):
        super().__init__()
        self.joined, self.head = joined, head

    def forward(self, *inputs):
        """``inputs``: ids and mask of the first member, of the second, ..."""
        parts = []
        for number, (member, weight) in enumerate(zip(self.joined.members, self.joined.weights, strict=True)):
            ids, mask = inputs[2 * number : 2 * number + 2]
            if isinstance(member[0], StaticEmbedding):
                shown = mask[:, :, None].to(torch.float32)
                vectors = (member[0].embedding.weight[ids] * shown).sum(dim=1) / shown.sum(dim=1).clamp(min=1)
                features = {"sentence_embedding": vectors}
            else:
                features = member[0]({"input_ids": ids, "attention_mask": mask})
            for module in list(member)[1:]:
                features = module(features)
            vectors = features["sentence_embedding"][:, : self.joined.dims[number]]
            parts.append(weight * functional.normalize(vectors, dim=-1))
        return self.head(functional.normalize(torch.cat(parts, dim=-1), dim=-1))


def export_onnx(pipeline, folder: str | Path) -> list[Path]:
    """Write ``encode.onnx`` (concat vectors to codes), ``project.onnx`` (concat vectors to the query's side of a score) and
    ``decode.onnx`` (codes to the documents' side: scores are the dot products of the two).

    Where every member is a transformer or a static model, also ``whole_encode.onnx`` and ``whole_project.onnx``, which begin
    at token ids: inputs ``ids_0``, ``mask_0``, ``ids_1``, ... in the order of the members (``token_inputs`` makes them).

    Returns
    -------
    The files written.

    Raises
    ------
    StudyError : the extra ``onnx`` is not installed, the codec is not fitted or of a kind without a graph.
    """
    for package in ("onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise StudyError(f"package {package!r} is not installed; run: pip install -e '.[onnx]'")
    graph, folder = _graph(pipeline.codec), Path(folder)
    vectors = torch.randn(2, pipeline.model.get_embedding_dimension())
    heads = {"encode": graph, "project": Part(graph, "project")}
    written = [_export(head, (vectors,), ["vectors"], folder / f"{name}.onnx") for name, head in heads.items()]
    codes = torch.zeros(2, pipeline.codec.bytes_per_vector, dtype=torch.uint8)
    written.append(_export(Part(graph, "decode"), (codes,), ["codes"], folder / "decode.onnx"))
    joined = pipeline.model[0]
    if len(pipeline.model) == 1 and hasattr(joined, "members") and not _outside(joined):
        inputs = token_inputs(joined, ["two words", "three more words"], "document")
        tensors = tuple(torch.from_numpy(part) for part in inputs.values())
        for name, head in heads.items():
            written.append(_export(Whole(joined, head), tensors, list(inputs), folder / f"whole_{name}.onnx"))
    return written


def token_inputs(joined, texts: list[str], task: str | None) -> dict[str, np.ndarray]:
    """Padded token ids and masks ``(n, longest) int64`` of every member, with its prompt for ``task``, by input name.

    Raises
    ------
    StudyError : a member that does its work outside tensors, as a lexical one does.
    """
    if outside := _outside(joined):
        raise StudyError(f"members {', '.join(outside)} read texts, not token ids; export the others without them")
    inputs = {}
    for number, member in enumerate(joined.members):
        features = member.preprocess(list(texts), prompt=prompt_of(member, task))
        ids, mask = features["input_ids"], features.get("attention_mask")
        if mask is None:
            parts = torch.tensor_split(ids, features["offsets"][1:])
            ids = nn.utils.rnn.pad_sequence(parts, batch_first=True)
            mask = nn.utils.rnn.pad_sequence([torch.ones_like(part) for part in parts], batch_first=True)
        inputs |= {f"ids_{number}": ids.numpy(), f"mask_{number}": mask.numpy()}
    return inputs


def _outside(joined):
    pairs = zip(joined.names, joined.members, strict=True)
    return [name for name, member in pairs if not isinstance(member[0], Transformer | StaticEmbedding)]


def _graph(codec):
    require_fit(codec)
    for kind, graph in ((PercentileCodec, PercentileGraph), (BlockCodec, BlockGraph)):
        if isinstance(codec, kind):
            return graph(codec)
    raise StudyError(f"codec {type(codec).__name__} has no ONNX graph; choose byte blocks or a percentile codec")


def _export(module, tensors, names, path):
    batch = torch.export.Dim("texts", min=1)
    shapes = []
    for name in names:
        length = {1: torch.export.Dim(f"tokens_{name.split('_')[-1]}", min=1, max=512)} if "_" in name else {}
        shapes.append({0: batch, **length})
    dynamic = (tuple(shapes),) if isinstance(module, Whole) else (shapes[0],)
    with writing_to(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_graph(module, tensors, names, OUTPUTS[path.stem.removeprefix("whole_")], dynamic, path)
    return path


def write_graph(module: nn.Module, tensors: tuple, names: list[str], output: str, shapes: tuple, path: Path) -> None:
    """Trace a module of one output with example inputs and write it as one ONNX file.

    Parameters
    ----------
    shapes : per input the sizes that may differ, ``{dimension: torch.export.Dim}``
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            tensors,
            str(path),
            input_names=names,
            output_names=[output],
            dynamic_shapes=shapes,
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
