"""Hidden states as vectors for a classifier: of one token, or the mean over the answer, at each recorded layer.

The recorded layers follow one another, each as wide as the model. ``places=0/3`` keeps the first and the fourth; which
layers these are stands in the store's manifest. All describe the whole generation, whatever span is scored.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metrics.core import feature


@feature(unit="1", source="arXiv:2406.15927")
def state_prompt(hidden_prompt: Tensor, *, places: str = "all") -> Tensor:
    """State of the prompt's last token, before any of the answer (TBG), at the recorded layers: ``[layers * d]``.

    Raises:
        ValueError: a place is no number, or beyond the recorded layers; so for all features here.
    """
    return _placed("state_prompt", hidden_prompt, places)


@feature(unit="1", source="arXiv:2304.13734")
def state_last(hidden_last: Tensor, *, places: str = "all") -> Tensor:
    """State of the last token of the generation that the model has read, at the recorded layers: ``[layers * d]``."""
    return _placed("state_last", hidden_last, places)


@feature(unit="1", source="arXiv:2406.15927")
def state_second_last(hidden_second_last: Tensor, *, places: str = "all") -> Tensor:
    """State of the generation's second last token (SLT), at the recorded layers: ``[layers * d]``."""
    return _placed("state_second_last", hidden_second_last, places)


@feature(unit="1", source="lm-polygraph, which averages over the prompt too")
def state_mean(hidden_mean: Tensor, *, places: str = "all") -> Tensor:
    """Mean state over the generation's tokens, at the recorded layers: ``[layers * d]``."""
    return _placed("state_mean", hidden_mean, places)


def _placed(who: str, states: Tensor, places: str) -> Tensor:
    if places == "all":
        return states.flatten()
    try:
        chosen = [int(place) for place in places.split("/")]
    except ValueError:
        raise ValueError(f"{who}: places={places} is neither all nor numbers joined by /") from None
    if not all(0 <= place < len(states) for place in chosen):
        raise ValueError(f"{who}: places={places} goes beyond the {len(states)} recorded layers, numbered from 0")
    return states[torch.tensor(chosen)].flatten()
