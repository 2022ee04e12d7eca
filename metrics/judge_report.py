"""What judging will cost, and how far a judge agrees with lm-eval."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metrics import stats
from metrics.judge import Work
from metrics.logged import Logged
from metrics.report import Table, interval, page
from metrics.table import render

CHARACTERS = 4
"""Characters taken for a token where no tokenizer is given, as in English prose; other languages take more tokens."""

FRAME = 8
"""Tokens that a chat template adds to a prompt, about."""


@dataclass(frozen=True)
class Estimate:
    """What the calls to come will take; `cost` is None without prices."""

    documents: int
    items: int
    cached: int
    calls: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    counted: str

    def lines(self, work: Work) -> list[str]:
        """The estimate in words."""
        known: dict[str, int] = {}
        for *_, by in work.known:
            known[by] = known.get(by, 0) + 1
        aside = [f"{count:,} {WORDS[by]}" for by, count in sorted(known.items())] + [
            f"{count:,} left out, {why}" for why, count in work.left_out.items()
        ]
        cost = "" if self.cost is None else f", at most about {self.cost:,.2f} in the currency of the prices"
        return [
            f"{self.documents:,} documents"
            + (f" ({'; '.join(aside)})" if aside else "")
            + f": {self.items:,} different questions with answers, {self.cached:,} of them in the cache.",
            "0 calls: nothing is left to ask."
            if not self.calls
            else f"{self.calls:,} calls: about {self.prompt_tokens:,} prompt tokens ({self.counted}) and at most "
            f"{self.completion_tokens:,} completion tokens{cost}.",
        ]


WORDS = {
    "empty": "with an empty answer, wrong without asking",
    "unmatched": "in which the filter matched nothing, wrong without asking",
    "exact": "equal to the gold, right without asking",
}


def estimate(
    work: Work,
    to_ask: Sequence[str],
    *,
    most_tokens: int,
    count: Callable[[str], int] | None = None,
    price_in: float | None = None,
    price_out: float | None = None,
) -> Estimate:
    """What asking these prompts takes.

    Args:
        work: what is judged.
        to_ask: the prompts that no cache holds.
        most_tokens: completion tokens that a call may take.
        count: tokens of a text; by default its characters over `CHARACTERS`.
        price_in: of a million prompt tokens; a price left out is 0 when the other is given.
        price_out: of a million completion tokens.
    """
    tokens = sum((count(p) if count else -(-len(p) // CHARACTERS)) + FRAME for p in to_ask)
    completion = len(to_ask) * most_tokens
    priced = price_in is not None or price_out is not None
    cost = (tokens * (price_in or 0) + completion * (price_out or 0)) / 1e6 if priced else None
    asked = sum(map(len, work.asked.values()))
    items = len(work.asked)
    documents = asked + len(work.known) + work.left_out.total()
    how = "counted by the tokenizer given" if count else f"estimated as characters / {CHARACTERS}"
    return Estimate(documents, items, items - len(to_ask), len(to_ask), tokens, completion, cost, how)


def agreement_table(
    rows: Iterable[Mapping[str, Any]],
    documents: Iterable[Logged],
    *,
    filter_: str | None = None,
    without: Collection[tuple[str, str]] = (),
    level: float = 0.95,
) -> Table:
    """How far labels agree with each of lm-eval's, over the documents that have both.

    Columns: task, label, n, judge_right and label_right (shares called right), agreement with Wilson's interval,
    Cohen's kappa with its interval, judge_only and label_only (documents that one alone calls right). Graded labels are
    left out.

    Args:
        rows: labels by task and doc_id, as `metrics.judge.label_rows` makes them.
        documents: with lm-eval's verdicts.
        filter_: only this filter's verdicts.
        without: (task, metric) of which less is better.
        level: of the intervals.
    """
    judged = {(row["task"], row["doc_id"]): bool(row["correct"]) for row in rows}
    pairs: dict[tuple[str, str, str], list[tuple[bool, float]]] = {}
    for one in documents:
        if (one.task, one.doc_id) in judged:
            for (metric, of), value in one.verdicts.items():
                if filter_ in (None, of) and (one.task, metric) not in without:
                    pairs.setdefault((one.task, metric, of), []).append((judged[one.task, one.doc_id], value))
    found = [
        _agreement(task, f"{metric}@{of}", both, level)
        for (task, metric, of), both in sorted(pairs.items())
        if {value for _, value in both} <= {0.0, 1.0}
    ]
    reasons = {f"{row['task']}, {row['label']}: {row['reason']}." for row in found if row["reason"]}
    notes = [NEITHER, *sorted(reasons)] if found else []
    return Table("The judge and lm-eval", [{k: v for k, v in row.items() if k != "reason"} for row in found], notes)


NEITHER = "Kappa: agreement beyond chance, 0 by chance and 1 for all alike. Neither side is the truth."


def _agreement(task: str, label: str, pairs: Sequence[tuple[bool, float]], level: float) -> dict[str, Any]:
    both = sum(a and b == 1 for a, b in pairs)
    judge_only = sum(a and b == 0 for a, b in pairs)
    label_only = sum(not a and b == 1 for a, b in pairs)
    n = len(pairs)
    neither = n - both - judge_only - label_only
    lower, upper = stats.wilson_interval(both + neither, n, level=level)
    kappa = stats.cohen_kappa(both, judge_only, label_only, neither, level=level)
    return {
        "task": task,
        "label": label,
        "n": n,
        "judge_right": (both + judge_only) / n,
        "label_right": (both + label_only) / n,
        "agreement": (both + neither) / n,
        "agreement_lower": lower,
        "agreement_upper": upper,
        "kappa": kappa.value,
        "kappa_lower": kappa.lower,
        "kappa_upper": kappa.upper,
        "judge_only": judge_only,
        "label_only": label_only,
        "reason": kappa.reason,
    }


def show_agreement(table: Table, format_: str) -> str:
    """The table as md or latex."""
    rows = [
        {
            **{k: row[k] for k in ("task", "label", "n")},
            "right by judge": row["judge_right"],
            "by lm-eval": row["label_right"],
            "agreement [95 % CI]": interval(row, "agreement", "agreement_lower", "agreement_upper"),
            "kappa [95 % CI]": interval(row, "kappa", "kappa_lower", "kappa_upper"),
            "right by judge only": row["judge_only"],
            "by lm-eval only": row["label_only"],
        }
        for row in table.rows
    ]
    return page(table.title, render(rows, format_), table.notes, format_)
