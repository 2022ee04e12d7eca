"""Influences out of models: equal to whole squares of what the models themselves put out, whatever the batch."""

import copy
import inspect
from itertools import pairwise

import numpy as np
import pytest
import slow_influence
import torch

from lm_eval_ext import influence as module
from lm_eval_ext.arch import attentions, blocks
from lm_eval_ext.forced import ForcedPass
from lm_eval_ext.influence import Influences
from lm_eval_ext.padded import Batch
from metrics.plan import make_plan
from metrics.recipes import RECIPES

LENS = "additive_lens"
NAMES = tuple(name for name in RECIPES if name != LENS)
PLAN = make_plan((), NAMES)
LAYERS = (0, 1, 2, 3)
SEQUENCES = [
    ([5, 6, 7], [8, 9]),
    ([10 + i for i in range(20)], [17 + i for i in range(15)]),
    ([4], [30]),
    ([9 + i for i in range(33)], [11, 12, 13]),
]
FAMILIES = ("llama", "neox", "gpt2", "gemma2", "gpt_oss", "phi3", "deepseek_v3")
NORMS = ("value_norms", "value_norms_rollout")


def values_of(family, model):
    """What each head carries over, ``[layer, head, N, dim]``, by the projections' own outputs; run it after a pass."""
    taken = {}

    def hold(key, out):
        taken.setdefault(key, []).append(out)

    handles = []
    for inner in attentions(model):
        name = {"gpt2": "c_attn", "neox": "query_key_value"}.get(family, "v_proj")
        handles.append(getattr(inner, name).register_forward_hook(lambda m, a, o: hold("values", o[0])))

    def finish():
        for handle in handles:
            handle.remove()
        made = []
        for inner, out in zip(attentions(model), taken["values"]):
            n = len(out)
            if family == "gpt2":
                out, weight = out.view(n, 3, 4, 8)[:, 2], inner.c_proj.weight
            elif family == "neox":
                out, weight = out.view(n, 4, 3, 8)[:, :, 2], inner.dense.weight.T
            else:
                out = out.view(n, 2, 8).repeat_interleave(2, 1)  # two heads of keys and values for four of queries
                weight = inner.o_proj.weight.T
            made.append(torch.einsum("nhw,hwd->hnd", out.double(), weight.double().view(4, 8, -1)))
        return torch.stack(made).detach()

    return finish


def captured(family, model, prompt, answer):
    """Whole tensors of one text, as the model hands them out."""
    states, outputs = [], []
    handles = [
        b.register_forward_hook(
            lambda m, a, k, o: states.append((a[0] if a else k["hidden_states"], o)), with_kwargs=True
        )
        for b in blocks(model)
    ]
    handles += [a.register_forward_hook(lambda m, a, o: outputs.append(o[0][0])) for a in attentions(model)]
    finish = values_of(family, model) if family in ("llama", "gpt2", "neox") else None
    with torch.no_grad():
        out = model(torch.tensor([[*prompt, *answer]]), output_attentions=True)
    for handle in handles:
        handle.remove()
    after = [o[0][0] if isinstance(o, tuple) else o[0] for _, o in states]
    parts = {
        "attention": torch.stack(out.attentions)[:, 0],
        "before": torch.stack([x[0] for x, _ in states]),
        "output": torch.stack(outputs),
        "after": torch.stack(after),
    }
    heads, n = parts["attention"].shape[1:3]
    unknown = torch.full((len(after), heads, n, parts["output"].shape[-1]), torch.nan)
    parts["carried"] = unknown if finish is None else finish()
    return {name: value.double().numpy() for name, value in parts.items()}


