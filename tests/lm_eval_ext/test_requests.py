"""Who a request is: keys counted in the list that the harness hands over, never in the order of batches."""

import hashlib

import pytest

from lm_eval_ext.requests import Listener, TaggedPair, TaggedPrompt, identify, request_hash
from metrics.record import Key

GREEDY = {"until": ["w7"], "max_gen_toks": 5, "do_sample": False}


def test_one_object_in_the_list_several_times_counts_its_occurrences(instance):
    one, two = (instance("generate_until", ("p", GREEDY), i, repeats=3) for i in range(2))
    found = identify([one, one, one, two, two, two], "generate_until")
    assert [i.key for i in found] == [Key("toy", d, 0, n, "generate_until") for d in range(2) for n in range(3)]


def test_occurrences_beyond_repeats_are_padding(instance):
    requests = [instance("loglikelihood", ("p", " c"), i) for i in range(2)]
    found = identify([*requests, requests[-1], requests[-1]], "loglikelihood")
    assert [i is None for i in found] == [False, False, True, True]


def test_two_documents_with_one_prompt_are_two(instance):
    a, b = identify([instance("loglikelihood", ("p", " c"), i) for i in range(2)], "loglikelihood")
    assert a.key != b.key
    assert a.request_hash == b.request_hash
    assert a.prompt_hash == hashlib.sha256(b"p").hexdigest()


def test_tasks_and_options_keep_apart(instance):
    requests = [instance("loglikelihood", ("p", " c"), 0, idx=i, task=t) for t in "ab" for i in range(2)]
    assert len({i.key for i in identify(requests, "loglikelihood")}) == 4


def test_the_request_hash_tells_what_is_asked_apart():
    asked = [
        request_hash("generate_until", ("p", {"until": ["a"], "do_sample": False})),
        request_hash("generate_until", ("p", {"until": ["b"], "do_sample": False})),
        request_hash("generate_until", ("q", {"until": ["a"], "do_sample": False})),
        request_hash("loglikelihood", ("p", "ab")),
        request_hash("loglikelihood", ("pa", "b")),
    ]
    assert len(set(asked)) == 5
    assert asked[0] == request_hash("generate_until", ("p", {"do_sample": False, "until": ["a"]}))


def test_a_tagged_prompt_is_the_text_it_was():
    tagged = TaggedPrompt.tag("abc", 5)
    assert tagged == "abc"
    assert hash(tagged) == hash("abc")
    assert type(str(tagged)) is str
    assert tagged.index == 5


def test_the_hosts_cache_hears_what_it_would_have_heard():
    heard, passed = [], []

    class Hook:
        def add_partial(self, attr, req, res):
            passed.append((attr, req, res))

    listener = Listener(Hook(), lambda place, answer: heard.append((place, answer)))
    listener.add_partial("loglikelihood", TaggedPair(("c", "d"), 4), (-1.0, True))
    listener.add_partial("loglikelihood", TaggedPair(None, 5), (-2.0, True))  # a rolling window is not cached
    listener.add_partial("generate_until", (TaggedPrompt.tag("p", 6), GREEDY), "x")
    listener.add_partial("loglikelihood_rolling", ("text",), -3.0)
    assert heard == [(4, (-1.0, True)), (5, (-2.0, True)), (6, "x")]
    assert passed == [
        ("loglikelihood", ("c", "d"), (-1.0, True)),
        ("generate_until", ("p", GREEDY), "x"),
        ("loglikelihood_rolling", ("text",), -3.0),
    ]
    assert type(passed[1][1][0]) is str


# ---------------------------------------------------------------- through the model


@pytest.mark.parametrize("kind", ["generate_until", "loglikelihood", "loglikelihood_rolling"])
def test_every_request_gets_its_own_record(kind, make_lm, instance, words_of, reopened):
    """Repeats, padding, equal prompts in two documents and two tasks, batches that reorder them all."""
    lm = make_lm(batch_size=3)

    def request(doc, prompt, **more):
        arguments = {
            "generate_until": (prompt, GREEDY),
            "loglikelihood": (prompt, " w1 w2"),
            "loglikelihood_rolling": (prompt,),
        }
        return instance(kind, arguments[kind], doc, **more)

    same = words_of(6, 1)
    requests = [request(0, same), request(1, words_of(9, 2)), request(2, same), request(3, "w1", repeats=2)]
    other = request(0, same, task="other")
    handed = [*requests, requests[-1], other, other, other]
    answers = getattr(lm, kind)(handed, disable_tqdm=True)
    assert len(answers) == len(handed)
    entries = reopened(lm).entries()
    expected = [Key("toy", doc, 0, n, kind) for doc, n in ((0, 0), (1, 0), (2, 0), (3, 0), (3, 1))]
    assert sorted(entries) == sorted([*expected, Key("other", 0, 0, 0, kind)])
    for key, answer in zip(expected, answers):
        assert entries[key]["answer"] == (list(answer) if isinstance(answer, tuple) else answer)
    assert entries[expected[0]]["answer"] == entries[expected[2]]["answer"]
    assert entries[expected[0]]["answer"] != entries[expected[1]]["answer"]


def test_sampled_repeats_stay_in_the_order_of_the_list(make_lm, instance, words_of, reopened):
    lm = make_lm(batch_size=2)
    sampled = {"until": [], "max_gen_toks": 6, "do_sample": True, "temperature": 5.0}
    one = instance("generate_until", (words_of(4, 1), sampled), repeats=5)
    answers = lm.generate_until([one] * 5, disable_tqdm=True)
    assert len(set(answers)) > 1
    entries = reopened(lm).entries()
    assert [entries[Key("toy", 0, 0, n, "generate_until")]["answer"] for n in range(5)] == answers


def test_requests_are_handed_back_untouched(make_lm, instance, words_of):
    lm = make_lm()
    requests = [instance("generate_until", (words_of(3, i), dict(GREEDY)), i) for i in range(3)]
    before = [r.arguments for r in requests]
    lm.generate_until(requests, disable_tqdm=True)
    assert [r.arguments for r in requests] == before
    assert all(type(r.arguments[0]) is str for r in requests)


def test_no_requests(make_lm, reopened):
    lm = make_lm()
    assert lm.loglikelihood([]) == lm.generate_until([]) == lm.loglikelihood_rolling([]) == []
    assert len(reopened(lm)) == 0


def test_an_empty_text_has_no_window_and_no_record(make_lm, make_hf, instance, reopened):
    requests = [instance("loglikelihood_rolling", (t,), i) for i, t in enumerate(["", "w1 w2", ""])]
    lm = make_lm()
    assert lm.loglikelihood_rolling(requests) == make_hf().loglikelihood_rolling(requests)
    assert list(reopened(lm).entries()) == [Key("toy", 1, 0, 0, "loglikelihood_rolling")]


def test_a_document_may_ask_for_several_types_under_one_number(make_lm, instance, words_of, reopened):
    """As lm-eval's squadv2 does: a generation and a log-likelihood, both numbered 0."""
    lm = make_lm()
    generations = [instance("generate_until", (words_of(4, i), dict(GREEDY)), i) for i in range(3)]
    scored = [instance("loglikelihood", (words_of(4, i), " w3"), i) for i in range(3)]
    lm.generate_until(generations, disable_tqdm=True)
    lm.loglikelihood(scored, disable_tqdm=True)
    store = reopened(lm)
    assert len(store) == 6
    assert sorted({k.kind for k in store.entries()}) == ["generate_until", "loglikelihood"]
