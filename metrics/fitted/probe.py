"""A fitted model as a folder: ``model.json``, what it is and how it was judged; ``model.safetensors``, its arrays."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from metrics.fitted.estimators import Params, estimators
from metrics.fitted.inputs import Inputs
from metrics.seal import SEAL, intact, seal
from metrics.stats.recalibration import Curve, Rising, Sigmoid

SCHEMA = 1
FACTS = "model.json"
ARRAYS = "model.safetensors"
SAME = ("model", "revision", "weights")
"""What of a store's manifest has to agree with the store fitted on."""


@dataclass(frozen=True)
class Probe:
    """A fitted model: what it reads, what it learnt, and the record of how.

    `facts` holds what `model.json` says besides: method, task, classes, folds, judgement, seed, versions. `trained` are
    digests of the documents fitted on.
    """

    id: str
    estimator: str
    inputs: Inputs
    layer: int | None
    span: str
    norm: str
    store: Mapping[str, Any]
    """Model, revision, weights, dtype and architecture of the store fitted on."""
    portable: bool
    width: int
    params: Params
    trained: np.ndarray
    calibration: str = ""
    curve: Rising | Sigmoid | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    filter: str | None = None
    """lm-eval's filter that reads the answers; None for the first of each task, and where nothing depends on it."""

    def scores(self, x: np.ndarray) -> np.ndarray:
        """Scores (n,) of inputs (n, width), calibrated where a curve was fitted; NaN where an input is not finite.

        Raises:
            ValueError: x has another width.
        """
        if x.shape[1] != self.width:
            raise ValueError(
                f"{self.id}: the store's inputs have {x.shape[1]} numbers and the probe learnt from {self.width}; "
                "it was recorded of a model of another size, or with other layers or heads"
            )
        found = np.full(len(x), np.nan)
        whole = np.isfinite(x).all(axis=1)
        if whole.any():
            raw = estimators()[self.estimator].apply(self.params, x[whole])
            found[whole] = raw if self.curve is None else self.curve(raw)
        return found


def digests(hashes: Iterable[str]) -> np.ndarray:
    """A 63-bit number for each document's digest, sorted, none twice."""
    numbers = [int.from_bytes(hashlib.sha256(h.encode()).digest()[:8], "big") >> 1 for h in hashes]
    return np.unique(np.array(numbers, dtype=np.int64))


