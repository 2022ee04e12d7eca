"""The two embedding tasks of `tasks.embedding` as MTEB tasks. Importing this module imports MTEB."""

from __future__ import annotations

from mteb.abstasks import AbsTask, AbsTaskClassification, AbsTaskClustering
from mteb.abstasks.task_metadata import TaskMetadata, TaskType

from tasks.embedding import REVISION, data_folder
from tasks.presets import SHIPPED


def _metadata(name: str, type_: TaskType, description: str, main_score: str) -> TaskMetadata:
    return TaskMetadata(
        name=name,
        description=description,
        dataset={"path": str(data_folder(name)), "revision": REVISION},
        type=type_,
        category="t2c",
        modalities=["text"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score=main_score,
        date=("2026-01-01", "2026-12-31"),
        domains=["Constructed"],
        task_subtypes=[],
        license="mit",
        annotations_creators="derived",
        dialect=[],
        sample_creation="created",
        reference=None,
        bibtex_citation="",
    )


class WordCategoryClustering(AbsTaskClustering):
    """Group 200 words into ten categories; v-measure over ten draws, with replacement, of as many words."""

    metadata = _metadata(
        "WordCategoryClustering",
        "Clustering",
        "Everyday words, each in a list by itself, to be grouped into ten categories such as fruits and jobs.",
        "v_measure",
    )
    max_fraction_of_documents_to_embed = None
    max_document_to_embed = None
    max_documents_per_cluster = 200


class ListCountClassification(AbsTaskClassification):
    """Tell questions "how many of these five words are fruits?" apart by their answer, from eight of each."""

    metadata = _metadata(
        "ListCountClassification",
        "Classification",
        "Questions how many of five words belong to a category, without the answer; the label is the answer, 0 to 5.",
        "accuracy",
    )


SHIPPED_TASKS: dict[str, type[AbsTask]] = {
    task.metadata.name: task for task in (WordCategoryClustering, ListCountClassification)
}
if {name: task.metadata.type for name, task in SHIPPED_TASKS.items()} != SHIPPED:
    raise ImportError("mteb_ext.shipped_tasks and tasks.presets.SHIPPED name different tasks")
