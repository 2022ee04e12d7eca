"""What a `layer-wrapper` name asks for, read from its text, the environment or a TOML file; no model is looked at."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from metrics.layers import select
from mteb_ext.grammar import (
    EXAMPLE,
    GRAMMAR,
    KEYS,
    PREFIX,
    Entry,
    WrongPart,
    expanded,
    is_there,
    quoted,
    quoted_model,
    read_entries,
    shown,
    split,
    unknown_key,
)

__all__ = ["EXAMPLE", "GRAMMAR", "KEYS", "BadName", "Spec", "parse", "to_name"]

VARIABLE = "LAYER_WRAPPER"
FILE = "layer-wrapper.toml"

AGGREGATES = ("mean", "concat", "weighted")
POOLINGS = ("auto", "mean", "cls", "last", "max", "weighted")
NORMS = ("auto", "raw", "final")
DTYPES = ("auto", "float32", "float16", "bfloat16")
SYNONYMS = {"fp32": "float32", "float": "float32", "fp16": "float16", "half": "float16", "bf16": "bfloat16"}
TRUTHS = ("false", "no", "0", "true", "yes", "1")

DEEP = 10**9
"""More blocks than any model has: the syntax of layers is checked here, their range once the model is known."""

_COUNT = re.compile(r"[1-9][0-9]{0,8}")
_TOML_KINDS = {
    "layer": ((int, float, str), "a number or a string"),
    "layers": ((int, float, str, list), "a string or a list of numbers"),
    "max_length": ((int,), "a whole number"),
    "normalize": ((bool,), "true or false"),
    "trust_remote_code": ((bool,), "true or false"),
}


class BadName(ValueError):
    """A model name that cannot be read. Its message is one line: the name, the wrong part, and what is allowed."""


@dataclass(frozen=True)
class Spec:
    """What a name asks for, before its model is known.

    Attributes:
        model: id on the hub, or local folder as written, ``~`` replaced.
        revision: as written, or None.
        layer: one layer as written, ``17``, ``-1`` or ``0.7``; None if and only if `layers` is given.
        layers: several as ``all``, ``last:4`` or entries joined by ``+``; given if and only if `aggregate` is.
        aggregate: ``mean``, ``concat``, ``weighted`` or None.
        weights: path of an existing file if `aggregate` is ``weighted``, else None.
        pooling, norm, dtype: one of POOLINGS, NORMS, DTYPES.
        max_length: in tokens, or None for the model's own.
        prompt: the text itself, or None.
        normalize: every embedding to length 1; None does as the model's own modules do.
        trust_remote_code: run code that comes with the model.
    """

    model: str
    revision: str | None = None
    layer: str | None = None
    layers: str | None = None
    aggregate: str | None = None
    weights: str | None = None
    pooling: str = "auto"
    norm: str = "auto"
    max_length: int | None = None
    dtype: str = "auto"
    prompt: str | None = None
    normalize: bool | None = None
    trust_remote_code: bool = False


def parse(name: str, environ: Mapping[str, str] | None = None, folder: str | Path | None = None) -> Spec:
    """Read ``layer-wrapper/<model>[@revision][:key=value,...]``.

    Bare ``layer-wrapper`` takes what follows (with or without ``layer-wrapper/``) from the environment variable
    LAYER_WRAPPER or, if that is unset or blank, the keys, `model` and `revision` from ``layer-wrapper.toml``.
    ``layer-wrapper:layer=3`` does the same, and its keys win: `layer` also puts aside layers, aggregate and weights
    given there, these put aside a layer, and an aggregate other than ``weighted`` puts aside weights.

    No layer at all is ``layer=-1``; layers alone have ``aggregate=mean``; an aggregate alone has ``layers=all``.
    Relative paths (model, weights, ``prompt=@FILE``) start at the working folder of the process.

    Args:
        name: as MTEB was given it.
        environ: the environment; by default the process's.
        folder: where the TOML file is looked for; by default the working folder.

    Raises:
        BadName: naming the wrong part, its value and what is allowed.
    """
    try:
        model, entries = _entries(name, os.environ if environ is None else environ, Path(folder or ""))
        return _spec(model, entries)
    except WrongPart as wrong:
        raise BadName(f"model name {shown(name)}: {wrong}") from None


def to_name(spec: Spec) -> str:
    """The canonical name of a spec: `parse` gives the spec back. A prompt is written out, in quotes."""
    at = re.fullmatch(r"[\w.+-]+", spec.revision or "")
    default = Spec(spec.model)
    values = {key: getattr(spec, key) for key in KEYS if getattr(spec, key) != getattr(default, key)}
    if at:
        del values["revision"]
    for key in {"weights", "prompt", "revision"} & set(values):
        values[key] = quoted(values[key])
    written = {key: str(value).lower() if isinstance(value, bool) else value for key, value in values.items()}
    pairs = ",".join(f"{key}={value}" for key, value in written.items())
    return f"{PREFIX}/{quoted_model(spec.model)}{f'@{spec.revision}' if at else ''}:{pairs}"


def _entries(name: str, environ: Mapping[str, str], folder: Path) -> tuple[str, dict[str, Entry]]:
    rest = name.removeprefix(PREFIX).strip()
    if not name.startswith(PREFIX) or (rest and rest[0] not in "/:"):
        raise WrongPart(f"it is {PREFIX}, {PREFIX}/<model> or {PREFIX}:key=value; {EXAMPLE}")
    if rest.startswith("/"):
        return split(rest[1:])
    own = read_entries(rest[1:]) if rest else {}
    model, base = _elsewhere(environ, folder)
    aside: set[str] = set()
    if "layer" in own:
        aside |= {"layers", "aggregate", "weights"}
    if {"layers", "aggregate", "weights"} & set(own):
        aside.add("layer")
    if "aggregate" in own and own["aggregate"].value.lower() != "weighted":
        aside.add("weights")
    return model, {key: entry for key, entry in base.items() if key not in aside} | own


def _elsewhere(environ: Mapping[str, str], folder: Path) -> tuple[str, dict[str, Entry]]:
    """What bare ``layer-wrapper`` stands for."""
    text = environ.get(VARIABLE, "").strip()
    path = folder / FILE
    if text:
        source = f"{VARIABLE}={shown(text)}"
        try:
            if text == PREFIX or text.startswith(f"{PREFIX}:"):
                raise WrongPart(f"the model is missing; {EXAMPLE}")
            model, entries = split(text.removeprefix(f"{PREFIX}/"))
        except WrongPart as wrong:
            raise WrongPart(f"{source}: {wrong}") from None
        return model, {key: replace(entry, part=f"{source}: {entry.part}") for key, entry in entries.items()}
    if path.is_file():
        try:
            return _toml_entries(path)
        except WrongPart as wrong:
            raise WrongPart(f"{shown(str(path))}: {wrong}") from None
    raise WrongPart(
        f"it names no model, {VARIABLE} is not set, and there is no file {shown(str(path.absolute()))}; write "
        f"{PREFIX}/<model>[@revision][:key=value,...], {EXAMPLE}, or set {VARIABLE} to that, or write the file, "
        f'such as model = "EleutherAI/pythia-410m" and layer = 17 on a line each'
    )


def _toml_entries(path: Path) -> tuple[str, dict[str, Entry]]:
    toml = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        table: dict[str, Any] = toml.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise WrongPart(f"cannot be read: {error.strerror}") from None
    except ValueError as error:  # not TOML, or not UTF-8
        raise WrongPart(f"is not TOML: {shown(str(error))}") from None
    entries: dict[str, Entry] = {}
    for key, value in table.items():
        part = f"{key} = {json.dumps(value, ensure_ascii=False, default=str)}"
        if key not in KEYS and key != "model":
            raise WrongPart(unknown_key(key, part, ("model", *KEYS)))
        entries[key] = Entry(_toml_text(key, value, shown(part)), f"{shown(str(path))}: {shown(part)}")
    if "model" not in entries:
        raise WrongPart("the key 'model' is missing; write it as model = \"EleutherAI/pythia-410m\"")
    model, more = split(entries.pop("model").value.removeprefix(f"{PREFIX}/"))
    if more:
        parts = " and ".join(entry.part for entry in more.values())
        raise WrongPart(f"key 'model' also holds {parts}; write {', '.join(more)} as keys of their own")
    return model, entries


def _toml_text(key: str, value: Any, part: str) -> str:
    kinds, wanted = _TOML_KINDS.get(key, ((str,), "a string"))
    several = value if isinstance(value, list) and list in kinds else [value]
    for one in several:
        if not isinstance(one, kinds) or isinstance(one, list) or (isinstance(one, bool) and bool not in kinds):
            raise WrongPart(f"part {part}: the value of '{key}' is to be {wanted}, not {type(one).__name__}")
    text = "+".join(str(one) for one in several)
    if not text:
        raise WrongPart(f"part {part}: the value is missing; {key} is {KEYS.get(key, 'the model')}")
    return text.lower() if isinstance(value, bool) else text


def _spec(model: str, given: Mapping[str, Entry]) -> Spec:
    layer, layers, aggregate = (given.get(key) for key in ("layer", "layers", "aggregate"))
    for other in (layers, aggregate):
        if layer and other:
            raise WrongPart(f"{layer.part} and {other.part} exclude each other; several layers are layers=3+4")
    kind = _choice("aggregate", aggregate, AGGREGATES, {}) if aggregate else "mean" if layers else None
    weights = given.get("weights")
    if weights and kind != "weighted":
        raise WrongPart(f"{weights.part} is for aggregate=weighted only; add that or leave out the weights")
    if aggregate and kind == "weighted" and not weights:
        raise WrongPart(f"{aggregate.part} needs weights=FILE")
    several = _layers(layers) if layers else "all" if aggregate else None
    revision, limit, prompt = given.get("revision"), given.get("max_length"), given.get("prompt")
    return Spec(
        model=model,
        revision=revision and revision.value,
        layer=_layer(layer) if layer else None if several else "-1",
        layers=several,
        aggregate=kind,
        weights=weights and _weights(weights),
        pooling=_choice("pooling", given.get("pooling"), POOLINGS, {}),
        norm=_choice("norm", given.get("norm"), NORMS, {}),
        max_length=limit and _max_length(limit),
        dtype=_choice("dtype", given.get("dtype"), DTYPES, SYNONYMS),
        prompt=prompt and _prompt(prompt),
        normalize=_truth("normalize", given) if "normalize" in given else None,
        trust_remote_code=_truth("trust_remote_code", given),
    )


def _truth(key: str, given: Mapping[str, Entry]) -> bool:
    return _choice(key, given.get(key), TRUTHS, {}) in TRUTHS[3:]


def _layer(entry: Entry) -> str:
    text = entry.value.strip()
    if text == "all" or text.startswith("last:") or {"+", ",", "["} & set(text):
        raise WrongPart(f"part {entry.part}: 'layer' is one index or depth; write layers={text} for several")
    return _selected(entry, text)


def _layers(entry: Entry) -> str:
    text = "+".join(one.strip() for one in re.split("[+,]", entry.value))
    if text.startswith("last:") and not _COUNT.fullmatch(text[5:]):
        raise WrongPart(f"part {entry.part}: after 'last:' comes a number from 1 on, such as last:4")
    return text if text == "all" or text.startswith("last:") else _selected(entry, text)


def _selected(entry: Entry, text: str) -> str:
    try:
        select(text.split("+"), DEEP)
    except ValueError as error:
        raise WrongPart(f"part {entry.part}: {shown(str(error))[1:-1]}") from None
    return text


def _choice(key: str, entry: Entry | None, allowed: tuple[str, ...], synonyms: Mapping[str, str]) -> str:
    if entry is None:
        return allowed[0]
    value = entry.value.lower()
    value = synonyms.get(value, value)
    if value not in allowed:
        raise WrongPart(f"part {entry.part}: {key} {shown(entry.value)} is not known; choose {', '.join(allowed)}")
    return value


def _max_length(entry: Entry) -> int:
    if not _COUNT.fullmatch(entry.value):
        raise WrongPart(f"part {entry.part}: max_length {shown(entry.value)} is not a whole number from 1 to 999999999")
    return int(entry.value)


def _weights(entry: Entry) -> str:
    path = entry.value if entry.literal else expanded(entry.value)
    if not is_there(path, Path.is_file):
        raise WrongPart(f"part {entry.part}: there is no file {shown(path)} that can be read; give the weights' path")
    return path


def _prompt(entry: Entry) -> str:
    text = entry.value
    path = Path(expanded(text[1:])) if text.startswith("@") and not entry.literal else None
    try:
        text = path.read_bytes().decode("utf-8") if path else text
        text.encode("utf-8")
    except OSError as error:
        raise WrongPart(f"part {entry.part}: the prompt's file cannot be read: {error.strerror}") from None
    except ValueError as error:  # not UTF-8, or no path at all
        raise WrongPart(f"part {entry.part}: the prompt is not UTF-8 text: {shown(str(error))}") from None
    if not text:
        raise WrongPart(f"part {entry.part}: the prompt's file is empty; leave the prompt out")
    return text
