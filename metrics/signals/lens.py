"""What is kept of the lens: each layer's state read as a next-token distribution, by itself and against the last one's.

``p`` is a layer's distribution, the softmax of its `lens_logits`, and ``q`` the last layer's, which is the model's own;
both are of the row that produced the token. Natural logarithms and float32, as for the logits: minus infinity, and the
lowest finite number of a half-precision type, is probability 0; NaN in gives NaN out, and -1 where the output is an
integer. What only depends on the last layer is computed once for all. Divergences are differences of sums of size
``ln V``, so they are exact to about 1e-6 nat; they are not clipped, and 0 may come out just below it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from metrics.core import signal
from metrics.signals.logits import LOWEST, top_values

TINY = torch.finfo(torch.float32).tiny

BEYOND = 1e18
"""No divergence in float32 is larger but one from a distribution that rules out what the other admits."""


def log_softmax(logits: Tensor) -> Tensor:
    """Log-probabilities in float32, of which the lowest finite number stands for minus infinity."""
    z = logits.float()
    if logits.dtype in (torch.float16, torch.bfloat16):
        z = z.masked_fill(logits == torch.finfo(logits.dtype).min, -torch.inf)
    return z.log_softmax(-1).clamp_(min=LOWEST)


@signal(axes=("token", "vocab"), unit="nat", kept=False)
def lens_last_log_probabilities(lens_last_logits: Tensor) -> Tensor:
    """Log-softmax of the last layer: ln q_v."""
    return log_softmax(lens_last_logits)


@signal(axes=("token", "vocab"), unit="probability", kept=False)
def lens_last_probabilities(lens_last_log_probabilities: Tensor) -> Tensor:
    """Softmax of the last layer: q_v."""
    return lens_last_log_probabilities.exp()


@signal(axes=("token",), unit="nat", kept=False)
def lens_last_entropy(lens_last_log_probabilities: Tensor, lens_last_probabilities: Tensor) -> Tensor:
    """Entropy of the last layer: H(q) = -sum_v q_v ln q_v."""
    return -torch.linalg.vecdot(lens_last_probabilities, lens_last_log_probabilities)


@signal(axes=("layer", "token", "vocab"), unit="nat", kept=False)
def lens_log_probabilities(lens_logits: Tensor) -> Tensor:
    """Log-softmax of each layer: ln p_v."""
    return log_softmax(lens_logits)


@signal(axes=("layer", "token", "vocab"), unit="probability", kept=False)
def lens_probabilities(lens_log_probabilities: Tensor) -> Tensor:
    """Softmax of each layer: p_v."""
    return lens_log_probabilities.exp()


@signal(axes=("layer", "token"), unit="nat")
def lens_entropy(lens_log_probabilities: Tensor, lens_probabilities: Tensor) -> Tensor:
    """Entropy of each layer's distribution: H(p) = -sum_v p_v ln p_v, from 0 to ln V.

    Source: Entropy-Lens, arXiv:2502.16570, which also applies the final norm and the head to the state after a block.
    """
    return -torch.linalg.vecdot(lens_probabilities, lens_log_probabilities)


@signal(axes=("layer", "token"), unit="nat")
def lens_logprob(lens_log_probabilities: Tensor, tokens: Tensor) -> Tensor:
    """Log-probability that each layer gives to the emitted token: ln p(y_t); -inf if the model rules it out."""
    own = _own(lens_log_probabilities, tokens)
    return own.masked_fill(own <= LOWEST, -torch.inf)


@signal(axes=("layer", "token"), unit="1", dtype="int32")
def lens_rank(lens_log_probabilities: Tensor, tokens: Tensor) -> Tensor:
    """How many tokens are strictly more probable than the emitted one at each layer: 0 when it is the most probable."""
    own = _own(lens_log_probabilities, tokens)
    larger = torch.empty_like(lens_log_probabilities)  # ones in float32 add up four times faster than truth values
    above = torch.gt(lens_log_probabilities, own.unsqueeze(-1), out=larger).sum(-1)
    return above.masked_fill(own.isnan(), -1).int()


@signal(axes=("layer", "token"), unit="nat")
def lens_kl(lens_probabilities: Tensor, lens_entropy: Tensor, lens_last_log_probabilities: Tensor) -> Tensor:
    """Divergence of each layer's distribution from the last one's: KL(p || q) = -H(p) - sum_v p_v ln q_v.

    The layer comes first, as in the notebook that introduced layer evolution; 0 at the last layer, infinite where the
    last layer rules out what the layer admits.
    """
    kl = -lens_entropy - torch.linalg.vecdot(lens_probabilities, lens_last_log_probabilities)
    return kl.masked_fill(kl > BEYOND, torch.inf)


@signal(axes=("layer", "token"), unit="nat")
def lens_jsd(
    lens_probabilities: Tensor, lens_entropy: Tensor, lens_last_probabilities: Tensor, lens_last_entropy: Tensor
) -> Tensor:
    """Jensen-Shannon divergence between each layer's distribution and the last one's, from 0 to ln 2.

    JSD = (KL(p || m) + KL(q || m)) / 2 = H(m) - (H(p) + H(q)) / 2, with the mixture m = (p + q) / 2, whose entropy is
    ln 2 - (1/2) sum_v s_v ln s_v for s = p + q.
    """
    sums = torch.add(lens_probabilities, lens_last_probabilities).clamp_(min=TINY)
    return math.log(2) - 0.5 * (torch.linalg.vecdot(sums, sums.log()) + lens_entropy + lens_last_entropy)


@signal(axes=("layer", "token", "top=2"), unit="nat", kept=False)
def lens_largest(lens_log_probabilities: Tensor) -> Tensor:
    """The two largest log-probabilities of each layer."""
    return top_values(lens_log_probabilities, 2)


@signal(axes=("layer", "token"), unit="probability")
def lens_top(lens_largest: Tensor) -> Tensor:
    """Probability of each layer's most probable token: p_1."""
    return lens_largest[..., 0].exp()


