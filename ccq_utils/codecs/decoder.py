"""The decoder: a light map from the concat's D dims to d, whose first dims (up to a stop) are useful on their own.

It is PCA, which has a formula, or trained on text without judgements.
"""

import functools
import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ccq_utils.codecs.codec import NotPossible, require_distinct
from ccq_utils.common.cache import remembered
from ccq_utils.common.errors import StudyError
from ccq_utils.common.progress import progress

LOSSES = ("similarity", "reconstruction")
FLOOR = 0.3
"""Dims of less than this share of the mean square are equalised as if they had it: later documents have more in them."""
ROWS = 4096  # vectors that are turned to float64 at a time


def similarity_loss(inputs: torch.Tensor, outputs: torch.Tensor, stops: list[int]) -> torch.Tensor:
    """The paper's loss (section 3.2): squared moves of the cosines of all pairs of a batch, averaged over pairs and stops.

    ``inputs`` are concat vectors of length one, ``(batch, D)``; ``outputs`` the decoder's, ``(batch, d)``, of any length.
    """
    wanted = inputs @ inputs.T
    prefixes = [nn.functional.normalize(outputs[:, :stop], dim=1) for stop in stops]
    return sum(nn.functional.mse_loss(prefix @ prefix.T, wanted) for prefix in prefixes) / len(stops)


def reconstruction_loss(inputs, outputs, stops: list[int], weight: torch.Tensor) -> torch.Tensor:
    """Squared error of ``(batch, D)``, rebuilt from each prefix of ``(batch, d)`` by one layer's ``weight``, ``(d, D)``."""
    sizes = np.diff([0, *stops, len(weight)]).tolist()  # no slices: the gradient of each would be a whole weight
    blocks = (part @ rows for part, rows, _ in zip(outputs.split(sizes, 1), weight.split(sizes), stops, strict=False))
    return sum(((guess - inputs) ** 2).sum(dim=1).mean() for guess in itertools.accumulate(blocks)) / len(stops)


class Decoder(nn.Module):
    """D -> d in ``depth`` layers; one layer is a linear map without bias, more have GELU between them.

    Deeper ones read inputs times the root of D, so that their values are about one: GELU is close to a straight line near
    zero, where the values of a vector of length one lie.

    Each hidden layer has ``width`` values, of which training drops the share ``dropout``. With ``residual`` the output is
    added to that of one linear map, and begins as that map.
    """

    def __init__(self, in_dims: int, out_dims: int, depth: int = 1, width: int = 512, dropout=0.0, residual=False):
        super().__init__()
        if depth < 1:
            raise StudyError(f"decoder depth {depth} must be 1 or more")
        self.config = {"in_dims": in_dims, "out_dims": out_dims, "depth": depth, "width": width}
        self.config |= {"dropout": dropout, "residual": residual}
        sizes = [in_dims, *[width] * (depth - 1), out_dims]
        layers = [nn.Linear(sizes[0], sizes[1], bias=depth > 1)]
        for size in sizes[2:]:
            layers += [nn.GELU(), *([nn.Dropout(dropout)] if dropout else []), nn.Linear(width, size)]
        self.layers = nn.Sequential(*layers)
        self.linear = nn.Linear(in_dims, out_dims, bias=False) if residual else None
        for part in self.layers[-1].parameters() if residual else ():
            nn.init.zeros_(part)

    def start_from(self, other: "Decoder") -> None:
        """Begin as another decoder's linear map."""
        if self.linear is None and len(self.layers) > 1:
            raise StudyError("a decoder without a linear map cannot start from one; set residual or depth 1")
        (self.linear or self.layers[0]).load_state_dict(other.layers[0].state_dict())

    def forward(self, vectors: torch.Tensor, dims: int | None = None) -> torch.Tensor:
        """``(n, D) -> (n, d)``, or its first ``dims``; not normalised, because truncation comes first."""
        if len(self.layers) == 1:
            weight = self.layers[0].weight  # whole where it can be: the gradient of a part is slow
            decoded = nn.functional.linear(vectors, weight if dims is None else weight[:dims])
        else:
            decoded = self.layers(vectors * self.config["in_dims"] ** 0.5)[:, :dims]
        return decoded if self.linear is None else decoded + self.linear(vectors)[:, :dims]

    @torch.inference_mode()
    def transform(self, vectors: np.ndarray, dims: int | None = None) -> np.ndarray:
        """Decode, truncate to ``dims``, normalise: ``(n, D) -> (n, dims) float32``."""
        expected, largest, given = self.config["in_dims"], self.config["out_dims"], vectors.shape[1]
        if given != expected:
            raise StudyError(f"decoder takes {expected} dims, the vectors have {given}: they are of another concat")
        if dims is not None and not 1 <= dims <= largest:
            raise StudyError(f"stop {dims} does not fit the decoder's {largest} dims")
        given = torch.from_numpy(np.ascontiguousarray(vectors, dtype=np.float32))
        return nn.functional.normalize(self(given.to(next(self.parameters()).device), dims), dim=1).cpu().numpy()

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


