"""What any uncertainty metric has to beat: lengths, the first token alone, and chance."""

import torch
from torch import Tensor

from metrics.core import metric


@metric(higher="uncertain", unit="token", source="arXiv:2508.08285")
def answer_length(token_count: Tensor) -> Tensor:
    """Number of tokens of the answer. The source shows that it rivals elaborate detectors."""
    return token_count.float()


@metric(higher="uncertain", unit="token", source="folklore")
def prompt_length(prompt_count: Tensor) -> Tensor:
    """Number of tokens of the prompt, after truncation to the context."""
    return prompt_count.float()


@metric(higher="uncertain", unit="nat", source="folklore")
def first_token_entropy(entropy: Tensor) -> Tensor:
    """Entropy of the answer's first token alone."""
    return entropy[0]


@metric(higher="uncertain", unit="1", source="folklore")
def random(record_id: Tensor, *, seed: int = 0) -> Tensor:
    """A uniform number in [0, 1) drawn from the record's key and the seed: what chance achieves on these very items.

    Two rounds of the SplitMix64 finaliser; the same record has the same number in every run.
    """
    mask = (1 << 64) - 1
    x = (int(record_id) ^ (seed * 0x9E3779B97F4A7C15)) & mask
    for _ in range(2):
        x = (x + 0x9E3779B97F4A7C15) & mask
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        x ^= x >> 31
    return torch.tensor((x >> 40) / (1 << 24), dtype=torch.float32)
