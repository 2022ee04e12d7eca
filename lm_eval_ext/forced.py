"""The teacher-forced pass over prompts and answers that the evaluation has ended with: hidden states and attention.

Everything here knows about batches and padding; what leaves here does not. Memory is bounded: hidden states are reduced
layer by layer, and where the attention maps or the logits of the whole text would be too large, the text is read in
pieces over a key-value cache, so that no square of its length arises (but for models that compute otherwise in pieces).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from lm_eval_ext.arch import plain, positions
from lm_eval_ext.capture import logit_signals
from lm_eval_ext.room import in_parts, out_of_memory, release
from lm_eval_ext.taps import attention_taps, residual_taps
from metrics.core import signals
from metrics.plan import Plan, derive

Sequences = Sequence[tuple[Sequence[int], Sequence[int]]]
Found = list[dict[str, Tensor]]

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
    ) -> None:
        self.model: PreTrainedModel = plain(model)
        self.plan = plan
        self.layers = layers
        self.raw_dtype = raw_dtype
        self.device = torch.device(device) if device is not None else self.model.device
        self.room = room or ROOM.get(self.device.type, MUCH)
        self._autocast = autocast
        self._limit = most if most is not None else positions(self.model)
        self._tell = tell
        self._most: int | None = None

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
        kind, dtype = self.device.type, self._autocast
        mixed = torch.autocast(kind, dtype=dtype, enabled=dtype is not None)
        with torch.no_grad(), mixed, torch.compiler.set_stance("force_eager"):
            done = in_parts(lambda part: self._shrinking(part, logits), sequences, most, self._halved)
        return [one for part in done for one in part]

    def _halved(self, most: int) -> None:
        self._most = most
        self._say("smaller batches")

    def _say(self, how: str) -> None:
        if self._tell is not None:
            self._tell(f"memory ran out in the pass for signals; it goes on with {how}")
            self._tell = None

    def _shrinking(self, sequences: Sequences, logits: bool) -> Found:
        """The passes over some texts; where a single one does not fit, in shorter and shorter pieces."""
        while True:
            width = max(len(p) + len(c) for p, c in sequences)
            before, room = self._piece(sequences, logits), self.room
            try:
                return self._passes(sequences, logits)
            except (RuntimeError, MemoryError) as problem:
                self.room = min(room, width * self._row_bytes(width, logits)) // 2
                if not out_of_memory(problem) or len(sequences) > 1 or self._piece(sequences, logits) >= before:
                    self.room = room
                    raise
            release()
            self._say("pieces of a text")

    def _passes(self, sequences: Sequences, logits: bool) -> Found:
        """One pass where everything fits, or comes from eager attention anyway; else hidden states in one of their own.

        Fused attention reads a whole text without a square of its length, so that pass needs no pieces.
        """
        width = max(len(p) + len(c) for p, c in sequences)
        hidden, attention = "hidden" in self.plan.capture, "attention" in self.plan.capture
        piece = self._piece(sequences, logits)
        apart = attention and self._eager_differs()
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
        """How many positions are read at a time: all of the longest text where that fits, or has to."""
        width = max(len(p) + len(c) for p, c in sequences)
        row = self._row_bytes(width, logits) * len(sequences)
        if row == 0 or width * row <= self.room or not self._can_be_cut(width):
            return width
        return min(width, max(FEWEST, self.room // row))

    def _can_be_cut(self, width: int) -> bool:
        """Whether the model computes the same in pieces.

        A recurrent state is not handed on between pieces, and some rotary embeddings depend on the whole length.
        """
        if self.model._is_stateful:
            return False
        config = self.model.config.get_text_config()
        rope = str(getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None))
        if "longrope" not in rope and "dynamic" not in rope:
            return True
        short = getattr(config, "original_max_position_embeddings", None) or config.max_position_embeddings
        return width <= min([short, *map(int, re.findall(r"original_max_position_embeddings'?: (\d+)", rope))])

    def _row_bytes(self, width: int, logits: bool) -> int:
        """What one position costs: a row of every head's map, as scores and as weights, or a row of logits."""
        config = self.model.config.get_text_config()
        maps = "attention" in self.plan.capture or self._eager
        heads = (getattr(config, "num_attention_heads", None) or 0) if maps else 0
        return max(8 * heads * width, 8 * config.vocab_size if logits else 0)

    @property
    def _eager(self) -> bool:
        return self.model.config._attn_implementation in (None, "eager")

    def _eager_differs(self) -> bool:
        """Whether eager attention computes something else than the model's own: sdpa leaves soft-caps out."""
        capped = getattr(self.model.config.get_text_config(), "attn_logit_softcapping", None)
        return bool(capped) and self.model.config._attn_implementation == "sdpa"

    def _pass(self, sequences: Sequences, hidden: bool, attention: bool, logits: bool, piece: int) -> Found:
        batch = _Batch(sequences, self._limit)
        found = _Collected(sequences, in_pieces=piece < batch.width)

        def take_weights(layer: int, weight: Tensor) -> None:
            weight = nn.functional.pad(weight, (batch.stop - weight.shape[-1], 0))  # what a cache forgot has no weight
            for row, begin, end in batch.steps():
                seen = weight[row, :, begin - batch.start : end - batch.start, :end].unsqueeze(0)
                found.add(row, self._keep("attention", seen), layer)

        def take_logits(made: Tensor) -> None:
            for row, begin, end in batch.steps():
                prompt, continuation = sequences[row]
                ids = torch.tensor(continuation[begin - len(prompt) + 1 : end - len(prompt) + 1], device=made.device)
                rows = made[row, begin - batch.start :][: len(ids)]
                found.add(row, logit_signals(self.plan, rows, ids, self.raw_dtype))

        take_state = functools.partial(self._take_state, batch, found)
        with ExitStack() as stack:
            if hidden:
                stack.enter_context(residual_taps(self.model, self.layers, take_state))
            if attention:
                stack.enter_context(attention_taps(self.model, self.layers, take_weights))
            inner = self.model if logits else self.model.base_model  # without the head, where no logits are wanted
            for output in batch.read(inner, self.device, piece):
                if logits:
                    take_logits(output.logits)
        return found.whole()

    def _take_state(self, batch: _Batch, found: _Collected, layer: int, state: Tensor) -> None:
        """Hold a layer's states until its last piece, then reduce them."""
        for row, begin, end in batch.steps():
            found.hold(row, layer, state[row, begin - batch.start : end - batch.start])
        if batch.stop == batch.width:
            for row, whole in found.held(layer):
                found.add(row, self._keep("hidden", whole.unsqueeze(0)), layer)

    def _keep(self, raw: str, value: Tensor) -> dict[str, Tensor]:
        """The kept signals of one layer's raw tensor, which carries a leading axis of one layer."""
        made = derive(self.plan.stage(raw), {raw: value})  # type: ignore[arg-type]
        kept = {name: made[name] for name in self.plan.keep if name in made}
        if raw in self.plan.keep:
            kept[raw] = value.to(self.raw_dtype or value.dtype, copy=True)  # not a view of the whole batch
        return kept


