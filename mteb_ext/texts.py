"""The provider `encoder`: plain texts to vectors, by any layer or aggregate of layers that a name asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mteb_ext.encoder import LayerEncoder
from mteb_ext.grammar import PREFIX
from mteb_ext.meta import encoder_of, resolve
from mteb_ext.source import default_root, devices_of, shared_source
from mteb_ext.spec import Spec, parse, to_name


@dataclass(frozen=True, eq=False)
class TextEncoder:
    """Embeds texts outside of any task of MTEB.

    Attributes:
        name: the canonical ``layer-wrapper`` name, a folder by its last part.
        revision: the commit on the hub, or a hash of the folder's content.
        prompt: what is put before every text: the name's own, else the model's default prompt, else nothing.
    """

    name: str
    revision: str | None
    layers: LayerEncoder
    prompt: str
    batch_size: int

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeddings (n, d) in float32, in the order of the texts, (0, 0) of none; equal texts are read once.

        Raises:
            ValueError: the weights cannot be loaded, the layers cannot be told apart, or an embedding is not finite.
            OSError: the bank named by EVAL_EXT_BANK cannot be written.
        """
        return self.layers.embed(texts, prompt=self.prompt, batch_size=self.batch_size, progress=False)


def encoder(name: str, *, batch_size: int = 32, device: str | None = None) -> TextEncoder:
    """An encoder of texts by name; its configuration is read now, its weights at the first text that no bank holds.

    Args:
        name: a model's folder, or ``[layer-wrapper/]MODEL[@REVISION][:key=value,...]`` as `mteb_ext.spec.parse` reads
            it, such as ``sentence-transformers/all-MiniLM-L6-v2`` (its last layer, with its own pooling) or
            ``./minilm:layer=3``.
        batch_size: texts in one forward pass; the vectors depend on it by a few roundings.
        device: as torch names it; all GPUs or the CPU by default.

    Raises:
        ValueError: the name cannot be read, no such model, or a setting that it does not allow.
    """
    spec = _spec(name)
    variant = resolve(spec)
    held = variant.request.checkpoint
    layers = encoder_of(variant, shared_source(variant.request, devices_of(device), default_root()))
    own = (held.sentence.prompts if held.sentence else {}).get(layers.default_prompt or "", "")
    known_as = to_name(replace(spec, model=held.name, revision=None))
    prompt = own if variant.prompt is None else variant.prompt
    return TextEncoder(known_as, held.revision, layers, prompt, batch_size)


def _spec(name: str) -> Spec:
    if Path(name).expanduser().is_dir():
        return Spec(name, layer="-1")
    ours = name == PREFIX or name.startswith((f"{PREFIX}/", f"{PREFIX}:"))
    return parse(name if ours else f"{PREFIX}/{name}")
