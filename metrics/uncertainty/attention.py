"""What the attention maps say: how much positions look at themselves, at the token before, and at the context.

`layer` counts recorded blocks, and says which: ``all``, an index, or a depth such as ``0.5``, the middle one.
"""

import math

import torch
from torch import Tensor

from metrics.core import feature, metric
from metrics.uncertainty.recorded import at_layer, middle, own, read

FLOOR = -1e6
"""What the logarithm of a weight of zero counts as within sums; whatever holds it in the end is zero again."""

ICML = {"tokens": "mean_min", "over": "mean"}
"""The defaults of the code published with RAUQ."""


@metric(
    higher="uncertain",
    unit="nat",
    source="https://openreview.net/forum?id=LYx4w3CAgy",
    variants=[{"positions": "generated"}],
)
def attention_score(
    attention_log_diagonal: Tensor, token_count: Tensor, *, positions: str = "all", layer: str = "0.5"
) -> Tensor:
    """Attention score in LM-Polygraph's form: -(1/H) sum_h sum_i ln A^h_ii of one layer. Range [0, inf).

    A *sum* over positions, of prompt and answer (``positions=all``) or of the answer alone (``generated``): it grows
    with their number, and ranks answers largely by length. LM-Polygraph leaves the last token out of the second form,
    which then says nothing of an answer of one token; here it counts. Its direction is the opposite of that in the
    source, which `llm_check_attention` has.

    Raises:
        ValueError: `positions` is neither ``all`` nor ``generated``, or `layer` names no recorded layer.
    """
    if positions not in ("all", "generated"):
        raise ValueError(f"attention_score: positions='{positions}' is not known; choose all or generated")
    values = at_layer(attention_log_diagonal, layer)
    answer = _answer(values, token_count)
    if answer.shape[-1] == 0:
        return answer.new_tensor(math.nan)
    return -(read(values) if positions == "all" else answer).sum(-1).mean()


@metric(
    higher="uncertain",
    unit="nat",
    source="https://openreview.net/forum?id=LYx4w3CAgy",
    variants=[{"layer": "all"}],
)
def llm_check_attention(attention_log_diagonal: Tensor, token_count: Tensor, *, layer: str = "0.5") -> Tensor:
    """LLM-Check's attention score: mean over the answer's tokens and over heads of ln A_ii. Range (-inf, 0].

    The mean log-eigenvalue of the answer's block of the map, larger for hallucinated answers in the source. The
    authors' code sums over heads, which multiplies every answer's score by the same H. The best layer varies by model;
    the source recommends a middle one.

    Raises:
        ValueError: `layer` names no recorded layer.
    """
    return _answer(at_layer(attention_log_diagonal, layer), token_count).mean()


@metric(higher="uncertain", unit="nat", source="folklore", variants=[{"layer": "-1"}])
def attention_entropy(attention_row_entropy: Tensor, *, layer: str = "all") -> Tensor:
    """Mean entropy of the attention of the states that produced the answer's tokens, over tokens, heads and layers.

    (1/n) sum_t H(A[P - 1 + t, :]), t = 0..n-1. At most the logarithm of the number of positions, so longer texts may
    have more.

    Raises:
        ValueError: `layer` names no recorded layer.
    """
    return at_layer(attention_row_entropy, layer)[..., :-1].float().mean()


@metric(higher="confident", unit="1", source="arXiv:2407.07071", variants=[{"layer": "-1"}])
def mean_lookback_ratio(lookback_ratio: Tensor, *, layer: str = "all") -> Tensor:
    """Mean lookback ratio of the answer's own tokens, over tokens, heads and layers. Range [0, 1].

    High where the model looks at the context rather than at what it has written. The source trains a classifier on the
    ratios of all heads, for which there is the feature `lookback_features`.

    Raises:
        ValueError: `layer` names no recorded layer.
    """
    return own(at_layer(lookback_ratio, layer)).float().mean()


@metric(
    higher="uncertain",
    unit="nat",
    source="arXiv:2505.20045",
    variants=[ICML, {**ICML, "recursion": "simple"}, {"alpha": 0.5}],
)
def rauq(
    logprob: Tensor,
    attention_diagonal: Tensor,
    *,
    alpha: float = 0.2,
    recursion: str = "full",
    tokens: str = "mean_log",
    over: str = "max",
    layers: str = "middle",
) -> Tensor:
    """RAUQ as LM-Polygraph computes it: confidence handed on from token to token by one head's attention.

    c_0 = p_0 and c_j = a p_j + (1 - a) w_j c_{j-1}; a layer's score is 1 - mean_j ln c_j (``tokens=mean_log``) or
    1 - (mean_j c_j + min_j c_j) / 2 (``mean_min``), and the answer's is the maximum over the middle third of the layers
    (``over=max``, ``mean``; ``layers=middle``, ``all``). w is that of the head with the largest mean over the answer.
    ``recursion=simple`` hands on p_{j-1} in place of c_{j-1}, the ablation simple_rec of the authors' code. That code
    has ``mean_min`` and ``mean`` as defaults; LM-Polygraph takes ``alpha=0.5`` for instructed models.

    w_j is the entry that both codes take for the attention to the previous token: A[q, q] of the query q that produces
    token j, which is the previous token itself. `rauq_previous` has A[i, i - 1]. Where fewer than four layers are
    recorded, the middle third is cut at the last; of m it is those from floor(m / 3) to ceil(2 m / 3), both included,
    as LM-Polygraph has it: 13 of 32. Range [1, inf) for ``mean_log``; 1 - ln p_0 for one token.

    Raises:
        ValueError: alpha is outside [0, 1], or an option's word is not known.
    """
    return _rauq(logprob, attention_diagonal[..., 1:-1], alpha, recursion, tokens, over, layers)