def store_facts(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What of a manifest a probe remembers."""
    return {name: manifest.get(name) for name in (*SAME, "dtype", "architecture", "layers")}


def differs(probe: Probe, manifest: Mapping[str, Any]) -> str:
    """What of the model tells a store from the one fitted on, in words; empty when nothing does."""
    here, there = store_facts(manifest), probe.store
    return "" if same_model(here, there) else f"of {_named(here)}, the probe of {_named(there)}"


def other_model(manifest: Mapping[str, Any], first: Mapping[str, Any]) -> str:
    """The same of two stores' manifests."""
    here, there = store_facts(manifest), store_facts(first)
    return "" if same_model(here, there) else f"of {_named(here)}, the first of {_named(there)}"


def same_model(here: Mapping[str, Any], there: Mapping[str, Any]) -> bool:
    """Equal weights are the same model under any name; where one store knows no weights, name and revision count."""
    if here["weights"] and there.get("weights"):
        return here["weights"] == there["weights"]
    return all(here[name] == there.get(name) for name in ("model", "revision"))


def _named(facts: Mapping[str, Any]) -> str:
    revision = facts.get("revision")
    weights = str(facts.get("weights") or "")[:8]
    details = [str(revision)] * bool(revision) + [f"weights {weights}"] * bool(weights)
    return f"{facts.get('model')}" + (f" ({', '.join(details)})" if details else "")


def save_probe(probe: Probe, folder: Path) -> None:
    """Write the folder; nothing in it is a pickle.

    Raises:
        FileExistsError: it holds a probe already.
    """
    if (folder / FACTS).exists():
        raise FileExistsError(f"{folder} holds a probe already; give another --out, or remove it")
    arrays = {f"params.{name}": value for name, value in probe.params.arrays.items()} | {"trained": probe.trained}
    if probe.curve is not None:
        arrays |= {f"curve.{f.name}": np.asarray(getattr(probe.curve, f.name)) for f in fields(probe.curve)}
    data = save({name: np.ascontiguousarray(value).reshape(np.shape(value)) for name, value in arrays.items()})
    facts = {
        "schema": SCHEMA,
        "id": probe.id,
        "estimator": probe.estimator,
        "settings": dict(probe.params.settings),
        "inputs": {f.name: getattr(probe.inputs, f.name) for f in fields(Inputs)},
        "layer": probe.layer,
        "span": probe.span,
        "norm": probe.norm,
        "filter": probe.filter,
        "store": dict(probe.store),
        "portable": probe.portable,
        "width": probe.width,
        "calibration": probe.calibration,
        "facts": dict(probe.facts),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ARRAYS).write_bytes(data)
    (folder / FACTS).write_text(json.dumps(seal(facts), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load_probe(folder: Path) -> Probe:
    """Read a folder that `save_probe` wrote.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it was damaged or edited, or written by a newer version.
    """
    facts = _read_facts(folder)
    file = folder / ARRAYS
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing; copy the whole folder of the probe, or fit it again")
    data = file.read_bytes()
    if hashlib.sha256(data).hexdigest() != facts["sha256"]:
        raise ValueError(f"{file} differs from its checksum in {FACTS}; copy the probe again, or fit it again")
    try:
        arrays = load(data)
    except SafetensorError as problem:
        raise ValueError(f"{file} is no safetensors file ({problem}); fit the probe again") from None
    if facts["estimator"] not in estimators():
        raise ValueError(f"{folder}: unknown estimator {facts['estimator']}; upgrade eval-ext")
    given = facts["inputs"]
    inputs = Inputs(given["state"], *(tuple(given[name]) for name in ("layers", "features", "metrics")))
    return Probe(
        facts["id"],
        facts["estimator"],
        inputs,
        facts["layer"],
        facts["span"],
        facts["norm"],
        facts["store"],
        facts["portable"],
        facts["width"],
        Params(_of(arrays, "params."), facts["settings"]),
        arrays["trained"],
        facts["calibration"],
        _curve(facts["calibration"], _of(arrays, "curve.")),
        facts["facts"],
        facts.get("filter"),
    )


def _read_facts(folder: Path) -> dict[str, Any]:
    file = folder / FACTS
    if not file.is_file():
        raise FileNotFoundError(f"{folder} is not a probe: it holds no {FACTS}; give the --out of eval-ext fit")
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as problem:
        raise ValueError(f"{file} is not a JSON file ({problem}); fit the probe again") from None
    if not isinstance(facts, dict) or type(facts.get("schema")) is not int:
        raise ValueError(f"{file} does not describe a probe; give the --out of eval-ext fit")
    if facts["schema"] > SCHEMA:
        raise ValueError(f"{file} has schema {facts['schema']}; this version reads up to {SCHEMA}: upgrade eval-ext")
    if not intact(facts):
        raise ValueError(f"{file} was edited or damaged since eval-ext wrote it: its checksum differs; fit it again")
    return {name: value for name, value in facts.items() if name != SEAL}


def _of(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def _curve(kind: str, arrays: Mapping[str, np.ndarray]) -> Rising | Sigmoid | None:
    if not kind:
        return None
    if kind == "isotonic":
        return Rising(arrays["x"], arrays["y"], float(arrays["largest"]))
    return Sigmoid(**{name: float(value) for name, value in arrays.items()})


def as_curve(curve: Curve) -> Rising | Sigmoid:
    """A fitted curve as one that can be saved.

    Raises:
        TypeError: it is of another kind.
    """
    if not isinstance(curve, (Rising, Sigmoid)):
        raise TypeError(f"a curve of type {type(curve).__name__} cannot be saved")
    return curve


def overlap(probe: Probe, hashes: Sequence[str]) -> int:
    """How many of these documents the probe was fitted on."""
    known = set(probe.trained.tolist())
    return sum(int.from_bytes(hashlib.sha256(h.encode()).digest()[:8], "big") >> 1 in known for h in hashes)
