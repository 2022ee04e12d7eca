"""The pass for hidden states and attention: batches, pieces and lack of memory make no difference to what it finds."""

import pytest
import torch
from transformers import AutoModelForCausalLM, Phi3Config

from lm_eval_ext.forced import FEWEST, ForcedPass
from metrics.core import signals
from metrics.plan import make_plan

RAW = "logits+hidden+attention"
PLAN = make_plan("standard", "all", RAW)
LAYERS = (0, 1, 2, 3)
FAMILIES = ("llama", "neox", "gpt2")
OTHERS = ("opt", "mistral", "phi3", "qwen3", "qwen3_moe", "gemma2", "gpt_oss", "deepseek_v3")
SEQUENCES = [
    ([5, 6, 7], [8, 9]),
    ([10 + i for i in range(20)], [17 + i for i in range(25)]),
    ([4], [30, 31, 32]),
    ([9 + i for i in range(33)], [11]),
]


def input_ids(args, kwargs):
    return args[0] if args else kwargs["input_ids"]


def alike(a, b, tolerance=1e-4):
    assert len(a) == len(b) != 0
    for one, other in zip(a, b):
        assert set(one) == set(other) != set()
        for name, value in one.items():
            torch.testing.assert_close(value, other[name], rtol=tolerance, atol=tolerance, equal_nan=True, msg=name)


@pytest.fixture
def forwards():
    """A function model -> the list of the (rows, positions) of the passes over texts that it makes from then on.

    To the lens, which passes the blocks over, every state is a text of one position.
    """

    def watch(model):
        seen = []

        def note(_module, args, _output):
            if args[0].shape[1] > 1:
                seen.append(tuple(args[0].shape))

        model.get_input_embeddings().register_forward_hook(note)
        return seen

    return watch


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_equals_its_texts_one_by_one(family, tiny_model):
    look = ForcedPass(tiny_model(family), PLAN, LAYERS)
    alone = [look([s], logits=True)[0] for s in SEQUENCES]
    together = look(SEQUENCES, logits=True)
    assert all(set(one) == set(PLAN.keep) for one in together)
    alike(together, alone)


@pytest.mark.parametrize("room", [16_000, 40_000, 200_000])
@pytest.mark.parametrize("family", FAMILIES)
def test_pieces_equal_the_whole(family, room, tiny_model, forwards):
    model = tiny_model(family)
    whole = ForcedPass(model, PLAN, LAYERS)(SEQUENCES, logits=True)
    passes = forwards(model)
    pieces = ForcedPass(model, PLAN, LAYERS, room=room)(SEQUENCES, logits=True)
    assert all(rows < len(SEQUENCES) for rows, _ in passes)
    longest = max(len(p) + len(c) for p, c in SEQUENCES)
    if room < 100_000:
        assert any(FEWEST <= width < 30 for _, width in passes) and (1, longest) in passes  # in pieces; hidden whole
    alike(pieces, whole)


@pytest.mark.parametrize("family", OTHERS)
def test_pieces_equal_the_whole_with_windows_sinks_caps_and_experts(family, tiny_model, forwards):
    """The last text is longer than the sliding window by far, and so are its pieces."""
    model = tiny_model(family)
    whole = ForcedPass(model, PLAN, LAYERS)(SEQUENCES, logits=True)
    passes = forwards(model)
    pieces = ForcedPass(model, PLAN, LAYERS, room=32_000)(SEQUENCES, logits=True)
    assert any(width <= 24 for _, width in passes)
    alike(pieces, whole, 5e-4)


@pytest.mark.parametrize("family", ["mamba", "lfm2", "falcon_h1"])
def test_where_nothing_grows_or_a_state_runs_on_texts_are_read_whole(family, tiny_model, forwards):
    model = tiny_model(family)
    more = "+attention_diagonal" if family == "falcon_h1" else ""
    plan = make_plan("standard", "hidden_norm+hidden_mean" + more, "hidden")
    passes = forwards(model)
    together = ForcedPass(model, plan, LAYERS, room=10)(SEQUENCES)
    assert {width for _, width in passes} <= {len(p) + len(c) for p, c in SEQUENCES}
    alike(together, ForcedPass(model, plan, LAYERS)(SEQUENCES), 5e-4)


