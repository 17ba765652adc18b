"""What a decoder is trained for: losses of a batch of outputs against its inputs, without judgements.

The paper's loss (section 3.2): for a batch, the difference between the pairwise cosine similarities of inputs and outputs,
summed over the stops. All stops come from one set of Gram prefix sums: the Gram matrix of a prefix is the sum of the
Gram matrices of the blocks between stops, so a step costs B*B*d multiplications rather than B*B*sum(stops).
"""

import torch
from torch import nn

LOSSES = ("similarity", "near pairs", "ranking", "reconstruction")
NEAR, SHARPNESS = 0.1, 0.05
"""Cosine by which a pair's weight in ``near pairs`` grows e-fold; temperature of the distributions in ``ranking``."""


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


def straight_through(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Values as codes give them back, ``(B, d)``, with the gradient of the values themselves.

    Each dim's values fall into ``2**bits`` buckets of equal mass over the batch and become their bucket's mean, as
    ``PercentileQuantizer`` does. The gradient passes as if nothing were coded (Bengio et al., arXiv 1308.3432).
    """
    columns = values.detach().T.contiguous()  # sorting along rows is faster
    buckets = columns.argsort(dim=1).argsort(dim=1) * 2**bits // len(values)
    sums = torch.zeros(len(columns), 2**bits, dtype=values.dtype).scatter_add(1, buckets, columns)
    counts = buckets[0].bincount(minlength=2**bits).clamp_min(1)  # the same in every dim
    coded = (sums / counts).gather(1, buckets).T
    return values + (coded - values).detach()


def coded_cosines(
    vectors: torch.Tensor, stops: list[int], bits: int, rotations: list[torch.Tensor]
) -> list[torch.Tensor]:
    """Inner products ``(B, B)`` of float vectors (rows) with coded ones (columns), for every stop.

    Vectors are cut, normalised and turned before they are coded, as the codec *decoder, rotated* does. Codes are shorter
    than what they stand for; all products are divided by the mean of a vector's with its own code, which changes no ranking.

    Parameters
    ----------
    rotations : an orthogonal ``(stop, stop)`` per stop
    """
    found = []
    for stop, rotation in zip(stops, rotations, strict=True):
        turned = nn.functional.normalize(vectors[:, :stop], dim=1) @ rotation
        products = turned @ straight_through(turned, bits).T
        found.append(products / products.diagonal().mean())
    return found


def similarity_loss(
    inputs: torch.Tensor, outputs: torch.Tensor, stops: list[int], near: bool = False, cosines=prefix_cosines
) -> torch.Tensor:
    """Mean squared difference of pairwise cosines, input against each prefix of the output, averaged over stops.

    Parameters
    ----------
    inputs : ``(B, D)`` with rows of length one
    outputs : ``(B, d)``, any length
    stops : ascending truncation depths, the last at most d
    near : near pairs, which decide rankings, weigh more: by ``exp(cosine / NEAR)``
    cosines : ``(outputs, stops)`` -> how similar each pair of outputs is at every stop
    """
    teacher = inputs @ inputs.T
    weights = torch.exp(teacher / NEAR) if near else torch.ones_like(teacher)
    weights = weights / weights.mean()
    return sum((weights * (student - teacher) ** 2).mean() for student in cosines(outputs, stops)) / len(stops)


def ranking_loss(inputs: torch.Tensor, outputs: torch.Tensor, stops: list[int], cosines=prefix_cosines) -> torch.Tensor:
    """Listwise: for each text, the batch's other texts as a distribution by cosine; the divergence (Kullback-Leibler) of
    each prefix of the output from the input, averaged over texts and stops. Arguments as in ``similarity_loss``.
    """
    itself = torch.eye(len(inputs), dtype=torch.bool)

    def logs(similarities):
        return torch.log_softmax((similarities / SHARPNESS).masked_fill(itself, -1e4), dim=1)

    teacher = logs(inputs @ inputs.T)
    parts = [(teacher.exp() * (teacher - logs(student))).sum(dim=1).mean() for student in cosines(outputs, stops)]
    return sum(parts) / len(stops)


def reconstruction_loss(inputs: torch.Tensor, outputs: torch.Tensor, stops: list[int], weight: torch.Tensor):
    """Mean squared error of the inputs rebuilt from each prefix of the output by the transposed map, averaged over stops.

    The rival of ``similarity_loss``: a tied linear autoencoder with the same stops. ``weight`` is the map ``(d, D)``.
    """
    rebuilt = [outputs[:, :stop] @ weight[:stop] for stop in stops]
    return sum(((guess - inputs) ** 2).sum(dim=1).mean() for guess in rebuilt) / len(stops)
