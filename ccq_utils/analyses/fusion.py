"""Learned fusion of members: weights, a gate, canonical correlation."""

import numpy as np
import torch
from scipy.linalg import eigh
from torch import nn

from ccq_utils.models.embed import normalise
from ccq_utils.models.vectors import concat

RIDGES = (0.1, 1.0, 10.0, 100.0)
"""What canonical correlation tries to add to each member's variances, in multiples of their mean."""


class Gate(nn.Module):
    """Weights of the members for a query: the same for all (``per_query`` False) or a softmax over a linear map of it."""

    def __init__(self, members: int, dims: int, per_query: bool):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(members))
        self.map = nn.Linear(dims, members, bias=False) if per_query else None
        if per_query:
            nn.init.zeros_(self.map.weight)
        self.log_scale = nn.Parameter(torch.tensor(3.0))  # the usual scale of 20 for in-batch negatives

    def forward(self, query: torch.Tensor) -> torch.Tensor:
        """``(n, D) -> (n, members)``, rows that sum to one; all equal before training."""
        logits = self.bias.expand(len(query), -1)
        return torch.softmax(logits if self.map is None else logits + self.map(query), dim=1)

    def weights(self, queries: list[np.ndarray]) -> np.ndarray:
        """Weights ``(n, members)`` of queries given as each member's vectors ``(n, d_i)``."""
        with torch.inference_mode():
            return self(torch.from_numpy(concat(queries))).numpy()


def fit_gate(short: list[np.ndarray], long: list[np.ndarray], per_query: bool, seed: int, steps: int = 200) -> Gate:
    """Fit a gate so that a short text finds its long one among all pairs (in-batch negatives); no judgement is used.

    Args:
        short, long: per member, ``(pairs, d_i)`` normalised vectors of the two sides of pairs.
    """
    torch.manual_seed(seed)
    cosines = torch.stack([torch.from_numpy(a @ b.T) for a, b in zip(short, long, strict=True)], dim=2)
    query = torch.from_numpy(concat(short))
    gate = Gate(len(short), query.shape[1], per_query)
    optimiser = torch.optim.AdamW(gate.parameters(), lr=0.02, weight_decay=0.01)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        index = torch.randperm(len(query), generator=generator)[:256]
        batch = cosines[index][:, index]
        logits = gate.log_scale.exp() * (batch * gate(query[index])[:, None, :]).sum(dim=2)
        loss = nn.functional.cross_entropy(logits, torch.arange(len(index)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return gate.eval()


class CanonicalFusion:
    """Canonical correlation of two members or more (MAXVAR; Kettenring, Biometrika 1971): where they agree most.

    Each member's vectors are centred and whitened (``ridge`` is added to their variances, in multiples of the mean), all are
    joined, and as many leading principal components of the join are kept as the smallest member has dims.
    """

    def __init__(self, ridge: float):
        self.ridge = ridge

    def fit(self, members: list[np.ndarray]) -> "CanonicalFusion":
        """Fit on ``(n, d_i)`` vectors of the same texts, one array per member; returns itself."""
        self.means_ = [vectors.mean(axis=0) for vectors in members]
        centred = [vectors - mean for vectors, mean in zip(members, self.means_, strict=True)]
        whitening = [self._whitening(vectors) for vectors in centred]
        joined = np.hstack([vectors @ one for vectors, one in zip(centred, whitening, strict=True)])
        dims = [vectors.shape[1] for vectors in members]
        _, leading = eigh(joined.T @ joined, subset_by_index=[sum(dims) - min(dims), sum(dims) - 1])
        parts = np.split(leading, np.cumsum(dims)[:-1])
        self.maps_ = [(one @ part).astype(np.float32) for one, part in zip(whitening, parts, strict=True)]
        return self

    def _whitening(self, vectors):
        values, axes = eigh(vectors.T.astype(float) @ vectors / len(vectors))
        return axes / np.sqrt(values.clip(0) + self.ridge * values.mean())

    def transform(self, members: list[np.ndarray]) -> np.ndarray:
        """The fused vectors of texts, ``(n, k) float32`` with rows of length one."""
        seen = zip(members, self.means_, self.maps_, strict=True)
        return normalise(sum((vectors - mean) @ one for vectors, mean, one in seen))


def fit_canonical(short: list[np.ndarray], long: list[np.ndarray], seed: int) -> CanonicalFusion:
    """Fit on both sides of four fifths of the pairs; of ``RIDGES``, the one that finds most of the other pairs.

    Args:
        short, long: as for ``fit_gate``.
        seed: draws which pairs are held out.
    """
    order = np.random.default_rng(seed).permutation(len(short[0]))
    held_out, fitting = np.split(order, [len(order) // 5])
    texts = [np.vstack([ours[fitting], theirs[fitting]]) for ours, theirs in zip(short, long, strict=True)]
    tried = [CanonicalFusion(ridge).fit(texts) for ridge in RIDGES]
    asked, answers = ([side[held_out] for side in part] for part in (short, long))

    def found_first(fusion):
        cosines = fusion.transform(asked) @ fusion.transform(answers).T
        return (cosines.argmax(axis=1) == np.arange(len(cosines))).mean()

    return max(tried, key=found_first)
