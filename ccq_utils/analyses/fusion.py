"""Learned ways to join members, held against the plain concat: weights, a gate, canonical correlation (notebook 06)."""

import numpy as np
import pandas as pd
import torch
from scipy.linalg import eigh
from torch import nn

from ccq_utils.common.progress import progress
from ccq_utils.models.embed import normalise
from ccq_utils.models.vectors import concat
from ccq_utils.study.retention import ndcg
from ccq_utils.study.stats import corrected_verdicts
from ccq_utils.study.study import Study

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


def fit_gate(short: list[np.ndarray], long: list[np.ndarray], per_query: bool, seed: int, steps: int = 200) -> Gate:
    """Fit a gate so that a short text finds its long one among all pairs (in-batch negatives); no judgement is used.

    Parameters
    ----------
    short, long : per member, ``(pairs, d_i)`` normalised vectors of the two sides of pairs
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
    """Directions on which the members agree most: canonical correlation of two members, and of more (MAXVAR).

    Each member's vectors are centred and whitened, all are joined, and the leading principal components of the join are
    kept, as many as the smallest member has dims (Kettenring 1971, "Canonical analysis of several sets of variables").

    Parameters
    ----------
    ridge : is added to each member's variances, in multiples of their mean: little whitens fully, much leaves the PCA
        of the plain concat

    Attributes
    ----------
    means_, maps_ : per member, ``(d_i,)`` and ``(d_i, k)``
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

    def parts(self, members: list[np.ndarray]) -> list[np.ndarray]:
        """What each member adds to the fused vector, ``(n, k)`` each."""
        seen = zip(members, self.means_, self.maps_, strict=True)
        return [(vectors - mean) @ one for vectors, mean, one in seen]

    def transform(self, members: list[np.ndarray]) -> np.ndarray:
        """The fused vectors of texts, ``(n, k) float32`` with rows of length one."""
        return normalise(sum(self.parts(members)))


def fit_canonical(short: list[np.ndarray], long: list[np.ndarray], seed: int) -> CanonicalFusion:
    """Fit on both sides of four fifths of the pairs; of ``RIDGES``, the one that finds most of the other pairs.

    Parameters
    ----------
    short, long : as for ``fit_gate``
    seed : draws which pairs are held out
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


WAYS = {
    "learned weights": lambda short, long, seed: fit_gate(short, long, False, seed),
    "gate": lambda short, long, seed: fit_gate(short, long, True, seed),
    "canonical correlation": fit_canonical,
}
"""Each is fitted on pairs with a seed; ``_fused_scores`` knows how to score with it."""


def learned_fusion(study: Study) -> pd.DataFrame:
    """Plain concat against ``WAYS`` of fusing, for two members and more, fitted on training pairs once per seed.

    Weights act on the query side only, so documents are indexed once: the concat ``[w1 q1; w2 q2; ...] . [d1; d2; ...]``;
    canonical correlation maps both sides. Runs: ``plain concat, K members`` and ``WAY, K members #SEED``. The column
    ``weights`` shows each member's mean share: its weight, or its part of the squared length of the fused queries.
    """
    rows = []
    for count in progress(range(2, len(study.members) + 1), "learned fusion"):
        vectors = {
            place: [normalise(study.member_vectors(member, *place)) for member in study.members[:count]]
            for place in [("short",), ("long",), *((task, *split) for task in study.tasks for split in ((), ("test",)))]
        }
        cosines = {
            task: [ours @ theirs.T for ours, theirs in zip(vectors[task, "test"], vectors[task,], strict=True)]
            for task in study.tasks
        }
        label = "all members" if count == len(study.members) else f"{count} members"
        plain = {task: ndcg(study.evaluator(task), sum(matrices)) for task, matrices in cosines.items()}
        study.record(f"plain concat, {label}", plain)
        for way, fit in WAYS.items():
            found = {task: [] for task in study.tasks}
            for seed in range(study.profile.seeds):
                fused = fit(vectors["short",], vectors["long",], study.profile.seed + seed)
                for task in study.tasks:
                    matrix, shares = _fused_scores(fused, vectors[task, "test"], vectors[task,], cosines[task])
                    found[task].append((ndcg(study.evaluator(task), matrix), shares))
            values = {task: np.stack([scored for scored, _ in runs]) for task, runs in found.items()}
            study.record(f"{way}, {label}", values)
            for task, runs in found.items():
                shares = np.mean([each for _, each in runs], axis=0)
                labels = {"task": task, "members": count, "way": way}
                rows.append(labels | _against_plain(study, values[task], plain[task], shares))
    table = pd.DataFrame(rows)
    return table.assign(verdict=corrected_verdicts(table, "estimate"))


def _fused_scores(fused, queries, documents, cosines):
    """Scores ``(queries, documents)`` and the members' mean shares; ``cosines`` are the members' own."""
    if isinstance(fused, CanonicalFusion):
        lengths = np.array([(part**2).sum(axis=1).mean() for part in fused.parts(queries)])
        return fused.transform(queries) @ fused.transform(documents).T, lengths / lengths.sum()
    with torch.inference_mode():
        weights = fused(torch.from_numpy(concat(queries))).numpy()
    return sum(weight[:, None] * one for weight, one in zip(weights.T, cosines, strict=True)), weights.mean(axis=0)


def _against_plain(study, values, plain, shares):
    difference = study.interval("difference", values.mean(axis=0), plain)
    return {
        "plain": plain.mean(),
        "ndcg_at_10": values.mean(),
        **difference._asdict(),
        "p": difference.p(),
        "seed_spread": values.mean(axis=1).std(ddof=1),
        "weights": " / ".join(f"{share:.2f}" for share in shares),
    }
