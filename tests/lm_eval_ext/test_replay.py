"""`eval-ext replay` as a user calls it: what was recorded at the time and what is replayed are the same."""

import json
import shutil

import pytest
import torch
from commands import call, ok, refused
from logs import sample, write_log

from lm_eval_ext.model import HFStoreLM
from metrics.manifest import read_manifest
from metrics.sampled import greedy
from metrics.store import open_store

SIGNALS = ("logprob", "entropy", "top_logprobs", "hidden_norm", "tokens", "prompt_tokens")
SAME = ("kind", "prompt_count", "prompt_hash", "doc_hash", "request_hash", "chars", "bytes", "siblings", "truncated")
SETTINGS = {"until": [")"], "max_gen_toks": 4, "do_sample": False}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, run_to_files, demo_model):
    """The shipped tasks by hf, and recorded by hf-store at the time."""
    where = tmp_path_factory.mktemp("replay")
    tasks = ["counting_gen", "counting_mc"]
    run_to_files("hf", {"pretrained": demo_model}, tasks, where / "hf", limit=8, batch_size=8)
    arguments = {"pretrained": demo_model, "store": str(where / "store"), "signals": "hidden_norm"}
    run_to_files("hf-store", arguments, tasks, where / "out", limit=8, batch_size=8)
    return where


@pytest.fixture
def replayed(demo_model, tmp_path):
    """A function (samples, *options) -> the command's result and the new store."""

    def run(samples, *options, out="replayed"):
        result = ok("replay", samples, "--model", demo_model, "--out", tmp_path / out, *options)
        return result, open_store(tmp_path / out)

    return run


def recorded(store, signals=SIGNALS):
    return {record.key: record for record in store.records(signals)}


def same_records(before, now, tolerance, *, text):
    """The same requests and digests, and signals that differ by no more; of a text, as far as it goes."""
    assert before.keys() == now.keys()
    for key, record in now.items():
        old, n = before[key], record.token_count
        assert {f: getattr(record, f) for f in SAME} == {f: getattr(old, f) for f in SAME}
        assert record.spans["answer"] == old.spans["answer"]
        assert n <= old.token_count if text else (n == old.token_count and record.spans == old.spans)
        for name in SIGNALS:
            if name in old.signals:
                dim = 1 if name == "hidden_norm" else 0
                size = n + 1 if name == "hidden_norm" else n
                wanted = old.signals[name] if name == "prompt_tokens" else old.signals[name].narrow(dim, 0, size)
                torch.testing.assert_close(record.signals[name], wanted, atol=tolerance, rtol=0, equal_nan=True)


def test_a_run_of_hf_becomes_the_store_of_hf_store(runs, replayed):
    result, store = replayed(runs / "hf", "--signals", "hidden_norm")
    before = recorded(open_store(runs / "store"))
    same_records(before, recorded(store), 5e-5, text=True)
    assert len(before) == 8 + 8 * 11
    rows = json.loads(replayed(runs / "hf", "--format", "json", out="again")[0].stdout)
    assert [(r["task"], r["requests"], r["records"], r["round-tripped"], r["left out"]) for r in rows] == [
        ("counting_gen", 8, 8, 8, 0),
        ("counting_mc", 88, 88, None, 0),
    ]
    assert rows[0]["largest difference"] is None
    assert rows[1]["largest difference"] < 1e-4
    assert f"next: eval-ext auroc {store.path}" in result.stderr


def test_labels_are_found_by_the_store_alone(runs, replayed):
    _, store = replayed(runs / "hf")
    now, before = (s.scores("mean_nll") for s in (store, open_store(runs / "store")))
    assert now.attrs["unused_labels"] == {}
    for label in ("label:exact_match@none", "label:acc@none"):
        assert now[label].notna().sum() == 8
        assert now.set_index(["task", "doc_id"])[label].equals(before.set_index(["task", "doc_id"])[label])
    assert "counting_gen, exact_match@none" in ok("auroc", store.path, "--metrics", "mean_nll").stdout


def test_the_manifest_says_what_was_replayed(runs, replayed):
    _, store = replayed(runs / "hf", "--limit", "3")
    (run,) = store.manifest["runs"]
    assert run["replay"]["of"] == "samples"
    assert run["replay"]["source"] == str(runs / "hf")
    assert {len(sha) for sha in run["replay"]["files"].values()} == {64}
    assert [t["requests"] for t in run["replay"]["tallies"]] == [3, 33]
    assert run["results"] == [str(next((runs / "hf").rglob("results_*.json")))]
    assert not (store.path / "unfaithful.jsonl").exists()
    assert greedy(store.manifest, "counting_gen"), run["generation"]  # so repeats of it would be refused


