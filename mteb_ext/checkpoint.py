"""What a checkpoint says of itself without its weights: depth, precision, length limit, pooling and prompts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file, extract_commit_hash

from mteb_ext.digest import folder_digest, short

UNSTATED = 2048
"""The length limit, in tokens, of a model that states none (the limit of the Layer by Layer paper)."""

ENDLESS = 1 << 20
"""Tokenizers write an absurd number for "no limit"."""

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

BEHIND_PADDING = re.compile(
    "roberta|xlm-roberta|xlm-roberta-xl|camembert|mpnet|longformer|data2vec-text|ibert|roberta-prelayernorm|xmod|luke|"
    "lilt|markuplm|layoutlmv3|(clap|altclip|bridgetower)_text_model"
)
"""Models whose positions begin behind the pad token's, two with pad token 1, so that so many cannot be used."""

SETTINGS = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""Where sentence-transformers has kept a transformer's settings over its versions."""


UNREADABLE = (
    OSError,
    ValueError,
    LookupError,
    ImportError,
    TypeError,
    AttributeError,
    RuntimeError,
    StrictDataclassError,
)
"""What transformers raises over a configuration or a tokenizer that is missing, damaged, or of a later version."""

LONGEST = 80
"""Characters of a revision that its folder's name holds."""

DEVICE = re.compile("con|prn|aux|nul|(com|lpt)[0-9]", re.IGNORECASE)
"""Names that Windows keeps for devices, whatever the ending."""


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


@dataclass(frozen=True)
class Checkpoint:
    """A model at a revision, known by its configuration.

    Attributes:
        source: the hub's id or the absolute folder.
        name: `org/model` on the hub, the folder's name otherwise.
        asked: the revision to load, None for the default one or a folder.
        revision: what results are filed under: the revision asked for, the commit, or a hash of the folder's content.
        blocks: the number L of blocks.
        limit: the longest input in tokens that the model takes.
        positions: the longest that it could take, None where nothing bounds it.
        vocabulary: the number of tokens that it knows, None where its configuration does not say.
        digest: 12 hex digits over the configuration, the commit and the sentence-transformers settings.
    """

    source: str
    name: str
    asked: str | None
    revision: str
    blocks: int
    width: int
    dtype: str
    limit: int
    digest: str
    sentence: Sentence | None
    trust_remote_code: bool = False
    positions: int | None = None
    vocabulary: int | None = None

    @property
    def subfolder(self) -> str:
        """Where in the repository the transformer lies."""
        return self.sentence.subfolder if self.sentence else ""


def look(model: str, revision: str | None = None, *, trust_remote_code: bool = False) -> Checkpoint:
    """Read what a checkpoint says of itself; the weights stay where they are.

    Args:
        model: a hub id, or a folder.
        revision: a branch, tag or commit of the hub; for a folder, the beginning of its content hash.
        trust_remote_code: whether code that lies in the repository may run.

    Raises:
        ValueError: no such model, a configuration that names no depth, or a folder of another content.
    """
    folder = Path(model).expanduser()
    local = folder.is_dir()
    if not local and (folder.is_absolute() or model.startswith((".", "~"))):
        raise ValueError(f"model folder {model} does not exist")
    source = str(folder.resolve()) if local else model
    read = _reader(source, None if local else revision)
    sentence = _sentence(read)
    config, tokenizer = _config(source, None if local else revision, sentence, trust_remote_code)
    inner = config.get_text_config()
    blocks = getattr(inner, "num_hidden_layers", None)
    if not isinstance(blocks, int) or blocks < 1:
        raise ValueError(f"model {model}: its configuration ({type(config).__name__}) names no num_hidden_layers")
    commit = None if local else _commit(source, revision, sentence)
    content = folder_digest(folder) if local else None
    if content and revision and not content.startswith(revision):
        raise ValueError(
            f"model {model}: revision '{revision}' of a folder is the beginning of its content hash, {content} now; "
            "leave the revision out to take the folder as it is"
        )
    plain = {k: v for k, v in config.to_dict().items() if k not in ("_name_or_path", "transformers_version")}
    return Checkpoint(
        source=source,
        name=folder.resolve().name if local else model,
        asked=None if local else revision,
        revision=content or (_filed(revision) if revision else commit or "main"),
        blocks=blocks,
        width=int(getattr(inner, "hidden_size", 0) or 0),
        dtype=str(getattr(inner, "dtype", None) or getattr(config, "dtype", None) or "float32").removeprefix("torch."),
        limit=_limit(inner, tokenizer, sentence),
        digest=short({"config": plain, "commit": commit, "sentence": asdict(sentence) if sentence else None}),
        sentence=sentence,
        trust_remote_code=trust_remote_code,
        positions=_positions(inner),
        vocabulary=getattr(inner, "vocab_size", None),
    )


