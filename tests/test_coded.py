"""The quantized form as a SentenceTransformer: mteb.evaluate finds what our own scores of the codes say."""

import mteb
import numpy as np
import pytest
from mteb.models import ModelMeta

from ccq_utils.codecs.codec import scores
from ccq_utils.codecs.percentile import PercentileCodec
from ccq_utils.common.errors import StudyError
from ccq_utils.data.mteb_tasks import as_mteb
from ccq_utils.deploy.coded import Coded, coded_model, mteb_model
from ccq_utils.deploy.modules import Concat, ConcatTransformer, load_model
from ccq_utils.deploy.pipeline import CompressedModel, model_fingerprint
from ccq_utils.study.metrics import METRICS, Evaluator

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # inside mteb


CODECS = {
    "equalised PCA": lambda: PercentileCodec(48, 1, rotate=True, power=0.25),
    "percentile": lambda: PercentileCodec(24, 2, rotate=True),
}


@pytest.fixture(scope="module", params=CODECS)
def pipeline(request, members, make_task):
    """Fitted on the task's documents; one member has prompts that differ between queries and documents."""
    joined = Concat([members["lexical"], members["reader"]], [1, 0.3], ["lexical", "reader"])
    model = CompressedModel(ConcatTransformer(modules=[joined], device="cpu"), CODECS[request.param]())
    return model.fit(list(make_task().documents.values()))


def found_by_mteb(model, task):
    result = mteb.evaluate(model, as_mteb(task), cache=None, co2_tracker=False, show_progress_bar=False)
    return {name: result.task_results[0].scores["test"][0][name] for name in METRICS}, result


def ours(pipeline, task, coded):
    queries = pipeline.model.encode_query([task.queries[name] for name in task.query_ids("test")])
    documents = list(task.documents.values())
    if coded:
        matrix = scores(pipeline.codec, queries, pipeline.encode_document(documents))
    else:
        matrix = pipeline.decoded().encode_query([task.queries[name] for name in task.query_ids("test")])
        matrix = matrix @ pipeline.decoded().encode_document(documents).T
    means = Evaluator(task)(matrix).mean()
    return {name: means[name] for name in METRICS}


@pytest.mark.parametrize("coded", [True, False])
def test_mteb_scores_equal_ours(pipeline, task, coded):
    expected = ours(pipeline, task, coded)
    assert 0.05 < expected["ndcg_at_10"] < 0.95
    scores, result = found_by_mteb(mteb_model(pipeline, "someone/small", coded=coded), task)
    assert scores == pytest.approx(expected, abs=1e-5)  # mteb rounds to five digits
    assert result.model_name == "someone/small"
    made = pipeline.marks["codec"] if coded else model_fingerprint(pipeline.decoded())  # which holds the decoder too
    assert result.model_revision == made


def test_mteb_runs_on_the_sentence_transformers_unchanged(pipeline, task):
    assert found_by_mteb(coded_model(pipeline), task)[0] == pytest.approx(ours(pipeline, task, True), abs=1e-5)
    assert found_by_mteb(pipeline.decoded(), task)[0] == pytest.approx(ours(pipeline, task, False), abs=1e-5)


def test_coding_changes_the_scores(pipeline, task):
    assert ours(pipeline, task, True) != ours(pipeline, task, False)


def test_meta_describes_the_model(pipeline):
    meta = mteb_model(pipeline, "someone/small", license="mit", release_date="2026-01-31").mteb_model_meta
    assert isinstance(meta, ModelMeta) and (meta.name, meta.license, meta.release_date) == (
        "someone/small",
        "mit",
        "2026-01-31",
    )
    assert meta.n_parameters == sum(part.numel() for part in pipeline.model.parameters())
    reader = pipeline.model[0].members[1]
    tables = reader[0].model.embeddings
    counted = (tables.word_embeddings, tables.position_embeddings, tables.token_type_embeddings)
    assert meta.n_embedding_parameters == sum(table.weight.numel() for table in counted)
    assert meta.embed_dim == coded_model(pipeline).encode_document(["snow"]).shape[1]
    assert meta.use_instructions and meta.open_weights and meta.similarity_fn_name.value == "dot"
    assert meta.experiment_kwargs["bytes_per_vector"] == pipeline.codec.bytes_per_vector
    assert meta.training_datasets is None, "not known, so not claimed"
    assert mteb_model(pipeline, "someone/small", coded=False).mteb_model_meta.similarity_fn_name.value == "cosine"


def test_queries_are_projected_documents_are_coded(pipeline):
    texts, form = ["rain and snow", "wind"], coded_model(pipeline)
    queries, documents = pipeline.model.encode_query(texts), pipeline.model.encode_document(texts)
    decoded = pipeline.codec.decode(pipeline.codec.encode(documents))
    assert np.abs(form.encode_query(texts) - pipeline.codec.project(queries)).max() < 1e-6
    assert np.abs(form.encode_document(texts) - decoded).max() < 1e-6
    expected = scores(pipeline.codec, queries, pipeline.codec.encode(documents))
    assert (
        np.abs(form.similarity(form.encode_query(texts), form.encode_document(texts)).numpy() - expected).max() < 1e-5
    )


def test_coded_model_is_saved_and_reloaded(pipeline, tmp_path):
    form = coded_model(pipeline)
    form.save_pretrained(str(tmp_path), create_model_card=False)
    again = load_model(tmp_path, "cpu")
    assert again.similarity_fn_name == "dot" and again[-1].get_config_dict() == form[-1].get_config_dict()
    for encode in ("encode_query", "encode_document", "encode"):
        assert np.abs(getattr(again, encode)(["rain"]) - getattr(form, encode)(["rain"])).max() < 1e-6


def test_codec_that_is_not_fitted_is_an_error():
    with pytest.raises(StudyError, match="the codec is not fitted"):
        Coded(PercentileCodec(16, 2))
