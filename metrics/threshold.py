"""From a risk that may be taken to a threshold on a metric, with a guarantee, and what it does on other documents."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from metrics import stats
from metrics.cases import Case
from metrics.choosing import choose
from metrics.core import Choice
from metrics.report import Table, interval, page, unmapped_notes
from metrics.table import render

Guarantee = Literal["selective", "expected"]


@dataclass(frozen=True)
class Aim:
    """What is to be kept, and on which part of the documents the threshold is found.

    `guarantee`: ``selective``, at most `risk` of what is answered is wrong, with probability `confidence` over the
    calibration documents; ``expected``, at most `risk` of all documents is answered and wrong, on average. `share` of
    the documents, drawn at random by `seed`, calibrate; the others test.
    """

    risk: float
    confidence: float = 0.9
    guarantee: Guarantee = "selective"
    share: float = 0.5
    seed: int = 0

    def calibrates(self, n: int) -> np.ndarray:
        """Mask (n,) of the calibration documents; drawn without a look at their labels, so they stay independent.

        Raises:
            ValueError: `share` is not above 0 and at most 1.
        """
        if not 0 < self.share <= 1:
            raise ValueError(f"split is {self.share}; give the share that calibrates, above 0 and at most 1")
        mask = np.zeros(n, dtype=bool)
        mask[np.random.default_rng(self.seed).permutation(n)[: round(self.share * n)]] = True
        return mask


@dataclass(frozen=True)
class Rule:
    """Answer when `choice`'s score is on the certain side of `found.value`, which is oriented (higher is uncertain)."""

    choice: Choice
    found: stats.Threshold
    needed: int | None = None
    """About how many calibration documents would do, when there is no threshold and more would help."""

    @property
    def sign(self) -> int:
        """1 when the metric's own scores are higher for uncertain documents, -1 otherwise."""
        return 1 if self.choice.metric.higher == "uncertain" else -1

    @property
    def text(self) -> str:
        """The rule in the metric's own unit and direction, its number whole: a rounded one is another rule."""
        if math.isnan(self.found.value):
            return "never"
        if self.found.value == math.inf:
            return "whenever scored"
        return f"{self.choice.id} {'<' if self.sign > 0 else '>'} {self.sign * self.found.value!r}"

    def answers(self, oriented: np.ndarray) -> np.ndarray:
        """Which documents (n,) are answered, from scores oriented so that higher means uncertain."""
        return stats.answers(oriented, self.found.value)


def find_rules(case: Case, metrics: Sequence[Choice], aim: Aim) -> list[Rule]:
    """One rule a metric; with the selective guarantee, all hold at once (Bonferroni over the metrics).

    A metric without scores in the case answers nothing, and its rule says why.
    """
    wrong = case.wrong
    assert wrong is not None
    mask = aim.calibrates(len(wrong))
    rules = []
    for choice in metrics:
        score, needed = case.scores.get(choice.id), None
        if score is None:
            why = case.absent.get(choice.id, "no reason is known")
            found = stats.Threshold(math.nan, int(mask.sum()), 0, 0, f"no score of these documents, {why}")
        elif aim.guarantee == "selective":
            confidence = 1 - (1 - aim.confidence) / len(metrics)
            found = stats.selective_threshold(score[mask], wrong[mask], risk=aim.risk, confidence=confidence)
            if math.isnan(found.value):
                needed = stats.items_needed(score[mask], wrong[mask], risk=aim.risk, confidence=confidence)
        else:
            found = stats.expected_threshold(score[mask], wrong[mask], risk=aim.risk)
        rules.append(Rule(choice, found, needed))
    return rules


def threshold_table(case: Case, rules: Sequence[Rule], aim: Aim) -> Table:
    """What each rule does on the test documents, with exact 95 % intervals of shares, and what is guaranteed."""
    wrong = case.wrong
    assert wrong is not None
    test = ~aim.calibrates(len(wrong))
    possible = [rule for rule in rules if not math.isnan(rule.found.value)]
    rows, notes = [], [_promise(aim, int((~test).sum()), len(rules))] if possible else []
    for rule in rules:
        found = rule.found
        scores = case.scores.get(rule.choice.id, np.full(len(wrong), math.nan))
        given = rule.answers(scores) & test
        n, answered, errors = int(test.sum()), int(given.sum()), int((given & wrong).sum())
        rows.append(
            {
                "metric": rule.choice.id,
                "answer_when": rule.text,
                "threshold": rule.sign * found.value,
                "higher": rule.choice.metric.higher,
                "unit": rule.choice.metric.unit,
                **_share("answered", answered, n),
                **_share("wrong_among_answered", errors, answered),
                **_share("answered_and_wrong", errors, n),
                **_share("wrong_if_all_answered", int((test & wrong).sum()), n),
                "test_n": n,
                "calibration_n": found.n,
                "calibration_answered": found.answered,
                "calibration_wrong": found.wrong,
                "unscored": int(np.isnan(scores).sum()),
                "guarantee": aim.guarantee,
                "risk": aim.risk,
                "confidence": aim.confidence if aim.guarantee == "selective" else math.nan,
                "seed": aim.seed,
                "documents_needed": rule.needed,
                "reason": found.reason,
            }
        )
        if found.reason:
            notes.append(_impossible(rule, aim))
        elif not math.isnan(found.value) and rows[-1]["unscored"]:
            notes.append(f"{rule.choice.id}: {rows[-1]['unscored']} unscored documents, which are never answered.")
    notes += unmapped_notes(case)
    notes.append(
        f"Test: {int(test.sum())} other documents, exact 95 % intervals; drawn at random, seed {aim.seed}."
        if test.any()
        else "Every document calibrates, so none is left to test on."
    )
    if possible:
        notes.append(
            "It holds for documents drawn independently from the same source: not for another task or model, nor for "
            "documents that share a passage, a template or an author and come in clusters."
        )
    return Table(case.title, rows, notes)