def test_a_store_from_its_own_ids(runs, replayed):
    result, store = replayed(runs / "store", "--signals", "hidden_norm", "--format", "json")
    same_records(recorded(open_store(runs / "store")), recorded(store), 5e-5, text=False)
    assert all(row["largest difference"] < 5e-5 for row in json.loads(result.stdout))
    labels = store.scores("mean_nll")["label:exact_match@none"]
    assert labels.notna().sum() == 8
    assert store.manifest["runs"][0]["replay"]["of"] == "store"
    assert store.manifest["runs"][0]["generation"] == open_store(runs / "store").manifest["runs"][0]["generation"]


def test_every_type_of_request_repeats_and_an_empty_answer(instance, demo_model, replayed, tmp_path):
    """A log of another engine: three samples a document, options, a text in windows; hf-store records the same."""
    prompt = "Type: fruits\nList: [apple dog]\nAnswer: ("
    texts = [["2", "", "10"], ["1", "1"]]
    generated = [sample(i, [((prompt, SETTINGS), some)]) for i, some in enumerate(texts)]
    write_log(tmp_path / "gen", generated)
    result, store = replayed(tmp_path / "gen", "--format", "json", "--signals", "hidden_norm")
    found = recorded(store)
    assert {(k.doc_id, k.occurrence): r.answer for k, r in found.items()} == {
        (i, j): text for i, some in enumerate(texts) for j, text in enumerate(some)
    }
    assert json.loads(result.stdout)[0]["round-tripped"] == 5
    empty = found[next(k for k in found if k.occurrence == 1 and k.doc_id == 0)]
    assert (empty.token_count, empty.spans["answer"], len(empty.signals["logprob"])) == (0, (0, 0), 0)
    other = found[next(k for k in found if k.occurrence == 0 and k.doc_id == 0)]
    torch.testing.assert_close(empty.signals["hidden_norm"], other.signals["hidden_norm"][:, :1], atol=1e-5, rtol=1e-5)
    _, again = replayed(store.path, "--signals", "hidden_norm", out="again")
    assert {k: (r.token_count, r.answer) for k, r in recorded(again).items()} == {
        k: (r.token_count, r.answer) for k, r in found.items()
    }
    frame = store.scores("mean_nll")
    assert frame["mean_nll"].isna().tolist() == [False, True, False, False, False]
    assert frame.attrs["unscored"] == {"mean_nll": {"empty answer": 1}}

    requests = [instance("loglikelihood_rolling", ((prompt + "2) ") * 60,), i, task="roll") for i in range(2)]
    lm = HFStoreLM(demo_model, device="cpu", store=tmp_path / "before", batch_size=2)
    answers = lm.loglikelihood_rolling(requests, disable_tqdm=True)
    lm.close()
    lines = [sample(r.doc_id, [(r.args, [a])], doc=r.doc) for r, a in zip(requests, answers)]
    write_log(tmp_path / "roll", lines, task="roll")
    before = recorded(open_store(tmp_path / "before"))
    for i, source in enumerate((tmp_path / "roll", tmp_path / "before")):
        result, store = replayed(source, "--format", "json", out=f"rolled{i}")
        now = recorded(store)
        assert [r.token_count for r in now.values()] == [r.token_count for r in before.values()]
        assert next(iter(before.values())).token_count > 512
        for key, record in now.items():
            torch.testing.assert_close(record.signals["logprob"], before[key].signals["logprob"], atol=1e-4, rtol=0)
        assert json.loads(result.stdout)[0]["largest difference"] < 1e-2


def unfaithful_log(folder):
    """Of four answers one is lost in white space, one has a word that the model does not know."""
    prompt = "Type: fruits\nList: [apple dog]\nAnswer: ("
    texts = ["2", "2 \t 3", "unknown\u4e2d", "1"]
    return write_log(folder, [sample(i, [((prompt, SETTINGS), [text])]) for i, text in enumerate(texts)])


