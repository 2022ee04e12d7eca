"""From scores and labels to tables: how well each metric tells right answers from wrong ones, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import rankdata

from metrics import stats
from metrics.cases import Case
from metrics.compute import ONE
from metrics.stats import Estimate
from metrics.table import render

LENGTHS = ("answer_length", "prompt_length")
"""Covariates for the strata."""

FEW = 5
"""With fewer wrong or right answers than this no paired test is made."""

BASELINES = (*LENGTHS, "random")
"""What stands in every table, asked for or not."""


@dataclass
class Table:
    """A title, numeric rows (one a metric), and what a reader has to know beside them."""

    title: str
    rows: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)
    estimates: dict[str, Estimate] = field(default_factory=dict)
    graded: bool = False
    against: str = ""
    """The metric that the others were tested against; empty when there is none."""
    alike: Mapping[str, str] = field(default_factory=dict)
    """Each metric to the first that puts these documents into the same order, itself if none does."""


def auroc_table(
    case: Case, *, against: str | None = None, level: float = 0.95, replicates: int = 0, seed: int = 0
) -> Table:
    """AUROC of each metric for telling wrong answers from right ones, with everything that judges it.

    Columns: AUROC with DeLong's interval, AUROC within length strata, average precision, PRR, AURC and relatives, the
    paired DeLong test against `against` (p also after Benjamini-Hochberg over the table), n and unscored documents.
    Rows are sorted by AUROC; `against`, by default (and where it has no score) the answer's length or, where that does
    not vary, the prompt's, is tested against nothing. Metrics that order the documents alike count as one test. A
    metric without a score in the whole case has no row but is named in the notes.

    Args:
        case: with a binary label.
        against: the baseline of the paired tests.
        level: of every interval.
        replicates: resamples of documents for percentile intervals of AP, PRR and AURC; none at 0.
        seed: of the resampling.
    """
    wrong = case.wrong
    assert wrong is not None
    strata = _covariate(case)
    if not case.scores:
        rate = f"n = {len(wrong)}, {int(wrong.sum())} wrong; no metric has a score of these documents."
        return Table(case.title, [], [rate, *absent_notes(case)])
    asked = against
    if against is None or against not in case.scores:
        against = strata or next(iter(case.scores))
    rows, estimates, correlations = [], {}, []
    for name, score in case.scores.items():
        estimate = stats.delong_interval(score, wrong, level=level)
        estimates[name] = estimate
        row = _binary_row(name, score, wrong, estimate, case.scores[strata] if strata else None)
        row |= {"compute": case.compute.get(name, "")}
        row |= {"delta": math.nan, "delta_lower": math.nan, "delta_upper": math.nan, "p": math.nan}
        if name != against and min(wrong.sum(), (~wrong).sum()) >= FEW:
            test = stats.delong_test(score, case.scores[against], wrong, level=level)
            row |= {"delta": test.difference.value, "delta_lower": test.difference.lower}
            row |= {"delta_upper": test.difference.upper, "p": test.p}
            correlations.append(test.correlation)
        if replicates:
            row |= _resampled(score, wrong, level, replicates, seed)
        rows.append(row)
    same = alike(case.scores, first=against)
    tested = {row["metric"]: row["p"] for row in rows if same[row["metric"]] == row["metric"]}
    adjusted = dict(zip(tested, stats.benjamini_hochberg(list(tested.values()))))
    for row in rows:
        row["p_bh"] = float(adjusted[same[row["metric"]]])
    rows.sort(key=lambda r: -math.inf if math.isnan(r["auroc"]) else r["auroc"], reverse=True)
    notes = _binary_notes(
        wrong, estimates[against], against, strata, case.scores[strata] if strata else None, correlations
    )
    if asked and asked != against:
        notes.append(f"{asked} has no score here, so the gain is over {against}.")
    if replicates:
        notes.append(f"Intervals of AP and PRR: percentiles of {replicates} resamples of documents, seed {seed}.")
    notes += _scored(case) + _reversed(estimates) + _reasons(estimates, len(wrong), case.reasons) + absent_notes(case)
    return Table(case.title, rows, notes, estimates, against=against, alike=same)


def _resampled(score: np.ndarray, wrong: np.ndarray, level: float, replicates: int, seed: int) -> dict[str, float]:
    found = {}
    for name, statistic in {
        "average_precision": stats.resampled_average_precision,
        "prr": stats.resampled_prr,
        "aurc": stats.resampled_aurc,
    }.items():
        e = stats.bootstrap_interval(
            statistic, score, wrong.astype(float), seed=seed, replicates=replicates, level=level
        )
        found |= {f"{name}_lower": e.lower, f"{name}_upper": e.upper}
    return found


def _binary_row(
    name: str, score: np.ndarray, wrong: np.ndarray, estimate: Estimate, lengths: np.ndarray | None
) -> dict[str, Any]:
    loss = wrong.astype(float)
    within = stats.stratified_auroc(score, wrong, lengths).pooled.value if lengths is not None else math.nan
    return {
        "metric": name,
        "auroc": estimate.value,
        "lower": estimate.lower,
        "upper": estimate.upper,
        "within_length": within,
        "average_precision": stats.average_precision(score, wrong).value,
        "prr": stats.prr(score, loss).value,
        "aurc": stats.aurc(score, loss).value,
        "e_aurc": stats.eaurc(score, loss).value,
        "augrc": stats.augrc(score, loss).value,
        "aurac": stats.aurac(score, loss).value,
        "n": estimate.n,
        "wrong": estimate.n_positive,
        "error_rate": (estimate.n_positive or 0) / estimate.n if estimate.n else math.nan,
        "unscored": int(np.isnan(score).sum()),
    }


def _binary_notes(
    wrong: np.ndarray,
    baseline: Estimate,
    against: str,
    strata: str | None,
    lengths: np.ndarray | None,
    correlations: Sequence[float],
) -> list[str]:
    m, n = int(wrong.sum()), int((~wrong).sum())
    occupied = _occupied(lengths) if lengths is not None else 0
    rate = m / max(1, m + n)
    notes = [f"n = {m + n}, {m} wrong (error rate {rate:.3f}); a random order has AUROC .5 and AP {rate:.3f}."]
    single = stats.smallest_detectable_auroc(m, n)
    known = [c for c in correlations if not math.isnan(c)]
    typical = float(np.median(known)) if known else 0.0
    if math.isnan(single.gap):
        notes.append(f"Too few to detect any AUROC: {_in_words(single.reason)}.")
    else:
        more = ""
        if not math.isnan(baseline.value):
            pair = stats.smallest_detectable_difference(baseline.value, m, n, correlation=typical)
            more = "" if math.isnan(pair.gap) else f", or {pair.gap:.3f} above {against} (correlation {typical:.2f})"
        notes.append(f"Smallest AUROC gap detectable here with power .8: {single.gap:.3f} from .5{more}.")
    within = f"pairs of like {strata} only, in {occupied} strata" if strata else "lengths hardly vary"
    gain = "paired DeLong" if min(m, n) >= FEW else f"not tested, with fewer than {FEW} in a class"
    notes.append(f"Within length: {within}. Gain: over {against}, {gain}.")
    notes.append("Signs are fixed in advance; picking the top row of this table is a choice made in-sample.")
    return notes


def graded_table(case: Case, *, level: float = 0.95) -> Table:
    """Rank correlation with a graded quality (F1, BLEU, ...) and PRR: how well rejecting the uncertain raises it.

    An infinite quality has a rank but no mean, so PRR is NaN then.
    """
    finite = bool(np.isfinite(case.quality).all())
    loss = case.quality.max() - case.quality if finite and len(case.quality) else np.zeros(len(case.quality))
    rows, estimates = [], {}
    for name, score in case.scores.items():
        rho = stats.spearman(-score, case.quality, level=level)
        tau = stats.kendall(-score, case.quality, level=level)
        estimates[name] = rho
        rows.append(
            {
                "metric": name,
                "spearman": rho.value,
                "lower": rho.lower,
                "upper": rho.upper,
                "kendall": tau.value,
                "prr": stats.prr(score, loss).value,
                "prr_half": stats.prr(score, loss, max_rejection=0.5).value,
                "n": rho.n,
                "unscored": int(np.isnan(score).sum()),
            }
        )
    rows.sort(key=lambda r: -math.inf if math.isnan(r["spearman"]) else r["spearman"], reverse=True)
    quality = case.quality
    spread = f"{quality.mean():.3f} (sd {quality.std():.3f})" if finite and len(quality) else "none"
    notes = [
        f"n = {len(quality)}, mean quality {spread}; graded label: positive correlations are good, chance is 0.",
        "Pass --threshold to call documents at or above it right and get AUROC.",
        *([] if finite else ["Some labels are infinite: they have a rank, but no mean and no PRR."]),
        *_reasons(estimates, len(quality), case.reasons),
        *absent_notes(case),
    ]
    return Table(case.title, rows, notes, estimates, graded=True, alike=alike(case.scores))


def macro_table(tables: Sequence[Table]) -> Table:
    """Mean over tasks of each metric's AUROC, every task counting the same; the tasks are taken as independent."""
    names = [r["metric"] for r in tables[0].rows if all(r["metric"] in t.estimates for t in tables)]
    rows, estimates = [], {}
    for name in names:
        estimate = stats.macro_average([t.estimates[name] for t in tables])
        estimates[name] = estimate
        used = sum(not math.isnan(t.estimates[name].value) for t in tables)
        row = {"metric": name, "auroc": estimate.value, "lower": estimate.lower, "upper": estimate.upper}
        rate = (estimate.n_positive or 0) / estimate.n if estimate.n else math.nan
        rows.append({**row, "tasks": used, "n": estimate.n, "wrong": estimate.n_positive, "error_rate": rate})
    partly = list(dict.fromkeys(r["metric"] for t in tables for r in t.rows if r["metric"] not in names))
    rows.sort(key=lambda r: -math.inf if math.isnan(r["auroc"]) else r["auroc"], reverse=True)
    notes = ["Each task counts the same, whatever its size: " + "; ".join(t.title for t in tables) + "."]
    notes += _reasons(estimates, len(tables))
    if partly:
        notes.append(f"Without a score in some task, so not averaged: {', '.join(partly)}.")
    return Table(f"Macro average over {len(tables)} tasks", rows, notes, estimates)