def test_where_eager_attention_computes_otherwise_states_come_from_the_models_own(tiny_model, forwards):
    """As with sdpa, which leaves soft-caps out."""
    model = tiny_model("llama")
    passes = forwards(model)
    plan = make_plan("standard", "hidden+attention", RAW)
    ForcedPass(model, plan, LAYERS)(SEQUENCES)
    assert len(passes) == 1
    model.config.attn_logit_softcapping = 2.0
    seen = []
    for block in model.model.layers:
        block.register_forward_hook(lambda m, a, o: seen.append(model.config._attn_implementation))
    ForcedPass(model, plan, LAYERS)(SEQUENCES)
    assert len(passes) == 3
    assert seen == ["sdpa"] * 3 + ["eager"] * 3


def test_pieces_by_hand_of_the_reference(tiny_model):
    """Against the model's own output of all maps and states, in one forward."""
    model = tiny_model("llama", "eager")
    prompt, answer = SEQUENCES[1]
    found = ForcedPass(model, PLAN, LAYERS, room=20_000)([(prompt, answer)], logits=True)[0]
    with torch.no_grad():
        out = model(torch.tensor([prompt + answer]), output_attentions=True, output_hidden_states=True)
    first = len(prompt) - 1
    torch.testing.assert_close(found["attention"], torch.stack(out.attentions)[:, 0, :, first:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["hidden"][:3], torch.stack(out.hidden_states)[:3, 0, first:], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found["logits"], out.logits[0, first:-1], rtol=1e-4, atol=1e-4)


def test_memory_does_not_grow_with_the_square_of_the_length(tiny_model):
    """The largest map that the model hands out stays below what it may take."""
    model, largest = tiny_model("llama"), []
    for block in model.model.layers:
        block.self_attn.register_forward_hook(lambda m, a, o: largest.append(0 if o[1] is None else o[1].numel()))
    plan = make_plan("standard", "all")
    prompt, answer = [5] * 20, [6, 7] * 21
    ForcedPass(model, plan, LAYERS)([(prompt, answer)])
    assert max(largest) == 4 * 62 * 62
    largest.clear()
    ForcedPass(model, plan, LAYERS, room=40_000)([(prompt, answer)])
    assert 0 < max(largest) * 8 <= 40_000


# ---------------------------------------------------------------- lack of memory


def scarce(model, most):
    """Let passes over more than `most` positions in all run out of memory."""

    def refuse(_module, args, kwargs):
        if input_ids(args, kwargs).numel() > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    return model.base_model.register_forward_pre_hook(refuse, with_kwargs=True)


def test_memory_that_runs_out_halves_the_batch_and_says_so_once(tiny_model, forwards):
    model = tiny_model("llama")
    sequences = [(p[:8], c[:4]) for p, c in SEQUENCES] * 2
    whole = ForcedPass(model, PLAN, LAYERS)(sequences, logits=True)
    said = []
    look = ForcedPass(model, PLAN, LAYERS, tell=said.append)
    handle = scarce(model, 30)
    passes = forwards(model)
    alike(look(sequences, logits=True), whole)
    assert said == ["memory ran out in the pass for signals; it goes on with smaller batches"]
    assert {rows for rows, _ in passes} == {2}
    passes.clear()
    alike(look(sequences, logits=True), whole)
    assert {rows for rows, _ in passes} == {2}  # it has learnt
    assert len(said) == 1
    handle.remove()


def test_memory_that_runs_out_for_one_text_cuts_it(tiny_model, forwards):
    model = tiny_model("llama")
    plan = make_plan("standard", "attention_diagonal+attention_row_entropy")
    whole = ForcedPass(model, plan, LAYERS)(SEQUENCES[1:2])
    said = []
    handle = scarce(model, 24)
    alike(ForcedPass(model, plan, LAYERS, tell=said.append)(SEQUENCES[1:2]), whole)
    handle.remove()
    assert said == ["memory ran out in the pass for signals; it goes on with pieces of a text"]


@pytest.mark.parametrize("plan", [make_plan("standard", "hidden_norm"), PLAN])
def test_memory_that_never_suffices_is_an_error(plan, tiny_model):
    model = tiny_model("llama")
    handle = scarce(model, 3)
    with pytest.raises(torch.OutOfMemoryError):
        ForcedPass(model, plan, LAYERS)(SEQUENCES)
    handle.remove()


def test_other_errors_are_not_taken_for_lack_of_memory(tiny_model):
    model, calls = tiny_model("llama"), []

    def refuse(*_):
        calls.append(1)
        raise RuntimeError("shapes do not match")

    handle = model.base_model.register_forward_pre_hook(refuse)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        ForcedPass(model, PLAN, LAYERS)(SEQUENCES)
    handle.remove()
    assert len(calls) == 1


def test_a_rotary_embedding_that_depends_on_the_length_is_not_cut(forwards):
    """Phi-3's longrope: short factors up to the original length, long ones for all positions of a longer text."""
    factors = {"short_factor": [1.0] * 4, "long_factor": [3.0] * 4}
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 16, **factors}
    if not hasattr(Phi3Config(), "rope_parameters"):  # transformers 4
        rope = {"type": "longrope", **factors}
    sizes = {"vocab_size": 48, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "pad_token_id": 3}
    how = {"rope_parameters": rope} if hasattr(Phi3Config(), "rope_parameters") else {"rope_scaling": rope}
    config = Phi3Config(
        **sizes, intermediate_size=48, max_position_embeddings=64, original_max_position_embeddings=16, **how
    )
    torch.manual_seed(2)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    passes = forwards(model)
    long = SEQUENCES[1:2]
    alike(ForcedPass(model, PLAN, LAYERS, room=16_000)(long), ForcedPass(model, PLAN, LAYERS)(long), 1e-5)
    assert max(width for _, width in passes) == 45


