"""What is kept of the attention maps: sums and single entries of their rows and columns, never a square of the length.

Step i is the query at position P - 1 + i, so steps 1..n are the answer's own tokens. Statistics of single heads are
kept in half precision: a thousandth of their value, or 3e-8 where that is more. Logarithms of small weights would not
survive that; they are taken before, and kept as means over heads in single precision.
"""

import torch
from torch import Tensor

from metrics.core import signal

TOP = 10
"""How many of a Laplacian's eigenvalues are kept: the smallest number that LapEigvals tries."""


@signal(axes=("layer", "head", "step"), unit="probability", dtype="float16")
def attention_diagonal(attention: Tensor) -> Tensor:
    """Weight that each step's position gives to itself: A[q, q].

    LM-Polygraph's "previous token" at the step that produces a token is this: the query there is the token before.
    """
    return _entries(attention, 0).half()


@signal(axes=("layer", "head", "step"), unit="probability", dtype="float16")
def attention_previous(attention: Tensor) -> Tensor:
    """Weight that each step's position gives to the position before it: A[q, q - 1].

    NaN where there is none, in the state that produced the first token after a prompt of one token.
    """
    return _entries(attention, 1).half()


@signal(axes=("layer", "head", "step"), unit="nat", dtype="float16")
def attention_row_entropy(attention: Tensor) -> Tensor:
    """Entropy of each step's attention over the positions it can see: -sum_j a_j ln a_j.

    The weights are taken as they are. Where a sink takes part of a row (gpt-oss), they sum to less than one, they are
    not renormalised, and the sink has no term of its own: with s the sink's share of the row, the entropy over both is
    this plus ``-s ln s``, and that of the renormalised row is ``this / (1 - s) + ln(1 - s)``.
    """
    return torch.special.entr(attention.float()).sum(-1).half()


@signal(axes=("layer", "step"), unit="probability")
def attention_sink(attention: Tensor) -> Tensor:
    """Weight of each step's row that falls on no position, mean over heads: 1 - (1/H) sum_h sum_j a_hj.

    In models with learned sinks (gpt-oss) it is the sink's share. In others, whose rows sum to one, it is nothing but
    rounding, of either sign: about 1e-7 in single precision, up to 1e-2 in half; it is not clipped.
    """
    return 1 - attention.float().sum(-1).mean(1)


@signal(axes=("layer", "step"), unit="probability")
def attention_first(attention: Tensor) -> Tensor:
    """Weight of each step's row on the text's first position, mean over heads: the mass of a sink that is not learned.

    Source: arXiv:2309.17453, where the first tokens take most of the attention whatever they say.
    """
    return attention[..., 0].float().mean(1)


@signal(axes=("layer", "head", "step"), unit="1", dtype="float16")
def lookback_ratio(attention: Tensor, prompt_count: Tensor) -> Tensor:
    """Share of the attention on the context, per position: c / (c + g) with c and g *mean* weights. Range [0, 1].

    c is the mean over the P positions of the prompt, g the mean over the positions generated so far, the query's own
    with them. At step 0 nothing has been generated and g has no terms: they weigh nothing there, so the ratio is 1.
    The authors' code has NaN there; no metric reads that step of a whole answer.

    Source: arXiv:2407.07071, Lookback Lens, section 2.
    """
    steps, keys = attention.shape[-2:]
    prompt = int(prompt_count)
    weights = attention.float()
    generated = torch.arange(keys - steps, keys, device=attention.device) + 1 - prompt
    context = weights[..., :prompt].sum(-1) / prompt
    own = weights[..., prompt:].sum(-1) / generated.clamp(min=1)
    return (context / (context + own)).half()


@signal(axes=("layer", "key"), unit="nat")
def attention_log_diagonal(attention_self: Tensor) -> Tensor:
    """Logarithm of the weight that each position of prompt and continuation gives to itself, mean over heads.

    (1/H) sum_h ln A^h_ii; the sum over positions is the mean over heads of ln det A^h. Minus infinity where a weight is
    exactly zero.
    """
    return attention_self.float().log().mean(1)


@signal(axes=("layer", "key"), unit="probability")
def attention_received(attention_columns: Tensor) -> Tensor:
    """Attention that each position receives from a query that can see it, mean over those queries and over heads.

    (1/H) sum_h sum_{u >= i} A^h_ui / (T - i). All T - i later queries are counted, also where a sliding window hides
    the position from some.
    """
    return attention_columns.float().mean(1) / _seeing(attention_columns)


@signal(axes=("layer", "head", "top=10"), unit="1")
def laplacian_eigenvalues(attention_columns: Tensor, attention_self: Tensor) -> Tensor:
    """The ten largest eigenvalues of the attention graph's Laplacian L = D - A of each head, descending.

    D_ii = sum_{u >= i} A_ui / (T - i), so L is lower triangular and its eigenvalues are D_ii - A_ii. They describe the
    whole text, prompt and generation. NaN at the end where the text has fewer than ten positions.

    Source: arXiv:2502.17598, LapEigvals, equations 1 to 3. The authors' code (74f885c) is otherwise: but for the first
    layer it adds the next layer's A_ii in place of a layer's own and subtracts nothing.
    """
    values = attention_columns.float() / _seeing(attention_columns) - attention_self.float()
    top = values.sort(-1, descending=True).values[..., :TOP]
    return torch.nn.functional.pad(top, (0, TOP - top.shape[-1]), value=torch.nan)


def _entries(attention: Tensor, before: int) -> Tensor:
    """A[q, q - before] of every query q, in float32; NaN where q is less than `before`."""
    steps, keys = attention.shape[-2:]
    at = torch.arange(keys - steps, keys, device=attention.device) - before
    found = attention.gather(-1, at.clamp(min=0).expand((*attention.shape[:-2], steps)).unsqueeze(-1)).squeeze(-1)
    return found.float().masked_fill(at < 0, torch.nan)


def _seeing(columns: Tensor) -> Tensor:
    """How many queries stand at or after each position."""
    return torch.arange(columns.shape[-1], 0, -1, device=columns.device)
