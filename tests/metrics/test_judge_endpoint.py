"""Asking an endpoint: a real server on this machine that is good, slow, busy, broken, or gone."""

import threading
import time

import pytest
from judging import Judge, completion, error, serving

from metrics.judge_endpoint import Endpoint, EndpointFailed, Refused, Reply, ask_all, asker, base_url

pytest.importorskip("openai", reason="the client openai is not installed (extra judge)")


def asked(judge, prompts, *, workers=2, **options):
    """Replies by prompt, and the failure that ended it."""
    found = {}
    with serving(judge) as url:
        ask = asker(Endpoint(url, "m", {"temperature": 0}, **{"retries": 0, "timeout": 5.0, **options}))
        try:
            for prompt, reply in ask_all(prompts, ask, workers=workers):
                found[prompt] = reply
        except EndpointFailed as problem:
            return found, problem
    return found, None


def test_good(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "s3cret")
    judge = Judge(lambda prompt, _: prompt.upper())
    found, failure = asked(judge, ["a", "b", "c"], key_variable="JUDGE_KEY")
    assert (found, failure) == ({p: Reply(p.upper(), 7, 1) for p in "abc"}, None)
    assert {"model": "m", "messages": [{"role": "user", "content": "a"}], "temperature": 0} in judge.seen
    assert set(judge.keys) == {"Bearer s3cret"}


def test_no_key_is_sent_as_none(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    judge = Judge(lambda *_: "yes")
    asked(judge, ["a"])
    assert judge.keys == ["Bearer none"]


def test_workers_ask_side_by_side():
    judge = Judge(lambda *_: "yes", delay=0.2)
    started = time.perf_counter()
    found, _ = asked(judge, list("abcdefgh"), workers=4)
    assert len(found) == 8
    assert judge.most == 4
    assert time.perf_counter() - started < 8 * 0.2


def test_too_slow():
    found, failure = asked(Judge(lambda *_: "yes", delay=0.5), ["a"], timeout=0.05)
    assert found == {}
    assert "APITimeoutError" in str(failure)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_busy_then_well(status):
    judge = Judge(lambda prompt, number: (status, error("busy")) if number < 3 else prompt)
    found, failure = asked(judge, ["a"], retries=2)
    assert (found["a"].text, failure, len(judge.seen)) == ("a", None, 3)


def test_broken_for_ever():
    judge = Judge(lambda *_: (500, error("on fire")))
    found, failure = asked(judge, list("abcdef"), retries=0)
    assert found == {}
    assert "on fire" in str(failure)
    assert len(judge.seen) == 2  # what was under way; nothing is sent after the first failure


def test_half_way():
    judge = Judge(lambda prompt, number: prompt if number <= 3 else (500, error("gone")))
    found, failure = asked(judge, list("abcdefgh"), workers=1)
    assert list(found) == list("abc")
    assert "gone" in str(failure)
    assert len(judge.seen) == 4


def test_what_is_under_way_is_kept():
    entered = threading.Event()

    def reply(prompt, _):
        if prompt == "slow":
            entered.set()
            time.sleep(0.3)
            return "kept"
        entered.wait(5)
        return 500, error("gone")

    found, failure = asked(Judge(reply), ["slow", "bad", "never"])
    assert {p: r.text for p, r in found.items()} == {"slow": "kept"}
    assert failure is not None


@pytest.mark.parametrize("body", ["{not json", '{"choices": []}', '{"choices": null}', "[1]", '"yes"'])
def test_malformed(body):
    found, failure = asked(Judge(lambda *_: (200, body)), ["a"])
    assert found == {}
    assert failure is not None


def test_no_content_is_an_empty_reply():
    found, _ = asked(Judge(lambda *_: (200, completion(None))), ["a"])
    assert found["a"].text == ""


def test_nobody_there():
    with serving(Judge(lambda *_: "yes")) as url:
        pass
    ask = asker(Endpoint(url, "m", retries=0))
    with pytest.raises(EndpointFailed, match="APIConnectionError"):
        ask("a")


def test_one_refused_question_does_not_end_it():
    judge = Judge(lambda prompt, _: (400, error("too long")) if prompt == "b" else prompt)
    found, failure = asked(judge, list("abc"), workers=1)
    assert failure is None
    assert isinstance(found["b"], Refused)
    assert "too long" in str(found["b"])
    assert found["c"].text == "c"


def test_all_refused_ends_it():
    judge = Judge(lambda *_: (400, error("temperature is not supported")))
    found, failure = asked(judge, [str(i) for i in range(20)], workers=1)
    assert len(judge.seen) == 5
    assert all(isinstance(r, Refused) for r in found.values())
    assert "refused the first 5 requests" in str(failure)
    assert "temperature is not supported" in str(failure)


@pytest.mark.parametrize(("status", "says"), [(404, "end in /v1"), (401, "set OPENAI_API_KEY")])
def test_what_no_retry_mends(status, says):
    judge = Judge(lambda *_: (status, error("no")))
    found, failure = asked(judge, list("abcdef"), retries=3, workers=1)
    assert (found, len(judge.seen)) == ({}, 1)
    assert says in str(failure)


@pytest.mark.parametrize("url", ["http://x/v1", "http://x/v1/", "http://x/v1/chat/completions"])
def test_addresses(url):
    assert base_url(url) == "http://x/v1"


def test_no_prompts():
    assert list(ask_all([], lambda _: Reply("", None, None), workers=3)) == []
