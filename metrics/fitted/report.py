"""What is said of a fitted method: its out-of-fold scores in one table with what needs no fitting."""

from __future__ import annotations

from collections import Counter

import numpy as np

from metrics import stats
from metrics.cases import Case
from metrics.fitted.learn import Learnt, judge, learns_low
from metrics.fitted.nested import High, Scheme, best_split
from metrics.report import Table, auroc_table, macro_table

OUT_OF_FOLD = "out-of-fold"


def fit_tables(learnt: Learnt, scheme: Scheme, *, against: str, target: str = "wrong") -> list[Table]:
    """One AUROC table a task of the documents fitted on, and their macro average where there are several.

    The method's row is of its out-of-fold scores, `against` and the baselines are not fitted; tests are paired. The
    interval takes documents as independent and the fitted models as given; the notes say how the folds were made, what
    was chosen in them, and the in-sample AUROC, which is no result.
    """
    rows = learnt.rows
    name = f"{learnt.recipe.id} {OUT_OF_FOLD}"
    tables = []
    for task in dict.fromkeys(rows.task.tolist()):
        own = rows.task == task
        scores = {name: learnt.out_of_fold[own]}
        scores |= {metric: values[own] for metric, values in rows.scores.items() if not np.isnan(values[own]).all()}
        wrong = rows.wrong[own]
        tables.append(auroc_table(Case(task, rows.verdict, scores, 1.0 - wrong, wrong), against=against))
    if len(tables) > 1:
        tables.append(macro_table(tables))
    tables[-1].notes[:0] = fit_notes(learnt, scheme, target)
    return tables


def fit_notes(learnt: Learnt, scheme: Scheme, target: str) -> list[str]:
    """How the scores came about, and what they are worth."""
    rows, fitted = learnt.rows, learnt.fitted
    groups = len(np.unique(learnt.groups))
    found = judge(learnt, seed=scheme.seed)
    notes = [
        f"Out-of-fold: each document scored by a model fitted without its fold; {scheme.folds} stratified folds of "
        f"{groups} groups of equal documents, seed {scheme.seed}. A score is the document's rank within its fold, for "
        "the folds' models differ in scale and level."
    ]
    if groups < len(rows):
        notes.append(
            f"All {len(rows)} documents {found.value:.3f} [{found.lower:.3f}, {found.upper:.3f}], resampling groups;"
            " the intervals of the table take documents as independent."
        )
    chosen = Counter(one.words() for one in fitted.chosen)
    listed = "; ".join(f"{words} ({count} of {scheme.folds})" for words, count in chosen.most_common())
    asked = fitted.candidate.options
    settled = "; ".join(f"{k}={v}" for k, v in fitted.params.settings.items() if v != asked.get(k))
    searched = f"Chosen by {scheme.inner} inner folds: {listed}" if _searched(learnt) else f"Nothing chosen: {listed}"
    notes.append(
        f"{searched}. Kept, fitted on all: {fitted.candidate.words()}{', with ' + settled if settled else ''}."
    )
    if fitted.skipped:
        words = "; ".join(one.words() for one in fitted.skipped)
        notes.append(f"Not tried, inputs do not vary or an inner fold fits on too few documents: {words}.")
    inside = stats.auroc(fitted.in_sample, rows.wrong).value
    notes.append(f"In-sample AUROC of the kept model {inside:.3f}: of the documents it was fitted on, so no result.")
    return [*notes, *_target_notes(learnt, target), *_calibration_notes(learnt), *rows.lost]


def _searched(learnt: Learnt) -> bool:
    return len(learnt.inputs.candidates(learnt.recipe, learnt.rows.x.shape[1])) > 1


def _target_notes(learnt: Learnt, target: str) -> list[str]:
    values = learnt.rows.values
    if values is None:
        return []
    high = High(values)
    everything = np.arange(len(values))
    found = stats.delong_interval(learnt.out_of_fold, high.learnt(everything))
    sign = -1 if learns_low(target) else 1
    side = ("high", "at or above") if sign > 0 else ("low", "at or below")
    rho = stats.spearman(learnt.out_of_fold, sign * values)
    return [
        f"Learnt: {side[0]} {target}, {side[1]} {sign * best_split(values):.4g} "
        "(best split of all; each fold took its own). "
        f"For that the out-of-fold AUROC is {found.value:.3f} [{found.lower:.3f}, {found.upper:.3f}], Spearman with "
        f"{target} {rho.value:.3f}; the table is of wrong answers."
    ]


def _calibration_notes(learnt: Learnt) -> list[str]:
    if not learnt.calibration:
        return []
    p, wrong = learnt.out_of_fold, learnt.rows.wrong
    constant = np.full(len(p), wrong.mean())
    brier, base = stats.brier(p, wrong).value, stats.brier(constant, wrong).value
    ece = stats.calibration_error(p, wrong, bins=15, by="mass", seed=0, replicates=1).value
    return [
        f"Calibrated ({learnt.calibration}): out-of-fold probabilities of being wrong, Brier {brier:.4f} against "
        f"{base:.4f} of the error rate alone, adaptive ECE {ece:.4f}."
    ]
