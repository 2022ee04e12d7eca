"""States of single tokens, one vector a layer, for probes and for what compares samples.

All describe the whole generation, whatever span is scored: its last token is the one that ended it, a stop string's or
the end of sequence, where there was one. Half precision holds the states of half-precision models without loss; a value
beyond 65,504, which some models reach in a few dimensions, becomes infinite, and a score of it is undefined.
"""

import math

from torch import Tensor

from metrics.core import signal


@signal(axes=("layer", "dim"), unit="1", dtype="float16")
def hidden_prompt(hidden: Tensor) -> Tensor:
    """State at each layer of the prompt's last token, the token before generating (TBG): step 0, before any answer.

    Source: semantic-entropy probes, arXiv:2406.15927; their code's ``hidden[0]``.
    """
    return hidden[:, 0].half()


@signal(axes=("layer", "dim"), unit="1", dtype="float16")
def hidden_last(hidden: Tensor) -> Tensor:
    """State at each layer of the last token of the generation that the model has read, the one that ended it included.

    That is step n of n tokens, or n - 1 where the model's table of positions ends before the last token; NaN where no
    token was read. SAPLMA and EigenScore are defined on it, the latter at a middle layer. INSIDE's code takes another:
    with c tokens that are no special ones, ``hidden_states[c - 1]`` of `generate` at ``int((L + 1) / 2)`` of its L + 1
    entries, the state after reading c - 1 of them, two before the end of sequence (of a single one, the first position
    of the prompt). Sources: arXiv:2304.13734; arXiv:2402.03744, ``getEigenIndicator_v0``.
    """
    tokens = hidden.shape[1] - 1
    unread = tokens > 0 and bool(hidden[:, -1].isnan().all())
    read = tokens - unread
    return (hidden[:, read] if read else _nowhere(hidden)).half()


@signal(axes=("layer", "dim"), unit="1", dtype="float16")
def hidden_second_last(hidden: Tensor) -> Tensor:
    """State at each layer of the generation's second last token (SLT), the last one before an end of sequence.

    Step n - 1 of n tokens. It is the answer's last token where one token, such as the end of sequence, ended the
    generation, and the second last of all where its length did. NaN with fewer than two tokens. The authors' code has
    another: of c tokens without the stop string, ``hidden[c - 2]`` of `generate`, which is the state after reading
    c - 2 of them, step n - 3 with a stop of one token (with c = 1, the very last step). Source: arXiv:2406.15927.
    """
    return (hidden[:, -2] if hidden.shape[1] > 2 else _nowhere(hidden)).half()


def _nowhere(hidden: Tensor) -> Tensor:
    return hidden.new_full((len(hidden), hidden.shape[2]), math.nan)
