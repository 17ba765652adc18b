"""Retention of a compressed concat: fit without judgements, code the documents, score, compare per query."""

import inspect
import json
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata

from ccq_utils.codecs import losses
from ccq_utils.codecs.decoder import Decoder, fit_pca, train_decoder
from ccq_utils.codecs.percentile import DETERMINISTIC, make_codec, scores
from ccq_utils.common.cache import digest, fingerprint
from ccq_utils.models.embed import normalise
from ccq_utils.study.study import Study

MACRO = "macro mean"
"""What the column ``task`` says of the mean over tasks."""
SCARCE_EPOCHS = 5
"""How many times more epochs a decoder that is trained on few passages gets at most."""
NEAREST = 10
"""How many nearest texts ``cosine_agreement`` looks at: as many as nDCG@10 does."""
HELD_OUT = 10
"""One in so many short texts is held out from a decoder that is trained on them."""


@dataclass
class Side:
    """One task's float vectors and the per-query scores of the raw concat, the reference of every retention."""

    task: str
    queries: np.ndarray
    documents: np.ndarray
    judge: object
    reference: np.ndarray

    @cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) of the vectors and of the raw concat's scores, which the judgements decide."""
        return fingerprint(self.queries, self.documents, self.reference)


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


def fitted_codecs(study: Study, name: str, budget: int, training=None, calibration=None, decoders=()) -> list:
    """A codec of ``CODECS`` fitted once per seed where it draws or trains something, else once.

    Parameters
    ----------
    training, calibration : vectors to fit on; the selection's training and calibration text where ``training`` is None.
        ``calibration`` alone may be None: a codec then fits all on ``training``, the corpus that it is going to code
    decoders : trained decoders, one per seed, for the codecs that take one
    """
    if training is None:
        training, calibration = study.joined("training"), study.joined("calibration")
    return [
        make_codec(name, training.shape[1], budget, decoder, study.profile.seed + seed).fit(training, calibration)
        for seed, decoder in enumerate(decoders if name.startswith("decoder") else [None] * seeds_of(study, name))
    ]


def seeds_of(study: Study, name: str) -> int:
    """How often a codec is fitted: once where nothing in it is drawn or trained."""
    return 1 if name in DETERMINISTIC else study.profile.seeds


def codec_scores(found: dict[str, Side], codecs: list, symmetric: bool = False) -> dict[str, np.ndarray]:
    """nDCG@10 per task, ``(seeds, queries)``, of a codec fitted once per seed; documents that tasks share are coded once."""
    digests = {task: fingerprint(side.documents) for task, side in found.items()}
    values = {task: [] for task in found}
    for codec in codecs:
        coded = {}
        for task, side in found.items():
            if digests[task] not in coded:
                coded[digests[task]] = codec.encode(side.documents)
            values[task].append(ndcg(side.judge, scores(codec, side.queries, coded[digests[task]], symmetric)))
    return {task: np.stack(each) for task, each in values.items()}


def retention_row(study: Study, side: Side, values: np.ndarray, **labels) -> dict:
    """One tidy row: labels, nDCG@10, retention against the raw concat with its interval, queries, spread over seeds.

    Parameters
    ----------
    values : per-query scores ``(queries,)``, or ``(seeds, queries)`` of a run that was repeated: averaged per query;
        ``seed_spread`` is the standard deviation of the retention over seeds, NaN where nothing was repeated
    """
    each = np.atleast_2d(values)
    interval = study.interval("retention", each.mean(axis=0), side.reference)
    measured = {"ndcg_at_10": each.mean(), **interval._asdict(), "seed_spread": _spread([each], [side.reference])}
    return {"task": side.task, **labels, **measured}


