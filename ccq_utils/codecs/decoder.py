"""The decoder: a light map from the concat's D dims to d, whose prefixes (stops) are useful on their own.

Two ways to get one: uncentred PCA in closed form, and training on text without judgements by one of ``losses``.
"""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ccq_utils.codecs.losses import (
    LOSSES,
    coded_cosines,
    prefix_cosines,
    ranking_loss,
    reconstruction_loss,
    similarity_loss,
)
from ccq_utils.codecs.quantizer import BITS
from ccq_utils.common.cache import remembered
from ccq_utils.common.errors import StudyError
from ccq_utils.common.progress import progress


class Decoder(nn.Module):
    """D -> d in ``depth`` layers; depth 1 is one linear map without bias, deeper ones have GELU between layers.

    Parameters
    ----------
    in_dims, out_dims : D and d
    depth : 1, 2 or 3
    width : hidden width of deeper decoders
    dropout : share of hidden values dropped in training
    residual : deeper decoders add their output to that of one linear map, and begin as that map
    """

    def __init__(self, in_dims: int, out_dims: int, depth: int = 1, width: int = 512, dropout=0.0, residual=False):
        super().__init__()
        if depth < 1:
            raise StudyError(f"decoder depth {depth} must be 1 or more")
        self.config = {"in_dims": in_dims, "out_dims": out_dims, "depth": depth, "width": width}
        self.config |= {"dropout": dropout, "residual": residual}
        sizes = [in_dims, *[width] * (depth - 1), out_dims]
        layers = []
        for index, (wide, narrow) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
            layers.append(nn.Linear(wide, narrow, bias=depth > 1))
            if index < depth - 1:
                layers += [nn.GELU(), nn.Dropout(dropout)] if dropout else [nn.GELU()]
        self.layers = nn.Sequential(*layers)
        self.linear = nn.Linear(in_dims, out_dims, bias=False) if residual else None
        if residual:
            nn.init.zeros_(self.layers[-1].weight)
            nn.init.zeros_(self.layers[-1].bias)

    def start_from(self, other: "Decoder") -> None:
        """Begin as another decoder's linear map; raises ``StudyError`` where this one has none."""
        target = self.linear if self.linear is not None else self.layers[0] if len(self.layers) == 1 else None
        if target is None:
            raise StudyError("a decoder without a linear map cannot start from one; set residual or depth 1")
        with torch.no_grad():
            target.weight.copy_(other.layers[0].weight)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """``(n, D) -> (n, d)``; not normalised, because truncation comes first."""
        decoded = self.layers(vectors)
        return decoded if self.linear is None else decoded + self.linear(vectors)

    @torch.inference_mode()
    def transform(self, vectors: np.ndarray, dims: int | None = None) -> np.ndarray:
        """Decode, truncate to ``dims``, normalise: ``(n, D) -> (n, dims) float32``.

        Raises
        ------
        StudyError : the input's dims are not D, or ``dims`` is more than the decoder gives.
        """
        expected, largest = self.config["in_dims"], self.config["out_dims"]
        if vectors.shape[1] != expected:
            raise StudyError(
                f"decoder takes {expected} dims, the vectors have {vectors.shape[1]}; it was fitted on another concat"
            )
        if dims is not None and not 1 <= dims <= largest:
            raise StudyError(f"stop {dims} does not fit the decoder's {largest} dims")
        given = torch.from_numpy(np.ascontiguousarray(vectors, dtype=np.float32))
        decoded = self(given.to(next(self.parameters()).device))[:, :dims]
        return nn.functional.normalize(decoded, dim=1).cpu().numpy()

    def save(self, folder: Path) -> None:
        """Weights as safetensors, shape as JSON."""
        save_file(self.state_dict(), folder / "decoder.safetensors")
        (folder / "decoder.json").write_text(json.dumps(self.config))

    @classmethod
    def load(cls, folder: Path) -> "Decoder":
        """What ``save`` wrote."""
        decoder = cls(**json.loads((folder / "decoder.json").read_text()))
        decoder.load_state_dict(load_file(folder / "decoder.safetensors"))
        return decoder.eval()


def random_rotation(dims: int, seed: int) -> np.ndarray:
    """A random orthogonal matrix, ``(dims, dims) float32``."""
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((dims, dims)))[0].astype(np.float32)


@remembered(8)
def _uncentred_axes(vectors):
    """Axes ``(D, D)`` of descending second moment, each with its largest entry positive."""
    values, axes = np.linalg.eigh((vectors.T @ vectors).astype(np.float64))
    axes = axes[:, np.argsort(values)[::-1]]
    return axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(len(axes))])


def fit_pca(vectors: np.ndarray, dims: int) -> Decoder:
    """Uncentred PCA as a decoder: its prefixes keep the most of the vectors' inner products among linear maps.

    Raises
    ------
    StudyError : more dims than the vectors have.
    """
    in_dims = vectors.shape[1]
    if dims > in_dims:
        raise StudyError(f"PCA to {dims} dims needs vectors of at least as many, got {in_dims}")
    axes = _uncentred_axes(vectors)[:, :dims]
    decoder = Decoder(in_dims, dims)
    with torch.no_grad():
        decoder.layers[0].weight.copy_(torch.from_numpy(axes.T.astype(np.float32)))
    return decoder.eval()


