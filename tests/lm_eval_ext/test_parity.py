"""The same results as `hf`: result and sample files, and every record explains the answer it belongs to."""

import json

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from lm_eval_ext.model import HFStoreLM
from metrics.record import Key
from metrics.store import open_store

ACC = {"metric": "acc", "aggregation": "mean", "higher_is_better": True}
NORM = {"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True}
BYTES = {"metric": "acc_bytes", "aggregation": "mean", "higher_is_better": True}
EXACT = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}


def documents(words_of, n=7):
    return [
        {
            "text": words_of(2 + (i * 5) % 9, i),
            "label": i % 3,
            "choices": [words_of(1 + (i + k) % 3, 90 + i + k) for k in range(3)],
            "word": words_of(1, 30 + i),
        }
        for i in range(n)
    ]


@pytest.fixture
def tasks(toy_task, words_of):
    """Every kind of task, by name."""
    docs = documents(words_of)
    generate = {"output_type": "generate_until", "doc_to_target": "{{word}}", "metric_list": [EXACT]}
    choose = {"output_type": "multiple_choice", "doc_to_target": "label"}
    perplexity = [
        {"metric": "word_perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False},
        {"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False},
    ]

    def until(*stops, **more):
        return {"generation_kwargs": {"until": list(stops), "max_gen_toks": 10, "do_sample": False, **more}}

    return {
        "generation": toy_task("generation", docs, **generate, **until("w7")),
        "stop list": toy_task("stop_list", docs, **generate, **until("w7", "w1", "w3 w4", "w22")),
        "one stop as text": toy_task(
            "stop_text", docs, **generate, generation_kwargs={"until": "w9", "max_gen_toks": 10, "do_sample": False}
        ),
        "sampling with repeats": toy_task(
            "sampling", docs, **generate, **until("w7", do_sample=True, temperature=2.0), repeats=3
        ),
        "several filters": toy_task(
            "filters",
            docs,
            **generate,
            **until("w7"),
            filter_list=[
                {
                    "name": "first",
                    "filter": [{"function": "regex", "regex_pattern": r"(w\d+)"}, {"function": "take_first"}],
                },
                {"name": "whole", "filter": [{"function": "take_first"}]},
            ],
        ),
        "options of several tokens": toy_task(
            "options", docs, **choose, doc_to_choice="choices", metric_list=[ACC, NORM, BYTES]
        ),
        "options that share a row": toy_task(
            "shared", docs, **choose, doc_to_choice=["w1", "w2", "w3", "w1 w2"], metric_list=[ACC]
        ),
        "mutual information": toy_task(
            "mutual",
            docs,
            **choose,
            doc_to_choice="choices",
            metric_list=[ACC, {"metric": "acc_mutual_info", "aggregation": "mean", "higher_is_better": True}],
        ),
        "last word": toy_task(
            "last_word",
            docs,
            output_type="loglikelihood",
            doc_to_target=" {{word}}",
            target_delimiter="",
            metric_list=[ACC, {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False}],
        ),
        "rolling": toy_task(
            "rolling",
            docs,
            output_type="loglikelihood_rolling",
            doc_to_text="",
            doc_to_target="{{text}}",
            metric_list=perplexity,
        ),
        "few-shot generation": toy_task("few_generation", docs, **generate, **until("w7"), num_fewshot=2),
        "few-shot options": toy_task(
            "few_options", docs, **choose, doc_to_choice="choices", metric_list=[ACC], num_fewshot=3
        ),
    }


NAMES = (
    "generation",
    "stop list",
    "one stop as text",
    "sampling with repeats",
    "several filters",
    "options of several tokens",
    "options that share a row",
    "mutual information",
    "last word",
    "rolling",
    "few-shot generation",
    "few-shot options",
)


def compare(evaluate, without_times, chosen, hf, ours, **options):
    a, b = (evaluate(lm, chosen, **options) for lm in (hf, ours))
    a, b = without_times(a), without_times(b)
    assert a["samples"] == b["samples"]
    assert a == b
    assert all(len(s) for s in a["samples"].values())
    return b


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("name", NAMES)
def test_results_are_those_of_hf(name, family, tasks, make_hf, make_lm, evaluate, without_times, reopened):
    ours = make_lm(family)
    results = compare(evaluate, without_times, [tasks[name]], make_hf(family), ours)
    every = sum(len(r) for s in results["samples"].values() for one in s for r in one["resps"])
    filters = {one["filter"] for s in results["samples"].values() for one in s}
    assert len(reopened(ours)) == every / len(filters) > 0


def test_results_with_all_signals_and_raw_tensors_are_those_of_hf(
    tasks, make_hf, make_lm, evaluate, without_times, reopened
):
    chosen = [tasks[n] for n in ("generation", "sampling with repeats", "options that share a row", "rolling")]
    ours = make_lm(signals="all", raw="logits+hidden+attention", raw_dtype="float16")
    compare(evaluate, without_times, chosen, make_hf(), ours)
    assert len(reopened(ours)) == 7 + 21 + 28 + 7


def test_several_tasks_in_one_run(tasks, make_hf, make_lm, evaluate, without_times, reopened):
    ours = make_lm()
    results = compare(evaluate, without_times, list(tasks.values()), make_hf(), ours)
    assert {k.task for k in reopened(ours).entries()} == set(results["samples"])


@pytest.mark.parametrize("multiturn", [True, False])
def test_chat_template(tasks, make_hf, make_lm, evaluate, without_times, multiturn, reopened, tokenizer):
    chosen = [tasks[n] for n in ("few-shot generation", "few-shot options")]
    options = {"apply_chat_template": True, "system_instruction": "w40", "fewshot_as_multiturn": multiturn}
    ours = make_lm()
    results = compare(evaluate, without_times, chosen, make_hf(), ours, **options)
    store = reopened(ours)
    (one,) = (s for s in results["samples"]["few_generation"] if s["doc_id"] == 2)
    (record,) = store.records(["prompt_tokens"], [Key("few_generation", 2, 0, 0, "generate_until")])
    assert tokenizer.decode(record.signals["prompt_tokens"]) == " ".join(one["arguments"][0][0].split())
    assert store.manifest["chat_template_hash"]


@pytest.mark.parametrize(
    ("name", "length"), [("few-shot generation", 14), ("few-shot options", 14), ("rolling", 4), ("last word", 5)]
)
def test_truncation_on_the_left(name, length, tasks, make_hf, make_lm, evaluate, without_times, reopened):
    ours = make_lm(max_length=length)
    compare(evaluate, without_times, [tasks[name]], make_hf(max_length=length), ours)
    records = list(reopened(ours).records(["prompt_tokens", "tokens", "logprob"]))
    if name != "rolling":
        assert any(r.truncated for r in records)
    for r in records:
        if "prompt_tokens" in r.signals:
            assert len(r.signals["prompt_tokens"]) == r.prompt_count <= length
        assert len(r.signals["tokens"]) == r.token_count == len(r.signals["logprob"])


@pytest.mark.parametrize("name", ["generation", "options of several tokens", "rolling"])
def test_automatic_batch_size(name, tasks, make_hf, make_lm, evaluate, without_times, reopened):
    """At the size that hf chose; the probing passes are no records."""
    settings = {"batch_size": "auto", "max_batch_size": 4}
    ours = make_lm(**settings)
    results = compare(evaluate, without_times, [tasks[name]], make_hf(**settings), ours)
    task = tasks[name]["task"]
    expected = sum(len(s["resps"]) for s in results["samples"][task])
    assert len(reopened(ours)) == expected


def test_automatic_batch_size_in_steps(tasks, make_hf, make_lm, evaluate, without_times):
    settings = {"batch_size": "auto:2", "max_batch_size": 4}
    compare(evaluate, without_times, [tasks["options of several tokens"]], make_hf(**settings), make_lm(**settings))


@pytest.mark.parametrize("name", ["options that share a row", "last word"])
def test_without_the_hosts_logits_cache(name, tasks, make_hf, make_lm, evaluate, without_times):
    settings = {"logits_cache": False}
    compare(evaluate, without_times, [tasks[name]], make_hf(**settings), make_lm(**settings))


@pytest.mark.parametrize("think", ["w2", "id"])
def test_thoughts_are_stripped(think, tasks, make_hf, make_lm, evaluate, without_times, tokenizer):
    token = tokenizer.convert_tokens_to_ids("w2") if think == "id" else think
    settings = {"think_end_token": token}
    compare(evaluate, without_times, [tasks["generation"]], make_hf(**settings), make_lm(**settings))


def test_records_tell_the_answer(tasks, make_lm, evaluate, reopened):
    """Log-likelihoods add up, and the tokens of a generation decode to the text that was scored."""
    lm = make_lm()
    names = ("stop list", "options of several tokens", "options that share a row", "mutual information", "rolling")
    results = evaluate(lm, [tasks[n] for n in names])
    store = reopened(lm)
    for record in store.records(["logprob", "tokens"]):
        (sample,) = (s for s in results["samples"][record.key.task] if s["doc_id"] == record.key.doc_id)
        answer = sample["resps"][record.key.request][record.key.occurrence]
        if record.kind == "loglikelihood":
            assert record.answer == [answer[0], answer[1]]
            assert float(record.signals["logprob"].sum()) == pytest.approx(answer[0], abs=1e-4)
        elif record.kind == "loglikelihood_rolling":
            assert record.answer == answer
            assert float(record.signals["logprob"].sum()) == pytest.approx(answer, abs=1e-3)
        else:
            start, stop = record.spans["answer"]
            assert record.answer == answer
            assert lm.tok_decode(record.signals["tokens"][start:stop].tolist()) == answer.rstrip()


def test_options_that_share_a_row_get_a_record_each(tasks, make_lm, evaluate, reopened):
    lm = make_lm()
    calls = []
    handle = lm.model.register_forward_hook(lambda m, a, o: calls.append(len(o.logits)))
    evaluate(lm, [tasks["options that share a row"]])
    handle.remove()
    store = reopened(lm)
    assert sum(calls) == 14  # two rows a document: w1, w2, w3 and the start of w1 w2 share one
    records = {r.key: r for r in store.records(["tokens", "logprob", "entropy"])}
    assert len(records) == 28
    for doc in range(7):
        own = [records[Key("shared", doc, i, 0, "loglikelihood")] for i in range(4)]
        assert [lm.tok_decode(r.signals["tokens"]) for r in own] == ["w1", "w2", "w3", "w1 w2"]
        assert len({float(r.signals["logprob"][0]) for r in own[:3]}) == 3
        assert len({float(r.signals["entropy"][0]) for r in own[:3]}) == 1


def test_no_token_to_generate_is_no_error_of_ours(make_hf, make_lm, instance, words_of):
    """Whatever the host does when asked for no token, so do we."""
    request = instance("generate_until", (words_of(5, 1), {"until": [], "max_gen_toks": 0, "do_sample": False}))

    def outcome(lm):
        try:
            return lm.generate_until([request], disable_tqdm=True)
        except Exception as problem:  # the host's own error, whichever
            return type(problem)

    assert outcome(make_lm()) == outcome(make_hf())


# ---------------------------------------------------------------- the shipped tasks, and files


@pytest.fixture(scope="module")
def files(tmp_path_factory, run_to_files, demo_model):
    """The counting tasks evaluated by both into files, with all their tasks in one run."""
    where = tmp_path_factory.mktemp("files")
    for name in ("hf", "hf-store"):
        arguments = {"pretrained": demo_model}
        if name == "hf-store":
            arguments["store"] = str(where / "store")
        run_to_files(name, arguments, ["counting_gen", "counting_mc"], where / name, limit=40, batch_size=16)
    return where


def read(folder, pattern):
    (path,) = folder.rglob(pattern)
    text = path.read_text()
    return json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]


def test_result_files_are_equal(files, without_times):
    a, b = (read(files / name, "results_*.json") for name in ("hf", "hf-store"))
    assert "hf_store" in b["config"]
    assert "hf_store" not in a["config"]
    assert a["results"]["counting_gen"]["exact_match,none"] > 0
    assert without_times(a) == without_times(b)


@pytest.mark.parametrize("task", ["counting_gen", "counting_mc"])
def test_sample_files_are_equal(files, task):
    a, b = (read(files / name, f"samples_{task}_*.jsonl") for name in ("hf", "hf-store"))
    assert len(a) == 40
    assert a == b


def test_store_and_result_file_point_at_each_other(files):
    store = open_store(files / "store")
    (result,) = (files / "hf-store").rglob("results_*.json")
    (run,) = store.manifest["runs"]
    assert run["results"] == [str(result.absolute())]
    assert json.loads(result.read_text())["config"]["hf_store"] == {
        "store": str((files / "store").absolute()),
        "run_id": run["run_id"],
    }


def test_the_manifest_tells_the_run(files, demo_model):
    manifest = open_store(files / "store").manifest
    assert manifest["schema"] == 1
    assert manifest["model"] == demo_model
    assert manifest["dtype"] == "float32"
    assert manifest["attention"] == "sdpa"
    assert manifest["batch_size"] == 16
    assert manifest["libraries"]["torch"] == torch.__version__
    assert manifest["signals"]["top_logprobs"]["axes"] == ["token", "top=20"]
    assert {s["unit"] for s in manifest["signals"].values()} >= {"nat", "1"}
    assert manifest["runs"][0]["generation"][0]["settings"]["until"] == [")"]
    assert {"commit", "dirty"} == set(manifest["git"] or {"commit": 0, "dirty": 0})


def test_a_model_that_is_no_decoder_is_refused(tmp_path):
    model = T5ForConditionalGeneration(
        T5Config(vocab_size=48, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"<p>": 0})), pad_token="<p>")
    with pytest.raises(ValueError, match=r"t5 is no decoder.*--model hf"):
        HFStoreLM(model, tokenizer=tokenizer, store=tmp_path / "s", device="cpu", backend="seq2seq")
    assert not (tmp_path / "s").exists()
