"""What a score takes, in words: how many answers, further passes of the model, and other models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metrics.core import Choice, Signal
from metrics.outside import Outside
from metrics.plan import recorded
from metrics.samples import NEEDED, of_samples

OTHERS = {
    "nli": "NLI",
    "embedding": "encoder",
    "bertscore": "BERTScore",
    "relevance": "relevance model",
}
"""The models that read the answers' texts."""

ONE = "1 answer"


def compute_of(choice: Choice[Any], samples: int, known: Mapping[str, Signal]) -> str:
    """What a metric's score of one document takes: ``8 answers + pass + NLI``; of a score from elsewhere
    what its file says, or "–".

    A *pass* is one more over prompt and answer together, of every answer that is compared; *passes* are several, or one
    backward.

    Args:
        choice: the metric.
        samples: answers to each document that were recorded.
        known: the catalogue of signals.
    """
    if isinstance(choice.metric.compute, Outside):
        return choice.metric.compute.takes or "–"
    parts = [f"{samples} answers" if of_samples(choice, known) and samples > 1 else ONE]
    needs = choice.metric.needs
    costs = {known[name].cost for need in needs for name in recorded(known[need], known)}
    if "passes" in costs:
        parts.append("passes")
    elif not costs.isdisjoint({"hidden", "lens", "attention", "influence"}):
        parts.append("pass")
    sources = [name for need in needs for name in (need, *known[need].needs)]
    sources += [str(choice.options[option]) for option in ("clusters", "affinity") if option in choice.options]
    made = dict.fromkeys(NEEDED.get(name, name) for name in sources)
    return " + ".join([*parts, *(OTHERS[name] for name in made if name in OTHERS)])
