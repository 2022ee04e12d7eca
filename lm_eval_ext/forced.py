"""The teacher-forced pass over prompts and answers that the evaluation has ended with: hidden states and attention.

Everything here knows about batches and padding; what leaves here does not. Memory is bounded: hidden states are reduced
layer by layer (for the lens, those that produced tokens are held for all layers), and where the attention maps or the
logits of the whole text would be too large, the text is read in pieces over a key-value cache, so that no square of its
length arises, but for models that compute otherwise in pieces and for influences, which are of whole texts of bounded
length.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lm_eval_ext.arch import eager_differs, plain, positions, reads_in_pieces
from lm_eval_ext.capture import logit_signals
from lm_eval_ext.collected import Collected, Found, to_steps
from lm_eval_ext.influence import Influences, influence_names
from lm_eval_ext.lens import Lens, lens_signals
from lm_eval_ext.padded import Batch, Sequences
from lm_eval_ext.room import in_parts, out_of_memory, release
from lm_eval_ext.taps import attention_taps, residual_taps
from lm_eval_ext.translators import Translators
from metrics.core import Cost, signals
from metrics.influence import matrices, needs
from metrics.plan import Plan, computable, derive
from metrics.recipes import POSITIONS

ROOM = {"cpu": 256 << 20}
"""Bytes that one layer's attention maps, or the logits, may take, by type of device."""

MUCH = 1 << 30
"""The same on any other device."""

FEWEST = 16
"""A piece is never shorter than this many positions."""


