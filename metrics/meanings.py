"""Which of several texts mean the same: groups of texts from how alike two of them are."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

ENTAILMENT, NEUTRAL, CONTRADICTION = range(3)
"""Places of the relations in what a model of natural language inference says of two texts."""

EQUIVALENCES = ("strict", "lenient")
RULES = ("components", "first")


def equivalent(nli: Tensor, equivalence: str = "strict") -> Tensor:
    """Whether two texts mean the same, by the likeliest relation each way.

    ``strict``: each entails the other (Farquhar et al., Nature 630, 2024). ``lenient``: neither contradicts the other,
    and at least one entails the other (the same authors' code without ``--strict_entailment``).

    Args:
        nli: ``[text, text, 3]``, the probabilities that the first entails, is neutral to and contradicts the second.
        equivalence: one of `EQUIVALENCES`.

    Returns:
        ``[text, text]``, boolean and symmetric; the diagonal is what the model says of a text and itself.

    Raises:
        ValueError: unknown `equivalence`.
    """
    said = nli.argmax(-1)
    entails = said == ENTAILMENT
    if equivalence == "strict":
        return entails & entails.mT
    if equivalence == "lenient":
        fine = said != CONTRADICTION
        return fine & fine.mT & (entails | entails.mT)
    raise ValueError(f"equivalence='{equivalence}' is not known; choose {' or '.join(EQUIVALENCES)}")


def grouped(same: Tensor, rule: str = "components") -> Tensor:
    """The group of each text, numbered in order of first appearance.

    ``components``: texts are in one group when a chain of alike texts joins them; the order of the texts does not
    matter. ``first``: a text that is in no group yet opens one, and every later text that is like it moves there, also
    from a group that was opened before (the published rule, as coded); this depends on the order.

    Args:
        same: ``[text, text]``, boolean and symmetric; the diagonal does not matter.
        rule: one of `RULES`.

    Raises:
        ValueError: unknown `rule`.
    """
    if rule not in RULES:
        raise ValueError(f"rule='{rule}' is not known; choose {' or '.join(RULES)}")
    alike = same.numpy()
    group = np.full(len(alike), -1)
    opened = 0
    for i in range(len(alike)):
        if group[i] >= 0:
            continue
        if rule == "first":
            group[i + 1 :][alike[i, i + 1 :]] = opened
        else:
            reached = np.arange(len(alike)) == i
            while (wider := reached | alike[reached].any(0)).sum() > reached.sum():
                reached = wider
            group[reached] = opened
        group[i] = opened
        opened += 1
    return torch.from_numpy(group)
