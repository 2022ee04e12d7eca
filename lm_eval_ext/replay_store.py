"""A store made again from its own token ids, by the same model or by another one with the same vocabulary."""

# pyright: reportAttributeAccessIssue=false
# (lm-eval's class decorator hides the type of HFLM)
from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.utils import get_rolling_token_windows, hash_string, make_disjoint_window
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from lm_eval_ext.elicit import Text
from lm_eval_ext.environment import tokenizer_hash
from lm_eval_ext.replay import WINDOW, Progress, Tallies, check_open, signals_of
from lm_eval_ext.replay_log import GENERATION, ROLLING
from lm_eval_ext.replay_text import TOO_LONG
from lm_eval_ext.requests import Identity
from lm_eval_ext.scoring import end_to_end
from metrics.record import Key, Record, Span
from metrics.store import Store

if TYPE_CHECKING:
    from lm_eval_ext.model import HFStoreLM

IDS = ("tokens", "prompt_tokens")
NO_IDS = "the record holds no token ids"
CHECKED = 200
"""Records whose text is compared where the tokenizers are not known to be the same."""


def chosen_keys(source: Store, tasks: Sequence[str], limit: int | None) -> list[Key]:
    """The records to replay: of the given tasks (all by default), of at most `limit` documents each.

    Raises:
        ValueError: the store keeps no token ids, holds no record, or lacks a task.
    """
    if not source.manifest.get("store_text", True):
        raise ValueError(
            f"{source.path} was recorded with store_text=no and holds no token ids; replay lm-eval's log of it instead"
        )
    held = {key.task for key in source.entries()}
    if not held:
        raise ValueError(f"{source.path} holds no record; record again, or replay lm-eval's log")
    for task in tasks:
        if task not in held:
            raise ValueError(f"{source.path} holds no task '{task}'; it holds {', '.join(sorted(held))}")
    documents: dict[str, list[int]] = {}
    for task, doc_id in sorted({(key.task, key.doc_id) for key in source.entries()}):
        if not tasks or task in tasks:
            documents.setdefault(task, []).append(doc_id)
    wanted = {(task, doc_id) for task, ids in documents.items() for doc_id in ids[:limit]}
    return [key for key in source.entries() if (key.task, key.doc_id) in wanted]


def digest(source: Store) -> str:
    """The SHA-256 of a store's indices, which hold the checksums of all its signals."""
    found = hashlib.sha256()
    for path in sorted((source.path / "shards").glob("*.jsonl")):
        found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()


def check_vocabulary(source: Store, model: str, arguments: Mapping[str, Any]) -> None:
    """Refuse a model to which the store's ids mean other texts, before it is loaded.

    Tokenizers with the same digest are the same. Otherwise prompts and generated answers, which the store knows as
    text or by the digest of it, have to be what the ids decode to.

    Args:
        source: the store.
        model: the model's name or folder.
        arguments: the harness's arguments of the model.

    Raises:
        ValueError: one line that says how it is known.
        OSError: the model is not there.
    """
    known = {name: arguments[name] for name in ("revision", "trust_remote_code") if name in arguments}
    rows = AutoConfig.from_pretrained(model, **known).get_text_config().vocab_size
    more = {"add_bos_token": arguments["add_bos_token"]} if "add_bos_token" in arguments else {}
    tokenizer = AutoTokenizer.from_pretrained(arguments.get("tokenizer") or model, **known, **more)
    if source.manifest.get("tokenizer_hash") == tokenizer_hash(tokenizer):
        return
    remedy = "give a model with the vocabulary of the recorded one, or replay lm-eval's log"
    compared = agreed = 0
    for record in itertools.islice((r for r in source.records(IDS) if "tokens" in r.signals), CHECKED):
        ids = torch.cat([record.signals[n].long() for n in IDS if n in record.signals])
        if ids.numel() and int(ids.max()) >= rows:
            raise ValueError(
                f"{source.path} holds token {int(ids.max())}, the vocabulary of {model} ends at {rows - 1}; {remedy}"
            )
        same = _same_text(tokenizer, record)
        if same is not None:
            compared, agreed = compared + 1, agreed + same
    if not compared or agreed < compared:
        how = f"{compared - agreed} of {compared} texts decode otherwise" if compared else "no text to compare them by"
        raise ValueError(f"the tokenizer of {model} is not that of {source.path} ({how}); {remedy}")


