"""What a grid of composites says of one task and verdict, and what it does not: tables of a case."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from metrics import stats
from metrics.cases import Case
from metrics.core import Choice
from metrics.report import BASELINES, FEW, Table, absent_notes, interval, page
from metrics.table import render
from metrics.tokenwise.composite import Composite

REFERENCES = (*BASELINES, "sequence_nll", "mean_entropy")
"""What a winner has to beat: lengths, chance, and the two plainest scores of a model's own probabilities."""

ENOUGH = 0.95
"""A configuration may win if it scores this share of the documents that the one scoring most does."""


@dataclass(frozen=True)
class Scheme:
    """How winners are chosen: by the `share` of `repeats` random splits; and the metric of the paired tests."""

    repeats: int
    share: float
    seed: int
    against: str | None = None


@dataclass(frozen=True)
class Grid:
    """The composites of a case that have scores: `names`, `scores` (K, n), and AUROCs on all documents (K,)."""

    case: Case
    wrong: np.ndarray
    parts: Sequence[tuple[str, ...]]
    names: Sequence[str]
    scores: np.ndarray
    ordered: stats.Sorted
    auroc: np.ndarray
    eligible: np.ndarray


def make_grid(case: Case, chosen: Sequence[Choice]) -> Grid | None:
    """The grid of a case with a binary label; None when no composite has a score."""
    assert case.wrong is not None
    made = {c.id: c.metric.compute for c in chosen if isinstance(c.metric.compute, Composite)}
    names = [name for name in case.scores if name in made]
    if not names:
        return None
    scores = np.stack([case.scores[name] for name in names])
    ordered = stats.Sorted(scores)
    eligible = ordered.scored >= ENOUGH * ordered.scored.max()
    parts = [made[name].parts() for name in names]
    return Grid(case, case.wrong, parts, names, scores, ordered, ordered.auroc(case.wrong), eligible)


def grid_tables(case: Case, chosen: Sequence[Choice], scheme: Scheme, *, top: int, every: bool = False) -> list[Table]:
    """The best of the grid in-sample, the winner on documents that did not choose it, and what each factor does.

    Args:
        case: with a binary label; composites and references among its scores.
        chosen: the metrics of the case.
        scheme: how winners are chosen.
        top: orders of the documents in the first table; all at 0.
        every: a row for each configuration of an order; else for the first alone.
    """
    wrong = case.wrong
    assert wrong is not None
    rate = f"n = {len(wrong)}, {int(wrong.sum())} wrong (error rate {wrong.mean() if len(wrong) else math.nan:.3f})."
    grid = make_grid(case, chosen)
    if grid is None:
        return [Table(case.title, [], [f"{rate} No configuration has a score.", *_absent(case)])]
    if np.isnan(grid.auroc).all():
        return [Table(case.title, [], [f"{rate} With one class there is no AUROC.", *_absent(case)])]
    selected = None
    if _smallest_class(wrong, scheme.share) >= FEW:
        options: dict[str, Any] = {"repeats": scheme.repeats, "share": scheme.share, "seed": scheme.seed}
        selected = stats.nested_selection(grid.ordered, wrong, grid.eligible, **options)
    tables = [_top_table(grid, selected, scheme, rate, top=top, every=every)]
    if selected is not None:
        tables.append(_nested_table(grid, selected, scheme))
    return [*tables, *effect_tables(grid)]


def _absent(case: Case) -> list[str]:
    """Reasons of those without a score, which may be thousands: counted, with one example each."""
    reasons = Counter(case.absent.values())
    first = {reason: next(n for n, r in case.absent.items() if r == reason) for reason in reasons}
    many = {reason for reason, count in reasons.items() if count > 5}
    few = Case(case.task, case.label, {}, case.quality, case.wrong, absent={
        name: reason for name, reason in case.absent.items() if reason not in many
    })  # fmt: skip
    told = [f"No score of these documents, {r}: {reasons[r]} metrics, {first[r]} among them." for r in sorted(many)]
    return [*told, *absent_notes(few)]


