"""The paper's open questions as experiments: redundancy, fine-tuned members, domain text, growing corpora (notebook 06)."""

import itertools

import numpy as np
import pandas as pd

from ccq_utils.analyses.stress import flip_bits
from ccq_utils.codecs.byte_blocks import BlockCodec
from ccq_utils.codecs.codec import scores
from ccq_utils.codecs.percentile import LshCodec, make_codec
from ccq_utils.common.progress import progress
from ccq_utils.models.base_models import BUILDERS, finetuned
from ccq_utils.models.embed import embed, normalise
from ccq_utils.models.vectors import concat
from ccq_utils.study.retention import (
    Side,
    chosen_decoder,
    codec_scores,
    fitted_codecs,
    ndcg,
    retention_row,
    retention_rows,
)
from ccq_utils.study.scoring import PLACES, score_method, what_to_fit_on
from ccq_utils.study.stats import corrected_verdicts
from ccq_utils.study.study import Study

CODEC = "PCA, rotated"
"""The codec that stands for this study's pipeline wherever one has to be taken."""


def static_member(study: Study) -> str:
    """The member to fine-tune: wordllama, or another static member of the profile; wordllama where it has none."""
    return next((name for name in ("wordllama", "static", "model2vec") if name in study.profile.models), "wordllama")


def fine_tuning(study: Study, member: str) -> pd.DataFrame:
    """A member is fine-tuned on the training text's pairs in steps; its own score, the join's, the coded join's.

    Joined with the large model at equal weight; coded to a 48th of the join's bytes; fine-tuned and coded once per seed.
    Rows: ``epochs`` (0: as it was), ``what`` (``alone``, ``joined``, ``joined, 48x``), nDCG@10 with interval, spread over
    seeds. Runs: ``WHAT, base #SEED`` and ``WHAT, fine-tuned #SEED``.
    """
    rows = []
    epochs = [0, *study.profile.open_questions.finetune_epochs]
    for count in progress(epochs, f"fine-tuning {member}"):
        each = [
            _joined_scores(study, _finetuned(study, member, epochs[1 : epochs.index(count) + 1], seed), seed)
            for seed in range(study.profile.seeds)
        ]
        for what in each[0]:
            values = {task: np.stack([found[what][task] for found in each]) for task in study.tasks}
            if count in (epochs[0], epochs[-1]):
                study.record(f"{what}, {'fine-tuned' if count else 'base'}", values)
            for task, scored in values.items():
                interval = study.interval("mean", scored.mean(axis=0))
                spread = {"seed_spread": scored.mean(axis=1).std(ddof=1)}
                rows.append({"task": task, "epochs": count, "what": what, **interval._asdict(), **spread})
    return pd.DataFrame(rows)


def _finetuned(study, member, epochs, seed):
    model = study.models.get(member) or BUILDERS[member](study.profile, lambda: study.corpora, study.cache)
    if not epochs:
        return model
    profile = study.profile.model_copy(update={"seed": study.profile.seed + seed})
    return finetuned(model, profile, study.corpora, study.cache, epochs)


