"""Where weights go: straight to their device, copied from there, spread over GPUs, never to the CPU instead."""

import json
import shutil

import pytest
import torch

from mteb_ext import loading
from mteb_ext.checkpoint import look
from mteb_ext.forward import load

GPUS = ("cuda:0", "cuda:2")
KINDS = ["bert", "roberta", "llama", "gpt2", "t5", "mamba", "mobilebert"]


class Places(list):
    """What `_load_model` was told of places, and the map of devices that its model says it has."""

    parts = None


@pytest.fixture
def places(monkeypatch):
    """GPUs that are the CPU."""
    told, plain = Places(), loading._load_model

    def faked(checkpoint, auto, dtype, where):
        told.append(where)
        model = plain(checkpoint, auto, dtype, {})
        model.hf_device_map = told.parts
        return model

    monkeypatch.setattr(loading, "_load_model", faked)
    monkeypatch.setattr(loading, "copied", lambda model, device: told.append(device) or model)
    return told


def memory(monkeypatch, **bytes_of):
    free = {int(name.removeprefix("gpu")): size for name, size in bytes_of.items()}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: (free[number], 10 * free[number]))


def size_of(folder):
    return sum(p.numel() * 4 for p in load(look(str(folder)), "float32", 16, ("cpu",)).replicas[0].model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_the_size_is_known_before_weights_are_read(kind, tiny, monkeypatch):
    checkpoint = look(str(tiny(kind)))
    config, auto = loading._class_of(checkpoint)
    want = size_of(tiny(kind))
    assert loading._size(checkpoint, config, auto, "float32") == want
    assert loading._size(checkpoint, config, auto, "bfloat16") == want / 2


def test_a_model_that_fits_is_read_once_and_copied(tiny, places, monkeypatch):
    memory(monkeypatch, gpu0=10**9, gpu2=10**9)
    runner = load(look(str(tiny("bert"))), "float32", 16, GPUS)
    assert places == [{"device_map": {"": "cuda:0"}}, "cuda:2"]
    assert [replica.device for replica in runner.replicas] == [torch.device(d) for d in GPUS]


def test_a_model_larger_than_one_gpu_is_spread_when_it_is_read(tiny, places, monkeypatch):
    size = size_of(tiny("bert"))
    places.clear()
    places.parts = {"embeddings": 0, "encoder": 2}
    memory(monkeypatch, gpu0=2 * size, gpu2=size)  # one of them has not the room
    runner = load(look(str(tiny("bert"))), "float32", 16, GPUS)
    assert places == [{"device_map": "auto", "max_memory": {0: int(0.8 * 2 * size), 2: int(0.8 * size)}}]
    assert len(runner.replicas) == 1


@pytest.mark.parametrize("place", ["cpu", "disk", 1])
def test_nothing_is_left_elsewhere(tiny, places, monkeypatch, place):
    size = size_of(tiny("bert"))
    places.parts = {"embeddings": 0, "encoder": place, "pooler": 2}
    memory(monkeypatch, gpu0=size, gpu2=size)
    with pytest.raises(
        ValueError, match=rf"^model tiny-bert: 1 of its 3 parts find no room on the 2 GPUs, .*on {place};"
    ):
        load(look(str(tiny("bert"))), "float32", 16, GPUS)


def test_a_model_larger_than_all_is_refused_before_it_is_read(tiny, places, monkeypatch):
    size = size_of(tiny("bert"))
    places.clear()
    memory(monkeypatch, gpu0=size // 2, gpu2=size // 2)
    with pytest.raises(ValueError, match=r"^model tiny-bert in float32 takes 0\.0 GiB, and .* of cuda:0, cuda:2; take"):
        load(look(str(tiny("bert"))), "float32", 16, GPUS)
    assert places == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_gives_the_same_and_shares_nothing(kind, tiny):
    first = load(look(str(tiny(kind))), "float32", 16, ("cpu",)).replicas[0].model
    second = loading.copied(first, "cpu")
    tokens = torch.tensor([[6, 7, 8, 9]])
    with torch.inference_mode():
        want, found = (m(input_ids=tokens, attention_mask=torch.ones_like(tokens))[0] for m in (first, second))
    torch.testing.assert_close(found, want, rtol=0, atol=0)
    mine, others = ({t.data_ptr() for t in (*m.parameters(), *m.buffers()) if t.numel()} for m in (first, second))
    assert len(mine) == len(others) and not mine & others
    named, copies = (list(m.named_parameters(remove_duplicate=False)) for m in (first, second))
    assert [(n, p.requires_grad) for n, p in named] == [(n, p.requires_grad) for n, p in copies]
    assert not any(module.training for module in second.modules())


def test_a_copy_goes_straight_to_its_device(tiny):
    first = load(look(str(tiny("bert"))), "float32", 16, ("cpu",)).replicas[0].model
    second = loading.copied(first, "meta")
    assert {t.device.type for t in (*second.parameters(), *second.buffers())} == {"meta"}
    assert {t.device.type for t in (*first.parameters(), *first.buffers())} == {"cpu"}


OWN = """
from transformers import {kind}Model

class Own({kind}Model):
    pass
"""


@pytest.mark.parametrize(
    ("kind", "name", "known"), [("bert", "Bert", True), ("roberta", "Roberta", True), ("llama", "Llama", False)]
)
def test_a_models_own_code_is_taken_where_it_is_trusted(kind, name, known, tiny, tmp_path):
    folder = shutil.copytree(tiny(kind), tmp_path / f"own-{kind}")
    config = json.loads((folder / "config.json").read_text())
    assert (type(loading._class_of(look(str(folder)))[0]) in loading.MODEL_FOR_TEXT_ENCODING_MAPPING) == known
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": f"own_{kind}.Own"}}))
    (folder / f"own_{kind}.py").write_text(OWN.format(kind=name))
    for trusted, want in ((False, f"{name}Model"), (True, "Own")):
        runner = load(look(str(folder), trust_remote_code=trusted), "float32", 16, ("cpu",))
        assert type(runner.replicas[0].model).__name__ == want