def nearest(vectors: np.ndarray, count: int, block: int = 1024) -> torch.Tensor:
    """Each row's own number and those of its ``count`` nearest others by cosine, ``(n, 1 + count)``.

    Parameters
    ----------
    vectors : rows of length one
    block : rows that are compared with all others at a time

    Raises
    ------
    StudyError : fewer others than ``count``, or a count below one.
    """
    if not 1 <= count < len(vectors):
        raise StudyError(f"{count} nearest neighbours cannot be had from {len(vectors)} texts; give 1 to n - 1")
    values, found = torch.from_numpy(vectors), []
    for part in torch.arange(len(values)).split(block):
        cosines = values[part] @ values.T
        cosines[torch.arange(len(part)), part] = -torch.inf
        found.append(torch.cat([part[:, None], cosines.topk(count, dim=1).indices], dim=1))
    return torch.cat(found)


def near_batches(neighbours: torch.Tensor, order: torch.Tensor, batch_size: int) -> list[torch.Tensor]:
    """Batches of anchors, taken in ``order``, with their nearest texts: as many batches as random ones would be.

    Parameters
    ----------
    neighbours : what ``nearest`` gives

    Returns
    -------
    Text numbers, each once in a batch, which therefore may hold fewer than ``batch_size``.
    """
    anchors = max(1, batch_size // neighbours.shape[1])
    steps = -(-len(order) // batch_size)
    return [neighbours[part].unique() for part in order.split(anchors)[:steps]]


def train_decoder(
    decoder: Decoder,
    training: np.ndarray,
    validation: np.ndarray,
    stops: list[int],
    epochs: int,
    batch_size: int,
    learning_rate: float,
    patience: int | None,
    seed: int,
    weight_decay: float = 0.0,
    loss: str = "similarity",
    neighbours: int = 0,
    bits: int | None = None,
) -> pd.DataFrame:
    """Train in place with AdamW, keep the weights of the best validation loss.

    Parameters
    ----------
    training, validation : concat vectors ``(n, D)`` of text without judgements
    patience : epochs without improvement before stopping; None trains all epochs (to show overfitting)
    weight_decay : AdamW's; 0 is plain Adam
    loss : ``similarity`` (the paper's), ``near pairs``, ``ranking`` or ``reconstruction`` (depth 1 only)
    neighbours : batches, of held-out text too, are anchors with so many of their nearest texts; 0 draws them at random
    bits : one side of each pair is coded with so many bits, turned by one random rotation per stop; None codes nothing

    Returns
    -------
    DataFrame with ``epoch``, ``training_loss``, ``validation_loss``; epoch 0 is the untrained start.

    Raises
    ------
    StudyError : stops larger than the decoder, vectors that hold NaN, too little text for one batch or for so many
        neighbours, an unknown loss or number of bits, codes for a loss that compares no pairs.
    """
    if loss not in LOSSES:
        raise StudyError(f"unknown loss {loss!r}; accepted: {', '.join(LOSSES)}")
    if bits is not None and (bits not in BITS or loss == "reconstruction"):
        accepted = ", ".join(map(str, BITS))
        raise StudyError(f"{loss} loss cannot code a side with {bits!r} bits; accepted: {accepted}, not reconstruction")
    if stops[-1] > decoder.config["out_dims"]:
        raise StudyError(f"stop {stops[-1]} is larger than the decoder's {decoder.config['out_dims']} dims")
    if len(training) < 2 or len(validation) < 2:
        raise StudyError(f"decoder training needs at least two vectors each, got {len(training)} and {len(validation)}")
    if not (np.isfinite(training).all() and np.isfinite(validation).all()):
        raise StudyError("decoder training vectors hold NaN or infinity; mend the model or remove the texts")
    near, held_out_batches = None, [torch.arange(len(validation))]
    if neighbours:
        near, near_held_out = nearest(training, neighbours), nearest(validation, neighbours)
        held_out_batches = near_batches(near_held_out, held_out_batches[0], batch_size)
    generator = torch.Generator().manual_seed(seed)
    training, validation = torch.from_numpy(training), torch.from_numpy(validation)
    optimiser = torch.optim.AdamW(decoder.parameters(), lr=learning_rate, weight_decay=weight_decay, fused=True)
    cosines = None
    if bits is not None:
        rotations = [torch.from_numpy(random_rotation(stop, seed)) for stop in stops]
        cosines = partial(coded_cosines, bits=bits, rotations=rotations)

    def loss_of(vectors):
        if loss == "reconstruction":
            return reconstruction_loss(vectors, decoder(vectors), stops, decoder.layers[0].weight)
        if loss == "ranking":
            return ranking_loss(vectors, decoder(vectors), stops, cosines or prefix_cosines)
        return similarity_loss(vectors, decoder(vectors), stops, near=loss == "near pairs", cosines=cosines)

    best, best_state, history = np.inf, None, []
    for epoch in progress(range(epochs + 1), f"decoder of depth {decoder.config['depth']}, epochs"):
        losses = []
        decoder.train()
        order = torch.randperm(len(training), generator=generator) if epoch else torch.arange(0)
        for index in order.split(batch_size) if near is None else near_batches(near, order, batch_size):
            if len(index) > 1:
                value = loss_of(training[index])
                optimiser.zero_grad()
                value.backward()
                optimiser.step()
                losses.append(value.item())
        decoder.eval()
        with torch.inference_mode():
            held_out = float(np.mean([loss_of(validation[index]).item() for index in held_out_batches]))
        history.append(
            {"epoch": epoch, "training_loss": np.mean(losses) if losses else np.nan, "validation_loss": held_out}
        )
        if held_out < best:
            best, best_epoch = held_out, epoch
            best_state = {name: values.clone() for name, values in decoder.state_dict().items()}
        if patience is not None and epoch - best_epoch >= patience:
            break
    decoder.load_state_dict(best_state)
    return pd.DataFrame(history)
