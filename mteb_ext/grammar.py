"""How the text of a model name falls into a model, a revision and key=value entries, and the quotes between them.

What the values mean is `mteb_ext.spec`'s business.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from mteb_ext.autoload import PREFIX

KEYS = {
    "layer": "one layer: an index such as 17, from the end such as -1 (the default), or a depth such as 0.7",
    "layers": "several layers: all, last:4, or entries joined by + such as 3+4 or 0.25+0.5",
    "aggregate": "how several layers become one: mean (the default), concat or weighted; without layers, all of them",
    "weights": "file with a weight for each layer, for aggregate=weighted",
    "pooling": "how tokens become one: auto (the default), mean, cls, last, max or weighted",
    "norm": "final applies the model's last norm to every layer, raw does not; auto (the default)",
    "max_length": "tokens after which a text is cut",
    "dtype": "auto (the default), float32, float16 or bfloat16",
    "prompt": "text put before every text; @FILE reads it from a file",
    "normalize": "true scales every embedding to length 1, false does not; by default as the model's own modules do",
    "trust_remote_code": "true runs the code that comes with the model; false (the default)",
    "revision": "the same as @revision; the way to write one with a slash, such as refs/pr/1",
}
"""The keys of a name and what each means."""

EXAMPLE = f"for example {PREFIX}/EleutherAI/pythia-410m@main:layer=17,pooling=mean"
"""The grammar by example, on one line."""

GRAMMAR = f"""\
{PREFIX}/<model>[@revision][:key=value,...]