def _share(name: str, events: int, n: int) -> dict[str, float]:
    found = stats.share(events, n)
    return {name: found.value, f"{name}_lower": found.lower, f"{name}_upper": found.upper}


def _promise(aim: Aim, n: int, metrics: int) -> str:
    if aim.guarantee == "selective":
        several = f" The confidence holds for all {metrics} rows at once, whichever is picked." if metrics > 1 else ""
        return (
            f"Guaranteed with confidence {aim.confidence:g}: among the documents that the rule answers, at most "
            f"{aim.risk:.4g} are wrong in the long run. That is, {n} calibration documents drawn anew give a rule "
            f"that errs more often with probability at most {1 - aim.confidence:.4g}.{several}"
        )
    several = " It holds for a row named beforehand, not for the best of these." if metrics > 1 else ""
    return (
        f"Guaranteed on average over {n} calibration documents and the next one: at most {aim.risk:.4g} of all "
        f"documents are answered and wrong. Among the answered alone the share of wrong ones can be larger.{several}"
    )


def _impossible(rule: Rule, aim: Aim) -> str:
    found = rule.found
    at = f"at confidence {aim.confidence:g}" if aim.guarantee == "selective" else "on average"
    more = (
        ""
        if rule.needed is None
        else f"; about {rule.needed} to calibrate on are needed, if the error rates seen here hold"
    )
    return f"{rule.choice.id}: no threshold reaches risk {aim.risk:g} {at} with n = {found.n}: {found.reason}{more}."


def answer_rows(case: Case, rules: Sequence[Rule], aim: Aim) -> list[dict[str, Any]]:
    """One row a document and rule: its part (calibration or test), its score in the metric's own sign, its fate."""
    calibrates = aim.calibrates(len(case.documents))
    found = []
    for rule in rules:
        scores = case.scores.get(rule.choice.id, np.full(len(calibrates), math.nan))
        given = rule.answers(scores)
        for i, document in enumerate(case.documents):
            part = "calibration" if calibrates[i] else "test"
            found.append(_answer(case, rule, document, part, rule.sign * scores[i], given[i]))
    return found


def applied_rows(case: Case, rules: Sequence[Rule], documents: Sequence[int], scores: Any) -> list[dict[str, Any]]:
    """The same for documents of another store; `scores` maps a metric's id to its scores in their own sign."""
    found = []
    for rule in rules:
        own = np.asarray(scores[rule.choice.id], dtype=float)
        given = rule.answers(rule.sign * own)
        found += [_answer(case, rule, d, "applied", s, g) for d, s, g in zip(documents, own, given)]
    return found


def _answer(case: Case, rule: Rule, document: int, part: str, score: float, given: bool) -> dict[str, Any]:
    of = {"task": case.task, "label": case.label, "doc_id": int(document), "part": part}
    return {**of, "metric": rule.choice.id, "score": float(score), "answered": bool(given)}


def show_threshold(table: Table, format_: str) -> str:
    """The table as md or latex: the columns one reads, and the notes below."""
    heads = {
        "answered": "answered",
        "wrong_among_answered": "wrong among answered",
        "answered_and_wrong": "answered and wrong",
        "wrong_if_all_answered": "wrong if all answered",
    }
    rows = [
        {"answer when": row["answer_when"] if row["answer_when"] not in ("never", "whenever scored") else _always(row)}
        | {f"{head} [95 % CI]": interval(row, k, f"{k}_lower", f"{k}_upper") for k, head in heads.items()}
        | {"test n": row["test_n"], "calibration n": row["calibration_n"]}
        for row in table.rows
    ]
    return page(table.title, render(rows, format_), table.notes, format_)


def _always(row: dict[str, Any]) -> str:
    return f"{row['answer_when']} ({row['metric']})"


def chosen(names: str, others: Sequence[Choice] = ()) -> list[Choice]:
    """The metrics that a rule may be made of, or one of those from elsewhere.

    Raises:
        ValueError: a name is not known, or a metric has no direction.
    """
    found = [c for c in others if c.id == names] or choose(names)
    neutral = [c.id for c in found if c.metric.higher == "neutral"]
    if neutral:
        raise ValueError(f"{', '.join(neutral)}: no direction, so no threshold; choose a metric of uncertainty")
    return found
