"""Learned fusion of members: shares of the cosine, the same for all queries or a gate's, and canonical correlation."""

from collections.abc import Callable

import numpy as np
import torch
from scipy.linalg import eigh
from torch import nn

from ccq_utils.models.embed import normalise
from ccq_utils.models.vectors import concat

RIDGES = (0.1, 1.0, 10.0, 100.0)
"""What canonical correlation tries to add to each member's variances, in multiples of their mean."""
Members = list[np.ndarray]
"""One array ``(n, d_i)`` of normalised vectors per member, rows aligned."""


def fit_shares(short: Members, long: Members, per_query: bool, seed: int, steps: int = 200) -> Callable:
    """Learn each member's share of the cosine so that a short text finds its long one among all; no judgement is used.

    The pairs in a batch are each other's negatives. Shares are a softmax over a linear map of the query's concat (a *gate*)
    where ``per_query``, else the same for all queries. Returns queries (``Members``) -> ``(n, members)``, rows that add up
    to one; all equal where ``steps`` is 0.
    """
    order = torch.Generator().manual_seed(seed)
    cosines = torch.stack([torch.from_numpy(a @ b.T) for a, b in zip(short, long, strict=True)], dim=2)

    def seen(queries):  # common shares are those of a gate that sees nothing
        return torch.from_numpy(concat(queries) * np.float32(per_query))

    texts, gate = seen(short), nn.Linear(sum(one.shape[1] for one in short), len(short))
    scale = nn.Parameter(torch.tensor(3.0))  # its exponential is the usual 20 of in-batch negatives
    for part in gate.parameters():
        nn.init.zeros_(part)
    optimiser = torch.optim.AdamW([*gate.parameters(), scale], lr=0.02, weight_decay=0.01)
    for _ in range(steps):
        batch = torch.randperm(len(texts), generator=order)[:256]
        shares = torch.softmax(gate(texts[batch]), dim=1)
        logits = scale.exp() * (cosines[batch][:, batch] * shares[:, None]).sum(dim=2)
        optimiser.zero_grad()
        nn.functional.cross_entropy(logits, torch.arange(len(batch))).backward()
        optimiser.step()
    return torch.inference_mode()(lambda queries: torch.softmax(gate(seen(queries)), dim=1).numpy())


def canonical_maps(members: Members, ridge: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Canonical correlation of two members or more (MAXVAR; Kettenring, Biometrika 1971): where they agree most.

    Each member is centred and whitened (``ridge`` is added to its variances, in multiples of their mean), all are joined,
    and as many principal components of the join are kept as the smallest member has dims. Returns a mean and a map for each.
    """
    means, dims = [one.mean(axis=0) for one in members], [one.shape[1] for one in members]
    centred, whitening = [one - mean for one, mean in zip(members, means, strict=True)], []
    for one in centred:
        values, axes = eigh(one.T.astype(float) @ one / len(one))
        whitening.append(axes / np.sqrt(values.clip(0) + ridge * values.mean()))
    joined = np.hstack([one @ white for one, white in zip(centred, whitening, strict=True)])
    _, leading = eigh(joined.T @ joined, subset_by_index=[sum(dims) - min(dims), sum(dims) - 1])
    parts = np.split(leading, np.cumsum(dims)[:-1])
    return list(zip(means, [white @ part for white, part in zip(whitening, parts, strict=True)], strict=True))


def fit_canonical(short: Members, long: Members, seed: int) -> Callable:
    """Fit on both sides of four fifths of the pairs; of ``RIDGES``, the one that finds most of the other pairs.

    ``seed`` draws these. Returns ``Members`` of some texts -> their fused vectors ``(n, k) float32``, rows of length one.
    """
    held_out, fitting = np.split(np.random.default_rng(seed).permutation(len(short[0])), [len(short[0]) // 5])
    texts = [np.vstack([ours[fitting], theirs[fitting]]) for ours, theirs in zip(short, long, strict=True)]

    def fused(maps, members):
        seen = zip(members, maps, strict=True)
        return normalise(sum((one - mean) @ part.astype(np.float32) for one, (mean, part) in seen))

    def found_first(maps):
        asked, answers = (fused(maps, [one[held_out] for one in side]) for side in (short, long))
        return ((asked @ answers.T).argmax(axis=1) == np.arange(len(held_out))).mean()

    best = max((canonical_maps(texts, ridge) for ridge in RIDGES), key=found_first)
    return lambda members: fused(best, members)
