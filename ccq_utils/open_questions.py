"""The paper's open questions as experiments: fine-tuned members, learned fusion, domain text (notebook 06)."""

import numpy as np
import pandas as pd
import torch
from torch import nn

from ccq_utils.codecs import LshCodec, make_codec
from ccq_utils.compress import Side, chosen_decoder, ndcg, retention_row
from ccq_utils.concat import concat
from ccq_utils.embed import embed, normalise
from ccq_utils.models import finetuned
from ccq_utils.progress import progress
from ccq_utils.stress import flip_bits
from ccq_utils.study import Study

CODEC = "PCA, rotated"
"""The codec that stands for this study's pipeline wherever one has to be taken."""


def fine_tuning(study: Study, member: str) -> pd.DataFrame:
    """A member is fine-tuned on the training text's pairs in steps; its own score, the join's, the coded join's.

    Joined with the large model at equal weight; coded to a 48th of the join's bytes. Rows: ``epochs`` (0: as it was),
    ``what`` (``alone``, ``joined``, ``joined, 48x``), nDCG@10 with interval. Runs: ``WHAT, base`` and ``WHAT, fine-tuned``.
    """
    rows = []
    epochs = [0, *study.profile.open_questions.finetune_epochs]
    large = study.profile.large_model
    for count in progress(epochs, f"fine-tuning {member}"):
        model = study.models[member]
        if count:
            model = finetuned(model, study.profile, study.corpora, study.cache, epochs[1 : epochs.index(count) + 1])
        texts = {part: embed(model, study.texts(part), study.cache) for part in ("training", "calibration")}
        fitting = {part: concat([study.member_vectors(large, part), vectors]) for part, vectors in texts.items()}
        budget = 4 * fitting["training"].shape[1] // 48
        codec = make_codec(CODEC, fitting["training"].shape[1], budget, None, study.profile.seed).fit(*fitting.values())
        scores = {"alone": {}, "joined": {}, "joined, 48x": {}}
        for task in study.tasks:
            judge = study.evaluator(task)
            queries, documents = (
                embed(model, study.texts(task, split), study.cache, "document" if split is None else "query")
                for split in ("test", None)
            )
            scores["alone"][task] = ndcg(judge, normalise(queries) @ normalise(documents).T)
            joined = [
                concat([study.member_vectors(large, task, split), own])
                for split, own in (("test", queries), (None, documents))
            ]
            scores["joined"][task] = ndcg(judge, joined[0] @ joined[1].T)
            decoded = codec.decode(codec.encode(joined[1]))
            scores["joined, 48x"][task] = ndcg(judge, codec.project(joined[0]) @ decoded.T)
        for what, found in scores.items():
            if count in (epochs[0], epochs[-1]):
                study.record(f"{what}, {'fine-tuned' if count else 'base'}", found)
            for task, values in found.items():
                rows.append({"task": task, "epochs": count, "what": what, **study.interval("mean", values)._asdict()})
    return pd.DataFrame(rows)


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


def learned_fusion(study: Study) -> pd.DataFrame:
    """Plain concat against learned weights and a per-query gate, for two members and more, fitted on training pairs.

    Weights act on the query side only, so documents are indexed once: the concat ``[w1 q1; w2 q2; ...] . [d1; d2; ...]``.
    Runs: ``plain concat, K members``, ``learned weights, K members #SEED``, ``gate, K members #SEED``. The column
    ``weights`` shows each member's mean weight.
    """
    rows = []
    parts = {
        (member, part): normalise(study.member_vectors(member, part))
        for member in study.members
        for part in ("short", "long")
    }
    for count in range(2, len(study.members) + 1):
        members = study.members[:count]
        cosines = {
            task: [
                normalise(study.member_vectors(member, task, "test")) @ normalise(study.member_vectors(member, task)).T
                for member in members
            ]
            for task in study.tasks
        }
        label = "all members" if count == len(study.members) else f"{count} members"
        plain = {task: ndcg(study.evaluator(task), sum(matrices)) for task, matrices in cosines.items()}
        study.record(f"plain concat, {label}", plain)
        for way, per_query in (("learned weights", False), ("gate", True)):
            sides_of_pairs = [[parts[member, part] for member in members] for part in ("short", "long")]
            found = {task: [] for task in study.tasks}
            for seed in range(study.profile.seeds):
                gate = fit_gate(*sides_of_pairs, per_query, study.profile.seed + seed)
                for task, matrices in cosines.items():
                    query = torch.from_numpy(concat([study.member_vectors(member, task, "test") for member in members]))
                    with torch.inference_mode():
                        weights = gate(query).numpy()
                    matrix = sum(weight[:, None] * one for weight, one in zip(weights.T, matrices, strict=True))
                    found[task].append((ndcg(study.evaluator(task), matrix), weights.mean(axis=0)))
                study.record(f"{way}, {label} #{seed}", {task: runs[-1][0] for task, runs in found.items()})
            for task, runs in found.items():
                each = np.stack([scores for scores, _ in runs])
                difference = study.interval("difference", each.mean(axis=0), plain[task])
                shares = np.mean([weights for _, weights in runs], axis=0)
                rows.append(
                    {
                        "task": task,
                        "members": count,
                        "way": way,
                        "plain": plain[task].mean(),
                        "ndcg_at_10": each.mean(),
                        **difference._asdict(),
                        "seed_spread": each.mean(axis=1).std(ddof=1),
                        "weights": " / ".join(f"{share:.2f}" for share in shares),
                    }
                )
    return pd.DataFrame(rows)