@functools.lru_cache(maxsize=16)
def random_rotation(dims: int, seed: int) -> np.ndarray:
    """A random orthogonal matrix, ``(dims, dims) float32``."""
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((dims, dims)))[0].astype(np.float32)


@remembered
def principal_axes(vectors: np.ndarray) -> np.ndarray:
    """The vectors' main directions as columns, ``(D, D) float64``, those with the largest squared sum first.

    Computed in float64 and with every axis's largest entry positive, so that they are the same on any number of threads.
    Fewer vectors than dims leave directions without any length: of these a seed chooses, where rounding would.
    """
    parts = (vectors[start : start + ROWS].astype(np.float64) for start in range(0, len(vectors), ROWS))
    squares, axes = np.linalg.eigh(sum(part.T @ part for part in parts))
    axes = axes[:, squares > 1e-10 * squares[-1]][:, ::-1]
    others = np.random.default_rng(0).standard_normal((len(axes), len(axes) - axes.shape[1]))
    axes = np.linalg.qr(np.hstack([axes, others]))[0] if others.size else axes
    return axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(len(axes))])


def fit_pca(vectors: np.ndarray, dims: int, power: float = 0.0, held_out: np.ndarray | None = None) -> Decoder:
    """PCA without centring as a decoder: no linear map's first dims keep more of the vectors' inner products.

    The axes are fitted on ``vectors``, ``(n, D)``. *Equalised* PCA divides each dim by the ``power`` of its root mean square,
    measured on ``held_out`` vectors where there are any: a concat spends most of its length on a few dims that all documents
    share, and queries find their document by the small ones (notebook 07). A power of 1 whitens.
    """
    if dims > (in_dims := vectors.shape[1]):
        raise NotPossible(f"PCA to {dims} dims needs vectors of at least as many, got {in_dims}")
    require_distinct(vectors, 2)
    axes = principal_axes(vectors)[:, :dims]
    if power:
        squares = np.square((vectors if held_out is None else held_out) @ axes.astype(np.float32)).mean(axis=0)
        axes = axes * np.maximum(squares, FLOOR * squares.mean()) ** (-power / 2)
    decoder = Decoder(in_dims, dims)
    decoder.layers[0].load_state_dict({"weight": torch.from_numpy(axes.T.astype(np.float32))})
    return decoder.eval()


def train_decoder(
    decoder: Decoder, training, validation, stops, epochs, batch_size, learning_rate, patience, seed, loss="similarity"
) -> pd.DataFrame:
    """Train in place with Adam and keep the weights of the lowest held-out loss.

    Args:
        training, validation: Concat vectors ``(n, D)`` of text without judgements; the latter are held out.
        stops: Numbers of first dims that the loss looks at, the last at most d.
        patience: Epochs without a lower held-out loss before training stops; None trains all, to show overfitting.
        seed: Of the order of the texts; weights and dropout follow ``torch.manual_seed``.
        loss: ``similarity`` (the paper's), or ``reconstruction`` for a decoder of depth 1.

    Returns columns ``epoch``, ``training_loss``, ``validation_loss``; epoch 0 is the untrained start.
    """
    if loss not in LOSSES:
        raise StudyError(f"unknown loss {loss!r}; accepted: {', '.join(LOSSES)}")
    if stops[-1] > decoder.config["out_dims"]:
        raise StudyError(f"stop {stops[-1]} is larger than the decoder's {decoder.config['out_dims']} dims")
    for vectors in (training, validation):
        require_distinct(vectors, 2)
    # MiniLM-L6 has two dims of 1e-33: their gradients would be denormal numbers, which processors are slow with
    training, validation = map(nn.Hardshrink(1e-20), map(torch.from_numpy, (training, validation)))
    order = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(decoder.parameters(), lr=learning_rate, fused=True)

    def loss_of(vectors):
        if loss == "reconstruction":
            return reconstruction_loss(vectors, decoder(vectors), stops, decoder.layers[0].weight)
        return similarity_loss(vectors, decoder(vectors), stops)

    history, best = [], np.inf
    for epoch in progress(range(epochs + 1), f"decoder of depth {decoder.config['depth']}, epochs"):
        losses = []
        decoder.train()
        for batch in torch.randperm(len(training), generator=order).split(batch_size) if epoch else ():
            value = loss_of(training[batch])
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
            losses.append(value.item())
        decoder.eval()
        with torch.inference_mode():
            held_out = loss_of(validation).item()
        history.append({"epoch": epoch, "training_loss": np.mean(losses or np.nan), "validation_loss": held_out})
        if held_out < best:
            best, best_epoch = held_out, epoch
            best_weights = {name: values.clone() for name, values in decoder.state_dict().items()}
        if patience is not None and epoch - best_epoch >= patience:
            break
    decoder.load_state_dict(best_weights)
    return pd.DataFrame(history)
