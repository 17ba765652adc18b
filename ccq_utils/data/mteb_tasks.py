"""The same tasks as real mteb retrieval tasks, so that any mteb model can be scored on them by ``mteb.evaluate``."""

from datasets import Dataset
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata

from ccq_utils.data.tasks import Task


def as_mteb(task: Task) -> AbsTaskRetrieval:
    """An mteb task of the splits that there are; its ``load_data`` reads the task itself, without a network."""
    splits = [split for split in ("test", "validation") if task.query_ids(split)]

    class LocalRetrieval(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name=f"Ccq{''.join(part.title() for part in task.name.split('_'))}",
            description=f"{task.name}: {len(task.documents)} documents, {len(task.queries)} queries",
            dataset={"path": f"local/{task.name}", "revision": task.manifest()["sha256"]},
            type="Retrieval",
            category="t2t",
            eval_splits=splits,
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
            license=task.licence,
            annotations_creators="human-annotated",
            sample_creation="found",
        )
        ignore_identical_ids = task.exclude_self

        def load_data(self, *args, **kwargs):
            if self.data_loaded:
                return
            documents = [{"id": name, "text": text, "title": ""} for name, text in task.documents.items()]
            corpus, self.dataset = Dataset.from_list(documents), {"default": {}}
            for split in splits:
                queries = Dataset.from_list(
                    [{"id": each, "text": task.queries[each]} for each in task.query_ids(split)]
                )
                judged = {each: dict(task.qrels[each]) for each in task.query_ids(split)}
                data = {"corpus": corpus, "queries": queries, "relevant_docs": judged, "top_ranked": None}
                self.dataset["default"][split] = data
            self.data_loaded = True

    return LocalRetrieval()
