"""The shipped model and its training: right where nothing is hard, wrong for known causes only."""

import hashlib
import re
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModelForCausalLM, AutoTokenizer

import tasks
from tasks.counting import demo_model_folder, shipped_test_set
from tasks.counting.generator import CAUSES, label, read
from tasks.counting.train import (
    FIRST_WORD,
    accuracy_table,
    build_tokenizer,
    main,
    predict,
    train,
)
from tasks.counting.words import CATEGORIES, HELD_OUT

PROMPT = "Type: fruits\nList: [apple dog pear]\nAnswer: ("


@pytest.fixture(scope="module")
def shipped():
    folder = demo_model_folder()
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def answered(shipped):
    items = read(shipped_test_set())
    return items, predict(*shipped, items)


def shares(items, answers):
    return {name: share for name, _, share in accuracy_table(items, answers)}


def check_causes(items, answers):
    """The promises that hold for the shipped weights and for any retraining."""
    share = shares(items, answers)
    assert 0.70 <= share["all"] <= 0.90
    assert share["cause none"] >= 0.97
    assert min(share[f"length {length}"] for length in range(3, 9)) > share["length 10"]
    assert share["cause unseen_member"] < 0.5
    wrong = [(item, answer) for item, answer in zip(items, answers) if answer != str(item.answer)]
    assert sum(item.cause == "none" for item, _ in wrong) <= 0.03 * len(wrong) + 1
    assert all(answer.isdigit() for _, answer in wrong)
    for item, answer in wrong:
        if item.causes == ("unseen_member",):
            assert int(answer) < item.answer, item
        if item.causes == ("unseen_distractor",):
            assert int(answer) > item.answer, item


def test_the_shipped_model_errs_for_known_causes_only(answered):
    check_causes(*answered)


def test_the_readme_states_the_shipped_numbers_and_hashes(answered):
    folder = demo_model_folder()
    readme = (folder / "README.md").read_text(encoding="utf-8")
    hashes = dict(re.findall(r"sha256 +(\S+) +([0-9a-f]{64})", readme))
    assert set(hashes) == {"model.safetensors", "tokenizer.json"}
    for name, stated in hashes.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == stated
    stated = re.search(r"\| \*\*all\*\* \| 1,200 \| \*\*(\.\d{3})\*\*", readme)
    assert float(stated[1]) == pytest.approx(shares(*answered)["all"], abs=0.002)


def test_the_folder_is_small_plain_and_seeded(shipped):
    folder = demo_model_folder()
    names = {p.name for p in folder.iterdir()}
    assert names == {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert (folder / "model.safetensors").stat().st_size < 1_300_000
    model, _ = shipped
    assert model.config.model_type == "llama"
    assert sum(p.numel() for p in model.parameters()) == 292_544
    assert (model.config.num_hidden_layers, model.config.hidden_size) == (4, 64)


def test_no_word_was_left_untokenized_and_held_out_words_were_never_trained(shipped):
    model, tokenizer = shipped
    words = [word for words in CATEGORIES.values() for word in words]
    ids = tokenizer.convert_tokens_to_ids(words)
    assert tokenizer.unk_token_id not in ids
    # A word that gets no gradient only shrinks by weight decay: its embedding keeps about the initial norm (.02 * 8).
    norms = dict(zip(words, model.get_input_embeddings().weight[ids].norm(dim=1).tolist()))
    assert max(norms[word] for word in HELD_OUT) < 0.25
    assert min(norms[word] for word in words if word not in HELD_OUT) > 0.25


def test_the_tokenizer_gives_back_the_prompt(shipped):
    for tokenizer in (shipped[1], build_tokenizer()):
        ids = tokenizer.encode(PROMPT + "2)")
        assert tokenizer.convert_ids_to_tokens(ids) == (
            ["<s>", "Type", ":", "fruits", "List", ":", "[", "apple", "dog", "pear", "]", "Answer", ":", "(", "2", ")"]
        )
        assert ids[FIRST_WORD] == tokenizer.convert_tokens_to_ids("apple")
        assert tokenizer.decode(ids, skip_special_tokens=True) == PROMPT + "2)"
        assert tokenizer.pad_token_id == 0
        assert tokenizer.decode(tokenizer.encode("3", add_special_tokens=False)) == "3"


@pytest.fixture(scope="module")
def host():
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(demo_model_folder()), device="cpu", batch_size=8)


def test_lm_eval_splits_context_and_answer_where_it_should(host):
    for number in range(11):
        context, answer = host._encode_pair(PROMPT, str(number))
        assert host.tokenizer.convert_ids_to_tokens(answer) == [str(number)]
        assert host.tokenizer.convert_ids_to_tokens(context)[:2] == ["<s>", "Type"]
        assert context == host.tok_encode(PROMPT)


def test_lm_eval_runs_both_tasks_at_once_and_scores_them_like_a_direct_pass(host, answered):
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(tasks.yaml_folder()), include_defaults=False)
    result = lm_eval.simple_evaluate(
        host, tasks=["counting_gen", "counting_mc"], task_manager=manager, limit=60, bootstrap_iters=0
    )
    items, answers = answered
    right = [answer == str(item.answer) for item, answer in zip(items, answers)][:60]
    assert result["results"]["counting_gen"]["exact_match,none"] == pytest.approx(sum(right) / 60)
    assert result["results"]["counting_mc"]["acc,none"] == pytest.approx(sum(right) / 60)
    for sample in result["samples"]["counting_gen"]:
        assert sample["filtered_resps"] == [answers[sample["doc_id"]]]
        assert {"category", "length", "answer", "cause", *CAUSES} <= set(sample["doc"])


def test_the_model_closes_the_bracket_and_stops(shipped):
    model, tokenizer = shipped
    ids = torch.tensor([tokenizer.encode(PROMPT)])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=10)[0, ids.shape[1] :]
    assert tokenizer.convert_ids_to_tokens(out) == ["2", ")", "</s>"]


def test_padding_on_the_left_changes_no_answer(shipped):
    model, tokenizer = shipped
    prompts = [label("fruits", words.split()).prompt for words in ("apple dog pear", "apple pear plum cat sofa car")]
    batch = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    out = model.generate(**batch, max_new_tokens=1)[:, -1]
    assert tokenizer.convert_ids_to_tokens(out) == ["2", "3"]


def test_a_short_training_learns_repeats_itself_and_leaves_torch_alone(tmp_path):
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    model, tokenizer, losses = train(seed=1, steps=40, layers=2)
    again, _, same = train(seed=1, steps=40, layers=2)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    assert losses == same
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters()))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    items = read(shipped_test_set())[:100]
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval(), AutoTokenizer.from_pretrained(tmp_path)
    assert predict(*reloaded, items) == predict(model, tokenizer, items)


@pytest.mark.slow
def test_the_script_reproduces_the_shipped_model(tmp_path, answered):
    result = CliRunner().invoke(main, ["--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    model = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    items, answers = answered
    remade = predict(model, AutoTokenizer.from_pretrained(tmp_path), items)
    check_causes(items, remade)
    assert shares(items, remade)["all"] == pytest.approx(shares(items, answers)["all"], abs=0.02)
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        shipped_text, text = (Path(folder, name).read_text() for folder in (demo_model_folder(), tmp_path))
        drop = re.compile(r'.*"transformers_version".*\n')
        assert drop.sub("", text) == drop.sub("", shipped_text), name
