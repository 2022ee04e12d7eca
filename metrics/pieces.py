"""The text of recorded token ids, each token's own, when the tokenizer of the run is still at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

FILE = "tokenizer.json"
HALF = "\ufffd"
"""What stands for a character of which bytes are missing."""


class Decode(Protocol):
    """How ids become text, with the special tokens among them or without."""

    def __call__(self, ids: Sequence[int], *, special: bool = True) -> str: ...  # noqa: D102


class NoTokenizer(ValueError):
    """No tokenizer is at hand; the message says where it was looked for and what to give."""


def find_tokenizer(manifest: Mapping[str, Any], given: Path | None = None) -> Path:
    """The tokenizer file of a run: in `given`, in the model's folder, or in the local cache of the model hub.

    Nothing is downloaded.

    Raises:
        NoTokenizer: there is none at any of these places.
    """
    if given is not None:
        file = given / FILE if given.is_dir() else given
        if not file.is_file():
            raise NoTokenizer(f"--tokenizer {given}: {file} does not exist; give a model's folder or its {FILE}")
        return file
    model = str(manifest["model"])
    folder = Path(model)
    if (folder / FILE).is_file():
        return folder / FILE
    cached = None if folder.is_absolute() else _cached(model, manifest.get("revision"))
    if cached is None:
        raise NoTokenizer(
            f"no {FILE} of {model} in that folder or the hub's cache, so tokens are shown as ids; "
            "pass --tokenizer with a model's folder for their texts"
        )
    return cached


def _cached(model: str, revision: Any) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(model, FILE, revision=str(revision) if revision else None)
    except HFValidationError:  # no name of a repository
        return None
    return Path(found) if isinstance(found, str) else None


def open_tokenizer(file: Path) -> tuple[Decode, Callable[[int], str]]:
    """How to decode ids to text, and the vocabulary's entry of one id.

    Raises:
        NoTokenizer: the file is no tokenizer.
    """
    from tokenizers import Tokenizer

    try:
        loaded = Tokenizer.from_buffer(file.read_bytes())
    except ValueError as problem:
        raise NoTokenizer(f"{file} is not a {FILE} ({problem}); pass --tokenizer with a model's folder") from None

    def decode(ids: Sequence[int], *, special: bool = True) -> str:
        return loaded.decode(list(ids), skip_special_tokens=not special)

    return decode, lambda token: loaded.id_to_token(token) or ""


def pieces(ids: Sequence[int], decode: Decode) -> list[str]:
    """The text that each token adds; a character of several tokens stands at its last one, nothing at those before.

    Each token is decoded behind the one before it, since tokenizers treat the beginning of a text in their own way.
    Joined, the pieces are the decoded text, but where its bytes are no characters.
    """
    found: list[str] = []
    start = read = 0
    for end in range(1, len(ids) + 1):
        text = decode(ids[start:end])
        if text.endswith(HALF) and end < len(ids):
            found.append("")
            continue
        before = decode(ids[start:read])
        found.append(text[len(before) :] if text.startswith(before) else decode(ids[read:end]))
        start, read = read, end
    return found


def alone(tokens: Iterable[int], anchor: int, decode: Decode, entry: Callable[[int], str]) -> dict[int, str]:
    """The text of single tokens behind an anchor; the vocabulary's own entry where they are no text by themselves."""
    before = decode([anchor])
    texts = {}
    for token in dict.fromkeys(tokens):
        text = decode([anchor, token])
        own = text[len(before) :] if text.startswith(before) else ""
        texts[token] = own if own and HALF not in own else entry(token)
    return texts


def spells(ids: Sequence[int], answer: Any, decode: Decode) -> bool:
    """Whether the ids decode to a text that holds the recorded answer, white space aside; true without one.

    An answer is recorded with the special tokens that were generated in it, or without.
    """
    if not isinstance(answer, str):
        return True
    wanted = "".join(answer.split())
    return any(wanted in "".join(decode(ids, special=special).split()) for special in (True, False))
