"""Which record stands for a document, as lm-eval's own accuracies choose, and why a score is missing."""

import hashlib
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from metrics.choosing import choose
from metrics.record import Key, Record, Span
from metrics.score import record_id, score, units

PROMPT = hashlib.sha256(b"a question").hexdigest()
NOTHING = hashlib.sha256(b"").hexdigest()


def option(i, loglikelihood, text, doc=0, prompt=PROMPT, occurrence=0):
    return Key("mc", doc, i, occurrence), {
        "kind": "loglikelihood",
        "prompt_hash": prompt,
        "answer": [loglikelihood, False],
        "chars": len(" " + text),
        "bytes": len((" " + text).encode()),
        "token_count": len(text.split()),
    }


def chosen(entries, norm):
    (unit,) = units(dict(entries), norm=norm)
    return unit.key.request


def test_the_option_is_the_one_that_lm_eval_takes():
    """acc, acc_norm and acc_bytes disagree here, each with the next."""
    texts = ["ab", "abcdefgh", "éééééé"]
    loglikelihoods = [-2.0, -4.0, -3.3]
    entries = [option(i, v, t) for i, (v, t) in enumerate(zip(loglikelihoods, texts))]
    own = np.array(loglikelihoods)
    for norm, lengths in {
        "none": [1, 1, 1],
        "chars": [len(t) for t in texts],
        "bytes": [len(t.encode()) for t in texts],
    }.items():
        assert chosen(entries, norm) == int(np.argmax(own / np.array(lengths, dtype=float))), norm
    assert [chosen(entries, n) for n in ("none", "chars", "bytes")] == [0, 1, 2]


def test_the_first_of_equals():
    assert chosen([option(i, -1.0, "x") for i in range(5)], "none") == 0


def test_options_scored_without_their_context_are_none():
    """acc_mutual_info asks for them; they are likelier, and no answer."""
    entries = [option(i, -5.0 - i, "word") for i in range(3)]
    entries += [option(3 + i, -0.1 * i, "word", prompt=NOTHING) for i in range(3)]
    (unit,) = units(dict(entries))
    assert unit.key.request == 0
    assert unit.options["option_loglikelihood"].tolist() == [-5.0, -6.0, -7.0]


def test_a_task_whose_prompts_are_all_empty_has_options():
    (unit,) = units(dict(option(i, -float(i), "x", prompt=NOTHING) for i in range(2)))
    assert unit.kind == "multiple_choice"


def test_options_come_in_their_order():
    entries = [option(i, -float(i), "x" * (i + 1)) for i in (11, 2, 0, 10, 1, *range(3, 10))]
    (unit,) = units(dict(entries))
    assert unit.options["option_loglikelihood"].tolist() == [-float(i) for i in range(12)]


def test_one_unit_a_sample_of_a_document():
    entries = [option(i, -1.0, "x", doc=d, occurrence=o) for d in range(2) for o in range(3) for i in range(4)]
    found = units(dict(entries))
    assert [(u.key.doc_id, u.key.occurrence) for u in found] == [(d, o) for d in range(2) for o in range(3)]


def test_an_unknown_norm_is_named():
    with pytest.raises(ValueError, match="norm='acc' is not known; choose one of none, chars, bytes"):
        units({}, norm="acc")


# ---------------------------------------------------------------- scores


def text_record(doc, logprobs, answer, **signals):
    logprob = torch.tensor(logprobs, dtype=torch.float32)
    return Record(
        key=Key("gen", doc, 0, 0),
        kind="generate_until",
        prompt_count=5,
        token_count=len(logprobs),
        spans={"answer": Span(*answer), "generation": Span(0, len(logprobs))},
        answer="x",
        prompt_hash=PROMPT,
        doc_hash="d",
        request_hash="r",
        signals={"logprob": logprob, **signals},
    )


def table(records, metrics, **options):
    by_key = {r.key: r for r in records}
    found = units({k: r.entry() for k, r in by_key.items()})
    return score(found, choose(metrics), lambda names, keys: (by_key[k] for k in keys if k in by_key), **options)


def test_a_score_is_over_the_answers_tokens():
    made = table([text_record(0, [-1.0, -2.0, -4.0, -8.0], (1, 3))], "sequence_nll+mean_nll")
    assert made.values["sequence_nll"] == [6.0]
    assert made.values["mean_nll"] == [3.0]
    whole = table([text_record(0, [-1.0, -2.0, -4.0, -8.0], (1, 3))], "sequence_nll", span="generation")
    assert whole.values["sequence_nll"] == [15.0]


