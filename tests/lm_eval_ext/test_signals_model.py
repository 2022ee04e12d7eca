"""Signals of real models: padding, batches, attention code and the way they are computed make no difference."""

import contextlib
import gc
import weakref

import pytest
import torch
from recording import (
    EVERYTHING,
    FAMILIES,
    KINDS,
    RAW,
    everything,
    generation_requests,
    of_kind,
    recorded,
    same_records,
    scoring_requests,
)

from lm_eval_ext.arch import blocks
from lm_eval_ext.capture import GenerationTap
from lm_eval_ext.forced import ForcedPass
from metrics.core import signals
from metrics.plan import make_plan


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_of_one_records_what_a_batch_of_four_does(family, kind, make_lm, reopened, instance, prompts, words_of):
    runs = [
        everything(
            make_lm, reopened, of_kind(kind, instance, prompts, words_of), kind, family, batch_size=size, max_length=32
        )
        for size in (1, 4)
    ]
    same_records(*runs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_sdpa_records_what_eager_does(family, kind, make_lm, reopened, instance, prompts, words_of):
    runs = [
        everything(
            make_lm, reopened, of_kind(kind, instance, prompts, words_of), kind, family, attention=how, max_length=32
        )
        for how in ("sdpa", "eager")
    ]
    same_records(*runs)


def test_generation_keeps_the_models_own_attention(make_lm, instance, prompts):
    lm = make_lm("llama", signals="attention_diagonal+hidden_norm", attention="sdpa")
    seen = []
    block = blocks(lm.model)[0]
    handle = block.register_forward_hook(lambda m, a, o: seen.append(lm.model.config._attn_implementation))
    lm.generate_until(generation_requests(instance, prompts[:2]), disable_tqdm=True)
    handle.remove()
    assert seen[:-1] == ["sdpa"] * (len(seen) - 1) != []
    assert seen[-1] == "eager"  # the teacher-forced pass
    assert lm.model.config._attn_implementation == "sdpa"


def test_standard_makes_no_pass_of_its_own(make_lm, make_hf, instance, prompts, words_of):
    def forwards(lm):
        calls = []
        handle = lm.model.register_forward_hook(lambda m, a, o: calls.append(1))
        for kind in KINDS:
            getattr(lm, kind)(of_kind(kind, instance, prompts, words_of), disable_tqdm=True)
        handle.remove()
        return len(calls)

    assert forwards(make_lm()) == forwards(make_hf())


def test_no_hook_stays_behind(make_lm, instance, prompts, words_of):
    lm = make_lm("llama", signals="all", raw=RAW)
    for kind in KINDS:
        getattr(lm, kind)(of_kind(kind, instance, prompts, words_of), disable_tqdm=True)
    for module in lm.model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_hooks_leave_when_the_model_raises(tiny_model):
    model = tiny_model("llama")
    plan = make_plan("standard", "all")
    with pytest.raises(IndexError):
        ForcedPass(model, plan, (0, 1))([([4, 5], [4711])], logits=True)
    with contextlib.suppress(RuntimeError), GenerationTap(model, plan):
        raise RuntimeError
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("family", FAMILIES)
def test_in_generation_equals_teacher_forced(family, make_lm, reopened, instance, prompts, monkeypatch):
    requests = generation_requests(instance, prompts)
    inside = everything(make_lm, reopened, requests, "generate_until", family)
    monkeypatch.setattr(GenerationTap, "signals", lambda self, generated: None)
    outside = everything(make_lm, reopened, requests, "generate_until", family)
    same_records(inside, outside)


def test_layers_can_be_chosen(make_lm, reopened, instance, prompts):
    requests = generation_requests(instance, prompts[:2])
    full = everything(make_lm, reopened, requests, "generate_until", "llama")
    lm = make_lm("llama", signals="all", raw=RAW, layers="0+-1")
    lm.generate_until(requests, disable_tqdm=True)
    store = reopened(lm)
    assert store.manifest["layers"] == [0, 3]
    for key, record in recorded(store).items():
        torch.testing.assert_close(record.signals["hidden"], full[key].signals["hidden"][[0, 3]])
        torch.testing.assert_close(record.signals["attention"], full[key].signals["attention"][[-1]])


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32"])
def test_raw_dtype_is_that_of_raw_tensors_alone(name, make_lm, reopened, instance, prompts):
    lm = make_lm("llama", signals="all", raw=RAW, raw_dtype=name)
    lm.generate_until(generation_requests(instance, prompts[:2]), disable_tqdm=True)
    known = signals()
    for record in recorded(reopened(lm)).values():
        for signal in EVERYTHING:
            expected = name if signal in RAW.split("+") else known[signal].dtype
            assert str(record.signals[signal].dtype) == f"torch.{expected}", signal


# ---------------------------------------------------------------- memory


def test_a_tap_holds_the_logits_of_one_step(tiny_model):
    model = tiny_model("llama")
    whole, alive = [], []

    def watch(_module, _args, output):
        whole.append(weakref.ref(output.logits.untyped_storage()))
        gc.collect()
        alive.append(sum(r() is not None for r in whole))

    tap = GenerationTap(model, make_plan("standard"))
    handle = model.register_forward_hook(watch)
    with tap, torch.no_grad():
        new = model.generate(torch.tensor([[5, 6, 7, 8]]), max_new_tokens=12, min_new_tokens=12, do_sample=False)
    handle.remove()
    assert tap.signals(new[:, 4:])["entropy"].shape == (1, 12)
    assert len(alive) == 12
    assert max(alive) <= 3  # this step's, the one before it until it is reduced, and what generate holds


def test_a_tap_lets_go_of_the_logits_of_the_prompt(tiny_model):
    """A model that computes logits at every position: only the last row is held."""
    model = tiny_model("llama")
    tap = GenerationTap(model, make_plan("standard"))
    with tap, torch.no_grad():
        model(input_ids=torch.arange(4, 44)[None])
        assert tap._waiting.untyped_storage().nbytes() == 48 * 4


def test_scoring_lets_go_of_a_batch_before_the_next(make_lm, instance, prompts, words_of, monkeypatch):
    lm = make_lm(batch_size=1)
    stores, alive = [], []

    def watch(_module, _args, output):
        gc.collect()
        alive.append(sum(r() is not None for r in stores))
        stores.append(weakref.ref(output.logits.untyped_storage()))

    handle = lm.model.register_forward_hook(watch)
    lm.loglikelihood(scoring_requests(instance, prompts, words_of), disable_tqdm=True)
    handle.remove()
    assert alive == [0] * len(prompts)


def test_mixed_precision_does_not_reach_the_signals(make_lm, instance, words_of, reopened):
    """The harness's autocast surrounds the generation; entropies are float32 all the same."""
    requests = [instance("generate_until", (words_of(5, i), {"until": [], "max_gen_toks": 6}), i) for i in range(4)]
    lm = make_lm(mixed_precision_dtype="bfloat16", raw="logits", raw_dtype="float32")
    lm.generate_until(requests, disable_tqdm=True)
    for record in reopened(lm).records(["logits", "entropy", "varentropy"]):
        p = record.signals["logits"].double().softmax(-1)
        expected = -(p * p.log()).sum(-1)
        torch.testing.assert_close(record.signals["entropy"].double(), expected, rtol=1e-5, atol=1e-5)
