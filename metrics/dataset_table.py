"""One row a data set: its score, and each metric's mean and AUROC there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from metrics import stats
from metrics.cases import LOWER, Case
from metrics.core import Choice
from metrics.report import BASELINES, Table, absent_notes, interval, page
from metrics.stats import Estimate
from metrics.table import render

TITLE = "Data sets"
MACRO = "macro average"


@dataclass(frozen=True)
class Dataset:
    """Documents of one task that one model answered, under one verdict."""

    model: str
    case: Case


def dataset_table(datasets: Sequence[Dataset], chosen: Sequence[Choice], *, level: float = 0.95) -> Table:
    """Rows of one data set and metric: the score and its standard error, the metric's mean there, and its AUROC.

    The score is the mean of the labels as given, with lm-eval's standard error sd / sqrt(n), sd with n - 1. Means of a
    metric have its natural sign and leave out documents without a score, which are counted. AUROC is of wrong against
    right answers in the metric's own direction, with DeLong's interval; for a graded label Spearman's correlation with
    the label stands in its place (column `statistic`). Several tasks of a model are followed by their macro average,
    each counting the same, by its first verdict.
    """
    rows: list[dict[str, Any]] = []
    for model in models_of(datasets):
        own = [row for one in datasets if one.model == model for row in _rows(one, chosen, level)]
        rows += own + _macro_rows([d for d in firsts(datasets) if d.model == model], own, chosen, level)
    notes = [
        "Score: mean of the labels ± its standard error. Means of a metric have its own sign; AUROC: wrong from right."
    ]
    if any(d.case.wrong is None for d in datasets):
        notes.append("Graded labels: rho, Spearman's correlation with the label (1 is good), in place of AUROC.")
    if any(row["task"] == MACRO for row in rows):
        notes.append("Macro average: each task counts the same, by its first verdict; tasks are taken as independent.")
    notes += _reasons(rows) + _unscored(rows)
    notes += list(dict.fromkeys(note for d in datasets for note in absent_notes(d.case)))
    return Table(TITLE, rows, notes)


def firsts(datasets: Sequence[Dataset]) -> list[Dataset]:
    """Each model's tasks once, under the first verdict."""
    found: dict[tuple[str, str], Dataset] = {}
    for one in datasets:
        found.setdefault((one.model, one.case.task), one)
    return list(found.values())


def models_of(datasets: Sequence[Dataset]) -> list[str]:
    """The models, in order."""
    return list(dict.fromkeys(d.model for d in datasets))


def score_of(case: Case) -> tuple[float, float]:
    """Mean of the labels as given, and its standard error; NaN where labels are infinite, or none or one is there."""
    values = -case.quality if LOWER in case.label else case.quality
    return mean_and_error(values)


