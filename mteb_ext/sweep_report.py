"""What a sweep says of itself: before, after, and in its record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from mteb.abstasks import AbsTask

from mteb_ext.sweep import AT_ONCE
from mteb_ext.sweep_config import SweepConfig
from mteb_ext.sweep_plan import Refused, Subject
from mteb_ext.sweep_results import Outcome

VERSIONS = ("eval-ext", "mteb", "torch", "transformers", "numpy", "scikit-learn")


def headline(plan: Sequence[Mapping[str, Any]], config: SweepConfig) -> str:
    """The plan in two sentences."""
    pending, every = sum(row["pending"] for row in plan), sum(row["variants"] for row in plan)
    models = len({(row["model"], row["revision"]) for row in plan})
    are = "is" if every == 1 else "are"
    text = f"{pending:,} of {_count(every, 'unit')} {are} pending: {_count(models, 'checkpoint')}, "
    text += f"{_count(_tasks(plan), 'task')}."
    known = [row for row in plan if row["texts"]]
    if known:
        texts, tokens, tflop = (sum(row[key] for row in known) for key in ("texts", "tokens", "TFLOP"))
        largest = max(row["bank MB"] for row in known)
        text += (
            f" About {texts:,} texts go through a model once at most, {tokens:,} tokens, {tflop:,.3g} TFLOP; the bank "
            f"needs up to {_size(largest)} for one task (limit {_size(config.bank_limit / 1e6)})."
        )
        if largest * AT_ONCE * 1e6 > config.bank_limit:
            text += " That is more than the bank may hold, so texts are encoded several times: raise --bank-limit."
    unknown = {row["task"] for row in plan if row["texts"] is None}
    if unknown:
        text += f" No statistics ship for {', '.join(sorted(unknown))}, so {'its' if len(unknown) == 1 else 'their'} "
        text += "size is not counted."
    return text


def blocked(refused: Sequence[Refused]) -> str:
    """Why there is nothing to evaluate, in one line."""
    first, others = refused[0], len(refused) - 1
    more = f"; nor can {_count(others, 'further checkpoint')}, see --dry-run" if others else ""
    return f"{first.name} cannot be evaluated: {first.reason}{more}"


def summary(outcome: Outcome, plan: Sequence[Mapping[str, Any]]) -> str:
    """What was done, what it cost, and what failed."""
    before = sum(row["variants"] - row["pending"] for row in plan)
    c = outcome.counters
    text = f"{_count(outcome.done, 'unit')} evaluated in {outcome.seconds:.0f} s, {before:,} were there before."
    if outcome.done:
        again = f", {c.again:,} of them again after eviction" if c.again else ", none twice" * bool(c.passes)
        text += (
            f" {_count(c.passes + c.again, 'text')} went through a model{again} ({c.seconds:.0f} s); "
            f"scoring took {outcome.scoring:.0f} s, summed over processes."
        )
    if not outcome.failures:
        return text
    failed = "\n".join(f"- {failure.line}" for failure in outcome.failures)
    return f"{text}\n{_count(len(outcome.failures), 'failure')}; the same command tries again:\n{failed}"


def costs(
    config: SweepConfig, subjects: Sequence[Subject], tasks: Sequence[AbsTask], outcome: Outcome
) -> dict[str, Any]:
    """The record of a run, for `sweep.json`."""
    return {
        "versions": {name: version(name) for name in VERSIONS},
        "config": asdict(config),
        "checkpoints": [subject.checkpoint.name + "@" + subject.checkpoint.revision for subject in subjects],
        "tasks": {task.metadata.name: task.metadata.revision for task in tasks},
        "types": {task.metadata.name: task.metadata.type for task in tasks},
        "units_done": outcome.done,
        "failures": [asdict(failure) for failure in outcome.failures],
        "texts_asked": outcome.counters.asked,
        "forward_passes": outcome.counters.passes,
        "forward_passes_again": outcome.counters.again,
        "forward_seconds": round(outcome.counters.seconds, 3),
        "model_loads": outcome.counters.loads,
        "scoring_seconds": round(outcome.scoring, 3),
        "seconds": round(outcome.seconds, 3),
        "bank_bytes": outcome.bank,
    }


def _size(megabytes: float) -> str:
    return f"{megabytes:,.0f} MB" if megabytes >= 10 else f"{megabytes:.2g} MB"


def _tasks(plan: Sequence[Mapping[str, Any]]) -> int:
    return len({row["task"] for row in plan})


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
