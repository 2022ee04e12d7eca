"""A layer, or an aggregate of layers, as an encoder of MTEB."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mteb.models.abs_encoder import AbsEncoder, get_prompt_name
from mteb.types import PromptType
from numpy.typing import NDArray

from mteb_ext.aggregate import Aggregate
from mteb_ext.shards import View
from mteb_ext.source import Source

DOCUMENTS = ("document", "passage", "corpus")
"""The names under which sentence-transformers looks for the prompt of a document."""


class NotFinite(ValueError):
    """Embeddings that hold infinite values or none."""


class LayerEncoder(AbsEncoder):
    """Embeds texts by an aggregate of layers of a `Source`; nothing is loaded before the first text it lacks.

    Args:
        prompt: put before every text; None takes the model's own prompts, by task and kind of text.
        prompts: those own prompts, as sentence-transformers names them.
        normalize: scale every embedding to unit length; a zero embedding stays zero.
    """

    def __init__(
        self,
        source: Source,
        aggregate: Aggregate,
        view: View,
        *,
        prompt: str | None = None,
        prompts: Mapping[str, str] | None = None,
        default_prompt: str | None = None,
        normalize: bool = False,
    ) -> None:
        self.source, self.aggregate, self.view, self.normalize = source, aggregate, view, normalize
        self.model = None  # MTEB looks for one; ours is in the source, when it is needed
        self.prompt, self.default_prompt = prompt, default_prompt
        self.model_prompts = dict(prompts or {})
        source.views.setdefault(view)

    def encode(  # type: ignore[override]
        self,
        inputs: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **kwargs: Any,
    ) -> NDArray[np.float32]:
        """Embeddings (n, d') in float32 of the texts of a loader, in their order.

        Raises:
            NotFinite: a text has an embedding that is not finite; the message names it.
        """
        del hf_split, hf_subset
        return self.embed(
            [text for batch in inputs for text in batch["text"]],
            prompt=self._prompt(task_metadata, prompt_type),
            task=task_metadata.name,
            batch_size=int(kwargs.get("batch_size", 32)),
            progress=bool(kwargs.get("show_progress_bar", True)),
        )

    def embed(
        self, texts: Sequence[str], *, prompt: str = "", task: str = "", batch_size: int = 32, progress: bool = True
    ) -> NDArray[np.float32]:
        """Embeddings (n, d') in float32 of texts behind a prompt, in their order; a bank files them under `task`.

        Raises:
            NotFinite: a text has an embedding that is not finite; the message names it.
        """
        found = self.source.rows(
            texts,
            self.view,
            self.aggregate.layers,
            self._embedding,
            prompt=prompt,
            task=task,
            batch_size=batch_size,
            progress=progress,
        )
        bad = np.flatnonzero(~np.isfinite(found).all(1))
        if len(bad):
            raise NotFinite(
                f"{len(bad)} of {len(texts)} embeddings of {self.source.request.checkpoint.name} in "
                f"{self.source.request.dtype} are not finite, the first of the text {texts[bad[0]][:60]!r}; take "
                "dtype=float32 or bfloat16"
            )
        return found

    def _embedding(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        made = self.aggregate(rows)
        if not self.normalize:
            return made
        length = np.linalg.norm(made.astype(np.float64), axis=1, keepdims=True)
        length[length == 0] = 1
        with np.errstate(invalid="ignore"):  # of an infinite embedding; encode says so
            return (made / length).astype(np.float32)

    def _prompt(self, task_metadata: Any, prompt_type: PromptType | None) -> str:
        if self.prompt is not None:
            return self.prompt
        prompts = self.model_prompts or {}
        name = get_prompt_name(prompts, task_metadata, prompt_type)
        if name is None and prompt_type is PromptType.document:
            name = next((n for n in DOCUMENTS if n in prompts), None)
        return prompts.get(name or self.default_prompt or "", "")
