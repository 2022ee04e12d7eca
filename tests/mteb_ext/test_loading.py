"""Loading weights: what is damaged, missing or too long is refused in one line that names it."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from mteb_ext.arch import Opaque
from mteb_ext.checkpoint import look
from mteb_ext.forward import embed, load
from mteb_ext.shards import View

MEAN = View("mean", "final")


def change(folder, **changes):
    """Change a folder's config.json; None takes an entry out."""
    path = folder / "config.json"
    known = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in known.items() if v is not None}))
    return folder


def loaded(folder, limit=None, dtype="float32"):
    held = look(str(folder))
    return load(held, dtype, limit or held.limit, ("cpu",))


def embedded(runner, texts):
    ((positions, rows),) = embed(runner, texts, [MEAN], progress=False)
    return rows[MEAN][:, np.argsort(positions)]


@pytest.fixture
def copied(tiny, tmp_path):
    """A function (kind) -> a copy of a tiny model's folder that may be changed."""
    return lambda kind="bert": shutil.copytree(tiny(kind), tmp_path / kind)


class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('a pickle ran')",)


def cut(end):
    def cutting(folder):
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:end])

    return cutting


def as_bin(content):
    def writing(folder):
        (folder / "model.safetensors").unlink()
        (folder / "pytorch_model.bin").write_bytes(content)

    return writing


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (cut(-100), "a file of its weights is cut or damaged: .*not fully covered"),
        (cut(20), "cut or damaged: .*header"),
        (cut(0), "cut or damaged: .*header"),
        (as_bin(b"not a file of tensors"), "cut or damaged: no plain file of tensors"),
        (as_bin(pickle.dumps(Evil())), "cut or damaged: no plain file of tensors"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no file named model.safetensors"),
        (lambda folder: change(folder, vocab_size=80), "cannot be loaded"),
        (lambda folder: change(folder, num_hidden_layers=5), "32 of its .* weights are not in its files, the first is"),
    ],
)
def test_weights_that_cannot_be_read(damage, reason, copied):
    folder = copied()
    damage(folder)
    with pytest.raises(ValueError, match=reason) as refusal:
        loaded(folder)
    assert str(refusal.value).startswith("model bert: ") and "\n" not in str(refusal.value)


def test_a_missing_pooler_does_not_matter(copied, tiny):
    folder = copied()
    weights = load_file(folder / "model.safetensors")
    kept = {k: v for k, v in weights.items() if "pooler" not in k}
    assert len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    np.testing.assert_array_equal(*(embedded(loaded(f), ["w1 w2"]) for f in (folder, tiny("bert"))))


def test_weights_of_a_model_with_a_head_are_taken(copied, tiny):
    folder = copied()
    headed = transformers.BertForMaskedLM(transformers.BertConfig.from_pretrained(folder))
    headed.bert.load_state_dict(transformers.AutoModel.from_pretrained(folder).state_dict(), strict=False)
    headed.save_pretrained(folder)
    np.testing.assert_array_equal(*(embedded(loaded(f), ["w1 w2"]) for f in (folder, tiny("bert"))))


def test_only_the_encoder_of_a_t5_is_taken(tiny):
    runner = loaded(tiny("t5"))
    assert type(runner.replicas[0].model).__name__ == "T5EncoderModel"
    assert embedded(runner, ["w1 w2", "w3"]).shape == (4, 2, 16)


def test_the_model_is_in_evaluation_and_keeps_no_cache(tiny):
    model = loaded(tiny("gpt2")).replicas[0].model
    assert not any(module.training for module in model.modules())
    assert not model.config.use_cache


@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        (33, "has 32 positions; max_length=33 is beyond them"),
        (2, "max_length=2 has no room for a text beside 2 special tokens"),
        (1, "max_length=1 has no room"),
    ],
)
def test_limits_that_cannot_be(limit, reason, tiny):
    with pytest.raises(ValueError, match=reason):
        loaded(tiny("bert"), limit)


@pytest.mark.parametrize("kind", ["bert", "roberta", "gpt2", "llama"])
def test_a_text_of_the_longest_length_runs(kind, tiny):
    held = look(str(tiny(kind)))
    runner = load(held, "float32", held.limit, ("cpu",))
    assert held.limit == held.positions == 32
    assert np.isfinite(embedded(runner, ["w1 " * 50])).all()


def test_a_pad_token_beyond_the_models_vocabulary_is_not_used(save, tmp_path):
    runner = loaded(save("llama", tmp_path / "m", options={"pad_token": "<added>"}, vocab_size=57))
    assert runner.tokenizer.pad_token_id == 57
    assert runner.pad == runner.blank == 4
    one, many = embedded(runner, ["w1"]), embedded(runner, ["w1", "w2 w3 w4"])
    np.testing.assert_allclose(one[:, 0], many[:, 0], atol=1e-6)


def test_a_token_beyond_the_models_vocabulary_is_named(save, tmp_path):
    runner = loaded(save("llama", tmp_path / "m", vocab_size=50))
    with pytest.raises(ValueError, match=r"token 56 .':'., and the model knows 50 tokens"):
        embedded(runner, ["w1 query :"])


def test_a_tokenizer_without_any_token_for_a_blank_text(copied, tokenizer):
    folder = copied("llama")
    tokenizer("gpt", eos_token=None).save_pretrained(folder)
    change(folder, eos_token_id=None, bos_token_id=None)
    with pytest.raises(ValueError, match="no BOS, CLS, EOS or pad token for a blank text"):
        loaded(folder)


def test_a_missing_pad_token_is_none_of_the_text(copied, tokenizer):
    folder = copied("llama")
    tokenizer("gpt", bos_token="w39").save_pretrained(folder)
    runner = loaded(folder)
    assert runner.tokenizer.pad_token_id is None and runner.pad == runner.blank == runner.tokenizer.bos_token_id


def test_a_model_that_hides_its_layers_is_refused(tokenizer, tmp_path):
    config = transformers.XLNetConfig(vocab_size=64, d_model=16, n_layer=3, n_head=2, d_inner=24)
    transformers.XLNetModel(config).save_pretrained(tmp_path)
    tokenizer("bert").save_pretrained(tmp_path)
    with pytest.raises(Opaque, match=r"^XLNetModel: no 3 blocks were found"):
        loaded(tmp_path)


def test_a_model_too_large_is_one_clear_line(tiny, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20 GiB")

    monkeypatch.setattr(transformers.AutoModelForTextEncoding, "from_pretrained", full)
    with pytest.raises(ValueError, match=r"^model tiny-bert in float32 does not fit the memory of cpu; take dtype=bfl"):
        loaded(tiny("bert"))
