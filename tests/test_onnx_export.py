"""Exported graphs give in onnxruntime what numpy and torch give here."""

import importlib.util

import numpy as np
import onnx
import onnxruntime
import pytest

from ccq_utils.codecs.byte_blocks import BlockCodec
from ccq_utils.codecs.decoder import Decoder
from ccq_utils.codecs.percentile import LshCodec, PercentileCodec
from ccq_utils.common.cache import Cache
from ccq_utils.common.errors import StudyError
from ccq_utils.data.profile import load_profile
from ccq_utils.deploy.modules import Concat, ConcatTransformer
from ccq_utils.deploy.onnx_export import export_onnx, token_inputs
from ccq_utils.deploy.pipeline import CompressedModel
from ccq_utils.models.base_models import BUILDERS

TEXTS = ["Rain on the plain.", "snow", "wind, weather and more", "the shortest path in a graph"]
pytestmark = pytest.mark.slow


def pipeline_of(members, names, codec, random_vectors):
    """Fitted on random vectors, so that no value lies on a threshold but by rounding."""
    joined = Concat([members[name] for name in names], [1, 0.5][: len(names)], names)
    codec.fit(
        random_vectors(600, joined.get_embedding_dimension()), random_vectors(400, joined.get_embedding_dimension(), 1)
    )
    return CompressedModel(ConcatTransformer(modules=[joined], device="cpu"), codec)


def run(path, inputs):
    onnx.checker.check_model(str(path))
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, inputs)[0]


def deeper():
    return Decoder(80, 20, depth=2, width=16, residual=True).eval()


CODECS = {
    "byte blocks": lambda: BlockCodec(7),
    "8 bits": lambda: PercentileCodec(24, 8),
    "4 bits, odd dims": lambda: PercentileCodec(21, 4, rotate=True),
    "2 bits, a deeper decoder": lambda: PercentileCodec(18, 2, decoder=deeper()),
    "1 bit": lambda: PercentileCodec(20, 1, spacing="width"),
}


@pytest.mark.parametrize("name", CODECS)
def test_codec_and_projection_equal_numpy(members, random_vectors, tmp_path, name):
    pipeline = pipeline_of(members, ["reader", "lexical"], CODECS[name](), random_vectors)
    files = export_onnx(pipeline, tmp_path)
    names = ["encode.onnx", "project.onnx", "decode.onnx"]
    assert [path.name for path in files] == names, "the lexical member has no graph"
    vectors = random_vectors(300, 80, seed=3)
    codes, projected = (run(path, {"vectors": vectors}) for path in files[:2])
    assert codes.dtype == np.uint8 and np.abs(projected - pipeline.codec.project(vectors)).max() < 1e-5
    expected = pipeline.codec.encode(vectors)
    assert codes.shape == expected.shape and (codes != expected).mean() < 1e-3
    assert len(np.unique(codes)) > 100
    assert np.abs(run(files[2], {"codes": expected}) - pipeline.codec.decode(expected)).max() < 1e-6
    assert run(files[0], {"vectors": vectors[:1]}).shape == expected[:1].shape


def test_whole_pipeline_from_token_ids(members, random_vectors, tmp_path):
    pipeline = pipeline_of(members, ["reader", "static"], PercentileCodec(24, 4), random_vectors)
    files = {path.stem: path for path in export_onnx(pipeline, tmp_path)}
    assert list(files) == ["encode", "project", "decode", "whole_encode", "whole_project"]
    joined = pipeline.model[0]
    documents, queries = (token_inputs(joined, TEXTS, task) for task in ("document", "query"))
    projected = pipeline.codec.project(pipeline.model.encode_query(TEXTS))
    assert np.abs(run(files["whole_project"], queries) - projected).max() < 1e-5
    assert np.abs(run(files["whole_project"], documents) - projected).max() > 1e-4, "prompts differ"
    codes = pipeline.codec.encode(pipeline.model.encode_document(TEXTS))
    assert (run(files["whole_encode"], documents) == codes).mean() > 0.95
    alone = token_inputs(joined, TEXTS[:1], "query")
    assert np.abs(run(files["whole_project"], alone) - projected[:1]).max() < 1e-5


def test_whole_pipeline_of_the_studys_own_models(random_vectors, tmp_path):
    """MiniLM and wordllama as the default profile loads them, on words of many lengths."""
    profile = load_profile("default")
    names = ["minilm", "wordllama"]
    models = [BUILDERS[name](profile, None, Cache(tmp_path / "cache")).model for name in names]
    joined = Concat(models, [1, 0.5], names)
    dims = joined.get_embedding_dimension()
    codec = BlockCodec(32).fit(random_vectors(600, dims), random_vectors(400, dims, 1))
    pipeline = CompressedModel(ConcatTransformer(modules=[joined], device="cpu"), codec)
    files = {path.stem: path for path in export_onnx(pipeline, tmp_path / "onnx")}
    found = run(files["whole_project"], token_inputs(joined, TEXTS, "query"))
    assert np.abs(found - codec.project(pipeline.model.encode_query(TEXTS))).max() < 1e-4


def test_member_outside_of_tensors_is_an_error(members, random_vectors):
    pipeline = pipeline_of(members, ["reader", "lexical"], PercentileCodec(8, 1), random_vectors)
    with pytest.raises(StudyError, match="members lexical read texts, not token ids"):
        token_inputs(pipeline.model[0], TEXTS, "query")


def test_codec_without_a_graph_is_an_error(members, random_vectors, tmp_path):
    with pytest.raises(StudyError, match="codec LshCodec has no ONNX graph; choose byte blocks or a percentile codec"):
        export_onnx(pipeline_of(members, ["static", "lexical"], LshCodec(64), random_vectors), tmp_path)


def test_missing_extra_is_an_error(members, random_vectors, tmp_path, monkeypatch):
    pipeline = pipeline_of(members, ["static", "lexical"], PercentileCodec(8, 1), random_vectors)
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxscript" else found(name))
    with pytest.raises(StudyError, match=r"package 'onnxscript' is not installed; run: pip install -e '\.\[onnx\]'"):
        export_onnx(pipeline, tmp_path)