def show(table: Table, format_: str) -> str:
    """The table as md or latex: the columns one reads, and the notes below (in comments, in latex)."""
    main = "spearman" if table.graded else "auroc"
    rows, same = [], dict[str, list[str]]()
    dear = any(row.get("compute") not in (None, "", ONE) for row in table.rows)
    for row in table.rows:
        leader = table.alike.get(row["metric"], row["metric"])
        same.setdefault(leader, []).append(row["metric"])
        if leader != row["metric"]:
            continue
        cells: dict[str, Any] = {"metric": row["metric"], f"{_HEAD[main]} [95 % CI]": interval(row, main)}
        cells |= {_HEAD[k]: row[k] for k in ("within_length", "kendall") if k in row}
        for name in ("average_precision", "prr"):
            if name in row:
                both = f"{name}_lower" in row
                cells[_HEAD[name]] = interval(row, name, f"{name}_lower", f"{name}_upper") if both else row[name]
        if "delta" in row:
            cells |= {
                "gain [95 % CI]": interval(row, "delta", "delta_lower", "delta_upper"),
                "p (BH)": _small(row["p_bh"]),
            }
        if "tasks" in row:
            cells |= {"tasks": row["tasks"], "error rate": row["error_rate"]}
        cells |= {k: row[k] for k in ("n", "unscored") if k in row}
        cells |= {"takes": row["compute"]} if dear else {}
        rows.append(cells)
    undefined = all(math.isnan(row[main]) for row in table.rows)
    text = "" if undefined else render(rows, format_)
    equal = ["Same order, shown once: " + " = ".join(names) + "." for names in same.values() if len(names) > 1]
    equal = [] if undefined else equal
    return page(table.title, text, [*table.notes, *equal], format_)


