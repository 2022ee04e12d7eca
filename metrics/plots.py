"""ROC and risk-coverage figures of a table, and reliability diagrams, drawn with matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from metrics import stats
from metrics.calibrate import CONSTANT, Predictions
from metrics.cases import Case
from metrics.choosing import choose
from metrics.drawing import COLOURS, file_name, plain
from metrics.report import Table


def save(case: Case, table: Table, folder: Path, *, baselines: Sequence[str], most: int = 4) -> Path:
    """Draw ROC and risk-coverage curves of the first row of each family in the table, and of the baselines.

    Returns the file, named for the table.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    assert case.wrong is not None
    families: dict[str, str] = {}
    for row in table.rows:
        families.setdefault(choose(row["metric"])[0].metric.family, row["metric"])
    first = [name for family, name in families.items() if family != "baselines" and name not in baselines][:most]
    shown = [*first, *(b for b in baselines if b in case.scores)]
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(9, 4.2), layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2)
        for i, name in enumerate(shown):
            base = name in baselines
            style = {"color": "0.45" if base else COLOURS[i % len(COLOURS)], "lw": 1.2 if base else 1.8}
            style["ls"] = (":", "--", "-.")[baselines.index(name) % 3] if base else "-"
            score = case.scores[name]
            curve = stats.roc_curve(score, case.wrong)
            estimate = table.estimates[name]
            left.plot(
                curve.false_positive_rate, curve.true_positive_rate, label=f"{name} {estimate.value:.3f}", **style
            )
            risk = stats.risk_coverage(score, case.wrong.astype(float))
            right.plot(risk.coverage, risk.risk, label=name, **style)
        left.plot([0, 1], [0, 1], color="0.8", lw=0.8, zorder=0)
        left.set(xlabel="right answers flagged", ylabel="wrong answers flagged", title="ROC (AUROC in the key)")
        left.set_aspect("equal")
        rate = float(np.mean(case.wrong)) if len(case.wrong) else 0.0
        right.axhline(rate, color="0.8", lw=0.8, zorder=0)
        right.set(xlabel="share answered, surest first", ylabel="error rate among them", title="Risk and coverage")
        right.set_xlim(0, 1)
        right.set_ylim(bottom=0)
        if shown:
            left.legend(frameon=False, fontsize=8, loc="lower right")
        title = plain(case.title)
        figure.suptitle(f"{title}: n = {len(case.wrong)}, {int(case.wrong.sum())} wrong", fontsize=10)
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{file_name(case.title)}.png"
        figure.savefig(file, dpi=150)
    return file


def save_reliability(case: Case, made: Predictions, table: Table, folder: Path, *, bins: int, most: int = 4) -> Path:
    """Draw reliability diagrams of the first row of each family in the table, a histogram of predictions beneath each.

    Dots are bins of equal mass with exact 95 % intervals of the share of wrong answers; the line through the whole is
    calibration, the dotted one the error rate. Returns the file, named for the table.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    families: dict[str, str] = {}
    for row in table.rows:
        if row["metric"] != CONSTANT:
            families.setdefault(choose(row["metric"])[0].metric.family, row["metric"])
    shown = sorted(families.values(), key=lambda name: families.get("baselines") == name)[:most]
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(2.9 * max(len(shown), 2), 4.2), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(2, len(shown), sharex=True, squeeze=False, height_ratios=[3, 1])
        for i, name in enumerate(shown):
            p, wrong = made.of[name], made.wrong
            kept = ~np.isnan(p)
            curve = stats.reliability_curve(p[kept], wrong[kept], bins=bins)
            colour = "0.45" if families.get("baselines") == name else COLOURS[i % len(COLOURS)]
            top, below = grid[0, i], grid[1, i]
            top.plot([0, 1], [0, 1], color="0.8", lw=0.8, zorder=0)
            top.axhline(float(wrong.mean()), color="0.8", lw=0.8, ls=":", zorder=0)
            bars = np.stack([curve.observed - curve.lower, curve.upper - curve.observed])
            top.errorbar(curve.predicted, curve.observed, bars, fmt="o", ms=3, lw=1, color=colour)
            top.set(title=name, xlim=(0, 1), ylim=(0, 1), aspect="equal")
            below.hist(p[kept], bins=np.linspace(0, 1, 41), color=colour)
            below.set(xlabel="predicted probability of wrong")
        grid[0, 0].set_ylabel("share of wrong answers")
        grid[1, 0].set_ylabel("documents")
        title = plain(case.title)
        figure.suptitle(f"{title}: n = {len(made.wrong)}, {int(made.wrong.sum())} wrong", fontsize=10)
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{file_name(case.title)}_reliability.png"
        figure.savefig(file, dpi=150)
    return file