def alike(a, b, tolerance=1e-4):
    assert len(a) == len(b) != 0
    for one, other in zip(a, b):
        assert set(one) == set(other) == set(NAMES)
        for name, value in one.items():
            torch.testing.assert_close(value, other[name], rtol=tolerance, atol=1e-5, equal_nan=True, msg=name)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equals_whole_squares_of_what_the_model_puts_out(family, dtype, tiny_model):
    """In half precision too: all is computed in single precision from what the model computes in half."""
    model = tiny_model(family, "eager").to(dtype)
    for prompt, answer in SEQUENCES[:3]:
        (found,) = ForcedPass(model, PLAN, LAYERS)([(prompt, answer)])
        expected = slow_influence.influences(captured(family, model, prompt, answer), len(prompt), [1] * 3)
        assert set(found) == set(NAMES)
        for name, value in found.items():
            assert value.shape == (len(answer),) and value.dtype == torch.float32
            assert value.isfinite().all() and (value >= 0).all(), name
            if name in expected and not np.isnan(expected[name]).any():
                reference = torch.tensor(expected[name], dtype=torch.float32)
                torch.testing.assert_close(value, reference, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
            else:
                assert name == "attention_flow" or (name in NORMS and family not in ("llama", "gpt2", "neox"))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_equals_its_texts_one_by_one(family, tiny_model):
    look = ForcedPass(tiny_model(family), PLAN, LAYERS)
    alike(look(SEQUENCES), [look([s])[0] for s in SEQUENCES], 5e-4)


def test_neither_attention_code_nor_recorded_layers_matter(tiny_model):
    found = ForcedPass(tiny_model("llama", "sdpa"), PLAN, (1,))(SEQUENCES)
    alike(found, ForcedPass(tiny_model("llama", "eager"), PLAN, LAYERS)(SEQUENCES))


def test_together_with_other_signals(tiny_model):
    plan = make_plan("standard", (*NAMES, "all"), "hidden+attention")
    model = tiny_model("llama")
    both = ForcedPass(model, plan, LAYERS)(SEQUENCES, logits=True)
    alike([{n: one[n] for n in NAMES} for one in both], ForcedPass(model, PLAN, LAYERS)(SEQUENCES))
    others = ForcedPass(model, make_plan("standard", "all", "hidden+attention"), LAYERS)(SEQUENCES, logits=True)
    assert all(set(a) == {*b, *NAMES} for a, b in zip(both, others))
    for a, b in zip(both, others):
        for name, value in b.items():
            torch.testing.assert_close(a[name], value, equal_nan=True, msg=name)


def test_nothing_of_it_stays_in_the_model(tiny_model):
    model = tiny_model("llama")
    before = inspect.unwrap(type(attentions(model)[0]).forward).__globals__["eager_attention_forward"]
    ForcedPass(model, PLAN, LAYERS)(SEQUENCES)
    assert inspect.unwrap(type(attentions(model)[0]).forward).__globals__["eager_attention_forward"] is before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert model.config._attn_implementation == "sdpa"


def test_layers_weighted_by_the_lens(tiny_model):
    """The lens of a Llama is its norm and its head; weights are of the text's own last position, batch or not."""
    model = tiny_model("llama", "eager")
    batch = Batch(SEQUENCES, None)
    folds = Influences(model, [LENS], batch, True)
    with torch.no_grad(), folds.taps():
        for _ in batch.read(model, model.device, batch.width):
            pass
    found = dict(folds.results(lambda states: model.lm_head(model.model.norm(states))))
    assert folds.notes == {}
    for row, (prompt, answer) in enumerate(SEQUENCES[:3]):
        with torch.no_grad():
            cut = [truncated(model, k)(torch.tensor([[*prompt, *answer]])).logits[0, -1].double() for k in range(4)]
        lenses = [z.softmax(-1).numpy() for z in cut]
        changes = [abs(a - b).sum() / 2 for a, b in pairwise(lenses)]
        expected = slow_influence.influences(captured("llama", model, prompt, answer), len(prompt), changes)[LENS]
        value = torch.tensor(expected, dtype=torch.float32)
        torch.testing.assert_close(found[row][LENS], value, rtol=1e-3, atol=1e-5)


def test_the_pass_weights_by_the_models_own_lens(tiny_model):
    model = tiny_model("llama", "eager")
    found = ForcedPass(model, make_plan((), LENS), (0,))(SEQUENCES)
    batch = Batch(SEQUENCES, None)
    folds = Influences(model, [LENS], batch, True)
    with torch.no_grad(), folds.taps():
        for _ in batch.read(model, model.device, batch.width):
            pass
    with torch.no_grad():
        expected = dict(folds.results(lambda states: model.lm_head(model.model.norm(states))))
    for row, one in enumerate(found):
        assert one[LENS].isfinite().all()
        torch.testing.assert_close(one[LENS], expected[row][LENS], rtol=1e-4, atol=1e-6)


def truncated(model, depth):
    """The same model with its first blocks alone."""
    cut = copy.deepcopy(model)
    cut.model.layers = cut.model.layers[:depth]
    cut.config.num_hidden_layers = depth
    return cut


# --- what is NaN, and what is said of it


def all_nan(found, names=NAMES):
    return all(found[name].isnan().all() for name in names) and all(
        value.isfinite().all() for name, value in found.items() if name not in names
    )


def test_a_text_beyond_the_bound_is_nan_and_its_neighbours_are_not(tiny_model, monkeypatch):
    whole, said = ForcedPass(tiny_model("llama"), PLAN, LAYERS)(SEQUENCES), []
    monkeypatch.setattr(module, "POSITIONS", 35)
    look = ForcedPass(tiny_model("llama"), PLAN, LAYERS, tell=said.append)
    for _ in range(2):
        found = look(SEQUENCES)
        alike(found[:3], whole[:3])
        assert all_nan(found[3]) and found[3]["rollout"].shape == (3,)
    assert said == ["influences of texts of more than 35 tokens, prompt included, are NaN"]


def test_a_text_cut_for_lack_of_memory_is_nan(tiny_model):
    model, said = tiny_model("llama"), []

    def refuse(_module, args, kwargs):
        if (args[0] if args else kwargs["input_ids"]).numel() > 30:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    handle = model.base_model.register_forward_pre_hook(refuse, with_kwargs=True)
    plan = make_plan((), (*NAMES, "attention_diagonal"))
    (found,) = ForcedPass(model, plan, LAYERS, tell=said.append)(SEQUENCES[1:2])
    handle.remove()
    assert all_nan({n: found[n] for n in NAMES}) and found["attention_diagonal"].isfinite().all()
    assert said == [
        "memory ran out in the pass for signals; it goes on with pieces of a text",
        "influences of texts that are read in pieces are NaN",
    ]


def test_a_text_within_the_bound_is_read_whole_though_other_signals_would_be_read_in_pieces(tiny_model):
    model = tiny_model("llama")
    alike(ForcedPass(model, PLAN, LAYERS, room=20_000)(SEQUENCES), ForcedPass(model, PLAN, LAYERS)(SEQUENCES))


def test_the_flow_of_a_long_answer_alone_is_nan(tiny_model, monkeypatch):
    said = []
    monkeypatch.setattr(module, "FLOW_TOKENS", 10)
    monkeypatch.setattr("metrics.influence.FLOW_TOKENS", 10)
    found = ForcedPass(tiny_model("llama"), PLAN, LAYERS, tell=said.append)(SEQUENCES)
    assert all_nan(found[1], ["attention_flow"]) and all_nan(found[0], [])
    assert said == ["attention_flow of answers of more than 10 tokens is NaN"]


def test_values_that_are_not_those_of_the_output_are_not_believed(tiny_model):
    """A gate between the heads and their projection."""
    model, said = tiny_model("llama"), []
    model.model.layers[1].self_attn.o_proj.register_forward_pre_hook(lambda m, a: (a[0] * 2,))
    (found,) = ForcedPass(model, PLAN, LAYERS, tell=said.append)(SEQUENCES[1:2])
    assert all_nan(found, NORMS)
    assert said == [
        "value_norms, value_norms_rollout: NaN, since the values that LlamaAttention carries over cannot be found"
    ]


def test_values_that_no_function_hands_over(tiny_model, monkeypatch):
    said = []
    monkeypatch.setattr("lm_eval_ext.values.EAGER", "attend_in_the_open")
    found = ForcedPass(tiny_model("llama"), PLAN, LAYERS, tell=said.append)(SEQUENCES)
    assert all(all_nan(one, NORMS) for one in found) and len(said) == 1


@pytest.mark.parametrize(("answer", "read"), [([6, 7, 8, 9], 3), ([6], 0)])
def test_a_last_token_beyond_the_positions_has_no_weight(answer, read, tiny_model):
    model, prompt = tiny_model("gpt2"), [5] * (65 - len(answer))
    (found,) = ForcedPass(model, PLAN, LAYERS)([(prompt, answer)])
    if read:
        (before,) = ForcedPass(model, PLAN, LAYERS)([(prompt, answer[:-1])])
    for name, value in found.items():
        assert value.shape == (len(answer),) and value[read:].isnan().all(), name
        if read:
            torch.testing.assert_close(value[:read], before[name], msg=name)


def test_a_projection_is_asked_where_it_cannot_be_read(tiny_model):
    """As with quantised weights, adapters, and weights that are elsewhere until they are needed; with a bias."""

    class Wrapped(torch.nn.Linear):
        pass

    model = tiny_model("llama")
    for inner in attentions(model):
        old = inner.o_proj
        inner.o_proj = torch.nn.Linear(old.in_features, old.out_features)
        inner.o_proj.weight.data = old.weight.data
    plain = ForcedPass(model, PLAN, LAYERS)(SEQUENCES)
    for inner in attentions(model):
        inner.o_proj.__class__ = Wrapped
    alike(ForcedPass(model, PLAN, LAYERS)(SEQUENCES), plain)


# --- as a user records them


def test_from_requests_to_a_store(make_lm, reopened, instance, words_of, tiny_model):
    lm = make_lm(signals="+".join(NAMES), layers="1", batch_size=3)
    settings = {"until": ["w7"], "max_gen_toks": 6, "do_sample": False}
    asked = [instance("generate_until", (words_of(n, n), settings), i) for i, n in enumerate((3, 9, 5))]
    lm.generate_until(asked, disable_tqdm=True)
    records = list(reopened(lm).records((*NAMES, "tokens", "prompt_tokens")))
    assert len(records) == 3
    for record in records:
        prompt, tokens = (record.signals[n].tolist() for n in ("prompt_tokens", "tokens"))
        (expected,) = ForcedPass(tiny_model("llama"), PLAN, LAYERS)([(prompt, tokens)])
        for name in NAMES:
            torch.testing.assert_close(
                record.signals[name], expected[name], rtol=1e-3, atol=1e-5, equal_nan=True, msg=name
            )
        assert record.signals["rollout"].isfinite().all()
