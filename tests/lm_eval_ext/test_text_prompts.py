"""Prompts as the model got them: cut to the context, with one beginning of sequence, in chats, with open thoughts."""

from importlib.metadata import version

import pytest
import torch
from scripted import script, scripted
from spelling import THINK, byte_fallback, word_level

from metrics.choosing import choose
from metrics.record import Key
from metrics.score import score, units
from metrics.store import open_store

BOS = 0
CHAT = (
    "{{ bos_token }}{% for m in messages %}<|end|>{{ m['role'][0] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}a: {% if enable_thinking %}<think>\n{% endif %}{% endif %}"
)
EXACT = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}


@pytest.fixture
def worded():
    """Whole words and a model of 64 positions."""
    tokenizer = word_level()
    return {"tokenizer": tokenizer, "model": scripted(tokenizer)}


@pytest.fixture
def chatty():
    """A tokenizer that puts a beginning of sequence in front, as its chat template does, and a model."""
    tokenizer = byte_fallback()
    tokenizer.chat_template = CHAT
    return {"tokenizer": tokenizer, "model": scripted(tokenizer, context=512), "max_length": 512}


def fed(model):
    """Collects the prompts that a model is given, without padding."""
    found = []

    def look(module, args, kwargs):
        ids, cache = kwargs.get("input_ids"), kwargs.get("past_key_values")
        if cache is not None and cache.get_seq_length() == 0:
            found.extend(tuple(row[row != 3].tolist()) for row in ids)

    return found, model.register_forward_pre_hook(look, with_kwargs=True)


def words(n):
    return " ".join(f"w{i % 20}" for i in range(n))


def records_of(store, *signals):
    return {r.key.doc_id: r for r in store.records(("prompt_tokens", "tokens", *signals))}


# ---------------------------------------------------------------- longer than the context


@pytest.mark.parametrize("size", [1, 2, 4])
def test_prompts_longer_than_the_context_lose_their_left(size, worded, make_lm, make_hf, instance, reopened):
    lengths = [3, 14, 15, 40]  # 14 positions are left to prompts
    asked = {"until": ["w3"], "max_gen_toks": 6, "do_sample": False}
    requests = [instance("generate_until", (words(n), asked), i) for i, n in enumerate(lengths)]
    settings = {**worded, "max_length": 20, "batch_size": size}
    expected = make_hf(**settings).generate_until(requests, disable_tqdm=True)
    lm = make_lm(**settings)
    assert lm.generate_until(requests, disable_tqdm=True) == expected
    records = records_of(reopened(lm), "logprob")
    assert [records[i].truncated for i in range(4)] == [False, False, True, True]
    for i, n in enumerate(lengths):
        whole = worded["tokenizer"].encode(words(n))
        assert records[i].signals["prompt_tokens"].tolist() == whole[-14:]
        assert records[i].prompt_count == min(n, 14)
        assert records[i].answer == expected[i]


def test_prompts_that_the_tokenizer_truncates(worded, make_lm, make_hf, instance, reopened):
    worded["tokenizer"].model_max_length = 10
    requests = [
        instance("generate_until", (words(n), {"until": [], "max_gen_toks": 3}), i) for i, n in enumerate([4, 10, 12])
    ]
    settings = {**worded, "truncation": True}
    expected = make_hf(**settings).generate_until(requests, disable_tqdm=True)
    lm = make_lm(**settings)
    assert lm.generate_until(requests, disable_tqdm=True) == expected
    records = records_of(reopened(lm))
    assert [records[i].truncated for i in range(3)] == [False, False, True]
    assert records[2].signals["prompt_tokens"].tolist() == worded["tokenizer"].encode(words(12))[:10]


def test_a_beginning_of_sequence_in_some_prompts_of_a_batch(chatty, make_lm, make_hf, instance, reopened):
    """lm-eval asks the first prompt of a batch alone whether one is there already; nothing is lost either way."""
    prompts = ["<bos>a 4) the", "a 4"]
    requests = [instance("generate_until", (p, {"until": [], "max_gen_toks": 2}), i) for i, p in enumerate(prompts)]
    got, handle = fed(chatty["model"])
    lm = make_lm(**chatty)
    lm.generate_until(requests, disable_tqdm=True)
    handle.remove()
    records = records_of(reopened(lm))
    assert [tuple(records[i].signals["prompt_tokens"].tolist()) for i in range(2)] == got
    assert [ids.count(BOS) for ids in got] == [1, 0]
    assert not any(r.truncated for r in records.values())


