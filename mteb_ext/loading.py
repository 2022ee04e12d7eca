"""A checkpoint's weights on one device or several, its layers found, its tokenizer ready."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForTextEncoding,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING

from mteb_ext.arch import Layers, find_layers
from mteb_ext.checkpoint import Checkpoint, load_tokenizer

SHARE = 0.8
"""The share of a GPU's free memory that weights may take; batches need the rest."""


@dataclass(frozen=True, eq=False)
class Replica:
    """A model on its device, and where its layers are."""

    model: nn.Module
    layers: Layers
    device: torch.device


@dataclass(frozen=True, eq=False)
class Runner:
    """A loaded checkpoint, on one device or several.

    Attributes:
        limit: tokens a text is cut to.
        blank: the token that stands for a text without tokens.
        pad: any token the model knows; the mask hides it.
        known: the number of tokens the model knows, None where its configuration does not say.
        lower: whether texts are lower-cased first, as some sentence-transformers models want.
        include_prompt: whether the prompt's tokens are pooled.
    """

    replicas: tuple[Replica, ...]
    tokenizer: PreTrainedTokenizerBase
    limit: int
    blank: int
    pad: int
    known: int | None
    lower: bool
    include_prompt: bool


def load(checkpoint: Checkpoint, dtype: str, limit: int, devices: Sequence[str]) -> Runner:
    """Load a checkpoint's weights and find its layers.

    A model too large for one of several GPUs is spread over them; otherwise every device gets a copy. No part of it is
    ever left on the CPU beside GPUs.

    Raises:
        ValueError: the weights cannot be read or do not fit, the layers cannot be told apart, the limit is beyond the
            model's positions or holds no token of a text, or no token could stand for a blank text.
    """
    name = checkpoint.name
    tokenizer = load_tokenizer(checkpoint.source, checkpoint.asked, checkpoint.subfolder, checkpoint.trust_remote_code)
    if checkpoint.positions is not None and limit > checkpoint.positions:
        raise ValueError(f"model {name} has {checkpoint.positions} positions; max_length={limit} is beyond them")
    if limit <= (frame := tokenizer.num_special_tokens_to_add()):
        raise ValueError(f"model {name}: max_length={limit} has no room for a text beside {frame} special tokens")
    known = checkpoint.vocabulary
    named = [tokenizer.bos_token_id, tokenizer.cls_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id]
    usable = [token for token in named if isinstance(token, int) and 0 <= token < (known or token + 1)]
    if not usable:
        raise ValueError(f"model {name}: its tokenizer has no BOS, CLS, EOS or pad token for a blank text")
    try:
        replicas = _replicas(checkpoint, dtype, devices)
    except torch.OutOfMemoryError:
        raise ValueError(
            f"model {name} in {dtype} does not fit the memory of {', '.join(devices)}; take dtype=bfloat16, or more "
            "devices"
        ) from None
    sentence = checkpoint.sentence
    return Runner(
        replicas=tuple(replicas),
        tokenizer=tokenizer,
        limit=limit,
        blank=usable[0],
        pad=usable[-1] if usable[-1] == tokenizer.pad_token_id else usable[0],
        known=known,
        lower=bool(sentence and sentence.lower_case),
        include_prompt=sentence.include_prompt if sentence else True,
    )


def _replicas(checkpoint: Checkpoint, dtype: str, devices: Sequence[str]) -> list[Replica]:
    config, auto = _class_of(checkpoint)
    if len(devices) > 1 and all(device.startswith("cuda") for device in devices):
        room = _room(devices)
        needed = _size(checkpoint, config, auto, dtype)
        if needed > min(room.values()):
            if needed > sum(room.values()):
                raise ValueError(
                    f"model {checkpoint.name} in {dtype} takes {needed / 2**30:.1f} GiB, and weights may take "
                    f"{sum(room.values()) / 2**30:.1f} GiB of the free memory of {', '.join(devices)}; take "
                    "dtype=bfloat16, or more devices"
                )
            model = _load_model(checkpoint, auto, dtype, {"device_map": "auto", "max_memory": room})
            _refuse_offloading(model, checkpoint.name, room)
            return [Replica(model, find_layers(model, checkpoint.blocks), next(model.parameters()).device)]
    first = _load_model(checkpoint, auto, dtype, {"device_map": {"": devices[0]}})
    models = [first, *(copied(first, device) for device in devices[1:])]
    return [Replica(m, find_layers(m, checkpoint.blocks), torch.device(d)) for m, d in zip(models, devices)]


