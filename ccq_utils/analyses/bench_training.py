"""How long a training step of the decoder takes: a loop over stops, prefix sums, and prefix sums with a written gradient."""

import numpy as np
import pandas as pd
import torch
from torch.nn import functional

from ccq_utils.analyses.timing import race
from ccq_utils.codecs.decoder import Decoder
from ccq_utils.codecs.losses import prefix_cosines, similarity_loss

LOOP, SUMS, WRITTEN = "loop over stops", "prefix sums, autograd", "prefix sums, written gradient"


def loop_loss(inputs, outputs, stops):
    """The paper's loss as one would write it down: each prefix normalised, one similarity matrix per stop."""
    teacher = inputs @ inputs.T
    prefixes = [functional.normalize(outputs[:, :stop], dim=1) for stop in stops]
    return sum(((prefix @ prefix.T - teacher) ** 2).mean() for prefix in prefixes) / len(stops)


def sums_loss(inputs, outputs, stops):
    """The same from Gram prefix sums."""
    teacher = inputs @ inputs.T
    return sum(((cosines - teacher) ** 2).mean() for cosines in prefix_cosines(outputs, stops)) / len(stops)


LOSSES = {LOOP: loop_loss, SUMS: sums_loss, WRITTEN: similarity_loss}


def step_speed(
    vectors: np.ndarray, dims: int, stops: list[int], batch_sizes=(128,), repeats: int = 5, steps: int = 10
) -> pd.DataFrame:
    """Seconds per training step (forward, backward, AdamW; fused where the gradient is written) of a linear decoder.

    Parameters
    ----------
    vectors : training vectors ``(n, D)`` with rows of length one; a batch size beyond n is left out
    steps : per timed run

    Returns
    -------
    The table of ``race`` per batch size, with ``batch_size``, ``stops`` (their number) and ``loss_difference``, the largest
    difference of the loss from that of the loop over all steps when all begin alike.
    """
    tables = []
    for size in [size for size in batch_sizes if size <= len(vectors)]:
        rows = torch.randperm(len(vectors), generator=torch.Generator().manual_seed(0))
        batches = [torch.from_numpy(vectors)[rows.roll(-size * number)[:size]] for number in range(steps)]
        runs, differ = {way: _steps(way, batches, dims, stops) for way in LOSSES}, {}
        reference = np.array(runs[LOOP]())
        for way in LOSSES:
            differ[way] = np.abs(np.array(_steps(way, batches, dims, stops)()) - reference).max()
        table = race(f"training step, batch {size}, {len(stops)} stops", runs, repeats)
        table[["seconds", "low", "high"]] /= steps
        tables.append(table.assign(batch_size=size, stops=len(stops), loss_difference=table["way"].map(differ)))
    return pd.concat(tables, ignore_index=True)


def _steps(way, batches, dims, stops):
    """A function that trains one step per batch, always on the same decoder, and returns the losses."""
    torch.manual_seed(0)
    decoder, loss = Decoder(batches[0].shape[1], dims), LOSSES[way]
    optimiser = torch.optim.AdamW(decoder.parameters(), lr=1e-3, weight_decay=0.0, fused=way == WRITTEN)

    def run():
        losses = []
        for batch in batches:
            value = loss(batch, decoder(batch), stops)
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
            losses.append(value.item())
        return losses

    return run


def step_parts(
    vectors: np.ndarray, dims: int, stops: list[int], batch_size: int = 128, repeats: int = 5
) -> pd.DataFrame:
    """Where a step's time goes: seconds of the map (forward and the weight's gradient), of each loss with its gradient in
    the outputs, and of AdamW plain and fused; ``ratio`` is of the map's time to the part's.
    """
    batch = torch.from_numpy(vectors[:batch_size])
    decoder = Decoder(batch.shape[1], dims)
    weight = decoder.layers[0].weight
    weight.grad = torch.randn_like(weight)
    outputs = decoder(batch).detach()

    def optimiser(fused):
        return torch.optim.AdamW(decoder.parameters(), lr=1e-3, weight_decay=0.0, fused=fused).step

    def gradient(loss):
        def run():
            given = outputs.clone().requires_grad_()
            loss(batch, given, stops).backward()

        return run

    with torch.no_grad():
        parts = {"map": lambda: (batch @ weight.detach().T, outputs.T @ batch)}
    parts |= {f"loss, {way}": gradient(loss) for way, loss in LOSSES.items()}
    parts |= {"AdamW": optimiser(False), "AdamW, fused": optimiser(True)}
    return race(f"parts of a step, batch {batch_size}, {len(stops)} stops", parts, repeats)