def _same_text(tokenizer: PreTrainedTokenizerBase, record: Record) -> bool | None:
    """Whether a record's ids decode to its text; None where the text is not known."""
    if record.kind == GENERATION and isinstance(record.answer, str) and record.answer.strip():
        return record.answer.strip() in str(
            tokenizer.decode(record.signals["tokens"].tolist(), skip_special_tokens=True)
        )
    if record.truncated or "prompt_tokens" not in record.signals:
        return None
    prompt = str(tokenizer.decode(record.signals["prompt_tokens"].tolist(), skip_special_tokens=True))
    return hash_string(prompt) == record.prompt_hash or None  # a tokenizer need not give a prompt back


def replay_store(lm: HFStoreLM, source: Store, keys: Sequence[Key], tallies: Tallies, *, progress: Progress) -> None:
    """Record the records `keys` again: the same ids, spans, answers and digests, signals of this model.

    Raises:
        OSError: the new store takes no more records.
    """
    settings = [entry for run in source.manifest["runs"] for entry in run.get("generation", ()) if "settings" in entry]
    lm.notes.generations(settings, together=False)  # greedy repeats are told by it
    wanted = [*IDS, "logprob"] if "logprob" in source.manifest["signals"] else list(IDS)
    records = source.records(wanted, keys)
    while window := list(itertools.islice(records, WINDOW)):
        todo = [record for record in window if _wanted(lm, record, tallies)]
        for record in (r for r in todo if r.kind == ROLLING):
            _put(lm, record, _rolling(lm, record), tallies)
        rest = sorted((r for r in todo if r.kind != ROLLING), key=lambda r: -r.prompt_count - r.token_count)
        size = int(lm.batch_size)
        for start in range(0, len(rest), size):
            some = rest[start : start + size]
            for record, signals in zip(some, _read(lm, some)):
                _put(lm, record, signals, tallies)
            lm.recorder.end_batch()
            check_open(lm)
        check_open(lm)
        progress(len(window))


def _wanted(lm: HFStoreLM, record: Record, tallies: Tallies) -> bool:
    """Count a record; whether it is to be made again."""
    tally = tallies.of(record.key)
    tally.requests += 1
    if not record.signals.keys() >= (set(IDS) if record.kind != ROLLING else {"tokens"}):
        tallies.unfaithful(record.key, NO_IDS, kept=False)
        return False
    if record.kind != ROLLING and record.prompt_count + record.token_count - 1 > lm.max_length:
        tallies.unfaithful(record.key, TOO_LONG, kept=False)
        return False
    tally.empty += record.spans.get("answer", Span(0, 1)) == (0, 0)
    tally.truncated += record.truncated
    identity = Identity(record.key, record.request_hash, record.prompt_hash, record.doc_hash, record.siblings)
    before = lm.recorder.answer(identity) is not None
    tally.before += before
    tally.recorded += not before
    return not before


def _read(lm: HFStoreLM, records: Sequence[Record]) -> list[dict[str, Tensor]]:
    def text(record: Record) -> Text:
        prompt, tokens = (record.signals[name].tolist() for name in ("prompt_tokens", "tokens"))
        return Text(prompt, tokens, record.spans.get("answer"))

    return signals_of(lm, [text(record) for record in records])


def _rolling(lm: HFStoreLM, record: Record) -> dict[str, Tensor]:
    """The signals of a text without a prompt, cut into windows as the harness cuts it."""
    cut = get_rolling_token_windows(
        token_list=record.signals["tokens"].tolist(),
        prefix_token=lm.prefix_token_id,
        max_seq_len=lm.max_length,
        context_len=1,
    )
    texts = [Text(context, tokens, Span(0, len(tokens))) for context, tokens in map(make_disjoint_window, cut)]
    if not texts:
        return {}
    return end_to_end(lm.look_again(texts, logits="logits" in lm.recorder.plan.capture, further=False))


def _put(lm: HFStoreLM, record: Record, signals: Mapping[str, Tensor], tallies: Tallies) -> None:
    before, now = record.signals.get("logprob"), signals.get("logprob")
    if before is not None and now is not None and before.numel():
        apart = (now.double() - before.double()).abs().where(~(now.isnan() & before.isnan()), torch.zeros(()).double())
        tallies.of(record.key).differs(float(apart.nan_to_num(torch.inf).max()), 0.0)
    ids = {name: record.signals[name] for name in IDS if name in record.signals}
    lm.recorder.put(replace(record, signals={**signals, **ids}))
