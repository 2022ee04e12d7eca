"""What the residual stream says: its way through the layers, and how its states spread.

Signals without an axis of tokens describe the whole generation, whatever span is scored. `layer` counts recorded
layers, and says which: ``all``, an index, or a depth such as ``0.5``, the middle one.
"""

import math

import torch
from torch import Tensor

from metrics.core import metric
from metrics.uncertainty.recorded import after_first, at_layer, own

WORST = 10
"""GLU: how many of the most uncertain tokens count, and how many of the largest logits of each."""


@metric(higher="confident", unit="1", source="arXiv:2410.13640")
def coe_r(hidden_mean: Tensor) -> Tensor:
    """Chain-of-Embedding, real form: mean relative length of the steps between layers less mean relative angle.

    With h_l the mean state of the generation's tokens at layer l: (1/L) sum_l [||h_{l+1} - h_l|| / ||h_L - h_0|| -
    angle(h_{l+1}, h_l) / angle(h_L, h_0)], over the recorded layers. NaN where first and last state agree, and with a
    single layer. The last state is the one before the final norm; the authors' code has the one behind it.
    """
    lengths, angles = _steps(hidden_mean)
    return lengths.mean() - angles.mean()


@metric(higher="confident", unit="1", source="arXiv:2410.13640")
def coe_c(hidden_mean: Tensor) -> Tensor:
    """Chain-of-Embedding, complex form: |(1/L) sum_l M_l e^{i A_l}| with the relative lengths and angles of `coe_r`.

    Range [0, inf).
    """
    return _complex(hidden_mean)


@metric(higher="confident", unit="1", source="https://github.com/Alsace08/Chain-of-Embedding")
def coe_r_official(hidden_mean_official: Tensor) -> Tensor:
    """`coe_r` of the mean states that the authors' code takes, with the text's first position and not the last token.

    See `hidden_mean_official`. Where the first position is a sink with a very large state, that state rules the score.
    """
    lengths, angles = _steps(hidden_mean_official)
    return lengths.mean() - angles.mean()


@metric(higher="confident", unit="1", source="https://github.com/Alsace08/Chain-of-Embedding")
def coe_c_official(hidden_mean_official: Tensor) -> Tensor:
    """`coe_c` of the mean states that the authors' code takes; see `coe_r_official`."""
    return _complex(hidden_mean_official)


@metric(higher="confident", unit="1", source="arXiv:2410.13640")
def path_ratio(hidden_mean: Tensor) -> Tensor:
    """Length of the mean state's way through the layers over its net displacement. Range [1, inf).

    sum_l ||h_{l+1} - h_l|| / ||h_L - h_0||, L times the first part of `coe_r`.
    """
    lengths, _ = _steps(hidden_mean)
    return len(lengths) * lengths.mean()  # NaN of no step


@metric(higher="neutral", unit="1", source="folklore")
def path_length(hidden_change: Tensor) -> Tensor:
    """Mean over the answer's tokens of the way their states go: sum over layers of the norm of what each layer adds.

    Over the recorded layers; layer 0 adds nothing.
    """
    added = own(after_first(hidden_change)).mean(-1)
    return added.sum() if len(added) else added.new_tensor(math.nan)


@metric(higher="neutral", unit="1", source="folklore", variants=[{"layer": "-1"}])
def layer_cosine(hidden_cosine: Tensor, *, layer: str = "all") -> Tensor:
    """Mean cosine between each layer's state and the one it read, over the answer's tokens and layers. Range [-1, 1].

    Layer 0 has no layer before it and takes no part.

    Raises:
        ValueError: `layer` names no recorded layer.
    """
    return own(at_layer(after_first(hidden_cosine), layer)).mean()


@metric(higher="neutral", unit="1", source="folklore", variants=[{"layer": "-1"}])
def state_norm(hidden_norm: Tensor, *, layer: str = "all") -> Tensor:
    """Mean norm of the answer's tokens' states, over tokens and layers.

    Raises:
        ValueError: `layer` names no recorded layer.
    """
    return own(at_layer(hidden_norm, layer)).mean()


@metric(
    higher="uncertain",
    unit="nat",
    source="https://openreview.net/forum?id=LYx4w3CAgy",
    variants=[{"layer": "all"}],
)
def llm_check_hidden(hidden_log_determinant: Tensor, *, layer: str = "0.5") -> Tensor:
    """LLM-Check's hidden score: mean log-eigenvalue of the Gram matrix of a generation's centred states, one layer.

    It falls and rises with the number of tokens, see `hidden_log_determinant`; compare it with `answer_length`. The
    source recommends a middle layer; ``all`` is the mean over layers.

    Raises:
        ValueError: `layer` names no recorded layer.
    """
    return at_layer(hidden_log_determinant, layer).mean()


@metric(higher="neutral", unit="nat", source="arXiv:2502.02013", variants=[{"layer": "0.5"}])
def matrix_entropy(hidden_matrix_entropy: Tensor, *, layer: str = "all") -> Tensor:
    """Von Neumann entropy of the generation's states, mean over layers: on how many directions they spread.

    At most ln of the number of tokens, so it grows with length. The source relates it to layers, not to errors.

    Raises:
        ValueError: `layer` names no recorded layer.
    """
    return at_layer(hidden_matrix_entropy, layer).mean()


@metric(higher="confident", unit="1", source="arXiv:2606.09875")
def glu(hidden_renyi_entropy: Tensor, top_logprobs: Tensor, log_normalizer: Tensor) -> Tensor:
    """GLU, global-local uncertainty: (1 + S) times the mean of the ten most uncertain tokens' scaled entropies s_t.

    S is the mean over layers of `hidden_renyi_entropy`. s_t = -10 H_t / (1 + sum_i max(z_ti, 0)), over the ten largest
    logits z_t, H_t the entropy in bits of their softmax. Range (-inf, 0]; more negative is more uncertain. Logits that
    differ by a constant have the same probabilities but another score. Fewer than ten tokens all count.
    """
    logits = top_logprobs[:, :WORST] + log_normalizer.unsqueeze(-1)
    bits = torch.special.entr(logits.softmax(-1)).sum(-1) / math.log(2)
    scaled = WORST * bits / (logits.relu().sum(-1) + 1)
    worst = scaled.sort(descending=True).values[:WORST].mean()
    return -(1 + hidden_renyi_entropy.mean()) * worst


def _steps(means: Tensor) -> tuple[Tensor, Tensor]:
    """Lengths of the steps between successive layers and the angles they span, relative to those from first to last."""
    h = means.double()
    net = (h[-1] - h[0]).norm()
    lengths = h.diff(dim=0).norm(dim=-1) / net.where(net > 0, math.nan)
    return lengths, _angle(h[1:], h[:-1]) / _angle(h[-1], h[0])


def _complex(means: Tensor) -> Tensor:
    return torch.polar(*_steps(means)).mean().abs()


def _angle(a: Tensor, b: Tensor) -> Tensor:
    """Angle between vectors in [0, pi], exact also where it is small, unlike the arccos of the cosine."""
    a, b = a / a.norm(dim=-1, keepdim=True), b / b.norm(dim=-1, keepdim=True)
    return 2 * torch.atan2((a - b).norm(dim=-1), (a + b).norm(dim=-1))
