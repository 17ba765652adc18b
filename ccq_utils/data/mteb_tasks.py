"""The same tasks as real mteb retrieval tasks, so that any mteb model can be scored on them by ``mteb.evaluate``."""

from datasets import Dataset
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata

from ccq_utils.data.tasks import Task


def as_mteb(task: Task) -> AbsTaskRetrieval:
    """An mteb task of the splits that there are; its ``load_data`` reads the task itself, without a network."""
    splits = [split for split in ("test", "validation") if task.query_ids(split)]
    about = {"type": "Retrieval", "category": "t2t", "eval_langs": ["eng-Latn"], "main_score": "ndcg_at_10"}
    about |= {"annotations_creators": "human-annotated", "sample_creation": "found", "license": task.licence}

    class LocalRetrieval(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name=f"Ccq{''.join(part.title() for part in task.name.split('_'))}",
            description=f"{task.name}: {len(task.documents)} documents, {len(task.queries)} queries",
            dataset={"path": f"local/{task.name}", "revision": task.manifest()["sha256"]},
            eval_splits=splits,
            **about,
        )
        ignore_identical_ids = task.exclude_self

        def load_data(self, *args, **kwargs):
            if self.data_loaded:
                return
            documents = [{"id": name, "text": text, "title": ""} for name, text in task.documents.items()]
            corpus, self.dataset = Dataset.from_list(documents), {"default": {}}
            for split in splits:
                queries = [{"id": each, "text": task.queries[each]} for each in task.query_ids(split)]
                judged = {each: dict(task.qrels[each]) for each in task.query_ids(split)}
                data = {"corpus": corpus, "queries": Dataset.from_list(queries), "relevant_docs": judged}
                self.dataset["default"][split] = data | {"top_ranked": None}
            self.data_loaded = True

    return LocalRetrieval()
