"""The annex as it is made: every number against a slow loop that asks for one thing at a time, and nothing twice."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from annexes import FakeEncoder, bert, letters, sampled
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from lm_eval_ext import annexing, bertscore, recipes
from lm_eval_ext.annexing import documents_of, make, work
from lm_eval_ext.entailment import places, probabilities
from lm_eval_ext.readers import Setting, load_reader
from lm_eval_ext.relevance import without
from lm_eval_ext.samples_input import tokens_of
from metrics.annex import Part, parts_of
from metrics.annexed import Annexed
from metrics.record import Key, Span
from metrics.store import open_store

ANSWERS = [["yes 12", " yes 12", "no", "a b c d"], ["no", "", "no", "13"], ["7", "7", "7", "7"]]
QUESTIONS = {("t", f"t{i}"): f"q {i}?" for i in range(3)}
SETTING = Setting(batch_size=5)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return bert(tmp_path_factory.mktemp("nli"))


@pytest.fixture(scope="module")
def cross(tmp_path_factory):
    return bert(tmp_path_factory.mktemp("sts"), ["LABEL_0"], seed=1)


@pytest.fixture
def path(tmp_path):
    return sampled(tmp_path, ANSWERS, tokens=True)


def run(path, recipe, **how):
    entries = open_store(path).entries()
    todo = work(path, recipe, documents_of(entries, QUESTIONS), entries)
    make(path, todo, entries, lambda count: None, **how)
    return todo, Annexed(path, entries), entries


def keys_of(doc_id):
    return [Key("t", doc_id, 0, i, "generate_until") for i in range(4)]


def asked(doc_id, text):
    return f"q {doc_id}? {text.strip()}"


def test_nli_is_what_the_model_says_of_each_pair(path, model):
    recipe, _ = recipes.nli(str(model), SETTING, source="auto")
    todo, annex, _ = run(path, recipe)
    assert todo.wanted == 3 * 16 and todo.distinct == 9 + 9 + 1
    plain = AutoModelForSequenceClassification.from_pretrained(model).eval()
    tokenizer = AutoTokenizer.from_pretrained(model)
    for doc_id, answers in enumerate(ANSWERS):
        found = annex.document(keys_of(doc_id))["nli"]
        for i, one in enumerate(answers):
            for j, other in enumerate(answers):
                with torch.no_grad():
                    encoded = tokenizer(asked(doc_id, one), asked(doc_id, other), return_tensors="pt")
                    contradiction, neutral, entailment = plain(**encoded).logits.softmax(-1)[0]
                expected = torch.stack([entailment, neutral, contradiction])
                torch.testing.assert_close(found[i, j], expected, atol=1e-5, rtol=1e-4)


def test_the_direction_of_a_pair_matters(path, model):
    recipe, _ = recipes.nli(str(model), SETTING, source="auto")
    _, annex, _ = run(path, recipe)
    found = annex.document(keys_of(0))["nli"]
    assert (found - found.transpose(0, 1)).abs().max() > 1e-3


def test_labels_in_any_order_and_case():
    assert places("m", {0: "Neutral", 1: "entailment", 2: "CONTRADICTION"}) == [1, 0, 2]
    with pytest.raises(ValueError, match=r"--nli m has the labels not_entailment, entailment in .*id2label"):
        places("m", {0: "not_entailment", 1: "entailment"})


def test_batches_and_halves_change_nothing(model, monkeypatch):
    reader = load_reader("--nli", str(model), AutoModelForSequenceClassification, Setting(batch_size=7))
    pairs = [("a" * n, "b " * m) for n in range(1, 9) for m in range(1, 5)]
    together = torch.stack(probabilities(reader, [0, 1, 2], pairs))
    alone = torch.cat([torch.stack(probabilities(reader, [0, 1, 2], [pair])) for pair in pairs])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    real, sizes = reader.model, []

    def small(**inputs):
        sizes.append(len(inputs["input_ids"]))
        if len(inputs["input_ids"]) > 3:
            raise torch.OutOfMemoryError("out of memory")
        return real(**inputs)

    monkeypatch.setattr(reader, "model", small)
    torch.testing.assert_close(torch.stack(probabilities(reader, [0, 1, 2], pairs)), together, atol=1e-5, rtol=1e-4)
    assert sizes[:3] == [7, 4, 2]


def test_of_long_texts_the_beginning_is_cut(model):
    reader = load_reader("--nli", str(model), AutoModelForSequenceClassification, SETTING)
    long = ("q" * 100 + " yes", "q" * 100 + " no")
    (said,) = probabilities(reader, [0, 1, 2], [long])
    assert reader.cut == 1 and reader.limit == 64
    ids = reader.tokenizer(*long, truncation="longest_first", max_length=64)["input_ids"]
    read = reader.tokenizer.decode(ids).replace(" ", "").replace("##", "")
    assert len(ids) == 64 and read.endswith("no[SEP]") and "yes[SEP]" in read
    assert said.isfinite().all()


def test_what_is_not_finite_is_refused(model):
    reader = load_reader("--nli", str(model), AutoModelForSequenceClassification, SETTING)
    with torch.no_grad():
        reader.model.classifier.bias.fill_(torch.nan)
    with pytest.raises(ValueError, match="not finite; take float32"):
        probabilities(reader, [0, 1, 2], [("a", "b")])


def slow_f1(model, layer, one, other):
    """BERTScore's F1 by loops over tokens; the special tokens are matched and not averaged."""
    plain = AutoModel.from_pretrained(model).eval()
    tokenizer = AutoTokenizer.from_pretrained(model)

    def states(text):
        encoded = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            hidden = plain(**encoded, output_hidden_states=True).hidden_states[layer][0]
        return hidden, [i not in tokenizer.all_special_ids for i in encoded["input_ids"][0].tolist()]

    def best(here, there):
        found = []
        for vector, counts in zip(*here):
            cosines = [torch.cosine_similarity(vector, w, dim=0).item() for w in there[0]]
            found += [max(cosines)] if counts else []
        return sum(found) / len(found) if found else 0.0

    a, b = states(one), states(other)
    if not any(a[1]) or not any(b[1]):
        return 0.0
    recall, precision = best(a, b), best(b, a)
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize("layer", [2, None])
def test_bertscore_against_a_slow_loop(path, model, layer):
    recipe, _ = recipes.bert_score(str(model), SETTING, layer=layer)
    _, annex, _ = run(path, recipe)
    for doc_id, answers in enumerate(ANSWERS):
        found = annex.document(keys_of(doc_id))["bertscore"]
        assert torch.equal(found, found.T)
        for i, one in enumerate(answers):
            for j, other in enumerate(answers):
                same = one.strip() == other.strip()
                expected = 1.0 if same else slow_f1(model, 3 if layer is None else layer, one.strip(), other.strip())
                assert found[i, j].item() == pytest.approx(expected, abs=1e-5)


