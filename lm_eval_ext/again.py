"""The passes that follow the evaluation's own, made for a model as it was loaded; none of them keeps it alive."""

# pyright: reportAttributeAccessIssue=false
# (lm-eval's class decorator hides the type of HFLM)
from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from lm_eval.models.huggingface import HFLM

from lm_eval_ext.forced import ForcedPass
from lm_eval_ext.passes import FurtherPasses
from lm_eval_ext.recorder import say
from metrics.plan import Plan

if TYPE_CHECKING:
    from lm_eval_ext.model import HFStoreLM


def forced_pass(lm: HFStoreLM, plan: Plan) -> ForcedPass:
    """The pass over what was asked and answered, for hidden states and attention."""
    return ForcedPass(
        lm._model,
        plan,
        lm.layers,
        raw_dtype=lm.raw_dtype,
        device=lm.device,
        autocast=getattr(lm, "mixed_precision_dtype", None),
        tell=_teller(lm.rank),
        translators=lm.translators,
    )


def further_passes(lm: HFStoreLM, plan: Plan) -> FurtherPasses:
    """The passes over other texts.

    Raises:
        ValueError: the model or the tokenizer does not allow one that the plan asks for.
    """
    unowned = weakref.proxy(lm)  # a model that is let go closes its store at once
    render = functools.partial(HFLM.apply_chat_template, unowned) if lm.tokenizer.chat_template else None
    return FurtherPasses(
        lm._model,
        plan,
        lm.tokenizer,
        prefix=lm.prefix_token_id,
        longest=lm.max_length,
        render=render,
        device=lm.device,
        autocast=getattr(lm, "mixed_precision_dtype", None),
        tell=_teller(lm.rank),
    )


def _teller(rank: int) -> Callable[[str], None]:
    return lambda text: say(text, rank)
