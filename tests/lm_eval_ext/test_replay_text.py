"""Ids from texts: they decode to the text or say why not, and a prompt's are those that generation would read."""

import random

import pytest
import torch
from scripted import scripted
from spelling import KINDS, SPECIAL

from lm_eval_ext import replay_text as text_
from lm_eval_ext.replay_text import answer_spans, encode_answer, encode_prompt
from metrics.record import Span

SETTINGS = {"until": ["\n"], "max_gen_toks": 16}


@pytest.fixture
def spelt(make_lm):
    """A function kind -> a model with such a tokenizer."""

    def make(kind, **arguments):
        tokenizer = KINDS[kind]()
        return make_lm(model=scripted(tokenizer), tokenizer=tokenizer, **arguments)

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_ids_decode_to_the_text_or_say_why_not(kind, spelt):
    """Random ids: every text that comes without a reason is what each of its candidates decodes to."""
    lm = spelt(kind)
    rng = random.Random(0)
    prompt = encode_prompt(lm, "4 )", SETTINGS)
    ids = [i for i in range(len(lm.tokenizer)) if i not in range(len(SPECIAL))]
    whole = 0
    for _ in range(60):
        text = lm.tok_decode([rng.choice(ids) for _ in range(rng.randint(1, 6))])
        answer = encode_answer(lm, prompt, text)
        exact = [lm.tok_decode(c) == text for c in answer.candidates]
        assert all(exact) if not answer.reason else not any(exact)
        whole += not answer.reason
    assert whole > 0


def test_prompts_are_those_of_generation(make_lm, instance, tokenizer, words_of, reopened):
    """The ids that hf-store records of the same requests, the cut on the left included."""
    lm = make_lm()
    settings = {"until": ["w7"], "max_gen_toks": 20, "do_sample": False}
    prompts = [words_of(n, n) for n in (1, 5, 44, 45, 60)] + ["<bos> w1 w2"]
    lm.generate_until([instance("generate_until", (p, settings), i) for i, p in enumerate(prompts)], disable_tqdm=True)
    made = [encode_prompt(lm, p, settings) for p in prompts]
    recorded = {r.key.doc_id: r for r in reopened(lm).records(("prompt_tokens",))}
    for i, prompt in enumerate(made):
        assert prompt.ids == recorded[i].signals["prompt_tokens"].tolist()
        assert (len(prompt.ids) < len(prompt.whole)) is recorded[i].truncated
        assert prompt.reason == ""


@pytest.mark.parametrize("name", ["max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens"])
def test_the_room_for_an_answer_has_several_names(name, make_lm, words_of):
    lm = make_lm(max_length=30)
    assert len(encode_prompt(lm, words_of(40, 1), {name: 21}).ids) == 9
    assert encode_prompt(lm, words_of(40, 1), {name: 30}).reason == text_.NO_ROOM


def test_no_second_first_token(spelt):
    lm = spelt("byte fallback")
    assert encode_prompt(lm, "a 4", SETTINGS).ids[0] == 0
    ids = encode_prompt(lm, "<bos>a 4", SETTINGS).ids
    assert ids[0] == 0
    assert ids.count(0) == 1


def test_first_space_that_decoding_drops(spelt):
    """Both ways of saying "4" decode to it; of a text that begins with a space only one remains."""
    lm = spelt("byte fallback")
    prompt = encode_prompt(lm, "Q:", SETTINGS)
    names = lm.tokenizer.convert_ids_to_tokens
    assert [names(ids) for ids in encode_answer(lm, prompt, "4)").candidates] == [["4)"], ["▁4", ")"]]
    assert [names(ids) for ids in encode_answer(lm, prompt, " 4").candidates] == [["▁", "▁4"]]