def _smallest_class(wrong: np.ndarray, share: float) -> int:
    """Documents in the smaller class of the part that chooses or of the part that judges, whichever has fewer."""
    counts = [int(wrong.sum()), int((~wrong).sum())]
    if min(counts) < 2:
        return 0
    choosing = [stats.choosing_count(count, share) for count in counts]
    return min(*choosing, *(count - taken for count, taken in zip(counts, choosing)))


def _top_table(
    grid: Grid, selected: stats.Selected | None, scheme: Scheme, rate: str, *, top: int, every: bool
) -> Table:
    first = grid.ordered.same_order()
    distinct = np.unique(first)
    p = np.full(len(grid.names), np.nan)
    p[distinct] = stats.benjamini_hochberg(grid.ordered.p_of_no_difference(grid.wrong)[distinct])
    wins = (
        np.zeros(len(grid.names))
        if selected is None
        else np.bincount(first[selected.winner], minlength=len(grid.names))
    )
    paired = _paired(grid, scheme, distinct)
    members: dict[int, list[int]] = {}
    for i, leader in enumerate(first.tolist()):
        members.setdefault(leader, []).append(i)
    best = sorted(members, key=lambda i: -math.inf if math.isnan(grid.auroc[i]) else grid.auroc[i], reverse=True)
    rows: list[dict[str, Any]] = []
    for i in best[:top] if top else best:
        row = _row(grid.names[i], grid.case.scores[grid.names[i]], grid.wrong) | {"p_bh": float(p[i])}
        row |= paired.get(i, {})
        row |= {"wins": math.nan if selected is None else float(wins[i] / scheme.repeats)}
        row |= {"same_order": len(members[i]), "first_of_order": grid.names[i]}
        rows += [row | {"metric": grid.names[member]} for member in (members[i] if every else [i])]
    for name in _references(grid, scheme):
        rows.append(_row(name, grid.case.scores[name], grid.wrong))
    worse = int(np.count_nonzero(grid.auroc < 0.5))
    notes = [
        rate,
        f"{len(grid.names)} configurations, {len(distinct)} orders of the documents among them, "
        f"{'with a row for every configuration' if every else 'each shown once'} "
        "(same order: how many configurations share it). The AUROCs of this table are "
        "in-sample: the top row is picked on the documents that judge it.",
        "p (BH): wrong and right answers score alike (Mann-Whitney), Benjamini-Hochberg over the distinct orders: "
        f"{int(np.count_nonzero(p[distinct] <= 0.05))} of them at most .05.",
        f"Signs are fixed in advance; {worse} of {len(grid.names)} configurations are below .5.",
    ]
    if paired:
        notes.append(
            f"Gain: over {scheme.against}, on the documents that both score, paired DeLong (of its own order 0, "
            f"whatever the interval); its p is two-sided, "
            f"Benjamini-Hochberg over the distinct orders, none with fewer than {FEW} in a class."
        )
    elif scheme.against is not None:
        notes.append(f"{scheme.against} has no score here, or a class has fewer than {FEW}: no paired test.")
    if selected is None:
        notes.append(f"A split would leave fewer than {FEW} of a class in one part: no winner is chosen on a split.")
    short = int(np.count_nonzero(~grid.eligible))
    if short:
        notes.append(f"{short} configurations score less than {ENOUGH:.0%} of what others do, and cannot win.")
    return Table(f"{grid.case.title}: the grid, in-sample", rows, [*notes, *_absent(grid.case)])


def _row(name: str, score: np.ndarray, wrong: np.ndarray) -> dict[str, Any]:
    found = stats.delong_interval(score, wrong)
    return {
        "metric": name,
        "auroc": found.value,
        "lower": found.lower,
        "upper": found.upper,
        "n": found.n,
        "unscored": int(np.isnan(score).sum()),
    }