def test_layers_that_are_not_there(model):
    with pytest.raises(ValueError, match=r"--bertscore-layer 4: .* has layers 0 to 3"):
        bertscore.load_bertscore(str(model), 4, SETTING)


def test_embedding_by_record(path, monkeypatch):
    encoder = FakeEncoder()
    monkeypatch.setattr(recipes, "load", lambda name: lambda model, **_: encoder)
    _, annex, _ = run(path, recipes.embedding("x", SETTING, question=False, source="auto"))
    assert sorted(encoder.asked) == sorted({a.strip() for answers in ANSWERS for a in answers})
    for doc_id, answers in enumerate(ANSWERS):
        expected = FakeEncoder().encode([a.strip() for a in answers])
        assert torch.equal(annex.document(keys_of(doc_id))["embedding"], torch.from_numpy(expected))


def test_embedding_of_question_and_answer(path, monkeypatch):
    encoder = FakeEncoder()
    monkeypatch.setattr(recipes, "load", lambda name: lambda model, **_: encoder)
    recipe = recipes.embedding("x", SETTING, question=True, source="auto")
    run(path, recipe)
    assert asked(0, "no") in encoder.asked and recipe.facts["text"] == "question and answer"


def letters_decode(ids, *, special=True):
    return letters().decode(list(ids), skip_special_tokens=not special)


def relevances(path, name):
    store = open_store(path)
    entries = store.entries()
    tokens = tokens_of(store, entries)
    return recipes.token_relevance(name, SETTING, tokens, entries, letters_decode, source="auto")[0]


def test_token_relevance_is_one_minus_the_similarity_without_the_token(path, cross):
    _, annex, entries = run(path, relevances(path, str(cross)))
    plain = AutoModelForSequenceClassification.from_pretrained(cross).eval()
    tokenizer = AutoTokenizer.from_pretrained(cross)
    for key, entry in entries.items():
        found = annex.record(key)["token_relevance"]
        answer, expected = entry["answer"], []
        for t in range(entry["token_count"]):
            text = (answer[:t] + answer[t + 1 :]).strip() if t < len(answer) else answer.strip()
            if text == answer.strip():
                expected.append(0.0)
                continue
            encoded = tokenizer(asked(key.doc_id, answer), asked(key.doc_id, text), return_tensors="pt")
            with torch.no_grad():
                expected.append(1 - plain(**encoded).logits.sigmoid().item())
        torch.testing.assert_close(found, torch.tensor(expected), atol=1e-5, rtol=1e-4)


def test_token_relevance_by_an_encoder(path, monkeypatch):
    encoder = FakeEncoder()
    monkeypatch.setattr(recipes, "load", lambda name: lambda model, **_: encoder)
    _, annex, _ = run(path, relevances(path, "encoder:x"))
    found = annex.record(Key("t", 0, 0, 2, "generate_until"))["token_relevance"]
    whole, first, second = torch.from_numpy(FakeEncoder().encode([asked(0, t) for t in ("no", "o", "n")]))
    expected = [1 - torch.cosine_similarity(whole, x, dim=0).item() for x in (first, second)]
    assert found.tolist() == pytest.approx([*expected, 0.0], abs=1e-6)


