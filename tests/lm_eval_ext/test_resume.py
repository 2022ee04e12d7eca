"""Kill it, run it again: finished records are served without a forward, and the answers are those of one run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from metrics.store import open_store
from tasks import yaml_folder

KINDS = ("generate_until", "loglikelihood", "loglikelihood_rolling")
GREEDY = {"until": ["w7"], "max_gen_toks": 6, "do_sample": False}


@pytest.fixture
def asked(instance, words_of):
    """Requests of each kind, with repeats and with options that share a row."""

    def make(kind):
        if kind == "generate_until":
            return [instance(kind, (words_of(3 + i, i), dict(GREEDY)), i) for i in range(6)]
        if kind == "loglikelihood":
            return [
                instance(kind, (words_of(3 + i, i), f" w{k}"), i, idx=k, task="mc") for i in range(3) for k in range(3)
            ]
        return [instance(kind, (words_of(9 + i, i),), i, task="roll") for i in range(4)]

    return make


@pytest.fixture
def forwards():
    """Counts the forward passes of a model."""

    def count(lm):
        calls = []
        lm.model.register_forward_hook(lambda m, a, o: calls.append(1))
        return calls

    return count


@pytest.mark.parametrize("kind", KINDS)
def test_finished_requests_are_served_without_a_forward(kind, make_lm, asked, forwards, tmp_path):
    first = make_lm(store=tmp_path / "s")
    requests = asked(kind)
    answers = getattr(first, kind)(requests, disable_tqdm=True)
    first.recorder.close()
    again = make_lm(store=tmp_path / "s", store_mode="resume")
    calls = forwards(again)
    served = getattr(again, kind)(requests, disable_tqdm=True)
    assert served == answers
    assert [type(a) for a in served] == [type(a) for a in answers]
    assert calls == []
    assert again.recorder.served == len(requests)
    again.recorder.close()
    store = open_store(tmp_path / "s")
    assert len(store) == len(requests)
    assert [run["records"] for run in store.manifest["runs"]] == [len(requests), 0]


@pytest.mark.parametrize("kind", KINDS)
def test_the_rest_is_asked_and_everything_is_in_order(kind, make_lm, make_hf, asked, tmp_path):
    requests = asked(kind)
    first = make_lm(store=tmp_path / "s")
    getattr(first, kind)(requests[1::2], disable_tqdm=True)
    first.recorder.close()
    again = make_lm(store=tmp_path / "s", store_mode="resume")
    answers = getattr(again, kind)(requests, disable_tqdm=True)
    expected = getattr(make_hf(), kind)(requests, disable_tqdm=True)
    for a, b in zip(answers, expected):
        assert a == pytest.approx(b, abs=1e-4)
    again.recorder.close()
    assert len(open_store(tmp_path / "s")) == len(requests)


def test_another_question_under_the_same_key_is_not_served(make_lm, instance, words_of, forwards, tmp_path):
    first = make_lm(store=tmp_path / "s")
    first.generate_until([instance("generate_until", (words_of(4, 1), dict(GREEDY)))], disable_tqdm=True)
    first.recorder.close()
    again = make_lm(store=tmp_path / "s", store_mode="resume")
    calls = forwards(again)
    other = [instance("generate_until", (words_of(4, 2), dict(GREEDY)))]
    other += [instance("generate_until", (words_of(4, 1), {**GREEDY, "max_gen_toks": 3}))]
    for request in other:
        again.generate_until([request], disable_tqdm=True)
    assert again.recorder.served == 0
    assert calls


def test_an_empty_answer_is_an_answer(make_lm, instance, words_of, forwards, tmp_path):
    requests = [instance("generate_until", (words_of(4, i), {**GREEDY, "until": ["w"]}), i) for i in range(3)]
    first = make_lm(store=tmp_path / "s")
    assert first.generate_until(requests, disable_tqdm=True) == [""] * 3
    first.recorder.close()
    again = make_lm(store=tmp_path / "s", store_mode="resume")
    calls = forwards(again)
    assert again.generate_until(requests, disable_tqdm=True) == [""] * 3
    assert calls == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"family": "gpt2"}, "signals|model|max_length"),
        ({"max_length": 20}, "max_length"),
        ({"metrics": "mean_nll"}, "signals"),
        ({"signals": "hidden_norm"}, "signals"),
        ({"store_text": "no"}, "store_text"),
        ({"raw_dtype": "float16"}, "raw_dtype"),
        ({"signals": "hidden_norm", "layers": "0"}, "signals"),
        ({"think_end_token": "w9"}, "think_end_token"),
        ({"prefix_token_id": 5}, "prefix_token"),
    ],
)
def test_other_settings_are_refused_in_one_line(change, named, make_lm, asked, tmp_path, tiny_model):
    first = make_lm(store=tmp_path / "s")
    first.generate_until(asked("generate_until"), disable_tqdm=True)
    first.recorder.close()
    if "family" in change:
        other = tiny_model("gpt2")
        other.config.name_or_path = "another"
        change = {"model": other}
        named = "model"
    with pytest.raises(ValueError, match=f"was recorded with ({named})=.*give another store=DIR") as caught:
        make_lm(store=tmp_path / "s", store_mode="resume", **change)
    assert "\n" not in str(caught.value)
    assert len(open_store(tmp_path / "s")) == 6


def test_new_refuses_and_overwrite_replaces(make_lm, asked, tmp_path):
    first = make_lm(store=tmp_path / "s")
    first.generate_until(asked("generate_until"), disable_tqdm=True)
    first.recorder.close()
    with pytest.raises(FileExistsError, match=r"store_mode=resume.*store_mode=overwrite"):
        make_lm(store=tmp_path / "s")
    assert len(open_store(tmp_path / "s")) == 6
    other = make_lm(store=tmp_path / "s", store_mode="overwrite", metrics="mean_nll")
    other.loglikelihood(asked("loglikelihood"), disable_tqdm=True)
    other.recorder.close()
    store = open_store(tmp_path / "s")
    assert {k.task for k in store.entries()} == {"mc"}
    assert len(store.manifest["runs"]) == 1


def test_resume_without_a_store_begins_one(make_lm, asked, tmp_path):
    lm = make_lm(store=tmp_path / "s", store_mode="resume")
    lm.generate_until(asked("generate_until"), disable_tqdm=True)
    lm.recorder.close()
    assert len(open_store(tmp_path / "s")) == 6


def test_two_writers(make_lm, tmp_path):
    make_lm(store=tmp_path / "s")
    with pytest.raises(BlockingIOError, match=f"is being written by process {os.getpid()} of .* on .* since "):
        make_lm(store=tmp_path / "s", store_mode="resume")


def test_without_text_generations_are_asked_again(make_lm, asked, forwards, tmp_path):
    first = make_lm(store=tmp_path / "s", store_text=False)
    answers = first.generate_until(asked("generate_until"), disable_tqdm=True)
    first.recorder.close()
    again = make_lm(store=tmp_path / "s", store_text=False, store_mode="resume")
    calls = forwards(again)
    assert again.generate_until(asked("generate_until"), disable_tqdm=True) == answers
    assert calls
    again.recorder.close()
    assert len(open_store(tmp_path / "s")) == 6


@pytest.mark.parametrize("by", ["object", "folder"])
def test_other_weights_under_the_same_name_are_refused(by, make_lm, asked, tiny_model, tokenizer, tmp_path):
    model = tiny_model("llama")

    def given():
        if by == "object":
            return model
        model.save_pretrained(tmp_path / "model")
        tokenizer.save_pretrained(tmp_path / "model")
        return str(tmp_path / "model")

    lm = make_lm(model=given(), store=tmp_path / "s")
    lm.generate_until(asked("generate_until"), disable_tqdm=True)
    lm.recorder.close()
    make_lm(model=given(), store=tmp_path / "s", store_mode="resume").recorder.close()
    with torch.no_grad():
        model.lm_head.weight.mul_(1.1)
    with pytest.raises(ValueError, match="recorded with weights="):
        make_lm(model=given(), store=tmp_path / "s", store_mode="resume")


def test_where_a_model_lies_is_no_other_model(make_lm, asked, tiny_model, tokenizer, tmp_path):
    tiny_model("llama").save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    make_lm(model=str(tmp_path / "model"), store=tmp_path / "s").recorder.close()
    make_lm(model=str(tmp_path / "model"), store=tmp_path / "s", store_mode="resume", device_map={"": "cpu"})


def test_what_a_damaged_shard_held_is_asked_again(make_lm, asked, forwards, tmp_path, capsys):
    first = make_lm(store=tmp_path / "s")
    answers = first.generate_until(asked("generate_until"), disable_tqdm=True)
    first.recorder.close()
    (data,) = (tmp_path / "s" / "shards").glob("*.safetensors")
    content = bytearray(data.read_bytes())
    content[-5] ^= 4
    data.write_bytes(content)
    capsys.readouterr()
    again = make_lm(store=tmp_path / "s", store_mode="resume")
    assert "contents differ from their checksum; what it held is asked again" in capsys.readouterr().err
    calls = forwards(again)
    assert again.generate_until(asked("generate_until"), disable_tqdm=True) == answers
    assert calls and again.recorder.served == 0
    again.recorder.close()
    whole = open_store(tmp_path / "s")
    assert len(list(whole.records(["logprob"]))) == 6  # the later run's


# ---------------------------------------------------------------- kill -9

DRIVER = """
import functools, sys, time
import torch
torch.set_num_threads(1)
import lm_eval_ext.model as ours
import lm_eval_ext.opening
import metrics.shard
from lm_eval.tasks import TaskManager
import lm_eval
store, model, folder, slow = sys.argv[1:5]
lm_eval_ext.opening.Writer = functools.partial(lm_eval_ext.opening.Writer, shard_records=7)
if slow == "write":  # long enough in the middle of a write to be killed there
    replace = metrics.shard.replace
    def lingering(path, payload):
        time.sleep(0.15)
        replace(path, payload)
        time.sleep(0.15)
    metrics.shard.replace = lingering