def _paired(grid: Grid, scheme: Scheme, distinct: np.ndarray) -> dict[int, dict[str, float]]:
    """By the distinct orders, the gain over the metric of the scheme with its adjusted p; empty without such a test."""
    against = grid.case.scores.get(scheme.against or "")
    if against is None or min(grid.wrong.sum(), (~grid.wrong).sum()) < FEW:
        return {}
    tests = [_tested(grid.scores[i], against, grid.wrong) for i in distinct]
    adjusted = stats.benjamini_hochberg([p for _, p in tests])
    return {
        int(i): {"delta": gain.value, "delta_lower": gain.lower, "delta_upper": gain.upper, "p_delta_bh": float(p)}
        for i, (gain, _), p in zip(distinct, tests, adjusted)
    }


def _tested(score: np.ndarray, against: np.ndarray, wrong: np.ndarray) -> tuple[stats.Estimate, float]:
    """Gain on the documents that both score, and its p, which is NaN with fewer than `FEW` of these in a class."""
    test = stats.delong_test(score, against, wrong)
    positives, n = test.difference.n_positive or 0, test.difference.n
    return test.difference, test.p if min(positives, n - positives) >= FEW else math.nan


def _references(grid: Grid, scheme: Scheme) -> list[str]:
    asked = (*REFERENCES, *((scheme.against,) if scheme.against else ()))
    return [name for name in dict.fromkeys(asked) if name in grid.case.scores]


def _nested_table(grid: Grid, selected: stats.Selected, scheme: Scheme) -> Table:
    best = int(np.argmax(np.where(grid.eligible, np.nan_to_num(grid.auroc, nan=-1.0), -1.0)))
    rows = [
        {"what": "winner, on the part that chose it", **_spread("auroc", selected.inside)},
        {"what": "winner, on the other part", **_spread("auroc", selected.outside)},
        {"what": f"best in-sample: {grid.names[best]}", "auroc": float(grid.auroc[best])},
    ]
    untested: list[str] = []
    for name in _references(grid, scheme):
        score = grid.case.scores[name]
        ordered = stats.Sorted(score[None])
        alone = np.array([ordered.auroc(grid.wrong, part)[0] for part in selected.judged])
        tests = [
            _tested(grid.scores[winner][part], score[part], grid.wrong[part])
            for winner, part in zip(selected.winner, selected.judged)
        ]
        gain, p = np.array([gain.value for gain, _ in tests]), np.array([p for _, p in tests])
        row = {"what": f"{name}, on the other part", **_spread("auroc", alone)}
        rows.append(row | _spread("gain", gain) | {"p": stats.doubled_median(p)})
        if lacking := int(np.count_nonzero(np.isnan(p))):
            untested.append(f"{name} {lacking}")
    counts = Counter(grid.names[i] for i in selected.winner)
    won = "; ".join(f"{name} {count / scheme.repeats:.2f}" for name, count in counts.most_common(5))
    more = f" and {len(counts) - 5} others" if len(counts) > 5 else ""
    notes = [
        f"{scheme.repeats} random splits, stratified by the label, seed {scheme.seed}: {scheme.share:.0%} of the "
        "documents choose the configuration of highest AUROC, the others judge it.",
        "In brackets: where 95 % of the splits lie. Splits share documents, so this is no confidence interval.",
        "Gain: of the winner over the row's metric, on the documents of the other part that both score. p: twice the "
        "median over splits of the paired DeLong test's.",
        f"Won: {won}{more}.",
    ]
    if untested:
        notes.append(f"Splits without a test, fewer than {FEW} in a class having both scores: {', '.join(untested)}.")
    return Table(f"{grid.case.title}: chosen on a disjoint split", rows, notes)


def _spread(name: str, values: np.ndarray) -> dict[str, float]:
    known = values[~np.isnan(values)]
    if not len(known):
        return {name: math.nan, f"{name}_lower": math.nan, f"{name}_upper": math.nan}
    lower, upper = np.quantile(known, [0.025, 0.975])
    return {name: float(known.mean()), f"{name}_lower": float(lower), f"{name}_upper": float(upper)}


