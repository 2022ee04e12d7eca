"""What a sweep will do: every (model, revision, variant, task), and what of it is done already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mteb.abstasks import AbsTask
from mteb.models.model_meta import ModelMeta

from metrics.layers import select
from mteb_ext.checkpoint import Checkpoint, look
from mteb_ext.meta import Variant, meta_of, resolve
from mteb_ext.spec import DEEP, DTYPES, NORMS, POOLINGS, SYNONYMS, Spec
from mteb_ext.sweep_config import SweepConfig
from mteb_ext.sweep_results import Results
from mteb_ext.tasks import describe

NONE = "none"
"""What `layers` is where only aggregates are wanted."""

TOKEN = 4
"""Characters of English text a token."""


@dataclass(frozen=True, eq=False)
class Arm:
    """A variant of a checkpoint, the name MTEB files it under, and a shorter one for people."""

    variant: Variant
    meta: ModelMeta
    label: str

    @property
    def name(self) -> str:
        """The experiment's name."""
        return str(self.meta.experiment_name)


@dataclass(frozen=True, eq=False)
class Subject:
    """A checkpoint and the arms to be evaluated on it."""

    checkpoint: Checkpoint
    arms: tuple[Arm, ...]

    @property
    def name(self) -> str:
        """The model and its revision, for people."""
        return f"{self.checkpoint.name}@{self.checkpoint.revision}"


@dataclass(frozen=True)
class Refused:
    """A checkpoint that cannot be evaluated, and why."""

    name: str
    reason: str


def subjects(config: SweepConfig) -> tuple[list[Subject], list[Refused]]:
    """The checkpoints of a sweep with their arms, and those that cannot be evaluated.

    Raises:
        ValueError: there is no model, or an option is wrong whatever the model.
    """
    config = replace(config, prompt=read_prompt(config.prompt), dtype=SYNONYMS.get(config.dtype, config.dtype))
    check(config)
    found: list[Subject] = []
    refused: list[Refused] = []
    for model, revision in config.checkpoints():
        try:
            held = look(model, revision, trust_remote_code=config.trust_remote_code)
            if any(one.checkpoint.source == held.source and one.checkpoint.revision == held.revision for one in found):
                continue  # named twice, once by its revision
            found.append(Subject(held, arms(config, model, revision, held)))
        except ValueError as problem:
            refused.append(Refused(f"{model}@{revision}" if revision else model, " ".join(str(problem).split())))
    return found, refused


def check(config: SweepConfig) -> None:
    """Refuse what no model could be asked for.

    Raises:
        ValueError: it names the option, its value and what is allowed.
    """
    if not config.models:
        raise ValueError("no model is given; add --model ORG/MODEL or --model FOLDER")
    for key, values, known in (
        ("pooling", config.pooling, POOLINGS),
        ("norm", config.norm, NORMS),
        ("dtype", (config.dtype,), DTYPES),
    ):
        for value in values:
            if value not in known:
                raise ValueError(f"{key} '{value}' is not known; choose {', '.join(known)}")
    chosen = [aggregate.partition(":") for aggregate in config.aggregates]
    for text in (config.layers, *(rest for kind, _, rest in chosen if kind != "weighted")):
        if text not in ("all", NONE) and not text.startswith("last:"):
            select(text, DEEP)  # the syntax; each model knows its own depth
    if config.layers == NONE and not config.aggregates:
        raise ValueError(
            "layers 'none' leaves nothing to evaluate; add an aggregate such as mean:last:4, or choose layers"
        )


def read_prompt(prompt: str | None) -> str | None:
    """The text of a prompt, which `@FILE` reads from a file, as it stands there.

    Raises:
        ValueError: the file cannot be read or is empty.
    """
    if prompt is None or not prompt.startswith("@"):
        return prompt
    try:
        text = Path(prompt[1:]).read_bytes().decode("utf-8")
    except OSError as problem:
        raise ValueError(f"prompt {prompt}: the file cannot be read: {problem.strerror}") from None
    except ValueError as problem:
        raise ValueError(f"prompt {prompt}: the file is not UTF-8 text: {problem}") from None
    if not text:
        raise ValueError(f"prompt {prompt}: the file is empty; leave the prompt out")
    return text