def copied(model: nn.Module, device: str) -> nn.Module:
    """A copy of a model on another device; nothing of it is held twice on the first."""
    held: dict[int, Any] = {}
    for tensor in chain(model.parameters(), model.buffers()):
        moved = torch.empty_like(tensor, device=device, requires_grad=False).copy_(tensor.detach())
        held[id(tensor)] = nn.Parameter(moved, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else moved
    return copy.deepcopy(model, held)  # which takes what it holds already for the copies of these


def _room(devices: Sequence[str]) -> dict[int, int]:
    """Bytes of each GPU that weights may take, by its number."""
    numbers = [torch.device(device).index or 0 for device in devices]
    return {number: int(SHARE * torch.cuda.mem_get_info(number)[0]) for number in numbers}


def _refuse_offloading(model: nn.Module, name: str, room: Mapping[int, int]) -> None:
    places = getattr(model, "hf_device_map", {})
    elsewhere = {part: place for part, place in places.items() if place not in room}
    if elsewhere:
        part, place = next(iter(elsewhere.items()))
        raise ValueError(
            f"model {name}: {len(elsewhere)} of its {len(places)} parts find no room on the {len(room)} GPUs, the "
            f"first is {part}, which would lie on {place}; take dtype=bfloat16, or more devices"
        )


@contextmanager
def _in_one_line(name: str) -> Iterator[None]:
    """Turn what loading raises into a ValueError of one line."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (SafetensorError, pickle.UnpicklingError, EOFError) as problem:
        reason = str(problem).splitlines()[0] if isinstance(problem, SafetensorError) else "no plain file of tensors"
        raise ValueError(f"model {name}: a file of its weights is cut or damaged: {reason}") from None
    except Exception as problem:  # the model's own code, which may be anybody's
        reason = " ".join(f"{type(problem).__name__}: {problem}".split())
        raise ValueError(f"model {name}: its weights cannot be loaded: {reason}") from None


def _options(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "revision": checkpoint.asked,
        "subfolder": checkpoint.subfolder,
        "trust_remote_code": checkpoint.trust_remote_code,
    }


def _class_of(checkpoint: Checkpoint) -> tuple[PretrainedConfig, Any]:
    """The configuration, and the auto class that loads it: the model's own code where it is trusted, or the encoder."""
    with _in_one_line(checkpoint.name):
        config = AutoConfig.from_pretrained(checkpoint.source, **_options(checkpoint))
    own = checkpoint.trust_remote_code and "AutoModel" in (getattr(config, "auto_map", None) or {})
    native = type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING
    return config, AutoModelForTextEncoding if native and not own else AutoModel


def _size(checkpoint: Checkpoint, config: PretrainedConfig, auto: Any, dtype: str) -> int:
    """Bytes of the weights in `dtype`, of a model without memory."""
    with _in_one_line(checkpoint.name), torch.device("meta"):
        model = auto.from_config(config, trust_remote_code=checkpoint.trust_remote_code)
    return sum(p.numel() for p in model.parameters()) * getattr(torch, dtype).itemsize


def _load_model(checkpoint: Checkpoint, auto: Any, dtype: str, where: Mapping[str, Any]) -> PreTrainedModel:
    with _in_one_line(checkpoint.name):
        model, report = auto.from_pretrained(
            checkpoint.source, dtype=getattr(torch, dtype), output_loading_info=True, **_options(checkpoint), **where
        )
    names = {id(parameter): key for key, parameter in model.named_parameters()}
    if getattr(model.config, "is_encoder_decoder", False) and hasattr(model, "decoder"):
        places = getattr(model, "hf_device_map", {})
        model = model.get_encoder()
        model.hf_device_map = places
    needed = {names[id(parameter)] for parameter in model.parameters()}
    if absent := sorted(key for key in needed.intersection(report["missing_keys"]) if "pooler" not in key):
        raise ValueError(
            f"model {checkpoint.name}: {len(absent)} of its {len(needed)} weights are not in its files, the first is "
            f"{absent[0]}; its config.json belongs to another model, or a file is missing"
        )
    model.config.get_text_config().use_cache = False
    return model.eval()
