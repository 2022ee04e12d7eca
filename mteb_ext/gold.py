"""Gold answers of a task, kept beside MTEB's prediction files, which hold none.

Left out, for MTEB's file does not determine the score or its type scores otherwise: fast clustering (which texts were
drawn is not kept), cross-validated and multilabel classification, regression, bitext mining, summarisation, zero-shot,
aggregates, tasks of other modalities, tasks that override the scoring of their type, and main scores that are not in
`STS`, `PAIRS` or `MEASURE`, not `max_ap`, and for classification neither accuracy nor f1.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask

STS = {
    "spearman": "similarity_scores",
    "cosine_spearman": "cosine_scores",
    "manhattan_spearman": "manhattan_distances",
    "euclidean_spearman": "euclidean_distances",
}
PAIRS = {
    "similarity_ap": ("similarity_scores", 1),
    "cosine_ap": ("cosine_scores", 1),
    "manhattan_ap": ("manhattan_distances", -1),
    "euclidean_ap": ("euclidean_distances", -1),
    "dot_ap": ("dot_scores", 1),
}
RETRIEVAL = {
    "ndcg": "ndcg_cut",
    "map": "map_cut",
    "recall": "recall",
    "precision": "P",
    "hit_rate": "success",
    "mrr": "mrr",
}
MEASURE = re.compile(rf"(max_over_subqueries_)?({'|'.join(RETRIEVAL)})_at_(\d+)")


@dataclass(frozen=True)
class GoldPart:
    """The answers of one split and subset.

    sts: normalised scores; pairs, classification: labels; clustering: a list of label codes per set; retrieval:
    relevance per query and document.
    """

    split: str
    subset: str
    answers: Any


@dataclass(frozen=True)
class Gold:
    """One task's gold file. `dataset_revision` and `mteb_version` are those of the run that wrote it."""

    task: str
    kind: str
    metric: str
    dataset_revision: str
    mteb_version: str
    experiments: int
    ignore_identical_ids: bool
    skip_first_result: bool
    parts: tuple[GoldPart, ...]


def save_gold(task: AbsTask, folder: Path) -> bool:
    """Write the gold answers of a loaded task to `folder`/<Task>.json; False where it is not possible.

    `folder` is predictions/gold in the MTEB cache folder of the run. The file is replaced as a whole, so a reader never
    sees half of it, and holds the present splits and subsets only. False: see the list at the top of this module.

    Raises:
        ValueError: the data of the task are not loaded.
    """
    import mteb

    name = task.metadata.name
    if not task.data_loaded:
        raise ValueError(f"task {name}: its data are not loaded; call task.load_data() before save_gold")
    kind = _kind(task)
    if kind is None:
        return False
    if kind == "retrieval":
        task.convert_v1_dataset_format_to_v2(num_proc=None)  # pyright: ignore[reportAttributeAccessIssue]
    parts = tuple(
        GoldPart(split, subset, _answers(task, kind, _rows(task, split, subset)))
        for split in task.eval_splits
        for subset in task.hf_subsets
    )
    gold = Gold(
        task=name,
        kind=kind,
        metric=task.metadata.main_score,
        dataset_revision=str(task.metadata.revision),
        mteb_version=mteb.__version__,
        experiments=getattr(task, "n_experiments", 1),
        ignore_identical_ids=getattr(task, "ignore_identical_ids", False),
        skip_first_result=getattr(task, "skip_first_result", False),
        parts=parts,
    )
    _replace(folder / f"{name}.json", json.dumps(asdict(gold), ensure_ascii=False))
    return True


def read_gold(path: Path) -> Gold:
    """Read a gold file.

    Raises:
        ValueError: it is damaged; the message names it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Gold(**{**content, "parts": tuple(GoldPart(**part) for part in content["parts"])})
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is no gold file ({error}); delete it and run the sweep again") from None


def _kind(task: AbsTask) -> str | None:
    """Name the kind of a task whose main score follows exactly from its prediction file, else None."""
    from mteb.abstasks import AbsTaskClassification, AbsTaskPairClassification, AbsTaskRetrieval, AbsTaskSTS
    from mteb.abstasks.clustering_legacy import AbsTaskClusteringLegacy

    scoring = ["evaluate", "_evaluate_subset", "_add_main_score", "_save_task_predictions"]
    metric = task.metadata.main_score
    measure = MEASURE.fullmatch("recall_at_1" if metric == "accuracy" else metric)
    own = [] if measure and measure[1] else ["task_specific_scores"]
    rules = {
        "sts": (AbsTaskSTS, [*scoring, "_calculate_scores", "_normalize"], metric in STS),
        "pairs": (
            AbsTaskPairClassification,
            [*scoring, "_compute_metrics", "_compute_metrics_values"],
            metric in PAIRS or metric == "max_ap",
        ),
        "classification": (
            AbsTaskClassification,
            [*scoring, "_run_experiment", "_calculate_scores", "_calculate_avg_scores"],
            metric in ("accuracy", "f1") and not getattr(task, "is_cross_validation", False),
        ),
        "clustering": (AbsTaskClusteringLegacy, [*scoring, "_compute_metrics"], metric == "v_measure"),
        "retrieval": (AbsTaskRetrieval, [*scoring, *own], measure is not None),
    }
    for kind, (base, methods, known) in rules.items():
        if isinstance(task, base):
            plain = all(getattr(type(task), name) is getattr(base, name) for name in methods)
            return kind if plain and known and list(task.metadata.modalities) == ["text"] else None
    return None


def _rows(task: AbsTask, split: str, subset: str) -> Any:
    data: Any = task.dataset
    return data[split] if subset not in data and subset == "default" else data[subset][split]


def _answers(task: Any, kind: str, rows: Any) -> Any:
    """Take from the rows of a split what scoring needs, as plain JSON values."""
    if kind == "sts":
        return [float((score - task.min_score) / (task.max_score - task.min_score)) for score in rows["score"]]
    if kind == "pairs":
        table = rows[0] if len(rows) == 1 else rows
        return np.asarray(table[task.label_column_name], dtype=np.int64).tolist()
    if kind == "classification":
        return np.asarray(list(rows[task.label_column_name])).tolist()
    if kind == "clustering":
        return [np.unique(labels, return_inverse=True)[1].tolist() for labels in rows[task.label_column_name]]
    relevant = rows["relevant_docs"]
    return {query: _grades(relevant[query]) for query in rows["queries"]["id"] if relevant.get(query)}


def _grades(judged: Mapping[str, int]) -> dict[str, int]:
    """Drop the documents of grade 0, which is what trec_eval takes an unjudged one for, but never all."""
    grades = {document: int(grade) for document, grade in judged.items()}
    return {document: grade for document, grade in grades.items() if grade} or dict(list(grades.items())[:1])


def _replace(path: Path, text: str) -> None:
    """Write a file that several processes may write at once, each as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise
