"""All options of `eval-ext sweep` in one record, and its YAML form."""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from mteb_ext.grammar import PREFIX
from mteb_ext.spec import Spec, parse
from mteb_ext.sweep_values import READERS, Model, format_size, parse_size, placed

__all__ = ["Model", "SweepConfig", "from_mapping", "load", "merged", "parse_size", "to_yaml"]


@dataclass(frozen=True)
class SweepConfig:
    """What `eval-ext sweep` is asked to do.

    Attributes:
        models: models to sweep; each a name on the hub or a folder.
        revisions: revisions of each model that has none of its own; None is the hub's default.
        layers: which layers, as `metrics.layers.select` reads it.
        aggregates: besides single layers: ``mean:LAYERS``, ``concat:LAYERS``, ``weighted:FILE``.
        pooling: poolings, each one a variant of every layer.
        norm: norms, likewise.
        max_length: tokens of a text that are read; None is the model's own limit.
        dtype: of the model's weights.
        prompt: text put before every text; `@FILE` reads it from a file.
        normalize: scale embeddings to length one; None does as each model's own modules do.
        trust_remote_code: run code that comes with a model.
        tasks: as `mteb_ext.tasks.resolve` reads them.
        preset: a named set of tasks.
        out: folder of the results, also an MTEB cache.
        workers: processes that score; 0 scores in the sweep's own, None is one less than there are cores.
        batch_size: texts in a forward pass.
        device: torch's name of it; None takes what there is.
        bank: folder of the bank; None puts it under `out`.
        bank_limit: bytes of the bank on disk.
        save_predictions: write the prediction of each item.
    """

    models: tuple[Model, ...] = ()
    revisions: tuple[str | None, ...] = (None,)
    layers: str = "all"
    aggregates: tuple[str, ...] = ()
    pooling: tuple[str, ...] = ("auto",)
    norm: tuple[str, ...] = ("auto",)
    max_length: int | None = None
    dtype: str = "auto"
    prompt: str | None = None
    normalize: bool | None = None
    trust_remote_code: bool = False
    tasks: tuple[str, ...] = ()
    preset: str | None = None
    out: Path = Path("layer-sweep")
    workers: int | None = None
    batch_size: int = 32
    device: str | None = None
    bank: Path | None = None
    bank_limit: int = 20 * 1000**3
    save_predictions: bool = False

    def checkpoints(self) -> tuple[tuple[str, str | None], ...]:
        """Every (model, revision) once, model by model; a model may name its revision as ``model@revision``.

        Raises:
            ValueError: a model is no name, or has more to it than a revision.
        """
        pairs: list[tuple[str, str | None]] = []
        for model in self.models:
            spec = parse(f"{PREFIX}/{model.id}")
            if spec != Spec(spec.model, spec.revision, layer="-1"):
                raise ValueError(f"model '{model.id}': layers, pooling and the like are options of the sweep")
            own = (spec.revision,) if spec.revision else model.revisions or self.revisions
            pairs += [(spec.model, revision) for revision in own]
        return tuple(dict.fromkeys(pairs))


def load(path: Path) -> SweepConfig:
    """Read a YAML file whose keys are the attributes of `SweepConfig`.

    Files that are read (weights, a prompt's `@FILE`, a task's `file.py`, models that start with `.` or `~`) are found
    from the folder of the YAML file; folders that are written (`out`, `bank`) from the working folder.

    Raises:
        ValueError: the file cannot be read, is not YAML, or holds an unknown key or a value of another type.
    """
    try:
        held = yaml.load(path.read_text(encoding="utf-8"), _Strict)
    except (OSError, UnicodeDecodeError) as problem:
        raise ValueError(f"{path} cannot be read: {problem}") from None
    except yaml.YAMLError as problem:
        raise ValueError(f"{path} is not YAML: {' '.join(str(problem).split())}") from None
    if not isinstance(held, Mapping):
        raise ValueError(f"{path} does not hold 'key: value' lines; begin with 'models: [ORG/MODEL]'")
    return from_mapping(held, where=str(path), base=path.parent)


def from_mapping(values: Mapping[Any, Any], *, where: str = "options", base: Path | None = None) -> SweepConfig:
    """The configuration that `values` give; keys left out have their defaults.

    Args:
        values: attribute of `SweepConfig` to value, in the types of YAML.
        where: what to call their source in an error.
        base: the folder from which files that are read are found; None is the working folder.
    """
    return replace(SweepConfig(), **_parsed(values, where, base))


def merged(config: SweepConfig, overrides: Mapping[str, Any], *, where: str = "command line") -> SweepConfig:
    """`config` with the keys of `overrides` in place of its own; None and an empty list count as not given.

    Two pairs go together: tasks or a preset given here replace both of the configuration, and revisions given here
    replace also those that its models have of their own.
    """
    given = _parsed({k: v for k, v in overrides.items() if v is not None and v != () and v != []}, where, None)
    if "tasks" in given or "preset" in given:
        config = replace(config, tasks=(), preset=None)
    if "revisions" in given:
        config = replace(config, models=tuple(Model(model.id) for model in config.models))
    return replace(config, **given)


def to_yaml(config: SweepConfig) -> str:
    """YAML that `load` reads back as the same configuration; keys at their default are left out."""
    held = {}
    for field in fields(config):
        value = getattr(config, field.name)
        if field.default is MISSING or value != field.default:
            held[field.name] = _plain(field.name, value)
    return yaml.safe_dump(held, sort_keys=False, allow_unicode=True, width=100)


def _parsed(values: Mapping[Any, Any], where: str, base: Path | None) -> dict[str, Any]:
    parsed = {}
    for key, value in values.items():
        if key not in READERS:
            near = difflib.get_close_matches(str(key).replace("-", "_"), READERS, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise ValueError(f"{where}: unknown key '{key}'{hint} Known: {', '.join(READERS)}")
        read, wanted = READERS[key]
        try:
            parsed[key] = read(value)
        except (ValueError, TypeError):
            raise ValueError(f"{where}: {key}: {value!r} is not {wanted}") from None
    return {key: placed(key, value, base or Path()) for key, value in parsed.items()}


def _plain(key: str, value: Any) -> Any:
    """A value in the types of YAML."""
    if key == "models":
        return [{"id": m.id, "revisions": list(m.revisions)} if m.revisions else m.id for m in value]
    if isinstance(value, tuple):
        return list(value)
    if key.endswith("_limit"):
        return format_size(value)
    return str(value) if isinstance(value, Path) else value


class _Strict(yaml.SafeLoader):
    """YAML without repeated keys, of which PyYAML would keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        twice = next((key for i, key in enumerate(keys) if key in keys[:i]), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(
                problem=f"key '{twice}' is given twice", problem_mark=node.start_mark
            )
        return super().construct_mapping(node, deep)
