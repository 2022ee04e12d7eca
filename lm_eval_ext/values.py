"""What the heads of an attention module carry over: their values, and the projection that brings them to the stream.

Neither is returned by a model. Values are an argument of the function that computes attention in the open, which every
architecture's own module names alike; the projection is the last child called whose output the module returns. Both are
believed only where they lead back to the attention's output (`Carried.leads_to`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

EAGER = "eager_attention_forward"
"""The name of that function, in the module of each architecture of transformers."""

ALIKE = 0.05
"""What leads to the attention's output may differ from it by this share of its norm: the rounding of half precision."""


@dataclass(frozen=True)
class Carried:
    """What one block's heads carry over.

    Attributes:
        values: ``[batch, head, key, width]``, repeated where heads share them.
        projection: ``[head, width, dim]``.
        bias: ``[dim]``.
    """

    values: Tensor
    projection: Tensor
    bias: Tensor

    def leads_to(self, weights: Tensor, output: Tensor, row: int) -> bool:
        """Whether a row of attention ``[head, key]`` over these values gives the output ``[dim]``."""
        heads = weights.unsqueeze(1) @ self.values[row, :, : weights.shape[-1]].float()
        made = torch.einsum("hw,hwd->d", heads.squeeze(1), self.projection) + self.bias
        return bool((made - output.float()).norm() <= ALIKE * output.float().norm())


class ValueTaps:
    """Sees values and projections while the model runs.

    Args:
        modules: the attention module of every block, first block first.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._modules = list(modules)
        self._values: dict[nn.Module, Tensor] = {}
        self._called: dict[nn.Module, list[tuple[nn.Module, int, int]]] = {}
        self._asking = False

    @contextmanager
    def taps(self) -> Iterator[None]:
        """Hooks on what the attention modules call, which compute eager attention."""
        with ExitStack() as stack:
            stack.enter_context(_watched(self._modules, self._values.__setitem__))
            for module in self._modules:
                for child in (c for c in module.children() if any(True for _ in c.parameters())):  # no dropout
                    stack.callback(child.register_forward_hook(self._note(module)).remove)
            yield

    def carried(self, layer: int, output: Tensor) -> Carried | None:
        """Values and projection of the block that has just put out `output`; None where they were not seen."""
        module = self._modules[layer - 1]
        values, called = self._values.pop(module, None), self._called.pop(module, [])
        if values is None or not called or called[-1][1] != output.data_ptr():
            return None
        child, _, size = called[-1]
        heads = size // values.shape[-1]
        if heads * values.shape[-1] != size or heads % values.shape[1]:
            return None
        self._asking = True
        projection, bias = _linear(child, size, output)
        self._asking = False
        shared = heads // values.shape[1]
        return Carried(values.repeat_interleave(shared, 1), projection.view(heads, -1, projection.shape[-1]), bias)

    def _note(self, module: nn.Module) -> Callable[[nn.Module, Any, Any], None]:
        def note(child: nn.Module, args: Any, output: Any) -> None:
            if not self._asking and args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
                self._called.setdefault(module, []).append((child, output.data_ptr(), args[0].shape[-1]))

        return note


def _linear(child: nn.Module, size: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """The matrix ``[size, dim]`` and the bias of a module that is linear, whatever it is made of: asked for unit rows.

    Quantised weights, adapters and weights that are somewhere else until they are needed are so all the same. A plain
    linear layer is read, since in half precision a bias would take digits.
    """
    if type(child) is nn.Linear and not child.weight.is_meta:
        bias = torch.zeros_like(child.weight[:, 0]) if child.bias is None else child.bias
        return child.weight.T.float(), bias.float()
    dtype = next((w.dtype for w in child.parameters() if w.is_floating_point()), like.dtype)
    bias = child(torch.zeros(1, size, dtype=dtype, device=like.device))[0].float()
    return child(torch.eye(size, dtype=dtype, device=like.device)).float() - bias, bias


@contextmanager
def _watched(modules: Sequence[nn.Module], take: Callable[[nn.Module, Tensor], None]) -> Iterator[None]:
    """Have the architectures' eager attention hand over the values of these modules; restored afterwards."""
    wanted = set(modules)
    spaces = [inspect.unwrap(type(module).forward).__globals__ for module in modules]
    originals = {id(space): (space, space[EAGER]) for space in spaces if EAGER in space}

    def watching(original: Callable[..., Any]) -> Callable[..., Any]:
        def attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
            if module in wanted:
                take(module, value)
            return original(module, query, key, value, *args, **kwargs)

        return attend

    for space, original in originals.values():
        space[EAGER] = watching(original)
    try:
        yield
    finally:
        for space, original in originals.values():
            space[EAGER] = original
