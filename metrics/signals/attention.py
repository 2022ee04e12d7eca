"""What is kept of the attention maps: sums over the keys, never a square of the length."""

import torch
from torch import Tensor

from metrics.core import signal


@signal(axes=("layer", "head", "step"), unit="probability")
def attention_diagonal(attention: Tensor) -> Tensor:
    """Weight that each step's position gives to itself."""
    steps, keys = attention.shape[-2:]
    own = torch.arange(keys - steps, keys, device=attention.device)
    return attention.float().gather(-1, own.expand((*attention.shape[:-2], steps)).unsqueeze(-1)).squeeze(-1)


@signal(axes=("layer", "head", "step"), unit="nat")
def attention_row_entropy(attention: Tensor) -> Tensor:
    """Entropy of each step's attention over the positions it can see: -sum_j a_j ln a_j.

    The weights are taken as they are. Where a sink takes part of a row (gpt-oss), they sum to less than one, they are
    not renormalised, and the sink has no term of its own; with ``s = attention_sink``, the entropy over positions and
    sink is this plus ``-s ln s``, and that of the renormalised row is ``this / (1 - s) + ln(1 - s)``.
    """
    return torch.special.entr(attention.float()).sum(-1)


@signal(axes=("layer", "head", "step"), unit="probability")
def attention_sink(attention: Tensor) -> Tensor:
    """Weight of each step's row that falls on no position: 1 - sum_j a_j.

    In models with learned sinks (gpt-oss) it is the sink's share. In others, whose rows sum to one, it is nothing but
    rounding, of either sign: about 1e-7 in single precision, up to 1e-2 in half; it is not clipped.
    """
    return 1 - attention.float().sum(-1)
