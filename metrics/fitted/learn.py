"""From rows to a probe: which target, which folds, calibration, and what is remembered of it."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from metrics import stats
from metrics.choosing import choose
from metrics.fitted.inputs import Inputs
from metrics.fitted.methods import Recipe
from metrics.fitted.nested import Embeddings, Fitted, High, Scheme, Target, Wrong, best_split, cross_scores, fit_nested
from metrics.fitted.probe import Probe, as_curve, digests, store_facts
from metrics.fitted.rows import Rows
from metrics.stats.recalibration import Rising, Sigmoid

LIBRARIES = ("eval-ext", "numpy", "scikit-learn", "scipy")


@dataclass(frozen=True)
class Learnt:
    """A method fitted on rows: the model and the scores that judge it, calibrated where that was asked for.

    `out_of_fold` (n,) are the scores reported: each document's by a model, and a curve, that did not see it.
    """

    rows: Rows
    inputs: Inputs
    recipe: Recipe
    fitted: Fitted
    out_of_fold: np.ndarray
    groups: np.ndarray
    calibration: str = ""
    curve: Rising | Sigmoid | None = None

    def scores(self, rows: Rows) -> np.ndarray:
        """Scores (m,) of other rows by the model fitted on all of these."""
        raw = self.recipe.estimator.apply(self.fitted.params, rows.x[:, self.fitted.candidate.columns])
        return raw if self.curve is None else self.curve(raw)


def learn(rows: Rows, inputs: Inputs, recipe: Recipe, scheme: Scheme, calibration: str = "") -> Learnt:
    """Fit a method, nested and grouped; with `calibration`, ``isotonic`` or ``platt``, also a curve to P(wrong).

    The curve that is kept is fitted on scores of all documents, each by a model of the kept choice that did not see it;
    the out-of-fold probabilities are each by a curve that was fitted on the other folds' out-of-fold ranks.

    Raises:
        ValueError: what `fit_nested` refuses, or a target that is not there.
    """
    target = _target(rows, recipe)
    groups = rows.groups()
    try:
        fitted = fit_nested(
            recipe.estimator, inputs.candidates(recipe, rows.x.shape[1]), rows.x, target, groups, scheme
        )
    except ValueError as problem:
        raise ValueError(f"{rows.name}: {problem}") from None
    if not calibration:
        return Learnt(rows, inputs, recipe, fitted, fitted.out_of_fold, groups)
    fit = stats.FITS[calibration]
    splits = [stats.Split(fitted.fold != k, fitted.fold == k) for k in range(scheme.folds)]
    crossed = stats.cross_fit(fitted.out_of_fold, rows.wrong, splits, fit)
    raw = cross_scores(recipe.estimator, fitted.candidate, rows.x, target, fitted.fold, scheme.seed)
    curve = as_curve(fit(raw, rows.wrong))
    return Learnt(rows, inputs, recipe, fitted, crossed, groups, calibration, curve)


def _target(rows: Rows, recipe: Recipe) -> Target:
    if recipe.method.target == "embeddings":
        if rows.embeddings is None:
            raise ValueError(f"{recipe.id} learns from sentence embeddings of samples; give --embeddings FILE.npz")
        return Embeddings(rows.embeddings, rows.wrong)
    return Wrong(rows.wrong) if rows.values is None else High(rows.values)


def judge(learnt: Learnt, *, seed: int = 0, level: float = 0.95) -> stats.Estimate:
    """AUROC of the out-of-fold scores: DeLong's interval, or of resampled groups where one has several documents."""
    wrong, groups = learnt.rows.wrong, learnt.groups
    if len(np.unique(groups)) == len(groups):
        return stats.delong_interval(learnt.out_of_fold, wrong, level=level)
    return stats.bootstrap_interval(
        stats.resampled_auroc, learnt.out_of_fold, wrong, seed=seed, level=level, group=groups
    )


def learns_low(target: str) -> bool:
    """Whether low values of a metric are learnt, as it is one of confidence; a score of a probe means uncertain."""
    return choose(target)[0].metric.higher == "confident"


def probe_of(learnt: Learnt, manifest: Mapping[str, Any], scheme: Scheme, *, span: str, target: str = "wrong") -> Probe:
    """What is saved of a fitted method."""
    rows, fitted = learnt.rows, learnt.fitted
    candidate, found = fitted.candidate, judge(learnt, seed=scheme.seed)
    inputs = learnt.inputs
    if candidate.layer is not None:
        inputs = Inputs(inputs.state, (candidate.layer,), inputs.features, inputs.metrics)
    facts: dict[str, Any] = {
        "method": learnt.recipe.id,
        "options": dict(candidate.options),
        "target": target,
        "tasks": list(dict.fromkeys(rows.task.tolist())),
        "label": rows.verdict,
        "n": len(rows),
        "wrong": int(rows.wrong.sum()),
        "groups": len(np.unique(learnt.groups)),
        "folds": scheme.folds,
        "inner_folds": scheme.inner,
        "seed": scheme.seed,
        "chosen_in_folds": [one.words() for one in fitted.chosen],
        "auroc_out_of_fold": [found.value, found.lower, found.upper],
        "auroc_in_sample": stats.auroc(fitted.in_sample, rows.wrong).value,
        "left_out": list(rows.lost),
        "versions": {name: version(name) for name in LIBRARIES} | {"python": platform.python_version()},
    }
    if rows.values is not None:
        facts["threshold"] = best_split(rows.values) * (-1 if learns_low(target) else 1)
    return Probe(
        learnt.recipe.id,
        learnt.recipe.method.estimator,
        inputs,
        candidate.layer,
        span,
        rows.way.norm,
        store_facts(manifest),
        learnt.recipe.method.portable,
        len(candidate.columns),
        fitted.params,
        digests(rows.hashes.tolist()),
        learnt.calibration,
        learnt.curve,
        facts,
        rows.way.filter,
    )
