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
    """Entropy of each step's attention over the positions it can see: -sum_j a_j ln a_j."""
    return torch.special.entr(attention.float()).sum(-1)
