"""How much each token of a continuation counts for what comes after, by one backward pass.

The forward pass is the model's own, in single precision: where the weights are in half precision, copies of them in
single precision live while a batch is read. Memory beside the weights: the activations of every block for the whole
batch, about as much as one step of training without an optimizer. Nothing of the model is changed for good.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedModel

LXT = (
    "install it with pip install lxt, if its licence allows your use (LRP is patented: free of charge for personal and "
    "scientific purposes only), or leave out signal lrp"
)

Sequences = Sequence[tuple[Sequence[int], Sequence[int]]]


def check_gradients(model: PreTrainedModel) -> None:
    """Refuse a model through which no gradient can be sent.

    Raises:
        ValueError: its weights are quantised, or not all in memory.
    """
    name = type(model).__name__
    remedy = "leave out signals input_gradient and lrp"
    if getattr(model.config, "quantization_config", None) is not None:
        raise ValueError(f"{name}: its weights are quantised, so no backward pass is made; {remedy}")
    if any(weight.is_meta for weight in model.parameters()):
        raise ValueError(f"{name}: some of its weights are offloaded, so no backward pass is made; {remedy}")


def check_lrp(model: PreTrainedModel) -> None:
    """Refuse where AttnLRP cannot be computed.

    Raises:
        ValueError: lxt is not installed, does not fit the installed transformers, or does not know the architecture.
    """
    try:
        models = importlib.import_module("lxt.efficient.models")
    except ModuleNotFoundError as problem:
        what = "it is not installed" if problem.name == "lxt" else f"it misses {problem.name}"
        raise ValueError(f"signal lrp is computed by lxt, and {what}; {LXT}") from None
    except ImportError as problem:
        raise ValueError(
            f"signal lrp is computed by lxt, which does not fit the installed transformers ({problem}); "
            "leave out signal lrp"
        ) from None
    if _module(model) not in models.DEFAULT_MAP:
        known = ", ".join(sorted(m.__name__.rsplit("_", 1)[-1] for m in models.DEFAULT_MAP))
        raise ValueError(f"lxt has no rules for {type(model).__name__} (it has for {known}); leave out signal lrp")


def input_gradient(model: PreTrainedModel, sequences: Sequences, device: torch.device) -> list[Tensor]:
    """|x_t . dF/dx_t| of every token of each continuation, F = sum_t ln p(y_t | y_<t, x), x_t its embedding.

    0 for the last token of a continuation, on which F does not depend. Shrikumar et al. 2016, arXiv:1605.01713.
    """
    return _attributed(model, sequences, device, normalised=True)


def lrp(model: PreTrainedModel, sequences: Sequences, device: torch.device) -> list[Tensor]:
    """|R_t| of every token of each continuation: AttnLRP's relevance for the sum of the emitted tokens' logits.

    lxt changes the backward pass (arXiv:2402.05602, by the rules of Gradient*Input), for this call alone. Relevance
    starts at logits, not at log-probabilities, for which it has no rule.
    """
    with _lrp_rules(model):
        return _attributed(model, sequences, device, normalised=False)


def _attributed(
    model: PreTrainedModel, sequences: Sequences, device: torch.device, *, normalised: bool
) -> list[Tensor]:
    width = max(len(p) + len(c) for p, c in sequences) - 1  # last tokens are not read: nothing depends on them
    ids = torch.zeros((len(sequences), width), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, (prompt, continuation) in enumerate(sequences):
        whole = torch.tensor([*prompt, *continuation][:-1])
        ids[row, : len(whole)], mask[row, : len(whole)] = whole, 1
    with torch.enable_grad(), torch.autocast(device.type, enabled=False), _frozen(model), _leaf(model) as leaf:
        weights = {n: w.float() for n, w in model.named_parameters() if w.dtype in (torch.float16, torch.bfloat16)}
        inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device), "use_cache": False}
        logits = functional_call(model, weights, kwargs=inputs).logits
        total = logits.new_zeros(())
        for row, (prompt, continuation) in enumerate(sequences):
            rows = logits[row, len(prompt) - 1 : len(prompt) + len(continuation) - 1]
            picked = torch.tensor(continuation, device=rows.device)[:, None]
            total = total + (rows.log_softmax(-1) if normalised else rows).gather(-1, picked).sum()
        (gradient,) = torch.autograd.grad(total, leaf[0])
        found = (leaf[0] * gradient).sum(-1).abs().detach().float().cpu()
    ends = [(len(p), len(p) + len(c) - 1) for p, c in sequences]
    return [nn.functional.pad(found[row, first:last], (0, 1)) for row, (first, last) in enumerate(ends)]


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Without gradients of the weights, which are not wanted and would hold activations."""
    before = [weight for weight in model.parameters() if weight.requires_grad]
    try:
        for weight in before:
            weight.requires_grad_(False)
        yield
    finally:
        for weight in before:
            weight.requires_grad_(True)


@contextmanager
def _leaf(model: PreTrainedModel) -> Iterator[list[Tensor]]:
    """Makes the embeddings of the next pass a leaf of the graph, and hands it over in a list."""
    made: list[Tensor] = []

    def replace(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        made.append(output.detach().requires_grad_())
        return made[-1]

    handle = model.get_input_embeddings().register_forward_hook(replace)
    try:
        yield made
    finally:
        handle.remove()


def _module(model: PreTrainedModel) -> Any:
    return sys.modules[type(model).__module__]


@contextmanager
def _lrp_rules(model: PreTrainedModel) -> Iterator[None]:
    """Lxt's rules in the architecture's module, and what they replaced put back after."""
    module = _module(model)
    targets = importlib.import_module("lxt.efficient.models").DEFAULT_MAP[module]
    with ExitStack() as stack:
        for target in targets:
            stack.callback(_restore, target, dict(vars(target)))
        importlib.import_module("lxt.efficient").monkey_patch(module)
        yield


def _restore(target: Any, before: dict[str, Any]) -> None:
    """Give a class or a module back what it was made of."""
    for name in vars(target).keys() - before.keys():
        delattr(target, name)
    for name, value in before.items():
        if vars(target).get(name) is not value:
            setattr(target, name, value)
