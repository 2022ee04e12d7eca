r"""How an expression of the suite is judged; the YAML beside this file names `expressions.process_results`."""

from typing import Any

from lm_eval.tasks.hendrycks_math.utils import is_equiv

BOXED = "\\boxed{"


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """1 if the extracted expression equals the document's `answer`, by `is_equiv` of lm-eval's hendrycks_math."""
    return {"exact_match": float(is_equiv(expression(results[0]), doc["answer"]))}


def expression(text: str) -> str:
    r"""The expression in an extracted answer: its last closed ``\boxed{...}`` alone; no outer $, stars, full stop."""
    boxed = last_boxed(text)
    return (text if boxed is None else boxed).strip(" $*").removesuffix(".").strip(" $*")


def last_boxed(text: str) -> str | None:
    r"""What stands in the last ``\boxed{...}``, braces within it balanced; None if there is none or it never closes."""
    start = text.rfind(BOXED)
    if start < 0:
        return None
    start += len(BOXED)
    depth = 1
    for i in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return text[start:i]
    return None
