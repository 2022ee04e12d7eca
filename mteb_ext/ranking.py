"""Tables that rank layers: per task, per type, overall, by model, and across models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from metrics.stats import Estimate, spearman
from metrics.stats import arms as arms_
from mteb_ext.item_ranking import ItemDraws, Items, item_draws
from mteb_ext.series import Series, shared_tasks

Row = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """How the resampling is done."""

    draws: int = 10000
    seed: int = 0
    level: float = 0.95
    stratify: bool = False


@dataclass(frozen=True)
class Verdict:
    """Which layer of a series is best, by how much, and how sure that is.

    `p_best`, `apart`: one a layer; `apart` is True where the layer can be told from the best, nowhere if the tasks are
    few. `*_out`: the gap on tasks that did not choose the layer; `picks`: how often each layer was chosen when one task
    at a time was left out. `items`: the same layers on resampled items, where there are predictions.
    """

    series: Series
    means: np.ndarray
    p_best: np.ndarray
    apart: np.ndarray
    last: Estimate | None
    middle: Estimate | None
    last_out: float
    middle_out: float
    picks: np.ndarray
    oracle: float
    items: ItemDraws | None = None

    @property
    def best(self) -> int:
        """The row of the best layer."""
        return self.series.best


def judge(series: Series, options: Options, *, items: Items | None = None, quick: bool = False) -> Verdict:
    """Find the best layer of a series and what the bootstraps over tasks and items say of it.

    `quick` leaves `apart` empty.
    """
    scores, best = series.scores, series.best
    counts = _counts(series, options)
    drawn = arms_.resampled_means(scores, counts)
    one = len(series.tasks) < 2
    last, middle = series.last, series.middle

    def gap(reference: int | None) -> Estimate | None:
        return None if reference is None else arms_.gap(scores, drawn, best, reference, level=options.level)

    outside = arms_.out_of_bag(scores, counts) if not one else np.full(len(scores), np.nan)
    few = quick or len(series.tasks) < arms_.FEW
    inside = np.ones(len(scores), bool) if few else arms_.best_set(scores, drawn, level=options.level)
    return Verdict(
        series,
        scores.mean(axis=1),
        np.full(len(scores), np.nan) if one else arms_.share_best(drawn),
        ~inside,
        gap(last),
        gap(middle),
        math.nan if last is None else float(outside[last]),
        math.nan if middle is None else float(outside[middle]),
        arms_.leave_one_out(scores, best)[0],
        float(scores.max(axis=0).mean()),
        item_draws(series, items),
    )


def model_rows(verdicts: Sequence[Verdict], options: Options) -> list[Row]:
    """One row a series: its best layer against the middle and the last, in and out of sample, over tasks and items."""
    with_items = any(v.items is not None for v in verdicts)
    return [{"model": v.series.label, "blocks": v.series.blocks, **_headline(v, options, with_items)} for v in verdicts]


def overall_rows(verdicts: Sequence[Verdict], options: Options) -> list[Row]:
    """One row a layer, best first within each series; then the series' aggregates.

    Columns: mean over tasks and over type means, Borda, z-mean, P(best), how far behind the best layer with the
    interval over tasks, and whether it can be told from the best; P(best) and the interval over items too, where there
    are predictions.
    """
    with_items = any(v.items is not None for v in verdicts)
    rows: list[Row] = []
    for v in verdicts:
        rows += [_named(verdicts, v.series) | row for row in _layers(v, options, with_items, overall=True)]
    return rows


def within_rows(verdicts: Sequence[Verdict], options: Options, items: Items | None = None, *, by: str) -> list[Row]:
    """The columns of `overall_rows`, a row a layer, within each type (`by` is 'type') or each task ('task').

    Without the mean of types and the comparison of all layers at once. One task has no P(best) or interval over tasks.

    Raises:
        ValueError: `by` is something else.
    """
    if by not in ("type", "task"):
        raise ValueError(f"by is {by!r}; give 'type' or 'task'")
    rows: list[Row] = []
    for v in verdicts:
        s = v.series
        of = s.types if by == "type" else s.tasks
        for name in sorted(set(of), key=lambda name: (s.types[of.index(name)], name)):
            part = judge(s.on([c for c, other in enumerate(of) if other == name]), options, items=items, quick=True)
            head = _named(verdicts, s) | {by: name} | ({"tasks": len(part.series.tasks)} if by == "type" else {})
            rows += [head | row for row in _layers(part, options, items is not None, overall=False)]
    return rows


def type_rows(verdicts: Sequence[Verdict], options: Options, items: Items | None = None) -> list[Row]:
    """One row a series and type of task: its best layer, as `model_rows` has it."""
    rows = []
    for v in verdicts:
        for type_ in sorted(set(v.series.types)):
            part = judge(
                v.series.on([c for c, t in enumerate(v.series.types) if t == type_]), options, items=items, quick=True
            )
            rows.append(_named(verdicts, v.series) | {"type": type_} | _headline(part, options, items is not None))
    return rows


def task_rows(verdicts: Sequence[Verdict], options: Options, items: Items | None = None) -> list[Row]:
    """One row a series and task: its best layer, the middle and the last, and how alike it ranks the layers.

    With `items` the gaps to the last and the middle layer have intervals over items; a task has none over tasks.
    `rho_others` is Spearman's correlation of the layers' scores on the task with their means over the other tasks.
    """
    rows = []
    for v in verdicts:
        s = v.series
        for c in sorted(range(len(s.tasks)), key=lambda c: (s.types[c], s.tasks[c])):
            scores = s.scores[:, c]
            best = int(scores.argmax())
            row = _named(verdicts, s) | {"task": s.tasks[c], "type": s.types[c], "best_layer": int(s.layers[best])}
            row |= _references(s, scores, best)
            row["gap_last"] = row["best"] - row["last"]
            row["overall_best_layer"] = float(scores[v.best])
            others = [k for k in range(len(s.tasks)) if k != c]
            row["rho_others"] = spearman(scores, s.scores[:, others].mean(axis=1)).value if others else math.nan
            if items is not None:
                row |= _item_columns(item_draws(s.on([c]), items), s, best, options.level)
            rows.append(row)
    return rows


def arm_rows(
    series: Sequence[Series], options: Options, plain: dict[str, np.ndarray] | None = None, *, top: int | None = None
) -> list[Row]:
    """Rank all layers of all series, and models without layers, on the tasks that all of them have; best first.

    `top` keeps that many rows, ranked among all.

    Raises:
        ValueError: the series share no task.
    """
    tasks = shared_tasks(series)
    parts = [s.on([s.tasks.index(t) for t in tasks]) for s in series]
    names = [(s.label, int(layer), layer / s.blocks if s.blocks else math.nan) for s in parts for layer in s.layers]
    names += [(label, None, math.nan) for label in plain or {}]
    scores = np.concatenate([*(s.scores for s in parts), *(row[None] for row in (plain or {}).values())])
    means = scores.mean(axis=1)
    drawn = arms_.resampled_means(scores, _counts(parts[0], options))
    shares = arms_.share_best(drawn) if len(tasks) > 1 else np.full(len(scores), np.nan)
    points, z = arms_.borda(scores), arms_.z_mean(scores)
    best = int(means.argmax())
    rows = []
    for place, i in enumerate(np.argsort(-means, kind="stable")[:top], start=1):
        model, layer, depth = names[i]
        row: Row = {"rank": place, "model": model, "layer": layer, "depth": float(depth), "mean": float(means[i])}
        row |= {"borda": float(points[i]), "z_mean": float(z[i]), "p_best": float(shares[i])}
        away = None if i == best else arms_.gap(scores, drawn, best, int(i), level=options.level)
        rows.append(row | _interval("behind", away))
    return rows


def type_means(series: Series) -> np.ndarray:
    """Mean over the types of the mean over each type's tasks: (layers,)."""
    return _by_type(series, series.scores)


