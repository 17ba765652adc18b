"""The races that say how fast things are: what runs in them gives the same results. No time is asserted."""

import numpy as np
import pytest
import torch
from ccq_utils.study.retention import Side, ndcg

from ccq_utils.analyses.bench_evaluation import (
    PRODUCTS,
    RoundedCodec,
    _largest_difference,
    against_bitbudget,
    against_mteb,
    settings,
)
from ccq_utils.analyses.bench_training import LOOP, LOSSES, step_parts, step_speed
from ccq_utils.analyses.timing import race
from ccq_utils.codecs.losses import PrefixSimilarity
from ccq_utils.common.errors import StudyError

STOPS = [3, 7, 10]


def test_race_alternates_and_warms_up():
    seen = []
    table = race("what", {name: lambda name=name: seen.append(name) for name in "ab"}, repeats=3)
    assert "".join(seen) == "abababab"
    assert table.columns.tolist() == ["what", "way", "seconds", "low", "high", "ratio", "repeats"]


# ---- training step --------------------------------------------------------------------------------------------------


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.double)  # noqa: E731
    return torch.nn.functional.normalize(draw(9, 20), dim=1), draw(9, 12).requires_grad_()


@pytest.mark.parametrize("weighted", [False, True])
def test_written_gradient_is_that_of_the_loss(pair, weighted):
    inputs, outputs = pair
    teacher = inputs @ inputs.T
    weights = torch.exp(teacher / 0.1) if weighted else None
    assert torch.autograd.gradcheck(lambda each: PrefixSimilarity.apply(each, teacher, weights, STOPS), outputs)


@pytest.mark.parametrize("name", [name for name in LOSSES if name != LOOP])
def test_losses_and_gradients_agree(pair, name):
    inputs, outputs = pair
    (loop, expected), (found, gradient) = (
        (value := LOSSES[each](inputs, outputs, STOPS), torch.autograd.grad(value, outputs)[0]) for each in (LOOP, name)
    )
    assert loop.item() > 0.01 and found.item() == pytest.approx(loop.item(), abs=1e-12)
    assert torch.allclose(gradient, expected, atol=1e-12) and not gradient[:, STOPS[-1] :].any()


def test_written_gradient_needs_none_in_inference(pair):
    inputs, outputs = pair
    with torch.inference_mode():
        found = PrefixSimilarity.apply(outputs, inputs @ inputs.T, None, STOPS)
    assert found.item() == pytest.approx(LOSSES[LOOP](inputs, outputs, STOPS).item())


def test_steps_are_timed_at_equal_loss(random_vectors):
    vectors = random_vectors(64, 24)
    table = step_speed(vectors, 8, [2, 4, 8], batch_sizes=(16, 32, 128), repeats=2, steps=3)
    assert table["batch_size"].tolist() == [16] * 3 + [32] * 3  # there are no 128 vectors
    assert (table["loss_difference"] < 1e-5).all()
    assert {"map", "AdamW, fused"} < set(step_parts(vectors, 8, [2, 4, 8], 16, 2)["way"])


# ---- evaluation -----------------------------------------------------------------------------------------------------


@pytest.fixture
def side(judged_vectors, random_vectors):
    task, judge, documents, queries = judged_vectors(random_vectors(120, 32), 20)
    return Side(task.name, queries, documents, judge, ndcg(judge, queries @ documents.T))


def test_bitbudget_is_raced_at_equal_scores(side):
    table = against_bitbudget(side, count=6, repeats=1)
    assert table["way"].tolist() == ["bitbudget", "codec_scores", PRODUCTS] and (table["difference"] < 1e-6).all()


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_mteb_is_raced_at_equal_scores(side):
    table = against_mteb(side, count=2, repeats=1)
    assert table["way"].tolist() == ["mteb", "codec_scores"] and (table["difference"] < 1e-6).all()


def test_scores_that_differ_are_an_error():
    with pytest.raises(StudyError, match="nDCG@10 differs by 0.1 between"):
        _largest_difference([0.5, 0.6], [0.5, 0.7])


def test_graded_task_is_not_for_bitbudget(side):
    next(iter(side.judge.task.qrels.values())).update({"doc-001": 3})
    with pytest.raises(StudyError, match="weighs grades above 1 otherwise"):
        against_bitbudget(side, 2, 1)


@pytest.mark.parametrize("method", ["float16", "int8", "int4"])
def test_rounded_codec_does_what_bitbudget_does(random_vectors, method):
    from bitbudget import METHODS

    documents, queries = random_vectors(50, 16), random_vectors(9, 16, seed=1)
    codec = RoundedCodec(12, method)
    codes = codec.encode(documents)
    matrix, size = METHODS[method](documents[:, :12], queries[:, :12])
    assert codec.bytes_per_vector == size
    assert np.allclose(codec.project(queries) @ codec.decode(codes).T, matrix, atol=1e-6)


def test_settings_differ():
    assert len(set(settings(384))) == 20 and settings(384)[0] == ("float16", 384)