def _to_steps(value: Tensor, dim: int, tokens: int) -> Tensor:
    """One step more than tokens: NaN where the last was not read."""
    missing = tokens + 1 - value.shape[dim]
    shape = [missing if i == dim else size for i, size in enumerate(value.shape)]
    return torch.cat([value, value.new_full(shape, torch.nan)], dim) if missing else value


class _Collected:
    """Signals of some texts as they come, piece by piece and layer by layer."""

    def __init__(self, sequences: Sequences, in_pieces: bool) -> None:
        self._sequences, self._in_pieces = sequences, in_pieces
        self._held: dict[int, dict[int, list[Tensor]]] = {}
        self._parts: list[dict[tuple[str, int], list[Tensor]]] = [{} for _ in sequences]

    def add(self, row: int, made: dict[str, Tensor], layer: int = 0) -> None:
        """The next piece of some signals of a text, of one layer where they have layers."""
        for name, value in made.items():
            self._parts[row].setdefault((name, layer), []).append(value)

    def hold(self, row: int, layer: int, states: Tensor) -> None:
        """The next piece of a layer's states of a text, a copy: all layers of a text are held until its last piece."""
        pieces = self._held.setdefault(layer, {}).setdefault(row, [])
        pieces.append(states.cpu().clone() if self._in_pieces else states)

    def held(self, layer: int) -> Iterator[tuple[int, Tensor]]:
        """The states of a layer that has been read to its end, a text at a time; NaN for a step that was not read."""
        for row, parts in self._held.pop(layer, {}).items():
            whole = parts[0] if len(parts) == 1 else torch.cat(parts)
            yield row, _to_steps(whole, 0, len(self._sequences[row][1]))

    def whole(self) -> Found:
        """The signals of each text: pieces end to end, layers stacked, on the CPU."""
        found: Found = []
        for row, by_layer in enumerate(self._parts):
            layers: dict[str, list[Tensor]] = {}
            for (name, _), parts in sorted(by_layer.items()):
                layers.setdefault(name, []).append(self._end_to_end(row, name, parts))
            found.append({name: torch.cat(parts).cpu() for name, parts in layers.items()})
        return found

    def _end_to_end(self, row: int, name: str, parts: Sequence[Tensor]) -> Tensor:
        """One layer's pieces; NaN for a step that was not read, no weight on keys behind a piece."""
        prompt, continuation = map(len, self._sequences[row])
        axes = signals()[name].axes
        if "key" in axes:
            parts = [nn.functional.pad(p, (0, prompt + continuation - p.shape[-1])) for p in parts]
        if "token" in axes:
            return torch.cat(list(parts))
        if "step" in axes:
            dim = axes.index("step")
            return _to_steps(torch.cat(list(parts), dim), dim, continuation)
        (only,) = parts
        return only


