"""Where things are in a Hugging Face decoder: its blocks, and the attention inside each.

Found in the modules themselves and in what their classes say of themselves, never in a list of model names; so it works
on a model without weights (`lm_eval_ext.preflight`), and `preflight.probe` checks it on one with weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel


def plain(model: nn.Module) -> PreTrainedModel:
    """The model inside its wrappers: a peft adapter, `torch.compile`, data parallelism.

    Layers that an adapter has put into the model stay in it; calling the plain model runs them.

    Raises:
        ValueError: there is no Hugging Face model inside.
    """
    inner: Any = model
    while not isinstance(inner, PreTrainedModel):
        parts = dict(inner.named_children()) if isinstance(inner, nn.Module) else {}
        if callable(base := getattr(inner, "get_base_model", None)):  # peft
            inner = base()
        elif "_orig_mod" in parts:  # torch.compile
            inner = parts["_orig_mod"]
        elif "module" in parts:  # DataParallel, DistributedDataParallel
            inner = parts["module"]
        else:
            raise ValueError(f"{type(model).__name__} holds no Hugging Face model; give a PreTrainedModel")
    return inner


def decoder(model: nn.Module) -> PreTrainedModel:
    """The part that reads text: for most models the base model, for one that sees images too its language model."""
    whole = plain(model)
    found: Any = whole.get_decoder()
    return found if isinstance(found, PreTrainedModel) else cast(PreTrainedModel, whole.base_model)


def blocks(model: nn.Module) -> nn.ModuleList:
    """The list of transformer blocks: the module list as long as the configuration says the model is deep.

    Raises:
        ValueError: there is no such list; the message names the model's class.
    """
    whole = plain(model)
    depth = getattr(whole.config.get_text_config(decoder=True), "num_hidden_layers", None)
    for module in decoder(whole).modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth and all(_is_block(m) for m in module):
            return module
    raise ValueError(
        f"{type(whole).__name__}: no list of {'' if depth is None else f'{depth} '}transformer blocks found, so hidden "
        "states and attention cannot be recorded; metrics of the logits (metrics=standard) need neither"
    )


def attentions(model: nn.Module) -> list[nn.Module]:
    """The attention module of every block, first block first.

    It is of a class that the model declares to return attention weights (transformers' `_can_record_outputs`); where it
    declares none, a child with "Attention" in the name of its class.

    Raises:
        ValueError: there is no list of blocks, or some have no attention; the message counts them.
    """
    whole = plain(model)
    declared = _declared(whole)
    found = [_attention(block, declared) for block in blocks(whole)]
    without = [k for k, module in enumerate(found, 1) if module is None]
    if without:
        which = "no block" if len(without) == len(found) else f"{len(found) - len(without)} of {len(found)} blocks only"
        raise ValueError(
            f"{type(whole).__name__} has attention in {which}, so it cannot be recorded; leave out metrics and signals "
            "that need attention (metrics=standard and signals of hidden states do not)"
        )
    return [module for module in found if module is not None]


def positions(model: nn.Module) -> int | None:
    """How many positions a learned table holds; None where positions are computed (rotary ones, ALiBi, states).

    A table is an embedding beside that of the tokens with about as many rows as the configuration has positions.
    """
    whole = plain(model)
    most = getattr(whole.config.get_text_config(), "max_position_embeddings", None)
    tokens = whole.get_input_embeddings()
    tables = [m for m in decoder(whole).modules() if isinstance(m, nn.Embedding) and m is not tokens]
    return most if most and any(0 <= table.num_embeddings - most <= 2 for table in tables) else None


def reads_in_pieces(model: PreTrainedModel, width: int) -> bool:
    """Whether the model computes the same of a text of so many positions in pieces over a key-value cache.

    A recurrent state is not handed on between pieces, and some rotary embeddings depend on the whole length.
    """
    if model._is_stateful:
        return False
    config = model.config.get_text_config()
    rope = str(getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None))
    if "longrope" not in rope and "dynamic" not in rope:
        return True
    short = getattr(config, "original_max_position_embeddings", None) or config.max_position_embeddings
    return width <= min([short, *map(int, re.findall(r"original_max_position_embeddings'?: (\d+)", rope))])


def eager_differs(model: PreTrainedModel) -> bool:
    """Whether eager attention computes something else than the model's own: sdpa leaves soft-caps out."""
    capped = getattr(model.config.get_text_config(), "attn_logit_softcapping", None)
    return bool(capped) and model.config._attn_implementation == "sdpa"


@contextmanager
def eager_attention(model: nn.Module) -> Iterator[None]:
    """Let the model compute attention in the open, for only then does it return the weights; restored afterwards.

    Raises:
        ValueError: the model's class takes no other attention code once it is loaded (Falcon, for one).
    """
    whole = plain(model)
    before = _implementations(whole.config)
    if set(before.values()) == {"eager"}:
        yield
        return
    try:
        whole.set_attn_implementation("eager")
        if whole.config._attn_implementation != "eager":
            raise ValueError(
                f"{type(whole).__name__} cannot change its attention code ({before['']}) once it is loaded; "
                "add attn_implementation=eager to the model's arguments to record attention"
            )
        yield
    finally:
        whole.set_attn_implementation(before if len(before) > 1 else before[""])


def _implementations(config: Any) -> dict[str, str]:
    """The attention code of the model ("") and of its parts, where it has any."""
    parts = {name: getattr(config, name, None) for name in config.sub_configs}
    configs = {"": config, **{name: part for name, part in parts.items() if part is not None}}
    return {name: part._attn_implementation or "eager" for name, part in configs.items()}


def _is_block(module: nn.Module) -> bool:
    return any(True for _ in module.children()) and not type(module).__name__.endswith("Attention")


def _declared(model: PreTrainedModel) -> list[tuple[type[nn.Module], str]]:
    """Classes of modules that return attention weights, each with a part of the module's name that has to match."""
    found = []
    for part in decoder(model).modules():
        if not isinstance(part, PreTrainedModel):
            continue
        listed = (getattr(type(part), "_can_record_outputs", None) or {}).get("attentions", ())
        for one in listed if isinstance(listed, Sequence) else (listed,):
            if isinstance(one, type):
                found.append((one, ""))
            elif isinstance(getattr(one, "target_class", None), type):  # transformers' OutputRecorder
                found.append((one.target_class, (one.layer_name or "").strip(".")))
    return found


def _attention(block: nn.Module, declared: Sequence[tuple[type[nn.Module], str]]) -> nn.Module | None:
    if declared:
        for name, module in block.named_modules():
            if any(isinstance(module, kind) and (not part or f".{part}." in f".{name}.") for kind, part in declared):
                return module
        return None
    return next((m for m in block.children() if "Attention" in type(m).__name__), None)
