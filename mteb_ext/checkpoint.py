"""What a checkpoint says of itself without its weights: depth, precision, length limit, pooling and prompts."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from mteb_ext.digest import folder_digest, short
from mteb_ext.repository import commit_of, reader
from mteb_ext.sentence import Sentence, read_sentence

__all__ = ["Checkpoint", "Sentence", "load_tokenizer", "look"]

UNSTATED = 2048
"""The length limit, in tokens, of a model that states none (the limit of the Layer by Layer paper)."""

ENDLESS = 1 << 20
"""Tokenizers write an absurd number for "no limit"."""

BEHIND_PADDING = re.compile(
    "roberta|xlm-roberta|xlm-roberta-xl|camembert|mpnet|longformer|data2vec-text|ibert|roberta-prelayernorm|xmod|luke|"
    "lilt|markuplm|layoutlmv3|(clap|altclip|bridgetower)_text_model"
)
"""Models whose positions begin behind the pad token's, two with pad token 1, so that so many cannot be used."""

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
class Checkpoint:
    """A model at a revision, known by its configuration.

    Attributes:
        source: the hub's id or the absolute folder.
        name: `org/model` on the hub, the folder's name otherwise.
        asked: the commit to load, None for a folder.
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
    commit = None if local else commit_of(source, revision)
    sentence = read_sentence(source, reader(source, commit)) if local or commit else None
    at = f"{source}@{revision}" if revision and not local else source
    config, tokenizer = _config(source, at, commit or (None if local else revision), sentence, trust_remote_code)
    if not local and commit is None:
        raise ValueError(f"model {at}: its cache does not say of which commit it is; give its folder instead")
    inner = config.get_text_config()
    blocks = getattr(inner, "num_hidden_layers", None)
    if not isinstance(blocks, int) or blocks < 1:
        raise ValueError(f"model {model}: its configuration ({type(config).__name__}) names no num_hidden_layers")
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
        asked=commit,
        revision=content or _filed(revision or commit or ""),
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
    source: str, at: str, revision: str | None, sentence: Sentence | None, trust: bool
) -> tuple[PretrainedConfig, PreTrainedTokenizerBase]:
    subfolder = sentence.subfolder if sentence else ""
    try:
        config = AutoConfig.from_pretrained(source, revision=revision, subfolder=subfolder, trust_remote_code=trust)
        tokenizer = load_tokenizer(source, revision, subfolder, trust)
    except UNREADABLE as problem:
        reason = " ".join(str(problem).split())
        if "trust_remote_code" in reason and not trust:
            reason = "it needs code of its own; read that code, then add trust_remote_code=true"
        raise ValueError(f"model {at} cannot be read: {reason}") from None
    if len(tokenizer) < len(set(tokenizer.all_special_tokens)) + 2:  # what transformers makes of no files at all
        raise ValueError(f"model {at} has no tokenizer: there is no vocabulary beside its config.json")
    return config, tokenizer


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


def _filed(revision: str) -> str:
    """A revision as one folder name that any system can hold; distinct revisions stay distinct."""
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in revision[:LONGEST]).rstrip(".")
    if safe == revision and not DEVICE.fullmatch(safe.split(".")[0]):
        return safe
    return f"{safe.replace('.', '_')}-{short(revision)}"
