"""Where the raw tensors come from: taps on the passes that are made anyway, and one teacher-forced pass for the rest.

Everything here knows about batches and padding; what leaves here does not. Hooks live inside a `with`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lm_eval_ext.arch import attentions, blocks, eager_attention
from metrics.core import signals
from metrics.plan import Plan, derive

CACHE_BYTES, BLOCK_BYTES = 4 << 20, 64 << 20
"""Logits are reduced in blocks: on a CPU of a size that stays in its cache, elsewhere larger."""


def logit_signals(
    plan: Plan, logits: Tensor, tokens: Tensor, raw_dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """The kept signals of the logits for a stack of tokens, on the logits' device.

    Args:
        plan: what to keep.
        logits: ``[token, vocab]``, the rows that produced the tokens.
        tokens: ``[token]``.
        raw_dtype: precision in which ``raw=logits`` is kept; the model's own by default.
    """
    with torch.autocast(logits.device.type, enabled=False):
        return _reduce(plan, logits, tokens, raw_dtype)


def _reduce(plan: Plan, logits: Tensor, tokens: Tensor, raw_dtype: torch.dtype | None) -> dict[str, Tensor]:
    stage = plan.stage("logits")
    rows = max(1, (CACHE_BYTES if logits.is_cpu else BLOCK_BYTES) // (4 * logits.shape[-1]))
    parts: list[dict[str, Tensor]] = []
    for block, ids in zip(logits.split(rows), tokens.split(rows)):
        made = derive(stage, {"logits": block, "tokens": ids})
        kept = {name: made[name] for name in plan.keep if name in made}
        if "logits" in plan.keep:
            kept["logits"] = block.to(raw_dtype or block.dtype)
        parts.append(kept)
    return {name: torch.cat([p[name] for p in parts]) for name in parts[0]} if parts else {}


class GenerationTap:
    """Reduces each step's logits while `generate` runs, one step late, when the token they produced is known.

    At any time the logits of one step are alive. Use as a context manager around `generate`, then call `signals`.
    """

    def __init__(self, model: nn.Module, plan: Plan, raw_dtype: torch.dtype | None = None) -> None:
        self._model = model
        self._plan = plan
        self._raw_dtype = raw_dtype
        self._waiting: Tensor | None = None
        self._steps: list[dict[str, Tensor]] = []
        self._tokens: list[Tensor] = []
        self._handle: Any = None
        self._broken = False

    def __enter__(self) -> GenerationTap:
        inner = getattr(self._model, "get_base_model", lambda: self._model)()  # a peft adapter's model
        generating = getattr(inner.generate, "__self__", inner)  # what torch.compile has wrapped
        self._handle = generating.register_forward_hook(self._after_forward, with_kwargs=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    def _after_forward(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if self._broken:
            return
        try:
            self._step(kwargs.get("input_ids", args[0] if args else None), output)
        except RuntimeError:  # no memory left, say: the pass afterwards serves, or says why it cannot
            self._broken, self._waiting, self._steps = True, None, []

    def _step(self, ids: Tensor | None, output: Any) -> None:
        if self._waiting is not None and ids is not None and len(ids) == len(self._waiting):
            self._reduce(ids[:, -1])
        last = output.logits[:, -1]
        self._waiting = last.clone() if output.logits.shape[1] > 1 else last  # not a view of the whole prompt's

    def _reduce(self, tokens: Tensor) -> None:
        assert self._waiting is not None
        self._tokens.append(tokens)
        with torch.no_grad():
            self._steps.append(
                logit_signals(self._plan, self._waiting, tokens.to(self._waiting.device), self._raw_dtype)
            )

    def signals(self, generated: Tensor) -> dict[str, Tensor] | None:
        """The signals ``[batch, token, ...]`` on the CPU; None when the steps do not match the tokens.

        They do not under beam search or assisted decoding, where rows change places; then a teacher-forced pass serves.

        Args:
            generated: ``[batch, token]``, the new tokens that `generate` returned.
        """
        if self._waiting is None or len(self._waiting) != len(generated):
            return None
        if len(self._steps) == generated.shape[1] - 1:
            self._reduce(generated[:, -1])
        self._waiting = None
        if len(self._steps) != generated.shape[1] or not torch.equal(torch.stack(self._tokens, 1), generated):
            return None
        return {name: torch.stack([s[name] for s in self._steps], 1).cpu() for name in self._steps[0]}


@contextmanager
def residual_taps(model: PreTrainedModel, layers: Sequence[int], take: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Call `take(layer, state)` with the residual stream ``[batch, position, dim]`` after each chosen layer."""
    inner = blocks(model)
    with ExitStack() as stack:
        for layer in layers:
            if layer == 0:

                def before(_m: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                    take(0, args[0] if args else kwargs["hidden_states"])

                handle = inner[0].register_forward_pre_hook(before, with_kwargs=True)
            else:

                def after(_m: nn.Module, _args: Any, output: Any, layer: int = layer) -> None:
                    take(layer, output[0] if isinstance(output, tuple) else output)

                handle = inner[layer - 1].register_forward_hook(after)
            stack.callback(handle.remove)
        yield


@contextmanager
def attention_taps(
    model: PreTrainedModel, layers: Sequence[int], take: Callable[[int, Tensor], None]
) -> Iterator[None]:
    """Call `take(layer, weights)` with ``[batch, head, query, key]`` of each chosen block, attention made eager."""
    inner = attentions(model)
    with ExitStack() as stack:
        stack.enter_context(eager_attention(model))
        for layer in layers:
            if layer > 0:

                def after(module: nn.Module, _args: Any, output: Any, layer: int = layer) -> None:
                    weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
                    if weights is None:
                        raise ValueError(
                            f"{type(module).__name__} of layer {layer} returned no attention weights; "
                            "leave out metrics and signals that need attention"
                        )
                    take(layer, weights)

                stack.callback(inner[layer - 1].register_forward_hook(after).remove)
        yield


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


def describe(plan: Plan) -> dict[str, dict[str, Any]]:
    """Axes, unit, type and meaning of every kept signal, for the manifest."""
    known = signals()
    return {
        name: {
            "axes": list(known[name].axes),
            "unit": known[name].unit,
            "dtype": known[name].dtype,
            "cost": known[name].cost,
            "summary": known[name].summary,
        }
        for name in plan.keep
    }
