"""Which generation settings draw, and what a manifest says of a task's."""

import pytest

from metrics.sampled import draws, generation, greedy

WARM = {"do_sample": True, "temperature": 1.0}


@pytest.mark.parametrize(
    ("settings", "drawn"),
    [
        ({}, False),
        ({"do_sample": False}, False),
        ({"do_sample": False, "temperature": 1.0}, False),
        ({"do_sample": True}, False),  # lm-eval's temperature is then 0, which transformers refuses
        ({"do_sample": True, "temperature": 0}, False),
        ({"do_sample": True, "temperature": 0.0}, False),
        ({"temperature": 0.7}, True),
        ({"do_sample": None, "temperature": 0.7}, True),
        ({"temperature": None}, False),
        (WARM, True),
        ({**WARM, "temperature": "0.5"}, True),
        ({**WARM, "top_k": 1}, False),
        ({**WARM, "top_k": 0}, True),  # no limit
        ({**WARM, "top_p": 0.0}, False),
        ({**WARM, "top_p": 0.9}, True),
    ],
)
def test_which_settings_draw(settings, drawn):
    assert draws(settings) is drawn


def entry(*tasks, **settings):
    return {"tasks": list(tasks), "repeats": 4, "settings": settings}


def test_each_task_has_the_settings_of_the_last_run_that_asked_it():
    cold, warm = {"do_sample": False}, WARM
    first = {"run_id": "a", "generation": [entry("one", **cold), entry("two", "three", **warm)]}
    later = {"run_id": "b", "generation": [entry("one", **warm)]}
    manifest = {"runs": [first, later, {"run_id": "c"}]}
    assert generation(manifest, "one") == warm
    assert generation(manifest, "two") == generation(manifest, "three") == warm
    assert generation(manifest, "four") is None
    assert generation({}, "one") is None
    assert not greedy(manifest, "one") and not greedy(manifest, "four")
    assert greedy({"runs": [first]}, "one") and not greedy({"runs": [first]}, "two")


def test_the_models_own_limits_count_where_the_task_sets_none():
    runs = [{"run_id": "a", "generation": [entry("one", **WARM), entry("two", **WARM, top_k=20)]}]
    manifest = {"generation": {"top_k": 1, "do_sample": True, "temperature": 0.1}, "runs": runs}
    assert generation(manifest, "one") == {**WARM, "top_k": 1}
    assert greedy(manifest, "one") and not greedy(manifest, "two")


def test_settings_of_older_stores_carry_no_task():
    old = {"runs": [{"run_id": "a", "generation": [{"do_sample": False, "until": []}]}]}
    assert greedy(old, "any")
    two = {"runs": [{"run_id": "a", "generation": [{"do_sample": False}, WARM]}]}
    assert generation(two, "any") is None and not greedy(two, "any")  # whose is which is not known
