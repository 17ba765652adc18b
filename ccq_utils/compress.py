"""Retention of a compressed concat: fit without judgements, code the documents, score, compare per query."""

import hashlib
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr

from ccq_utils.codecs import scores
from ccq_utils.decoder import Decoder, fit_pca, train_decoder
from ccq_utils.embed import normalise
from ccq_utils.study import Study


@dataclass
class Side:
    """One task's float vectors and the per-query scores of the raw concat, the reference of every retention."""

    task: str
    queries: np.ndarray
    documents: np.ndarray
    judge: object
    reference: np.ndarray


def sides(study: Study, split: str = "test", members=None, weights=None) -> dict[str, Side]:
    """The raw concat of every task that has ``split``: its vectors and nDCG@10 per query."""
    found = {}
    for task in study.tasks if split == "test" else study.tuning_tasks:
        queries, documents = (study.joined(task, part, members, weights) for part in (split, None))
        judge = study.evaluator(task, split)
        found[task] = Side(task, queries, documents, judge, ndcg(judge, queries @ documents.T))
    return found


def ndcg(judge, matrix: np.ndarray) -> np.ndarray:
    """nDCG@10 per query of a score matrix."""
    return judge(matrix)["ndcg_at_10"].to_numpy()


def record_codec(study: Study, found: dict[str, Side], codec, run: str, symmetric: bool = False) -> None:
    """Record the per-query scores of a fitted codec as a run."""
    study.record(
        run,
        {
            task: ndcg(side.judge, scores(codec, side.queries, codec.encode(side.documents), symmetric))
            for task, side in found.items()
        },
    )


def record_decoder(study: Study, found: dict[str, Side], decoder: Decoder, stop: int, run: str) -> None:
    """Record the per-query scores of a decoder's float output at one stop as a run."""
    study.record(
        run,
        {
            task: ndcg(side.judge, decoder.transform(side.queries, stop) @ decoder.transform(side.documents, stop).T)
            for task, side in found.items()
        },
    )


def retention_row(study: Study, side: Side, values: np.ndarray, **labels) -> dict:
    """One tidy row: labels, nDCG@10, retention against the raw concat with its interval, number of queries."""
    interval = study.interval("retention", values, side.reference)
    return {"task": side.task, **labels, "ndcg_at_10": values.mean(), **interval._asdict()}


def codec_rows(study: Study, found: dict[str, Side], codec, symmetric=(False, True), **labels) -> list[dict]:
    """Retention of a fitted codec on every task, for asymmetric and symmetric scoring."""
    rows = []
    for side in found.values():
        codes = codec.encode(side.documents)
        for both in symmetric:
            values = ndcg(side.judge, scores(codec, side.queries, codes, both))
            scoring = "symmetric" if both else "asymmetric"
            factor = 4 * side.documents.shape[1] / codes.shape[1]
            sizes = {"bytes_per_vector": codes.shape[1], "compression_factor": factor}
            rows.append(retention_row(study, side, values, **labels, scoring=scoring, **sizes))
    return rows


def decoder_rows(study: Study, found: dict[str, Side], decoder: Decoder, stops: list[int], label: str) -> list[dict]:
    """Retention of a decoder's float output at each stop, on every task; ``label`` goes to the column ``decoder``."""
    rows = []
    for side in found.values():
        queries, documents = decoder.transform(side.queries), decoder.transform(side.documents)
        for stop in stops:
            values = ndcg(side.judge, normalise(queries[:, :stop]) @ normalise(documents[:, :stop]).T)
            rows.append(retention_row(study, side, values, decoder=label, stop=stop))
    return rows


def cosine_agreement(vectors: np.ndarray, decoder: Decoder, stops: list[int], label: str) -> list[dict]:
    """How a decoder's pairwise cosines on held-out text relate to the concat's own, per stop.

    ``offset`` is their mean difference, ``error`` the root mean squared difference (what the loss sees), ``rank
    correlation`` Spearman's over all pairs, and ``near pairs`` the same over the two percent of pairs that the concat
    finds closest (what retrieval sees).
    """
    upper = np.triu_indices(len(vectors), 1)
    teacher = (vectors @ vectors.T)[upper]
    near = teacher >= np.quantile(teacher, 0.98)
    decoded, rows = decoder.transform(vectors), []
    for stop in stops:
        cut = normalise(decoded[:, :stop])
        student = (cut @ cut.T)[upper]
        measured = {"offset": (student - teacher).mean(), "error": np.sqrt(((student - teacher) ** 2).mean())}
        measured["rank correlation"] = spearmanr(teacher, student).statistic
        measured["near pairs"] = spearmanr(teacher[near], student[near]).statistic
        rows.append({"decoder": label, "stop": stop, **measured})
    return rows


def trained_decoder(
    study: Study, start: str, dims=None, depth=1, width=512, seed=0, early_stop=True, training=None, **regular
) -> tuple[Decoder, pd.DataFrame]:
    """A decoder trained on the profile's training text, cached by content, with its loss history.

    Parameters
    ----------
    start : ``random`` (the paper's) or ``PCA`` (uncentred PCA of the training concat; depth 1 or residual)
    dims : output dims; the profile's if None; stops beyond it are left out
    seed : added to the profile's seed
    early_stop : False trains all ablation epochs, to show what happens past the best one
    training : vectors to train on; the training text's concat if None
    regular : what ``Decoder`` and ``train_decoder`` take further: ``dropout``, ``residual``, ``weight_decay``, ``loss``
    """
    spec = study.profile.decoder
    training = study.joined("training") if training is None else training
    validation = study.joined("validation")
    dims = min(dims or spec.dims, training.shape[1])
    stops = [stop for stop in spec.stops if stop < dims] + [dims]
    settings = {
        "stops": stops,
        "epochs": spec.epochs if early_stop else spec.ablation_epochs,
        "batch_size": spec.batch_size,
        "learning_rate": spec.learning_rate * (0.1 if start == "PCA" else 1),
        "patience": spec.patience if early_stop else None,
        "seed": study.profile.seed + seed,
    }
    key = {
        "start": start,
        "dims": dims,
        "depth": depth,
        "width": width,
        **settings,
        **regular,
        "vectors": _fingerprint(training, validation),
    }
    shape = {name: regular.pop(name) for name in ("dropout", "residual") if name in regular}

    def build(folder):
        torch.manual_seed(settings["seed"])
        decoder = Decoder(training.shape[1], dims, depth, width, **shape)
        if start == "PCA":
            decoder.start_from(fit_pca(training, dims))
        history = train_decoder(decoder, training, validation, **settings, **regular)
        decoder.save(folder)
        history.to_csv(folder / "history.csv", index=False)

    folder = study.cache.artifact("decoders", key, build)
    return Decoder.load(folder), pd.read_csv(folder / "history.csv")


def chosen_decoder(study: Study, seed: int = 0, training: np.ndarray | None = None) -> Decoder:
    """The trained decoder that notebook 03 chose on validation queries; trained again if the cache does not have it."""
    return trained_decoder(study, study.read("03_decoders")["start"][0], seed=seed, training=training)[0]


def _fingerprint(*arrays):
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()
