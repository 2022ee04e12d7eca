"""Layers of tiny random models of many architectures: against truncated models, and what must be refused."""

import copy

import pytest
import torch
import transformers as tf
from torch import nn

from mteb_ext.arch import Opaque, find_layers, watch

S = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
S = S | {"max_position_embeddings": 40}
GROUPED = {**S, "num_key_value_heads": 1, "head_dim": 8}
OPT = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "ffn_dim": 24}
STATE = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 3, "state_size": 4}
T5 = {"vocab_size": 64, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 2}
BART = {"vocab_size": 64, "d_model": 16, "encoder_layers": 3, "decoder_layers": 2, "encoder_ffn_dim": 24}
BART = BART | {"decoder_ffn_dim": 24, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
GPT = {"vocab_size": 64, "n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 40}
DISTIL = {"vocab_size": 64, "dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 24}
MODERN = {"pad_token_id": 0, "cls_token_id": 1, "bos_token_id": 1, "sep_token_id": 2, "eos_token_id": 2}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}

NORMED = {
    "gpt_neox": (tf.GPTNeoXConfig, S),
    "llama": (tf.LlamaConfig, GROUPED),
    "gpt2": (tf.GPT2Config, GPT),
    "qwen3": (tf.Qwen3Config, {**GROUPED, "max_window_layers": 1, "use_sliding_window": True, "sliding_window": 3}),
    "modernbert": (tf.ModernBertConfig, {**S, **MODERN, "global_attn_every_n_layers": 2, "local_attention": 4}),
    "opt": (tf.OPTConfig, {**OPT, "word_embed_proj_dim": 16}),
    "opt, projected": (tf.OPTConfig, {**OPT, "word_embed_proj_dim": 8}),
    "opt, projected and not normed": (tf.OPTConfig, {**OPT, "word_embed_proj_dim": 8, "do_layer_norm_before": False}),
    "mamba": (tf.MambaConfig, STATE),
    "mamba2": (tf.Mamba2Config, {**STATE, "num_heads": 4, "head_dim": 8, "n_groups": 1, "chunk_size": 4}),
    "t5": (tf.T5Config, T5),
    "mbart": (tf.MBartConfig, BART),
    "gemma2": (tf.Gemma2Config, {**GROUPED, "sliding_window": 3}),
    "gemma3": (tf.Gemma3TextConfig, {**GROUPED, "sliding_window": 3}),
    "mistral": (tf.MistralConfig, {**GROUPED, "sliding_window": 3}),
    "qwen3 moe": (tf.Qwen3MoeConfig, {**GROUPED, **MOE}),
    "bloom": (tf.BloomConfig, {"vocab_size": 64, "hidden_size": 16, "n_layer": 3, "n_head": 2}),
    "falcon": (tf.FalconConfig, {k: v for k, v in S.items() if k != "intermediate_size"}),
    "phi": (tf.PhiConfig, S),
}
PLAIN = {
    "bert": (tf.BertConfig, S),
    "roberta": (tf.RobertaConfig, S),
    "mpnet": (tf.MPNetConfig, S),
    "electra": (tf.ElectraConfig, {**S, "embedding_size": 8}),
    "distilbert": (tf.DistilBertConfig, DISTIL),
    "albert": (tf.AlbertConfig, {**S, "embedding_size": 8}),
    "deberta v2": (tf.DebertaV2Config, {**S, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
    "bart": (tf.BartConfig, BART),
}
ZOO = NORMED | PLAIN
IDS = torch.tensor([[7, 9, 5, 23, 60, 11, 8, 30]])


def base(config, weights=None):
    """The base model of a configuration, an encoder if it has one, with the weights it shares with another."""
    torch.manual_seed(0)
    model = (tf.T5EncoderModel if config.model_type == "t5" else tf.AutoModel.from_config)(config)
    model = model.get_encoder() if config.model_type in ("bart", "mbart") else model
    if weights is not None:
        model.load_state_dict({key: weights[key] for key in model.state_dict()})
    model.config.use_cache = False
    return model.eval()


@pytest.fixture(scope="module")
def model_of(perturb):
    made = {}

    def model(name):
        if name not in made:
            kind, options = ZOO[name]
            made[name] = perturb(base(kind(**options)))
        return made[name]

    return model


def truncated(model, depth):
    config = copy.deepcopy(model.config)
    blocks = config.num_hidden_layers
    for key, value in vars(config).items():
        if isinstance(value, list) and len(value) == blocks:
            setattr(config, key, value[:depth])
    config.num_hidden_layers = depth
    return base(config, model.state_dict())


def run(model, **options):
    with torch.inference_mode():
        return model(input_ids=IDS, attention_mask=torch.ones_like(IDS), **options)


def raw(model, layers):
    seen = {}
    with watch(layers.blocks, lambda k, hidden: seen.__setitem__(k, hidden.clone())):
        run(model)
    return [seen[k] for k in range(len(layers.blocks) + 1)]


@pytest.mark.parametrize("name", ZOO)
def test_final_norm_equals_the_model_truncated_at_that_depth(name, model_of):
    model = model_of(name)
    layers = find_layers(model, 3)
    seen = raw(model, layers)
    for depth in (1, 2, 3):
        cut = run(truncated(model, depth)).last_hidden_state
        with torch.inference_mode():
            torch.testing.assert_close(layers.finish(seen[depth]).view_as(cut), cut, rtol=1e-5, atol=1e-6)
    assert bool(layers.tail) == (name in NORMED)
    assert layers.padded


@pytest.mark.parametrize("name", ZOO)
def test_raw_layers_are_the_models_own_hidden_states(name, model_of):
    model = model_of(name)
    seen = raw(model, find_layers(model, 3))
    output = run(model, output_hidden_states=True)
    own, last = output.hidden_states, output.last_hidden_state
    shifted = name.startswith("mamba")
    for k in range(int(shifted), 3):
        torch.testing.assert_close(seen[k], own[k - shifted], rtol=0, atol=0)
    apart = seen[3].shape != last.shape or not torch.allclose(seen[3], last, atol=1e-2)
    assert apart == (name in NORMED)


@pytest.mark.parametrize(
    ("name", "embedded", "norm"),
    [
        ("llama", lambda m: m.embed_tokens(IDS), lambda m: m.norm),
        ("gpt2", lambda m: m.wte(IDS) + m.wpe(torch.arange(8)), lambda m: m.ln_f),
        ("gpt_neox", lambda m: m.embed_in(IDS), lambda m: m.final_layer_norm),
        ("mamba", lambda m: m.embeddings(IDS), lambda m: m.norm_f),
        ("t5", lambda m: m.shared(IDS), lambda m: m.encoder.final_layer_norm),
        ("gemma2", lambda m: m.embed_tokens(IDS), lambda m: m.norm),
        ("bert", lambda m: m.embeddings(IDS), lambda m: nn.Identity()),
    ],
)
def test_layer_zero_is_what_the_first_block_reads(name, embedded, norm, model_of):
    model = model_of(name)
    layers = find_layers(model, 3)
    with torch.inference_mode():
        want = embedded(model)
        torch.testing.assert_close(raw(model, layers)[0], want)
        torch.testing.assert_close(layers.finish(want), norm(model)(want))


@pytest.mark.parametrize("name", ["llama", "mamba", "bert", "albert"])
def test_a_single_block(name, perturb):
    kind, options = ZOO[name]
    model = perturb(base(kind(**{**options, "num_hidden_layers": 1})))
    layers = find_layers(model, 1)
    seen = raw(model, layers)
    with torch.inference_mode():
        torch.testing.assert_close(layers.finish(seen[1]), run(model).last_hidden_state)
    assert not torch.allclose(seen[0], seen[1], atol=1e-2)


def test_blocks_that_take_turns(perturb):
    model = perturb(base(tf.AlbertConfig(**{**S, "num_hidden_layers": 4, "embedding_size": 8, "num_hidden_groups": 2})))
    seen = raw(model, find_layers(model, 4))
    for got, want in zip(seen, run(model, output_hidden_states=True).hidden_states, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (tf.FNetConfig, {k: v for k, v in S.items() if k != "num_attention_heads"}),
        (tf.ConvBertConfig, {**S, "embedding_size": 8, "num_attention_heads": 4}),
        (tf.MobileBertConfig, {**S, "embedding_size": 8, "intra_bottleneck_size": 8, "true_hidden_size": 8}),
        (tf.NystromformerConfig, {**S, "num_landmarks": 4, "segment_means_seq_len": 4}),
    ],
)
def test_models_that_padding_moves_are_told(config, options, perturb):
    assert not find_layers(perturb(base(config(**options))), 3).padded


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["llama", "mamba", "bert", "opt, projected", "qwen3 moe"])
def test_half_precision(name, dtype, model_of):
    layers = find_layers(copy.deepcopy(model_of(name)).to(dtype), 3)
    assert layers.padded and len(layers.blocks) == 3


class Fake(nn.Module):
    """A model of two blocks; `between` is what it does after them, `show` what it returns."""

    def __init__(self, between=lambda h: h, show=None):
        super().__init__()
        self.embed, self.blocks = nn.Embedding(9, 4), nn.ModuleList([nn.Linear(4, 4) for _ in range(2)])
        self.norm, self.between = nn.LayerNorm(4), between
        self.show = show or (lambda states, last: {"last_hidden_state": last, "hidden_states": states})

    def forward(self, input_ids, attention_mask, output_hidden_states=False, return_dict=True):
        states = [self.embed(input_ids)]
        for block in self.blocks:
            states.append(block(states[-1]))
        last = self.norm(self.between(states[-1]))
        return self.show((*states[:-1], last), last)


class Second(nn.Module):
    def forward(self, hidden, other):
        return hidden + other


def two_inputs(fake):
    fake.more = Second()
    fake.between = lambda hidden: fake.more(hidden, torch.ones(4))
    return fake


def test_the_fake_is_understood():
    layers = find_layers(Fake(), 2)
    assert [type(m) for m in layers.tail] == [nn.LayerNorm] and len(layers.blocks) == 2


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Fake(show=lambda states, last: {"last_hidden_state": last}), "does not expose hidden states"),
        (Fake(show=lambda states, last: (last, states)), "no last_hidden_state"),
        (Fake(show=lambda states, last: {"logits": last}), "no last_hidden_state"),
        (
            Fake(show=lambda s, last: {"last_hidden_state": last, "hidden_states": (s[0], s[0] + 1, last)}),
            "no 2 blocks",
        ),
        (Fake(show=lambda s, last: {"last_hidden_state": last, "hidden_states": s[1:]}), "no 2 blocks"),
        (Fake(between=lambda hidden: hidden * 2), "cannot be followed"),
        (two_inputs(Fake()), "reads more than"),
        (Fake(between=lambda hidden: hidden.no), "AttributeError: 'Tensor'"),
        (nn.Sequential(nn.Linear(2, 2)), "TypeError"),
        (tf.ViTModel(tf.ViTConfig(**{k: S[k] for k in list(S)[1:5]}, image_size=4, patch_size=2)), "cannot be called"),
        (tf.XLNetModel(tf.XLNetConfig(vocab_size=64, d_model=16, n_layer=2, n_head=2, d_inner=24)), "no 2 blocks"),
        (tf.BertForMaskedLM(tf.BertConfig(**{**S, "num_hidden_layers": 2})), "without a head is needed"),
        (tf.BertModel(tf.BertConfig(**S)), "no 2 blocks"),
    ],
)
def test_refused_with_the_reason(model, reason):
    with pytest.raises(Opaque, match=reason) as refusal:
        find_layers(model.eval(), 2)
    assert "\n" not in str(refusal.value)
    hooked = any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not (hooked and isinstance(model, Fake))  # transformers leaves hooks of its own


def test_a_pass_that_skips_a_block_is_refused():
    model = Fake().eval()
    layers = find_layers(model, 2)
    with pytest.raises(Opaque, match="1 runs of blocks"), watch(layers.blocks, lambda *_: None):
        model.blocks[0](torch.zeros(1, 1, 4))
    with pytest.raises(Opaque, match="0 runs"), watch(layers.blocks, lambda *_: None):
        pass
    with pytest.raises(KeyError), watch(layers.blocks, lambda *_: None):
        raise KeyError("the model's own error is not hidden")
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