def retention_rows(study: Study, found: dict[str, Side], values: dict[str, np.ndarray], **labels) -> list[dict]:
    """``retention_row`` of every task and, where there are several, of their mean (task ``macro mean``)."""
    rows = [retention_row(study, side, values[task], **labels) for task, side in found.items()]
    if len(found) > 1:
        each = [np.atleast_2d(values[task]) for task in found]
        reference = [side.reference for side in found.values()]
        interval = study.interval("retention", [scores.mean(axis=0) for scores in each], reference)
        measured = {"ndcg_at_10": np.mean([row["ndcg_at_10"] for row in rows]), **interval._asdict()}
        rows.append({"task": MACRO, **labels, **measured, "seed_spread": _spread(each, reference)})
    return rows


def _spread(each, reference):
    if len(each[0]) < 2:
        return np.nan
    return np.mean([s.mean(axis=1) / r.mean() for s, r in zip(each, reference, strict=True)], axis=0).std(ddof=1)


def codec_rows(study: Study, found: dict[str, Side], codecs: list, symmetric=(False, True), **labels) -> list[dict]:
    """Retention of a codec, fitted once per seed, on every task and in the mean, for asymmetric and symmetric scoring."""
    rows = []
    for both in symmetric:
        sizes = {
            "scoring": "symmetric" if both else "asymmetric",
            "bytes_per_vector": codecs[0].bytes_per_vector,
            "compression_factor": 4 * next(iter(found.values())).documents.shape[1] / codecs[0].bytes_per_vector,
        }
        rows += retention_rows(study, found, codec_scores(found, codecs, both), **labels, **sizes)
    return rows


def decoder_rows(study: Study, found: dict[str, Side], decoder: Decoder, stops: list[int], label: str) -> list[dict]:
    """Retention of a decoder's float output at each stop, on every task; ``label`` goes to the column ``decoder``."""
    values = decoder_scores(found, [decoder], stops)
    return [
        row
        for stop in stops
        for row in retention_rows(study, found, {task: values[task, stop] for task in found}, decoder=label, stop=stop)
    ]


def decoder_scores(found: dict[str, Side], decoders: list[Decoder], stops: list[int]) -> dict[tuple, np.ndarray]:
    """nDCG@10 per (task, stop), ``(seeds, queries)``, of the float output of a decoder that was trained once per seed."""
    values = {(task, stop): [] for task in found for stop in stops}
    for decoder in decoders:
        for task, side in found.items():
            queries, documents = decoder.transform(side.queries), decoder.transform(side.documents)
            for stop in stops:
                cut = normalise(queries[:, :stop]), normalise(documents[:, :stop])
                values[task, stop].append(ndcg(side.judge, cut[0] @ cut[1].T))
    return {place: np.stack(each) for place, each in values.items()}


def cosine_agreement(
    study: Study, vectors: np.ndarray, decoders: dict[str, list[Decoder]], stops: list[int]
) -> pd.DataFrame:
    """How decoders' cosines between held-out texts relate to the concat's own, per stop.

    Each text in turn is held against all others, as a query is against documents; intervals resample these texts.
    Measures: ``offset``, the mean difference; ``error``, the root mean squared difference (what the loss sees); ``rank
    correlation``, Spearman's over the others, mean over texts; ``nearest kept``, the share of a text's ten nearest that
    stay its ten nearest (what retrieval sees).

    Parameters
    ----------
    decoders : name -> one decoder per seed; measures are averaged per text over seeds, ``seed_spread`` is their
        standard deviation over seeds, NaN where there is one
    """
    teacher, rows = _to_others(vectors), []
    for name, group in decoders.items():
        decoded = [decoder.transform(vectors) for decoder in group]
        for stop in stops:
            found = [_agreement(teacher, _to_others(normalise(each[:, :stop]))) for each in decoded]
            for measure in found[0]:
                each = np.stack([one[measure] for one in found])
                scale = np.sqrt if measure == "error" else np.asarray
                *interval, texts = study.interval("mean", each.mean(axis=0))
                estimate, low, high = map(float, scale(interval))
                spread = scale(each.mean(axis=1)).std(ddof=1) if len(each) > 1 else np.nan
                labels = {"decoder": name, "stop": stop, "measure": measure}
                rows.append(
                    labels | {"estimate": estimate, "low": low, "high": high, "texts": texts, "seed_spread": spread}
                )
    return pd.DataFrame(rows)