def load_tokenizer(
    source: str, revision: str | None, subfolder: str, trust_remote_code: bool
) -> PreTrainedTokenizerBase:
    """The checkpoint's tokenizer."""
    return AutoTokenizer.from_pretrained(
        source, revision=revision, subfolder=subfolder, trust_remote_code=trust_remote_code
    )


def _config(
    source: str, revision: str | None, sentence: Sentence | None, trust: bool
) -> tuple[PretrainedConfig, PreTrainedTokenizerBase]:
    at = f"@{revision}" if revision else ""
    subfolder = sentence.subfolder if sentence else ""
    try:
        config = AutoConfig.from_pretrained(source, revision=revision, subfolder=subfolder, trust_remote_code=trust)
        tokenizer = load_tokenizer(source, revision, subfolder, trust)
    except UNREADABLE as problem:
        reason = " ".join(str(problem).split())
        if "trust_remote_code" in reason and not trust:
            reason = "it needs code of its own; read that code, then add trust_remote_code=true"
        raise ValueError(f"model {source}{at} cannot be read: {reason}") from None
    if len(tokenizer) < len(set(tokenizer.all_special_tokens)) + 2:  # what transformers makes of no files at all
        raise ValueError(f"model {source}{at} has no tokenizer: there is no vocabulary beside its config.json")
    return config, tokenizer


def _commit(source: str, revision: str | None, sentence: Sentence | None) -> str | None:
    """The commit that a revision of the hub is now, as the cache of its configuration says."""
    path = cached_file(source, "config.json", revision=revision, subfolder=sentence.subfolder if sentence else "")
    return extract_commit_hash(path, None)


def _limit(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, sentence: Sentence | None) -> int:
    stated = [(sentence and sentence.max_length) or tokenizer.model_max_length, _positions(config)]
    return min((int(n) for n in stated if n and n < ENDLESS), default=UNSTATED)


def _positions(config: PretrainedConfig) -> int | None:
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        return None
    if not BEHIND_PADDING.fullmatch(config.model_type):
        return positions
    padding = getattr(config, "pad_token_id", None)
    return positions - (1 if padding is None else padding) - 1


def _reader(source: str, revision: str | None) -> Callable[[str], Any]:
    """A function that reads a JSON file of the repository, None where there is none."""

    def read(name: str) -> Any:
        try:
            path = cached_file(
                source,
                name,
                revision=revision,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
                _raise_exceptions_for_gated_repo=False,
            )
        except OSError:  # no such repository: reading its configuration will say so
            return None
        if path is None:
            return None
        try:
            return json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError as problem:
            raise ValueError(f"model {source}: {name} is not JSON: {problem}") from None

    return read


def _sentence(read: Callable[[str], Any]) -> Sentence | None:
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
        described = read(f"{pooling_path}/config.json") or {}
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


def _filed(revision: str) -> str:
    """A revision as one folder name that any system can hold; distinct revisions stay distinct."""
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in revision[:LONGEST]).rstrip(".")
    if safe == revision and not DEVICE.fullmatch(safe.split(".")[0]):
        return safe
    return f"{safe.replace('.', '_')}-{short(revision)}"