@pytest.mark.parametrize("most", [20, 30])
def test_no_room_for_a_prompt_is_the_hosts_error(most, worded, make_lm, make_hf, instance, reopened):
    request = instance("generate_until", (words(5), {"until": [], "max_gen_toks": most}))
    settings = {**worded, "max_length": 20}
    lm = make_lm(**settings)
    for each in (make_hf(**settings), lm):
        with pytest.raises(AssertionError, match=rf"max tokens to generate \({most}\) must be less than.*\(20\)"):
            each.generate_until([request], disable_tqdm=True)
    assert len(reopened(lm)) == 0


def test_continuations_up_to_the_context_and_beyond(worded, make_lm, make_hf, instance, reopened):
    settings = {**worded, "max_length": 20}
    texts = [(words(30), " " + words(20)), (words(2), " " + words(20)), (words(1), " " + words(20)), (words(30), " w1")]
    requests = [instance("loglikelihood", t, i) for i, t in enumerate(texts)]
    expected = make_hf(**settings).loglikelihood(requests, disable_tqdm=True)
    lm = make_lm(**settings, signals="all")
    assert lm.loglikelihood(requests, disable_tqdm=True) == expected
    with pytest.raises(AssertionError):
        make_hf(**settings).loglikelihood([instance("loglikelihood", ("w1", " " + words(21)), 9)], disable_tqdm=True)
    with pytest.raises(AssertionError):
        lm.loglikelihood([instance("loglikelihood", ("w1", " " + words(21)), 9)], disable_tqdm=True)
    records = records_of(reopened(lm), "logprob")
    assert [records[i].prompt_count for i in range(4)] == [1, 1, 1, 20]
    assert [records[i].truncated for i in range(4)] == [True, True, False, True]
    for i, (total, _) in enumerate(expected):
        assert float(records[i].signals["logprob"].sum()) == pytest.approx(total, abs=1e-3)
        assert records[i].signals["logprob"].isfinite().all()


# ---------------------------------------------------------------- chats


DOCUMENTS = [{"text": t, "target": "4"} for t in ("a 4)", "b", "the answer is", "4 4")]
OPTIONS = {"system_instruction": "be a 4", "apply_chat_template": True, "num_fewshot": 1}


@pytest.fixture
def chat(toy_task):
    """A task of free text."""
    asked = {"until": ["\n"], "max_gen_toks": 8, "do_sample": False}
    return toy_task(
        "chat",
        DOCUMENTS,
        output_type="generate_until",
        doc_to_target="{{target}}",
        generation_kwargs=asked,
        metric_list=[EXACT],
    )


@pytest.mark.parametrize("multiturn", [True, False])
@pytest.mark.parametrize(
    "thinking",
    [
        {},
        {"enable_thinking": True, "think_end_token": THINK},
        pytest.param(
            {"chat_template_args": {"enable_thinking": True}},
            marks=pytest.mark.skipif(
                version("lm-eval") in ("0.4.10", "0.4.11"),
                reason="lm-eval before 0.4.12 leaves chat_template_args out where enable_thinking is not given",
            ),
        ),
    ],
)
def test_chats_are_recorded_as_they_were_fed(
    multiturn, thinking, chat, chatty, make_hf, make_lm, evaluate, without_times, reopened
):
    options = {**OPTIONS, "fewshot_as_multiturn": multiturn}
    got, handle = fed(chatty["model"])
    expected = evaluate(make_hf(**chatty, **thinking), [chat], **options)
    prompts, got[:] = list(got), []
    lm = make_lm(**chatty, **thinking)
    results = evaluate(lm, [chat], **options)
    handle.remove()
    assert got == prompts
    assert without_times(results) == without_times(expected)
    store = reopened(lm)
    records = records_of(store)
    assert sorted(tuple(r.signals["prompt_tokens"].tolist()) for r in records.values()) == sorted(prompts)
    for ids in prompts:
        assert ids.count(BOS) == 1
        text = chatty["tokenizer"].decode(ids)
        assert "s: be a 4" in text
        assert text.count("u: ") == (2 if multiturn else 1)
        assert text.endswith("<think>\n") == bool(thinking)
    frame = store.scores("mean_nll", labels=results)
    assert frame["label:exact_match@none"].notna().all()


