"""Random rows of logits, tokens, and logits of given distributions."""

import torch

SIZES = [1, 2, 3, 19, 20, 21, 199, 200, 201, 1000]
"""Vocabularies about the widths at which ways of computing change."""


def random_logits(n, vocab, scale=3.0, seed=0):
    return torch.randn(n, vocab, generator=torch.Generator().manual_seed(seed)) * scale


def random_tokens(n, vocab, seed=0):
    return torch.randint(0, vocab, (n,), generator=torch.Generator().manual_seed(seed))


def of(probabilities):
    """Logits of a distribution, moved by a constant that must not matter; 0 becomes -inf."""
    return (torch.tensor(probabilities, dtype=torch.float64).log() + 5.25).float()
