"""The logits, reduced where they arise: inside the pass that the evaluation makes anyway."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lm_eval_ext.arch import plain
from lm_eval_ext.room import FAULTS, in_parts
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

    def reduce(rows: Sequence[int]) -> dict[str, Tensor]:
        at = slice(rows[0], rows[-1] + 1)
        made = derive(stage, {"logits": logits[at], "tokens": tokens[at]})
        kept = {name: made[name] for name in plan.keep if name in made}
        if "logits" in plan.keep:
            kept["logits"] = logits[at].to(raw_dtype or logits.dtype)
        return kept

    most = max(1, (CACHE_BYTES if logits.is_cpu else BLOCK_BYTES) // (4 * logits.shape[-1]))
    parts = in_parts(reduce, range(len(logits)), most)
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
        self.problem: Exception | None = None
        """What went wrong in looking at a step; the generation itself goes on."""

    def __enter__(self) -> GenerationTap:
        look: Any = torch.compiler.disable(self._after_forward)  # from outside whatever is compiled
        self._handle = plain(self._model).register_forward_hook(look, with_kwargs=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    def _after_forward(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if self.problem is not None:
            return
        try:
            self._step(kwargs.get("input_ids", args[0] if args else None), output)
        except FAULTS as problem:
            self.problem = problem.with_traceback(None)  # which would hold on to tensors
            self._waiting, self._steps = None, []

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
