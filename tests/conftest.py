"""What several test modules share: the whole chain from logits to signals, and slow references in float64."""

import numpy as np
import pytest
import torch

from metrics.core import signals
from metrics.plan import derive, make_plan


@pytest.fixture(scope="session")
def chain():
    """A function (logits, tokens) -> every signal that is derived from logits."""
    known = signals()
    order = [name for name in make_plan((), "all").compute if known[name].cost == "logits"]

    def run(logits, tokens=None):
        logits = torch.as_tensor(logits)
        logits = logits if logits.is_floating_point() else logits.float()
        tokens = torch.zeros(logits.shape[:-1], dtype=torch.long) if tokens is None else torch.as_tensor(tokens)
        return derive(order, {"logits": logits, "tokens": tokens})

    return run


@pytest.fixture(scope="session")
def log_softmax64():
    """Log-softmax in float64 NumPy, rows of minus infinity allowed to be partial."""

    def run(logits):
        z = np.asarray(logits, dtype=np.float64)
        z = z - z.max(-1, keepdims=True)
        return z - np.log(np.exp(z).sum(-1, keepdims=True))

    return run
