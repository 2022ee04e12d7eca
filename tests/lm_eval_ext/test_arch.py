"""Where blocks and attention are found, what is looked through, and how attention is made eager and put back."""

import pytest
import torch
from families import CONFIGS, tiny
from torch import nn
from transformers import LlamaModel

from lm_eval_ext.arch import attentions, blocks, decoder, eager_attention, plain
from lm_eval_ext.preflight import skeleton
from lm_eval_ext.taps import attention_taps, residual_taps

WITHOUT_ATTENTION = {
    "mamba": "in no block",
    "mamba2": "in no block",
    "falcon_mamba": "in no block",
    "jamba": "in 1 of 3 blocks only",
    "bamba": "in 1 of 3 blocks only",
    "lfm2": "in 1 of 3 blocks only",
    "recurrent_gemma": "in 1 of 3 blocks only",
}


@pytest.mark.parametrize("family", CONFIGS)
def test_blocks_are_found_without_weights(family):
    model = skeleton(CONFIGS[family]())
    found = blocks(model)
    assert len(found) == 3
    assert model.get_parameter(next(n for n, _ in model.named_parameters())).is_meta
    if family not in WITHOUT_ATTENTION:
        for block, attention in zip(found, attentions(model)):
            assert attention in set(block.modules())
            assert "Attention" in type(attention).__name__


@pytest.mark.parametrize("family", WITHOUT_ATTENTION)
def test_what_has_no_attention_in_some_block_is_told(family):
    with pytest.raises(ValueError, match=f"{WITHOUT_ATTENTION[family]}, so it cannot be recorded; leave out"):
        attentions(skeleton(CONFIGS[family]()))


def test_no_list_of_blocks():
    model = tiny("llama")
    model.model.layers = model.model.layers[:2]
    with pytest.raises(ValueError, match="LlamaForCausalLM: no list of 3 transformer blocks found"):
        blocks(model)


def test_a_list_as_long_that_holds_no_blocks_is_passed_over():
    model = tiny("llama")
    norms, others = nn.ModuleList(nn.LayerNorm(4) for _ in range(3)), model.model.layers
    model.model.layers = norms
    model.model.later = others
    assert blocks(model) is others


class Wrapper(nn.Module):
    """What peft gives round a model."""

    def __init__(self, inner):
        super().__init__()
        self.base_model = inner

    def get_base_model(self):
        return self.base_model


def test_wrappers_are_looked_through():
    model = tiny("llama")
    compiled = torch.compile(model)
    for wrapped in (model, compiled, Wrapper(model), torch.compile(Wrapper(model)), nn.DataParallel(model)):
        assert plain(wrapped) is model
        assert blocks(wrapped) is model.model.layers
        assert attentions(wrapped) == [layer.self_attn for layer in model.model.layers]
        assert isinstance(decoder(wrapped), LlamaModel)
    with pytest.raises(ValueError, match="Linear holds no Hugging Face model"):
        plain(nn.Linear(2, 2))


def test_eager_attention_is_put_back():
    model = tiny("llama")
    for _ in range(2):
        with eager_attention(model):
            assert model.config._attn_implementation == "eager"
        assert model.config._attn_implementation == "sdpa"
    with pytest.raises(KeyError), eager_attention(model):
        raise KeyError
    assert model.config._attn_implementation == "sdpa"


def test_attention_code_that_cannot_be_changed_is_told():
    model = tiny("falcon")
    line = r"FalconForCausalLM cannot change .*\(sdpa\).*add attn_implementation=eager"
    with pytest.raises(ValueError, match=line), eager_attention(model):
        pass
    assert model.config._attn_implementation == "sdpa"
    with eager_attention(tiny("falcon", "eager")):
        pass


@pytest.mark.parametrize("family", ["falcon", "falcon_h1", "deepseek_v3"])
def test_taps_of_further_architectures_are_the_models_own(family):
    """Falcon's attention returns its weights only when told to; Falcon-H1's stands beside a state-space part;
    DeepSeek's is compressed."""
    model = tiny(family, "eager")
    ids, states, read, weights = torch.arange(4, 13)[None], {}, {}, {}

    def take(layer, state, before):
        states[layer], read[layer] = state, before

    with torch.no_grad():
        own = model(ids, output_hidden_states=True, output_attentions=True, use_cache=False)
        with (
            residual_taps(model, range(4), take),
            attention_taps(model, range(4), weights.__setitem__),
        ):
            model(ids, use_cache=False)
    assert sorted(states) == [0, 1, 2, 3] and sorted(weights) == [1, 2, 3] and read[0] is None
    for layer in range(3):
        torch.testing.assert_close(states[layer], own.hidden_states[layer])
        torch.testing.assert_close(read[layer + 1], own.hidden_states[layer])
        torch.testing.assert_close(weights[layer + 1], own.attentions[layer])


def test_attention_that_returns_no_weights_is_named():
    model = tiny("llama", "eager")
    inner = model.model.layers[1].self_attn
    forward = inner.forward
    inner.forward = lambda *a, **k: (forward(*a, **k)[0], None)
    refused = pytest.raises(ValueError, match="LlamaAttention of layer 2 returned no attention weights")
    with torch.no_grad(), attention_taps(model, (1, 2), lambda layer, weight: None), refused:
        model(torch.arange(4, 9)[None])
