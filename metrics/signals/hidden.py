"""What is kept of the residual stream, one layer at a time.

Step 0 is the prompt's last position; steps 1..n are the answer's own tokens. A last token that the model could not
read, at the end of its table of positions, has NaN for a state and is left out of what is taken over tokens.
"""

import math

import torch
from torch import Tensor

from metrics.core import signal

RIDGE = 1e-3
"""LLM-Check's addition to the diagonal of the token Gram matrix."""

WIDEST = 2048
"""The largest Gram matrix that is made, of the smaller of tokens and width; beyond it what needs one is NaN."""


@signal(axes=("layer", "step"), unit="1")
def hidden_norm(hidden: Tensor) -> Tensor:
    """Euclidean norm of the state at each layer and step."""
    return hidden.float().norm(dim=-1)


@signal(axes=("layer", "dim"), unit="1")
def hidden_mean(hidden: Tensor) -> Tensor:
    """Mean state over the continuation's tokens at each layer; the state before the first token is left out.

    So is a last token that the model could not read, at the end of its table of positions. NaN where none is left, or
    where a state holds NaN.
    """
    return _tokens(hidden).float().mean(1)


@signal(axes=("layer", "dim"), unit="1")
def hidden_mean_official(hidden: Tensor, hidden_start: Tensor) -> Tensor:
    """Mean state as Chain-of-Embedding's code takes it: the text's very first position and tokens 1..n-1, over n.

    The code averages position 0 of what each step of `generate` returns. In the first step that is the first token of
    the prompt, often a sink with a very large state, and the last token is never read. `hidden_mean` has the answer's
    tokens instead. NaN for a continuation of no token.
    """
    steps = hidden.shape[1] - 1
    whole = hidden_start.float() + hidden[:, 1:-1].float().sum(1)
    return whole / (steps or math.nan)


@signal(axes=("layer", "step"), unit="1")
def hidden_cosine(hidden: Tensor, hidden_before: Tensor) -> Tensor:
    """Cosine between the state after each layer and the state it read, at each step. Range [-1, 1].

    NaN for layer 0, which has no layer before it, and where a state is zero.
    """
    after, before = hidden.float(), hidden_before.float()
    return torch.linalg.vecdot(after, before) / (after.norm(dim=-1) * before.norm(dim=-1))


@signal(axes=("layer", "step"), unit="1")
def hidden_change(hidden: Tensor, hidden_before: Tensor) -> Tensor:
    """Norm of what each layer added to the state it read, at each step. NaN for layer 0."""
    return (hidden.float() - hidden_before.float()).norm(dim=-1)


@signal(axes=("layer",), unit="nat")
def hidden_log_determinant(hidden: Tensor) -> Tensor:
    """LLM-Check's hidden score of each layer: mean log-eigenvalue of the Gram matrix of the tokens' centred states.

    (1/T) ln det(Z^T J Z + 0.001 I), Z the (d, T) states of the generation's tokens and J = I - 11^T / d, which centres
    each state over its features, as the authors' code does. It depends on T: every token more than d, and every
    direction that the tokens leave empty, adds ln 0.001. O(T d min(T, d)); NaN when both exceed 2,048.

    Source: LLM-Check, NeurIPS 2024, https://openreview.net/forum?id=LYx4w3CAgy, section 3.1.
    """
    states = _tokens(hidden).double()
    tokens = states.shape[1]
    gram = _gram(states - states.mean(-1, keepdim=True))
    size = gram.shape[-1]
    ridge = RIDGE * torch.eye(size, dtype=gram.dtype, device=gram.device)
    empty = (tokens - size) * math.log(RIDGE)
    return ((torch.linalg.slogdet(gram + ridge).logabsdet + empty) / tokens).float()


@signal(axes=("layer",), unit="nat")
def hidden_matrix_entropy(hidden: Tensor) -> Tensor:
    """Von Neumann entropy of the tokens' states at each layer: -sum_i l_i ln l_i.

    l are the eigenvalues of H H^T / tr(H H^T), H the (T, d) states of the generation's tokens, not centred. From 0, all
    states along one line, to ln min(T, d), so longer answers may have more. O(T d min(T, d)); NaN when both exceed
    2,048, and where all states are zero.

    Source: arXiv:2502.02013, the limit of order 1 of its equation 1.
    """
    gram = _gram(_tokens(hidden).double())
    gram = gram / gram.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]
    broken = ~gram.isfinite().flatten(1).all(-1)
    values = torch.linalg.eigvalsh(gram.masked_fill(broken[:, None, None], 0.0))
    entropy = torch.special.entr(values.clamp(min=0)).sum(-1)  # rounding may put an empty direction below zero
    return entropy.masked_fill(broken, torch.nan).float()


@signal(axes=("layer",), unit="1")
def hidden_renyi_entropy(hidden: Tensor) -> Tensor:
    """Renyi entropy of order 2 of the tokens' states at each layer, over 1 + ln T: -ln(sum_i l_i^2) / (1 + ln T).

    l are the eigenvalues of `hidden_matrix_entropy`; their squares sum to the squared Frobenius norm of
    H H^T / tr(H H^T), so none is computed. Range [0, 1). O(T d min(T, d)); NaN when both exceed 2,048.

    Source: arXiv:2606.09875, the global part of GLU.
    """
    states = _tokens(hidden).double()
    gram = _gram(states)
    purity = gram.square().sum((-2, -1)) / gram.diagonal(dim1=-2, dim2=-1).sum(-1).square()
    return (-purity.log() / (1 + math.log(states.shape[1] or math.nan))).float()


def _tokens(hidden: Tensor) -> Tensor:
    """The states of the continuation's tokens that the model has read."""
    states = hidden[:, 1:]
    unread = states.shape[1] > 0 and bool(states[:, -1].isnan().all())
    return states[:, : states.shape[1] - unread]


def _gram(states: Tensor) -> Tensor:
    """The smaller of X X^T and X^T X, whose eigenvalues agree but for zeros; NaN beyond `WIDEST` and of nothing."""
    tokens, width = states.shape[1:]
    if not 0 < min(tokens, width) <= WIDEST:
        return states.new_full((len(states), 1, 1), torch.nan)
    return states @ states.mT if tokens <= width else states.mT @ states