def test_what_does_not_round_trip_is_left_out_and_listed(replayed, tmp_path):
    unfaithful_log(tmp_path / "log")
    result, store = replayed(tmp_path / "log", "--format", "json")
    (row,) = json.loads(result.stdout)
    assert (row["requests"], row["records"], row["round-tripped"], row["left out"]) == (4, 2, 2, 2)
    assert [k.doc_id for k in recorded(store)] == [0, 3]
    listed = [json.loads(line) for line in (store.path / "unfaithful.jsonl").read_text().splitlines()]
    assert [(one["doc_id"], one["kept"]) for one in listed] == [(1, False), (2, False)]
    for one in listed:
        assert f"1 of 4: {one['reason']}" in result.stderr
    assert store.scores("mean_nll").attrs["unused_labels"]  # labels of what was left out are counted


def test_keep_unfaithful_keeps_and_marks_them(replayed, tmp_path):
    unfaithful_log(tmp_path / "log")
    result, store = replayed(tmp_path / "log", "--keep-unfaithful", "--format", "json")
    (row,) = json.loads(result.stdout)
    assert (row["records"], row["round-tripped"], row["left out"]) == (4, 2, 0)
    listed = [json.loads(line) for line in (store.path / "unfaithful.jsonl").read_text().splitlines()]
    assert [one["kept"] for one in listed] == [True, True]
    for record in recorded(store).values():
        assert record.spans["answer"].stop > 0
        assert record.signals["logprob"].isfinite().all()
    assert store.manifest["runs"][0]["replay"]["kept"] is True


@pytest.mark.filterwarnings("default")
def test_a_broken_last_line_costs_its_document_alone(runs, replayed, tmp_path):
    shutil.copytree(runs / "hf", tmp_path / "log")
    path = next((tmp_path / "log").rglob("samples_counting_gen_*.jsonl"))
    path.write_bytes(path.read_bytes()[:-40])
    result, store = replayed(tmp_path / "log", "--task", "counting_gen")
    assert result.stderr.count("the last line is broken off and left out") == 1
    assert len(store) == 7
    assert "broken off" in ok("auroc", store.path, "--metrics", "mean_nll").stderr


def test_a_killed_replay_goes_on(runs, replayed, demo_model, tmp_path, monkeypatch):
    """Killed after four generated answers, whose shard was written."""
    look, calls = HFStoreLM.look_again, []

    def dying(self, texts, **options):
        calls.append(len(texts))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return look(self, texts, **options)

    arguments = ("replay", runs / "hf", "--model", demo_model, "--out", tmp_path / "replayed", "--batch-size", "2")
    with monkeypatch.context() as patch:
        patch.setattr(HFStoreLM, "look_again", dying)
        assert call(*arguments, "--task", "counting_gen").exit_code == 1
    assert len(open_store(tmp_path / "replayed")) == 4
    refused(*arguments, "--task", "counting_gen", says="exists; give another --out, or --store-mode resume")
    calls.clear()
    monkeypatch.setattr(HFStoreLM, "look_again", lambda *a, **o: calls.append(len(a[1])) or look(*a, **o))
    result, store = replayed(
        runs / "hf", "--task", "counting_gen", "--store-mode", "resume", "--batch-size", "2", "--format", "json"
    )
    assert calls == [2, 2]
    assert json.loads(result.stdout)[0]["records"] == len(store) == 8
    says = "was replayed from other samples, or they changed"
    refused(*arguments, "--task", "counting_mc", "--store-mode", "resume", says=says)


def test_memory_that_runs_out_makes_batches_smaller(runs, replayed, monkeypatch):
    call, sizes = HFStoreLM._model_call, []

    def small(self, inps, *args, **kwargs):
        if len(inps) > 2:
            raise torch.OutOfMemoryError("out of memory")
        sizes.append(len(inps))
        return call(self, inps, *args, **kwargs)

    monkeypatch.setattr(HFStoreLM, "_model_call", small)
    result, store = replayed(runs / "hf", "--task", "counting_mc", "--batch-size", "8")
    assert "memory ran out; it goes on with batches of 2" in result.stderr
    assert max(sizes) == 2
    monkeypatch.undo()
    before = {k: r for k, r in recorded(open_store(runs / "store")).items() if k.task == "counting_mc"}
    now = recorded(store)
    assert before.keys() == now.keys()
    for key, record in now.items():
        torch.testing.assert_close(record.signals["logprob"], before[key].signals["logprob"], atol=5e-5, rtol=0)


def test_a_store_that_takes_no_more_is_an_error(runs, demo_model, tmp_path):
    out = tmp_path / "small"
    options = ("--model-args", "max_store_gb=0.00001")
    result = refused(
        *("replay", runs / "hf", "--model", demo_model, "--out", out, *options),
        says="takes no more records",
        silent=False,
    )
    assert "has reached max_store_gb" in result.stderr


