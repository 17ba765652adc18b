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


class PrefixSimilarity(torch.autograd.Function):
    """The mean over stops and pairs of ``W (C - T)**2`` with its gradient written down, instead of left to autograd.

    ``(outputs (B, d), teacher T (B, B), weights W (B, B) or None, ascending stops) -> loss``. Teacher and weights are
    symmetric and get no gradient; nor does a prefix shorter than 1e-6 through its own length.

    A stop's cosines are ``C = r G r`` with the Gram matrix ``G`` of the prefix and ``r = diag(G) ** -0.5``. With
    ``A = W (C - T)``, and as ``A`` is symmetric, the loss's slope in ``G`` is ``r A r`` less ``r**2`` times the row sums of
    ``A C`` on the diagonal, times ``2 / B**2``; the slope in the outputs is twice that times the outputs. A block of dims
    between stops takes the sum of the slopes of all stops that hold it, so both directions cost ``B * B * d``
    multiplications, whatever the number of stops. What autograd spends is not multiplications but the many temporary
    ``B * B`` matrices of each stop; here they are few (notebook 08, section 2).
    """

    @staticmethod
    def forward(ctx, outputs, teacher, weights, stops):
        """The loss; the gradient is made along the way, while the matrices are at hand."""
        gram, loss, slopes = torch.zeros_like(teacher), outputs.new_zeros(()), []
        blocks = [outputs[:, start:stop] for start, stop in zip([0, *stops[:-1]], stops, strict=True)]
        for block in blocks:
            gram.addmm_(block, block.T)
            scale = gram.diagonal().clamp_min(1e-12).rsqrt()
            cosines = (gram * scale[:, None]).mul_(scale)
            error = cosines - teacher
            slope = error.clone() if weights is None else error * weights
            loss += torch.dot(slope.view(-1), error.view(-1))
            if ctx.needs_input_grad[0]:
                turned = scale.square() * cosines.mul_(slope).sum(dim=1)
                slope.mul_(scale[:, None]).mul_(scale).diagonal().sub_(turned)
                slopes.append(slope)
        pairs = len(stops) * teacher.numel()
        if slopes:
            gradient, held = torch.zeros_like(outputs), torch.zeros_like(teacher)
            for block, slope, stop in zip(blocks[::-1], slopes[::-1], stops[::-1], strict=True):
                torch.mm(held.add_(slope), block, out=gradient[:, stop - block.shape[1] : stop])
            ctx.save_for_backward(gradient.mul_(4 / pairs))
        return loss / pairs

    @staticmethod
    def backward(ctx, slope):
        """``slope`` of the loss times the gradient."""
        (gradient,) = ctx.saved_tensors
        return slope * gradient, None, None, None


def similarity_loss(
    inputs: torch.Tensor, outputs: torch.Tensor, stops: list[int], near: bool = False, cosines=None
) -> torch.Tensor:
    """Mean squared difference of pairwise cosines, input against each prefix of the output, averaged over stops.

    Parameters
    ----------
    inputs : ``(B, D)`` with rows of length one
    outputs : ``(B, d)``, any length
    stops : ascending truncation depths, the last at most d
    near : near pairs, which decide rankings, weigh more: by ``exp(cosine / NEAR)``
    cosines : ``(outputs, stops)`` -> how similar each pair of outputs is at every stop; their cosines where None
    """
    teacher = inputs @ inputs.T
    weights = torch.exp(teacher / NEAR) if near else None
    if near:
        weights = weights / weights.mean()
    if cosines is None:
        return PrefixSimilarity.apply(outputs, teacher, weights, stops)
    weights = torch.ones_like(teacher) if weights is None else weights
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
