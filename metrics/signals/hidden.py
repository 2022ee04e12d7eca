"""What is kept of the residual stream."""

from torch import Tensor

from metrics.core import signal


@signal(axes=("layer", "step"), unit="1")
def hidden_norm(hidden: Tensor) -> Tensor:
    """Euclidean norm of the state at each layer and step."""
    return hidden.float().norm(dim=-1)


@signal(axes=("layer", "dim"), unit="1")
def hidden_mean(hidden: Tensor) -> Tensor:
    """Mean state over the continuation's tokens at each layer; the state before the first token is left out."""
    return hidden[:, 1:].float().mean(1)
