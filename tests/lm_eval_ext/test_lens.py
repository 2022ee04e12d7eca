"""The lens is the model's own: its logits at the last layer, those of the model cut off elsewhere, in every family."""

import copy

import pytest
import torch
from families import CONFIGS, tiny
from torch import nn

from lm_eval_ext import lens as module
from lm_eval_ext.arch import blocks
from lm_eval_ext.arguments import TRANSFORMERS
from lm_eval_ext.forced import ForcedPass
from lm_eval_ext.lens import Lens, check, lens_signals
from lm_eval_ext.preflight import probe
from lm_eval_ext.taps import residual_taps
from lm_eval_ext.translators import Translators
from metrics.plan import derive, make_plan

FAMILIES = ("llama", "neox", "gpt2", "opt", "mistral", "phi3", "qwen3", "qwen3_moe", "gemma2", "gpt_oss", "mamba")
FURTHER = tuple(f for f in CONFIGS if f not in (*FAMILIES, "gemma3n"))
PLAN = make_plan((), "lens")
IDS = torch.tensor([[5, 9, 17, 4, 30, 8, 21]])


@torch.no_grad()
def seen(model, ids=IDS):
    """States by layer ``[position, dim]`` and the model's own logits."""
    states = {}
    with residual_taps(model, range(len(blocks(model)) + 1), lambda layer, state, _: states.update({layer: state[0]})):
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0]
    return states, logits


def cut(model, depth):
    """The model of the first `depth` blocks, with the same weights."""
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = depth
    if "layer_types" in config.__dict__:
        config.layer_types = config.layer_types[:depth]
    short = type(model)(config).eval()
    weights = {n: w for n, w in model.state_dict().items() if n in short.state_dict()}
    short.load_state_dict(weights, strict=True)
    return short


@pytest.mark.parametrize("family", (*FAMILIES, *FURTHER))
def test_at_the_last_layer_it_is_the_model(family):
    if family == "jamba" and TRANSFORMERS < 5:
        pytest.skip("transformers 4 runs Jamba on a CUDA device only")
    model = tiny(family)
    states, logits = seen(model)
    with torch.no_grad():
        found = Lens(model).look(states)
    assert found.shape == (len(states), *logits.shape)
    torch.testing.assert_close(found[-1], logits, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found[-2], logits, atol=1e-2)


@pytest.mark.parametrize("family", FAMILIES)
def test_at_an_inner_layer_it_is_the_model_cut_off_there(family):
    model = tiny(family)
    states, _ = seen(model)
    with torch.no_grad():
        found = Lens(model).look(states)
    for depth in (1, 2):
        _, logits = seen(cut(model, depth))
        torch.testing.assert_close(found[depth], logits, rtol=1e-4, atol=1e-4)


def test_a_soft_cap_is_applied_at_every_layer():
    model = tiny("gemma2")
    with torch.no_grad():
        found = Lens(model).look(seen(model)[0])
    assert found.abs().amax(-1).amax(-1).le(3.0).all()  # final_logit_softcapping of the test's model
    assert found[0].abs().max() > 2.0


def test_the_model_is_left_as_it_was():
    model = tiny("llama")
    before, logits = seen(model)
    lens = Lens(model)
    with torch.no_grad():
        lens.look(before)
        with pytest.raises(RuntimeError):
            lens.logits(torch.zeros(2, 5))  # not as wide as the model
    assert all("forward" not in block.__dict__ for block in blocks(model))
    assert torch.equal(seen(model)[1], logits)


def test_a_forward_that_was_put_on_a_block_stays():
    """So accelerate offloads weights."""
    model = tiny("llama")
    block = blocks(model)[0]
    own = block.forward
    block.forward = hooked = lambda *a, **k: own(*a, **k)
    states, logits = seen(model)
    with torch.no_grad():
        torch.testing.assert_close(Lens(model).look(states)[-1], logits)
    assert block.forward is hooked


def test_blocks_that_return_tuples():
    model = tiny("falcon")
    assert all(width > 0 for width in Lens(model)._widths)