def _joined_scores(study, model, seed):
    """nDCG@10 per query of a member alone, joined with the large model, and that join coded to a 48th of its bytes."""
    large = study.profile.large_model
    fitting = [
        concat([study.member_vectors(large, part), embed(model, study.texts(part), study.cache)])
        for part in ("training", "calibration")
    ]
    dims = fitting[0].shape[1]
    codec = make_codec(CODEC, dims, 4 * dims // 48, None, study.profile.seed + seed).fit(*fitting)
    found = {"alone": {}, "joined": {}, "joined, 48x": {}}
    for task in study.tasks:
        judge = study.evaluator(task)
        queries = embed(model, study.texts(task, "test"), study.cache, "query")
        documents = embed(model, study.texts(task), study.cache)
        found["alone"][task] = ndcg(judge, normalise(queries) @ normalise(documents).T)
        queries = concat([study.member_vectors(large, task, "test"), queries])
        documents = concat([study.member_vectors(large, task), documents])
        found["joined"][task] = ndcg(judge, queries @ documents.T)
        found["joined, 48x"][task] = ndcg(judge, scores(codec, queries, codec.encode(documents)))
    return found


def domain_text(study: Study, found: dict[str, Side], factors: list[int]) -> pd.DataFrame:
    """Codecs fitted on general text (the training text) against the task's own documents, without query or judgement.

    Rows per task, ``factor`` (compression), ``method``, ``fitted_on``: retention and the paired nDCG@10 difference to
    general text. Runs, one per seed: ``METHOD, FACTORx, general text`` and ``..., own corpus``; where tasks have different
    corpora also ``..., other corpus`` (the next task's documents).
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
            values = {
                (place, task): codec_scores({task: found[task]}, codecs)[task] for (place, task), codecs in runs.items()
            }
            for place in dict.fromkeys(place for place, _ in values):
                study.record(f"{method}, {factor}x, {place}", {task: values[place, task] for task in names})
                for task, side in found.items():
                    scored, general_text = values[place, task], values["general text", task]
                    difference = study.interval("difference", scored.mean(axis=0), general_text.mean(axis=0))
                    named = difference.named("difference")
                    named |= {"difference_p": np.nan if place == "general text" else difference.p()}
                    labels = {"factor": factor, "bytes_per_vector": budget, "method": method, "fitted_on": place}
                    rows.append(retention_row(study, side, scored, **labels) | named)
    table = pd.DataFrame(rows)
    return table.assign(verdict=corrected_verdicts(table, "difference"))


def _fit(study, method, budget, training, calibration):
    seeds = range(study.profile.seeds)
    decoders = [chosen_decoder(study, seed, training) for seed in seeds] if method.startswith("decoder") else ()
    return fitted_codecs(study, method, budget, training, calibration, decoders)


def redundancy(study: Study) -> pd.DataFrame:
    """Does repetition alone make a coded vector robust? The same dims from several models, and from one model repeated.

    ``models`` is the selection's concat; ``repeated`` the first member joined with itself until it has as many dims;
    ``noisy copies`` the same with Gaussian noise of half its length on each further copy; ``one model`` the first member
    once. All are coded to the signs of Gaussian random projections (nothing is fitted that could undo the repetition) at
    the same bytes, both sides coded, once per seed; ``flipped`` has a tenth of the documents' bits flipped. Runs:
    ``NAME, raw``, ``NAME, coded #SEED``, ``NAME, flipped #SEED``.
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
    states = ("raw", "coded", "flipped")
    for name in ("models", "one model", "repeated", "noisy copies"):
        fitting = build(name, "calibration")
        codecs = [
            LshCodec(8 * budget, study.profile.seed + seed, orthogonal=False).fit(fitting)
            for seed in range(study.profile.seeds)
        ]
        runs = {state: {} for state in states}
        for task in study.tasks:
            queries, documents = build(name, task, "test"), build(name, task)
            found = _coded_scores(study, study.evaluator(task), queries, documents, codecs)
            for state, values in zip(states, found, strict=True):
                runs[state][task] = values
        raw = {task: Side(task, None, None, study.evaluator(task), values) for task, values in runs["raw"].items()}
        for state, values in runs.items():
            study.record(f"{name}, {state}", values)
            rows += retention_rows(study, raw, values, vectors=name, state=state)
    return pd.DataFrame(rows)


def _coded_scores(study, judge, queries, documents, codecs):
    """nDCG@10 per query: raw; both sides coded, once per codec; the same with a tenth of the documents' bits flipped."""
    coded, flipped = [], []
    for seed, codec in enumerate(codecs):
        asked, codes = codec.decode(codec.encode(queries)), codec.encode(documents)
        coded.append(ndcg(judge, asked @ codec.decode(codes).T))
        damaged = flip_bits(codes, 0.1, study.profile.seed + seed)
        flipped.append(ndcg(judge, asked @ codec.decode(damaged).T))
    return ndcg(judge, queries @ documents.T), np.stack(coded), np.stack(flipped)


def corpus_growth(study: Study, found: dict[str, Side], factors=(48, 192), shares=(0.05, 0.1, 0.25, 0.5, 1.0)):
    """Byte blocks that were fitted when the corpus held only a random share of the documents that they code now.

    Returns
    -------
    ``retention_rows`` per ``factor`` and ``share``, one draw of documents per seed.
    """
    rows, fittings = [], what_to_fit_on(study, found)
    seeds = [study.profile.seed + seed for seed in range(study.profile.seeds)]
    for factor, share in progress([*itertools.product(factors, shares)], "growing corpora"):

        def fit(part, share=share, factor=factor):
            documents, codecs = part.training, []
            for seed in seeds:
                early = np.random.default_rng(seed).permutation(documents)[: int(share * len(documents))]
                codecs.append(BlockCodec(4 * documents.shape[1] // factor, seed).fit(early))
            return codecs

        key = {"early share": share, "factor": factor}
        values, _ = score_method(study, found, fittings, PLACES[1], key, fit)
        rows += retention_rows(study, found, values, factor=factor, share=share)
    return pd.DataFrame(rows)