@metric(higher="uncertain", unit="nat", source="arXiv:2505.20045", variants=[{"query": "producing"}, ICML])
def rauq_previous(
    logprob: Tensor,
    attention_previous: Tensor,
    *,
    query: str = "own",
    alpha: float = 0.2,
    recursion: str = "full",
    tokens: str = "mean_log",
    over: str = "max",
    layers: str = "middle",
) -> Tensor:
    """RAUQ with the attention to the previous token read literally: w_j = A[i, i - 1].

    i is the position of token j itself (``query=own``, what the source writes), or of the token before it, whose state
    produces token j (``query=producing``). All else is as in `rauq`. With ``own``, NaN where the model could not read
    the last token.

    Raises:
        ValueError: alpha is outside [0, 1], or an option's word is not known.
    """
    _one_of("rauq_previous", "query", query, ("own", "producing"))
    weights = attention_previous[..., 2:] if query == "own" else attention_previous[..., 1:-1]
    return _rauq(logprob, weights, alpha, recursion, tokens, over, layers)


@metric(higher="uncertain", unit="nat", source="arXiv:2505.20045", variants=[{"alpha": 0.9}])
def rauq_entropy(
    entropy: Tensor,
    log_vocabulary: Tensor,
    attention_diagonal: Tensor,
    *,
    alpha: float = 0.8,
    recursion: str = "full",
    tokens: str = "mean_log",
    over: str = "max",
    layers: str = "middle",
) -> Tensor:
    """RAUQ with ln V - H_j, how far the entropy is from the largest possible, in place of the probability p_j.

    All else is as in `rauq`; ``alpha=0.9`` is LM-Polygraph's for instructed models. V counts the tokens that the model
    does not rule out; LM-Polygraph takes the whole vocabulary and adds 1e-10. A score may be negative.

    Raises:
        ValueError: alpha is outside [0, 1], or an option's word is not known.
    """
    gap = (log_vocabulary - entropy).clamp(min=0)  # below zero by rounding alone
    return _rauq(gap.log(), attention_diagonal[..., 1:-1], alpha, recursion, tokens, over, layers)


@feature(unit="1", source="arXiv:2407.07071")
def lookback_features(lookback_ratio: Tensor) -> Tensor:
    """Lookback Lens: the mean lookback ratio of each layer and head over the answer's own tokens, layers first.

    The input of the source's logistic regression. The authors' code averages over the steps 1..n-1 that `generate`
    returns; here the last token, which it does not read, counts too.
    """
    return own(lookback_ratio).float().mean(-1).flatten()


@feature(unit="1", source="arXiv:2502.17598")
def laplacian_features(laplacian_eigenvalues: Tensor) -> Tensor:
    """LapEigvals: the ten largest Laplacian eigenvalues of each layer and head, layers first, then heads.

    They describe prompt and whole generation, whatever span is scored. The source projects them on 512 principal
    components before its logistic regression.
    """
    return laplacian_eigenvalues.flatten()


def _rauq(logs: Tensor, weights: Tensor, alpha: float, recursion: str, tokens: str, over: str, layers: str) -> Tensor:
    """RAUQ of token confidences exp(logs) (n,) and weights (layer, head, n - 1) between neighbours."""
    if not 0 <= alpha <= 1:
        raise ValueError(f"rauq: alpha={alpha} is outside [0, 1]")
    _one_of("rauq", "recursion", recursion, ("full", "simple"))
    _one_of("rauq", "tokens", tokens, ("mean_log", "mean_min"))
    _one_of("rauq", "over", over, ("max", "mean"))
    _one_of("rauq", "layers", layers, ("middle", "all"))
    chosen = (middle(weights) if layers == "middle" else weights).double()
    head = chosen.mean(-1).argmax(-1)
    handed = chosen[torch.arange(len(chosen)), head].log() + _log(1 - alpha)
    log_confidence = _recursion(logs.double(), handed, alpha, recursion)
    if tokens == "mean_log":
        scores = 1 - log_confidence.mean(-1)
    else:
        confidence = log_confidence.exp()
        scores = 1 - (confidence.mean(-1) + confidence.amin(-1)) / 2
    return scores.amax() if over == "max" else scores.mean()


def _recursion(logs: Tensor, handed: Tensor, alpha: float, recursion: str) -> Tensor:
    """Logarithms of c_j of every layer, from ln p_j (n,) and ln of what is handed on (layer, n - 1).

    c_j = b_j + g_j c_{j-1} is solved at once: with G_j = sum_{i <= j} ln g_i, ln c_j = G_j + ln sum_{i <= j}
    exp(ln b_i - G_i).
    """
    layers = len(handed)
    first = logs[:1].expand(layers, 1)
    new = (logs[1:] + _log(alpha)).expand(layers, -1)
    if recursion == "simple":
        return torch.cat([first, torch.logaddexp(new, handed + logs[:-1])], -1)
    product = torch.cat([torch.zeros_like(first), handed.clamp(min=FLOOR).cumsum(-1)], -1)
    found = product + (torch.cat([first, new], -1) - product).logcumsumexp(-1)
    return found.masked_fill(found < FLOOR / 2, -math.inf)


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def _answer(values: Tensor, token_count: Tensor) -> Tensor:
    """The scored tokens' entries of an axis over keys, without a last token that was not read."""
    keys = values.shape[-1]
    return read(values[..., keys - int(token_count) :])


def _one_of(name: str, option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name}: {option}='{value}' is not known; choose {' or '.join(known)}")