def test_a_window_at_a_time(runs, replayed, monkeypatch):
    monkeypatch.setattr("lm_eval_ext.replay.WINDOW", 3)
    monkeypatch.setattr("lm_eval_ext.replay_store.WINDOW", 3)
    before = recorded(open_store(runs / "store"), SIGNALS)
    for i, source in enumerate((runs / "hf", runs / "store")):
        _, store = replayed(source, "--signals", "hidden_norm", out=f"windows{i}")
        same_records(before, recorded(store), 5e-5, text=i == 0)


def test_thoughts_that_the_log_lacks_are_mentioned(replayed, tmp_path):
    line = sample(0, [(("Type: fruits\nList: [apple]\nAnswer: (", SETTINGS), ["1"])])
    write_log(tmp_path / "log", [line], model_args={"think_end_token": "</think>"})
    assert "the run cut thoughts off; the log lacks them" in replayed(tmp_path / "log")[0].stderr


def test_another_model_is_noticed(runs, replayed, tmp_path):
    shutil.copytree(runs / "hf", tmp_path / "log")
    path = next((tmp_path / "log").rglob("samples_counting_mc_*.jsonl"))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[2]["resps"][1] = [["-50.5", "False"]]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    result, _ = replayed(tmp_path / "log", "--task", "counting_mc")
    assert "counting_mc: log-likelihoods differ by up to" in result.stderr


@pytest.mark.parametrize(
    ("samples", "options", "says"),
    [
        ("nothing", (), "does not exist; give lm-eval's output folder, a result or sample file, or a store"),
        ("hf", ("--model", "./no/model"), "--model ./no/model does not exist"),
        ("hf", ("--model", "no-such/model"), "--model no-such/model: "),
        ("hf", ("--task", "counting"), "holds no task 'counting'; it holds counting_gen, counting_mc"),
        ("store", ("--task", "counting"), "holds no task 'counting'; it holds counting_gen, counting_mc"),
        ("hf", ("--metrics", "menn_nll"), "menn_nll"),
        ("hf", ("--model-args", "store=x"), "--model-args store=x: say it as --out"),
        ("hf", ("--model-args", "batch_size=3"), "--model-args batch_size=3: say it as --batch-size"),
        ("hf", ("--model-args", "nonsense=3"), "nonsense"),
    ],
)
def test_bad_input_is_one_line(samples, options, says, runs, demo_model, tmp_path):
    model = () if "--model" in options else ("--model", demo_model)
    refused("replay", runs / samples, *model, "--out", tmp_path / "x", *options, says=says)
    assert not (tmp_path / "x").exists()


def test_another_vocabulary_is_refused_before_anything_is_made(runs, tmp_path, tiny_model, tokenizer):
    tiny_model("llama").save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    arguments = ("replay", runs / "store", "--model", tmp_path / "other", "--out", tmp_path / "x")
    refused(*arguments, says="; give a model with the vocabulary of the recorded one")
    assert not (tmp_path / "x").exists()


def test_other_weights_of_the_same_vocabulary_are_another_view(runs, demo_model, tmp_path):
    shutil.copytree(demo_model, tmp_path / "other")
    from safetensors.torch import load_file, save_file

    weights = load_file(tmp_path / "other" / "model.safetensors")
    save_file({k: v * 0.9 for k, v in weights.items()}, tmp_path / "other" / "model.safetensors", {"format": "pt"})
    result = ok("replay", runs / "store", "--model", tmp_path / "other", "--out", tmp_path / "x")
    assert "weights is" in result.stderr
    before, now = recorded(open_store(runs / "store")), recorded(open_store(tmp_path / "x"))
    assert before.keys() == now.keys()
    assert all(before[k].answer == r.answer and before[k].spans == r.spans for k, r in now.items())
    assert any((before[k].signals["logprob"] - r.signals["logprob"]).abs().max() > 0.01 for k, r in now.items())


def test_a_store_without_ids_is_refused(runs, demo_model, tmp_path):
    shutil.copytree(runs / "store", tmp_path / "private")
    manifest = {**read_manifest(tmp_path / "private"), "store_text": False}
    (tmp_path / "private" / "manifest.json").write_text(json.dumps(manifest))
    arguments = ("replay", tmp_path / "private", "--model", demo_model, "--out", tmp_path / "x")
    refused(
        *arguments, says="was recorded with store_text=no and holds no token ids; replay lm-eval's log of it instead"
    )