def arms(config: SweepConfig, model: str, revision: str | None, held: Checkpoint) -> tuple[Arm, ...]:
    """Every layer and aggregate, under every pooling and norm; what comes to the same thing is there once."""
    base = Spec(
        model=model,
        revision=revision,
        max_length=config.max_length,
        dtype=config.dtype,
        prompt=config.prompt,
        normalize=config.normalize,
        trust_remote_code=config.trust_remote_code,
    )
    layers = () if config.layers == NONE else select(config.layers, held.blocks)
    chosen = [replace(base, layer=str(k)) for k in layers]
    for aggregate in config.aggregates:
        kind, _, rest = aggregate.partition(":")
        if kind == "weighted":
            chosen.append(replace(base, aggregate=kind, layers="all", weights=rest))
        else:
            chosen.append(replace(base, aggregate=kind, layers=rest))
    specs = [replace(spec, pooling=p, norm=n) for p in config.pooling for n in config.norm for spec in chosen]
    variants = {str(meta_of(variant).experiment_name): variant for variant in (resolve(spec, held) for spec in specs)}
    several = len({variant.view for variant in variants.values()}) > 1
    return tuple(Arm(variant, meta_of(variant), _label(variant, several)) for variant in variants.values())


def _label(variant: Variant, several: bool) -> str:
    kind, layers = variant.aggregate.kind, variant.aggregate.layers
    text = f"layer {layers[0]}" if kind == "layer" else f"{kind} of {'+'.join(map(str, layers))}"
    return f"{text}, {variant.view.pooling}/{variant.view.norm}" if several else text


@dataclass(frozen=True)
class Estimate:
    """What the pending part of a sweep is expected to take; None where MTEB ships no statistics of a task.

    Attributes:
        texts: texts that go through each model (repeated texts only once a task).
        tokens: tokens of these, about four characters each, cut at the length limit.
        bank: bytes of the rows of one task after the other, all layers and views.
        flop: floating-point operations of the forward passes, 2 x 12 L d^2 a token.
    """

    texts: int | None
    tokens: int | None
    bank: int | None
    flop: float | None


def estimate(subject: Subject, task: AbsTask) -> Estimate:
    """What one task costs a checkpoint."""
    size = describe(task)
    if size.texts is None or size.characters is None:
        return Estimate(None, None, None, None)
    held = subject.checkpoint
    views = {arm.variant.view for arm in subject.arms}
    limit = max(arm.variant.request.max_length for arm in subject.arms)
    tokens = min(size.characters // TOKEN + 2 * size.texts, size.texts * limit)
    row = 4 * (held.blocks + 1) * held.width * len(views)
    return Estimate(size.texts, tokens, row * size.texts, 24.0 * held.blocks * held.width**2 * tokens)


def table(found: Sequence[Subject], tasks: Sequence[AbsTask], results: Results) -> list[dict[str, Any]]:
    """One row a (checkpoint, task): what is pending, and what it is expected to take."""
    rows = []
    for subject in found:
        for task in tasks:
            pending = sum(not results.done(arm.meta, task) for arm in subject.arms)
            costs = estimate(subject, task) if pending else Estimate(0, 0, 0, 0.0)
            rows.append(
                {
                    "model": subject.checkpoint.name,
                    "revision": subject.checkpoint.revision,
                    "task": task.metadata.name,
                    "type": task.metadata.type,
                    "variants": len(subject.arms),
                    "pending": pending,
                    "texts": costs.texts,
                    "tokens": costs.tokens,
                    "bank MB": None if costs.bank is None else costs.bank / 1e6,
                    "TFLOP": None if costs.flop is None else costs.flop / 1e12,
                }
            )
    return rows


def task_table(tasks: Sequence[AbsTask]) -> list[dict[str, Any]]:
    """One row a task: what is known without any model."""
    rows = []
    for task in tasks:
        size = describe(task)
        tokens = None if size.texts is None or size.characters is None else size.characters // TOKEN + 2 * size.texts
        rows.append(
            {"task": task.metadata.name, "type": task.metadata.type, "texts": size.texts, "tokens, uncut": tokens}
        )
    return rows
