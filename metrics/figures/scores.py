"""Figures of scores: their distributions, ROC curves with bands, risk-coverage curves, and their correlations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform
from scipy.stats import rankdata

from metrics import stats
from metrics.cases import Case
from metrics.choosing import choose
from metrics.core import Metric, metrics
from metrics.drawing import RIGHT, WRONG, Picture, heatmap, panels, style, titled, units_of
from metrics.naming import outside
from metrics.report import BASELINES

BINS = 24
RATES = np.linspace(0, 1, 101)


def first_of_families(names: Sequence[str], most: int) -> list[str]:
    """At most so many metrics, the first of each family before the second of any, baselines last; no score decides."""
    families: dict[str, list[str]] = {}
    for name in sorted(names, key=BASELINES.__contains__):
        made = _metric(name)
        families.setdefault(made.family if made else "", []).append(name)
    rounds = max(map(len, families.values()), default=0)
    turned = [of[i] for i in range(rounds) for of in families.values() if i < len(of)]
    return sorted(turned, key=BASELINES.__contains__)[:most]


def distributions(case: Case, names: Sequence[str]) -> Picture:
    """Histograms of each metric among right and among wrong answers, as shares of each.

    Scores have the metric's own sign. Bins divide the range between the quantiles .005 and .995 of the finite scores;
    the outermost hold what lies beyond, infinities included. Numbers: counts by metric and bin.
    """
    wrong = _binary(case)
    rows: list[dict[str, Any]] = []
    with style():
        figure, axes = panels(len(names), width=2.6, height=1.9)
        for axis, name in zip(axes, names):
            made = _metric(name)
            higher = made.higher if made else "uncertain"
            score = -case.scores[name] if higher == "confident" else case.scores[name]
            edges = _edges(score)
            parts = [np.histogram(np.clip(score[of], edges[0], edges[-1]), edges)[0] for of in (~wrong, wrong)]
            outer = [-np.inf, *edges[1:-1], np.inf]
            rows += [
                {"metric": name, "from": low, "to": high, "right": right, "wrong": bad}
                for low, high, right, bad in zip(outer[:-1], outer[1:], *(part.tolist() for part in parts))
            ]
            for part, colour in zip(parts, (RIGHT, WRONG)):
                share = part / max(part.sum(), 1)
                axis.stairs(share, edges, fill=True, color=colour, alpha=0.35)
                axis.stairs(share, edges, color=colour, lw=1.2)
            axis.set(title=name, xlabel=", ".join([*(units_of(made.unit) if made else ()), f"high = {higher}"]))
            axis.set_ylim(bottom=0)
            _say_missing(axis, score)
        _key(figure, ("right", RIGHT), ("wrong", WRONG))
        _heading(figure, case, "share of right and of wrong answers by score; outer bars hold what lies beyond")
    return Picture(f"{case.title} distributions", figure, pd.DataFrame(rows))


def roc(case: Case, names: Sequence[str], *, seed: int, replicates: int) -> Picture:
    """ROC curve of each metric, its pointwise 95 % bootstrap band, and the length's curve in grey.

    Numbers: one row a metric and rate, with the curve's height and the band of `metrics.stats.roc_band`.
    """
    wrong = _binary(case)
    base = _baseline(case)
    rows = []
    with style():
        figure, axes = panels(len(names), width=2.4, height=2.5, sharex=True, sharey=True)
        for axis, name in zip(axes, names):
            score = case.scores[name]
            curve = stats.roc_curve(score, wrong)
            low, high = stats.roc_band(score, wrong, RATES, seed=seed, replicates=replicates)
            axis.plot([0, 1], [0, 1], color="0.85", lw=0.8)
            if base and base != name:
                other = stats.roc_curve(case.scores[base], wrong)
                axis.plot(other.false_positive_rate, other.true_positive_rate, color="0.5", lw=0.9, ls=":")
            axis.fill_between(RATES, low, high, color=RIGHT, alpha=0.2, lw=0)
            axis.plot(curve.false_positive_rate, curve.true_positive_rate, color=RIGHT, lw=1.4)
            estimate = stats.delong_interval(score, wrong)
            axis.set(title=f"{name}\n{estimate.value:.3f} [{estimate.lower:.3f}, {estimate.upper:.3f}]", aspect="equal")
            _say_missing(axis, score)
            height = np.interp(RATES, curve.false_positive_rate, curve.true_positive_rate)
            columns = zip(RATES.tolist(), height.tolist(), low.tolist(), high.tolist())
            rows += [dict(zip(("metric", "fpr", "tpr", "lower", "upper"), (name, *row))) for row in columns]
        figure.supxlabel("right answers flagged", fontsize=9)
        figure.supylabel("wrong answers flagged", fontsize=9)
        _heading(
            figure,
            case,
            f"AUROC, DeLong's 95 % interval; band: 95 % at each point, {replicates} resamples, seed {seed}"
            + (f"; dotted: {base}" if base else ""),
        )
    return Picture(f"{case.title} roc", figure, pd.DataFrame(rows))


def coverage(case: Case, names: Sequence[str]) -> Picture:
    """Risk-coverage curve of each metric, between chance and the order that knows the labels.

    The axis reaches as high as the curves do from coverage .1 on; below, few answers make them jump. Numbers: coverage
    and risk by metric, all of them.
    """
    wrong = _binary(case)
    base, rate = _baseline(case), float(wrong.mean())
    rows = []
    top = rate
    with style():
        figure, axes = panels(len(names), width=2.4, height=2.1, sharex=True, sharey=True)
        for axis, name in zip(axes, names):
            score = case.scores[name]
            scored = ~np.isnan(score)
            axis.axhline(rate, color="0.85", lw=0.8)
            best = stats.risk_coverage(wrong[scored].astype(float), wrong[scored].astype(float))
            axis.plot(best.coverage, best.risk, color="0.75", lw=0.9)
            if base and base != name:
                other = stats.risk_coverage(case.scores[base], wrong.astype(float))
                axis.plot(other.coverage, other.risk, color="0.5", lw=0.9, ls=":")
            curve = stats.risk_coverage(score, wrong.astype(float))
            axis.plot(curve.coverage, curve.risk, color=RIGHT, lw=1.4)
            area = stats.aurc(score, wrong.astype(float))
            axis.set(title=f"{name}\nAURC {area.value:.3f}", xlim=(0, 1))
            top = max([top, *curve.risk[curve.coverage >= 0.1]])
            _say_missing(axis, score)
            rows += [
                {"metric": name, "coverage": at, "risk": risk}
                for at, risk in zip(curve.coverage.tolist(), curve.risk.tolist())
            ]
        axes[0].set_ylim(0, 1.1 * top or 1)
        figure.supxlabel("share answered, surest first", fontsize=9)
        figure.supylabel("error rate among them", fontsize=9)
        _heading(figure, case, "grey: no order at all, and the best there is" + (f"; dotted: {base}" if base else ""))
    return Picture(f"{case.title} coverage", figure, pd.DataFrame(rows))


def correlation(title: str, scores: dict[str, np.ndarray]) -> Picture:
    """Spearman's correlation of each pair of metrics, like ones beside each other.

    Every score is turned so that high means uncertain. A pair counts the documents that both score; it is NaN (grey)
    with fewer than three of them, or where one is constant. The order is that of average linkage on 1 - rho,
    NaN as 1. Numbers: the matrix.

    Raises:
        ValueError: fewer than two metrics have scores.
    """
    if len(scores) < 2:
        raise ValueError(f"{title}: a correlation needs two metrics with scores, and there are {len(scores)}")
    names = list(scores)
    rho = rank_correlations(np.stack([scores[name] for name in names]))
    order = clustered(rho)
    rho, names = rho[np.ix_(order, order)], [names[i] for i in order]
    with style():
        side = 2.4 + 0.2 * len(names)
        figure, (axis,) = panels(1, width=side + 1, height=side)
        image = heatmap(axis, rho, names, diverging=True)
        image.set_clim(-1, 1)
        size = 8 if len(names) <= 30 else 6
        axis.set_xticks(range(len(names)), names, rotation=90, fontsize=size)
        axis.set_yticks(range(len(names)), names, fontsize=size)
        axis.invert_yaxis()
        axis.set_aspect("equal")
        axis.spines[:].set_visible(False)
        figure.colorbar(image, ax=axis, shrink=0.5, label="Spearman's rho")
        titled(
            figure,
            title,
            f"n = {len(next(iter(scores.values())))}; all turned so that high = uncertain; grey: constant",
        )
    numbers = pd.DataFrame(rho, columns=names)
    numbers.insert(0, "metric", names)
    return Picture(f"{title} correlation", figure, numbers)


def rank_correlations(scores: np.ndarray) -> np.ndarray:
    """Spearman's rho of each pair of rows (k, n), over the columns where both are numbers; NaN where undefined."""
    count = len(scores)
    rho = np.full((count, count), np.nan)
    for i in range(count):
        for j in range(i, count):
            both = ~np.isnan(scores[i]) & ~np.isnan(scores[j])
            x, y = rankdata(scores[i][both]), rankdata(scores[j][both])
            if both.sum() >= 3 and np.ptp(x) and np.ptp(y):
                rho[i, j] = rho[j, i] = 1.0 if i == j else np.clip(np.corrcoef(x, y)[0, 1], -1, 1)
    return rho


