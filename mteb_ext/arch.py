"""Where the layers of a transformer are: found by looking at one small forward pass, never by a list of names.

Layer 0 is what the first block reads, layer k what block k returns, before any final norm. Both are watched by forward
hooks, so one layer at a time is in memory. What the model does between its last block and its output, the *tail*
(a final norm, for OPT-350m a projection too), is followed module by module, so that ``norm=final`` can do the same to
every layer: the result is what the model cut off at that depth would return.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

PROBE = 5
"""Tokens of the passes that find and check the layers."""

PADDING = 3
"""Paddings of the pass that shows whether they change the text before them."""


class Opaque(ValueError):
    """A model whose layers cannot be told; the message says why."""


@dataclass(frozen=True, eq=False)
class Layers:
    """The blocks of a model in the order in which they run, and what follows the last.

    Attributes:
        blocks: one module a block; a module that stands several times is run several times, as in ALBERT.
        tail: applied in order to the last block's output; empty where nothing changes it, as in BERT.
        padded: whether texts of different lengths may share a batch. Not so where padding changes the text before it
            whatever the mask says: FNet, and the convolutions over tokens of ConvBERT or MobileBERT.
    """

    blocks: tuple[nn.Module, ...]
    tail: tuple[nn.Module, ...]
    padded: bool = True

    def finish(self, hidden: Tensor) -> Tensor:
        """What the model would return if `hidden` were its last block's output, (..., d) -> (..., d')."""
        for module in self.tail:
            hidden = module(hidden)
        return hidden


@contextmanager
def watch(blocks: Sequence[nn.Module], visit: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Call `visit(k, hidden)` with every layer's hidden states (batch, tokens, d) of each forward pass inside.

    Raises:
        Opaque: when the context ends and a pass did not run every block once.
    """
    calls = 0

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if calls % len(blocks) == 0:
            visit(0, args[0] if args else kwargs["hidden_states"])

    def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        nonlocal calls
        calls += 1
        visit((calls - 1) % len(blocks) + 1, _first(output))

    first = blocks[0]
    handles = [first.register_forward_pre_hook(before, with_kwargs=True)]
    handles += [block.register_forward_hook(after) for block in dict.fromkeys(blocks)]
    try:
        yield
        if calls % len(blocks) or not calls:
            raise Opaque(f"{calls} runs of blocks in a pass of a model of {len(blocks)} blocks")
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def find_layers(model: nn.Module, depth: int) -> Layers:
    """Find and check the blocks and the tail of `model`, which is called with `input_ids` and `attention_mask`.

    The model's own `hidden_states` must hold the input and output of every block but the last, in order (at an index
    shifted by one in Mamba, which leaves the embeddings out).

    Args:
        model: a base model (no head), in evaluation mode, with its weights.
        depth: the number L of blocks its configuration names.

    Raises:
        Opaque: no such blocks, or no hidden states, or a tail that cannot be followed.
    """
    name = type(model).__name__
    trace = _trace(model, name)
    own = trace.output.get("hidden_states")
    if own is None:
        raise Opaque(f"{name} does not expose hidden states (it returns none when asked), so it has no layers to pool")
    for blocks in _candidates(model, depth, trace):
        seen = trace.layers(blocks)
        if seen is None or any(hidden.shape[:2] != (1, PROBE) for hidden in seen):
            continue
        shift = 0 if _same(own[0], seen[0]) else 1
        if len(own) == depth + 1 and all(_same(own[k - shift], seen[k]) for k in range(shift, depth + shift)):
            tail = _tail(seen[depth], trace, blocks, name)
            return Layers(blocks, tail, _unmoved_by_padding(model, trace.output["last_hidden_state"]))
    raise Opaque(
        f"{name}: no {depth} blocks were found whose outputs are the {len(own)} hidden states it returns, so its "
        "layers cannot be told apart"
    )


@dataclass
class _Trace:
    calls: list[tuple[nn.Module, Tensor | None, Tensor]]
    output: dict[str, Any]

    def layers(self, blocks: Sequence[nn.Module]) -> list[Tensor] | None:
        """Input of the first and outputs of all `blocks`, or None where they do not run once each and in order."""
        wanted = set(blocks)
        runs = [call for call in self.calls if call[0] in wanted]
        if [call[0] for call in runs] != list(blocks) or runs[0][1] is None:
            return None
        return [runs[0][1], *(call[2] for call in runs)]