def _to_others(vectors):
    """Cosines of every text with all others, ``(n, n - 1)``."""
    others = ~np.eye(len(vectors), dtype=bool)
    return (vectors @ vectors.T)[others].reshape(len(vectors), -1)


def _agreement(teacher, student):
    """Per text: mean difference, mean squared difference, rank correlation, share of its nearest that are kept."""
    ranks = [rankdata(cosines, axis=1) for cosines in (teacher, student)]
    ours, theirs = (normalise(each - each.mean(axis=1, keepdims=True)) for each in ranks)
    top = [each > each.shape[1] - NEAREST for each in ranks]
    return {
        "offset": (student - teacher).mean(axis=1),
        "error": ((student - teacher) ** 2).mean(axis=1),
        "rank correlation": (ours * theirs).sum(axis=1),
        "nearest kept": (top[0] & top[1]).sum(axis=1) / NEAREST,
    }


def trained_decoder(
    study: Study,
    start: str,
    dims=None,
    depth=1,
    width=512,
    seed=0,
    early_stop=True,
    training=None,
    passages=None,
    queries=False,
    **regular,
) -> tuple[Decoder, pd.DataFrame]:
    """A decoder trained on the profile's training text, cached by content, with its loss history.

    Parameters
    ----------
    start : ``random`` (the paper's) or ``PCA`` (uncentred PCA of the training concat; depth 1 or residual)
    dims : output dims; the profile's if None; stops beyond it are left out
    seed : added to the profile's seed
    early_stop : False trains all ablation epochs, to show what happens past the best one
    training : vectors to train on; the training text's concat if None
    passages : train on the first so many only, with as many more epochs (at most ``SCARCE_EPOCHS`` times)
    queries : put the short sides of the text's pairs, which read like queries, among the passages, in held-out text too
    regular : what ``Decoder`` and ``train_decoder`` take further: ``dropout``, ``residual``, ``weight_decay``, ``loss``,
        ``neighbours``, ``bits``
    """
    spec = study.profile.decoder
    training = study.joined("training") if training is None else training
    epochs = spec.epochs if early_stop else spec.ablation_epochs
    if passages is not None:
        epochs *= min(SCARCE_EPOCHS, max(1, len(training) // passages))
        training = training[:passages]
    validation = study.joined("validation")
    dims = min(dims or spec.dims, training.shape[1])
    stops = [stop for stop in spec.stops if stop < dims] + [dims]
    settings = {
        "stops": stops,
        "epochs": epochs,
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
        "vectors": fingerprint(training, validation),
        "code": digest(*map(inspect.getsource, (Decoder, train_decoder, losses))),
    }
    texts = [training, validation]
    if queries:
        short = study.joined("short")
        held_out = np.arange(len(short)) % HELD_OUT == 0
        texts = [np.concatenate(pair) for pair in zip(texts, (short[~held_out], short[held_out]), strict=True)]
        key["queries"] = fingerprint(*texts)
    shape = {name: regular.pop(name) for name in ("dropout", "residual") if name in regular}

    def build(folder):
        torch.manual_seed(settings["seed"])
        decoder = Decoder(training.shape[1], dims, depth, width, **shape)
        if start == "PCA":
            decoder.start_from(fit_pca(training, dims))
        history = train_decoder(decoder, *texts, **settings, **regular)
        decoder.save(folder)
        history.to_csv(folder / "history.csv", index=False)

    folder = study.cache.artifact("decoders", key, build)
    return Decoder.load(folder), pd.read_csv(folder / "history.csv")


def chosen_decoder(study: Study, seed: int = 0, training: np.ndarray | None = None) -> Decoder:
    """The trained decoder that notebook 03 chose on validation queries; trained again if the cache does not have it."""
    chosen = study.read("03_decoders").iloc[0]
    objective = json.loads(chosen.get("objective", "{}"))
    return trained_decoder(study, chosen["start"], seed=seed, training=training, **objective)[0]
