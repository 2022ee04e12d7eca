"""Attention flow: the maximum flow through the layers of a text, from its last position to each token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_flow
from torch import Tensor

SCALE = 1 << 30
"""Capacities are counted in units of 1 / SCALE, rounded down, since the solver takes 32-bit integers."""


def max_flows(capacities: Sequence[Tensor]) -> Tensor:
    """The maximum flow from the last position after the last layer to each token below the first, ``[token]``.

    Node ``(l, i)`` is position i after layer l, with an edge to ``(l - 1, j)`` of capacity ``A_l[i, j]``. At most 1
    where rows sum to at most one. NaN where a capacity is. Rounding takes at most ``2^-30`` from each edge of a cut.

    Args:
        capacities: of each layer, first layer first, ``[token, token]``, causal.

    Source: Abnar and Zuidema 2020, section 3 (arXiv:2005.00928).
    """
    stacked = torch.stack([c.detach().double().cpu() for c in capacities])
    tokens = stacked.shape[-1]
    if stacked.isnan().any():
        return torch.full((tokens,), torch.nan, device=capacities[0].device)
    whole = (stacked * SCALE).floor().to(torch.int32).numpy()
    flows = [_flow(whole[:, to:, to:]) / SCALE for to in range(tokens)]  # what lies before a token leads not to it
    return torch.tensor(flows, dtype=torch.float32, device=capacities[0].device)


def _flow(capacities: np.ndarray) -> int:
    """From the last position on top to the first at the bottom."""
    depth, tokens, _ = capacities.shape
    layer, query, key = np.nonzero(capacities)
    ends = (layer + 1) * tokens + query, layer * tokens + key
    nodes = (depth + 1) * tokens
    graph = csr_array((capacities[layer, query, key], ends), shape=(nodes, nodes))
    return int(maximum_flow(graph, nodes - 1, 0).flow_value)