elif slow == "forward":
    forward = ours.HFStoreLM._model_generate
    def lingering(self, *a, **k):
        time.sleep(0.2)
        return forward(self, *a, **k)
    ours.HFStoreLM._model_generate = lingering
results = lm_eval.simple_evaluate(
    "hf-store", {"pretrained": model, "store": store, "store_mode": "resume"}, ["counting_gen"], device="cpu",
    task_manager=TaskManager(include_path=folder, include_defaults=False), limit=40, batch_size=4, bootstrap_iters=0,
)
if slow == "no":
    import json
    print(json.dumps([s["resps"] for s in results["samples"]["counting_gen"]]))
"""


def drive(tmp_path, store, demo_model, slow, **options):
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    command = [sys.executable, str(script), str(store), demo_model, str(yaml_folder()), slow]
    root = str(Path(__file__).resolve().parents[2])
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": root}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


@pytest.mark.slow
@pytest.mark.parametrize(("slow", "shards"), [("write", 0), ("write", 1), ("write", 3), ("forward", 2)])
def test_kill_in_the_middle_and_go_on(slow, shards, tmp_path, demo_model):
    store = tmp_path / "s"
    process = drive(tmp_path, store, demo_model, slow)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        found = list((store / "shards").glob("r0-*.jsonl")) if store.exists() else []
        if len(found) >= shards and (store / "manifest.json").exists():
            break
        time.sleep(0.01)
    time.sleep(0.2)  # into the next write, or the next forward
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    opened = open_store(store)
    before = len(opened)
    assert opened.problems == opened.damaged() == []
    assert before >= 7 * shards
    assert before < 40
    assert all(len(r.signals["logprob"]) == r.token_count for r in opened.records(["logprob"]))

    again = drive(tmp_path, store, demo_model, "no")
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    if before:
        assert f"{before} of 40 requests are served from the store" in err
    whole = drive(tmp_path, tmp_path / "whole", demo_model, "no")
    expected, _ = whole.communicate(timeout=120)
    assert json.loads(out.splitlines()[-1]) == json.loads(expected.splitlines()[-1])
    assert sorted(open_store(store).entries()) == sorted(open_store(tmp_path / "whole").entries())
    assert not list((store / "shards").glob(".*.tmp"))


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_or_terminated_run_keeps_what_was_finished(how, tmp_path, demo_model):
    """Interrupted, it writes what was waiting and ends the run; terminated, its whole shards are there."""
    store = tmp_path / "s"
    process = drive(tmp_path, store, demo_model, "forward")
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and len(list(store.glob("shards/r0-*.jsonl"))) < 2:
        time.sleep(0.01)
    process.send_signal(how)
    _, err = process.communicate(timeout=180)
    assert process.returncode == -how
    opened = open_store(store)
    assert 14 <= len(opened) < 40
    assert opened.problems == opened.damaged() == []
    assert ("ended" in opened.manifest["runs"][0]) is (how == signal.SIGINT)
    assert ("KeyboardInterrupt" in err) is (how == signal.SIGINT)
    again = drive(tmp_path, store, demo_model, "no")
    _, err = again.communicate(timeout=300)
    assert f"{len(opened)} of 40 requests are served from the store" in err
    assert len(open_store(store)) == 40


def test_killed_at_three_moments_and_resumed_it_equals_an_uninterrupted_run():
    """In start-up, in the middle and in closing; all fifty moments in benchmarks/kill.py itself."""
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, str(root / "benchmarks" / "kill.py"), "--moments", "3", "--documents", "2"]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "Two uninterrupted runs: 0 differences." in done.stdout
    kills, _, damaged, _, finished, lost, served, unequal = map(
        int, done.stdout.split("| all |")[1].strip(" |\n").split("|")
    )
    assert (kills, damaged, lost, unequal) == (3, 0, 0, 0)
    assert 9 <= finished <= served < 27
