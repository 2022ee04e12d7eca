"""What a score takes, in words."""

import pytest

from metrics.choosing import choose
from metrics.compute import compute_of
from metrics.core import signals


@pytest.mark.parametrize(
    ("word", "takes"),
    [
        ("mean_nll", "1 answer"),
        ("answer_length", "1 answer"),
        ("rauq", "1 answer + pass"),
        ("evolution_kl", "1 answer + pass"),
        ("pmi", "1 answer + passes"),
        ("entropy:mean@rollout", "1 answer + pass"),
        ("discrete_semantic_entropy", "8 answers"),
        ("discrete_semantic_entropy(clusters=nli)", "8 answers + NLI"),
        ("discrete_semantic_entropy(clusters=embedding)", "8 answers + encoder"),
    ],
)
def test_what_a_metric_takes(word, takes):
    (choice,) = choose(word)
    assert compute_of(choice, 8, signals()) == takes


def test_of_one_sample_nothing_is_compared():
    (choice,) = choose("discrete_semantic_entropy")
    assert compute_of(choice, 1, signals()) == "1 answer"
