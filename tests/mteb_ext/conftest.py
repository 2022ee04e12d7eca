"""Tiny random models in folders, with a word tokenizer, made once a session."""

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "<eos>"]
WORDS = SPECIAL + [f"w{i}" for i in range(40)] + [f"W{i}" for i in range(10)] + ["query", ":"]
SIZE = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
KINDS = {
    "bert": (transformers.BertConfig, {**SIZE, "max_position_embeddings": 32}),
    "roberta": (transformers.RobertaConfig, {**SIZE, "max_position_embeddings": 34, "pad_token_id": 1}),
    "llama": (transformers.LlamaConfig, {**SIZE, "num_key_value_heads": 1, "max_position_embeddings": 32}),
    "gpt2": (
        transformers.GPT2Config,
        {"vocab_size": 64, "n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 32},
    ),
    "t5": (
        transformers.T5Config,
        {"vocab_size": 64, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 3, "num_decoder_layers": 2},
    ),
    "mamba": (
        transformers.MambaConfig,
        {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 3, "state_size": 4},
    ),
    "mobilebert": (
        transformers.MobileBertConfig,
        {**SIZE, "embedding_size": 8, "intra_bottleneck_size": 8, "true_hidden_size": 8},
    ),
}


@pytest.fixture(scope="session")
def perturb():
    """A function that moves every parameter of a model, so that no norm is the identity and no bias zero."""

    def moved(model, size=0.2):
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(size * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))
        return model.eval()

    return moved


@pytest.fixture(scope="session")
def tokenizer():
    """A function (style) -> a tokenizer of words: "bert" frames a text by [CLS] and [SEP], "gpt" adds nothing."""

    def made(style, **options):
        inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
        inner.pre_tokenizer = pre_tokenizers.Whitespace()
        if style == "gpt":
            return PreTrainedTokenizerFast(tokenizer_object=inner, **{"eos_token": "<eos>", **options})
        ends = [("[CLS]", 2), ("[SEP]", 3)]
        inner.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
        named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
        return PreTrainedTokenizerFast(tokenizer_object=inner, **{**named, **options})

    return made


@pytest.fixture(scope="session")
def save(perturb, tokenizer):
    """A function that writes a tiny model of a kind, and its tokenizer, into a folder."""

    def saved(kind, folder, *, style=None, dtype=torch.float32, options=None, **changes):
        config, size = KINDS[kind]
        torch.manual_seed(0)
        model = perturb(transformers.AutoModel.from_config(config(**{**size, **changes})))
        model.to(dtype).save_pretrained(folder)
        style = style or ("gpt" if kind in ("llama", "gpt2", "mamba") else "bert")
        tokenizer(style, **(options or {})).save_pretrained(folder)
        return folder

    return saved


@pytest.fixture(scope="session")
def tiny(save, tmp_path_factory):
    """A function (kind) -> the folder of a tiny model, written once; it must not be changed."""
    made = {}

    def folder(kind):
        if kind not in made:
            made[kind] = save(kind, tmp_path_factory.mktemp(kind) / f"tiny-{kind}")
        return made[kind]

    return folder
