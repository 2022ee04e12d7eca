"""Tables of two stores, A and B, on the same documents: who is right, and whose metrics find its errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import rankdata

from metrics import stats
from metrics.cases import LOWER
from metrics.compare import Pair
from metrics.report import FEW, alike
from metrics.stats import Estimate
from metrics.table import render

REPLICATES = 2000
SIDES = ("a", "b")


@dataclass
class Compared:
    """A title, rows of numbers, the same rows in the words that a reader is shown, and notes."""

    title: str
    rows: list[dict[str, Any]]
    shown: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)


def accuracy_table(pairs: Sequence[Pair], *, level: float = 0.95, seed: int = 0) -> Compared:
    """Accuracy of A and B on the documents of both, one row a task and verdict, and their mean over tasks.

    Right or wrong: Newcombe's paired interval of the difference A - B and the exact McNemar test of the documents on
    which the two differ. Graded labels: means, and a paired bootstrap interval of their difference.
    """
    rows, differences = [], dict[str, Estimate]()
    for pair in pairs:
        row, difference = (_accuracy if pair.binary else _means)(pair, level, seed)
        rows.append(row)
        if pair.binary:
            differences.setdefault(pair.task, difference)
    notes = [
        "A - B: Newcombe's interval for paired proportions; p: exact McNemar test of the documents that differ."
        if any(pair.binary for pair in pairs)
        else "",
        f"Graded labels: means; A - B by {REPLICATES} resamples of documents, seed {seed}; --threshold makes "
        "them right or wrong."
        if not all(pair.binary for pair in pairs)
        else "",
        *(note for pair in pairs for note in _documents(pair)),
        *(f"{row['task']}, {row['verdict']}: {row['reason']}." for row in rows if row["reason"]),
    ]
    if len(differences) > 1:
        rows.append(_macro_accuracy(rows, differences, level))
        notes.append("Macro: each task counts the same, by its first verdict; tasks are taken as independent.")
    shown = [
        {
            "task": row["task"],
            "verdict": row["verdict"],
            "n": row["n"],
            "A [95 % CI]": _span(row["a"], row["a_lower"], row["a_upper"]),
            "B [95 % CI]": _span(row["b"], row["b_lower"], row["b_upper"]),
            "A - B [95 % CI]": _span(row["difference"], row["lower"], row["upper"]),
            "p": _small(row["p"]),
            "both right": row["both_right"],
            "only A": row["only_a"],
            "only B": row["only_b"],
            "both wrong": row["both_wrong"],
        }
        for row in rows
    ]
    return Compared("Accuracy", rows, shown, [note for note in notes if note])


def _accuracy(pair: Pair, level: float, seed: int) -> tuple[dict[str, Any], Estimate]:
    del seed
    wrong1, wrong2 = pair.first.wrong, pair.second.wrong
    assert wrong1 is not None and wrong2 is not None
    n = len(wrong1)
    cells = [int(c.sum()) for c in (~wrong1 & ~wrong2, ~wrong1 & wrong2, wrong1 & ~wrong2, wrong1 & wrong2)]
    difference = stats.newcombe_interval(*cells, level=level)
    right = [int((~wrong).sum()) for wrong in (wrong1, wrong2)]
    row = _row(pair, n, [count / n if n else math.nan for count in right], difference)
    for side, count in zip(SIDES, right):
        row[f"{side}_lower"], row[f"{side}_upper"] = stats.wilson_interval(count, n, level=level)
    row |= dict(zip(("both_right", "only_a", "only_b", "both_wrong"), cells))
    row["p"] = stats.mcnemar(cells[1], cells[2]) if n else math.nan
    return row, difference


def _means(pair: Pair, level: float, seed: int) -> tuple[dict[str, Any], Estimate]:
    one, two = grades(pair)
    n = len(one)
    finite = bool(np.isfinite(one).all() and np.isfinite(two).all())
    if n and finite:
        difference = stats.bootstrap_difference(
            stats.resampled_mean, one, two, np.zeros(n), seed=seed, replicates=REPLICATES, level=level
        )
    else:
        difference = Estimate.point(math.nan, n, None, "some labels are infinite and have no mean" if n else "no items")
    return _row(pair, n, [float(v.mean()) if n and finite else math.nan for v in (one, two)], difference), difference


def grades(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    """The labels of A and B as they were given; a case turns them where less is better."""
    one, two = (-case.quality if LOWER in case.label else case.quality for case in (pair.first, pair.second))
    return one, two


def _row(pair: Pair, n: int, values: Sequence[float], difference: Estimate) -> dict[str, Any]:
    verdict = pair.title.removeprefix(f"{pair.task}, ")
    return {
        "task": pair.task,
        "verdict": verdict,
        "n": n,
        "a": values[0],
        "a_lower": math.nan,
        "a_upper": math.nan,
        "b": values[1],
        "b_lower": math.nan,
        "b_upper": math.nan,
        "difference": difference.value,
        "lower": difference.lower,
        "upper": difference.upper,
        "p": math.nan,
        "both_right": None,
        "only_a": None,
        "only_b": None,
        "both_wrong": None,
        "only_in_a": sum(pair.matching.only_first.values()),
        "only_in_b": sum(pair.matching.only_second.values()),
        "reason": difference.reason,
    }


def _macro_accuracy(
    rows: Sequence[Mapping[str, Any]], differences: Mapping[str, Estimate], level: float
) -> dict[str, Any]:
    mean = stats.macro_average(list(differences.values()), level=level, scale="linear")
    first = {row["task"]: row for row in reversed(rows) if row["both_right"] is not None}
    values = [float(np.nanmean([row[side] for row in first.values()])) if mean.n else math.nan for side in SIDES]
    made = dict.fromkeys(rows[0], None) | {"task": f"macro, {len(differences)} tasks", "verdict": "", "n": mean.n}
    made |= {"a": values[0], "b": values[1], "difference": mean.value, "lower": mean.lower, "upper": mean.upper}
    blank = dict.fromkeys(("a_lower", "a_upper", "b_lower", "b_upper", "p"), math.nan)
    return {**made, **blank, "reason": mean.reason}


def _documents(pair: Pair) -> list[str]:
    """Which documents are compared, and why others are not."""
    found, matching = len(pair.matching.pairs), pair.matching
    alone = []
    for side, other, counts in (("A", "B", matching.only_first), ("B", "A", matching.only_second)):
        alone += [f"{count} only in {side} ({_of(reason, other)})" for reason, count in sorted(counts.items())]
    alone += [f"{count} without a label in {side}" for side, count in zip("AB", pair.unlabelled) if count]
    prompts = sum(a.prompt_hash != b.prompt_hash for a, b in pair.documents)
    more = f"; {prompts} were asked with another prompt" if prompts else ""
    return [f"{pair.title}: {found} documents in both{more}" + "".join(f"; {part}" for part in alone) + "."]


def _of(reason: str, other: str) -> str:
    return f"{reason} in {other}"


def auroc_table(pair: Pair, *, level: float = 0.95) -> Compared:
    """AUROC of each metric in A and in B, each for its own wrong answers, and the paired difference A - B.

    Rows are the metrics with scores in both, sorted by the size of the difference; p after Benjamini-Hochberg over the
    metrics that order the documents differently in either store. No test with fewer than five right or wrong in one.
    """
    wrong1, wrong2 = pair.first.wrong, pair.second.wrong
    assert wrong1 is not None and wrong2 is not None
    names = [name for name in pair.first.scores if name in pair.second.scores]
    same = _alike(pair, names)
    few = min((int(count) for wrong in (wrong1, wrong2) for count in (wrong.sum(), (~wrong).sum())), default=0) < FEW
    rows, reasons = [], dict[str, list[str]]()
    for name in names:
        one, two = pair.first.scores[name], pair.second.scores[name]
        found = stats.paired_auroc_difference(one, wrong1, two, wrong2, level=level)
        both = ~(np.isnan(one) | np.isnan(two))
        own = [stats.delong_interval(s[both], w[both], level=level) for s, w in ((one, wrong1), (two, wrong2))]
        e = found.difference
        row = {"metric": name}
        for side, estimate in zip(SIDES, own):
            row |= {side: estimate.value, f"{side}_lower": estimate.lower, f"{side}_upper": estimate.upper}
        row |= {"difference": e.value, "lower": e.lower, "upper": e.upper, "se": e.se}
        moved = bool((rankdata(one[both]) != rankdata(two[both])).any() or (wrong1 != wrong2)[both].any())
        row["p"] = found.p if moved and not few else math.nan
        row |= {"correlation": found.correlation, "n": e.n, "unscored": int((~both).sum())}
        row |= {"wrong_a": int(wrong1[both].sum()), "wrong_b": int(wrong2[both].sum()), "reason": e.reason}
        rows.append(row)
        if e.reason and same[name] == name:
            reasons.setdefault(_in_words(e.reason), []).append(name)
    tested = {row["metric"]: row["p"] for row in rows if same[row["metric"]] == row["metric"]}
    adjusted = dict(zip(tested, stats.benjamini_hochberg(list(tested.values()))))
    for row in rows:
        row["p_bh"] = float(adjusted[same[row["metric"]]])
    rows.sort(key=lambda row: -1.0 if math.isnan(row["difference"]) else abs(row["difference"]), reverse=True)
    shown = [_auroc_cells(row) for row in rows if same[row["metric"]] == row["metric"]]
    notes = [*_auroc_notes(pair, rows, few=few), *_said(reasons, len(tested)), *_absent(pair, names)]
    groups = [[name for name in names if same[name] == leader] for leader in dict.fromkeys(same.values())]
    notes += ["Same order in both, shown once: " + " = ".join(group) + "." for group in groups if len(group) > 1]
    defined = any(not math.isnan(row["a"]) or not math.isnan(row["b"]) for row in rows)
    return Compared(f"AUROC: {pair.title}", rows, shown if defined else [], notes)


def _alike(pair: Pair, names: Sequence[str]) -> dict[str, str]:
    """Each metric's first equal in order in both stores."""
    one, two = (alike({name: case.scores[name] for name in names}) for case in (pair.first, pair.second))
    leaders: dict[tuple[str, str], str] = {}
    return {name: leaders.setdefault((one[name], two[name]), name) for name in names}


