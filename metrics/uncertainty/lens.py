"""How the prediction came about: the next-token distribution of each layer on its way to the last.

Layers are those that were recorded, in order; the model's last is one of them wherever the lens is recorded, and for
metrics of hidden states alone the last recorded stands for it. A depth is a layer's place among K recorded ones as a
share, ``i / (K - 1)`` for i = 0 .. K - 1, so ``layer / L`` where all are recorded: 0 is the embedding output, 1 the
last layer. One layer alone has no depth, and nothing before it: such scores are NaN.
"""

import math

import torch
from torch import Tensor

from metrics.core import feature, metric

NOTEBOOK = "https://github.com/pmemoli/Data-Science-Thesis"


@metric(higher="uncertain", unit="nat", source="arXiv:2502.16570")
def lens_entropy_mean(lens_entropy: Tensor) -> Tensor:
    """Mean entropy over all layers and tokens: the entropy profile in one number. Range [0, ln V]."""
    return lens_entropy.mean()


@feature(unit="nat", source="arXiv:2502.16570")
def entropy_profile(lens_entropy: Tensor, *, windows: int = 8) -> Tensor:
    """Entropy profile of Entropy-Lens: each layer's entropy, averaged in `windows` successive windows of tokens.

    Window w of n tokens holds those from floor(w n / W) to before ceil((w + 1) n / W), so that none is empty and, when
    n is no multiple of W, neighbours share a token. Layer by layer, ``[layers * windows]``.

    Raises:
        ValueError: windows is below 1.
    """
    if windows < 1:
        raise ValueError(f"entropy_profile: windows={windows} is below 1")
    return torch.nn.functional.adaptive_avg_pool1d(lens_entropy, windows).flatten()


@metric(higher="uncertain", unit="nat", source=NOTEBOOK, variants=[{"last": 8}])
def evolution_kl(lens_kl: Tensor, *, last: int = 4) -> Tensor:
    """Layer evolution: divergence KL(p_l || p_L) over the `last` layers before the final one, mean over layers, tokens.

    Of fewer layers, all. The notebook divides by all layers of the model, most of them zeros; this is the mean.

    Raises:
        ValueError: last is below 1.
    """
    return _before_final(lens_kl, last).mean()


@metric(higher="uncertain", unit="nat^2", source=NOTEBOOK, variants=[{"last": 8}])
def evolution_kl_variance(lens_kl: Tensor, *, last: int = 4) -> Tensor:
    """Layer evolution: variance of KL(p_l || p_L) over the `last` layers before the final one, mean over tokens.

    The population variance, 0 for one layer; the notebook's counts its rows of zeros.

    Raises:
        ValueError: last is below 1.
    """
    return _before_final(lens_kl, last).var(0, correction=0).mean()


@metric(higher="uncertain", unit="nat", source=NOTEBOOK, variants=[{"last": 8}])
def evolution_entropy(lens_entropy: Tensor, *, last: int = 4) -> Tensor:
    """Layer evolution: entropy over the `last` layers before the final one, mean over layers and tokens.

    Raises:
        ValueError: last is below 1.
    """
    return _before_final(lens_entropy, last).mean()


@metric(higher="uncertain", unit="nat^2", source=NOTEBOOK, variants=[{"last": 8}])
def evolution_entropy_variance(lens_entropy: Tensor, *, last: int = 4) -> Tensor:
    """Layer evolution: variance of the entropy over the `last` layers before the final one, mean over tokens.

    The population variance, 0 for one layer.

    Raises:
        ValueError: last is below 1.
    """
    return _before_final(lens_entropy, last).var(0, correction=0).mean()


@metric(higher="uncertain", unit="nat", source=NOTEBOOK)
def evolution_quarters(lens_quarter_kl: Tensor) -> Tensor:
    """Layer evolution: divergence between the mean distributions of the first and last quarter of layers, mean over t.

    KL(P || Q), as the notebook's notes define it and its code leaves it out.
    """
    return lens_quarter_kl.mean()


@metric(higher="uncertain", unit="1", source="arXiv:2207.07061", variants=[{"threshold": 0.5}])
def exit_depth_margin(lens_margin: Tensor, *, threshold: float = 0.9) -> Tensor:
    """Early-exit depth by the margin: depth from which on p_1 - p_2 >= `threshold`, mean over tokens. Range [0, 1].

    1 for a token at which no layer is as sure. CALM leaves at the first such layer; here the later ones have to be so
    too, since nothing is saved by leaving.
    """
    return _depth(lens_margin >= threshold, lens_margin).mean()


@metric(higher="uncertain", unit="1", source=NOTEBOOK)
def exit_depth_kl(lens_kl: Tensor, *, threshold: float = 0.5) -> Tensor:
    """Early-exit depth by divergence: depth from which on KL(p_l || p_L) <= `threshold`, mean over tokens, in [0, 1].

    1 for a token at which all layers before the final one are farther away.
    """
    return _depth(lens_kl <= threshold, lens_kl).mean()


