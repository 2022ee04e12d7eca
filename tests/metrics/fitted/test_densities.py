"""Densities beside the values of lm-polygraph's own code on the same states (tests/data/peers/densities.json)."""

import json

import numpy as np
import pytest
from frozen_peers import FOLDER, POLYGRAPH

from metrics.fitted.estimators import estimators


@pytest.fixture(scope="module")
def frozen():
    return json.loads((FOLDER / "densities.json").read_text())


def scores(frozen, name, with_nll=False, **options):
    made = {key: np.array(value) for key, value in frozen["made"].items()}
    x, new = made["states"], made["new"]
    if with_nll:
        x, new = np.column_stack([x, made["nll"]]), np.column_stack([new, made["new_nll"]])
    of = estimators()[name]
    return of.apply(of.fit(x, made["wrong"], options, 42), new)


@pytest.mark.parametrize(
    ("peer", "ours", "options", "rel"),
    [
        ("MahalanobisDistanceSeq", "mahalanobis", {"covariance": "plain"}, 1e-4),
        ("RelativeMahalanobisDistanceSeq", "relative_mahalanobis", {"covariance": "plain"}, 1e-4),
        ("RDESeq", "rde", {}, 1e-5),  # 437 right answers, so 100 components here as there
    ],
)
def test_the_peers_value(frozen, peer, ours, options, rel):
    assert scores(frozen, ours, **options) == pytest.approx(frozen["values"][POLYGRAPH][peer], rel=rel, abs=1e-5)


def test_ranks_but_for_the_draw_of_the_reference(frozen):
    """The 131 answers whose distances give the ranks are drawn by another generator."""
    ours = scores(frozen, "mahalanobis_ppl", with_nll=True, covariance="plain")
    assert ours == pytest.approx(frozen["values"][POLYGRAPH]["PPLMDSeq"], abs=0.03)