def _auroc_cells(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "metric": row["metric"],
        "A [95 % CI]": _span(row["a"], row["a_lower"], row["a_upper"]),
        "B [95 % CI]": _span(row["b"], row["b_lower"], row["b_upper"]),
        "A - B [95 % CI]": _span(row["difference"], row["lower"], row["upper"]),
        "p (BH)": _small(row["p_bh"]),
        **{k: row[k] for k in ("n", "unscored", "tasks") if k in row},
    }


def _auroc_notes(pair: Pair, rows: Sequence[Mapping[str, Any]], *, few: bool) -> list[str]:
    wrong = [case.wrong for case in (pair.first, pair.second) if case.wrong is not None]
    n = len(pair.documents)
    if not n:
        return ["No document was judged in both stores."]
    counts = ", ".join(f"{side}: {int(w.sum())} wrong (error rate {w.mean():.3f})" for side, w in zip("AB", wrong))
    known = [row["correlation"] for row in rows if not math.isnan(row["correlation"]) and row["metric"] != "random"]
    typical = f"; the AUROCs correlate by {np.median(known):.2f}" if known else ""
    notes = [
        f"n = {n} documents judged in both. {counts}.",
        "Each AUROC is for the store's own wrong answers: how well a metric finds them, not how good the model is.",
        f"A - B: paired over documents, from DeLong's placements in either store{typical}.",
    ]
    return [*notes, f"Not tested, with fewer than {FEW} right or wrong in a store."] if few else notes


