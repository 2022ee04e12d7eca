"""Natural language inference by any classifier of pairs: which of two texts entails, or contradicts, the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor
from transformers import AutoModelForSequenceClassification

from lm_eval_ext.readers import Reader, Setting, load_reader

RELATIONS = ("entailment", "neutral", "contradiction")
"""In the order of the last axis of what is kept; models have theirs in any order."""


def load_nli(name: str, setting: Setting) -> tuple[Reader, list[int]]:
    """A model of natural language inference, and where its relations stand among its labels.

    Raises:
        ValueError: it cannot be loaded, or its labels are not these three.
    """
    reader = load_reader("--nli", name, AutoModelForSequenceClassification, setting)
    return reader, places(name, reader.model.config.id2label)


def places(name: str, labels: Mapping[int, str]) -> list[int]:
    """The places of entailment, neutral and contradiction among a model's labels, whatever their order and case.

    Raises:
        ValueError: they are not there; the message names what is.
    """
    found = {str(label).lower(): int(place) for place, label in labels.items()}
    if sorted(found) != sorted(RELATIONS):
        raise ValueError(
            f"--nli {name} has the labels {', '.join(map(str, labels.values()))} in its configuration (id2label), not "
            f"{', '.join(RELATIONS)}; give a model of natural language inference, such as one trained on MNLI"
        )
    return [found[relation] for relation in RELATIONS]


def probabilities(reader: Reader, order: Sequence[int], pairs: Sequence[tuple[str, str]]) -> list[Tensor]:
    """For each pair ``[3]``: the probabilities that the first text entails, is neutral to and contradicts the second.

    The softmax of the model's logits, in float32 or better.
    """
    return reader.read(pairs, lambda out, _: list(out.logits.float().softmax(-1)[:, list(order)]))
