"""Where things are in a Hugging Face decoder: its blocks, and the attention inside each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers import PreTrainedModel


def plain(model: Any) -> PreTrainedModel:
    """The Hugging Face model inside what peft or torch.compile made of it; an adapter's layers are in it."""
    model = getattr(model, "_orig_mod", model)
    unwrap = getattr(model, "get_base_model", None)
    return unwrap() if unwrap is not None else model


def blocks(model: PreTrainedModel) -> nn.ModuleList:
    """The list of transformer blocks: the module list as long as the configuration says the model is deep.

    Raises:
        ValueError: there is no such list; the message names the model's class.
    """
    depth = model.config.get_text_config().num_hidden_layers
    for _, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth and _is_block(module[0]):
            return module
    raise ValueError(
        f"{type(model).__name__}: no list of {depth} transformer blocks found, so hidden states and attention cannot "
        "be recorded; metrics of the logits (metrics=standard) need neither"
    )


def attentions(model: PreTrainedModel) -> list[nn.Module]:
    """The attention module of every block, first block first.

    Raises:
        ValueError: a block has none.
    """
    found = []
    for number, block in enumerate(blocks(model), 1):
        inside = [m for m in block.children() if "Attention" in type(m).__name__]
        if not inside:
            raise ValueError(
                f"{type(model).__name__}: block {number} ({type(block).__name__}) has no attention to "
                "record; leave out metrics and signals that need it"
            )
        found.append(inside[0])
    return found


def _is_block(module: nn.Module) -> bool:
    return any(True for _ in module.children())


@contextmanager
def eager_attention(model: PreTrainedModel) -> Iterator[None]:
    """Let the model compute attention in the open, for only then does it return the weights; restored afterwards."""
    before = model.config._attn_implementation or "eager"
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)
