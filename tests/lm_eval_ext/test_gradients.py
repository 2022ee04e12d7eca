"""Backward passes: against finite differences and a slow graph, with the model left as it was."""

import copy
import sys
import types

import pytest
import torch
from transformers.models.llama import modeling_llama

from lm_eval_ext.gradients import check_gradients, check_lrp, input_gradient, lrp

CPU = torch.device("cpu")
TEXTS = [([5, 6, 7], [8, 9, 10]), ([11] * 9, [12, 13, 14, 15, 16]), ([4], [30])]
FAMILIES = ["llama", "gpt2", "neox", "gemma2", "mamba", "qwen3_moe"]


def log_likelihood(model, embedded, prompt, answer):
    rows = model(inputs_embeds=embedded, use_cache=False).logits[0].log_softmax(-1)
    return sum(rows[len(prompt) - 1 + t, token] for t, token in enumerate(answer))


def test_input_gradient_by_finite_differences(tiny_model):
    """x . dF/dx is the derivative of F where the embedding is made longer; GPT-2 keeps double precision throughout."""
    model, (prompt, answer) = tiny_model("gpt2").double(), TEXTS[0]
    found = input_gradient(model, [(prompt, answer)], CPU)[0]
    embedded, step = model.get_input_embeddings()(torch.tensor([prompt + answer])).detach(), 1e-5
    with torch.no_grad():
        for t in range(3):
            ends = []
            for sign in (1, -1):
                moved = embedded.clone()
                moved[0, 3 + t] *= 1 + sign * step
                ends.append(float(log_likelihood(model, moved, prompt, answer)))
            assert float(found[t]) == pytest.approx(abs(ends[0] - ends[1]) / (2 * step), rel=1e-5, abs=1e-8)
    assert found[2] == 0  # nothing of the answer comes after its last token
    assert (found[:2] > 0).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_equals_its_texts_one_by_one(family, tiny_model):
    model = tiny_model(family)
    together = input_gradient(model, TEXTS, CPU)
    for one, text in zip(together, TEXTS):
        assert one.shape == (len(text[1]),)
        torch.testing.assert_close(one, input_gradient(model, [text], CPU)[0], rtol=1e-3, atol=1e-4)


def test_half_precision_is_computed_in_single(tiny_model):
    """Of weights that half precision holds exactly, nothing is lost."""
    half = tiny_model("llama").bfloat16()
    exact = input_gradient(tiny_model("llama").bfloat16().float(), TEXTS, CPU)
    for one, other in zip(input_gradient(half, TEXTS, CPU), exact):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert half.dtype == torch.bfloat16


def test_the_model_is_left_as_it_was(tiny_model):
    model = tiny_model("llama")
    model.lm_head.weight.requires_grad_(False)
    wanted = [w.requires_grad for w in model.parameters()]
    with torch.no_grad():
        before = model(torch.tensor([[5, 6, 7]])).logits
        input_gradient(model, TEXTS, CPU)
        assert torch.equal(model(torch.tensor([[5, 6, 7]])).logits, before)
    assert [w.requires_grad for w in model.parameters()] == wanted
    assert all(w.grad is None for w in model.parameters())
    assert not model.get_input_embeddings()._forward_hooks


def test_quantised_and_offloaded_weights_are_refused(tiny_model):
    model = tiny_model("llama")
    check_gradients(model)
    model.config.quantization_config = {"quant_method": "bitsandbytes"}
    with pytest.raises(ValueError, match=r"LlamaForCausalLM: its weights are quantised.*leave out signals"):
        check_gradients(model)
    with pytest.raises(ValueError, match="offloaded"):
        check_gradients(tiny_model("llama").to("meta"))


def test_lrp_without_lxt_is_refused_with_remedy_and_licence(tiny_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "lxt", None)
    with pytest.raises(ValueError, match=r"lxt, and it.*pip install lxt.*licence.*personal and scientific") as problem:
        check_lrp(tiny_model("llama"))
    assert "\n" not in str(problem.value)


@pytest.fixture
def rules(monkeypatch):
    """A stand-in for lxt whose one rule halves what flows back through an MLP."""

    class Halved(torch.autograd.Function):
        @staticmethod
        def forward(_ctx, value):
            return value.clone()

        @staticmethod
        def backward(_ctx, gradient):
            return gradient / 2

    original = modeling_llama.LlamaMLP.forward

    def monkey_patch(module):
        module.LlamaMLP.forward = lambda self, x: Halved.apply(original(self, x))
        module.LlamaRMSNorm.extra_repr, module.LlamaRMSNorm.patched = str, True
        module.eager_attention_forward = None
        module.ALL_ATTENTION_FUNCTIONS = copy.copy(module.ALL_ATTENTION_FUNCTIONS)

    models = types.ModuleType("lxt.efficient.models")
    targets = (modeling_llama.LlamaMLP, modeling_llama.LlamaRMSNorm, modeling_llama)
    models.DEFAULT_MAP = {modeling_llama: dict.fromkeys(targets)}
    efficient = types.ModuleType("lxt.efficient")
    efficient.monkey_patch, efficient.models = monkey_patch, models
    for name, module in (("lxt", types.ModuleType("lxt")), ("lxt.efficient", efficient), (models.__name__, models)):
        monkeypatch.setitem(sys.modules, name, module)
    return original


def test_lrp_applies_the_rules_and_takes_them_back(tiny_model, rules):
    model, (prompt, answer) = tiny_model("llama"), TEXTS[0]
    check_lrp(model)
    kept = modeling_llama.eager_attention_forward, modeling_llama.ALL_ATTENTION_FUNCTIONS
    norm = dict(vars(modeling_llama.LlamaRMSNorm))
    found = lrp(model, TEXTS, CPU)
    assert modeling_llama.LlamaMLP.forward is rules
    assert dict(vars(modeling_llama.LlamaRMSNorm)) == norm
    assert (modeling_llama.eager_attention_forward, modeling_llama.ALL_ATTENTION_FUNCTIONS) == kept

    embedded = model.get_input_embeddings()(torch.tensor([prompt + answer])).detach().requires_grad_()
    for block in model.model.layers:
        block.mlp.register_full_backward_hook(lambda _m, into, _out: (into[0] / 2,))
    logits = model(inputs_embeds=embedded, use_cache=False).logits[0]
    total = sum(logits[len(prompt) - 1 + t, token] for t, token in enumerate(answer))
    (gradient,) = torch.autograd.grad(total, embedded)
    torch.testing.assert_close(found[0], (embedded * gradient)[0, 3:].sum(-1).abs().detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("rules")
def test_lrp_refuses_an_architecture_without_rules(tiny_model):
    with pytest.raises(ValueError, match=r"no rules for GPT2LMHeadModel.*for llama.*leave out signal lrp"):
        check_lrp(tiny_model("gpt2"))


def test_lrp_of_lxt_itself(tiny_model):
    """Relevance flows through lxt's own rules, and the forward pass and later gradients are the model's own."""
    pytest.importorskip(
        "lxt.efficient", reason="lxt is not installed, or not for this transformers", exc_type=ImportError
    )
    model = tiny_model("llama")
    plain = input_gradient(model, TEXTS, CPU)
    relevance = lrp(model, TEXTS, CPU)
    assert all(one.isfinite().all() and one.shape == other.shape for one, other in zip(relevance, plain))
    assert not torch.allclose(relevance[1], plain[1], rtol=0.05)
    for one, other in zip(input_gradient(model, TEXTS, CPU), plain):
        assert torch.equal(one, other)