def page(title: str, text: str, notes: Sequence[str], format_: str) -> str:
    """A rendered table between its title and its notes, as md or latex."""
    if format_ == "latex":
        return "\n".join([f"% {title}", text, *(f"% {note}" for note in notes)])
    parts = [f"### {title}", text, "\n".join(f"{note}  " for note in notes)]
    return "\n\n".join(part for part in parts if part).rstrip()


_HEAD = {
    "auroc": "AUROC",
    "spearman": "Spearman",
    "within_length": "within length",
    "average_precision": "AP",
    "prr": "PRR",
    "kendall": "Kendall",
}


def interval(row: Mapping[str, Any], value: str, lower: str = "lower", upper: str = "upper") -> str:
    """A cell: the value and its interval, the value alone, or a dash."""
    if math.isnan(row[value]):
        return "–"
    if math.isnan(row[lower]):
        return f"{row[value]:.3f}"
    return f"{row[value]:.3f} [{row[lower]:.3f}, {row[upper]:.3f}]"


def _small(p: float) -> float | str:
    """A p-value, or that it is below what three digits can show."""
    return "<.001" if p < 0.001 else p


def _in_words(reason: str) -> str:
    """A reason of the statistics, whose positive class is here the wrong answers."""
    return reason.replace(" positive", " wrong").replace(" negative", " right")


