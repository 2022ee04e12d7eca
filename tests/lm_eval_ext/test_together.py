"""A document's repeats generated together: the same records as one by one, each prompt read once."""

from collections import Counter

import pytest
import torch
from scipy.stats import chisquare

from lm_eval_ext.together import by_repeats, one_below_another, read_once
from metrics.store import open_store

WARM = {"until": ["w7"], "max_gen_toks": 6, "do_sample": True, "temperature": 1.0, "top_k": 0}
COPIED = ["llama", "neox", "gpt2", "opt", "mistral", "phi3", "qwen3", "qwen3_moe", "gemma2", "gpt_oss"]


@pytest.fixture
def asked(instance, words_of):
    """Requests as the harness hands them over, with prompts of unequal length."""

    def make(repeats=4, documents=3, settings=WARM, task="toy"):
        found = [
            instance("generate_until", (words_of(3 + 2 * i, i), dict(settings)), i, task=task, repeats=repeats)
            for i in range(documents)
        ]
        return [request for request in found for _ in range(repeats)]

    return make


def generated(lm, requests, seed=11):
    torch.manual_seed(seed)
    return lm.generate_until(requests, disable_tqdm=True)


def looked_at(lm):
    """Shapes of the tokens that the model reads from now on."""
    shapes = []

    def note(_module, args, kwargs):
        shapes.append(tuple(kwargs.get("input_ids", args[0] if args else None).shape))

    lm.model.register_forward_pre_hook(note, with_kwargs=True)
    return shapes


def same_records(one, other):
    a, b = ({r.key: r for r in store.records(sorted(store.manifest["signals"]))} for store in (one, other))
    assert a.keys() == b.keys() and a
    for key, record in a.items():
        assert {**record.entry(), "answer": b[key].answer} == b[key].entry()
        assert record.answer == b[key].answer
        for name, value in record.signals.items():
            torch.testing.assert_close(value, b[key].signals[name], rtol=1e-3, atol=1e-4, equal_nan=True, msg=name)


@pytest.mark.parametrize("family", [*COPIED, "mamba"])
def test_records_and_draws_are_those_of_hf_in_a_batch_as_large(family, make_lm, make_hf, asked, reopened):
    """The draws depend on the seed and on the rows of a batch alone, not on how the prompt was read."""
    expected = generated(make_hf(family, batch_size=8), asked())
    apart = make_lm(family, batch_size=8, signals="states")
    together = make_lm(family, batch_size=8, signals="states", repeats_together="yes")
    shapes = looked_at(together)
    assert generated(apart, asked()) == generated(together, asked()) == expected
    assert len(set(expected)) > 3
    width = len(asked()[-1].args[0].split())
    once = (2, width - 1)  # the first eight rows hold two documents
    assert (once in shapes) is (family != "mamba")
    assert ((8, width) in shapes) is (family == "mamba")
    same_records(reopened(apart), reopened(together))


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_small_batch_grows_to_a_documents_repeats(batch_size, make_lm, make_hf, asked, reopened):
    expected = generated(make_hf(batch_size=4), asked())
    lm = make_lm(batch_size=batch_size, repeats_together=True)
    shapes = looked_at(lm)
    assert generated(lm, asked()) == expected
    assert max(rows for rows, _ in shapes) == 4
    assert lm.batch_size == batch_size
    store = reopened(lm)
    assert [key.occurrence for key in sorted(store.entries())] == [0, 1, 2, 3] * 3
    assert store.manifest["runs"][0]["repeats_together"] is True


def test_draws_have_the_models_distribution(make_lm, instance, reopened):
    request = instance("generate_until", ("w1 w2 w3", {**WARM, "max_gen_toks": 1, "until": []}), repeats=2000)
    lm = make_lm(batch_size=1, repeats_together=True, metrics="mean_nll")
    generated(lm, [request] * 2000)
    with torch.no_grad():
        logits = lm.model(torch.tensor([lm.tok_encode("w1 w2 w3")])).logits[0, -1]
    probability = logits.double().softmax(-1).numpy()
    counts = Counter(int(record.signals["tokens"][0]) for record in reopened(lm).records(["tokens"]))
    observed = [counts[token] for token in range(len(probability))]
    assert sum(observed) == 2000
    assert chisquare(observed, 2000 * probability).pvalue > 1e-3


