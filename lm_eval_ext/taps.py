"""Taps on hidden states and attention: hooks that live inside a `with`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from lm_eval_ext.arch import attentions, blocks, eager_attention


@contextmanager
def residual_taps(
    model: PreTrainedModel, layers: Sequence[int], take: Callable[[int, Tensor, Tensor | None], None]
) -> Iterator[None]:
    """Call `take(layer, state, before)` with the residual stream ``[batch, position, dim]`` after each chosen layer.

    `before` is what the block read, the stream one layer before; None for layer 0.
    """
    inner = blocks(model)
    with ExitStack() as stack:
        for layer in layers:
            if layer == 0:

                def before(_m: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                    take(0, args[0] if args else kwargs["hidden_states"], None)

                handle = inner[0].register_forward_pre_hook(before, with_kwargs=True)
            else:

                def after(
                    _m: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, layer: int = layer
                ) -> None:
                    state = output[0] if isinstance(output, (tuple, list)) else output
                    before = args[0] if args else kwargs["hidden_states"]
                    take(layer, state, before.to(state.device))  # on the device before, where blocks are spread

                handle = inner[layer - 1].register_forward_hook(after, with_kwargs=True)
            stack.callback(handle.remove)
        yield


@contextmanager
def attention_taps(
    model: PreTrainedModel, layers: Sequence[int], take: Callable[[int, Tensor], None]
) -> Iterator[None]:
    """Call `take(layer, weights)` with ``[batch, head, query, key]`` of each chosen block, attention made eager.

    Raises:
        ValueError: in the pass, where an attention module returns no weights; the message names it.
    """
    inner = attentions(model)
    with ExitStack() as stack:
        stack.enter_context(eager_attention(model))
        for layer in layers:
            if layer == 0:
                continue
            module = inner[layer - 1]
            if "output_attentions" in inspect.signature(type(module).forward).parameters:
                stack.callback(module.register_forward_pre_hook(_ask, with_kwargs=True).remove)

            def after(module: nn.Module, _args: Any, output: Any, layer: int = layer) -> None:
                weights = output[1] if isinstance(output, (tuple, list)) and len(output) > 1 else None
                if weights is None:
                    raise ValueError(
                        f"{type(module).__name__} of layer {layer} returned no attention weights; "
                        "leave out metrics and signals that need attention"
                    )
                take(layer, weights)

            stack.callback(module.register_forward_hook(after).remove)
        yield


def _ask(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Older architectures return their weights only when told to."""
    return args, {**kwargs, "output_attentions": True}
