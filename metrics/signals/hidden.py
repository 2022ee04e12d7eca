"""What is kept of the residual stream."""

from torch import Tensor

from metrics.core import signal


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
    states = hidden[:, 1:].float()
    unread = states.shape[1] > 0 and bool(states[:, -1].isnan().all())
    return states[:, : states.shape[1] - unread].mean(1)
