"""The options that hf-store adds to `--model_args`, read as the user wrote them.

lm-eval splits the list at commas and turns what looks like a number or a truth value into one, so ``store=2026`` comes
as an integer and ``layers=-1`` may come as ``-1.0``. Every value is read back as text; lists are joined by ``+``,
or given as lists where the arguments come as a dictionary or as JSON.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from metrics.plan import RAW, Plan, make_plan

MODES = ("new", "resume", "overwrite")
DTYPES = ("float32", "float16", "bfloat16")
TRANSFORMERS = int(importlib.metadata.version("transformers").split(".")[0])
TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


_WRAPS = "makes a class of its own of the model, which cannot be looked into; leave it out, transformers itself loads "
_QUANTISES = (
    "transformers 5 does not take it; save the model quantised and give that folder, whose config.json says how"
)
UNSEEN = {
    "autogptq": f"auto-gptq {_WRAPS}GPTQ checkpoints by their own configuration",
    "gptqmodel": f"gptqmodel {_WRAPS}GPTQ checkpoints by their own configuration",
    "tp_plan": "of a tensor-parallel model no process sees the whole; use parallelize=True, or accelerate launch",
    **({"load_in_8bit": _QUANTISES, "load_in_4bit": _QUANTISES} if TRANSFORMERS >= 5 else {}),
}
"""Arguments of the host whose models cannot be recorded, and what to do instead."""


@dataclass(frozen=True)
class Options:
    """What to record and where; see the README for each."""

    store: Path
    store_mode: str
    plan: Plan
    layers: str
    raw_dtype: str | None
    store_text: bool
    max_store_gb: float | None
    lens: str | None = None
    repeats_together: bool = False


def read(
    pretrained: Any,
    store: Any,
    store_mode: Any,
    metrics: Any,
    signals: Any,
    raw: Any,
    layers: Any,
    raw_dtype: Any,
    store_text: Any,
    max_store_gb: Any,
    lens: Any = None,
    repeats_together: Any = False,
) -> Options:
    """Check the options before any work.

    Raises:
        ValueError: names the option, its value and what is allowed.
    """
    mode = _one_of("store_mode", store_mode, MODES)
    dtype = None if raw_dtype is None else _one_of("raw_dtype", str(raw_dtype).removeprefix("torch."), DTYPES)
    plan = make_plan(_list(metrics), _list(signals), _list(raw))
    text = _truth("store_text", store_text)
    whole = [name for name in RAW if name in plan.keep]
    if whole and not text:
        raise ValueError(
            f"store_text=no, but the text can be read back from whole {' and '.join(whole)}; leave out one of the two"
        )
    if lens is not None and "lens" not in plan.capture:
        raise ValueError(f"lens={lens}, but no signal of the lens is recorded; add metrics=lens, or leave it out")
    return Options(
        store=Path(str(store)) if store not in (None, "") else default_store(pretrained),
        store_mode=mode,
        plan=plan,
        layers="+".join(_list(layers)) if not isinstance(layers, str) else layers,
        raw_dtype=dtype,
        store_text=text,
        max_store_gb=_size("max_store_gb", max_store_gb),
        lens=None if lens is None else str(lens),
        repeats_together=_truth("repeats_together", repeats_together),
    )


def default_store(pretrained: Any) -> Path:
    """``hf-store/<model>/<UTC time>`` in the working folder."""
    name = pretrained if isinstance(pretrained, str) else getattr(pretrained, "name_or_path", "") or "model"
    name = Path(name).name if Path(name).is_dir() else name
    safe = re.sub(r"[^A-Za-z0-9._-]+", "__", name).strip("._") or "model"
    return Path("hf-store") / safe / datetime.now(timezone.utc).strftime("%Y-%m-%dT%H-%M-%SZ")


def refuse_misspelt(given: Iterable[str], host: Callable[..., Any]) -> None:
    """Refuse a further argument that is nearly one of ours: the host would hand it to `from_pretrained`.

    Raises:
        ValueError: names the argument and the one probably meant.
    """
    ours = [f.name for f in fields(Options) if f.name != "plan"] + ["metrics", "signals", "raw"]
    theirs = set(inspect.signature(host).parameters)
    for name in given:
        near = difflib.get_close_matches(name, ours, n=1, cutoff=0.85)
        if name not in theirs and near:
            raise ValueError(f"model_args: '{name}' is not known; did you mean '{near[0]}'?")


def refuse_unseen(given: Mapping[str, Any]) -> None:
    """Refuse an argument with which the harness makes a model that cannot be looked into.

    Raises:
        ValueError: names the argument and what to do instead.
    """
    for name, why in UNSEEN.items():
        if given.get(name):
            raise ValueError(f"{name}={given[name]}: {why}")


def _list(value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError as problem:
            raise ValueError(f"model_args: {value} is not a JSON list ({problem}); or join names by +") from None
    if isinstance(value, (list, tuple)):
        return [str(v) for v in value]
    return [str(value)]


def _one_of(name: str, value: Any, allowed: tuple[str, ...]) -> str:
    text = str(value)
    if text not in allowed:
        raise ValueError(f"{name}={text} is not known; choose {', '.join(allowed)}")
    return text


def _truth(name: str, value: Any) -> bool:
    text = str(value).lower()
    if text not in TRUE + FALSE:
        raise ValueError(f"{name}={value} is neither yes nor no")
    return text in TRUE


def _size(name: str, value: Any) -> float | None:
    if value is None:
        return None
    try:
        size = float(value)
    except (TypeError, ValueError):
        size = float("nan")
    if not size > 0:
        raise ValueError(f"{name}={value} must be a positive number of gigabytes")
    return size
