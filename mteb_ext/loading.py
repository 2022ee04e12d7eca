"""A checkpoint's weights on one device or several, its layers found, its tokenizer ready."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING

from mteb_ext.arch import Layers, find_layers
from mteb_ext.checkpoint import Checkpoint, load_tokenizer


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

    A model too large for one of several GPUs is spread over them; otherwise every device gets a copy.

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
    model = _load_model(checkpoint, dtype)
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    if len(devices) > 1 and all(d.startswith("cuda") for d in devices) and size > 0.8 * _smallest(devices):
        from accelerate import dispatch_model, infer_auto_device_map
        from accelerate.utils import get_max_memory

        mine = {torch.device(device).index for device in devices}
        room = {place: memory for place, memory in get_max_memory().items() if place in mine or place == "cpu"}
        plan = infer_auto_device_map(model, room, no_split_module_classes=list(model._no_split_modules or ()))
        spread = dispatch_model(model, plan)
        return [Replica(spread, find_layers(spread, checkpoint.blocks), next(spread.parameters()).device)]
    replicas = [_replica(model, checkpoint.blocks, devices[0])]
    return replicas + [_replica(_load_model(checkpoint, dtype), checkpoint.blocks, device) for device in devices[1:]]


def _load_model(checkpoint: Checkpoint, dtype: str) -> PreTrainedModel:
    options = {
        "revision": checkpoint.asked,
        "subfolder": checkpoint.subfolder,
        "trust_remote_code": checkpoint.trust_remote_code,
    }
    try:
        config = AutoConfig.from_pretrained(checkpoint.source, **options)
        auto = AutoModelForTextEncoding if type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING else AutoModel
        model, report = auto.from_pretrained(
            checkpoint.source, dtype=getattr(torch, dtype), output_loading_info=True, **options
        )
    except torch.OutOfMemoryError:
        raise
    except (SafetensorError, pickle.UnpicklingError, EOFError) as problem:
        reason = str(problem).splitlines()[0] if isinstance(problem, SafetensorError) else "no plain file of tensors"
        raise ValueError(f"model {checkpoint.name}: a file of its weights is cut or damaged: {reason}") from None
    except Exception as problem:  # the model's own code, which may be anybody's
        reason = " ".join(f"{type(problem).__name__}: {problem}".split())
        raise ValueError(f"model {checkpoint.name}: its weights cannot be loaded: {reason}") from None
    names = {id(parameter): key for key, parameter in model.named_parameters()}
    if getattr(model.config, "is_encoder_decoder", False) and hasattr(model, "decoder"):
        model = model.get_encoder()
    needed = {names[id(parameter)] for parameter in model.parameters()}
    if absent := sorted(key for key in needed.intersection(report["missing_keys"]) if "pooler" not in key):
        raise ValueError(
            f"model {checkpoint.name}: {len(absent)} of its {len(needed)} weights are not in its files, the first is "
            f"{absent[0]}; its config.json belongs to another model, or a file is missing"
        )
    model.config.get_text_config().use_cache = False
    return model.eval()


def _replica(model: nn.Module, blocks: int, device: str) -> Replica:
    model = model.to(device)
    return Replica(model, find_layers(model, blocks), torch.device(device))


def _smallest(devices: Sequence[str]) -> int:
    return min(torch.cuda.get_device_properties(device).total_memory for device in devices)