def _counts(series: Series, options: Options) -> np.ndarray:
    types = series.types if options.stratify else None
    return arms_.task_counts(len(series.tasks), draws=options.draws, seed=options.seed, types=types)


def _layers(v: Verdict, options: Options, with_items: bool, *, overall: bool) -> list[Row]:
    """One row a layer, best first, then one an aggregate."""
    s = v.series
    drawn = arms_.resampled_means(s.scores, _counts(s, options))
    points, z = arms_.borda(s.scores), arms_.z_mean(s.scores)
    by_type = type_means(s)
    on_items = v.items.p_best if v.items else np.full(len(s.layers), np.nan)
    rows: list[Row] = []
    for place, i in enumerate(np.lexsort((s.layers, -v.means)), start=1):
        row: Row = {"rank": place, "layer": int(s.layers[i]), "mark": _mark(s, int(i))}
        row |= {"depth": s.layers[i] / s.blocks if s.blocks else math.nan, "mean": float(v.means[i])}
        row |= {"type_mean": float(by_type[i])} if overall else {}
        row |= {"borda": float(points[i]), "z_mean": float(z[i]), "p_best": float(v.p_best[i])}
        away = None if i == v.best else arms_.gap(s.scores, drawn, v.best, int(i), level=options.level)
        row |= _interval("behind", away)
        if overall:
            row["told_apart"] = "yes" if v.apart[i] else "no" if i != v.best and len(s.tasks) >= arms_.FEW else None
        if with_items:
            row["p_best_items"] = float(on_items[i])
            away = None if i == v.best or v.items is None else v.items.gap(v.best, int(i), options.level)
            row |= _interval("behind_items", away)
        rows.append(row)
    for name, scores in s.aggregates.items():
        both = np.stack([s.scores[v.best], scores])
        away = arms_.gap(both, arms_.resampled_means(both, _counts(s, options)), 0, 1, level=options.level)
        row = {"layer": name, "mean": float(scores.mean())}
        row |= {"type_mean": float(_by_type(s, scores[None])[0])} if overall else {}
        rows.append(row | _interval("behind", away))
    return rows