def test_what_is_missing_is_asked_together_on_resume(make_lm, asked, reopened, tmp_path):
    first = make_lm(store=tmp_path / "s", repeats_together=True)
    requests = asked()
    kept = generated(first, requests[:6])
    first.recorder.close()
    again = make_lm(store=tmp_path / "s", store_mode="resume", repeats_together=True)
    shapes = looked_at(again)
    answers = generated(again, requests)
    assert answers[:6] == kept
    assert {rows for rows, _ in shapes} <= {1, 2, 4}  # 2 of the second document with 2 of the third, and so on
    store = reopened(again)
    entries = store.entries()
    assert len(store) == 12
    assert [entries[key]["answer"] for key in sorted(entries)] == answers


def test_tasks_of_other_repeats_and_padding_go_their_own_way(make_lm, asked, reopened):
    """A process that has less to do is handed its last request again, beyond its repeats; that is not recorded."""
    requests = [*asked(4, 2, task="a"), *asked(1, 3, task="b"), *asked(2, 1, task="c") * 2]
    lm = make_lm(batch_size=1, repeats_together=True)
    shapes = looked_at(lm)
    answers = generated(lm, requests)
    assert len(answers) == 15 and all(isinstance(answer, str) for answer in answers)
    assert [rows for rows, width in shapes if width > 1] == [1] * 2 + [1] * 3 + [1] * 2
    counts = Counter(key.task for key in reopened(lm).entries())
    assert counts == {"a": 8, "b": 3, "c": 2}


def test_the_harness_hears_every_answer_once(make_lm, asked):
    heard = []

    class Hook:
        def add_partial(self, attribute, request, answer):
            heard.append((attribute, type(request[0]), request[0], answer))

    lm = make_lm(batch_size=1, repeats_together=True)
    lm.set_cache_hook(Hook())
    requests = asked()
    answers = generated(lm, requests)
    expected = [("generate_until", str, request.args[0], answer) for request, answer in zip(requests, answers)]
    assert Counter(heard) == Counter(expected)


@pytest.mark.parametrize("marker", ["w5", 9])
def test_thoughts_are_cut_as_ever(marker, make_lm, make_hf, asked):
    settings = {**WARM, "until": [], "max_gen_toks": 20}
    expected = generated(make_hf(think_end_token=marker), asked(settings=settings))
    assert generated(make_lm(think_end_token=marker, repeats_together=True), asked(settings=settings)) == expected


def test_lack_of_memory_halves_the_rows(make_lm, asked, reopened, capsys):
    lm = make_lm(batch_size=8, repeats_together=True)

    def small(_module, args, kwargs):
        if len(kwargs.get("input_ids", args[0] if args else None)) > 3:
            raise torch.OutOfMemoryError("out of memory")

    lm.model.register_forward_pre_hook(small, with_kwargs=True)
    answers = generated(lm, asked(repeats=8, documents=2))
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "memory ran out" in line]
    assert line == "hf-store: memory ran out; repeats are generated together in smaller batches"
    entries = reopened(lm).entries()
    assert [entries[key]["answer"] for key in sorted(entries)] == answers
    assert len(answers) == 16


def test_signals_of_rows_that_were_generated_apart(make_lm, asked, reopened):
    """Rows of one batch that took several calls of `generate`, of other lengths, have their own signals."""
    lm = make_lm(batch_size=8, repeats_together=True, signals="logprob")
    lm._together.most = 3
    requests = asked(repeats=8, documents=2, settings={**WARM, "until": ["w1", "w2", "w3", "w4", "w5", "w6"]})
    generated(lm, requests)
    lengths = set()
    for record in reopened(lm).records(["logprob", "tokens", "prompt_tokens"]):
        tokens, prompt = (record.signals[name].long() for name in ("tokens", "prompt_tokens"))
        with torch.no_grad():
            rows = lm.model(torch.cat([prompt, tokens])[None]).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        expected = rows.gather(1, tokens[:, None])[:, 0]
        torch.testing.assert_close(record.signals["logprob"], expected, rtol=1e-4, atol=1e-4)
        lengths.add(len(tokens))
    assert len(lengths) > 1


