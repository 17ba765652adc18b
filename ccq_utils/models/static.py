"""Static members (StaticEmbedding): a vector per token, and a text's vector is the mean of those of its tokens."""

from functools import partial
from pathlib import Path

import numpy as np

from ccq_utils.common.progress import progress

SCALE = 20.0  # of cosines in the loss: the default of sentence-transformers' MultipleNegativesRankingLoss
WARM_UP = 0.1  # share of the steps in which the learning rate rises from zero; it falls to zero in the rest


def static_model(tokenizer, vectors: np.ndarray):
    """A SentenceTransformer of one StaticEmbedding: a ``tokenizers.Tokenizer`` and ``(tokens, dims) float32`` vectors."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    return SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=vectors)], device="cpu")


def new_static(tokenizer_file: Path, dims: int, seed: int):
    """A static model of random token vectors."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    shape = tokenizer.get_vocab_size(), dims
    return static_model(tokenizer, np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def train_static(model, pairs: list, epochs: int, batch_size: int, learning_rate: float, seed: int) -> None:
    """Train a static model's token vectors in place so that a short text finds its long one among those of the batch.

    The loss is that of sentence-transformers' MultipleNegativesRankingLoss, the optimizer AdamW. Numbers are float64, so that
    threads and instruction sets, which round otherwise, do not lead to another model; and only the vectors of tokens that
    occur are held, as others have no gradient.
    """
    import torch
    from torch.nn.functional import cross_entropy, normalize
    from transformers import get_linear_schedule_with_warmup

    table, encode = model[0].embedding.weight, partial(model[0].tokenizer.encode, add_special_tokens=False)
    tokens = [[np.array(encode(text).ids, dtype=np.int64) for text in side] for side in zip(*pairs, strict=True)]
    used = np.unique(np.concatenate([ids for side in tokens for ids in side]))
    bag = torch.nn.EmbeddingBag.from_pretrained(table[used].detach().double(), freeze=False)

    def vectors(side, rows):
        texts = [np.searchsorted(used, side[row]) for row in rows]
        starts = np.cumsum([0, *map(len, texts[:-1])])
        return normalize(bag(torch.from_numpy(np.concatenate(texts)), torch.from_numpy(starts)))

    rng = np.random.default_rng(seed)
    steps = [rows for _ in range(epochs) for rows in _batches(pairs, batch_size, rng)]
    optimizer = torch.optim.AdamW(bag.parameters(), learning_rate, weight_decay=0)
    schedule = get_linear_schedule_with_warmup(optimizer, round(WARM_UP * len(steps)), len(steps))
    for rows in progress(steps, f"training a static model on {len(pairs)} pairs"):
        short, long = (vectors(side, rows) for side in tokens)
        optimizer.zero_grad()
        cross_entropy(SCALE * short @ long.T, torch.arange(len(rows))).backward()
        torch.nn.utils.clip_grad_norm_(bag.parameters(), 1)
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        table[used] = bag.weight.float()


def _batches(pairs, size, rng):
    """Places of pairs in a seeded order, ``size`` at a time; what does not fill a batch is left out, unless it is the first.

    No text stands in a batch twice, for it would count as a wrong answer to itself.
    """
    waiting, first = rng.permutation(len(pairs)).tolist(), True
    while waiting:
        batch, seen, left = [], set(), []
        for place in waiting:
            if len(batch) < size and seen.isdisjoint(pairs[place]):
                batch.append(place)
                seen.update(pairs[place])
            else:
                left.append(place)
        if len(batch) < size and not first:
            return
        yield batch
        waiting, first = left, False
