"""What cannot be recorded is refused before any work: from the configuration, then by a pass over a few tokens."""

import json

import pytest
import torch
import transformers
from families import CONFIGS, tiny
from transformers import BartConfig, BertConfig, LlamaModel, T5Config

from lm_eval_ext.model import HFStoreLM
from lm_eval_ext.preflight import check_config, check_model, probe
from metrics.plan import make_plan

STANDARD = make_plan("standard")
HIDDEN = make_plan("standard", "hidden_norm")
ATTENTION = make_plan("standard", "attention_diagonal")
SMALL = {"vocab_size": 48, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}

REFUSED = {
    "t5": (T5Config(vocab_size=48, d_model=16, num_layers=1, num_heads=2), "t5 is no decoder, .* use --model hf"),
    "bart": (
        BartConfig(vocab_size=48, d_model=16, encoder_layers=1, decoder_layers=1),
        "bart is no decoder, .* use --model hf",
    ),
    "bert": (BertConfig(**SMALL), r"BertLMHeadModel is an encoder \(is_decoder=False\), .* use --model hf"),
    "clip": (transformers.CLIPVisionConfig(), "clip_vision_model has no language-model head in transformers"),
}


def save(config, folder):
    config.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("kind", REFUSED)
def test_no_decoder_is_refused_from_its_configuration_alone(kind, tmp_path):
    """The folder holds neither tokenizer nor weights, so nothing else can have been read."""
    config, line = REFUSED[kind]
    model = save(config, tmp_path / "model")
    with pytest.raises(ValueError, match=line):
        HFStoreLM(model, store=tmp_path / "s", device="cpu")
    assert not (tmp_path / "s").exists()


def test_an_encoder_made_a_decoder_is_one():
    check_config(BertConfig(**SMALL, is_decoder=True), ATTENTION)


@pytest.mark.parametrize("family", ["mamba", "mamba2", "jamba", "bamba", "lfm2", "recurrent_gemma"])
def test_attention_that_is_not_there_is_refused_from_the_configuration(family, tmp_path):
    model = save(CONFIGS[family](), tmp_path / "model")
    with pytest.raises(ValueError, match=r"has attention in .*, so it cannot be recorded; leave out metrics"):
        HFStoreLM(model, store=tmp_path / "s", device="cpu", signals="attention_diagonal")
    assert not (tmp_path / "s").exists()
    check_config(CONFIGS[family](), HIDDEN)
    check_config(CONFIGS[family](), STANDARD)


def test_on_the_command_line_it_is_one_line_and_status_2(tmp_path, monkeypatch, capsys):
    model = save(CONFIGS["mamba"](), tmp_path / "model")
    monkeypatch.setattr("sys.argv", ["/usr/bin/lm_eval"])
    with pytest.raises(SystemExit) as end:
        HFStoreLM(model, store=tmp_path / "s", device="cpu", signals="attention_diagonal")
    assert end.value.code == 2
    assert [row for row in capsys.readouterr().err.splitlines() if row.startswith("hf-store:")] == [
        "hf-store: MambaForCausalLM has attention in no block, so it cannot be recorded; leave out metrics and signals "
        "that need attention (metrics=standard and signals of hidden states do not)"
    ]
    assert not (tmp_path / "s").exists()


def test_code_from_a_repository_is_left_to_the_loaded_model():
    config = CONFIGS["mamba"]()
    config.auto_map = {"AutoModelForCausalLM": "modeling.Custom"}
    check_config(config, ATTENTION)
    with pytest.raises(ValueError, match="no block"):
        check_model(tiny("mamba"), ATTENTION)


def test_a_model_without_head_is_refused():
    with pytest.raises(ValueError, match="LlamaModel has no language-model head"):
        check_model(LlamaModel(CONFIGS["llama"]()), STANDARD)


def test_checking_a_configuration_moves_no_random_number_and_changes_nothing():
    config = CONFIGS["llama"]()
    before, told = torch.get_rng_state(), json.dumps(config.to_dict(), default=str)
    check_config(config, ATTENTION)
    assert torch.equal(before, torch.get_rng_state())
    assert json.dumps(config.to_dict(), default=str) == told


# ---------------------------------------------------------------- what only a pass can tell


@pytest.mark.parametrize("family", ["gpt2", "opt", "gpt_oss", "falcon_h1", "deepseek_v3"])
def test_the_probe_passes_what_fits_and_leaves_no_trace(family):
    model = tiny(family)
    code = model.config._attn_implementation
    probe(model, ATTENTION, range(4))
    probe(model, HIDDEN, (0, 2))
    assert model.config._attn_implementation == code
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_the_probe_does_nothing_for_the_logits(monkeypatch):
    model = tiny("llama")
    monkeypatch.setattr(model, "forward", lambda **_: pytest.fail("called"))
    probe(model, STANDARD, ())


def test_states_that_are_not_one_a_token_are_refused():
    model = tiny("gemma3n")
    check_model(model, HIDDEN)
    with pytest.raises(ValueError, match=r"Gemma3nForCausalLM: layer 0 is no state a token \(shape \[4, 1, 3, 32\]\)"):
        probe(model, HIDDEN, range(4))


def test_blocks_that_do_not_follow_each_other_are_refused():
    model = tiny("llama")
    model.model.layers[1].register_forward_pre_hook(lambda m, args: (args[0] + 1, *args[1:]))
    with pytest.raises(ValueError, match="block 2 does not read what block 1 returns"):
        probe(model, HIDDEN, range(4))


WRONG = {
    "has shape": lambda w: w[..., :2],
    "attends to later positions": lambda w: torch.full_like(w, 1 / 3),
    "is not made of shares of one": lambda w: w * 2,
    "blocks have 2 to 4 heads": lambda w: w[:, :2],
}


@pytest.mark.parametrize("line", WRONG)
def test_attention_that_is_none_is_refused(line):
    model = tiny("llama", "eager")
    inner = model.model.layers[1].self_attn
    inner.register_forward_hook(lambda m, args, out: (out[0], WRONG[line](out[1])))
    with pytest.raises(ValueError, match=line):
        probe(model, ATTENTION, range(4))


def test_a_model_of_nans_is_not_refused():
    """It is recorded as it is; what it answers is counted elsewhere."""
    model = tiny("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.fill_(torch.nan)
    probe(model, ATTENTION, range(4))
