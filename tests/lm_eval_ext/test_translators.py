"""Tuned lenses from files: what is read, what is refused, and what the manifest says."""

import hashlib

import pytest
import torch
from families import tiny
from safetensors.torch import save_file

from lm_eval_ext.model import HFStoreLM
from lm_eval_ext.translators import Translators
from metrics.store import open_store

TENSORS = {
    f"{k}.{kind}": torch.ones(*shape) * k for k in range(3) for kind, shape in (("weight", (32, 32)), ("bias", (32,)))
}


@pytest.fixture
def file(tmp_path):
    save_file(TENSORS, tmp_path / "lens.safetensors")
    return tmp_path / "lens.safetensors"


def test_the_correction_is_added_to_the_state(file):
    states = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    read = Translators(file)
    torch.testing.assert_close(read(2, states), states + 2 * states.sum(-1, keepdim=True) + 2, rtol=1e-5, atol=1e-5)
    assert torch.equal(read(3, states), states)  # the last layer


def test_it_is_computed_in_float32_and_cast_to_the_states(file):
    states = torch.randn(4, 32, generator=torch.Generator().manual_seed(0)).bfloat16()
    exact = states.double() + states.double().sum(-1, keepdim=True) + 1
    made = Translators(file)(1, states)
    assert made.dtype == torch.bfloat16
    assert torch.equal(made, exact.float().bfloat16())


def test_a_folder_of_the_tuned_lens_package(tmp_path, file):
    folder = tmp_path / "package"
    folder.mkdir()
    torch.save({n: t for n, t in TENSORS.items() if n.endswith("weight")}, folder / "params.pt")  # bias=False
    (folder / "config.json").write_text("{}")
    states = torch.randn(4, 32)
    read = Translators(folder)
    torch.testing.assert_close(read(1, states), states + states.sum(-1, keepdim=True), rtol=1e-5, atol=1e-5)
    assert read.describe() == {
        "file": "params.pt",
        "sha256": hashlib.sha256((folder / "params.pt").read_bytes()).hexdigest(),
    }


class Trap:
    def __reduce__(self):
        return (print, ("unpickled",))


def test_objects_are_never_unpickled(tmp_path, capsys):
    torch.save({"0.weight": Trap()}, tmp_path / "params.pt")
    with pytest.raises(ValueError, match="neither safetensors nor plain tensors"):
        Translators(tmp_path)
    assert "unpickled" not in capsys.readouterr().out


def test_files_that_hold_something_else(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"lens=.*nowhere: .* does not exist; give a safetensors file"):
        Translators(tmp_path / "nowhere")
    save_file({"model.norm.weight": torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"holds model.norm.weight, where 'K.weight' and 'K.bias'"):
        Translators(tmp_path / "model.safetensors")
    (tmp_path / "text.safetensors").write_text("no tensors")
    with pytest.raises(ValueError, match="neither safetensors nor plain tensors"):
        Translators(tmp_path / "text.safetensors")


@pytest.mark.parametrize(
    ("blocks", "dim", "layers", "says"),
    [
        (3, 16, (0, 1), r"'0.bias' has shape \[32\], not \[16\]|'0.weight' has shape \[32, 32\], not \[16, 16\]"),
        (2, 32, (0, 1), r"'2.bias' is beyond layer 1, the last that has one here"),
        (9, 32, (0, 4, 9), r"no '4.weight' for layer 4; give translators of all recorded layers"),
    ],
)
def test_translators_of_another_model_are_refused(file, blocks, dim, layers, says):
    with pytest.raises(ValueError, match=says) as problem:
        Translators(file).check(blocks, dim, layers)
    assert "\n" not in str(problem.value)


def test_a_run_with_a_tuned_lens(file, tmp_path, tokenizer, instance, words_of):
    made = {}
    for name, more in (("plain", {}), ("tuned", {"lens": str(file)})):
        lm = HFStoreLM(
            tiny("llama"),
            tokenizer=tokenizer,
            device="cpu",
            batch_size=2,
            store=tmp_path / name,
            metrics="lens",
            **more,
        )
        lm.loglikelihood([instance("loglikelihood", (words_of(4, 1), " " + words_of(3, 7)), 0)], disable_tqdm=True)
        lm.close()
        store = open_store(tmp_path / name)
        made[name] = next(store.records(["lens_entropy"])).signals["lens_entropy"]
        noted = store.manifest.get("lens")
        assert noted == (Translators(file).describe() if more else None)
    assert torch.equal(made["plain"][-1], made["tuned"][-1])
    assert not torch.allclose(made["plain"][1:-1], made["tuned"][1:-1], atol=1e-3)


def test_a_lens_without_its_signals_is_refused(file, tmp_path, tokenizer):
    with pytest.raises(ValueError, match="but no signal of the lens is recorded; add metrics=lens"):
        HFStoreLM(tiny("llama"), tokenizer=tokenizer, device="cpu", store=tmp_path / "s", lens=str(file))