def test_an_adapter_in_the_head_is_part_of_the_way():
    peft = pytest.importorskip("peft")
    low_rank = peft.LoraConfig(target_modules=["lm_head", "q_proj"], init_lora_weights=False, lora_alpha=500)
    wrapped = peft.get_peft_model(tiny("llama"), low_rank).eval()
    inner = wrapped.get_base_model()
    states, logits = seen(inner)
    with torch.no_grad(), wrapped.disable_adapter():
        assert not torch.allclose(Lens(wrapped).look(states)[-1], logits, atol=1e-2)
    with torch.no_grad():
        torch.testing.assert_close(Lens(wrapped).look(states)[-1], logits)


# --- the pass


SEQUENCES = [([5, 6, 7], [8, 9]), ([4], [30, 31, 32]), ([9 + i for i in range(20)], [11 + i for i in range(15)])]


@torch.no_grad()
def slow(model, prompt, continuation, layers):
    """Signals of one text from one plain pass over it and the lens of all its states at once."""
    states, logits = seen(model, torch.tensor([[*prompt, *continuation]]))
    rows = slice(len(prompt) - 1, len(prompt) + len(continuation) - 1)
    every = Lens(model).look({k: s[rows] for k, s in states.items()})
    raw = {"lens_logits": every[list(layers)], "lens_last_logits": logits[rows]}
    return derive(PLAN.stage("lens"), {**raw, "tokens": torch.tensor(continuation, dtype=torch.int32)})


@pytest.mark.parametrize("layers", [(0, 1, 2, 3), (0, 2), (3,)])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "mamba"])
def test_signals_are_those_of_each_text_alone(family, layers):
    model = tiny(family)
    for found, (prompt, continuation) in zip(ForcedPass(model, PLAN, layers)(SEQUENCES), SEQUENCES):
        expected = slow(model, prompt, continuation, layers)
        assert set(found) == set(PLAN.keep)
        for name, value in found.items():
            assert value.shape[-1] == len(continuation)
            torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-4, msg=f"{name}: {value}")


