"""Texts of one meaning: the relation by hand, groups against a walk, and against the published rule step by step."""

import itertools

import pytest
import torch

from metrics.meanings import equivalent, grouped

E, N, C = torch.eye(3)


def relations(*rows):
    return torch.stack([torch.stack(row) for row in rows])


@pytest.mark.parametrize(
    ("there", "back", "strict", "lenient"),
    [
        (E, E, True, True),
        (E, N, False, True),
        (N, E, False, True),
        (N, N, False, False),
        (E, C, False, False),
        (C, E, False, False),
        (N, C, False, False),
        (C, C, False, False),
    ],
)
def test_equivalent_by_hand(there, back, strict, lenient):
    nli = relations((E, there), (back, E))
    for name, expected in (("strict", strict), ("lenient", lenient)):
        same = equivalent(nli, name)
        assert same[0, 1] == same[1, 0] == expected
        assert same.diagonal().all()


def test_what_the_model_says_of_a_text_and_itself_is_kept():
    assert not equivalent(relations((N,))).item()


def published(same):
    """The authors' loop, on a matrix instead of a model."""
    ids, following = [-1] * len(same), 0
    for i in range(len(same)):
        if ids[i] == -1:
            ids[i] = following
            for j in range(i + 1, len(same)):
                if same[i][j]:
                    ids[j] = following
            following += 1
    return ids


def walked(same):
    """Connected components by a depth-first walk."""
    ids, following = [-1] * len(same), 0
    for i in range(len(same)):
        stack = [i] if ids[i] == -1 else []
        following += bool(stack)
        while stack:
            j = stack.pop()
            if ids[j] == -1:
                ids[j] = following - 1
                stack += [k for k in range(len(same)) if same[j][k] or same[k][j]]
    return ids


@pytest.mark.parametrize("seed", range(20))
def test_groups_against_slow_loops(seed):
    made = torch.Generator().manual_seed(seed)
    half = torch.rand(7, 7, generator=made) < 0.15
    same = half | half.mT
    assert grouped(same).tolist() == walked(same.tolist())
    assert grouped(same, "first").tolist() == published(same.tolist())


def test_only_the_published_rule_depends_on_the_order():
    chain = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 1, 1]]).bool()
    orders = list(itertools.permutations(range(3)))
    counts = {rule: {len(set(grouped(chain[list(o)][:, list(o)], rule).tolist())) for o in orders}
              for rule in ("components", "first")}  # fmt: skip
    assert counts == {"components": {1}, "first": {1, 2}}


@pytest.mark.parametrize("rule", ["components", "first"])
def test_one_text_none_alike_and_all_alike(rule):
    assert grouped(torch.zeros(1, 1).bool(), rule).tolist() == [0]
    assert grouped(torch.zeros(3, 3).bool(), rule).tolist() == [0, 1, 2]
    assert grouped(torch.ones(3, 3).bool(), rule).tolist() == [0, 0, 0]


def test_unknown_names():
    with pytest.raises(ValueError, match="rule='x' is not known; choose components or first"):
        grouped(torch.ones(1, 1).bool(), "x")
    with pytest.raises(ValueError, match="equivalence='x' is not known; choose strict or lenient"):
        equivalent(torch.ones(1, 1, 3), "x")
