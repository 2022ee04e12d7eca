"""Signals, metrics and features: what they are, how they are declared, and how they are found by name.

A *signal* is a named array of one record; a *metric* is a pure function from signals to one number, a *feature* one
to a vector, for a classifier to learn from. All are plain functions under a decorator, and in all **the positional
parameters are the dependencies**::

    @signal(axes=("token",), unit="nat")
    def entropy(log_probabilities: Tensor, probabilities: Tensor) -> Tensor: ...

    @metric(higher="uncertain", unit="nat", source="folklore")
    def mean_entropy(entropy: Tensor) -> Tensor: ...

Keyword-only parameters are options; a score made with other than the defaults carries them in its name,
``min_k(share=0.1)``. Nothing is listed anywhere else: `load` imports the modules, which registers the functions.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Literal, TypeVar

from metrics.naming import spelled, unknown

Cost = Literal["free", "logits", "hidden", "lens", "attention", "influence", "passes", "samples"]
Higher = Literal["uncertain", "confident", "neutral"]
F = TypeVar("F", bound=Callable[..., Any])

COSTS: tuple[Cost, ...] = ("free", "logits", "hidden", "lens", "attention", "influence", "passes", "samples")
"""From cheap to dear: known without the model's insides; from the logits, inside the pass that is made anyway; from
hidden states, from the logits of every layer, from attention maps, and from their product over all layers, which take
one more pass over prompt and answer together; from passes over other texts or backward, which each take their own; and
from several answers to one prompt, or from what another model makes of the answers' texts.
"""

PRESETS: dict[str, Cost] = {"standard": "logits", "all": "attention"}
"""A preset is the dearest cost it admits. The name of a family is a preset too: all its members, whatever they cost."""

HOME = ("metrics.signals", "metrics.uncertainty")
"""The packages that `load` walks."""


@dataclass(frozen=True)
class Signal:
    """A named array with axes, unit and cost. Raw when `compute` is None, else derived from `needs`.

    `axes` names the dimensions: ``token`` (one entry per token of the continuation), ``step`` (one more than
    tokens: the state that produced each token, then the state that read the last), ``layer``, ``head``, ``key``
    (every position of prompt and continuation), ``vocab``, ``dim``, ``option`` (one per answer option of a
    document), ``sample`` (one per sampled answer of a document), or a fixed width such as ``top``. `kept=False` marks
    an intermediate that is never stored. A *gathered* signal stands for all samples of a document: `compute` makes one
    entry of each sample's `needs`, and the entries stand side by side along the first axis.
    """

    name: str
    axes: tuple[str, ...]
    unit: str
    cost: Cost
    summary: str
    dtype: str = "float32"
    needs: tuple[str, ...] = ()
    compute: Callable[..., Any] | None = None
    kept: bool = True
    gathered: bool = False

    @property
    def family(self) -> str:
        """What the signal is of: the module that derives it, or for a raw one its cost."""
        return self.cost if self.compute is None else self.compute.__module__.rsplit(".", 1)[-1]


@dataclass(frozen=True)
class Metric:
    """A pure function from signals to one score, with the paper's natural sign.

    `higher` says what a high value means; the evaluator, not the metric, turns it round. `variants` are option
    settings worth reporting beside the defaults; presets include them.
    """

    name: str
    needs: tuple[str, ...]
    options: Mapping[str, Any]
    higher: Higher
    unit: str
    source: str
    compute: Callable[..., Any]
    summary: str
    variants: tuple[Mapping[str, Any], ...] = ()

    @property
    def family(self) -> str:
        """The module that defines the metric: ``likelihood``, ``distribution``, ``choices``, ``baselines``..."""
        return self.compute.__module__.rsplit(".", 1)[-1]


@dataclass(frozen=True)
class Feature:
    """A pure function from signals to a vector of fixed width, which has no direction: a classifier weighs it."""

    name: str
    needs: tuple[str, ...]
    options: Mapping[str, Any]
    unit: str
    source: str
    compute: Callable[..., Any]
    summary: str

    @property
    def family(self) -> str:
        """The module that defines the feature."""
        return self.compute.__module__.rsplit(".", 1)[-1]


Made = TypeVar("Made", Metric, Feature)


@dataclass(frozen=True)
class Choice(Generic[Made]):
    """A metric or a feature with its options settled. `id` names it in tables and stores: ``name``, ``name(k=v)``."""

    metric: Made
    options: Mapping[str, Any] = field(default_factory=dict)

    @functools.cached_property
    def id(self) -> str:
        """The metric's name, with every option that differs from its default."""
        return spelled(self.metric.name, self.options, self.metric.options)

    def __call__(self, available: Mapping[str, Any]) -> Any:
        """Evaluate on a mapping that holds at least the metric's signals."""
        return self.metric.compute(*(available[name] for name in self.metric.needs), **self.options)


