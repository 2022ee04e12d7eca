"""A `layer-wrapper` name as MTEB's `ModelMeta`: canonical, so that results are filed right and found again."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from mteb.models.model_meta import ModelMeta, ScoringFunction

from metrics.layers import select
from mteb_ext.aggregate import Aggregate, make_aggregate, read_weights
from mteb_ext.arch import Opaque
from mteb_ext.autoload import in_one_line
from mteb_ext.bank import BankError
from mteb_ext.checkpoint import Checkpoint, Sentence, look
from mteb_ext.digest import short
from mteb_ext.encoder import LayerEncoder, NotFinite
from mteb_ext.grammar import KEYS, PREFIX
from mteb_ext.shards import View
from mteb_ext.source import Request, Source, Unusable, default_root, devices_of, shared_source
from mteb_ext.spec import BadName, Spec, parse

LONGEST = 96
"""Characters of a model's name that its folder of results holds, the longest that the hub allows."""

SIMILARITY: dict[str, Any] = {"cosine": ScoringFunction.COSINE, "dot": ScoringFunction.DOT_PRODUCT}


@dataclass(frozen=True)
class Variant:
    """A spec with everything resolved: what is embedded, how, and under which name it is filed."""

    request: Request
    aggregate: Aggregate
    view: View
    prompt: str | None
    normalize: bool

    def kwargs(self) -> dict[str, Any]:
        """The `experiment_kwargs`: canonical values in JSON scalars, so that MTEB files no two variants as one."""
        known = {
            **self.aggregate.kwargs(),
            **self.view._asdict(),
            "max_length": self.request.max_length,
            "dtype": self.request.dtype,
            "config": self.request.checkpoint.digest,
        }
        if self.prompt is not None:
            known["prompt"] = short(self.prompt)
        if self.normalize:
            known["normalize"] = True
        if self.request.checkpoint.trust_remote_code:
            known["trust_remote_code"] = True
        return known


def model_meta(name: str) -> ModelMeta:
    """The metadata of the model called `name`; reads its configuration and no weights.

    Raises:
        BadName: the name, or what it says of this model, is wrong.
    """
    spec = parse(name)
    try:
        return meta_of(resolve(spec))
    except ValueError as problem:
        raise BadName(f"model name '{name}': {problem}") from None


def resolve(spec: Spec, checkpoint: Checkpoint | None = None) -> Variant:
    """What a spec means for its model. Warns of what its own modules do and layers do not.

    Args:
        spec: what was asked for.
        checkpoint: what the model says of itself, where it is known already.

    Raises:
        ValueError: no such model or layer, or a setting the model does not allow.
    """
    held = checkpoint or look(spec.model, spec.revision, trust_remote_code=spec.trust_remote_code)
    layers = select(spec.layer if spec.layer is not None else spec.layers or "-1", held.blocks)
    weights = read_weights(Path(spec.weights), held.blocks) if spec.weights else None
    aggregate = make_aggregate(spec.aggregate, layers, weights)
    limit = spec.max_length or held.limit
    chosen = held.sentence is not None and held.sentence.max_length == held.limit  # not what the model can take
    most = held.positions if chosen else held.limit
    if most is not None and limit > most:
        raise ValueError(f"max_length={limit} is beyond the {most} tokens that {held.name} takes")
    request = Request(held, held.dtype if spec.dtype == "auto" else spec.dtype, limit)
    norm = "final" if spec.norm == "auto" else spec.norm
    own = bool(held.sentence and held.sentence.normalize)
    if held.sentence:
        _warn_of(held.name, held.sentence)
    normalize = own if spec.normalize is None else spec.normalize
    return Variant(request, aggregate, View(_pooling(spec, held), norm), spec.prompt, normalize)