def _scored(case: Case) -> list[str]:
    """How many of the documents that are scored are wrong, where not all are: what chance is among them."""
    ours = [score for name, score in case.scores.items() if name not in BASELINES]
    wrong = case.wrong
    if wrong is None or not ours:
        return []
    some = ~np.isnan(np.stack(ours)).all(axis=0)
    if some.all() or not some.any():
        return []
    bad, n = int(wrong[some].sum()), int(some.sum())
    return [f"Of {n} documents with a score {bad} are wrong: among them a random order has AP {bad / n:.3f}."]


def _reasons(estimates: Mapping[str, Estimate], n: int, why: Mapping[str, str] | None = None) -> list[str]:
    """What is wrong with single rows; a reason common to all is said once. `why` says what left a score out."""
    by_reason: dict[str, list[str]] = {}
    for name, estimate in estimates.items():
        if estimate.reason:
            more = f" ({why[name]})" if why and name in why and "NaN" in estimate.reason else ""
            by_reason.setdefault(_in_words(estimate.reason) + more, []).append(name)
    found = []
    for reason, names in by_reason.items():
        who = "All metrics" if len(names) == len(estimates) else ", ".join(names)
        found.append(f"{who}: {reason}.")
    return found if n else ["No labelled document.", *found]


def absent_notes(case: Case) -> list[str]:
    """Answers without the part that is scored, and metrics without a row, by reason."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in case.absent.items():
        by_reason.setdefault(reason, []).append(name)
    options = by_reason.pop("not multiple choice", [])
    found = [f"No score of these documents, {reason}: {', '.join(names)}." for reason, names in by_reason.items()]
    apart = [f"{len(options)} metrics over answer options do not apply."] if options else []
    return [*unmapped_notes(case), *found, *apart]


def unmapped_notes(case: Case) -> list[str]:
    """How many answers lack the part that is scored, a line a reason."""
    n = len(case.quality)
    return [f"In {count} of {n} answers there is nothing to score: {why}." for why, count in case.unmapped.items()]


def _reversed(estimates: Mapping[str, Estimate]) -> list[str]:
    """Metrics that point the wrong way on these documents: said, never turned round."""
    names = [name for name, e in estimates.items() if e.upper < 0.5]
    return [f"Reversed here, with the whole interval below .5: {', '.join(names)}."] if names else []


def alike(scores: Mapping[str, np.ndarray], *, first: str = "") -> dict[str, str]:
    """Each score's first equal in order, ties and missing values included; a baseline is its own.

    `first` leads whatever orders as it does.
    """
    leader: dict[bytes, str] = {}
    found = {}
    for name in sorted(scores, key=lambda n: n != first):
        values = scores[name]
        order = np.where(np.isnan(values), -1.0, rankdata(values, nan_policy="omit"))
        found[name] = name if name in BASELINES else leader.setdefault(order.tobytes(), name)
    return {name: found[name] for name in scores}


def _covariate(case: Case) -> str | None:
    """The length whose strata to compare within: the first that fills three of five, else the one that fills most."""
    filled = {n: _occupied(case.scores[n]) for n in LENGTHS if n in case.scores}
    best = max(filled, key=lambda n: (min(filled[n], 3), -LENGTHS.index(n)), default=None)
    return best if best is not None and filled[best] > 1 else None


def _occupied(lengths: np.ndarray) -> int:
    kept = lengths[~np.isnan(lengths)]
    return len(np.unique(stats.quantile_strata(kept)))