class ForcedPass:
    """Reads prompts and answers once more and returns the signals of each, unpadded, on the CPU.

    A continuation that ends one token beyond the model's table of positions, as a scored one may, is read without that
    token; the step after it is then NaN. When memory runs out, the batch is halved, then the piece, and stays so;
    `tell` is called with one line, once.

    Args:
        model: a causal decoder, wrapped (peft, torch.compile) or not.
        plan: what to keep.
        layers: layers of the residual stream and of attention to look at.
        raw_dtype: precision of raw tensors kept whole; the model's own by default.
        device: where the input goes; the model's own by default.
        autocast: precision in which the evaluation lets its passes run (lm-eval's mixed_precision_dtype).
        most: positions that the model can read; as its table of positions says by default, any where it has none.
        tell: takes a line for the user.
        room: bytes that one layer's attention maps, or the logits, may take; by the device by default.
        translators: a tuned lens; none by default.
    """

    def __init__(
        self,
        model: Any,
        plan: Plan,
        layers: Sequence[int],
        *,
        raw_dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        autocast: torch.dtype | None = None,
        most: int | None = None,
        tell: Callable[[str], None] | None = None,
        room: int | None = None,
        translators: Translators | None = None,
    ) -> None:
        self.model: PreTrainedModel = plain(model)
        self.plan = plan
        self.layers = layers
        self.raw_dtype = raw_dtype
        self.device = torch.device(device) if device is not None else self.model.device
        self.room = room or ROOM.get(self.device.type, MUCH)
        self._autocast = autocast
        self._limit = most if most is not None else positions(self.model)
        self._influences = influence_names(plan.keep)
        self._tell = tell
        self._said: set[str] = set()
        self._most: int | None = None
        self._cramped = False
        self._translators = translators

    def __call__(self, sequences: Sequences, *, logits: bool = False) -> Found:
        """The signals of each pair (prompt ids, continuation ids), each of at least one token.

        Args:
            sequences: what to read.
            logits: whether to compute the signals of the logits too.

        Raises:
            RuntimeError: not even the shortest piece of one text fits into memory.
        """
        if not sequences:
            return []
        width = max(len(p) + len(c) for p, c in sequences)
        fits = max(1, self.room // max(1, width * self._row_bytes(width, logits)))
        most = min(len(sequences), fits, self._most or len(sequences))
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            done = in_parts(lambda part: self._shrinking(part, logits), sequences, most, self._halved)
        return [one for part in done for one in part]

    def _halved(self, most: int) -> None:
        self._most = most
        self._say("memory", "memory ran out in the pass for signals; it goes on with smaller batches")

    def _say(self, about: str, line: str) -> None:
        """A line for the user, once for each thing it is about."""
        if self._tell is not None and about not in self._said:
            self._said.add(about)
            self._tell(line)

    def _shrinking(self, sequences: Sequences, logits: bool) -> Found:
        """The passes over some texts; where a single one does not fit, in shorter and shorter pieces."""
        while True:
            width = max(len(p) + len(c) for p, c in sequences)
            before, room, cramped = self._piece(sequences, logits), self.room, self._cramped
            try:
                return self._passes(sequences, logits)
            except (RuntimeError, MemoryError) as problem:
                self.room = min(room, width * self._row_bytes(width, logits)) // 2
                self._cramped = True
                if not out_of_memory(problem) or len(sequences) > 1 or self._piece(sequences, logits) >= before:
                    self.room, self._cramped = room, cramped
                    raise
            release()
            self._say("memory", "memory ran out in the pass for signals; it goes on with pieces of a text")

    def _passes(self, sequences: Sequences, logits: bool) -> Found:
        """One pass where everything fits, or comes from eager attention anyway; else hidden states in one of their own.

        Fused attention reads a whole text without a square of its length, so that pass needs no pieces.
        """
        width = max(len(p) + len(c) for p, c in sequences)
        hidden, attention = not {"hidden", "lens"}.isdisjoint(self.plan.capture), self.plan.maps
        piece = self._piece(sequences, logits)
        apart = attention and eager_differs(self.model)
        if (piece == width or self._eager) and not (apart and (hidden or logits)):
            return self._pass(sequences, hidden, attention, logits, piece)
        found: Found = [{} for _ in sequences]
        if hidden:
            found = self._pass(sequences, True, False, False, width)
        for maps, rows in ((attention, False), (False, logits)) if apart else ((attention, logits),):
            if maps or rows:
                found = [{**a, **b} for a, b in zip(found, self._pass(sequences, False, maps, rows, piece))]
        return found

    def _piece(self, sequences: Sequences, logits: bool) -> int:
        """How many positions are read at a time: all of the longest text where that fits, or has to.

        Influences come from whole texts alone, so a text that may have them is only cut once memory has run out.
        """
        width = max(len(p) + len(c) for p, c in sequences)
        row = self._row_bytes(width, logits) * len(sequences)
        whole = bool(self._influences) and width <= POSITIONS and not self._cramped
        if row == 0 or width * row <= self.room or whole or not reads_in_pieces(self.model, width):
            return width
        return min(width, max(FEWEST, self.room // row))

    def _row_bytes(self, width: int, logits: bool) -> int:
        """What one position costs: a row of every head's map, as scores and as weights, or a row of logits.

        With influences, also a row of each matrix that they fold.
        """
        config = self.model.config.get_text_config()
        maps = self.plan.maps or self._eager
        heads = (getattr(config, "num_attention_heads", None) or 0) if maps else 0
        folded = 4 * matrices(self._influences) * width
        return max(8 * heads * width + folded, 8 * config.vocab_size if logits else 0)

    @property
    def _eager(self) -> bool:
        return self.model.config._attn_implementation in (None, "eager")

    def _pass(self, sequences: Sequences, hidden: bool, attention: bool, logits: bool, piece: int) -> Found:
        batch = Batch(sequences, self._limit)
        found = Collected(sequences, in_pieces=piece < batch.width)
        facts = [_facts(prompt, continuation) for prompt, continuation in sequences]

        def take_logits(made: Tensor) -> None:
            for row, begin, end in batch.steps():
                prompt, continuation = sequences[row]
                ids = torch.tensor(continuation[begin - len(prompt) + 1 : end - len(prompt) + 1], device=made.device)
                rows = made[row, begin - batch.start :][: len(ids)]
                found.add(row, logit_signals(self.plan, rows, ids, self.raw_dtype))

        with ExitStack() as stack:
            if hidden:
                take_state = self._plain(functools.partial(self._take_state, batch, found, facts))
                stack.enter_context(residual_taps(self.model, self._tapped, take_state))
            if attention:
                take_weights = self._plain(functools.partial(self._take_weights, batch, found, facts))
                stack.enter_context(attention_taps(self.model, self.layers, take_weights))
            influences = Influences(self.model, self._influences if attention else (), batch, piece >= batch.width)
            stack.enter_context(influences.taps())
            inner = self.model if logits else self.model.base_model  # without the head, where no logits are wanted
            for output in batch.read(self._mixed(inner), self.device, piece):
                if logits:
                    take_logits(output.logits)
        for row, made in influences.results(self._lens.logits if needs(self._influences, "lens") else None):
            missing = len(facts[row]["tokens"]) - len(next(iter(made.values())))
            found.add(row, {n: nn.functional.pad(value, (0, missing), value=torch.nan) for n, value in made.items()})
        for about, line in influences.notes.items():
            self._say(about, line)
        if hidden and self._sees:
            self._look(found, facts)
        return found.whole()

    @functools.cached_property
    def _lens(self) -> Lens:
        return Lens(self.model, self._translators, device=self.device, autocast=self._autocast)

    @property
    def _sees(self) -> bool:
        """Whether states are read as logits."""
        return "lens" in self.plan.capture

    @property
    def _tapped(self) -> Sequence[int]:
        """The layers whose states are taken: for the lens the last one too, whatever is recorded."""
        return sorted({*self.layers, self._lens.last}) if self._sees else self.layers

    def _look(self, found: Collected, facts: Sequence[Facts]) -> None:
        """Read the states in the rows that produced tokens, of all texts and layers together."""
        counts = [len(fact["tokens"]) for fact in facts]
        states = {}
        for layer in self._tapped:
            whole = dict(found.held("lens", layer))
            states[layer] = torch.cat([whole[row][:n] for row, n in enumerate(counts)])
        tokens = torch.cat([fact["tokens"] for fact in facts])
        made = lens_signals(self.plan, self._lens, self.layers, states, tokens)
        for name, value in made.items():
            for row, part in enumerate(value.split(counts, signals()[name].axes.index("token"))):
                found.add(row, {name: part})

    def _mixed(self, module: Callable[..., Any]) -> Callable[..., Any]:
        """A module run in the precision in which the evaluation lets its passes run."""
        mixed = torch.autocast(self.device.type, dtype=self._autocast, enabled=self._autocast is not None)

        def run(**inputs: Any) -> Any:
            with mixed:
                return module(**inputs)

        return run

    def _plain(self, take: Callable[..., None]) -> Callable[..., None]:
        """What is done with tensors inside such a run, in their own precision."""

        def plainly(*args: Any) -> None:
            with torch.autocast(self.device.type, enabled=False):
                take(*args)

        return plainly

    def _take_state(
        self, batch: Batch, found: Collected, facts: Sequence[Facts], layer: int, state: Tensor, before: Tensor | None
    ) -> None:
        """Hold a layer's states until its last piece, then reduce them; for the lens until all layers are read."""
        if self._sees:
            for row, begin, end in batch.steps():
                found.hold("lens", layer, row, state[row, begin - batch.start : end - batch.start].clone())
        if layer not in self.layers:
            return
        wanted = {"hidden": state}
        if self._needs("hidden_before"):
            wanted["hidden_before"] = torch.full_like(state, torch.nan) if before is None else before
        if batch.start == 0:
            for row in range(len(state)):
                found.hold("hidden_start", layer, row, state[row, 0].clone())
        for row, begin, end in batch.steps():
            for name, value in wanted.items():
                found.hold(name, layer, row, value[row, begin - batch.start : end - batch.start])
        if batch.ended:
            start = dict(found.held("hidden_start", layer))
            before_of = dict(found.held("hidden_before", layer))
            for row, whole in found.held("hidden", layer):
                tokens = len(facts[row]["tokens"])
                raw = {"hidden": to_steps(whole, 0, tokens), "hidden_start": start[row]}
                if row in before_of:
                    raw["hidden_before"] = to_steps(before_of[row], 0, tokens)
                found.add(row, self._keep("hidden", raw, facts[row]), layer)

    def _take_weights(self, batch: Batch, found: Collected, facts: Sequence[Facts], layer: int, weight: Tensor) -> None:
        """Reduce a layer's attention: what is of the steps at once, what sums over columns behind its last piece."""
        if missing := batch.stop - weight.shape[-1]:
            weight = nn.functional.pad(weight, (missing, 0))  # what a cache forgot has no weight
        for row, begin, end in batch.steps():
            seen = weight[row, :, begin - batch.start : end - batch.start, :end]
            found.add(row, self._keep("attention", {"attention": seen}, facts[row]), layer)
        if not self._needs("attention_columns", "attention_self"):
            return
        for row, begin, end in batch.rows():
            maps = weight[row, :, : end - begin, :end]
            found.sum("attention_columns", layer, row, maps.sum(-2, dtype=torch.float32))
            found.hold("attention_self", layer, row, maps.diagonal(begin, -2, -1).float())
        if batch.ended:
            columns = found.summed("attention_columns", layer)
            for row, own in found.held("attention_self", layer, dim=-1):
                raw = {"attention_columns": columns[row], "attention_self": own.to(columns[row].device)}
                found.add(row, self._keep("attention", raw, facts[row]), layer)

    def _needs(self, *raw: str) -> bool:
        """Whether anything that is computed, or kept, comes from one of these raw signals."""
        known = signals()
        return any(name in self.plan.keep or any(name in known[n].needs for n in self.plan.compute) for name in raw)

    def _keep(self, stage: Cost, raw: Mapping[str, Tensor], facts: Facts) -> dict[str, Tensor]:
        """The kept signals of one layer's raw tensors, which lack the axis of layers."""
        available = {**facts, **{name: value.unsqueeze(0) for name, value in raw.items()}}
        made = derive(computable(self.plan.stage(stage), available), available)
        kept = {name: made[name] for name in self.plan.keep if name in made}
        for name in self.plan.keep:
            if name in raw:
                dtype = self.raw_dtype or raw[name].dtype
                kept[name] = available[name].to(dtype, copy=True)  # not a view of the whole batch
        return kept


Facts = dict[str, Tensor]
"""Signals of a text that are known beforehand."""


def _facts(prompt: Sequence[int], continuation: Sequence[int]) -> Facts:
    return {"prompt_count": torch.tensor(len(prompt)), "tokens": torch.tensor(continuation, dtype=torch.int32)}
