import math

import numpy as np
import pytest
import scipy.stats
import torch

from metrics.uncertainty.baselines import answer_length, first_token_entropy, prompt_length, random


def splitmix64(state):
    """The generator of Steele, Lea and Flood: advance the state by the golden ratio, then mix."""
    with np.errstate(over="ignore"):
        z = np.uint64(state) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def drawn(records, seed=0):
    return np.array([random(torch.tensor(int(r)), seed=seed).item() for r in records])


def test_answer_length():
    assert answer_length(torch.tensor(17)).item() == 17.0
    assert answer_length(torch.tensor(17)).dtype == torch.float32


def test_prompt_length():
    assert prompt_length(torch.tensor(4096)).item() == 4096.0
    assert prompt_length(torch.tensor(0)).item() == 0.0


def test_first_token_entropy():
    assert first_token_entropy(torch.tensor([0.25, 9.0, 9.0])).item() == 0.25
    assert first_token_entropy(torch.tensor([0.5])).item() == 0.5
    assert first_token_entropy(torch.tensor([math.nan, 1.0])).isnan()


def test_random():
    assert int(splitmix64(0)) == 0xE220A8397B1DCDAF  # the first output published for seed 0
    assert random(torch.tensor(0)).item() == int(splitmix64(0xE220A8397B1DCDAF) >> np.uint64(40)) / 2**24
    for record in (1, 2, 12345, 2**62 + 7, 2**63 - 1):
        twice = int(splitmix64(splitmix64(record)) >> np.uint64(40)) / 2**24
        assert random(torch.tensor(record)).item() == twice


def test_random_takes_negative_records_and_any_seed():
    records = [-(2**63), -1, 0, 1, 2**63 - 1]
    for seed in (0, 1, -1, 2**70):
        values = drawn(records, seed)
        assert ((values >= 0) & (values < 1)).all()
        assert len(set(values)) == len(records)


def test_random_is_a_function_of_record_and_seed():
    assert drawn(range(50)).tolist() == drawn(range(50)).tolist()
    assert (drawn(range(50)) != drawn(range(50), seed=1)).all()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_random_is_uniform_and_independent_even_for_neighbours(seed):
    values = drawn(range(4000), seed)
    assert scipy.stats.kstest(values, "uniform").pvalue > 1e-3
    assert abs(scipy.stats.spearmanr(values[1:], values[:-1]).statistic) < 0.06
    assert abs(scipy.stats.spearmanr(values, np.arange(4000)).statistic) < 0.06
    assert abs(scipy.stats.spearmanr(values, drawn(range(4000), seed + 1)).statistic) < 0.06