def meta_of(variant: Variant) -> ModelMeta:
    """MTEB's metadata of a variant; its loader returns at once."""
    held = variant.request.checkpoint
    similarity = (held.sentence and held.sentence.similarity) or "cosine"
    return ModelMeta(
        loader=cast(Any, partial(load_encoder, variant=variant)),
        loader_kwargs={"blocks": held.blocks},
        name=f"{PREFIX}/{_filed(held.name)}",
        revision=held.revision,
        experiment_kwargs=variant.kwargs(),
        similarity_fn_name=SIMILARITY.get(similarity, ScoringFunction.COSINE),
        max_tokens=variant.request.max_length,
        embed_dim=None,
        release_date=None,
        languages=None,
        n_parameters=None,
        memory_usage_mb=None,
        license=None,
        open_weights=True,
        public_training_code=None,
        public_training_data=None,
        framework=["PyTorch", "Transformers"],
        use_instructions=variant.prompt is not None,
        training_datasets=None,
    )


def load_encoder(
    name: str,
    revision: str | None = None,
    device: Any = None,
    *,
    variant: Variant,
    root: Path | None = None,
    **given: Any,
) -> LayerEncoder:
    """The encoder of a variant; its weights are loaded when a text is not in the bank.

    Args:
        name: the model's name in MTEB.
        revision: what MTEB files it under; the variant knows it.
        device: one or several devices as torch names them, or a GPU's number; all GPUs or the CPU by default.
        variant: what is embedded, and how.
        root: the folder of banks; by default `EVAL_EXT_BANK`, else rows stay in memory.
        given: what MTEB hands over from the metadata; anything else belongs in the model's name.

    Raises:
        ValueError: an option that would change the embeddings without changing the name they are filed under.
    """
    del revision
    known = {**variant.kwargs(), "blocks": variant.request.checkpoint.blocks}
    if strange := {k: v for k, v in given.items() if known.get(k) != v}:
        with in_one_line(ValueError):
            raise ValueError(_not_taken(name, strange))
    with in_one_line(ValueError, BankError):
        source = shared_source(variant.request, devices_of(device), root or default_root())
    encoder = encoder_of(variant, source)
    encoder.encode = in_one_line(Unusable, Opaque, NotFinite, BankError)(encoder.encode)
    return encoder


def encoder_of(variant: Variant, source: Source) -> LayerEncoder:
    """The encoder of a variant upon a source of rows."""
    sentence = variant.request.checkpoint.sentence
    return LayerEncoder(
        source,
        variant.aggregate,
        variant.view,
        prompt=variant.prompt,
        prompts=sentence.prompts if sentence else None,
        default_prompt=sentence.default_prompt if sentence else None,
        normalize=variant.normalize,
    )


def _pooling(spec: Spec, held: Checkpoint) -> str:
    if spec.pooling != "auto":
        return spec.pooling
    if held.sentence is None:
        return "mean"
    if held.sentence.pooling is None:
        raise ValueError(
            f"pooling=auto: {held.name}: {held.sentence.why_not}; give pooling=mean, cls, last, max or weighted"
        )
    return held.sentence.pooling


def _warn_of(name: str, sentence: Sentence) -> None:
    if sentence.extra:
        warnings.warn(
            f"model {name}: its modules {', '.join(sentence.extra)} follow the pooling and are not applied to layers; "
            "even its last layer is not its own embedding",
            stacklevel=3,
        )
    if sentence.similarity and sentence.similarity not in SIMILARITY:
        warnings.warn(
            f"model {name}: its similarity {sentence.similarity} is not one that MTEB computes for an encoder; "
            "cosine is taken",
            stacklevel=3,
        )


def _not_taken(name: str, strange: Mapping[str, Any]) -> str:
    written = [f"{key}={value}" for key, value in strange.items()]
    if unknown := [key for key in strange if key not in KEYS]:
        return f"{name}: {', '.join(unknown)} is no option of it; its name holds all of them, {', '.join(KEYS)}"
    return f"{name}: give {', '.join(written)} in the name of the model, as in '{PREFIX}/<model>:{','.join(written)}'"


def _filed(name: str) -> str:
    """A model's name as a folder that any system can hold; the revision tells models apart that become one."""
    return "".join("_" if c in '<>:"\\|?*' or not c.isprintable() else c for c in name[:LONGEST]).rstrip(". ") or "_"