@signal(axes=("layer", "token"), unit="probability")
def lens_margin(lens_largest: Tensor) -> Tensor:
    """Gap between each layer's two most probable tokens: p_1 - p_2, from 0 to 1; p_1 in a vocabulary of one."""
    p = lens_largest.exp()
    return p[..., 0] - p[..., 1:].sum(-1)


@signal(axes=("token",), unit="nat")
def lens_quarter_kl(lens_logits: Tensor) -> Tensor:
    """Divergence between the mean distributions of the first and of the last quarter of the recorded layers.

    KL(P || Q) = sum_v P_v (ln P_v - ln Q_v), P the mean of p over the first k = max(1, floor(K / 4)) of K recorded
    layers, Q that over the last k; infinite where Q rules out what P admits. It goes across layers, so it is computed
    of a few tokens at a time. Source: the notebook that introduced layer evolution.
    """
    count = max(1, len(lens_logits) // 4)
    early, late = _log_mean(lens_logits[:count]), _log_mean(lens_logits[-count:])
    kl = torch.linalg.vecdot(early.exp(), early - late)
    return kl.masked_fill(kl > BEYOND, torch.inf)


def _log_mean(logits: Tensor) -> Tensor:
    """Logarithm of the mean distribution over the first axis."""
    if len(logits) == 1:
        return log_softmax(logits[0])
    sums = log_softmax(logits[0])
    for more in logits[1:]:
        sums = torch.logaddexp(sums, log_softmax(more))
    return (sums - torch.tensor(float(len(logits))).log()).clamp_(min=LOWEST)


def _own(log_probabilities: Tensor, tokens: Tensor) -> Tensor:
    index = tokens.long().unsqueeze(-1).expand(*log_probabilities.shape[:-1], 1)
    return log_probabilities.gather(-1, index).squeeze(-1)