{PREFIX}/EleutherAI/pythia-410m                        the last layer of a model of the hub
{PREFIX}/EleutherAI/pythia-410m@step1000:layer=17      layer 17 at a revision
{PREFIX}/./models/minilm:layer=0.7,pooling=cls         a local folder, at 70% of its depth
{PREFIX}/org/model:layers=last:4,aggregate=concat      several layers as one embedding
{PREFIX}/org/model:aggregate=weighted,weights=w.json   all layers, weighted
{PREFIX}/org/model:layer=3,prompt="query: "            a value that holds , : or = is quoted
{PREFIX}/org/model:layer=3,prompt=@query.txt           the prompt is the text of a file
{PREFIX}/org/model:layer=3,revision=refs/pr/1          a revision with a slash
{PREFIX}/"/data/a:b=c@d/model":layer=3                 a quoted folder is taken to the letter
{PREFIX}                                               from LAYER_WRAPPER or {PREFIX}.toml
{PREFIX}:layer=3                                       the same, with another layer
"""
"""The grammar by example, for help and documentation."""

_QUOTES = ("'", '"')
_ENTRY = re.compile(rf"(?::\s*(?:{'|'.join(KEYS)})|,\s*\w+)\s*=\s*(?P<open>@?['\"])?")
_DRIVE = re.compile(r"(?:\\\\[?.]\\)?[A-Za-z]:(?=[\\/])")
_SLASHED_REVISION = re.compile(r"((?!\.)[\w.-]+(?:/[\w.-]+)?)@([^/\\].*[/\\].+)", re.DOTALL)


class WrongPart(ValueError):
    """What is wrong with a part of a name; its reader puts the whole name in front."""


@dataclass(frozen=True)
class Entry:
    """One value as it was written.

    Attributes:
        value: the text, without its quotes.
        part: the piece of the name (or of the file) it stands in, for errors.
        literal: it was quoted, so that a leading ``~`` or ``@`` is nothing but text.
    """

    value: str
    part: str
    literal: bool = False


def shown(text: str) -> str:
    """Text in single quotes on one line: control characters are escaped, backslashes are not."""
    return "'" + "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text) + "'"


def split(body: str) -> tuple[str, dict[str, Entry]]:
    """The model and the entries of ``<model>[@revision][:spec]``; a revision is the entry ``revision``.

    The spec starts at the last ``:`` that is followed by a known key and ``=`` and lies in no quoted value. The
    revision starts at the last ``@`` before the spec and after the last path separator, unless an existing folder
    bears the whole text as its name. A model in quotes is taken to the letter.

    Raises:
        WrongPart: saying which part, and what is allowed.
    """
    body = body.strip()
    model, end = "", 0
    if body.startswith(_QUOTES):
        model, end = unquote(body, 0)
        if body[end : end + 1] not in ("", "@", ":"):
            raise WrongPart(
                f"after the quoted model comes '@revision', ':key=value' or nothing, not {shown(body[end:])}"
            )
    start = end if body[end : end + 1] == ":" and end else _spec_start(body, end)
    head = body[end:start].strip()
    model, revision = (model, head[1:] if head else None) if end else _split_revision(head)
    if revision is not None:
        _refuse_colon(revision, revision)
    if not model:
        raise WrongPart(f"the model is missing; {EXAMPLE}")
    if revision == "":
        raise WrongPart(f"part {shown(body[:start])}: the revision after '@' is missing; name one or leave out '@'")
    found = read_entries(body[start + 1 :]) if start < len(body) else {}
    if revision is not None:
        at = f"@{revision}"
        if "revision" in found:
            raise WrongPart(f"the revision is given twice, as {shown(at)} and as {found['revision'].part}; keep one")
        found["revision"] = Entry(revision, shown(at))
    return model, found


def read_entries(spec: str) -> dict[str, Entry]:
    """The entries of ``key=value,...`` in their order.

    Raises:
        WrongPart: an entry without ``=`` or value, an unknown or repeated key, or a quote that is not closed.
    """
    found: dict[str, Entry] = {}
    at = 0
    while at <= len(spec):
        mark = re.compile(r"[=,]|\Z").search(spec, at)
        assert mark is not None
        key = spec[at : mark.start()].strip()
        if mark[0] != "=":
            raise WrongPart(_not_a_pair(key, list(found)))
        if key not in KEYS:
            raise WrongPart(unknown_key(key, spec[at:].partition(",")[0].strip(), KEYS))
        entry, end = _read_value(spec, mark.end(), at)
        if not entry.value:
            raise WrongPart(f"part {entry.part}: the value is missing; {key} is {KEYS[key]}")
        if key in found:
            raise WrongPart(f"key '{key}' is given twice, {found[key].part} and {entry.part}; keep one")
        found[key] = entry
        at = end + 1
    return found


def unquote(text: str, at: int) -> tuple[str, int]:
    """The value whose opening quote stands at `at`, and the index after its closing quote.

    A quote inside is doubled or has a backslash before it. Backslashes are plain text but right before a quote,
    where two stand for one.

    Raises:
        WrongPart: no closing quote.

    >>> unquote("'it''s', x", 0)
    ("it's", 7)
    """
    quote = text[at]
    pieces: list[str] = []
    begin = at + 1
    while (end := text.find(quote, begin)) >= 0:
        bare = text[begin:end].rstrip("\\")
        slashes = end - begin - len(bare)
        pieces.append(bare + "\\" * (slashes // 2))
        if slashes % 2:
            begin = end + 1
        elif text[end + 1 : end + 2] == quote:
            begin = end + 2
        else:
            return "".join(pieces), end + 1
        pieces.append(quote)
    hint = "; a backslash right before the closing quote is doubled" if f"\\{quote}" in text[at:] else ""
    raise WrongPart(f"part {shown(text[at:])}: the quote is not closed{hint}")


def quoted(text: str) -> str:
    """Text in quotes, such that `unquote` gives it back."""
    quote = "'" if '"' in text and "'" not in text else '"'
    return quote + re.sub(rf"(\\*)({quote}|\Z)", lambda m: m[1] * 2 + m[2] * 2, text) + quote


def quoted_model(model: str) -> str:
    """A model as a name holds it: in quotes if anything in it could be read as something else."""
    drive = _DRIVE.match(model)
    rest = model[drive.end() if drive else 0 :]
    plain = model == model.strip() and not model.startswith((*_QUOTES, "~")) and not {"@", ":"} & set(rest)
    return model if plain else quoted(model)


def expanded(path: str) -> str:
    """A path with its leading ``~`` replaced by the home folder, else as written.

    Raises:
        WrongPart: there is no such user.
    """
    if not path.startswith("~"):
        return path
    try:
        return str(Path(path).expanduser())
    except RuntimeError:
        raise WrongPart(f"path {shown(path)}: '~' names no known user; write the folder out, or quote it") from None


def is_there(path: str, is_kind: Callable[[Path], bool]) -> bool:
    """Whether a path names a file (`Path.is_file`) or a folder (`Path.is_dir`) that can be seen."""
    try:
        return bool(path) and is_kind(Path(path))
    except OSError:  # too long for a file name, or behind a closed door
        return False


def unknown_key(key: str, part: str, known: Iterable[str]) -> str:
    """The message for a key that does not exist."""
    names = list(known)
    close = get_close_matches(key.lower(), names, 1)
    meant = f"did you mean '{close[0]}'? " if close else ""
    return f"part {shown(part)}: key {shown(key)} is not known; {meant}keys are {', '.join(names)}"


def _spec_start(text: str, at: int) -> int:
    """Where the last ``:key=`` outside of quoted values stands; the length of the text if there is none."""
    start = len(text)
    while found := _ENTRY.search(text, at):
        at = found.end()
        if found[0].startswith(":"):
            start = found.start()
        if found["open"] and start < len(text):
            try:
                _, at = unquote(text, at - 1)
            except WrongPart:  # told of when the entry is read
                break
    return start


def _read_value(spec: str, at: int, begin: int) -> tuple[Entry, int]:
    """The value that starts at `at` and the index of the comma (or end) after it; its entry starts at `begin`."""
    while spec[at : at + 1].isspace():
        at += 1
    file = "@" if spec.startswith(("@'", '@"'), at) else ""
    if spec.startswith(_QUOTES, at + len(file)):
        value, end = unquote(spec, at + len(file))
        comma = spec.find(",", end)
        comma = len(spec) if comma < 0 else comma
        part = shown(spec[begin:end].strip())
        if spec[end:comma].strip():
            left = shown(spec[end:comma].strip())
            raise WrongPart(f"part {part}: after the closing quote comes ',' or nothing, not {left}")
        return Entry(file + value if value else "", part, literal=not file), comma
    comma = spec.find(",", at)
    comma = len(spec) if comma < 0 else comma
    value, part = spec[at:comma].strip(), shown(spec[begin:comma].strip())
    if "=" in value:
        raise WrongPart(f"part {part}: the value {shown(value)} holds '='; quote it, or join two entries by ','")
    return Entry(value, part), comma


def _not_a_pair(text: str, before: list[str]) -> str:
    if not text:
        return "an entry is empty: between ':' and ',' and after the last ',' stands key=value"
    if before and before[-1] == "layers":
        return f"part {shown(text)}: '=' is missing; layers are joined by '+', as in layers=3+4, or quoted"
    return f"part {shown(text)}: '=' is missing; write key=value, such as layer=17, and quote a value that holds ','"


def _split_revision(head: str) -> tuple[str, str | None]:
    if is_there(expanded(head), Path.is_dir):
        return expanded(head), None
    model, revision = head, None
    at = head.rfind("@")
    if at > max(head.rfind("/"), head.rfind("\\")):
        model, revision = head[:at], head[at + 1 :]
    if not is_there(expanded(model), Path.is_dir):
        _refuse_colon(model, head)
        _refuse_slashed_revision(model)
    return expanded(model), revision


def _refuse_colon(text: str, head: str) -> None:
    """Tell of a spec that was not recognised: no model id, and no revision, holds a colon."""
    drive = _DRIVE.match(text)
    colon = text.find(":", drive.end() if drive else 0)
    if colon < 0:
        return
    tail = head[colon + 1 :]
    key, mark = re.match(r"([^=,:@]*)([=,:@]?)", tail, re.DOTALL).groups()  # pyright: ignore[reportOptionalMemberAccess]
    if mark == "=" and key.strip() not in KEYS:
        raise WrongPart(unknown_key(key.strip(), tail, KEYS) + "; a folder whose name holds ':' is quoted")
    if mark == "=":
        raise WrongPart(f"part {shown(tail)}: a second ':key=' follows it; quote a value or folder that holds one")
    raise WrongPart(
        f"part {shown(tail)}: after ':' comes key=value, such as layer=17, with a key among {', '.join(KEYS)}; "
        "a folder whose name holds ':' is quoted"
    )


def _refuse_slashed_revision(model: str) -> None:
    if found := _SLASHED_REVISION.fullmatch(model):
        raise WrongPart(
            f"part {shown(model)} is no folder here, and a revision with a slash cannot follow '@'; give it as a key: "
            f'{shown(f"{found[1]}:revision={found[2]}")[1:-1]} (or revision = "..." in {PREFIX}.toml)'
        )
