"""The decoder: losses against a direct computation, PCA against scikit-learn, training, saving, bad input."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.decomposition import TruncatedSVD

from ccq_utils.codecs.decoder import (
    Decoder,
    fit_pca,
    principal_axes,
    reconstruction_loss,
    similarity_loss,
    train_decoder,
)
from ccq_utils.common.errors import StudyError


@pytest.fixture(scope="module")
def training(random_vectors):
    return random_vectors(200, 24, 1, decay=0.85)


@pytest.fixture(scope="module")
def validation(random_vectors):
    return random_vectors(60, 24, 2, decay=0.85)


def settings(**changes):
    given = {"stops": [4, 8], "epochs": 4, "batch_size": 32, "learning_rate": 1e-2, "patience": None, "seed": 3}
    return given | changes


def random_decoder(seed=0, **shape):
    torch.manual_seed(seed)
    return Decoder(**({"in_dims": 24, "out_dims": 8} | shape))


def weights(decoder):
    return {name: values.clone() for name, values in decoder.state_dict().items()}


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first | second)


@pytest.mark.parametrize("stops", [[3], [2, 3, 7, 16]])
def test_similarity_loss_is_the_mean_of_squared_cosine_differences(training, stops):
    inputs, outputs = training[:10], training[10:20, ::-1][:, :16].copy()
    cosines = [1 - cdist(outputs[:, :stop], outputs[:, :stop], "cosine") for stop in stops]
    expected = np.mean([(each - inputs @ inputs.T) ** 2 for each in cosines])
    found = similarity_loss(torch.from_numpy(inputs), torch.from_numpy(outputs), stops)
    assert found.item() == pytest.approx(expected, rel=1e-4)


def test_similarity_loss_of_the_vectors_themselves_is_zero_and_of_zeros_finite(training):
    vectors = torch.from_numpy(training)
    assert similarity_loss(vectors, 5 * vectors, [24]).item() == pytest.approx(0, abs=1e-10)
    assert torch.isfinite(similarity_loss(vectors, torch.zeros_like(vectors), [4]))


def test_reconstruction_loss_of_pca_is_what_it_leaves_out(training):
    weight, values = fit_pca(training, 24).layers[0].weight.detach(), torch.from_numpy(training)
    outputs = values @ weight.T
    left_out = (outputs[:, 8:] ** 2).sum(1).mean()
    assert reconstruction_loss(values, outputs, [8], weight).item() == pytest.approx(left_out.item(), rel=1e-4)
    assert reconstruction_loss(values, outputs, [24], weight).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("stops", [[8], [3, 8], [3, 8, 24]])
def test_reconstruction_loss_is_the_mean_over_prefixes(training, stops):
    values, weight = torch.from_numpy(training), torch.randn(24, 24, generator=torch.Generator().manual_seed(0))
    outputs = values @ weight.T
    errors = [(outputs[:, :stop] @ weight[:stop] - values).square().sum(dim=1).mean().item() for stop in stops]
    assert reconstruction_loss(values, outputs, stops, weight).item() == pytest.approx(np.mean(errors), rel=1e-5)


@pytest.mark.parametrize("dims", [1, 5, 12])
def test_pca_and_each_prefix_span_what_scikit_learn_finds(training, dims):
    axes = fit_pca(training, 12).layers[0].weight.detach().numpy()[:dims]
    svd = TruncatedSVD(dims, algorithm="arpack", random_state=0).fit(training.astype(np.float64))
    assert np.allclose(axes.T @ axes, svd.components_.T @ svd.components_, atol=1e-3)
    assert np.allclose(axes @ axes.T, np.eye(dims), atol=1e-5)


def test_axes_do_not_hang_on_the_order_of_the_vectors(training):
    assert np.allclose(principal_axes(training), principal_axes(training[::-1].copy()), atol=1e-9)


def test_axes_of_fewer_vectors_than_dims_are_whole_and_not_chosen_by_rounding(training):
    few = training[:9]
    axes, others = principal_axes(few), principal_axes(few[::-1] * np.float32(0.5))
    assert np.allclose(axes.T @ axes, np.eye(24), atol=1e-12) and np.allclose(few @ axes[:, 9:], 0, atol=1e-6)
    assert np.allclose(axes, others, atol=1e-9)


def test_pca_of_all_dims_keeps_every_cosine(training, validation):
    decoded = fit_pca(training, 24).transform(validation)
    assert np.allclose(decoded @ decoded.T, validation @ validation.T, atol=1e-5)


def test_pca_of_more_dims_than_the_vectors_have_is_an_error(training):
    with pytest.raises(StudyError, match="PCA to 25 dims needs vectors of at least as many, got 24"):
        fit_pca(training, 25)


def test_transform_truncates_and_gives_rows_of_length_one(training):
    decoder = random_decoder()
    short = decoder.transform(training, 5)
    assert short.shape == (200, 5) and short.dtype == np.float32
    assert np.allclose(np.linalg.norm(short, axis=1), 1, atol=1e-5)
    whole = decoder.transform(training)
    assert np.allclose(short, whole[:, :5] / np.linalg.norm(whole[:, :5], axis=1, keepdims=True), atol=1e-5)


@pytest.mark.parametrize("depth", [1, 3])
def test_depth_counts_linear_layers(depth):
    layers = random_decoder(depth=depth, width=6).layers
    assert sum(isinstance(layer, torch.nn.Linear) for layer in layers) == depth


def test_depth_one_is_a_linear_map(training):
    decoder = random_decoder()
    with torch.no_grad():
        first, second = torch.from_numpy(training[:5]), torch.from_numpy(training[5:10])
        assert torch.allclose(decoder(first + 2 * second), decoder(first) + 2 * decoder(second), atol=1e-5)


def test_deeper_decoder_is_not_close_to_a_linear_map(training):
    decoder = random_decoder(depth=2, width=64).eval()
    with torch.no_grad():
        first, second, nothing = (
            torch.from_numpy(part) for part in (training[:50], training[50:100], 0 * training[:50])
        )
        whole, nothing = decoder(first + second), decoder(nothing)
        rest = whole - (decoder(first) + decoder(second) - nothing)
    assert rest.std() > 0.3 * (whole - nothing).std()


def test_training_lowers_the_held_out_loss(training, validation):
    history = train_decoder(random_decoder(), training, validation, **settings())
    assert list(history["epoch"]) == [0, 1, 2, 3, 4]
    assert history["validation_loss"].min() < 0.8 * history["validation_loss"][0]
    assert history["training_loss"].iloc[-1] < history["training_loss"][1]


def test_weights_of_the_best_epoch_are_kept(training, validation):
    decoder = fit_pca(training, 8)
    start = weights(decoder)
    history = train_decoder(decoder, training, validation, **settings(learning_rate=1.0))
    assert history["validation_loss"].idxmin() == 0  # such steps can only do harm
    assert same(weights(decoder), start)


def test_history_tells_the_loss_of_the_weights_that_are_kept(training, validation):
    decoder = random_decoder()
    history = train_decoder(decoder, training, validation, **settings())
    vectors = torch.from_numpy(validation)
    with torch.no_grad():
        kept = similarity_loss(vectors, decoder(vectors), [4, 8]).item()
    assert kept == pytest.approx(history["validation_loss"].min(), rel=1e-6)


def test_training_stops_early(training, validation):
    given = settings(learning_rate=1.0, patience=2, epochs=50)
    history = train_decoder(fit_pca(training, 8), training, validation, **given)
    assert len(history) == 3


@pytest.mark.parametrize("depth", [1, 2])
def test_same_seed_gives_the_same_weights(training, validation, depth):
    decoders = [random_decoder(depth=depth, width=16) for _ in range(2)]
    for decoder in decoders:
        train_decoder(decoder, training, validation, **settings())
    assert same(*map(weights, decoders))


def test_other_seed_gives_other_weights(training, validation):
    decoders = [random_decoder() for _ in range(2)]
    for seed, decoder in enumerate(decoders):
        train_decoder(decoder, training, validation, **settings(seed=seed))
    assert not same(*map(weights, decoders))


@pytest.mark.parametrize("shape", [{}, {"depth": 3, "width": 16}, {"depth": 2, "dropout": 0.1, "residual": True}])
def test_saved_decoder_loads_exactly(tmp_path, training, shape):
    decoder = random_decoder(**shape).eval()
    decoder.save(tmp_path)
    loaded = Decoder.load(tmp_path)
    assert loaded.config == decoder.config
    assert np.array_equal(loaded.transform(training), decoder.transform(training))


def test_vectors_of_other_dims_are_an_error(training):
    with pytest.raises(StudyError, match="decoder takes 24 dims, the vectors have 23"):
        random_decoder().transform(training[:, 1:])


@pytest.mark.parametrize("stop", [9, 0, -1])
def test_stop_that_does_not_fit_is_an_error(training, stop):
    with pytest.raises(StudyError, match=f"stop {stop} does not fit the decoder's 8 dims"):
        random_decoder().transform(training, stop)


def test_training_with_a_stop_larger_than_the_decoder_is_an_error(training, validation):
    with pytest.raises(StudyError, match="stop 16 is larger than the decoder's 8 dims"):
        train_decoder(random_decoder(), training, validation, **settings(stops=[4, 16]))


def test_training_on_too_little_text_is_an_error(training, validation):
    for few in (training[:1], training[[0] * 4]):
        with pytest.raises(StudyError, match=f"1 of {len(few)} texts are different; this fit needs at least 2"):
            train_decoder(random_decoder(), few, validation, **settings())
        with pytest.raises(StudyError, match="this fit needs at least 2"):
            fit_pca(few, 8)


def test_depth_zero_is_an_error():
    with pytest.raises(StudyError, match="depth 0"):
        Decoder(24, 8, depth=0)


def test_residual_decoder_begins_as_the_linear_map_it_starts_from(training):
    pca, decoder = fit_pca(training, 8), random_decoder(depth=2, residual=True)
    decoder.start_from(pca)
    assert np.allclose(decoder.eval().transform(training), pca.transform(training), atol=1e-6)


def test_residual_part_learns(training, validation):
    decoder = random_decoder(depth=2, residual=True)
    decoder.start_from(fit_pca(training, 8))
    train_decoder(decoder, training, validation, **settings(learning_rate=1e-4))
    assert decoder.layers[-1].weight.abs().max() > 0


def test_deeper_decoder_without_a_linear_map_cannot_start_from_one(training):
    with pytest.raises(StudyError, match="set residual or depth 1"):
        random_decoder(depth=2).start_from(fit_pca(training, 8))


def test_dropout_acts_in_training_only(training):
    decoder = random_decoder(depth=2, dropout=0.5)
    values = torch.from_numpy(training)
    assert not torch.equal(decoder.train()(values), decoder(values))
    assert torch.equal(decoder.eval()(values), decoder(values))


def test_pca_beats_a_trained_autoencoder_at_reconstruction_and_training_approaches_it(training, validation):
    decoder = random_decoder(out_dims=8)
    history = train_decoder(decoder, training, validation, **settings(stops=[8], epochs=60, loss="reconstruction"))
    values = torch.from_numpy(validation)
    weight = fit_pca(training, 8).layers[0].weight.detach()
    best = reconstruction_loss(values, values @ weight.T, [8], weight).item()
    assert history["validation_loss"].iloc[0] > 3 * best
    assert history["validation_loss"].min() < 1.3 * best


def test_unknown_loss_is_an_error(training, validation):
    with pytest.raises(StudyError, match="unknown loss 'hinge'; accepted: similarity, reconstruction"):
        train_decoder(random_decoder(), training, validation, **settings(loss="hinge"))
