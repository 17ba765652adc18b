"""What a decoder is trained for, on text without judgements: the paper's loss, and the classical one beside it."""

import torch
from torch.nn import functional

LOSSES = ("similarity", "reconstruction")


def similarity_loss(inputs: torch.Tensor, outputs: torch.Tensor, stops: list[int]) -> torch.Tensor:
    """The paper's loss (section 3.2): how far the cosines of all pairs of a batch move, at every stop.

    Args:
        inputs: Concat vectors, ``(batch, D)``, rows of length one.
        outputs: What the decoder makes of them, ``(batch, d)``, of any length.
        stops: Numbers of first dims that should be useful on their own.

    Returns:
        The squared difference of the cosines, averaged over pairs and stops.
    """
    wanted = inputs @ inputs.T
    total = 0.0
    for stop in stops:
        prefix = functional.normalize(outputs[:, :stop], dim=1)
        total = total + functional.mse_loss(prefix @ prefix.T, wanted)
    return total / len(stops)


def reconstruction_loss(
    inputs: torch.Tensor, outputs: torch.Tensor, stops: list[int], weight: torch.Tensor
) -> torch.Tensor:
    """Squared error of the inputs that the transposed map rebuilds from each prefix: a tied linear autoencoder.

    Args:
        inputs, outputs, stops: As for ``similarity_loss``.
        weight: The decoder's map, ``(d, D)``.

    Returns:
        The squared distance between input and rebuilt input, averaged over texts and stops.
    """
    rebuilt = [outputs[:, :stop] @ weight[:stop] for stop in stops]
    return sum(((guess - inputs) ** 2).sum(dim=1).mean() for guess in rebuilt) / len(stops)
