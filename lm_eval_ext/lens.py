"""The lens: any layer's state read as logits, on the model's own way from its last block to its output.

That way is not rebuilt here. The model itself is called, with every block passed over and the given states put in the
place of what the blocks return; so whatever it does behind them (final norm, projections, head, soft-caps, scales,
masks, an adapter in the head) is done exactly as it does it, once, and hooks that fetch weights or move tensors run as
ever. Every state is a text of one token to it, so neither masks nor positions grow. `check` compares the result for the
last block's output with the model's own logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lm_eval_ext.arch import blocks, plain
from lm_eval_ext.room import FAULTS, in_parts, out_of_memory
from lm_eval_ext.translators import Translators
from metrics.core import signals
from metrics.plan import Plan, computable, derive

CHUNK = {"cpu": 64 << 20}
"""Bytes of float32 that the logits of a chunk of tokens, of all layers, may take, by type of device."""

LARGE = 512 << 20
"""The same on any other device."""

BLOCK = 2 << 20
"""On a CPU a layer's logits are reduced in blocks of this size, so that what is made of them stays in its cache."""


class Lens:
    """Reads states of any layer as logits; the blocks' weights are not used.

    Args:
        model: a causal decoder, wrapped (peft, torch.compile) or not.
        translators: what is added to the states of a layer beforehand (a tuned lens); nothing by default.
        device: where the model's input goes; the model's own by default.
        autocast: precision in which the evaluation lets the model run.
    """

    def __init__(
        self,
        model: Any,
        translators: Translators | None = None,
        *,
        device: torch.device | str | None = None,
        autocast: torch.dtype | None = None,
    ) -> None:
        self._model = plain(model)
        self._blocks = blocks(self._model)
        self._translators = translators
        self._device = torch.device(device) if device is not None else self._model.device
        self._autocast = autocast
        self._widths = self._returned()

    @property
    def vocab(self) -> int:
        """How many logits a token has, as far as the configuration tells."""
        return self._model.config.get_text_config().vocab_size

    @property
    def last(self) -> int:
        """The last layer, L."""
        return len(self._blocks)

    def logits(self, states: Tensor) -> Tensor:
        """What the model would return if each state were its last block's output: [row, dim] -> [row, vocab]."""
        ids = torch.zeros((len(states), 1), dtype=torch.long, device=self._device)
        mixed = torch.autocast(self._device.type, dtype=self._autocast, enabled=self._autocast is not None)
        with mixed, _passed_over(self._blocks, self._widths, states.unsqueeze(1)):
            made = self._model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
        return made.logits[:, 0]

    def look(self, states: Mapping[int, Tensor]) -> Tensor:
        """Logits ``[layer, token, vocab]`` of states ``[token, dim]`` by layer, in the order given; one large product.

        All take the precision of those given last and go to their device; to the model's, where they were held on a
        CPU because the text was read in pieces.
        """
        *_, goal = states.values()
        device = goal.device if goal.device.type == self._device.type else self._device
        ready = [self._translated(layer, state).to(device, goal.dtype) for layer, state in states.items()]
        return self.logits(torch.cat(ready)).unflatten(0, (len(ready), -1))

    def _translated(self, layer: int, state: Tensor) -> Tensor:
        return state if self._translators is None else self._translators(layer, state)

    @torch.no_grad()
    def _returned(self) -> list[int]:
        """Of each block the length of the tuple that it returns, 0 where it returns a tensor; takes one small pass."""
        widths = [0] * len(self._blocks)
        with ExitStack() as stack:
            for number, block in enumerate(self._blocks):

                def after(_m: nn.Module, _args: Any, output: Any, number: int = number) -> None:
                    widths[number] = len(output) if isinstance(output, (tuple, list)) else 0

                stack.callback(block.register_forward_hook(after).remove)
            ids = torch.zeros((1, 1), dtype=torch.long, device=self._device)
            self._model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
        return widths


@contextmanager
def _passed_over(inner: Iterable[nn.Module], widths: Sequence[int], states: Tensor) -> Iterator[None]:
    """Let every block return `states`, first in a tuple of the width that it returns otherwise."""
    own = [block.__dict__.get("forward") for block in inner]

    def passed_over(width: int) -> Callable[..., Any]:
        return lambda *_, **__: (states, *[None] * (width - 1)) if width else states

    try:
        for block, width in zip(inner, widths):
            block.forward = passed_over(width)
        yield
    finally:
        for block, before in zip(inner, own):
            block.__dict__.pop("forward", None)
            if before is not None:  # that of a hook which fetches weights, say
                block.forward = before