def test_reasons(spelt):
    level, words = spelt("byte level"), spelt("word level")
    prompt, other = encode_prompt(level, "a", SETTINGS), encode_prompt(words, "w1", SETTINGS)
    assert encode_answer(level, prompt, "4<|end|>").reason == text_.SPECIAL
    assert encode_answer(words, other, "w1  w2").reason == text_.SPACE
    assert encode_answer(words, other, "w1 never").reason == text_.UNKNOWN
    assert encode_answer(spelt("wordpiece"), encode_prompt(spelt("wordpiece"), "a", SETTINGS), "do 4.").reason == ""
    assert encode_prompt(words, "never", SETTINGS).reason == text_.LOST_PROMPT
    assert encode_prompt(words, "w1\n w2", SETTINGS).reason == ""
    assert encode_answer(words, encode_prompt(words, "never", SETTINGS), "w1").reason == text_.LOST_PROMPT


def test_nothing_to_read(spelt):
    lm = spelt("word level")
    nothing = encode_prompt(lm, "", SETTINGS)
    assert nothing.reason == text_.EMPTY_PROMPT
    assert encode_answer(lm, nothing, "w1") == text_.Answer([], text_.EMPTY_PROMPT)
    prompt = encode_prompt(lm, " ".join(["w1"] * 60), SETTINGS)
    assert len(prompt.ids) == 48
    assert encode_answer(lm, prompt, " ".join(["w2"] * 17)).reason == ""
    assert encode_answer(lm, prompt, " ".join(["w2"] * 18)) == text_.Answer([], text_.TOO_LONG)


def test_an_empty_answer_has_no_ids(spelt):
    lm = spelt("byte fallback")
    assert encode_answer(lm, encode_prompt(lm, "a", SETTINGS), "") == text_.Answer([[]])
    assert answer_spans(lm, [], "") == {"answer": Span(0, 0), "generation": Span(0, 0)}


def test_white_space_at_the_end_is_not_the_answer(spelt):
    lm = spelt("byte level")
    (ids,) = encode_answer(lm, encode_prompt(lm, "a", SETTINGS), "4. \n\n").candidates
    found = answer_spans(lm, ids, "4. \n\n")
    assert found["generation"] == Span(0, len(ids))
    assert lm.tok_decode(ids[: found["answer"].stop]).startswith("4.")
    assert found["answer"].stop < len(ids)


def test_messages_take_the_models_template(make_lm, tokenizer):
    lm = make_lm()
    prompt = encode_prompt(lm, '[{"role": "user", "content": "w5 w6"}]', SETTINGS)
    assert prompt.text == "w1 w5 w6 w2 w3 "
    assert prompt.ids == tokenizer.encode("w1 w5 w6 w2 w3")
    lm.tokenizer.chat_template, before = None, lm.tokenizer.chat_template
    try:
        with pytest.raises(ValueError, match="the model's tokenizer has no chat template"):
            encode_prompt(lm, '[{"role": "user", "content": "w5"}]', SETTINGS)
    finally:
        lm.tokenizer.chat_template = before


def test_candidates_are_weighed_by_the_model(spelt):
    """The chosen ids are those of the largest log-probability, added up here position by position."""
    from lm_eval_ext.replay import _likelier

    lm = spelt("byte fallback")
    asked = []
    for prompt in ("Q:", "a 4", "b", "4)."):
        made = encode_prompt(lm, prompt, SETTINGS)
        asked += [(made.ids, encode_answer(lm, made, text).candidates) for text in ("a", "4", "4)", "\n\na")]
    assert {len(candidates) for _, candidates in asked} == {2}

    def total(prompt, ids):
        found = 0.0
        for n, token in enumerate(ids):
            with torch.no_grad():
                logits = lm.model(torch.tensor([[*prompt, *ids[:n]]])).logits[0, -1].double()
            found += float(logits.log_softmax(-1)[token])
        return found

    best = [max(candidates, key=lambda ids: total(prompt, ids)) for prompt, candidates in asked]
    assert _likelier(lm)(asked) == best
    assert {candidates.index(ids) for (_, candidates), ids in zip(asked, best)} == {0, 1}
