"""Further models that read answers, loaded by name: texts and pairs of texts in batches of like length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, BatchEncoding, PreTrainedTokenizerBase
from transformers.utils import logging

from lm_eval_ext.environment import digest_of_weights
from lm_eval_ext.room import in_parts

Text = str | tuple[str, str]

SHIFTED = ("roberta", "camembert", "longformer", "data2vec-text", "mpnet", "ibert", "xmod")
"""Types of models, or parts of their names, whose first positions are not those of tokens."""


@dataclass(frozen=True)
class Setting:
    """Where and how such models run."""

    device: str = "cpu"
    dtype: str = "float32"
    batch_size: int = 32


def default_device() -> str:
    """The first GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(eq=False)
class Reader:
    """A model with its tokenizer.

    Attributes:
        limit: tokens that it reads at most. Of what is longer the beginning is cut, so that answers behind a question
            stay whole.
        cut: how many texts were longer so far.
    """

    name: str
    revision: str
    model: Any
    tokenizer: PreTrainedTokenizerBase
    limit: int
    setting: Setting
    cut: int = field(default=0)

    def read(self, texts: Sequence[Text], look: Callable[[Any, BatchEncoding], Sequence[Tensor]]) -> list[Tensor]:
        """What `look` takes from the model's output and its input, for each text, in their order.

        Texts go in order of length, the longest first, and in smaller batches when memory runs out.

        Raises:
            ValueError: something that is not finite came out.
        """
        encoded = [self._encode(text) for text in texts]
        order = sorted(range(len(texts)), key=lambda i: -len(encoded[i]["input_ids"]))

        def batch(rows: Sequence[int]) -> list[Tensor]:
            padded = self.tokenizer.pad([encoded[i] for i in rows], return_tensors="pt").to(self.setting.device)
            with torch.inference_mode():
                return [value.float().cpu() for value in look(self.model(**padded), padded)]

        found = [value for part in in_parts(batch, order, self.setting.batch_size) for value in part]
        if not all(value.isfinite().all() for value in found):
            raise ValueError(
                f"model {self.name} in {self.setting.dtype} gives values that are not finite; take float32"
            )
        back = sorted(range(len(order)), key=order.__getitem__)
        return [found[place] for place in back]

    def _encode(self, text: Text) -> BatchEncoding:
        one, other = (text, None) if isinstance(text, str) else text
        whole = self.tokenizer(one, other, verbose=False)
        if len(whole["input_ids"]) <= self.limit:
            return whole
        self.cut += 1
        return self.tokenizer(one, other, truncation="longest_first", max_length=self.limit)


def load_reader(option: str, name: str, kind: Any, setting: Setting, **how: Any) -> Reader:
    """Load a model by name.

    Args:
        option: how the user named it, for messages.
        name: a folder, or a model of the hub, ``NAME[@REVISION]``.
        kind: transformers' class, such as AutoModelForSequenceClassification.
        setting: where it runs.
        how: further arguments of ``from_pretrained``.

    Raises:
        ValueError: there is no such model, or it is of another kind.
    """
    place, _, revision = (name, "", "") if Path(name).is_dir() else name.partition("@")
    given = {"revision": revision} if revision else {}
    try:
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(place, **given)
            model = kind.from_pretrained(place, dtype=getattr(torch, setting.dtype), **given, **how)
    except (OSError, ValueError, KeyError) as problem:
        first = next((line for line in str(problem).splitlines() if line.strip()), type(problem).__name__)
        raise ValueError(
            f"{option} {name} cannot be loaded ({first.strip()}); give a model's folder or its name on the hub"
        ) from None
    if tokenizer.pad_token_id is None:
        raise ValueError(f"{option} {name}: its tokenizer has no padding token, so texts cannot be read in batches")
    tokenizer.truncation_side = "left"
    model = model.to(setting.device).eval()
    known = getattr(model.config, "_commit_hash", None) or digest_of_weights([place])
    return Reader(
        Path(name).resolve().name if Path(name).is_dir() else place,
        str(known),
        model,
        tokenizer,
        _limit(model, tokenizer),
        setting,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from reporting on weights that a model loaded for another use does without."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if shown:
            logging.enable_progress_bar()


def _limit(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> int:
    """The smaller of the tokenizer's limit and the model's positions for tokens."""
    config: Any = model.config
    positions = getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length
    if positions > 0 and any(name in config.model_type for name in SHIFTED):
        positions -= (config.pad_token_id or 0) + 1
    return min(positions if positions > 0 else tokenizer.model_max_length, tokenizer.model_max_length)