def _headline(v: Verdict, options: Options, with_items: bool) -> Row:
    s = v.series
    row: Row = {"tasks": len(s.tasks), "best_layer": int(s.layers[v.best]), **_references(s, v.means, v.best)}
    row |= _interval("gap_last", v.last) | {"gap_last_out_of_sample": v.last_out}
    row |= _interval("gap_middle", v.middle) | {"gap_middle_out_of_sample": v.middle_out}
    row |= {"p_best": float(v.p_best[v.best]), "oracle": v.oracle}
    return row | (_item_columns(v.items, s, v.best, options.level) if with_items else {})


def _item_columns(drawn: ItemDraws | None, s: Series, best: int, level: float) -> Row:
    """Gap of a layer to the last and the middle, and its P(best), over items; all NaN without predictions."""
    row: Row = {}
    for name, reference in (("last", s.last), ("middle", s.middle)):
        found = None if drawn is None or reference is None else drawn.gap(best, reference, level)
        row |= _interval(f"gap_{name}_items", found)
    return row | {"p_best_items": math.nan if drawn is None else float(drawn.p_best[best])}


def _references(s: Series, values: np.ndarray, best: int) -> Row:
    last = values[s.last] if s.last is not None else math.nan
    middle = values[s.middle] if s.middle is not None else math.nan
    return {"best": float(values[best]), "middle": float(middle), "last": float(last)}


def _interval(name: str, found: Estimate | None) -> Row:
    value, lower, upper = (found.value, found.lower, found.upper) if found else (math.nan,) * 3
    return {name: value, f"{name}_lower": lower, f"{name}_upper": upper}


def _named(verdicts: Sequence[Verdict], s: Series) -> Row:
    return {"model": s.label} if len({v.series.label for v in verdicts}) > 1 else {}


def _mark(s: Series, row: int) -> str:
    return ", ".join(n for n, at in (("best", s.best), ("middle", s.middle), ("last", s.last)) if at == row)


def _by_type(s: Series, scores: np.ndarray) -> np.ndarray:
    return np.mean([scores[:, [t == name for t in s.types]].mean(axis=1) for name in sorted(set(s.types))], axis=0)
