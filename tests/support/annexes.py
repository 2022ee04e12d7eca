"""Stores of several samples a document with a log of their questions, and tiny random encoders to read them."""

import hashlib
import json
from dataclasses import replace

import torch
from stores import facts, record, write
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from metrics.annex import Made, samples_of, write_part
from metrics.record import Span
from metrics.store import open_store

STAMP = "2026-01-02T03-04-05.678901"
MNLI = ("CONTRADICTION", "NEUTRAL", "ENTAILMENT")
SPACE = "abcdefghijklmnopqrstuvwxyz0123456789?. "


def letters():
    """A tokenizer of one token a character, as an evaluated model's."""
    words = {"<unk>": 0, **{c: i + 1 for i, c in enumerate(SPACE)}}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    return backend


def answered(answers, *, task="t", doc_id=0, tokens=False):
    """The records of one document's samples; with `tokens` their ids spell the answer and an end behind it."""
    made = []
    for occurrence, text in enumerate(answers):
        plain = record(doc_id, task, seed=10 * doc_id + occurrence)
        if tokens:
            ids = torch.tensor([*letters().encode(text).ids, 0], dtype=torch.int32)
            plain = record(doc_id, task, seed=occurrence, tokens=len(ids))
            plain.signals["tokens"] = ids
            plain = replace(plain, spans={"answer": Span(0, len(ids) - 1), "generation": Span(0, len(ids))})
        made.append(replace(plain, key=plain.key._replace(occurrence=occurrence), answer=text))
    return made


def sampled(folder, documents, *, tokens=False, linked=True, **more):
    """A store of these documents' samples, and lm-eval's output beside it that logs the question ``q I``."""
    records = [r for i, answers in enumerate(documents) for r in answered(answers, doc_id=i, tokens=tokens)]
    path = write(folder / "store", records, facts(**more))
    out = folder / "out"
    out.mkdir()
    results = out / f"results_{STAMP}.json"
    results.write_text(json.dumps({"config": {"hf_store": {"store": str(path), "run_id": "one"}}}))
    lines = [
        {"doc_id": i, "doc": {"question": f"q {i}?", "n": i}, "doc_hash": f"t{i}", "arguments": {}, "resps": [[a]],
         "target": "a", "filter": "none", "metrics": ["acc"], "acc": float(i % 2)}
        for i, a in enumerate(documents)
    ]  # fmt: skip
    (out / f"samples_t_{STAMP}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if linked:
        open_store(path).link(results, "one")
    return path


def bert(folder, labels=MNLI, *, seed=0, positions=64):
    """A tiny random BERT that classifies pairs, with a tokenizer of letters; large weights make its answers differ."""
    torch.manual_seed(seed)
    words = {word: i for i, word in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]"))}
    for letter in SPACE.strip():
        words[letter] = len(words)
        words[f"##{letter}"] = len(words)
    backend = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=positions, **names)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=positions,
        initializer_range=0.5,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )
    model = BertForSequenceClassification(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def fill(path, kind, values, documents=None, part=100):
    """Give the annex what `values` makes of a document's number and its samples."""
    entries = open_store(path).entries()
    made = []
    for doc_id in sorted({key.doc_id for key in entries} if documents is None else documents):
        keys = sorted(key for key in entries if key.doc_id == doc_id)
        made.append(Made("t", doc_id, samples_of(keys, entries), tuple(values(doc_id, len(keys)))))
    for start in range(0, len(made), part):
        write_part(path, kind, made[start : start + part], {"model": "m"})


def alike(*groups):
    """NLI in which samples of one group entail each other and all others contradict."""
    count = max(max(g) for g in groups) + 1
    said = torch.zeros(count, count, 3)
    said[..., 2] = 1
    for group in groups:
        for i in group:
            for j in group:
                said[i, j] = torch.tensor([1.0, 0, 0])
    return said


class FakeEncoder:
    """Vectors from a digest of the text; counts what it was asked."""

    name, revision = "fake", "1"

    def __init__(self):
        self.asked = []

    def encode(self, texts):
        self.asked += texts
        rows = [list(hashlib.sha256(text.encode()).digest()[:8]) for text in texts]
        return torch.tensor(rows).float().reshape(-1, 8).numpy() - 128