@pytest.mark.parametrize("family", ["gpt_oss", "gemma2", "llama"])
@pytest.mark.parametrize("signals", ["hidden_norm+hidden_mean", "hidden_norm+attention_diagonal"])
def test_eager_models_make_no_square_of_the_length(signals, family, tiny_model):
    """Their own attention computes whole maps, also where only hidden states are wanted."""
    model = tiny_model(family, "eager")
    plan, text = make_plan("standard", signals), [([5] * 20, [6, 7] * 21)]
    whole = ForcedPass(model, plan, LAYERS)(text)
    largest = []
    for module in model.modules():
        if type(module).__name__.endswith("Attention"):
            module.register_forward_hook(lambda m, a, o: largest.append(o[1].numel()))
    alike(ForcedPass(model, plan, LAYERS, room=40_000)(text), whole, 5e-4)
    assert 0 < max(largest) * 8 <= 40_000


def test_mixed_precision_is_that_of_the_evaluation(tiny_model):
    model = tiny_model("llama")
    plan = make_plan("standard", (), "hidden+logits")
    found = ForcedPass(model, plan, LAYERS, autocast=torch.bfloat16)(SEQUENCES[1:2], logits=True)[0]
    prompt, answer = SEQUENCES[1]
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(torch.tensor([prompt + answer]), output_hidden_states=True)
    torch.testing.assert_close(found["logits"].float(), out.logits[0, len(prompt) - 1 : -1].float())
    torch.testing.assert_close(found["hidden"][1].float(), out.hidden_states[1][0, len(prompt) - 1 :].float())


@pytest.mark.parametrize(("family", "read"), [("gpt2", False), ("llama", True)])
def test_one_token_beyond_the_positions(family, read, tiny_model):
    """A learned table ends there, so the last step is NaN and not part of the mean; rotary positions go on."""
    model = tiny_model(family)
    (found,) = ForcedPass(model, PLAN, LAYERS)([([5] * 61, [6, 7, 8, 9])])
    assert found["hidden_norm"].shape[-1] == 5
    assert bool(found["hidden_norm"][:, -1].isnan().all()) is not read
    assert found["hidden_norm"][:, :-1].isfinite().all()
    states = found["hidden"][:, 1 : 5 if read else 4]
    torch.testing.assert_close(found["hidden_mean"], states.mean(1))


def test_memory_that_runs_out_where_nothing_can_be_cut_is_said_by_the_error_alone(tiny_model):
    model, said = tiny_model("llama"), []
    look = ForcedPass(model, make_plan("standard", "hidden_norm"), LAYERS, tell=said.append)
    room, handle = look.room, scarce(model, 3)
    with pytest.raises(torch.OutOfMemoryError):
        look(SEQUENCES[:1])
    handle.remove()
    assert said == [] and look.room == room


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_made_under_mixed_precision_is_as_declared(family, tiny_model):
    """Only the model runs in the evaluation's precision; what is made of its tensors has its own."""
    plan = make_plan("standard+all", "all+influence")
    model = tiny_model(family)
    mixed = ForcedPass(model, plan, LAYERS, autocast=torch.bfloat16)(SEQUENCES, logits=True)
    plain = ForcedPass(model, plan, LAYERS)(SEQUENCES, logits=True)
    for one, other in zip(mixed, plain):
        assert set(one) == set(other) == set(plan.keep)
        for name, value in one.items():
            assert value.dtype == getattr(torch, signals()[name].dtype), name
            assert torch.equal(value.isnan(), other[name].isnan()), name
        torch.testing.assert_close(one["lens_entropy"], other["lens_entropy"], rtol=0.05, atol=0.05)
