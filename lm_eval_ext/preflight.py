"""Whether a model can be recorded, said before any work: from its configuration before the weights are read, and by one
pass over a few tokens once they are.

The configuration is built into a model without weights (on PyTorch's meta device, which costs a fraction of a second at
any size), and that is asked. What only a forward pass can tell, `probe` asks the loaded model.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from lm_eval_ext.arch import attentions, blocks, decoder, plain
from lm_eval_ext.influence import influence_names
from lm_eval_ext.lens import Lens
from lm_eval_ext.lens import check as check_lens
from lm_eval_ext.taps import attention_taps, residual_taps
from lm_eval_ext.translators import Translators
from metrics.influence import needs
from metrics.plan import Plan

PROBE = 3
"""Tokens of the pass that `probe` makes."""


def check_decoder(config: PretrainedConfig, *, backend: str = "causal") -> None:
    """Refuse an encoder-decoder model.

    Args:
        config: the model's configuration.
        backend: how the harness runs the model: ``causal`` or ``seq2seq``.

    Raises:
        ValueError: one line that names the model.
    """
    if backend != "causal" or config.is_encoder_decoder:
        kind = config.model_type or type(config).__name__
        raise ValueError(f"{kind} is no decoder, and hf-store records decoders; use --model hf")


def check_config(config: PretrainedConfig, plan: Plan) -> None:
    """Refuse, from its configuration alone, a model that cannot be recorded as planned.

    A model whose code comes from its own repository is not built here, since that would fetch the code; it is checked
    once it is loaded.

    Raises:
        ValueError: one line that names the model and what it lacks.
    """
    if "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {}):
        return
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        kind = config.model_type or type(config).__name__
        raise ValueError(f"{kind} has no language-model head in transformers; give a causal language model")
    check_model(skeleton(config), plan)


def skeleton(config: PretrainedConfig) -> PreTrainedModel:
    """The causal language model of a configuration, with modules and shapes but without weights."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(copy.deepcopy(config))


def check_model(model: nn.Module, plan: Plan) -> None:
    """Refuse, from its modules, a model that cannot be recorded as planned; the weights are not looked at.

    Raises:
        ValueError: one line that names the model and what it lacks.
    """
    whole = plain(model)
    name = type(whole).__name__
    adapter: Any = getattr(model, "active_peft_config", None)
    if adapter is not None and adapter.is_prompt_learning:
        kind = getattr(adapter.peft_type, "value", adapter.peft_type)
        raise ValueError(
            f"the adapter's {kind} puts virtual tokens before the prompt, so rows of the logits are no longer tokens; "
            "hf-store records adapters of weights, such as LoRA"
        )
    check_decoder(whole.config)
    if any(getattr(module, "is_decoder", True) is False for module in decoder(whole).modules()):
        raise ValueError(f"{name} is an encoder (is_decoder=False), and hf-store records decoders; use --model hf")
    if whole.get_output_embeddings() is None and not whole.can_generate():
        raise ValueError(f"{name} has no language-model head; give a causal language model")
    if plan.extra_pass:
        blocks(whole)
    if plan.maps:
        attentions(whole)


@torch.no_grad()
def probe(
    model: nn.Module,
    plan: Plan,
    layers: Sequence[int],
    *,
    device: torch.device | str | None = None,
    translators: Translators | None = None,
) -> None:
    """Refuse a model whose blocks or attention are not what their places say, found by one pass over a few tokens.

    Each block has to read what the block before it returned, one state a token; attention has to return weights
    ``[1, head, query, key]``, the same number of heads in every block, none on later positions, and no more than one
    in all (less where a sink takes the rest); the lens of the last block's output has to be the model's own logits, and
    translators have to fit.

    Args:
        model: the model with its weights.
        plan: what is to be recorded; nothing is done where it needs no pass of its own.
        layers: layers that are to be recorded.
        device: where the input goes.
        translators: a tuned lens.

    Raises:
        ValueError: one line that names the model and what does not fit.
    """
    if not plan.extra_pass:
        return
    whole = plain(model)
    inner = blocks(whole)
    states: dict[int, Tensor] = {}
    read: dict[int, Tensor] = {}
    weights: dict[int, Tensor] = {}
    with ExitStack() as stack:
        for number, block in enumerate(inner, 1):

            def before(_m: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], number: int = number) -> None:
                read[number] = args[0] if args else kwargs["hidden_states"]

            stack.callback(block.register_forward_pre_hook(before, with_kwargs=True).remove)

        def after(layer: int, state: Tensor, _before: Tensor | None) -> None:
            states[layer] = state

        stack.enter_context(residual_taps(whole, range(len(inner) + 1), after))
        if plan.maps:
            stack.enter_context(attention_taps(whole, layers, weights.__setitem__))
        ids = torch.arange(1, PROBE + 1, device=device)[None]
        output = whole(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    name = type(whole).__name__
    if plan.states:
        _check_states(name, states, read)
    if "lens" in plan.capture or needs(influence_names(plan.keep), "lens"):
        check_lens(whole, states[len(inner)], output.logits, Lens(whole, device=device))
        if translators is not None:
            translators.check(len(inner), states[len(inner)].shape[-1], tuple(layers))
    if weights:
        _check_weights(name, weights)


def _check_states(name: str, states: dict[int, Tensor], read: dict[int, Tensor]) -> None:
    for k in range(len(states)):
        state = states.get(k)
        if not isinstance(state, Tensor) or state.ndim != 3 or state.shape[:2] != (1, PROBE):
            raise ValueError(
                f"{name}: layer {k} is no state a token (shape {_shape(state)}), so hidden states cannot be recorded; "
                "metrics of the logits (metrics=standard) need none"
            )
        if k + 1 in read and not torch.equal(state.nan_to_num().cpu(), read[k + 1].nan_to_num().cpu()):
            raise ValueError(
                f"{name}: block {k + 1} does not read what block {k} returns, so there is no residual stream to "
                "record; metrics of the logits (metrics=standard) need none"
            )


def _check_weights(name: str, weights: dict[int, Tensor]) -> None:
    remedy = "so attention cannot be recorded; leave out metrics and signals that need it"
    heads = {k: w.shape[1] for k, w in weights.items() if w.ndim == 4}
    for k, weight in weights.items():
        if weight.ndim != 4 or weight.shape[0] != 1 or weight.shape[2:] != (PROBE, PROBE):
            raise ValueError(f"{name}: attention of layer {k} has shape {_shape(weight)}, {remedy}")
        if len(set(heads.values())) > 1:
            raise ValueError(f"{name}: blocks have {min(heads.values())} to {max(heads.values())} heads, {remedy}")
        if (weight.triu(1) != 0).any() and not weight.isnan().any():
            raise ValueError(f"{name}: layer {k} attends to later positions; hf-store records decoders, use --model hf")
        if (weight < 0).any() or (weight.float().sum(-1) > 1.01).any():
            raise ValueError(f"{name}: attention of layer {k} is not made of shares of one, {remedy}")


def _shape(value: Any) -> list[int] | str:
    return list(value.shape) if isinstance(value, Tensor) else type(value).__name__