def domain_text(study: Study, found: dict[str, Side], factors: list[int]) -> pd.DataFrame:
    """Codecs fitted on general text (the training text) against the task's own documents, without query or judgement.

    Rows per task, ``factor`` (compression), ``method``, ``fitted_on``: retention and the paired nDCG@10 difference to
    general text. Runs: ``METHOD, FACTORx, general text`` and ``..., own corpus``; where tasks have different corpora also
    ``..., other corpus`` (the next task's documents).
    """
    general = [study.joined(part) for part in ("training", "calibration")]
    corpora = {task: side.documents for task, side in found.items()}
    names = list(corpora)
    distinct = len({frozenset(study.tasks[task].documents.items()) for task in names}) == len(names) > 1
    rows = []
    for factor in factors:
        budget = 4 * general[0].shape[1] // factor
        for method in (CODEC, "decoder"):
            runs = {}
            fitted = {"general text": _fit(study, method, budget, *general)}
            for number, task in enumerate(names):
                for place, source in (("own corpus", task), ("other corpus", names[(number + 1) % len(names)])):
                    if place == "own corpus" or distinct:
                        fitted.setdefault(source, None)
                        fitted[source] = fitted[source] or _fit(study, method, budget, corpora[source], corpora[source])
                        runs[place, task] = fitted[source]
                runs["general text", task] = fitted["general text"]
            scores = {
                (place, task): ndcg(
                    found[task].judge,
                    codec.project(found[task].queries) @ codec.decode(codec.encode(found[task].documents)).T,
                )
                for (place, task), codec in runs.items()
            }
            for place in dict.fromkeys(place for place, _ in scores):
                study.record(f"{method}, {factor}x, {place}", {task: scores[place, task] for task in names})
                for task, side in found.items():
                    values = scores[place, task]
                    difference = study.interval("difference", values, scores["general text", task])
                    named = {"difference": difference.estimate, "difference_low": difference.low}
                    named |= {"difference_high": difference.high, "bytes_per_vector": budget}
                    rows.append(
                        retention_row(study, side, values, factor=factor, method=method, fitted_on=place) | named
                    )
    return pd.DataFrame(rows)


def _fit(study, method, budget, training, calibration):
    decoder = chosen_decoder(study, training=training) if method.startswith("decoder") else None
    return make_codec(method, training.shape[1], budget, decoder, study.profile.seed).fit(training, calibration)


def redundancy(study: Study) -> pd.DataFrame:
    """Does repetition alone make a coded vector robust? The same dims from several models, and from one model repeated.

    ``models`` is the selection's concat; ``repeated`` the first member joined with itself until it has as many dims;
    ``noisy copies`` the same with Gaussian noise of half its length on each further copy; ``one model`` the first member
    once. All are coded to the signs of Gaussian random projections (nothing is fitted that could undo the repetition) at
    the same bytes, both sides coded; ``flipped`` has a tenth of the documents' bits flipped. Runs: ``NAME, raw``,
    ``NAME, coded``, ``NAME, flipped``.
    """
    first, dims = study.members[0], study.joined("calibration").shape[1]
    budget = 4 * dims // 48
    rng = np.random.default_rng(study.profile.seed)

    def build(name, part, split=None):
        if name == "models":
            return study.joined(part, split)
        vectors = normalise(study.member_vectors(first, part, split))
        copies = [vectors]
        while name != "one model" and sum(copy.shape[1] for copy in copies) < dims:
            noise = rng.standard_normal(vectors.shape, dtype=np.float32) / np.sqrt(np.float32(vectors.shape[1]))
            copies.append(vectors + np.float32(0.5) * noise if name == "noisy copies" else vectors)
        return normalise(np.concatenate(copies, axis=1)[:, :dims])

    rows = []
    for name in ("models", "one model", "repeated", "noisy copies"):
        codec = LshCodec(8 * budget, study.profile.seed, orthogonal=False).fit(build(name, "calibration"))
        runs = {"raw": {}, "coded": {}, "flipped": {}}
        for task in study.tasks:
            judge = study.evaluator(task)
            queries, documents = build(name, task, "test"), build(name, task)
            runs["raw"][task] = ndcg(judge, queries @ documents.T)
            codes = codec.encode(documents)
            asked = codec.decode(codec.encode(queries))
            runs["coded"][task] = ndcg(judge, asked @ codec.decode(codes).T)
            damaged = flip_bits(codes, 0.1, study.profile.seed)
            runs["flipped"][task] = ndcg(judge, asked @ codec.decode(damaged).T)
        for state, found in runs.items():
            study.record(f"{name}, {state}", found)
            for task, values in found.items():
                kept = study.interval("retention", values, runs["raw"][task])
                rows.append(
                    {"task": task, "vectors": name, "state": state, "ndcg_at_10": values.mean(), **kept._asdict()}
                )
    return pd.DataFrame(rows)
