"""Decoders trained on a profile's text, kept in the cache with their loss history."""

import threading

import pandas as pd
import torch

from ccq_utils.codecs.decoder import LOSSES, Decoder, fit_pca, train_decoder
from ccq_utils.common.cache import array_digest
from ccq_utils.common.threads import side_by_side
from ccq_utils.study.study import Study

DRAWING = threading.Lock()  # torch's random numbers are those of all threads


def trained_decoder(
    study, start="random", dims=None, seed=0, members=None, shares=None, training=None, epochs=None, loss=None, **shape
) -> tuple[Decoder, pd.DataFrame]:
    """A decoder trained on the profile's training text, and its losses per epoch.

    Args:
        start: ``random`` (the paper's) or ``PCA`` (uncentred PCA of the training concat; depth 1 or residual).
        dims: output dims; the profile's if None; stops beyond it are left out. ``seed`` is added to the profile's.
        training: vectors to train on, ``(n, D)``; the training text's concat if None.
        epochs: train so many, to show what happens past the best; None stops early, as the profile says.
        shape: what ``Decoder`` takes further (``depth``, ``dropout``, ``residual``); the paper's ``loss`` if None.
    """
    spec = study.profile.decoder
    training = study.concat("training", None, members, shares) if training is None else training
    validation = study.concat("validation", None, members, shares)
    dims = min(dims or spec.dims, training.shape[1])
    settings = {"stops": [stop for stop in spec.stops if stop < dims] + [dims], "epochs": epochs or spec.epochs}
    settings |= {"batch_size": spec.batch_size, "learning_rate": spec.learning_rate * (0.1 if start == "PCA" else 1)}
    settings |= {"patience": None if epochs else spec.patience, "seed": study.profile.seed + seed}
    settings["loss"] = loss or LOSSES[0]

    def build(folder):
        with DRAWING:
            torch.manual_seed(settings["seed"])
            decoder = Decoder(training.shape[1], dims, **shape)
        if start == "PCA":
            decoder.start_from(fit_pca(training, dims))
        history = train_decoder(decoder, training, validation, **settings)
        decoder.save(folder)
        history.to_csv(folder / "history.csv", index=False)

    key = {"start": start, "dims": dims, **settings, **shape, "vectors": array_digest(training, validation)}
    folder = study.cache.artifact("decoders", key, build)
    return Decoder.load(folder), pd.read_csv(folder / "history.csv")


def trained_decoders(study: Study, given: list[dict]) -> list[tuple[Decoder, pd.DataFrame]]:
    """``trained_decoder`` of several settings, side by side: without dropout, whose random numbers threads would share."""
    return [*side_by_side(lambda settings: trained_decoder(study, **settings), zip(given, strict=True))]


def decoders(study: Study, seeds: int | None = None, **given) -> list[Decoder]:
    """The paper's decoder, from a random start, one per seed of the profile; ``given`` goes to ``trained_decoder``."""
    seeds = range(seeds or study.profile.seeds)
    return [decoder for decoder, _ in trained_decoders(study, [{"seed": seed, **given} for seed in seeds])]


def weights_of(decoders: list[Decoder]) -> list[str]:
    """What tells decoders apart in a key of the cache."""
    return [array_digest(*(part.detach().numpy() for part in decoder.parameters())) for decoder in decoders]
