"""Token influences out of a model: every block's attention, states and values, folded while a batch is being read.

The mathematics is in `metrics.influence`; here is where its parts come from. All blocks are looked at, whatever layers
are recorded, and the maps of one block at a time are alive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lm_eval_ext.arch import attentions, blocks
from lm_eval_ext.padded import Batch
from lm_eval_ext.taps import attention_taps, residual_taps
from lm_eval_ext.values import Carried, ValueTaps
from metrics.influence import Block, Fold, lens_change, needs, value_norms
from metrics.recipes import FLOW_TOKENS, POSITIONS, RECIPES


def influence_names(kept: Iterable[str]) -> tuple[str, ...]:
    """Those of the kept signals that are influences folded in a forward pass."""
    return tuple(name for name in kept if name in RECIPES)


class Influences:
    """The influences of the texts of one batch, folded block by block while the batch is being read, whole.

    Args:
        model: the decoder.
        names: which influences; with none, nothing is looked at.
        batch: the texts.
        whole: whether they are read in one piece; if not, all is NaN.
    """

    def __init__(self, model: PreTrainedModel, names: Sequence[str], batch: Batch, whole: bool) -> None:
        self._model, self._names = model, names
        self._all = batch.continuations() if names else {}
        self._spans = {row: (a, b) for row, (a, b) in self._all.items() if whole and a < b <= POSITIONS}
        self._folds = {row: Fold(names) for row in self._spans}
        self._modules = attentions(model) if self._spans else []
        self._values = ValueTaps(self._modules) if needs(names, "norms") else None
        self._output: Tensor | None = None
        self._last: dict[int, list[Tensor]] = {row: [] for row in self._spans}
        self._heads: dict[int, tuple[Tensor, Tensor, Tensor | None]] = {}
        self.notes: dict[str, str] = {}
        """What the user has to know of NaN: one line for each reason."""
        if any(end > POSITIONS for _, end in self._all.values()):
            self.notes["long"] = f"influences of texts of more than {POSITIONS} tokens, prompt included, are NaN"
        elif self._all and not whole:
            self.notes["pieces"] = "influences of texts that are read in pieces are NaN"
        if needs(names, "flow") and any(b - a > FLOW_TOKENS for a, b in self._spans.values()):
            self.notes["flow"] = f"attention_flow of answers of more than {FLOW_TOKENS} tokens is NaN"

    @contextmanager
    def taps(self) -> Iterator[None]:
        """Hooks on every block and its attention, which is eager meanwhile."""
        layers = range(1, len(blocks(self._model)) + 1)
        with ExitStack() as stack:
            if self._spans:
                if self._values is not None:
                    stack.enter_context(self._values.taps())
                for module in self._modules:
                    stack.callback(module.register_forward_hook(self._hold_output).remove)
                stack.enter_context(attention_taps(self._model, layers, self._take_weights))
                stack.enter_context(residual_taps(self._model, layers, self._take_state))
            yield

    def results(self, look: Callable[[Tensor], Tensor] | None = None) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """The influences of each text, one weight for each token of the continuation that was read.

        Args:
            look: the lens, ``[row, dim] -> [row, vocab]``, where an influence is weighted by it. Called outside `taps`,
                with the states of a text's last position after each layer.
        """
        for row, (begin, end) in self._all.items():
            if row in self._folds:
                change = None
                if look is not None and needs(self._names, "lens"):
                    seen = look(torch.stack(self._last.pop(row)))
                    change = lens_change(seen[:-1], seen[1:])
                made = self._folds[row].result(change)
            else:
                made = dict.fromkeys(self._names, torch.full((end - begin,), torch.nan))
            yield row, made

    def _hold_output(self, _module: nn.Module, _args: Any, output: Any) -> None:
        self._output = output[0] if isinstance(output, (tuple, list)) else output

    def _take_weights(self, layer: int, weight: Tensor) -> None:
        """Reduce the heads of a block's attention, so that its maps do not outlive it."""
        assert self._output is not None
        with torch.autocast(weight.device.type, enabled=False):
            carried = self._carried(layer, weight, self._output)
            for row, (begin, end) in self._spans.items():
                maps = weight[row, :, begin:end, :end].float()
                self._heads[row] = maps.mean(0), maps.amax(0), self._norms(row, maps, carried)

    def _carried(self, layer: int, weight: Tensor, output: Tensor) -> Carried | None:
        """Values and projection, where they are wanted and lead from the last attention of each text to its output."""
        if self._values is None:
            return None
        found = self._values.carried(layer, output)
        if found is not None and all(
            found.leads_to(weight[row, :, end - 1, :end].float(), output[row, end - 1], row)
            for row, (_, end) in self._spans.items()
        ):
            return found
        names = ", ".join(name for name in self._names if needs([name], "norms"))
        kind = type(self._modules[layer - 1]).__name__
        self.notes["values"] = f"{names}: NaN, since the values that {kind} carries over cannot be found"
        return None

    def _norms(self, row: int, maps: Tensor, carried: Carried | None) -> Tensor | None:
        if self._values is None:
            return None
        if carried is None:
            return torch.full_like(maps[0], torch.nan)
        return value_norms(maps, carried.values[row, :, : maps.shape[-1]], carried.projection)

    def _take_state(self, _layer: int, state: Tensor, before: Tensor | None) -> None:
        """Join a block whose heads have been reduced."""
        assert before is not None and self._output is not None
        home = self._model.device  # where blocks are joined, though the model's own may be spread over several
        with torch.autocast(state.device.type, enabled=False):
            for row, (begin, end) in self._spans.items():
                if needs(self._names, "lens"):
                    states = (state,) if self._last[row] else (before, state)
                    self._last[row] += [part[row, end - 1].to(home, copy=True) for part in states]
                mean, greatest, norms = self._heads.pop(row)
                x, a, after = (part[row, begin:end].float().to(home) for part in (before, self._output, state))
                norms = None if norms is None else norms.to(home)
                self._folds[row].add(Block(mean.to(home), greatest.to(home), norms, x, a, after))