def test_where_nothing_is_to_be_gained(tiny_model):
    model = tiny_model("llama")
    twice = torch.tensor([[4, 5, 6], [4, 5, 6], [7, 8, 9]])
    whole = torch.ones_like(twice)
    cache = read_once(model, twice, whole, {}, 3)
    assert cache is not None and cache.get_seq_length() == 2
    assert read_once(model, twice[1:], whole[1:], {}, 3) is None  # no prompt is there twice
    assert read_once(model, twice, whole, {"num_beams": 2}, 3) is None
    assert read_once(model, twice[:, :1], whole[:, :1], {}, 3) is None
    short = whole.clone()
    short[2, :2] = 0  # a prompt of one token
    assert read_once(model, twice, short, {}, 3) is None
    padded = whole.clone()
    padded[1, :1] = 0  # the same ids, of which one is padding
    assert read_once(model, twice[:2], padded[:2], {}, 3) is None
    assert read_once(tiny_model("mamba"), twice, whole, {}, 3) is None


@pytest.mark.parametrize(
    "own",
    [{"max_new_tokens": 3}, {"max_new_tokens": 3, "max_length": 50}, {"min_new_tokens": 2}, {"do_sample": True}],
    ids=lambda own: "+".join(own),
)
def test_the_models_own_generation_settings(own, tiny_model, make_lm, make_hf, asked):
    """They are for the answers; the prompt is read without them, which would add tokens to its cache, or draws."""
    model = tiny_model("llama")
    model.generation_config.update(**own)
    twice = torch.tensor([[4, 5, 6], [4, 5, 6]])
    before = torch.get_rng_state()
    cache = read_once(model, twice, torch.ones_like(twice), {}, 3)
    assert cache is not None and cache.get_seq_length() == 2
    assert torch.equal(torch.get_rng_state(), before)
    expected = generated(make_hf(model=model, batch_size=8), asked())
    assert generated(make_lm(model=model, batch_size=8, repeats_together=True), asked()) == expected


def test_a_cache_of_another_length_is_not_gone_on_from(tiny_model, monkeypatch):
    model = tiny_model("llama")
    twice = torch.tensor([[4, 5, 6], [4, 5, 6]])
    longer = model(input_ids=twice[:1], use_cache=True)
    monkeypatch.setattr(model, "generate", lambda **_: longer)
    assert read_once(model, twice, torch.ones_like(twice), {}, 3) is None


def test_beams_are_generated_as_ever(make_lm, make_hf, asked):
    settings = {"until": [], "max_gen_toks": 4, "do_sample": False, "num_beams": 2}
    requests = asked(repeats=2, settings=settings)
    assert generated(make_lm(repeats_together=True), requests) == generated(make_hf(), requests)


def test_by_repeats(asked):
    requests = [*asked(2, 1), *asked(1, 2), *asked(2, 1)]
    assert by_repeats(requests) == {2: [0, 1, 4, 5], 1: [2, 3]}


def test_one_below_another():
    parts = [torch.tensor([[1, 2]]), torch.tensor([[3, 4, 5], [6, 7, 8]])]
    assert one_below_another(parts, 9).tolist() == [[1, 2, 9], [3, 4, 5], [6, 7, 8]]


def test_a_store_made_together_opens_like_any(make_lm, asked):
    lm = make_lm(repeats_together=True, store_text="no")
    generated(lm, asked())
    lm.recorder.close()
    assert len(open_store(lm.store_path)) == 12


@pytest.mark.parametrize("value", ["maybe", 2])
def test_a_value_that_is_neither_yes_nor_no(value, make_lm):
    with pytest.raises(ValueError, match=f"repeats_together={value} is neither yes nor no"):
        make_lm(repeats_together=value)
