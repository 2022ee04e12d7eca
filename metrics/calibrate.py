"""Scores made into probabilities of being wrong, and how good these are on documents that no curve was fitted on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from metrics import stats
from metrics.cases import Case
from metrics.choosing import choose
from metrics.report import Table, absent_notes, interval, page
from metrics.table import render

Method = Literal["isotonic", "platt", "none"]

CONSTANT = "constant"
"""The row of the predictor that knows the error rate of the documents fitted on, and nothing else."""


@dataclass(frozen=True)
class Scheme:
    """How scores become probabilities, and how these are judged.

    `method`: ``isotonic``, ``platt``, or ``none`` for metrics that are probabilities already. `share`, when given, of
    the documents is fitted on and the rest judged; otherwise each of `folds` folds is judged by what the others
    fitted. Both keep the error rate equal over the parts. `seed` draws the parts and everything else.
    """

    method: Method = "isotonic"
    folds: int = 5
    share: float | None = None
    bins: int = 15
    seed: int = 0
    replicates: int = 1000

    def splits(self, wrong: np.ndarray) -> list[stats.Split]:
        """Documents to fit on and documents to judge."""
        if self.share is not None:
            return stats.share_split(wrong, self.share, seed=self.seed)
        return stats.fold_splits(wrong, self.folds, seed=self.seed)


@dataclass(frozen=True)
class Predictions:
    """Probabilities of being wrong (n,) by metric, NaN where there is none; the constant; who has none and why."""

    of: Mapping[str, np.ndarray]
    base: Mapping[str, np.ndarray]
    """The constant by metric: the error rate of the documents fitted on that the metric scores."""
    constant: np.ndarray
    wrong: np.ndarray
    refused: Mapping[str, str]


def predict(case: Case, scheme: Scheme) -> Predictions:
    """The probability of being wrong of each judged document, by each metric.

    Args:
        case: with a binary label.
        scheme: how; documents that are only fitted on are left out of the arrays.

    Raises:
        ValueError: fewer than two folds, a share not between 0 and 1, or (``none``) a value that is no probability.
    """
    wrong = case.wrong
    assert wrong is not None
    if scheme.share is None and len(wrong) < scheme.folds:
        few = f"{len(wrong)} documents are fewer than {scheme.folds} folds"
        return Predictions({}, {}, np.zeros(0), np.zeros(0, dtype=bool), dict.fromkeys(case.scores, few))
    splits = scheme.splits(wrong)
    judged = np.any([s.judged for s in splits], axis=0)
    found, base, refused = {}, {}, {}
    for name, score in case.scores.items():
        as_is = scheme.method == "none"
        reason = _no_probability(name) if as_is else stats.why_not(score, wrong, splits)
        if reason:
            refused[name] = reason
        elif as_is:
            found[name] = _as_it_is(name, score)[judged]
        else:
            found[name] = stats.cross_fit(score, wrong, splits, stats.FITS[scheme.method])[judged]
        if name in found:
            base[name] = stats.constant(wrong, splits, ~np.isnan(score))[judged]
    return Predictions(found, base, stats.constant(wrong, splits)[judged], wrong[judged], refused)


def _no_probability(name: str) -> str:
    return "" if choose(name)[0].metric.unit == "probability" else "their unit is another"


def _as_it_is(name: str, score: np.ndarray) -> np.ndarray:
    """A metric whose unit is probability as the probability of being wrong: its own, or 1 less its own."""
    return score if choose(name)[0].metric.higher == "uncertain" else 1 + score  # scores of confidence come negated


def calibration_table(case: Case, made: Predictions, scheme: Scheme) -> Table:
    """ECE, adaptive ECE and Brier score of each metric's probabilities, with 95 % intervals over documents.

    Columns: both calibration errors with interval, what a calibrated predictor would show at this n and these bins
    (``_if_calibrated``, by simulation) and the p-value of calibration; the Brier score with its parts, its gain over
    the constant predictor and its skill 1 - Brier / Brier of the constant; log loss. The parts are over as many bins of
    equal mass, and `within` is what these blur. Rows are sorted by Brier score.
    """
    if not len(made.wrong):
        return Table(case.title, [], ["No document is judged.", *_refusals(made.refused), *absent_notes(case)])
    rows = [_row(name, p, made, scheme) for name, p in {CONSTANT: made.constant, **made.of}.items()]
    rows.sort(key=lambda r: math.inf if math.isnan(r["brier"]) else r["brier"])
    notes = [
        f"n = {len(made.wrong)}, {int(made.wrong.sum())} wrong (error rate {made.wrong.mean():.3f}).",
        _how(case, made, scheme),
        f"ECE: {scheme.bins} bins of equal width; adaptive: of equal mass, ties together. In round brackets: the mean "
        f"ECE if each probability were true ({scheme.replicates} simulations); a perfect predictor too is above 0.",
        "Skill: 1 - Brier / Brier of the constant, the error rate of the documents fitted on that have a score. "
        "Brier = reliability - resolution + uncertainty + within, over bins of equal mass.",
        f"Intervals: {scheme.replicates} resamples of the judged documents, the fitted curves held fixed.",
        *([SUBSETS] if len({row["n"] for row in rows}) > 1 else []),
        *_refusals(made.refused),
        *absent_notes(case),
    ]
    return Table(case.title, rows, notes)


SUBSETS = "Rows of fewer documents (n) are of those that the metric scores: only gain and skill compare like with like."


def _how(case: Case, made: Predictions, scheme: Scheme) -> str:
    """How scores became probabilities, in one line."""
    n = len(made.wrong)
    parts = (
        f"each document judged by what the other folds fitted, {scheme.folds} folds"
        if scheme.share is None
        else f"fitted on {len(case.quality) - n} documents and judged on the other {n}"
    )
    if scheme.method == "none":
        return f"Probability of being wrong: the metrics' own, as they are. The constant: {parts}, seed {scheme.seed}."
    method = {"platt": "Platt scaling", "isotonic": "isotonic regression"}[scheme.method]
    return f"Probability of being wrong: {method}, {parts}, stratified by the label, seed {scheme.seed}."


def _row(name: str, p: np.ndarray, made: Predictions, scheme: Scheme) -> dict[str, Any]:
    kept = ~np.isnan(p)
    p, base, wrong = p[kept], made.base.get(name, made.constant)[kept], made.wrong[kept]
    row: dict[str, Any] = {"metric": name}
    for column, by in (("ece", "width"), ("adaptive_ece", "mass")):
        options: dict[str, Any] = {"bins": scheme.bins, "by": by, "seed": scheme.seed, "replicates": scheme.replicates}
        found = stats.calibration_error(p, wrong, **options)
        null = stats.calibrated_errors(p, **options)
        as_large = np.count_nonzero(null >= found.value - 1e-12)
        row |= _with_interval(column, found) | {
            f"{column}_if_calibrated": float(null.mean()),
            f"{column}_p": (1 + as_large) / (1 + len(null)) if len(p) else math.nan,
        }
    resample: dict[str, Any] = {"seed": scheme.seed, "replicates": scheme.replicates}
    row |= _with_interval("brier", stats.bootstrap_interval(stats.resampled_brier, p, wrong, **resample))
    constant = stats.brier(base, wrong).value
    gain = stats.bootstrap_difference(stats.resampled_brier, base, p, wrong, **resample)
    row |= _with_interval("gain", gain)
    parts = stats.brier_parts(p, wrong, bins=scheme.bins)
    return row | {
        "skill": gain.value / constant if constant > 0 else math.nan,
        **vars(parts),
        "log_loss": stats.log_loss(p, wrong).value,
        "n": len(p),
        "wrong": int(wrong.sum()),
        "unscored": int(np.count_nonzero(~kept)),
    }


def _with_interval(name: str, found: stats.Estimate) -> dict[str, float]:
    return {name: found.value, f"{name}_lower": found.lower, f"{name}_upper": found.upper}


def _refusals(refused: Mapping[str, str]) -> list[str]:
    """Metrics without probabilities, by reason."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in refused.items():
        by_reason.setdefault(reason, []).append(name)
    return [f"No probabilities, {reason}: {', '.join(names)}." for reason, names in by_reason.items()]


def show_calibration(table: Table, format_: str) -> str:
    """The table as md or latex: the columns one reads, and the notes below."""
    rows = []
    for row in table.rows:
        cells: dict[str, Any] = {"metric": row["metric"]}
        for column, head in (("ece", "ECE"), ("adaptive_ece", "adaptive ECE")):
            expected = row[f"{column}_if_calibrated"]
            text = interval(row, column, f"{column}_lower", f"{column}_upper")
            cells[f"{head} [95 % CI] (if calibrated)"] = text if math.isnan(expected) else f"{text} ({expected:.3f})"
        cells["Brier [95 % CI]"] = interval(row, "brier", "brier_lower", "brier_upper")
        cells["gain over constant [95 % CI]"] = (
            "–" if row["metric"] == CONSTANT else interval(row, "gain", "gain_lower", "gain_upper")
        )
        cells |= {k: row[k] for k in ("skill", "reliability", "resolution", "n", "unscored")}
        rows.append(cells)
    return page(table.title, render(rows, format_), table.notes, format_)