def macro_auroc_table(tables: Mapping[str, Compared], *, level: float = 0.95) -> Compared:
    """Mean over tasks of the AUROCs and of their differences, each task counting the same and taken as independent."""
    by_task = {task: {row["metric"]: row for row in table.rows} for task, table in tables.items()}
    names = [name for name in next(iter(by_task.values())) if all(name in rows for rows in by_task.values())]
    made = []
    for name in names:
        found = [rows[name] for rows in by_task.values()]
        mean = stats.macro_average([_estimate(row) for row in found], level=level, scale="linear")
        used = [row for row in found if not math.isnan(row["difference"])]
        row = {"metric": name}
        for side in SIDES:
            value = float(np.mean([r[side] for r in used])) if used else math.nan
            row |= {side: value, f"{side}_lower": math.nan, f"{side}_upper": math.nan}
        row |= {"difference": mean.value, "lower": mean.lower, "upper": mean.upper, "p": math.nan, "p_bh": math.nan}
        made.append({**row, "n": mean.n, "tasks": len(used), "reason": mean.reason})
    made.sort(key=lambda row: -1.0 if math.isnan(row["difference"]) else abs(row["difference"]), reverse=True)
    partly = sorted({name for rows in by_task.values() for name in rows} - set(names))
    notes = [f"Each task counts the same, by its first verdict: {', '.join(tables)}."]
    notes += [f"Without a score in some task, so not averaged: {', '.join(partly)}."] if partly else []
    shown = [{k: v for k, v in _auroc_cells(row).items() if k != "p (BH)"} for row in made]
    return Compared(f"AUROC: macro average over {len(tables)} tasks", made, shown, notes)


def _estimate(row: Mapping[str, Any]) -> Estimate:
    return Estimate(row["difference"], row["lower"], row["upper"], row["n"], None, "", row["se"])


def show(table: Compared, format_: str) -> str:
    """The table in md or latex, with its notes below (as comments in latex)."""
    text = render(table.shown, format_)
    if format_ == "latex":
        return "\n".join([f"% {table.title}", text, *(f"% {note}" for note in table.notes)])
    parts = [f"### {table.title}", text, "\n".join(f"{note}  " for note in table.notes)]
    return "\n\n".join(part for part in parts if part).rstrip()


def _said(reasons: Mapping[str, Sequence[str]], count: int) -> list[str]:
    return [
        f"{'All metrics' if len(names) == count and count > 1 else ', '.join(names)}: {reason}."
        for reason, names in reasons.items()
    ]


def _in_words(reason: str) -> str:
    words = {" positive": " wrong", " negative": " right", "first:": "A:", "second:": "B:", "items": "documents"}
    for old, new in words.items():
        reason = reason.replace(old, new)
    return reason


def _absent(pair: Pair, names: Sequence[str]) -> list[str]:
    """Metrics without a row, by reason; those over options are only counted."""
    found: dict[str, list[str]] = {}
    for side, case, other in (("A", pair.first, pair.second), ("B", pair.second, pair.first)):
        for name, reason in case.absent.items():
            if name not in names and reason != "not multiple choice":
                where = side if name in other.scores else "A and B"
                held = found.setdefault(f"No score in {where}, {reason}", [])
                held += [] if name in held else [name]
    return [f"{why}: {', '.join(which)}." for why, which in found.items()]


def _span(value: float, lower: float, upper: float) -> str:
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.3f}" if math.isnan(lower) else f"{value:.3f} [{lower:.3f}, {upper:.3f}]"


def _small(p: float) -> float | str:
    return "<.001" if p < 0.001 else p