def clustered(rho: np.ndarray) -> np.ndarray:
    """An order of the rows in which like ones are neighbours: leaves of average linkage on 1 - rho, best turned."""
    distance = 1 - np.nan_to_num(rho, nan=0.0)
    np.fill_diagonal(distance, 0.0)
    return leaves_list(linkage(squareform(distance, checks=False), "average", optimal_ordering=True))


def _metric(name: str) -> Metric | None:
    """The metric of an id; None of a score from elsewhere."""
    ours = ":" in outside(name) or name.partition("(")[0] in metrics()
    return choose(name)[0].metric if ours else None


def _binary(case: Case) -> np.ndarray:
    if case.wrong is None:
        raise ValueError(f"{case.title}: the label is graded, so no answer is right or wrong; pass --threshold")
    return case.wrong


def _baseline(case: Case) -> str:
    """The length of the answer or, where that does not vary, of the prompt."""
    lengths = (name for name in BASELINES if name != "random" and name in case.scores)
    return next((name for name in lengths if np.ptp(case.scores[name][~np.isnan(case.scores[name])]) > 0), "")


def _edges(score: np.ndarray) -> np.ndarray:
    finite = score[np.isfinite(score)]
    low, high = np.quantile(finite, [0.005, 0.995]) if finite.size else (0.0, 1.0)
    if high - low <= 1e-9 * max(1.0, abs(low), abs(high)):
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, BINS + 1)


def _say_missing(axis: Any, score: np.ndarray) -> None:
    missing = int(np.isnan(score).sum())
    if missing:
        axis.text(0.98, 0.02, f"{missing} unscored", transform=axis.transAxes, ha="right", fontsize=7, color="0.4")


def _key(figure: Any, *entries: tuple[str, str]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=colour, label=label, alpha=0.7) for label, colour in entries]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))


def _heading(figure: Any, case: Case, what: str) -> None:
    wrong = _binary(case)
    titled(figure, f"{case.title}: n = {len(wrong)}, {int(wrong.sum())} wrong", what)
