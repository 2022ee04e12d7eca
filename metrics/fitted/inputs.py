"""What a method reads of a record: a state at some layers, features, metrics; and which columns each choice takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from metrics.choosing import choose, choose_features
from metrics.compute import ONE, compute_of
from metrics.core import signals
from metrics.fitted.methods import Recipe
from metrics.fitted.nested import Candidate
from metrics.layers import select


@dataclass(frozen=True)
class Inputs:
    """What is read of a record: a state at some layers, then features, then metrics, side by side in this order."""

    state: str
    layers: tuple[int, ...]
    features: tuple[str, ...]
    metrics: tuple[str, ...]

    def candidates(self, recipe: Recipe, width: int) -> list[Candidate]:
        """Every layer with every setting; `width` is that of all inputs together."""
        settings = recipe.settings()
        if not self.layers:
            return [Candidate(np.arange(width), one) for one in settings]
        plain = len(self.metrics)
        state = (width - plain) // len(self.layers)
        return [
            Candidate(np.r_[i * state : (i + 1) * state, width - plain : width], one, layer)
            for i, layer in enumerate(self.layers)
            for one in settings
        ]


def takes(inputs: Inputs, samples: int) -> str:
    """What a score of these inputs takes, as `metrics.compute.compute_of` says it of a metric."""
    chosen = [*(choose(inputs.metrics) if inputs.metrics else ()), *choose_features(inputs.features)]
    of_each = [compute_of(choice, samples, signals()).split(" + ") for choice in chosen]
    answers = max((parts[0] for parts in of_each), key=lambda part: int(part.split()[0]), default=ONE)
    more = {part: None for parts in of_each for part in parts[1:]}
    if inputs.state:
        more["pass"] = None
    return " + ".join([answers, *more])


def inputs_of(recipe: Recipe, manifest: Mapping[str, Any], layers: str = "", metrics: str = "") -> Inputs:
    """What a method reads of a store.

    Args:
        recipe: the method.
        manifest: the store's.
        layers: which to try, in place of the method's own; only recorded ones. The method's own are replaced by the
            nearest recorded one.
        metrics: in place of the method's own.

    Raises:
        ValueError: layers for a method without states, layers that are not recorded, or an unknown metric.
    """
    method = recipe.method
    if layers and not method.layers:
        raise ValueError(f"{method.name} reads no hidden states; leave --layers out")
    if metrics and method.metrics != ("standard",):
        raise ValueError(f"{method.name} has inputs of its own; leave --inputs out")
    ids = tuple(c.id for c in choose(metrics or method.metrics) if c.id != "random")
    if not method.layers:
        return Inputs("", (), method.features, ids)
    recorded = [int(layer) for layer in manifest.get("layers") or ()]
    if not recorded:
        raise ValueError(
            f"{method.name} reads hidden states, and the store holds none; record with "
            f"signals=hidden_{recipe.options['at']}"
        )
    wanted = select(layers or method.layers, max(recorded))
    missing = sorted(set(wanted) - set(recorded))
    if layers and missing:
        raise ValueError(f"--layers {layers}: layer {missing[0]} is not recorded; the store has {_listed(recorded)}")
    chosen = tuple(sorted({min(recorded, key=lambda have: (abs(have - want), -have)) for want in wanted}))
    return Inputs(recipe.state, chosen, method.features, ids)


def state_id(inputs: Inputs, manifest: Mapping[str, Any]) -> str:
    """The feature of the state at the layers of `inputs`, by their places among those that the store recorded.

    Raises:
        ValueError: a layer is not recorded.
    """
    recorded = [int(layer) for layer in manifest.get("layers") or ()]
    missing = [layer for layer in inputs.layers if layer not in recorded]
    if missing:
        raise ValueError(f"layer {missing[0]} is needed and not recorded; the store has {_listed(recorded) or 'none'}")
    places = "/".join(str(recorded.index(layer)) for layer in inputs.layers)
    return f"{inputs.state}(places={places})"


def other_layers(inputs: Inputs, fitted_on: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
    """Which layers a store recorded, where a feature lists them and the store fitted on has others; else empty.

    As many numbers of other layers would be read as if they were the same. States are taken at layers of given number.
    """
    here, there = ([int(layer) for layer in facts.get("layers") or ()] for facts in (manifest, fitted_on))
    known = signals()
    for one in choose_features(inputs.features) if here != there else ():
        if any("layer" in known[need].axes for need in one.metric.needs):
            return f"recorded layers {_listed(here) or 'none'}; {one.id} was learnt from {_listed(there) or 'none'}"
    return ""


def _listed(layers: Sequence[int]) -> str:
    return ", ".join(map(str, layers))
