"""From words to metrics: names, presets, families, and combinations of parts."""

from __future__ import annotations

from collections.abc import Iterable

from metrics.core import COSTS, PRESETS, Choice, Feature, Metric, features, metric_cost, metrics
from metrics.naming import outside, settled, words
from metrics.tokenwise.composite import composite


def choose(text: str | Iterable[str]) -> list[Choice[Metric]]:
    """Metrics from names, presets, families and ids, as in ``"standard+min_k(share=0.1)"`` or a list of such.

    Presets are queries over cost, families over the modules that define metrics (``sampling`` takes in what
    ``sampling_similarity`` defines); both bring each metric's declared variants. A word with a colon,
    ``entropy:mean@rollout``, is a composite (`metrics.tokenwise`). Order is kept, repeats are dropped.

    Raises:
        ValueError: an unknown name or option, with the nearest known one.
    """
    chosen: dict[str, Choice[Metric]] = {}
    for word in words(text):
        for one in _members(word) or [_metric_word(word)]:
            chosen.setdefault(one.id, one)
    return list(chosen.values())


def choose_features(text: str | Iterable[str]) -> list[Choice[Feature]]:
    """Features from names and ids, as in ``"entropy_profile(windows=4)"`` or a list of such; ``all`` is all of them.

    Raises:
        ValueError: an unknown name or option, with the nearest known one.
    """
    known = features()
    chosen: dict[str, Choice[Feature]] = {}
    for word in words(text):
        all_ = [Choice(made, made.options) for made in known.values()]
        for one in all_ if word == "all" else [Choice(*settled("feature", word, known, others=("all",)))]:
            chosen.setdefault(one.id, one)
    return list(chosen.values())


def _members(word: str) -> list[Choice[Metric]]:
    """The metrics of a preset or a family, each with its declared variants; none if the word is neither."""
    if word in PRESETS:
        limit = COSTS.index(PRESETS[word])
        of = [made for made in metrics().values() if COSTS.index(metric_cost(made)) <= limit]
    else:
        of = [made for made in metrics().values() if made.family == word or made.family.startswith(f"{word}_")]
    return [Choice(made, {**made.options, **options}) for made in of for options in ({}, *made.variants)]


def families() -> tuple[str, ...]:
    """The families of metrics, each as good as a preset."""
    return tuple(dict.fromkeys(made.family for made in metrics().values()))


def _metric_word(word: str) -> Choice[Metric]:
    if ":" in outside(word):
        return composite(word)
    return Choice(*settled("metric", word, metrics(), others=(*PRESETS, *families())))
