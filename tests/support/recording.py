"""Requests of each type to tiny models, and what a store recorded of them with every signal asked for."""

import torch

from metrics.plan import make_plan

FAMILIES = ("llama", "neox", "gpt2")
KINDS = ("generate_until", "loglikelihood", "loglikelihood_rolling")
RAW = "logits+hidden+attention"
GENERATE = {"until": ["w7"], "max_gen_toks": 9, "do_sample": False}
INTEGERS = ("rank", "top_tokens", "tokens", "prompt_tokens")
EVERYTHING = make_plan("standard", "all", RAW).keep


def recorded(store):
    found = {r.key._replace(kind=""): r for r in store.records((*EVERYTHING, "tokens", "prompt_tokens"))}
    return dict(sorted(found.items()))


def everything(make_lm, reopened, requests, kind, family, **arguments):
    lm = make_lm(family, signals="all", raw=RAW, **arguments)
    getattr(lm, kind)(requests, disable_tqdm=True)
    return recorded(reopened(lm))


def same_records(a, b, tolerance=2e-4):
    assert list(a) == list(b) != []
    for key in a:
        assert a[key].spans == b[key].spans
        assert set(a[key].signals) == set(b[key].signals) >= set(EVERYTHING)
        for name, value in a[key].signals.items():
            if name in INTEGERS:
                assert torch.equal(value, b[key].signals[name]), (key, name)
            else:
                coarse = 2e-3 if value.dtype == torch.float16 else 0.0  # two steps of half precision
                torch.testing.assert_close(
                    value,
                    b[key].signals[name],
                    atol=max(tolerance, coarse),
                    rtol=max(tolerance, coarse),
                    equal_nan=True,
                    msg=lambda m, where=(key, name): f"{where}: {m}",
                )


def generation_requests(instance, prompts):
    return [instance("generate_until", (p, dict(GENERATE)), i) for i, p in enumerate(prompts)]


def scoring_requests(instance, prompts, words_of):
    ends = [" " + words_of(1 + i % 4, 50 + i) for i in range(len(prompts))]
    return [instance("loglikelihood", (p, e), i) for i, (p, e) in enumerate(zip(prompts, ends))]


def of_kind(kind, instance, prompts, words_of):
    if kind == "generate_until":
        return generation_requests(instance, prompts)
    if kind == "loglikelihood":
        return scoring_requests(instance, prompts, words_of)
    return [instance(kind, (p,), i) for i, p in enumerate(prompts)]