def test_tokens_of_another_tokenizer_have_no_relevance(path, cross, monkeypatch):
    store = open_store(path)
    entries = {k: {**e, "answer": "zz"} if k.doc_id == 0 else e for k, e in store.entries().items()}
    recipe, _ = recipes.token_relevance(
        str(cross), SETTING, tokens_of(store, entries), entries, letters_decode, source="auto"
    )
    documents = documents_of(entries, QUESTIONS)
    assert recipe.wants(documents[0]) == []
    assert all(value.isnan().all() for value in recipe.put(documents[0], {}.__getitem__))


def test_parts_of_a_character_count_once():
    halves = {1: "", 2: "é", 3: "a"}

    def decode(ids, *, special=True):
        text = "".join(halves[i] for i in ids)
        return "\ufffd" if list(ids) == [1] else text

    whole, cut = without([3, 1, 2], Span(0, 3), decode)
    assert whole == "aé" and cut == {0: "é", 2: "a"}


def counting(ask):
    asked_for = []

    def counted(things):
        asked_for.extend(things)
        return ask(things)

    return asked_for, counted


def flat(kind="nli", **how):
    asked_for, ask = counting(lambda things: [torch.tensor([0.2, 0.3, 0.5])] * len(things))

    def put(document, answer):
        return [torch.stack([answer((a, b)) for a in document.texts for b in document.texts]).reshape(4, 4, 3)]

    def wants(document):
        return [(a, b) for a in document.texts for b in document.texts]

    return annexing.Recipe(kind, {"model": "m", **how}, wants, ask, put), asked_for


def test_what_is_done_is_not_asked_again(path, monkeypatch):
    monkeypatch.setattr(annexing, "GROUP", 1)
    recipe, asked_for = flat()
    todo, _, _ = run(path, recipe, seconds=0)
    assert len(parts_of(path, "nli")) == 3 and len(asked_for) == len(set(asked_for)) == todo.distinct
    recipe, asked_for = flat()
    todo, _, _ = run(path, recipe)
    assert (todo.done, len(todo.documents), asked_for) == (3, 0, [])
    parts_of(path, "nli")[1].write_bytes(b"damaged")
    recipe, asked_for = flat()
    todo, _, _ = run(path, recipe)
    assert todo.done == 2 and [d.keys[0].doc_id for d in todo.documents] == [1]
    assert len([Part(p) for p in parts_of(path, "nli")]) == 3


def test_an_error_half_way_keeps_what_was_made(path, monkeypatch):
    monkeypatch.setattr(annexing, "GROUP", 1)
    recipe, asked_for = flat()

    def failing(things):
        if asked_for:
            raise ValueError("not finite")
        return recipe.ask(things)

    entries = open_store(path).entries()
    broken = annexing.Recipe(recipe.kind, recipe.facts, recipe.wants, failing, recipe.put)
    with pytest.raises(ValueError, match="not finite"):
        run(path, broken)
    todo = work(path, recipe, documents_of(entries, {}), entries)
    assert todo.done == 1


def test_other_settings_are_refused_unless_made_anew(path):
    run(path, flat(dtype="float32")[0])
    entries = open_store(path).entries()
    documents = documents_of(entries, {})
    with pytest.raises(ValueError, match="nli was made with dtype=float32, and float16 is asked for; pass --redo"):
        work(path, flat(dtype="float16")[0], documents, entries)
    assert len(work(path, flat(dtype="float16")[0], documents, entries, redo=True, dry=True).documents) == 3
    assert parts_of(path, "nli")
    assert len(work(path, flat(dtype="float16")[0], documents, entries, redo=True).documents) == 3
    assert not parts_of(path, "nli")


KILLED = """
import os, signal, sys, torch
sys.path[:0] = [sys.argv[2]]
from pathlib import Path
from lm_eval_ext import annexing
from metrics.store import open_store
annexing.GROUP = 1
path, calls = Path(sys.argv[1]), []
def ask(things):
    calls.append(things)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return [torch.tensor([0.2, 0.3, 0.5])] * len(things)
def wants(d):
    return [(a, b) for a in d.texts for b in d.texts]
def put(d, answer):
    return [torch.stack([answer(p) for p in wants(d)]).reshape(4, 4, 3)]
entries = open_store(path).entries()
recipe = annexing.Recipe("nli", {"model": "m"}, wants, ask, put)
todo = annexing.work(path, recipe, annexing.documents_of(entries, {}), entries)
annexing.make(path, todo, entries, lambda n: None, seconds=0)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_a_killed_run_goes_on(path):
    here = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(path), str(here)], env={**os.environ, "PYTHONPATH": str(here)}, check=False
    )
    assert done.returncode == -signal.SIGKILL
    recipe, asked_for = flat()
    todo, annex, _ = run(path, recipe)
    assert todo.done == 2 and asked_for == [("7", "7")]
    assert all("nli" in annex.document(keys_of(i)) for i in range(3))