def mean_of(case: Case, choice: Choice) -> tuple[float, float]:
    """Mean of a metric over the scored documents in its natural sign, and its standard error; NaN without any."""
    if choice.id not in case.scores:
        return math.nan, math.nan
    values = case.scores[choice.id] if choice.metric.higher == "uncertain" else -case.scores[choice.id]
    return mean_and_error(values[~np.isnan(values)])


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Mean and its standard error sd / sqrt(n), sd with n - 1; NaN without a value or with one that is not finite."""
    if not len(values) or not np.isfinite(values).all():
        return math.nan, math.nan
    error = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return float(values.mean()), error


def _rows(one: Dataset, chosen: Sequence[Choice], level: float) -> list[dict[str, Any]]:
    """A row for each metric that has a score in this data set, or one without a metric if none has."""
    case = one.case
    score, error = score_of(case)
    head = {"model": one.model, "task": case.task, "verdict": case.label, "n": len(case.quality)}
    head |= {"score": score, "score_se": error}
    found = []
    for choice in [c for c in chosen if c.id in case.scores]:
        values = case.scores[choice.id]
        if case.wrong is None:
            estimate = stats.spearman(-values, case.quality, level=level)
        else:
            estimate = stats.delong_interval(values, case.wrong, level=level)
        mean, mean_error = mean_of(case, choice)
        statistic = "spearman" if case.wrong is None else "auroc"
        found.append(
            head
            | {"metric": choice.id, "higher": choice.metric.higher, "mean": mean, "mean_se": mean_error}
            | _cells(statistic, estimate)
            | {"wrong": estimate.n_positive, "unscored": int(np.isnan(values).sum())}
        )
    return found or [head]


def _cells(statistic: str, estimate: Estimate) -> dict[str, Any]:
    return {
        "statistic": statistic,
        "value": estimate.value,
        "lower": estimate.lower,
        "upper": estimate.upper,
        "value_se": estimate.se,
        "reason": estimate.reason,
    }


def _macro_rows(
    kept: Sequence[Dataset], rows: Sequence[Mapping[str, Any]], chosen: Sequence[Choice], level: float
) -> list[dict[str, Any]]:
    """The macro average of one model's tasks; none of a single one."""
    if len(kept) < 2:
        return []
    places = {(d.case.task, d.case.label) for d in kept}
    mine = [r for r in rows if (r["task"], r["verdict"]) in places]
    scores = [score_of(d.case) for d in kept]
    head = {
        "model": kept[0].model,
        "task": MACRO,
        "verdict": f"{len(kept)} tasks",
        "n": sum(len(d.case.quality) for d in kept),
    }
    head |= {
        "score": float(np.mean([s for s, _ in scores])),
        "score_se": math.hypot(*(e for _, e in scores)) / len(kept),
    }
    found = []
    for choice in chosen:
        here = [r for r in mine if r.get("metric") == choice.id]
        if len(here) < len(kept):
            continue  # the mean over other tasks is not to be compared with that of all
        estimates = [
            Estimate(r["value"], r["lower"], r["upper"], r["n"] - r["unscored"], r["wrong"], "", r["value_se"])
            for r in here
            if r["statistic"] == "auroc"
        ]
        mean_error = math.hypot(*(r["mean_se"] for r in here)) / len(here)
        found.append(
            head
            | {"metric": choice.id, "higher": choice.metric.higher}
            | {"mean": float(np.mean([r["mean"] for r in here])), "mean_se": mean_error}
            | _cells("auroc", stats.macro_average(estimates, level=level))
            | {"wrong": sum(e.n_positive or 0 for e in estimates), "unscored": sum(r["unscored"] for r in here)}
        )
    return found or [head]


def _reasons(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is wrong with AUROCs, by place; what several metrics of a place share is said once, for the place."""
    who: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.get("reason") and row["metric"] not in BASELINES:
            reason = row["reason"].replace(" positive", " wrong").replace(" negative", " right")
            who.setdefault((_place(row, rows), reason), []).append(row["metric"])
    where: dict[str, list[str]] = {}
    for (place, reason), names in who.items():
        alone = "" if len(names) > 1 else f"{names[0]}: "
        where.setdefault(alone + reason, []).append(place)
    return [f"{'; '.join(places)}: {reason}." for reason, places in where.items()]


def _place(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """The task of a row, with its model and its verdict where there are several."""
    verdicts = {r["verdict"] for r in rows if (r["model"], r["task"]) == (row["model"], row["task"])}
    models = {r["model"] for r in rows}
    parts = [row["model"]] * (len(models) > 1) + [row["task"]] + [row["verdict"]] * (len(verdicts) > 1)
    return ", ".join(parts)


def _unscored(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lost: dict[str, list[str]] = {}
    for row in rows:
        if row.get("unscored") and row["task"] != MACRO:
            lost.setdefault(f"{_place(row, rows)}: {row['unscored']} of {row['n']}", []).append(row["metric"])
    return [f"Without a score in {where}: {', '.join(names)}." for where, names in lost.items()]


def show(table: Table, format_: str) -> str:
    """The table as md or latex, one row a data set; of the baselines AUROC alone."""
    return page(table.title, render(_cells_by_dataset(table.rows), format_), table.notes, format_)


def _cells_by_dataset(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    several = len({row["model"] for row in rows}) > 1
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        key = (row["model"], row["task"], row["verdict"])
        cells = found.setdefault(
            key,
            ({"model": row["model"]} if several else {})
            | {"task": row["task"], "verdict": row["verdict"], "n": row["n"]}
            | {"score": _plus_minus(row["score"], row["score_se"])},
        )
        if "metric" in row:
            sign = "rho " if row["statistic"] == "spearman" and not math.isnan(row["value"]) else ""
            if row["metric"] in BASELINES:
                cells[f"AUROC of {row['metric']}"] = row["value"]
            else:
                cells[row["metric"]] = row["mean"]
                cells[f"AUROC of {row['metric']}"] = sign + interval(row, "value")
    return list(found.values())


def _plus_minus(value: float, error: float) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:.3f}" if math.isnan(error) else f"{value:.3f} ± {error:.3f}"