def lens_signals(
    plan: Plan, lens: Lens, layers: Sequence[int], states: Mapping[int, Tensor], tokens: Tensor
) -> dict[str, Tensor]:
    """The kept signals of the lens for a stack of tokens, on the states' device.

    Tokens are taken in chunks whose logits of all layers fit `CHUNK`, at least one token at a time, and fewer after
    each lack of memory; of a chunk the layers are reduced one by one. So beside the states, which are the caller's,
    twice that (or twice the logits of one token at all layers) and some five rows of logits for each token are held.

    Args:
        plan: what to keep.
        lens: what reads the states.
        layers: the layers that are recorded.
        states: by layer, ``[token, dim]`` in the rows that produced the tokens: of `layers`, and of the last layer.
        tokens: ``[token]``.
    """
    kind = states[lens.last].device.type
    most = max(1, CHUNK.get(kind, LARGE) // (4 * lens.vocab * len(states)))

    def look(rows: Sequence[int]) -> dict[str, Tensor]:
        at = slice(rows[0], rows[-1] + 1)
        logits = lens.look({layer: state[at] for layer, state in sorted(states.items())})
        ids = tokens[at].to(logits.device)
        few = max(1, BLOCK // (4 * logits.shape[-1])) if logits.is_cpu else len(ids)
        with torch.autocast(logits.device.type, enabled=False):
            blocks_ = zip(logits.split(few, 1), ids.split(few))
            return _joined([_reduce(plan, block, len(layers), own) for block, own in blocks_])

    return _joined(in_parts(look, range(len(tokens)), most))


def _joined(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Signals of successive tokens, end to end."""
    axes = {name: signals()[name].axes.index("token") for name in parts[0]}
    return {name: torch.cat([part[name] for part in parts], dim) for name, dim in axes.items()}


def _reduce(plan: Plan, logits: Tensor, recorded: int, tokens: Tensor) -> dict[str, Tensor]:
    """The kept signals of the first `recorded` of some layers' logits; the last of all are the last layer's."""
    known = signals()
    of_last: dict[str, Tensor] = {"lens_last_logits": logits[-1], "tokens": tokens}
    of_last |= derive(computable(plan.stage("lens"), of_last), of_last)
    rest = [name for name in plan.stage("lens") if name not in of_last]
    each = [name for name in rest if known[name].axes[0] == "layer"]
    made = {name: of_last[name] for name in plan.keep if name in of_last}
    across = {"lens_logits": logits[:recorded], **of_last}
    found = derive(computable([name for name in rest if name not in each], across), across)
    made |= {name: found[name] for name in plan.keep if name in found}
    by_layer: dict[str, list[Tensor]] = {name: [] for name in plan.keep if name in each}
    for layer in range(recorded):
        found = derive(each, {"lens_logits": logits[layer : layer + 1], **of_last})
        for name, values in by_layer.items():
            values.append(found[name])
    return made | {name: torch.cat(values) for name, values in by_layer.items()}


def check(model: Any, state: Tensor, logits: Tensor, lens: Lens) -> None:
    """Refuse a model whose lens does not read the last block's output as the model does.

    Args:
        model: the model, for its name.
        state: the last block's output over a few tokens, ``[1, position, dim]``.
        logits: what the model returned for them, ``[1, position, vocab]``.
        lens: the lens on the model.

    Raises:
        ValueError: one line that names the model and how far the two are apart.
    """
    name = type(plain(model)).__name__
    remedy = "so nothing of the lens can be recorded; leave out its metrics and signals, and additive_lens"
    try:
        found = lens.logits(state[0])
    except FAULTS as problem:
        if out_of_memory(problem):
            raise
        reason = " ".join(f"{type(problem).__name__}: {problem}".split())
        raise ValueError(f"{name}: its way behind the last block cannot be run alone ({reason}), {remedy}") from None
    own = logits[0].float().to(found.device)
    bound = torch.finfo(logits.dtype).min / 2  # what masks write
    gap = (found.float() - own).masked_fill(own <= bound, 0.0).norm() / own.masked_fill(own <= bound, 0.0).norm()
    if found.shape != own.shape or not gap <= torch.finfo(logits.dtype).eps ** 0.5:
        raise ValueError(
            f"{name}: the lens of the last block's output differs from the model's own logits (by {gap:.1e} of their "
            f"size), {remedy}"
        )
