"""From the metrics somebody wants to what must be captured, computed and kept.

`make_plan` resolves metrics to signals and signals to raw tensors; `derive` computes the derived ones. A plan says
which raw tensors are needed at all (`capture`), so that nothing else is hooked, and which signals end up in the
store (`keep`), so that everything else is dropped as soon as it has served.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metrics.choosing import choose
from metrics.core import COSTS, PRESETS, Cost, Signal, signals
from metrics.naming import unknown, words

RAW = ("logits", "hidden", "attention")
"""The raw tensors that can be kept whole."""

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int32": 4, "int64": 8}


@dataclass(frozen=True)
class Plan:
    """What a choice of metrics and signals implies.

    Attributes:
        metrics: the ids of the metrics asked for; what is stored always suffices to score them.
        keep: names of the signals to store, in a fixed order.
        compute: derived signals in an order in which each follows its needs; includes unkept intermediates.
        capture: what is to be looked at in the model: some of logits, hidden, lens, attention, influence, passes.
        samples: whether a metric compares several answers to one prompt.
        texts: whether a metric needs what is made of the answers' texts, which therefore have to be stored.
    """

    metrics: tuple[str, ...]
    keep: tuple[str, ...]
    compute: tuple[str, ...]
    capture: tuple[str, ...]
    samples: bool = False
    texts: bool = False

    @property
    def extra_pass(self) -> bool:
        """Whether a teacher-forced pass over prompt and answer is needed after the evaluation's own."""
        return self.states or self.maps

    @property
    def states(self) -> bool:
        """Whether hidden states have to be looked at."""
        return not {"hidden", "lens", "influence"}.isdisjoint(self.capture)

    @property
    def maps(self) -> bool:
        """Whether attention maps have to be looked at."""
        return not {"attention", "influence"}.isdisjoint(self.capture)

    def stage(self, cost: Cost) -> tuple[str, ...]:
        """The signals to compute, in order, whose dearest raw need is `cost`."""
        known = signals()
        return tuple(name for name in self.compute if known[name].cost == cost)


def make_plan(
    metrics: str | Iterable[str] = "standard", signals_: str | Iterable[str] = (), raw: str | Iterable[str] = ()
) -> Plan:
    """Resolve names into a `Plan`.

    Args:
        metrics: names, ids and presets (``standard``, ``all``) joined by ``+``.
        signals_: further signals to keep, by name, preset or family.
        raw: raw tensors to keep whole: any of logits, hidden, attention, or ``none``.

    Raises:
        ValueError: an unknown name, with the nearest known one.
    """
    known = signals()
    chosen = choose(metrics)
    keep: dict[str, None] = {}
    asked = [known[name] for choice in chosen for name in choice.metric.needs]
    for made in (*asked, *(known[name] for word in words(signals_) for name in _signal_word(word, known))):
        keep.update(dict.fromkeys(recorded(made, known)))
    for word in words(raw):
        if word == "none":
            continue
        if word not in RAW:
            raise ValueError(unknown("raw tensor", word, (*RAW, "none")))
        keep[word] = None
    ordered: dict[str, None] = {}
    capture: set[str] = set()
    for name in keep:
        _visit(name, known, ordered, capture)
    stored = [n for n in keep if known[n].kept and known[n].cost != "free"]
    return Plan(
        metrics=tuple(c.id for c in chosen),
        keep=tuple(sorted(stored, key=lambda n: (COSTS.index(known[n].cost), n))),
        compute=tuple(ordered),
        capture=tuple(cost for cost in COSTS if cost in capture),
        samples=any("sample" in made.axes for made in asked),
        texts=any(made.cost == "samples" and not made.gathered for made in asked),
    )


def recorded(made: Signal, known: Mapping[str, Signal]) -> tuple[str, ...]:
    """The signals that a store holds for the sake of one: itself, or what it is gathered from; of texts nothing."""
    names = made.needs if made.gathered else (made.name,)
    return tuple(name for name in names if known[name].cost != "samples")


def _signal_word(word: str, known: Mapping[str, Signal]) -> list[str]:
    if word in PRESETS:
        limit = COSTS.index(PRESETS[word])
        return [n for n, s in known.items() if s.compute is not None and s.kept and COSTS.index(s.cost) <= limit]
    family = [n for n, s in known.items() if s.family == word and s.kept and n not in RAW]
    if word not in known and not family:
        kept = {n: None for n, s in known.items() if s.kept}
        raise ValueError(
            unknown("signal", word, {**dict.fromkeys((*PRESETS, *(known[n].family for n in kept))), **kept})
        )
    if family and (word not in known or word in RAW):  # a raw tensor is kept whole by `raw`
        return family
    if not known[word].kept:
        raise ValueError(f"signal '{word}' is an intermediate that is never stored; use raw=logits to keep the logits")
    return [word]


def _visit(name: str, known: Mapping[str, Signal], ordered: dict[str, None], capture: set[str]) -> None:
    made = known[name]
    if made.compute is None:
        if made.cost != "free":
            capture.add(made.cost)
        return
    for need in made.needs:
        _visit(need, known, ordered, capture)
    ordered.setdefault(name)


def computable(names: Sequence[str], available: Iterable[str]) -> tuple[str, ...]:
    """Those of the derived signals `names` that follow from the signals `available`, in order."""
    known = signals()
    have = set(available)
    found = []
    for name in names:
        if have.issuperset(known[name].needs):
            have.add(name)
            found.append(name)
    return tuple(found)


def derive(names: Sequence[str], available: Mapping[str, Any]) -> dict[str, Any]:
    """Compute the derived signals `names`, in order, from `available`; returns the new ones only.

    Each is a pure function, so the same call serves a whole batch of tokens on the device and one record on a laptop.
    """
    known = signals()
    made: dict[str, Any] = {}
    for name in names:
        if name not in known:
            raise ValueError(unknown("signal", name, known))
        recipe = known[name]
        if recipe.compute is None:
            raise ValueError(f"signal '{name}' is raw: it is recorded, not computed")
        made[name] = recipe.compute(*(made[n] if n in made else available[n] for n in recipe.needs))
    return made


@dataclass(frozen=True)
class Shape:
    """The sizes that turn a plan into bytes: a model's, and a typical continuation's."""

    blocks: int
    heads: int
    dim: int
    vocab: int
    prompt: int
    tokens: int
    layers: int | None = None
    """How many layers are recorded; all when None."""

    def axis(self, name: str) -> int:
        """The length of an axis; a fixed width is written ``name=width``."""
        if "=" in name:
            return int(name.split("=")[1])
        layers = self.blocks + 1 if self.layers is None else self.layers
        sizes = {
            "token": self.tokens,
            "step": self.tokens + 1,
            "layer": layers,
            "head": self.heads,
            "key": self.prompt + self.tokens,
            "vocab": self.vocab,
            "dim": self.dim,
        }
        return sizes[name]


def bytes_per_record(plan: Plan, shape: Shape, raw_bytes: int = 4) -> dict[str, int]:
    """Bytes each kept signal takes for one continuation of `shape.tokens` tokens, before the record index."""
    known = signals()
    sizes = {}
    for name in plan.keep:
        made = known[name]
        width = raw_bytes if name in RAW else BYTES[made.dtype]
        for axis in made.axes:
            width *= shape.axis(axis)
        if made.cost == "attention" and shape.layers in (None, shape.blocks + 1):
            width = width // (shape.blocks + 1) * shape.blocks  # of the embeddings there is no attention
        sizes[name] = width
    return sizes