_signals: dict[str, Signal] = {}
_metrics: dict[str, Metric] = {}
_features: dict[str, Feature] = {}


def raw(
    name: str, *, axes: Sequence[str], unit: str, cost: Cost, summary: str, dtype: str = "float32", kept: bool = True
) -> Signal:
    """Declare a signal that is recorded, not computed."""
    return _add_signal(Signal(name, tuple(axes), unit, cost, summary, dtype, kept=kept))


def signal(*, axes: Sequence[str], unit: str, dtype: str = "float32", kept: bool = True) -> Callable[[F], F]:
    """Declare a derived signal; the function's parameters are the signals it is computed from."""

    def register(function: F) -> F:
        needs = needs_of(function, "signal")
        _add_signal(
            Signal(function.__name__, tuple(axes), unit, "free", summary_of(function), dtype, needs, function, kept)
        )
        return function

    return register


def gathered(*, axes: Sequence[str], unit: str) -> Callable[[F], F]:
    """Declare a signal over the samples of a document; the function makes one sample's entry of its own signals.

    `axes` are those of the whole, so the first is ``sample``; the parameters are signals of a record that are kept.
    """

    def register(function: F) -> F:
        name, needs = function.__name__, needs_of(function, "signal")
        whole = tuple(axes)
        if whole[:1] != ("sample",):
            raise TypeError(f"signal '{name}' is gathered, so its first axis is 'sample', not {whole}")
        _add_signal(
            Signal(name, whole, unit, "samples", summary_of(function), "float32", needs, function, gathered=True)
        )
        return function

    return register


def metric(*, higher: Higher, unit: str, source: str, variants: Sequence[Mapping[str, Any]] = ()) -> Callable[[F], F]:
    """Declare a metric; its positional parameters are signals, its keyword-only parameters are options."""

    def register(function: F) -> F:
        name = function.__name__
        made = Metric(
            name,
            needs_of(function, "metric"),
            options_of(function),
            higher,
            unit,
            source,
            function,
            summary_of(function),
            tuple(variants),
        )
        _refuse_second(_metrics.get(name), function, "metric", name)
        _metrics[name] = made
        return function

    return register


def feature(*, unit: str, source: str) -> Callable[[F], F]:
    """Declare a feature; as of a metric, its positional parameters are signals and its keyword-only ones options.

    It returns a vector whose width follows from the options and from what is recorded, not from the answer's length.
    """

    def register(function: F) -> F:
        name = function.__name__
        needs = needs_of(function, "feature")
        made = Feature(name, needs, options_of(function), unit, source, function, summary_of(function))
        _refuse_second(_features.get(name), function, "feature", name)
        _features[name] = made
        return function

    return register


def _add_signal(made: Signal) -> Signal:
    known = _signals.get(made.name)
    if known is not None and known != made and (known.compute is None or made.compute is None):
        modules = {s.compute.__module__ for s in (known, made) if s.compute is not None}
        also = f"derived in {', '.join(modules)}" if modules else "declared raw once more, otherwise"
        raise ValueError(f"signal '{made.name}' is raw and {also}; rename one")
    _refuse_second(known, made.compute, "signal", made.name)
    _signals[made.name] = made
    _catalogue.cache_clear()
    return made