def test_an_unknown_span_is_named():
    with pytest.raises(ValueError, match="span='all' is not known"):
        table([], "mean_nll", span="all")


def test_every_missing_score_has_its_reason():
    records = [
        text_record(0, [-1.0], (0, 1)),
        text_record(1, [-1.0, -1.0], (0, 0)),
        text_record(2, [math.nan], (0, 1)),
    ]
    made = table(records, "mean_nll+mean_entropy+choice_entropy")
    assert made.values["mean_nll"][0] == 1.0
    assert all(map(math.isnan, made.values["mean_nll"][1:]))
    assert made.unscored["mean_nll"] == {"empty answer": 1, "signal holds NaN": 1}
    assert made.unscored["mean_entropy"] == {"signal 'entropy' was not recorded": 3}
    assert made.unscored["choice_entropy"] == {"not multiple choice": 3}


def test_an_empty_answer_has_no_score_of_the_states_behind_it_either():
    one = text_record(0, [-1.0, -2.0], (0, 0), hidden_mean=torch.randn(4, 6))
    made = table([one], "coe_r+answer_length")
    assert made.unscored["coe_r"] == {"empty answer": 1}
    assert made.values["answer_length"] == [0.0]


def test_a_record_without_the_span_is_unscored():
    thinking = text_record(0, [-1.0, -2.0, -4.0], (2, 3))
    thinking = replace(thinking, spans={**thinking.spans, "thought": Span(0, 2)})
    nothing = replace(thinking, key=Key("gen", 1, 0, 0), spans={**thinking.spans, "thought": Span(0, 0)})
    made = table([thinking, nothing, text_record(2, [-1.0], (0, 1))], "sequence_nll+prompt_length", span="thought")
    assert made.values["sequence_nll"][0] == 3.0
    assert all(map(math.isnan, made.values["sequence_nll"][1:]))
    assert made.unscored["sequence_nll"] == {"empty thought": 1, "the record has no thought": 1}
    assert made.unscored["prompt_length"] == {"the record has no thought": 1}


def test_a_record_that_could_not_be_read_is_counted():
    there, lost = text_record(0, [-1.0], (0, 1)), text_record(1, [-1.0], (0, 1))
    found = units({r.key: r.entry() for r in (there, lost)})
    made = score(found, choose("mean_nll"), lambda names, keys: iter([there]))
    assert made.values["mean_nll"][0] == 1.0
    assert math.isnan(made.values["mean_nll"][1])
    assert sum(made.unscored["mean_nll"].values()) == 1


def test_only_the_signals_that_are_needed_are_read():
    asked = []

    def fetch(names, keys):
        asked.extend(names)
        return iter(())

    score(units({}), choose("mean_nll+choice_entropy"), fetch)
    assert asked == ["logprob"]


def test_a_records_number_comes_from_its_key_alone():
    keys = [Key(t, d, r, o) for t in ("a", "b") for d in range(3) for r in range(2) for o in range(2)]
    numbers = [record_id(k) for k in keys]
    assert len(set(numbers)) == len(keys)
    assert all(0 <= n < 2**63 for n in numbers)
    assert record_id(Key("a", 1, 0, 0)) == record_id(Key("a", 1, 0, 0))
    assert record_id(Key("a", 11, 0, 0)) != record_id(Key("a", 1, 10, 0))


def test_a_document_that_lacks_an_option_is_not_scored():
    entries = [option(i, -1.0 - i, "word") for i in range(4)]
    for lost in range(4):
        rest = {k: {**e, "siblings": 4} for k, e in entries if k.request != lost}
        (unit,) = units(rest)
        table = score([unit], choose("choice_entropy+mean_nll"), lambda names, keys: iter(()))
        assert math.isnan(table.values["choice_entropy"][0]) and math.isnan(table.values["mean_nll"][0])
        assert table.unscored["choice_entropy"] == {"an option is not recorded": 1}


def test_lengths_leave_out_the_delimiter_of_the_task():
    """With an empty delimiter the choices' own white space counts, as in lm-eval."""
    entries = [option(0, -3.0, "no"), option(1, -7.9, "certainly")]  # recorded as " no" and " certainly"
    (spaced,) = units(dict(entries), norm="chars")
    (bare,) = units(dict(entries), norm="chars", delimiters={"mc": ""})
    assert spaced.options["option_bytes"].tolist() == [2, 9]
    assert bare.options["option_bytes"].tolist() == [3, 10]
    assert [spaced.key.request, bare.key.request] == [
        int(np.argmax([-3.0 / 2, -7.9 / 9])),
        int(np.argmax([-3.0 / 3, -7.9 / 10])),
    ]
