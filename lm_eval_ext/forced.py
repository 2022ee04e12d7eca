"""The teacher-forced pass over prompts and answers that the evaluation has ended with: hidden states and attention.

Everything here knows about batches and padding; what leaves here does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lm_eval_ext.capture import logit_signals
from lm_eval_ext.taps import attention_taps, residual_taps
from metrics.plan import Plan, derive


def teacher_forced(
    model: PreTrainedModel,
    sequences: Sequence[tuple[Sequence[int], Sequence[int]]],
    plan: Plan,
    layers: Sequence[int],
    *,
    logits: bool,
    raw_dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> list[dict[str, Tensor]]:
    """One pass over prompts and continuations; the signals of each, unpadded, on the CPU.

    A continuation that ends one token beyond the model's positions, as a scored one may, is read without that token;
    the step after it is then NaN.

    Args:
        model: a causal decoder.
        sequences: pairs (prompt ids, continuation ids), each of at least one token.
        plan: what to keep.
        layers: layers of the residual stream and of attention to look at.
        logits: whether to compute the signals of the logits too.
        raw_dtype: precision of raw tensors kept whole.
        device: where the input goes.
    """
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    read = [len(p) + len(c) - (len(p) + len(c) - 1 == most) for p, c in sequences]
    ids = torch.zeros((len(sequences), max(read)), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, (n, (prompt, continuation)) in enumerate(zip(read, sequences)):
        ids[row, :n] = torch.tensor([*prompt, *continuation][:n])
        mask[row, :n] = 1
    states: dict[int, list[Tensor]] = {}
    weights: dict[int, list[dict[str, Tensor]]] = {}

    def take_state(layer: int, state: Tensor) -> None:
        whole = enumerate(zip(read, sequences))
        states[layer] = [_steps(state[r, len(p) - 1 : n], 0, c).clone() for r, (n, (p, c)) in whole]

    def take_weights(layer: int, weight: Tensor) -> None:
        weights[layer] = []
        for r, (n, (p, c)) in enumerate(zip(read, sequences)):
            seen = nn.functional.pad(weight[r, :, len(p) - 1 : n, :n], (0, len(p) + len(c) - n))
            weights[layer].append(_attention_signals(plan, _steps(seen, 1, c), raw_dtype))

    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        if "hidden" in plan.capture:
            stack.enter_context(residual_taps(model, layers, take_state))
        if "attention" in plan.capture:
            stack.enter_context(attention_taps(model, layers, take_weights))
        inner = model if logits else model.base_model  # without the head, where no logits are wanted
        out = inner(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False)
    found = []
    for row, (prompt, continuation) in enumerate(sequences):
        made: dict[str, Tensor] = {}
        if logits:
            rows = out.logits[row, len(prompt) - 1 : len(prompt) + len(continuation) - 1]
            made.update(logit_signals(plan, rows, torch.tensor(continuation, device=rows.device), raw_dtype))
        if states:
            made.update(_hidden_signals(plan, torch.stack([states[k][row] for k in sorted(states)]), raw_dtype))
        if weights:
            per_layer = [weights[k][row] for k in sorted(weights)]
            made.update({name: torch.cat([w[name] for w in per_layer]) for name in per_layer[0]})
        found.append({name: value.cpu() for name, value in made.items()})
    return found


def _steps(value: Tensor, dim: int, continuation: Sequence[int]) -> Tensor:
    """One step more than tokens: NaN where the last was not read."""
    missing = len(continuation) + 1 - value.shape[dim]
    shape = [missing if i == dim else size for i, size in enumerate(value.shape)]
    return torch.cat([value, value.new_full(shape, torch.nan)], dim) if missing else value


def _hidden_signals(plan: Plan, hidden: Tensor, raw_dtype: torch.dtype | None) -> dict[str, Tensor]:
    return _keep(plan, "hidden", hidden, raw_dtype)


def _attention_signals(plan: Plan, weight: Tensor, raw_dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Signals of one layer's weights ``[head, step, key]``, each with a leading axis of one layer."""
    return _keep(plan, "attention", weight.unsqueeze(0), raw_dtype)


def _keep(plan: Plan, raw: str, value: Tensor, raw_dtype: torch.dtype | None) -> dict[str, Tensor]:
    made: Mapping[str, Tensor] = derive(plan.stage(raw), {raw: value})  # type: ignore[arg-type]
    kept = {name: made[name] for name in plan.keep if name in made}
    if raw in plan.keep:
        kept[raw] = value.to(raw_dtype or value.dtype, copy=True)  # not a view of the whole batch
    return kept