def effect_tables(grid: Grid) -> list[Table]:
    """Main effects of token metric, pooling and weighting on the AUROC; with layers, also of those apart."""
    tables = [_effects(grid, ("token metric", "pooling", "weighting"), grid.parts, range(len(grid.names)), "")]
    layered = [i for i, (token, *_) in enumerate(grid.parts) if "layer=" in token]
    if len({grid.parts[i][0] for i in layered}) > 1:
        apart = [(*_split_layer(token), *rest) for token, *rest in grid.parts]
        factors = ("token metric", "layer", "pooling", "weighting")
        tables.append(_effects(grid, factors, apart, layered, ", of single layers"))
    return [table for table in tables if table.rows]


def _split_layer(token: str) -> tuple[str, str]:
    name, _, layer = token.rstrip(")").partition("(layer=")
    return name, layer


def _effects(grid: Grid, factors: Sequence[str], parts: Sequence[tuple[str, ...]], at: Sequence[int], of: str) -> Table:
    """Effects of the factors over a complete grid; levels of the first factor that lack a cell are left out."""
    cells = {parts[i]: float(grid.auroc[i]) for i in at if not math.isnan(grid.auroc[i])}
    levels = [list(dict.fromkeys(parts[i][axis] for i in at)) for axis in range(len(factors))]
    full = math.prod(len(names) for names in levels[1:])
    held = Counter(cell[0] for cell in cells)
    left_out = [name for name in levels[0] if held[name] < full]
    levels[0] = [name for name in levels[0] if held[name] == full]
    title = f"{grid.case.title}: effect of each factor on the AUROC, in-sample{of}"
    note = [f"Not in every combination, so left out: {', '.join(left_out)}."] if left_out else []
    if not levels[0] or sum(len(names) > 1 for names in levels) < 2:
        return Table(title, [], note)
    values = np.array([cells[cell] for cell in _product(levels)]).reshape([len(names) for names in levels])
    means, shares, rest = stats.main_effects(values)
    rows: list[dict[str, Any]] = []
    for factor, names, mean, share in zip(factors, levels, means, shares):
        for i in np.argsort(-mean, kind="stable"):
            rows.append({"factor": factor, "share": float(share), "level": names[i], "auroc": float(mean[i])})
    notes = [f"Mean AUROC {values.mean():.3f} of {values.size} configurations, each level averaged over all others."]
    if math.isnan(rest):
        notes.append("All have the same AUROC, so that no factor has a share of a variance.")
    else:
        notes.append(f"Share: of the variance between configurations; {rest:.3f} is left to combinations of factors.")
    return Table(title, rows, [*notes, *note])


def _product(levels: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = [()]
    for names in levels:
        found = [(*cell, name) for cell in found for name in names]
    return found


def show_grid(table: Table, format_: str) -> str:
    """A table of the grid as md or latex: intervals in one cell, and the notes below."""
    rows = []
    for row in table.rows:
        cells: dict[str, Any] = {}
        for name, value in row.items():
            if name.startswith("p"):
                cells[_HEAD[name]] = "<.001" if value < 0.001 else value
            elif name in ("auroc", "gain", "delta"):
                own = f"{name}_lower" in row
                lower, upper = (f"{name}_lower", f"{name}_upper") if own else ("lower", "upper")
                cells[_HEAD[name]] = interval(row, name, lower, upper) if lower in row else value
            elif name != "first_of_order" and not name.endswith(("lower", "upper")):
                cells[_HEAD.get(name, name)] = value
        rows.append(cells)
    return page(table.title, render(rows, format_), table.notes, format_)


_HEAD: Mapping[str, str] = {
    "metric": "configuration",
    "auroc": "AUROC",
    "gain": "gain of the winner",
    "p": "p",
    "p_bh": "p (BH)",
    "delta": "gain over baseline",
    "p_delta_bh": "p of the gain (BH)",
    "share": "share of variance",
    "same_order": "same order",
}