def _refuse_second(known: Any, function: Callable[..., Any] | None, kind: str, name: str) -> None:
    if known is None or function is None or known.compute is None:
        return
    if known.compute.__module__ != function.__module__:
        raise ValueError(
            f"{kind} '{name}' is defined twice, in {known.compute.__module__} and {function.__module__}; rename one"
        )


def needs_of(function: Callable[..., Any], kind: str) -> tuple[str, ...]:
    """The signals that a declared function needs: its positional parameters.

    Raises:
        TypeError: a parameter is neither a signal nor an option with a default.
    """
    names = []
    for p in inspect.signature(function).parameters.values():
        if p.kind is p.KEYWORD_ONLY:
            if p.default is p.empty:
                raise TypeError(f"{kind} '{function.__name__}': option '{p.name}' has no default; give it one")
        elif p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty:
            names.append(p.name)
        else:
            raise TypeError(
                f"{kind} '{function.__name__}': parameter '{p.name}' must be a signal (positional, no default) "
                "or an option (after *, with a default)"
            )
    return tuple(names)


def options_of(function: Callable[..., Any]) -> dict[str, Any]:
    """A declared function's options with their defaults: its keyword-only parameters."""
    return {p.name: p.default for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY}


def summary_of(function: Callable[..., Any]) -> str:
    """The first paragraph of a declared function's docstring, in one line.

    Raises:
        TypeError: it has none.
    """
    text = inspect.getdoc(function) or ""
    if not text:
        raise TypeError(f"'{function.__name__}' has no docstring; its first line is shown by `eval-ext list`")
    return text.split("\n\n")[0].replace("\n", " ")


@functools.cache
def _import_all() -> None:
    for package in HOME:
        home = importlib.import_module(package)
        for module in pkgutil.iter_modules(home.__path__, f"{package}."):
            importlib.import_module(module.name)


def load() -> None:
    """Import every module that declares any, then check that each need names a signal.

    Raises:
        ValueError: a metric, a feature or a derived signal names an unknown signal (the message proposes a near one),
            or one of the first two a signal that is never stored.
    """
    _import_all()
    for thing in (*_signals.values(), *_metrics.values(), *_features.values()):
        kind = type(thing).__name__.lower()
        for need in thing.needs:
            if need not in _signals:
                raise ValueError(f"{kind} '{thing.name}': {unknown('signal', need, _signals)}")
            stands_alone = not isinstance(thing, Signal) or thing.gathered
            if stands_alone and not _signals[need].kept:
                raise ValueError(
                    f"{kind} '{thing.name}' needs '{need}', an intermediate that is never stored; derive a kept signal"
                )


def signals() -> Mapping[str, Signal]:
    """Every known signal by name, with the cost of a derived one worked out from its needs."""
    if _catalogue.cache_info().currsize == 0:
        load()
    return _catalogue()


@functools.cache
def _catalogue() -> Mapping[str, Signal]:
    costs: dict[str, Cost] = {}

    def cost(name: str) -> Cost:
        if name not in costs:
            known = _signals[name]
            derived = known.compute is not None and not known.gathered
            costs[name] = _dearest(cost(n) for n in known.needs) if derived else known.cost
        return costs[name]

    found = {n: replace(s, cost=cost(n)) for n, s in _signals.items()}
    return types.MappingProxyType(found)


def metrics() -> dict[str, Metric]:
    """Every known metric by name: families in alphabetical order, each in the order of its module."""
    load()
    return dict(sorted(_metrics.items(), key=lambda item: item[1].compute.__module__))


def features() -> dict[str, Feature]:
    """Every known feature by name."""
    load()
    return dict(_features)


def metric_cost(made: Metric | Feature) -> Cost:
    """The dearest signal that the metric (or feature) needs."""
    known = signals()
    return _dearest(known[n].cost for n in made.needs)


def _dearest(costs: Iterable[Cost]) -> Cost:
    return COSTS[max(map(COSTS.index, costs), default=0)]
