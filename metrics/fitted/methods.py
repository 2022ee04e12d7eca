"""Methods: what each published probe reads of a record, which estimator learns from it, and what is chosen for it.

A method is named with options as a metric is: ``saplma``, ``saplma(at=mean)``, ``entropy_lr(c=0.1)``. An option of
value 0 that stands in `searched` is chosen among those values by the inner folds.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from metrics.fitted.estimators import Estimator, estimators
from metrics.naming import settled, spelled

Target = Literal["wrong", "semantic_entropy", "embeddings"]

PLACES = ("prompt", "last", "second_last", "mean")
"""Where a state is taken: the prompt's last token, the last token read, the one before it, the mean over the answer."""

FEW_DEPTHS = "0.5+0.625+0.75+0.875+1.0"
"""The layers that SAPLMA compares: 16, 20, 24, 28 and 32 of 32, as depths."""

STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)


@dataclass(frozen=True)
class Method:
    """Inputs, estimator and what is searched. `options` are the user's; those the estimator knows are handed on.

    `layers`: the selection tried where inputs are states, empty for methods without. `portable`: its inputs mean the
    same for any model, so it may be applied to another's store.
    """

    name: str
    estimator: str
    options: Mapping[str, Any]
    source: str
    summary: str
    features: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    layers: str = ""
    searched: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    target: Target = "wrong"
    portable: bool = False


def _states(name: str, estimator: str, at: str, layers: str, source: str, summary: str, **more: Any) -> Method:
    options = {"at": at, **more.pop("options", {})}
    return Method(name, estimator, options, source, summary, layers=layers, **more)


_ALL = (
    Method(
        "entropy_lr",
        "logistic",
        {"c": 0.0},
        "the thesis notebook that eval-ext grew from",
        "Logistic regression on the distribution of token entropies.",
        features=("entropy_distribution",),
        searched={"c": STRENGTHS},
        portable=True,
    ),
    Method(
        "profile_lr",
        "logistic",
        {"c": 0.0},
        "arXiv:2502.16570, with another classifier",
        "Logistic regression on the entropy profile over layers and windows of tokens.",
        features=("entropy_profile",),
        searched={"c": STRENGTHS},
    ),
    Method(
        "profile_knn",
        "neighbours",
        {"k": 0},
        "arXiv:2502.16570",
        "Entropy-Lens: nearest neighbours of the entropy profile.",
        features=("entropy_profile",),
        searched={"k": (3, 9, 27)},
    ),
    Method(
        "lookback_lr",
        "logistic",
        {"c": 0.0},
        "arXiv:2407.07071",
        "Lookback Lens: logistic regression on each head's mean lookback ratio.",
        features=("lookback_features",),
        searched={"c": STRENGTHS},
    ),
    Method(
        "laplacian_lr",
        "logistic",
        {"c": 0.0, "pca": 512},
        "arXiv:2502.17598",
        "LapEigvals: logistic regression on principal components of attention's Laplacian eigenvalues.",
        features=("laplacian_features",),
        searched={"c": STRENGTHS},
    ),
    _states(
        "saplma",
        "network",
        "last",
        FEW_DEPTHS,
        "arXiv:2304.13734",
        "SAPLMA: a network of 256, 128 and 64 units on one layer's state at the last token.",
        options={"epochs": 5},
    ),
    _states(
        "semantic_entropy_probe",
        "logistic",
        "prompt",
        FEW_DEPTHS,
        "arXiv:2406.15927",
        "SEP: logistic regression on a layer's state, at=prompt (TBG) or second_last (SLT), for high semantic entropy.",
        options={"c": 0.0},
        searched={"c": STRENGTHS},
        target="semantic_entropy",
    ),
    _states(
        "mahalanobis",
        "mahalanobis",
        "mean",
        "last:1",
        "arXiv:1807.03888; lm-polygraph",
        "Mahalanobis distance of the last layer's mean state from those of right answers.",
        options={"of": "right", "covariance": "shrunk"},
    ),
    _states(
        "relative_mahalanobis",
        "relative_mahalanobis",
        "mean",
        "last:1",
        "arXiv:2209.15558; lm-polygraph",
        "The same less the distance from all answers.",
        options={"covariance": "shrunk", "distance": "root"},
    ),
    _states(
        "rde",
        "rde",
        "mean",
        "last:1",
        "arXiv:2202.13914; lm-polygraph",
        "Robust density estimation on kernel components of the last layer's mean state.",
        options={"of": "right", "components": 100, "gamma": "width"},
    ),
    _states(
        "mahalanobis_ppl",
        "mahalanobis_ppl",
        "mean",
        "last:1",
        "arXiv:2209.15558; lm-polygraph",
        "Mean of the ranks of Mahalanobis distance and mean NLL.",
        options={"of": "right", "covariance": "shrunk"},
        metrics=("mean_nll",),
    ),
    _states(
        "aseu",
        "aseu",
        "prompt",
        "0.5",
        "arXiv:2410.22685",
        "ASEU: how far apart samples would lie in meaning, predicted from a state; needs embeddings of samples.",
        options={"components": 16, "draws": 32},
        searched={"ridge": (0.01, 0.1, 1.0)},
        target="embeddings",
    ),
    Method(
        "boosting",
        "boosting",
        {"depth": 0, "trees": 100},
        "Friedman 2001, Ann. Stat. 29:1189",
        "Gradient boosting over the scores of metrics (--inputs).",
        metrics=("standard",),
        searched={"depth": (1, 2, 3)},
        portable=True,
    ),
)

METHODS: Mapping[str, Method] = {method.name: method for method in _ALL}


@dataclass(frozen=True)
class Recipe:
    """A method with its options settled."""

    method: Method
    options: Mapping[str, Any]

    @property
    def id(self) -> str:
        """The method's name, with every option that differs from its default."""
        return spelled(self.method.name, self.options, self.method.options)

    @property
    def estimator(self) -> Estimator:
        """What learns."""
        return estimators()[self.method.estimator]

    @property
    def state(self) -> str:
        """The feature of hidden states that it reads; empty when it reads none."""
        return f"state_{self.options['at']}" if self.method.layers else ""

    def settings(self) -> list[dict[str, Any]]:
        """The estimator's options to choose among, simplest first; one if nothing is searched."""
        given = {k: v for k, v in self.options.items() if k != "at"}
        free = {k: v for k, v in self.method.searched.items() if not given.get(k)}
        return [{**given, **dict(zip(free, values))} for values in itertools.product(*free.values())]


def recipe(text: str) -> Recipe:
    """The method that a word such as ``saplma(at=mean)`` names.

    Raises:
        ValueError: an unknown method, option or value, with the nearest known one.
    """
    method, options = settled("method", text.strip(), METHODS)
    if options.get("at", PLACES[0]) not in PLACES:
        raise ValueError(f"{method.name}: at={options['at']} is not known; choose {', '.join(PLACES)}")
    return Recipe(method, options)
