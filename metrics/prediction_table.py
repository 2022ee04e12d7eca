"""Whether metrics' means over a data set predict how well a model does on it, on data sets left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from metrics import stats
from metrics.core import Choice
from metrics.dataset_table import Dataset, firsts, mean_and_error, mean_of
from metrics.report import Table, interval, page
from metrics.table import render

TITLE = "Do metrics' means predict the score?"
PREDICTED = "Predicted and actual scores"
LeaveOut = Literal["dataset", "pair"]
CONSTANT = "mean of the others' scores"


def prediction_tables(
    datasets: Sequence[Dataset], chosen: Sequence[Choice], *, leave: LeaveOut = "dataset", seed: int = 0
) -> list[Table]:
    """Errors of predicted scores by predictor, and the predictions of all metrics together.

    A predictor is a ridge regression (`metrics.stats.leave_out_ridge`) on one metric's mean over a data set, or on
    those of all metrics. Left out is a task with all models that answered it (``dataset``), or one model on one task
    (``pair``), which leaves the same task of other models among the rows fitted on. The score is the mean label, higher
    is better. Columns: mean absolute error, the gain over the mean score of the rows fitted on, with a percentile
    interval over resampled tasks, and Spearman's correlation of predicted and actual scores, both less the mean of the
    rows fitted on. That mean is lower the higher the score left out, so predictions as they are would go against the
    scores by construction. No interval: the predictions share the rows that they were fitted on.
    """
    kept = firsts(datasets)
    scores = np.array([mean_and_error(d.case.quality)[0] for d in kept])
    means = {c.id: np.array([mean_of(d.case, c)[0] for d in kept]) for c in chosen}
    known = {name: x for name, x in means.items() if np.isfinite(x[np.isfinite(scores)]).all()}
    rest = [name for name in means if name not in known]
    used = np.isfinite(scores)
    kept = [d for d, u in zip(kept, used) if u]
    scores = scores[used]
    tasks = np.array([d.case.task for d in kept])
    part = tasks if leave == "dataset" else np.array([f"{d.model} {d.case.task}" for d in kept])
    notes = [f"Not used, without a mean in some data set: {', '.join(rest)}."] if rest else []
    if len(np.unique(part)) < stats.FEWEST_PARTS or not known:
        few = f"{len(np.unique(part))} to leave out, one at a time; at least {stats.FEWEST_PARTS} are needed"
        return [
            Table(TITLE, [], [f"Nothing is predicted: {few if known else 'no metric has a mean everywhere'}.", *notes])
        ]
    inputs = {name: x[used][:, None] for name, x in known.items()}
    if len(inputs) > 1:
        inputs = {f"ridge over all {len(inputs)}": np.concatenate(list(inputs.values()), axis=1), **inputs}
    made = {name: stats.leave_out_ridge(x, scores, part) for name, x in inputs.items()}
    first = next(iter(made.values()))
    rows = [_row(name, found.values, first.constant, scores, tasks, seed) for name, found in made.items()]
    rows.append(_row(CONSTANT, first.constant, first.constant, scores, tasks, seed))
    rows.sort(key=lambda row: row["mae"])
    return [Table(TITLE, rows, [*_notes(len(scores), tasks, leave, rows), *notes]), _pairs(kept, scores, first)]


def _row(
    name: str, predicted: np.ndarray, constant: np.ndarray, scores: np.ndarray, tasks: np.ndarray, seed: int
) -> dict[str, Any]:
    error = np.abs(predicted - scores)
    gain = np.abs(constant - scores) - error
    row: dict[str, Any] = {"predictor": name, "mae": float(error.mean()), "gain": float(gain.mean())}
    row |= {"gain_lower": np.nan, "gain_upper": np.nan, "n": len(scores), "reason": ""}
    row["spearman"] = np.nan
    if name != CONSTANT:
        enough = len(np.unique(tasks)) >= stats.MIN_ITEMS
        if enough:
            found = stats.bootstrap_interval(stats.resampled_mean, gain, scores, seed=seed, group=tasks)
            row |= {"gain_lower": found.lower, "gain_upper": found.upper}
        together = stats.spearman(predicted - constant, scores - constant)
        row |= {"spearman": together.value, "reason": together.reason}
    return row


def _notes(n: int, tasks: np.ndarray, leave: LeaveOut, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    count = len(np.unique(tasks))
    what = "all models' scores of a task" if leave == "dataset" else "one model's score of a task"
    notes = [
        f"{n} scores of {count} tasks; left out and predicted: {what}. Ridge, the penalty chosen without these.",
        "Gain: by how much the mean absolute error is below that of predicting the others' mean score; above 0 helps.",
    ]
    notes.append("Spearman: of predicted and actual, both less the others' mean score; near 0 where nothing is known.")
    if count < stats.MIN_ITEMS:
        notes.append(f"Below {stats.MIN_ITEMS} tasks no interval of the gain is given, and order can be luck.")
    if leave == "pair":
        notes.append("The same task of other models was fitted on, so this says nothing of new tasks.")
    reasons = dict.fromkeys(row["reason"] for row in rows if row["reason"])
    return [*notes, *(f"Spearman: {reason}." for reason in reasons)]


def _pairs(kept: Sequence[Dataset], scores: np.ndarray, found: stats.Predicted) -> Table:
    rows = [
        {"model": d.model, "task": d.case.task, "n": len(d.case.quality), "actual": float(actual)}
        | {"predicted": float(p), "error": float(p - actual)}
        for d, actual, p in zip(kept, scores, found.values)
    ]
    return Table(PREDICTED, rows, ["By all metrics' means together; each row was not fitted on."])


def show(table: Table, format_: str) -> str:
    """Either table as md or latex."""
    if table.title == PREDICTED:
        return page(table.title, render(table.rows, format_), table.notes, format_)
    cells = [
        {"predictor": row["predictor"], "MAE": row["mae"]}
        | {"gain [95 % CI]": interval(row, "gain", "gain_lower", "gain_upper") if row["predictor"] != CONSTANT else "–"}
        | {"Spearman": row["spearman"], "n": row["n"]}
        for row in table.rows
    ]
    return page(table.title, render(cells, format_), table.notes, format_)