@metric(higher="uncertain", unit="1", source="arXiv:2207.07061")
def exit_depth_cosine(hidden_cosine: Tensor, *, threshold: float = 0.9) -> Tensor:
    """Early-exit depth by the state: depth from which on cos(h_l, h_{l-1}) >= `threshold`, mean over tokens, in [0, 1].

    Of the states that produced the tokens. 1 for a token whose last block still turns the state. Layer 0, which has no
    layer before it, can be no exit; CALM leaves at the first such layer, here the later ones have to be so too.
    """
    cosine = _turns(hidden_cosine)
    return _depth(cosine >= threshold, cosine, len(hidden_cosine)).mean()


@metric(higher="uncertain", unit="1", source=NOTEBOOK)
def exit_depth_test(hidden_cosine: Tensor, *, level: float = 0.05) -> Tensor:
    """Early-exit depth by a test on the layer change: depth from which on every p-value is above `level`, mean over t.

    The change c = 1 - cos(h_l, h_{l-1}) of a layer and token is compared with the n changes of the last recorded layer
    over the same answer: p = (1 + #{c_L >= c}) / (n + 1), the rank test of "no larger than what the last block does".
    So no threshold on the cosine is needed. With n + 1 < 1 / `level` no change is significant and the depth is the
    least. The notebook names such a p-value and leaves it undefined.
    """
    cosine = _turns(hidden_cosine)
    if not len(cosine):
        return torch.tensor(math.nan)
    change = 1 - cosine
    reached = (change[-1] >= change.unsqueeze(-1)).sum(-1)
    return _depth((1 + reached) / (change.shape[1] + 1) > level, cosine, len(hidden_cosine)).mean()


@metric(higher="confident", unit="1", source="arXiv:2602.13517")
def deep_thinking_ratio(lens_jsd: Tensor, *, threshold: float = 0.5, depth: float = 0.85) -> Tensor:
    """Deep-thinking ratio: share of tokens whose prediction settles only in the deepest layers. Range [0, 1].

    A token settles at the first layer l with JSD(p_l, p_L) <= `threshold` (the first at which the running minimum is),
    in nats, whose largest value is ln 2; it is deep-thinking when l >= ceil(`depth` L). The paper finds it to go with
    right answers, hence the direction; its settings are the defaults.
    """
    count = len(lens_jsd)
    if count < 2:
        return torch.tensor(math.nan)
    settled = (lens_jsd <= threshold).int()
    settled[-1] = 1
    deep = settled.argmax(0) >= math.ceil(depth * (count - 1) - 1e-9)  # 0.85 * 20 is not 17 in floating point
    return _unless_nan(deep.float(), lens_jsd).mean()


@metric(higher="confident", unit="nat", source="arXiv:2309.03883")
def dola_contrast(lens_logprob: Tensor, lens_jsd: Tensor) -> Tensor:
    """DoLa's contrast of the emitted token: ln p_L(y_t) - ln p_M(y_t), mean over tokens.

    M, the premature layer of each token, is the layer before the last with the largest Jensen-Shannon divergence from
    it, the first of equals. All recorded layers are candidates (DoLa takes every second one of a stretch of layers),
    and tokens that the last layer finds implausible are not left out, as one of them may have been emitted.
    """
    if len(lens_jsd) < 2:
        return torch.tensor(math.nan)
    premature = lens_jsd[:-1].argmax(0, keepdim=True)
    contrast = lens_logprob[-1] - lens_logprob.gather(0, premature).squeeze(0)
    return _unless_nan(_unless_nan(contrast, lens_jsd), lens_logprob).mean()


def _before_final(values: Tensor, last: int) -> Tensor:
    """The `last` layers before the final one, or as many as there are; NaN where there is none."""
    if last < 1:
        raise ValueError(f"last={last} is below 1")
    return values[:-1][-last:] if len(values) > 1 else torch.full_like(values, math.nan)


def _turns(hidden_cosine: Tensor) -> Tensor:
    """Cosines in the rows that produced tokens, without layer 0 where it is recorded, which is NaN throughout."""
    cosine = hidden_cosine[:, :-1]
    return cosine[1:] if len(cosine) and bool(hidden_cosine[0].isnan().all()) else cosine


def _depth(holds: Tensor, values: Tensor, layers: int | None = None) -> Tensor:
    """By token, the depth of the first layer from which on something holds; 1 where it does in none.

    Args:
        holds: ``[layer, token]``.
        values: what it was read from; a token with NaN among its values has no depth.
        layers: how many layers there are, where the first of them can be no exit; as many as in `holds` by default.
    """
    count = len(holds) if layers is None else layers
    if count < 2:
        return torch.full(holds.shape[1:], math.nan)
    through = holds.flip(0).int().cumprod(0).sum(0)  # how many layers, from the last backwards
    return _unless_nan((count - through).clamp(max=count - 1) / (count - 1), values)


def _unless_nan(by_token: Tensor, values: Tensor) -> Tensor:
    return by_token.masked_fill(values.isnan().any(0), math.nan)