def test_a_thought_that_the_template_opens(chat, chatty, make_hf, make_lm, evaluate, without_times, reopened):
    """One ends, one never does: lm-eval then scores the thought's text."""
    tokenizer, model = chatty["tokenizer"], chatty["model"]
    settings = {**chatty, "enable_thinking": True, "think_end_token": THINK}
    plain = evaluate(make_hf(**settings), [chat], **OPTIONS)
    line = tokenizer.convert_tokens_to_ids("\n")
    rows = [["a b", THINK, "4", line], ["a"], [THINK, "4", "<eos>"], ["4", line]]
    model.scripts = {
        tuple(tokenizer.encode(sample["arguments"][0][0], add_special_tokens=False)): script(tokenizer, row)
        for sample, row in zip(plain["samples"]["chat"], rows)
    }
    lm = make_lm(**settings)
    results = evaluate(lm, [chat], **OPTIONS)
    assert without_times(results) == without_times(evaluate(make_hf(**settings), [chat], **OPTIONS))
    assert [s["filtered_resps"][0] for s in results["samples"]["chat"]] == ["4", " ".join("a" * 8), "4", "4"]
    assert [s["exact_match"] for s in results["samples"]["chat"]] == [1, 0, 1, 1]
    store = reopened(lm)
    records = records_of(store)
    assert ["thought" in records[i].spans for i in range(4)] == [True, False, True, False]
    assert records[1].spans["answer"] == records[1].spans["generation"] == (0, 8)
    for span, counts in {"thought": [0, 2], "answer": [0, 0]}.items():
        frame = store.scores("mean_nll", labels=results, span=span)
        unscored = frame.attrs["unscored"].get("mean_nll", {})
        assert unscored.get(f"the record has no {span}", 0) == counts[1]
        assert frame["mean_nll"].isna().sum() == counts[1]


def test_scores_of_a_thought_are_those_of_its_tokens(chat, chatty, make_lm, instance, reopened):
    tokenizer, model = chatty["tokenizer"], chatty["model"]
    model.scripts = {tuple(tokenizer.encode("a")): script(tokenizer, ["b", "b", THINK, "4", "4", "<eos>"])}
    lm = make_lm(**chatty, think_end_token=THINK)
    assert lm.generate_until([instance("generate_until", ("a", {"until": []}))], disable_tqdm=True)
    store = reopened(lm)
    (record,) = store.records(["logprob"], [Key("toy", 0, 0, 0, "generate_until")])
    nll = -record.signals["logprob"].to(torch.float64)
    for span in ("thought", "answer", "generation"):
        start, stop = record.spans[span]
        table = score(units(store.entries()), choose("mean_nll"), store.records, span=span)
        assert table.values["mean_nll"] == [pytest.approx(float(nll[start:stop].mean()), rel=1e-6)]


def test_resuming_with_another_system_prompt_asks_again(chat, chatty, make_lm, evaluate, tmp_path):
    """The records of the new prompts count, and labels of the old ones are counted as of other prompts."""
    first = make_lm(**chatty, store=tmp_path / "s")
    old = evaluate(first, [chat], **OPTIONS)
    first.recorder.close()
    again = make_lm(**chatty, store=tmp_path / "s", store_mode="resume")
    assert evaluate(again, [chat], **OPTIONS)["samples"]["chat"][0]["resps"] == old["samples"]["chat"][0]["resps"]
    assert again.recorder.served == 4
    again.recorder.close()
    other = make_lm(**chatty, store=tmp_path / "s", store_mode="resume")
    new = evaluate(other, [chat], **{**OPTIONS, "system_instruction": "be b"})
    assert other.recorder.served == 0
    other.recorder.close()
    store = open_store(tmp_path / "s")
    assert len(store) == 4
    frame = store.scores("mean_nll", labels=new)
    assert frame["label:exact_match@none"].notna().all()
    frame = store.scores("mean_nll", labels=old)
    assert "label:exact_match@none" not in frame
    reason = "chat: recorded with another prompt (few-shot, system prompt or chat template)"
    assert frame.attrs["unused_labels"] == {reason: 4}