class _Batch:
    """Texts padded on the right, and where in the piece that is being read each one's steps stand."""

    def __init__(self, sequences: Sequences, most: int | None) -> None:
        self._first = [len(prompt) - 1 for prompt, _ in sequences]
        self._read = [len(p) + len(c) - (len(p) + len(c) - 1 == most) for p, c in sequences]
        self._ids = torch.zeros((len(sequences), max(self._read)), dtype=torch.long)
        self._mask = torch.zeros_like(self._ids)
        for row, (n, (prompt, continuation)) in enumerate(zip(self._read, sequences)):
            self._ids[row, :n] = torch.tensor([*prompt, *continuation][:n])
            self._mask[row, :n] = 1
        self.width = self._ids.shape[1]
        self.start, self.stop = 0, self.width

    def read(self, module: nn.Module, device: torch.device, piece: int) -> Iterator[Any]:
        """Run the module over the batch, piece by piece, and hand out what it returns."""
        width = self.width
        ids, mask = self._ids.to(device), self._mask.to(device)
        if piece >= width:
            yield module(input_ids=ids, attention_mask=mask, use_cache=False)
            return
        cache = DynamicCache()
        for start in range(0, width, piece):
            self.start, self.stop = start, min(start + piece, width)
            now = ids[:, self.start : self.stop]
            yield module(input_ids=now, attention_mask=mask[:, : self.stop], past_key_values=cache, use_cache=True)

    def steps(self) -> Iterator[tuple[int, int, int]]:
        """(row, begin, end) of the positions in this piece that are steps of a continuation: from P - 1 on."""
        for row, (first, n) in enumerate(zip(self._first, self._read)):
            begin, end = max(first, self.start), min(n, self.stop)
            if begin < end:
                yield row, begin, end
