"""What a sentence-transformers model says of itself: pooling, prompts, length, modules behind the pooling."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

POOLINGS = {
    "mean_tokens": "mean",
    "mean": "mean",
    "cls_token": "cls",
    "cls": "cls",
    "lasttoken": "last",
    "max_tokens": "max",
    "max": "max",
    "weightedmean_tokens": "weighted",
    "weightedmean": "weighted",
}
"""sentence-transformers' names of pooling modes, and ours."""

SETTINGS = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""Where sentence-transformers has kept a transformer's settings over its versions."""


@dataclass(frozen=True)
class Sentence:
    """What a sentence-transformers folder says.

    Attributes:
        pooling: its pooling in our words, or None with the reason in `why_not`.
        extra: types of modules after pooling that are not applied here (Dense ...), but for Normalize.
    """

    subfolder: str = ""
    pooling: str | None = None
    why_not: str = ""
    include_prompt: bool = True
    max_length: int | None = None
    lower_case: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    similarity: str | None = None
    normalize: bool = False
    extra: tuple[str, ...] = ()


def read_sentence(source: str, read: Callable[[str], Any]) -> Sentence | None:
    """What the sentence-transformers files of a model say, None where there is no modules.json.

    Args:
        source: the model, for what is raised.
        read: gives the content of a JSON file, None for one that is known not to be there.

    Raises:
        ValueError: a Pooling module is named and its config.json is missing, or `read` cannot tell.
    """
    modules = read("modules.json")
    if not isinstance(modules, list):
        return None
    kinds = [(str(m.get("type")).rsplit(".", 1)[-1], str(m.get("path") or "")) for m in modules if isinstance(m, dict)]
    subfolder = next((path for kind, path in kinds if kind == "Transformer"), "")
    prefix = f"{subfolder}/" if subfolder else ""
    settings = next(filter(None, (read(f"{prefix}{name}") for name in SETTINGS)), {})
    whole = read("config_sentence_transformers.json") or {}
    pooling_path = next((path for kind, path in kinds if kind == "Pooling"), None)
    pooling, why_not, include = None, "its modules.json names no Pooling module", True
    if pooling_path is not None:
        described = read(f"{pooling_path}/config.json")
        if described is None:
            raise ValueError(
                f"model {source}: its modules.json names the Pooling module {pooling_path}, and there is no "
                f"{pooling_path}/config.json to say which pooling; complete the copy"
            )
        pooling, why_not = _pooling(described)
        include = bool(described.get("include_prompt", True))
    return Sentence(
        subfolder=subfolder,
        pooling=pooling,
        why_not=why_not,
        include_prompt=include,
        max_length=settings.get("max_seq_length"),
        lower_case=bool(settings.get("do_lower_case", False)),
        prompts={k: v for k, v in (whole.get("prompts") or {}).items() if isinstance(v, str)},
        default_prompt=whole.get("default_prompt_name"),
        similarity=whole.get("similarity_fn_name"),
        normalize=any(kind == "Normalize" for kind, _ in kinds),
        extra=tuple(kind for kind, _ in kinds if kind not in ("Transformer", "Pooling", "Normalize")),
    )


def _pooling(described: Mapping[str, Any]) -> tuple[str | None, str]:
    modes = [k.removeprefix("pooling_mode_") for k, v in described.items() if k.startswith("pooling_mode_") and v]
    if "pooling_mode" in described:
        mode = described["pooling_mode"]
        modes = list(mode) if isinstance(mode, (list, tuple)) else str(mode).split("+")
    modes = modes or ["mean"]  # as sentence-transformers takes it
    if len(modes) == 1 and modes[0] in POOLINGS:
        return POOLINGS[modes[0]], ""
    return None, f"its Pooling module asks for {' and '.join(modes)}"
