"""Documents of one task under one verdict: what the tables are made of."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from metrics.answers import UNMAPPED
from metrics.compute import compute_of
from metrics.core import Choice, signals
from metrics.frame import by_filter

MOST_CAUSES = 50
"""A field with more values than this among the wrong answers names documents, not causes."""

NORMS = {"acc_norm": "chars", "acc_bytes": "bytes"}
"""How lm-eval picks the option that a verdict is about; the log-likelihood itself for every other verdict."""

LOWER = " (less is better)"
"""Behind the name of a label of which lm-eval says so; its quality is turned round."""


@dataclass(frozen=True)
class Case:
    """Documents of one task under one verdict: scores oriented so that higher means uncertain, and what went wrong.

    `wrong` is a boolean array, or None when the label is graded; `quality` holds the label itself.
    """

    task: str
    label: str
    scores: Mapping[str, np.ndarray]
    quality: np.ndarray
    wrong: np.ndarray | None
    subset: str = ""
    absent: Mapping[str, str] = field(default_factory=dict)
    """Metrics that are not in `scores`, and why."""
    verdict: str = ""
    """The label's own name, ``METRIC@FILTER``; `label` adds the threshold and the direction."""
    documents: Sequence[int] = ()
    """Their numbers in the task, in the order of the scores; empty for a subset."""
    compute: Mapping[str, str] = field(default_factory=dict)
    """What a score of each metric takes."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Why documents of the task lack a score of a metric, where it is known."""
    unmapped: Mapping[str, int] = field(default_factory=dict)
    """How many answers have no part that the task's filter takes, by reason."""

    @property
    def title(self) -> str:
        """Task, verdict and subset in one line."""
        return f"{self.task}, {self.label}" + (f", {self.subset}" if self.subset else "")


def among(tasks: Collection[str], label: str | None, filter_: str | None) -> Callable[[Case], bool]:
    """Whether a case is of one of the tasks, of the label and of the filter; no tasks and None stand for any."""

    def wanted(case: Case) -> bool:
        metric, _, of = case.verdict.partition("@")
        return (not tasks or case.task in tasks) and label in (None, metric) and filter_ in (None, of)

    return wanted


class Way(NamedTuple):
    """How a verdict looks at documents: which option of multiple choice the model chose, and which filter reads texts.

    `filter` is None for the first of each task, and where nothing depends on it.
    """

    norm: str = "none"
    filter: str | None = None


def way_of(task: str, verdict: str, frame: pd.DataFrame, chosen: Iterable[Choice], span: str) -> Way:
    """The way of a verdict ``METRIC@FILTER``; `frame` is of any scores of the store, with labels."""
    metric, _, name = verdict.partition("@")
    later = frame.attrs.get("filters", {}).get(task, [])[1:]
    return Way(NORMS.get(metric, "none"), name if name in later and by_filter(chosen, span) else None)


def cases(frame: pd.DataFrame, metrics: Sequence[Choice], *, threshold: float | None = None) -> list[Case]:
    """Split a score frame into one case a task and label; documents without that label are left out.

    Args:
        frame: from `metrics.frame.score_frame`.
        metrics: the metrics of the frame; neutral ones and those without a single score in a task go to `absent`.
        threshold: makes a graded label binary: right at or above it, or at or below it where less is better.
    """
    found = []
    known = signals()
    lower_is_better = {tuple(pair) for pair in frame.attrs.get("lower_is_better", ())}
    for column in [c for c in frame.columns if c.startswith("label:")]:
        for task, part in frame.loc[frame[column].notna()].groupby("task", sort=True):
            quality = np.asarray(part[column], dtype=float)
            name = column.removeprefix("label:")
            lower = (task, name.split("@")[0]) in lower_is_better
            binary = threshold is not None or set(np.unique(quality)) <= {0.0, 1.0}
            limit = 0.5 if threshold is None else threshold
            wrong = (quality > limit if lower else quality < limit) if binary else None
            quality = -quality if lower else quality
            reasons = _reasons(frame, str(task))
            scores, absent = _split(part, metrics, reasons)
            suffix = f" {'<=' if lower else '>='} {threshold:g}" if threshold is not None else ""
            title = name + suffix + (LOWER if lower else "")
            documents = part["doc_id"].tolist()
            count = _samples(frame, str(task))
            takes = {c.id: compute_of(c, count, known) for c in metrics if c.id in scores}
            found.append(
                Case(
                    str(task),
                    title,
                    scores,
                    quality,
                    wrong,
                    absent=absent,
                    reasons=reasons,
                    verdict=name,
                    documents=documents,
                    compute=takes,
                    unmapped=part[UNMAPPED].value_counts().to_dict() if UNMAPPED in part else {},
                )
            )
    return found


def _samples(frame: pd.DataFrame, task: str) -> int:
    """How many answers to a document of the task are in the frame."""
    of = frame.loc[frame["task"] == task]
    return int(of["sample"].to_numpy().max()) + 1 if "sample" in of else 1


def _reasons(frame: pd.DataFrame, task: str) -> dict[str, str]:
    """Why documents of a task are unscored, by metric; of any task where the frame does not say it of each."""
    closely = frame.attrs.get("reasons", {})
    named = {name for of in closely.values() for name in of}
    known = {name: why for name, why in frame.attrs.get("unscored", {}).items() if name not in named}
    return {name: "; or ".join(why) for name, why in {**known, **closely.get(task, {})}.items()}


def _split(
    part: pd.DataFrame, metrics: Sequence[Choice], reasons: Mapping[str, str]
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Oriented scores of the metrics that have any here, and why the others have none."""
    scores = oriented_scores(part, metrics)
    absent = {}
    for choice in metrics:
        if choice.metric.higher == "neutral":
            absent[choice.id] = "it has no direction"
        elif choice.id not in scores:
            absent[choice.id] = reasons.get(choice.id) or "no reason is known"
    return scores, absent


def oriented_scores(part: pd.DataFrame, metrics: Sequence[Choice]) -> dict[str, np.ndarray]:
    """Scores of the metrics that have a direction and any score in these rows, high meaning uncertain."""
    directed = [(c, part[c.id].to_numpy(dtype=float)) for c in metrics if c.metric.higher != "neutral"]
    return {c.id: oriented(values, c) for c, values in directed if not np.isnan(values).all()}


def errors_by(case: Case, name: str, values: Sequence[Any]) -> list[Case]:
    """One case a cause of error: the wrong answers with that value against all right answers.

    Raises:
        ValueError: the label is graded, or there are more than `MOST_CAUSES` causes.
    """
    if case.wrong is None:
        raise ValueError(f"{case.title}: the label is graded, so no answer is wrong; pass --threshold")
    of = np.array([str(v) for v in values], dtype=object)
    causes = sorted(set(of[case.wrong]))
    if len(causes) > MOST_CAUSES:
        raise ValueError(
            f"{case.title}: {name} has {len(causes)} values among the wrong answers; choose a field with at most "
            f"{MOST_CAUSES}"
        )
    found = []
    for value in causes:
        keep = ~case.wrong | (of == value)
        found.append(
            Case(
                case.task,
                case.label,
                {metric: s[keep] for metric, s in case.scores.items()},
                case.quality[keep],
                case.wrong[keep],
                f"wrong answers with {name}={value}",
                case.absent,
                case.verdict,
                compute=case.compute,
                reasons=case.reasons,
            )
        )
    return found


def oriented(values: np.ndarray, choice: Choice) -> np.ndarray:
    """Scores turned so that higher means uncertain; the direction is the metric's own, never fitted."""
    return values if choice.metric.higher == "uncertain" else -values
