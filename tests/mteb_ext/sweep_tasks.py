"""Small tasks of several of MTEB's types, their data in memory, and tasks that go wrong in a way of their own.

The texts are words of the tiny models' tokenizer (conftest.py), and the tasks share many of them. A sweep loads this
file by its path, also in processes of its own; what a task notes goes into a file in the folder `SWEEP_TASKS`.
"""

import errno
import multiprocessing
import os
import time
import warnings
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict
from mteb.abstasks import AbsTaskClassification, AbsTaskClustering, AbsTaskPairClassification, AbsTaskRetrieval
from mteb.abstasks.aggregate_task_metadata import AggregateTaskMetadata
from mteb.abstasks.aggregated_task import AbsTaskAggregate
from mteb.abstasks.clustering_legacy import AbsTaskClusteringLegacy
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.sts import AbsTaskSTS

from mteb_ext.shipped_tasks import WordCategoryClustering

TEXTS = [" ".join([f"w{i % 40}", f"W{i % 7}", *(f"w{(7 * i + j * i) % 40}" for j in range(i % 5))]) for i in range(60)]


def metadata(name, type_, main_score):
    own = {"name": name, "type": type_, "main_score": main_score, "category": "t2t"}
    return WordCategoryClustering.metadata.model_copy(update={**own, "dataset": {"path": "none", "revision": "1"}})


def note(line):
    """Leave a trace that a test can count, whatever the process."""
    if folder := os.environ.get("SWEEP_TASKS"):
        with (Path(folder) / "trace").open("a") as file:
            file.write(line + "\n")


class InMemory:
    """A task that takes its data from `splits`."""

    def load_data(self, **_):
        if not self.data_loaded:
            note(f"load {self.metadata.name}")
            self.dataset = DatasetDict({split: Dataset.from_dict(rows) for split, rows in self.splits().items()})
            self.dataset_transform()
            self.data_loaded = True


class Sts(InMemory, AbsTaskSTS):
    metadata = metadata("Sts", "STS", "cosine_spearman")
    min_score, max_score = 0, 5

    def splits(self):
        return {
            "test": {"sentence1": TEXTS[:30], "sentence2": TEXTS[15:45], "score": [i * 7 % 11 / 2 for i in range(30)]}
        }


class Classes(InMemory, AbsTaskClassification):
    metadata = metadata("Classes", "Classification", "accuracy")
    n_experiments, samples_per_label = 3, 4

    def splits(self):
        train, test = TEXTS[:30], TEXTS[20:50]
        return {
            "train": {"text": train, "label": [i % 3 for i in range(30)]},
            "test": {"text": test, "label": [(i + 2) % 3 for i in range(30)]},
        }


class Clusters(InMemory, AbsTaskClustering):
    metadata = metadata("Clusters", "Clustering", "v_measure")
    max_fraction_of_documents_to_embed = None
    max_document_to_embed = 30
    max_documents_per_cluster = 20
    n_clusters = 3

    def splits(self):
        return {"test": {"sentences": TEXTS[:40], "labels": [i % 4 for i in range(40)]}}


class OldClusters(InMemory, AbsTaskClusteringLegacy):
    metadata = metadata("OldClusters", "Clustering", "v_measure")

    def splits(self):
        labels = [str(i % 3) for i in range(20)]
        return {"test": {"sentences": [TEXTS[:20], TEXTS[20:40]], "labels": [labels, labels]}}


class Pairs(InMemory, AbsTaskPairClassification):
    metadata = metadata("Pairs", "PairClassification", "max_ap")

    def splits(self):
        one = {"sentence1": TEXTS[:20], "sentence2": TEXTS[25:45], "labels": [i % 2 for i in range(20)]}
        return {"test": one}


class Search(AbsTaskRetrieval):
    metadata = metadata("Search", "Retrieval", "ndcg_at_10")

    def load_data(self, **_):
        note("load Search")
        documents = {"id": [f"d{i}" for i in range(30)], "title": [""] * 30, "text": TEXTS[10:40]}
        held = RetrievalSplitData(
            corpus=Dataset.from_dict(documents),
            queries=Dataset.from_dict({"id": ["q0", "q1", "q2"], "text": TEXTS[40:43]}),
            relevant_docs={f"q{i}": {f"d{i}": 1, f"d{i + 9}": 1} for i in range(3)},
            top_ranked=None,
        )
        self.dataset = {"default": {"test": held}}
        self.data_loaded = True


class Both(AbsTaskAggregate):
    metadata = AggregateTaskMetadata(
        **{k: v for k, v in Sts.metadata if k not in ("name", "type", "main_score", "dataset")},
        name="Both",
        type="STS",
        main_score="cosine_spearman",
        tasks=[Sts()],
    )


class NoData(Sts):
    metadata = metadata("NoData", "STS", "cosine_spearman")

    def load_data(self, **_):
        raise ConnectionError("no route to\nthe data set")


class Odd(Sts):
    """Its evaluator fails for layer 1."""

    metadata = metadata("Odd", "STS", "cosine_spearman")

    def evaluate(self, model, *args, **kwargs):
        if model.aggregate.layers == (1,):
            raise RuntimeError("the evaluator\ndoes not like layer 1")
        return super().evaluate(model, *args, **kwargs)


class Warns(Sts):
    metadata = metadata("Warns", "STS", "cosine_spearman")

    def evaluate(self, model, *args, **kwargs):
        for _ in range(3):
            warnings.warn(f"it did not converge:\nlayer {model.aggregate.layers}", RuntimeWarning, stacklevel=1)
        print("chatter")
        return super().evaluate(model, *args, **kwargs)


class Dies(Sts):
    """A process that scores it dies; the one that runs the sweep does not."""

    metadata = metadata("Dies", "STS", "cosine_spearman")

    def evaluate(self, *args, **kwargs):
        if multiprocessing.parent_process() is not None:
            os._exit(9)
        return super().evaluate(*args, **kwargs)


class Slow(Sts):
    """Takes a tenth of a second a unit, or half a minute in a process of its own if `SWEEP_SLOW` is set."""

    metadata = metadata("Slow", "STS", "cosine_spearman")

    def evaluate(self, *args, **kwargs):
        child = multiprocessing.parent_process() is not None
        note(f"slow {os.getpid()}")
        time.sleep(30 if child and os.environ.get("SWEEP_SLOW") else 0.1)
        return super().evaluate(*args, **kwargs)


class Waits(Sts):
    """Never comes to an end by itself."""

    metadata = metadata("Waits", "STS", "cosine_spearman")

    def evaluate(self, *args, **kwargs):
        time.sleep(60)


class Full(Sts):
    """The disk is full when a process of its own writes what it predicts."""

    metadata = metadata("Full", "STS", "cosine_spearman")

    def evaluate(self, *args, **kwargs):
        if multiprocessing.parent_process() is not None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "predictions.json")
        return super().evaluate(*args, **kwargs)


class Draws(Sts):
    """Its score depends on every generator that an evaluator may draw from."""

    metadata = metadata("Draws", "STS", "cosine_spearman")

    def evaluate(self, *args, **kwargs):
        found = super().evaluate(*args, **kwargs)
        found["default"]["main_score"] = float(self.rng_state.random() + self.np_rng.random() + np.random.random()) / 3  # noqa: NPY002
        return found
