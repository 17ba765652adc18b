"""What a decoder is trained for: every loss against a direct computation, codes in training against the quantizer."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy

from ccq_utils.codecs.decoder import fit_pca, random_rotation
from ccq_utils.codecs.losses import (
    coded_cosines,
    prefix_cosines,
    ranking_loss,
    reconstruction_loss,
    similarity_loss,
    straight_through,
)
from ccq_utils.codecs.quantizer import PercentileQuantizer


@pytest.fixture(scope="module")
def training(random_vectors):
    return random_vectors(200, 24, 1, decay=0.85)


@pytest.mark.parametrize("stops", [[3], [2, 3, 7, 16], [16], [1, 16]])
def test_prefix_cosines_equal_direct_ones(stops):
    vectors = torch.randn(10, 16, generator=torch.Generator().manual_seed(0))
    for stop, found in zip(stops, prefix_cosines(vectors, stops), strict=True):
        direct = torch.nn.functional.cosine_similarity(vectors[:, None, :stop], vectors[None, :, :stop], dim=-1)
        assert torch.allclose(found, direct, atol=1e-5)


def test_loss_is_the_mean_over_stops_of_squared_cosine_differences(training):
    inputs, outputs = torch.from_numpy(training[:20]), torch.from_numpy(training[:20, ::-1].copy())
    normal = torch.nn.functional.normalize
    expected = [
        ((inputs @ inputs.T - normal(outputs[:, :stop]) @ normal(outputs[:, :stop]).T) ** 2).mean() for stop in (4, 8)
    ]
    assert similarity_loss(inputs, outputs, [4, 8]).item() == pytest.approx(np.mean(expected), rel=1e-5)


def test_loss_of_the_identity_is_zero(training):
    vectors = torch.from_numpy(training)
    assert similarity_loss(vectors, 5 * vectors, [24]).item() == pytest.approx(0, abs=1e-10)


def test_loss_of_a_truncated_identity_is_not_zero(training):
    vectors = torch.from_numpy(training)
    assert similarity_loss(vectors, vectors, [4, 24]).item() > 1e-4


def test_loss_of_a_zero_output_is_finite(training):
    vectors = torch.from_numpy(training)
    assert torch.isfinite(similarity_loss(vectors, torch.zeros_like(vectors), [4]))


def test_ranking_loss_is_the_divergence_of_the_other_texts_distributions(training):
    inputs, outputs = torch.from_numpy(training[:12]), torch.from_numpy(training[20:32, :8])
    found = 0.0
    for stop in (4, 8):
        student = torch.nn.functional.normalize(outputs[:, :stop], dim=1)
        for row in range(12):
            others = [other for other in range(12) if other != row]
            teacher, learned = (
                softmax(part[row].numpy() @ part[others].numpy().T / 0.05) for part in (inputs, student)
            )
            found += entropy(teacher, learned) / 24
    assert ranking_loss(inputs, outputs, [4, 8]).item() == pytest.approx(found, rel=1e-4)
    assert ranking_loss(inputs, inputs, [24]).item() == pytest.approx(0, abs=1e-5)


def test_near_pairs_weigh_more_than_far_ones(training):
    inputs = torch.nn.functional.normalize(torch.from_numpy(training[:40]), dim=1)
    cosines = inputs @ inputs.T
    outputs = inputs[:, :12]
    student = torch.nn.functional.normalize(outputs, dim=1)
    off = (student @ student.T - cosines) ** 2
    weights = np.exp(cosines.numpy() / 0.1)
    expected = (weights * off.numpy()).sum() / weights.sum()
    assert similarity_loss(inputs, outputs, [12], near=True).item() == pytest.approx(expected, rel=1e-4)


def test_reconstruction_loss_of_pca_is_what_it_leaves_out(training):
    pca = fit_pca(training, 24)
    weight, values = pca.layers[0].weight.detach(), torch.from_numpy(training)
    outputs = values @ weight.T
    left_out = (outputs[:, 8:] ** 2).sum(1).mean()
    assert reconstruction_loss(values, outputs, [8], weight).item() == pytest.approx(left_out.item(), rel=1e-4)
    assert reconstruction_loss(values, outputs, [24], weight).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_straight_through_gives_what_the_quantizer_decodes(training, bits):
    values = training[:64]
    quantizer = PercentileQuantizer(bits).fit(values)
    expected = quantizer.decode(quantizer.encode(values))
    assert np.allclose(straight_through(torch.from_numpy(values), bits).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize(("rows", "bits"), [(7, 2), (3, 2), (5, 8)])
def test_straight_through_of_an_uneven_batch_keeps_order_and_mean(training, rows, bits):
    values = torch.from_numpy(training[:rows])
    coded = straight_through(values, bits)
    assert torch.allclose(coded.mean(dim=0), values.mean(dim=0), atol=1e-6)
    by_value = coded.gather(0, values.argsort(dim=0))
    assert (by_value.diff(dim=0) >= -1e-6).all()


def test_gradient_flows_through_the_codes_as_if_nothing_were_coded(training):
    values = torch.from_numpy(training[:16]).requires_grad_()
    weights = torch.randn(16, 24, generator=torch.Generator().manual_seed(0))
    (weights * straight_through(values, 2)).sum().backward()
    assert torch.equal(values.grad, weights)


def coded_directly(outputs, stop, rotation, bits):
    cut = outputs[:, :stop].numpy()
    turned = cut / np.linalg.norm(cut, axis=1, keepdims=True) @ rotation
    quantizer = PercentileQuantizer(bits).fit(turned)
    products = turned @ quantizer.decode(quantizer.encode(turned)).T
    return products / np.diag(products).mean()


@pytest.fixture(scope="module")
def rotations():
    return [random_rotation(stop, seed=3) for stop in (4, 8)]


def cosines_of(rotations, bits):
    turns = [torch.from_numpy(rotation) for rotation in rotations]
    return lambda outputs, stops: coded_cosines(outputs, stops, bits, turns)


@pytest.mark.parametrize("bits", [1, 2])
def test_similarity_loss_of_codes_is_that_of_float_rows_with_coded_columns(training, rotations, bits):
    inputs, outputs = torch.from_numpy(training[:32]), torch.from_numpy(training[40:72, :8])
    students = [coded_directly(outputs, stop, turn, bits) for stop, turn in zip((4, 8), rotations, strict=True)]
    teacher = training[:32] @ training[:32].T
    expected = np.mean([((student - teacher) ** 2).mean() for student in students])
    found = similarity_loss(inputs, outputs, [4, 8], cosines=cosines_of(rotations, bits))
    assert found.item() == pytest.approx(expected, rel=1e-4)


def test_ranking_loss_of_codes_ranks_coded_texts_for_float_ones(training, rotations):
    inputs, outputs = torch.from_numpy(training[:16]), torch.from_numpy(training[40:56, :8])
    expected = []
    for stop, turn in zip((4, 8), rotations, strict=True):
        student = coded_directly(outputs, stop, turn, 2)
        for row in range(16):
            others = np.arange(16) != row
            teacher = softmax(training[row] @ training[:16][others].T / 0.05)
            expected.append(entropy(teacher, softmax(student[row][others] / 0.05)))
    found = ranking_loss(inputs, outputs, [4, 8], cosines_of(rotations, 2))
    assert found.item() == pytest.approx(np.mean(expected), rel=1e-3)


@pytest.mark.parametrize("loss", [similarity_loss, ranking_loss])
def test_losses_of_codes_have_a_gradient_in_every_dim(training, rotations, loss):
    inputs, outputs = torch.from_numpy(training[:32]), torch.from_numpy(training[40:72, :8].copy()).requires_grad_()
    loss(inputs, outputs, [4, 8], cosines=cosines_of(rotations, 2)).backward()
    assert (outputs.grad.abs().amax(dim=0) > 0).all() and torch.isfinite(outputs.grad).all()
