"""Tiny random decoders, one of each architecture, made from its configuration; the same weights each time."""

import torch
from transformers import (
    AutoModelForCausalLM,
    BambaConfig,
    DeepseekV3Config,
    FalconConfig,
    FalconH1Config,
    FalconMambaConfig,
    Gemma2Config,
    Gemma3nTextConfig,
    GPT2Config,
    GPTNeoXConfig,
    GptOssConfig,
    JambaConfig,
    Lfm2Config,
    LlamaConfig,
    Mamba2Config,
    MambaConfig,
    MistralConfig,
    OPTConfig,
    Phi3Config,
    Qwen3Config,
    Qwen3MoeConfig,
    RecurrentGemmaConfig,
)

VOCAB, CONTEXT, WINDOW = 48, 64, 5
RECURRENT = ("mamba", "mamba2", "falcon_mamba")
IDS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 3, "vocab_size": VOCAB}
SIZES = {**IDS, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
GATED = {**SIZES, "intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": CONTEXT}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8}
MAMBA = {"mamba_d_state": 8, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1}

CONFIGS = {
    "llama": lambda: LlamaConfig(**GATED),
    "neox": lambda: GPTNeoXConfig(**SIZES, intermediate_size=48, max_position_embeddings=CONTEXT),
    "gpt2": lambda: GPT2Config(**IDS, n_embd=32, n_layer=3, n_head=4, n_positions=CONTEXT),
    "opt": lambda: OPTConfig(**SIZES, ffn_dim=48, max_position_embeddings=CONTEXT, word_embed_proj_dim=32),
    "mistral": lambda: MistralConfig(**GATED, sliding_window=WINDOW),
    "phi3": lambda: Phi3Config(**GATED),
    "qwen3": lambda: Qwen3Config(**GATED, head_dim=8),
    "qwen3_moe": lambda: Qwen3MoeConfig(**GATED, **EXPERTS, head_dim=8, num_experts=4),
    "gemma2": lambda: Gemma2Config(  # caps low enough to tell
        **GATED,
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=WINDOW,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0,
    ),
    "gpt_oss": lambda: GptOssConfig(
        **GATED, head_dim=8, num_local_experts=4, num_experts_per_tok=2, sliding_window=WINDOW
    ),
    "mamba": lambda: MambaConfig(**IDS, hidden_size=32, num_hidden_layers=3, state_size=8),
    # beside those that the tests of architectures go through in full
    "deepseek_v3": lambda: DeepseekV3Config(
        **{**GATED, "num_key_value_heads": 4}, **EXPERTS, **LATENT, n_routed_experts=4, n_group=1, topk_group=1
    ),
    "falcon": lambda: FalconConfig(**SIZES),
    "falcon_h1": lambda: FalconH1Config(**GATED, **MAMBA, mamba_d_ssm=64, head_dim=8),
    "falcon_mamba": lambda: FalconMambaConfig(**IDS, hidden_size=32, num_hidden_layers=3, state_size=8),
    "mamba2": lambda: Mamba2Config(
        **IDS, hidden_size=32, num_hidden_layers=3, state_size=8, num_heads=8, head_dim=8, n_groups=1
    ),
    "jamba": lambda: JambaConfig(
        **GATED, attn_layer_period=2, attn_layer_offset=1, num_experts=2, num_experts_per_tok=1, mamba_d_state=8
    ),
    "bamba": lambda: BambaConfig(**GATED, **MAMBA, attn_layer_indices=[1]),
    "lfm2": lambda: Lfm2Config(**GATED, layer_types=["conv", "full_attention", "conv"]),
    "recurrent_gemma": lambda: RecurrentGemmaConfig(**GATED, lru_width=32, attention_window_size=8, head_dim=8),
    "gemma3n": lambda: Gemma3nTextConfig(
        **{**GATED, "intermediate_size": [48] * 3},
        head_dim=8,
        sliding_window=WINDOW,
        hidden_size_per_layer_input=8,
        vocab_size_per_layer_input=VOCAB,
        laurel_rank=4,
        num_kv_shared_layers=0,
        layer_types=["sliding_attention", "full_attention", "full_attention"],
        activation_sparsity_pattern=[0.0] * 3,
    ),
}


def tiny(family, attention="sdpa"):
    """The decoder in evaluation mode, weights scaled so that its distributions are far from uniform.

    `attention` is the code asked for; architectures that have none but eager (Gemma-2, gpt-oss) get that.
    """
    torch.manual_seed(11)
    config = CONFIGS[family]()
    offered = attention if AutoModelForCausalLM._model_mapping[type(config)]._supports_sdpa else None
    model = AutoModelForCausalLM.from_config(config, attn_implementation=offered).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("sinks"):
                weight.copy_(torch.randn_like(weight))
            elif weight.ndim > 1 and not name.endswith("A_log"):
                weight.mul_(2 if family in RECURRENT else 8)
    return model
