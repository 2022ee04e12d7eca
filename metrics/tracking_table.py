"""Whether a metric's mean over a data set tells how well the model does on it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from metrics import stats
from metrics.core import Choice
from metrics.dataset_table import Dataset, firsts, mean_and_error, mean_of, models_of
from metrics.report import Table, interval, page
from metrics.table import render

TITLE = "Does a metric's mean track the score?"
POOLED = "all, centred by model"
KINDS = ("spearman", "pearson")


def tracking_table(
    datasets: Sequence[Dataset], chosen: Sequence[Choice], *, level: float = 0.95, seed: int = 0
) -> Table:
    """Rows of one metric: whether its mean over a data set tells how well the model does on it.

    Spearman and Pearson correlation of mean and score over the data sets, by model, and, with several models, over all
    after each model's mean is taken off both; see `metrics.stats.tracking`. The sign is expected from the metric's
    direction: below 0 where higher means uncertain. Scores of which less is better are turned round. Each task counts
    once, by its first verdict. p after Benjamini-Hochberg over the metrics of a model.
    """
    kept = firsts(datasets)
    models = models_of(kept)
    groups = [(model, [model]) for model in models] + ([(POOLED, models)] if len(models) > 1 else [])
    rows: list[dict[str, Any]] = []
    for name, members in groups:
        found = []
        for choice in chosen:
            x, y = _paired([[d for d in kept if d.model == model] for model in members], choice)
            if not np.isnan(x).all():  # it has a score, and the models a task in common
                found.append(_row(name, choice, x, y, level, seed))
        for kind in KINDS:
            for row, adjusted in zip(found, stats.benjamini_hochberg([row[f"{kind}_p"] for row in found])):
                row[f"{kind}_p_bh"] = float(adjusted)
        rows += found
    return Table(TITLE, rows, _notes(kept, rows))


def _paired(by_model: Sequence[Sequence[Dataset]], choice: Choice) -> tuple[np.ndarray, np.ndarray]:
    """Means of a metric and scores (higher is better), (models, data sets), of the tasks that every model has."""
    tasks = [d.case.task for d in by_model[0] if all(d.case.task in {o.case.task for o in own} for own in by_model)]
    cases = [[next(d.case for d in own if d.case.task == task) for task in tasks] for own in by_model]
    means = [[mean_of(case, choice)[0] for case in row] for row in cases]
    scores = [[mean_and_error(case.quality)[0] for case in row] for row in cases]
    return np.array(means, dtype=float), np.array(scores, dtype=float)


def _row(model: str, choice: Choice, x: np.ndarray, y: np.ndarray, level: float, seed: int) -> dict[str, Any]:
    both = [stats.tracking(x, y, rank=kind == "spearman", seed=seed, level=level) for kind in KINDS]
    uncertain = choice.metric.higher == "uncertain"
    rho = both[0].estimate
    row: dict[str, Any] = {
        "model": model,
        "metric": choice.id,
        "expected": "below 0" if uncertain else "above 0",
        "as_expected": None if math.isnan(rho.value) or rho.value == 0 else (rho.value < 0) == uncertain,
        "datasets": rho.n,
    }
    for kind, one in zip(KINDS, both):
        e = one.estimate
        row |= {kind: e.value, f"{kind}_lower": e.lower, f"{kind}_upper": e.upper, f"{kind}_p": one.p}
    return row | {"exact": both[0].exact, "reason": rho.reason}


def _notes(kept: Sequence[Dataset], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    labels = list(dict.fromkeys(d.case.label for d in kept))
    notes = [f"Each task counts once, by its first verdict: {', '.join(labels)}."]
    defined = [row for row in rows if not math.isnan(row["spearman"])]
    if defined:
        how = {True: "all orders of the data sets", False: "9,999 random orders of the data sets"}
        orders = " or ".join(dict.fromkeys(how[row["exact"]] for row in defined))
        notes.append(f"p: {orders}, two-sided, after Benjamini-Hochberg.")
        notes.append("Length differs between data sets too: a metric has to be judged beside answer_length.")
    if any(not math.isnan(row["spearman_lower"]) for row in defined):
        notes.append("Intervals: 2000 resamples of data sets, seed 0.")
    if any(row["model"] == POOLED for row in defined):
        notes.append("Pooled: a data set is drawn, or moved, with all its models.")
    if len(models_of(kept)) > 1 and not any(row["model"] == POOLED for row in rows):
        notes.append("The models have no data set in common, so nothing is pooled.")
    if len({label.split("@")[0] for label in labels}) > 1:
        notes.append("The scores are of different kinds, so their values compare less well than their order.")
    return notes + _reasons(rows)


def _reasons(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is wrong with correlations; what all metrics share is said once, and then what all of a model share."""
    where: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["reason"]:
            where.setdefault(row["reason"], []).append(row)
    found = []
    for reason, those in where.items():
        if len(those) == len(rows):
            found.append(f"All metrics: {reason}.")
            continue
        models = list(dict.fromkeys(row["model"] for row in rows))
        names = []
        for model in models:
            own = [row["metric"] for row in those if row["model"] == model]
            whole = len(own) == sum(row["model"] == model for row in rows)
            listed = "all metrics" if whole else ", ".join(own)
            names += [f"{model}: {listed}" if len(models) > 1 else listed] if own else []
        found.append(f"{'; '.join(names)}: {reason}.")
    return found


def show(table: Table, format_: str) -> str:
    """The table as md or latex, one row a metric; no table where nothing is defined."""
    undefined = all(math.isnan(row["spearman"]) for row in table.rows)
    return page(table.title, "" if undefined else render(_cells(table.rows), format_), table.notes, format_)


def _cells(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    several = len({row["model"] for row in rows}) > 1
    words = {True: "yes", False: "no", None: "–"}
    return [
        ({"model": row["model"]} if several else {})
        | {"metric": row["metric"], "data sets": row["datasets"], "expected": row["expected"]}
        | {"as expected": words[row["as_expected"]]}
        | {
            "Spearman [95 % CI]": interval(row, "spearman", "spearman_lower", "spearman_upper"),
            "p of Spearman": row["spearman_p_bh"],
        }
        | {
            "Pearson [95 % CI]": interval(row, "pearson", "pearson_lower", "pearson_upper"),
            "p of Pearson": row["pearson_p_bh"],
        }
        for row in rows
    ]
