"""Estimators: pairs of pure functions that learn from vectors and score others, found by name.

A fit function takes x ``[n, d]`` float64 and y ``[n]``, True for a wrong answer, and returns `Params`: arrays and
settings, all that there is to save. `apply(params, x)` gives ``[n]`` scores, **high meaning uncertain**::

    @estimator(apply=_apply, source="...")
    def logistic(x, y, *, c: float = 1.0) -> Params: ...

As of a metric, keyword-only parameters are options, but for `seed`, which those have that draw. Inputs are finite.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from metrics.core import options_of, summary_of

MODULES = ("linear", "neighbours", "network", "gaussian", "robust", "trees", "embedding")
"""The modules of this package that declare estimators."""


@dataclass(frozen=True)
class Params:
    """What was learnt: arrays by name, and settings that JSON can hold."""

    arrays: Mapping[str, np.ndarray]
    settings: Mapping[str, Any] = field(default_factory=dict)


Apply = Callable[[Params, np.ndarray], np.ndarray]
Fewest = Callable[[Mapping[str, Any]], int]


@dataclass(frozen=True)
class Estimator:
    """Two functions, the options of the first with their defaults, and where it is from."""

    name: str
    options: Mapping[str, Any]
    function: Callable[..., Params]
    apply: Apply
    source: str
    summary: str
    fewest: Fewest
    """How many documents the fit needs with these options."""

    def fit(self, x: np.ndarray, y: np.ndarray, options: Mapping[str, Any], seed: int) -> Params:
        """Learn; the seed goes to those that draw."""
        drawn = {"seed": seed} if "seed" in options_of(self.function) else {}
        return self.function(x, y, **options, **drawn)


F = TypeVar("F", bound=Callable[..., Params])

_estimators: dict[str, Estimator] = {}


def _any_number(options: Mapping[str, Any]) -> int:  # noqa: ARG001
    return 1


def estimator(*, apply: Apply, source: str, fewest: Fewest = _any_number) -> Callable[[F], F]:
    """Declare a fit function; `apply` is what scores with what it returns, `fewest` how many documents options need."""

    def register(function: F) -> F:
        options = {name: value for name, value in options_of(function).items() if name != "seed"}
        made = Estimator(function.__name__, options, function, apply, source, summary_of(function), fewest)
        _estimators[made.name] = made
        return function

    return register


@functools.cache
def estimators() -> Mapping[str, Estimator]:
    """Every known estimator by name."""
    for module in MODULES:
        importlib.import_module(f"metrics.fitted.{module}")
    return dict(_estimators)


def standard(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (d,) of the columns; 1 for a column that does not vary, which so becomes 0.

    Raises:
        ValueError: no column varies.
    """
    spread = x.std(axis=0)
    varies = np.ptp(x, axis=0) > 0
    if not varies.any():
        raise ValueError(f"none of the {x.shape[1]} inputs varies over {len(x)} documents, so nothing can be learnt")
    return x.mean(axis=0), np.where(varies & (spread > 0), spread, 1.0)


def one_of(who: str, name: str, value: str, known: tuple[str, ...]) -> None:
    """Raise a ValueError where an option's word is not known."""
    if value not in known:
        raise ValueError(f"{who}: {name}={value} is not known; choose {', '.join(known)}")