@pytest.mark.parametrize("size", [1, 4 * 48 * 4, 3 * 4 * 48 * 4, 7 * 4 * 48 * 4])
def test_chunks_make_no_difference(size, monkeypatch):
    model = tiny("llama")
    whole = ForcedPass(model, PLAN, (0, 1, 2, 3))(SEQUENCES)
    monkeypatch.setitem(module.CHUNK, "cpu", size)
    rows = []
    model.lm_head.register_forward_pre_hook(lambda m, a: rows.append(len(a[0])))
    for one, other in zip(ForcedPass(model, PLAN, (0, 1, 2, 3))(SEQUENCES), whole):
        for name, value in one.items():
            torch.testing.assert_close(value, other[name], rtol=1e-4, atol=1e-5, msg=name)
    assert sum(rows) - 1 == 4 * sum(len(c) for _, c in SEQUENCES)  # and one to see what blocks return
    assert max(rows[1:]) == 4 * max(1, size // (4 * 48 * 4))


def test_the_last_layer_is_read_once_a_chunk_where_it_is_not_recorded():
    model = tiny("llama")
    rows = []
    model.lm_head.register_forward_pre_hook(lambda m, a: rows.append(len(a[0])))
    ForcedPass(model, PLAN, (0, 2))(SEQUENCES)
    assert rows[1:] == [3 * sum(len(c) for _, c in SEQUENCES)]


def test_lack_of_memory_makes_chunks_smaller():
    model, calls = tiny("llama"), []

    def fail(_module, args):
        calls.append(len(args[0]))
        if len(args[0]) > 40:
            raise torch.OutOfMemoryError("out of memory")

    whole = ForcedPass(model, PLAN, (0, 1, 2, 3))(SEQUENCES)
    model.lm_head.register_forward_pre_hook(fail)
    found = ForcedPass(model, PLAN, (0, 1, 2, 3))(SEQUENCES)
    assert max(calls) > 40 >= calls[-1]
    for one, other in zip(found, whole):
        for name, value in one.items():
            torch.testing.assert_close(value, other[name], rtol=1e-4, atol=1e-5, msg=name)


def test_half_precision_is_reduced_in_single():
    model = tiny("llama").bfloat16()
    found = ForcedPass(model, PLAN, (0, 1, 2, 3))(SEQUENCES)[2]
    assert {name: v.dtype for name, v in found.items() if v.dtype != torch.float32} == {"lens_rank": torch.int32}
    states, _ = seen(model, torch.tensor([[*SEQUENCES[2][0], *SEQUENCES[2][1]]]))
    with torch.no_grad():
        logits = Lens(model).look({k: s[19:34] for k, s in states.items()})
    raw = {"lens_logits": logits.float(), "lens_last_logits": logits[-1].float()}
    expected = derive(PLAN.stage("lens"), {**raw, "tokens": torch.tensor(SEQUENCES[2][1])})
    torch.testing.assert_close(found["lens_entropy"], expected["lens_entropy"], rtol=0.05, atol=0.05)


def test_a_continuation_that_ends_beyond_the_table_of_positions():
    """Its last token is not read, and the row that produced it is there."""
    model = tiny("gpt2")
    found = ForcedPass(model, PLAN, (0, 3))([([5] * 60, [6, 7, 8, 9, 10])])[0]
    assert found["lens_entropy"].shape == (2, 5)
    assert not found["lens_entropy"].isnan().any()


# --- what is refused


def test_a_lens_that_is_not_the_models_is_refused():
    model = tiny("llama")

    class Odd(type(model)):
        def forward(self, input_ids=None, **options):
            out = super().forward(input_ids=input_ids, **options)
            out.logits = out.logits * (1 + input_ids.float().mean())  # from something else than the state
            return out

    model.__class__ = Odd
    with pytest.raises(ValueError, match=r"Odd: the lens of the last block's output differs .* so nothing of the"):
        probe(model, PLAN, (0, 1))


def test_a_way_that_cannot_be_run_alone_is_refused():
    model = tiny("llama")
    states, logits = seen(model)
    lens = Lens(model)
    model.model.norm.register_forward_pre_hook(lambda m, a: 1 / 0 if len(a[0]) > 2 else None)
    model.lm_head = nn.Linear(5, 48)
    with (
        torch.no_grad(),
        pytest.raises(ValueError, match=r"cannot be run alone .* so nothing of the lens"),
    ):
        check(model, states[3][None, :2], logits[None, :2], lens)


def test_what_was_asked_for_alone_is_computed():
    plan = make_plan((), "lens_top")
    states = {k: torch.randn(4, 32) for k in range(4)}
    with torch.no_grad():
        found = lens_signals(plan, Lens(tiny("llama")), (0, 1, 2, 3), states, torch.tensor([1, 2, 3, 4]))
    assert set(found) == {"lens_top"}
    assert set(plan.compute) == {"lens_log_probabilities", "lens_largest", "lens_top"}


def test_translators_come_before_the_norm(tmp_path):
    from safetensors.torch import save_file

    model = tiny("llama")
    generator = torch.Generator().manual_seed(0)
    tensors = {f"{k}.weight": torch.randn(32, 32, generator=generator) / 8 for k in range(3)}
    tensors |= {f"{k}.bias": torch.randn(32, generator=generator) / 8 for k in range(3)}
    save_file(tensors, tmp_path / "lens.safetensors")
    states, logits = seen(model)
    with torch.no_grad():
        found = Lens(model, Translators(tmp_path / "lens.safetensors")).look(states)
        for k in range(3):
            moved = states[k] + states[k] @ tensors[f"{k}.weight"].T + tensors[f"{k}.bias"]
            torch.testing.assert_close(found[k], model.lm_head(model.model.norm(moved)), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[3], logits)


def test_the_last_layer_is_recorded_whatever_is_selected(make_lm):
    assert make_lm("llama", metrics="lens", layers="0+1").layers == (0, 1, 3)
    assert make_lm("llama", metrics="answer_length", signals="hidden_norm", layers="0+1").layers == (0, 1)