def _trace(model: nn.Module, name: str) -> _Trace:
    calls: list[tuple[nn.Module, Tensor | None, Tensor]] = []

    def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        returned = _first(output)
        read = args[0] if args else kwargs.get("hidden_states")
        if isinstance(returned, Tensor):
            calls.append((module, read.clone() if isinstance(read, Tensor) else None, returned.clone()))

    handles = [m.register_forward_hook(after, with_kwargs=True) for m in model.modules() if m is not model]
    ids = _probe(model)
    try:
        output = model(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True, return_dict=True)
    except torch.OutOfMemoryError:
        raise
    except Exception as problem:  # the model's own code, which may be anybody's
        reason = " ".join(f"{type(problem).__name__}: {problem}".split())
        raise Opaque(
            f"{name} cannot be called with token ids and a mask and asked for hidden states: {reason}"
        ) from None
    finally:
        for handle in handles:
            handle.remove()
    if not isinstance(output, dict) or not isinstance(output.get("last_hidden_state"), Tensor):
        raise Opaque(f"{name} returns no last_hidden_state; a base model without a head is needed")
    return _Trace(calls, dict(output))


def _probe(model: nn.Module) -> Tensor:
    return torch.arange(1, PROBE + 1, device=next(model.parameters()).device)[None]


def _unmoved_by_padding(model: nn.Module, alone: Tensor) -> bool:
    """Whether padding behind the probe leaves its last hidden states, `alone` (1, PROBE, d), to a few roundings."""
    ids = nn.functional.pad(_probe(model), (0, PADDING), value=1)
    mask = (torch.arange(ids.shape[1], device=ids.device) < PROBE).long()[None]
    together = model(input_ids=ids, attention_mask=mask, return_dict=True)["last_hidden_state"][:, :PROBE]
    gap = (together.float() - alone.float()).norm(dim=-1) / alone.float().norm(dim=-1)
    return bool(gap.max() < torch.finfo(alone.dtype).eps ** 0.5)


def _candidates(model: nn.Module, depth: int, trace: _Trace) -> Iterator[tuple[nn.Module, ...]]:
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            yield tuple(module)
    runs: dict[type[nn.Module], list[nn.Module]] = {}
    for module, *_ in trace.calls:
        runs.setdefault(type(module), []).append(module)
    for modules in reversed(runs.values()):  # outer modules return last
        if len(modules) == depth:
            yield tuple(modules)


def _tail(last: Tensor, trace: _Trace, blocks: Sequence[nn.Module], name: str) -> tuple[nn.Module, ...]:
    """The modules that lead from the last block's output to the model's, in order."""
    end = max(i for i, call in enumerate(trace.calls) if call[0] in set(blocks))
    after = [c for c in trace.calls[end + 1 :] if c[1] is not None]
    goal: Tensor = trace.output["last_hidden_state"]
    at, path = last, []
    while not _same(at, goal):
        following = next((c for c in after if _same(c[1], at) and not _same(c[2], at)), None)
        if following is None:
            raise Opaque(
                f"{name}: what it does to the output of its last block cannot be followed, so its layers cannot be "
                "given the same final norm"
            )
        path.append(following[0])
        after = after[after.index(following) + 1 :]
        at = following[2]
    tail = tuple(path)
    if not _applies(tail, last, goal):
        raise Opaque(f"{name}: what follows its last block reads more than that block's output")
    return tail


def _applies(tail: Sequence[nn.Module], last: Tensor, goal: Tensor) -> bool:
    """Whether the tail, given single tokens, does what it did to the whole text."""
    try:
        alone = [Layers((), tuple(tail)).finish(last[:, t : t + 1]) for t in range(PROBE)]
    except TypeError:  # it wants more arguments
        return False
    gap = (torch.cat(alone, 1).float() - goal.float()).norm() / goal.float().norm()
    return not gap > torch.finfo(goal.dtype).eps ** 0.5


def _first(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output
    if isinstance(output, (tuple, list)) and output:
        return output[0]
    return output.get("hidden_states", output.get("last_hidden_state")) if isinstance(output, dict) else None


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    """Equal values, whatever the device and precision and whether or not the batch axis is folded."""
    if one is None or other is None or one.numel() != other.numel() or one.shape[-1] != other.shape[-1]:
        return False
    flat = (hidden.reshape(-1).cpu().double() for hidden in (one, other))
    return torch.allclose(*flat, rtol=0, atol=0, equal_nan=True)
