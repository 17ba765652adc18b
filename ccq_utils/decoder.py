"""The decoder: a light map from the concat's D dims to d, whose prefixes (stops) are useful on their own.

Loss (paper section 3.2): for a batch, the difference between the pairwise cosine similarities of inputs and outputs,
summed over the stops. All stops come from one set of Gram prefix sums: the Gram matrix of a prefix is the sum of the
Gram matrices of the blocks between stops, so a step costs B*B*d multiplications rather than B*B*sum(stops).
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ccq_utils.cache import remembered
from ccq_utils.errors import StudyError
from ccq_utils.progress import progress

LOSSES = ("similarity", "near pairs", "ranking", "reconstruction")
NEAR, SHARPNESS = 0.1, 0.05
"""Cosine by which a pair's weight in ``near pairs`` grows e-fold; temperature of the distributions in ``ranking``."""


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


def prefix_cosines(vectors: torch.Tensor, stops: list[int]) -> list[torch.Tensor]:
    """Pairwise cosine similarities ``(B, B)`` of the first ``stop`` dims, for every stop, from Gram prefix sums."""
    gram = torch.zeros(len(vectors), len(vectors), dtype=vectors.dtype)
    found, start = [], 0
    for stop in stops:
        block = vectors[:, start:stop]
        gram = gram + block @ block.T
        scale = gram.diagonal().clamp_min(1e-12).rsqrt()
        found.append(gram * scale[:, None] * scale[None, :])
        start = stop
    return found


def similarity_loss(inputs: torch.Tensor, outputs: torch.Tensor, stops: list[int], near: bool = False) -> torch.Tensor:
    """Mean squared difference of pairwise cosines, input against each prefix of the output, averaged over stops.

    Parameters
    ----------
    inputs : ``(B, D)`` with rows of length one
    outputs : ``(B, d)``, any length
    stops : ascending truncation depths, the last at most d
    near : near pairs, which decide rankings, weigh more: by ``exp(cosine / NEAR)``
    """
    teacher = inputs @ inputs.T
    weights = torch.exp(teacher / NEAR) if near else torch.ones_like(teacher)
    weights = weights / weights.mean()
    return sum((weights * (student - teacher) ** 2).mean() for student in prefix_cosines(outputs, stops)) / len(stops)


def ranking_loss(inputs: torch.Tensor, outputs: torch.Tensor, stops: list[int]) -> torch.Tensor:
    """Listwise: for each text, the batch's other texts as a distribution by cosine; the divergence (Kullback-Leibler) of
    each prefix of the output from the input, averaged over texts and stops. Arguments as in ``similarity_loss``.
    """
    itself = torch.eye(len(inputs), dtype=torch.bool)

    def logs(cosines):
        return torch.log_softmax((cosines / SHARPNESS).masked_fill(itself, -1e4), dim=1)

    teacher = logs(inputs @ inputs.T)
    parts = [
        (teacher.exp() * (teacher - logs(student))).sum(dim=1).mean() for student in prefix_cosines(outputs, stops)
    ]
    return sum(parts) / len(stops)


def reconstruction_loss(inputs: torch.Tensor, outputs: torch.Tensor, stops: list[int], weight: torch.Tensor):
    """Mean squared error of the inputs rebuilt from each prefix of the output by the transposed map, averaged over stops.

    The rival of ``similarity_loss``: a tied linear autoencoder with the same stops. ``weight`` is the map ``(d, D)``.
    """
    rebuilt = [outputs[:, :stop] @ weight[:stop] for stop in stops]
    return sum(((guess - inputs) ** 2).sum(dim=1).mean() for guess in rebuilt) / len(stops)


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
) -> pd.DataFrame:
    """Train in place with AdamW on random batches, keep the weights of the best validation loss.

    Parameters
    ----------
    training, validation : concat vectors ``(n, D)`` of text without judgements
    patience : epochs without improvement before stopping; None trains all epochs (to show overfitting)
    weight_decay : AdamW's; 0 is plain Adam
    loss : ``similarity`` (the paper's), ``near pairs``, ``ranking`` or ``reconstruction`` (depth 1 only)

    Returns
    -------
    DataFrame with ``epoch``, ``training_loss``, ``validation_loss``; epoch 0 is the untrained start.

    Raises
    ------
    StudyError : stops larger than the decoder, vectors that hold NaN, too little text for one batch, an unknown loss.
    """
    if loss not in LOSSES:
        raise StudyError(f"unknown loss {loss!r}; accepted: {', '.join(LOSSES)}")

    if stops[-1] > decoder.config["out_dims"]:
        raise StudyError(f"stop {stops[-1]} is larger than the decoder's {decoder.config['out_dims']} dims")
    if len(training) < 2 or len(validation) < 2:
        raise StudyError(f"decoder training needs at least two vectors each, got {len(training)} and {len(validation)}")
    if not (np.isfinite(training).all() and np.isfinite(validation).all()):
        raise StudyError("decoder training vectors hold NaN or infinity; mend the model or remove the texts")
    generator = torch.Generator().manual_seed(seed)
    training, validation = torch.from_numpy(training), torch.from_numpy(validation)
    optimiser = torch.optim.AdamW(decoder.parameters(), lr=learning_rate, weight_decay=weight_decay)

    def loss_of(vectors):
        if loss == "reconstruction":
            return reconstruction_loss(vectors, decoder(vectors), stops, decoder.layers[0].weight)
        if loss == "ranking":
            return ranking_loss(vectors, decoder(vectors), stops)
        return similarity_loss(vectors, decoder(vectors), stops, near=loss == "near pairs")

    best, best_state, history = np.inf, None, []
    bar = progress(range(epochs + 1), f"decoder of depth {decoder.config['depth']}")
    for epoch in bar:
        losses = []
        decoder.train()
        for index in torch.randperm(len(training), generator=generator).split(batch_size) if epoch else ():
            if len(index) > 1:
                value = loss_of(training[index])
                optimiser.zero_grad()
                value.backward()
                optimiser.step()
                losses.append(value.item())
        decoder.eval()
        with torch.inference_mode():
            held_out = loss_of(validation).item()
        history.append(
            {"epoch": epoch, "training_loss": np.mean(losses) if losses else np.nan, "validation_loss": held_out}
        )
        bar.set_postfix(validation=f"{held_out:.5f}")
        if held_out < best:
            best, best_epoch = held_out, epoch
            best_state = {name: values.clone() for name, values in decoder.state_dict().items()}
        if patience is not None and epoch - best_epoch >= patience:
            break
    decoder.load_state_dict(best_state)
    return pd.DataFrame(history)
