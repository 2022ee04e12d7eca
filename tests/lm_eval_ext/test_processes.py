"""Several processes, one store: the same records as one process, none twice, whoever wrote them."""

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import two_processes

from lm_eval_ext import opening, ranks
from metrics import shard
from metrics.lock import Lock
from metrics.store import open_store

SUPPORT = Path(two_processes.__file__)


def launch(*command, **more):
    """Two processes on the CPU, by the launcher that `accelerate launch` uses for several devices."""
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    start = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    start += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    return subprocess.run(
        [*start, *map(str, command)], env=environment, capture_output=True, text=True, timeout=540, check=False, **more
    )


@pytest.fixture(scope="module")
def runs(demo_model, tmp_path_factory):
    """The folder after two processes have done what `two_processes` says, and each one's account of it."""
    folder = tmp_path_factory.mktemp("together")
    alone = two_processes.record(demo_model, folder / "alone", 11)
    two_processes.record(demo_model, folder / "single", 7)
    done = launch(SUPPORT, demo_model, folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, alone, [json.loads((folder / f"said-{rank}.json").read_text()) for rank in (0, 1)], done.stderr


def same(a, b):
    assert a.entries().keys() == b.entries().keys() and len(a) > 0
    names = [*a.manifest["signals"], "tokens", "prompt_tokens"]
    expected = {r.key: r for r in b.records(names)}
    for one in a.records(names):
        other = expected[one.key]
        assert set(one.signals) == set(other.signals) >= {"entropy", "attention_diagonal", "hidden_norm"}
        assert one.entry()["spans"] == other.entry()["spans"]
        assert one.entry()["request_hash"] == other.entry()["request_hash"]
        for name, value in one.signals.items():
            torch.testing.assert_close(value, other.signals[name], rtol=2e-4, atol=2e-4, equal_nan=True)


def test_two_processes_share_the_documents_and_score_as_one(runs):
    _, alone, accounts, _ = runs
    assert [(said[0]["rank"], said[0]["ranks"]) for said in accounts] == [(0, 2), (1, 2)]
    assert accounts[1][0]["scores"] is None
    for task, scores in accounts[0][2]["scores"].items():
        assert scores == pytest.approx(alone["scores"][task], rel=1e-3), task  # exp of a large sum, in other batches


def test_no_record_comes_twice_or_not_at_all(runs):
    folder, _, accounts, _ = runs
    assert accounts[0][1]["records"] == 7 + 7 * 11 + 7
    keys, ranks = Counter(), set()
    for path in (folder / "new" / "shards").glob("*.jsonl"):
        _, entries = shard.read_index(path)
        ranks.add(path.name[:2])
        keys.update((e["task"], e["doc_id"], e["request"], e["occurrence"], e["kind"]) for e in entries)
    assert ranks == {"r0", "r1"}
    assert set(keys.values()) == {1}
    assert len(keys) == 11 + 11 * 11 + 11


@pytest.mark.parametrize("name", ["new", "single"])
def test_the_store_of_two_equals_the_store_of_one(name, runs):
    """`new` was resumed after a process's shards had gone, `single` had been begun by one process."""
    folder, _, accounts, _ = runs
    same(open_store(folder / name), open_store(folder / "alone"))
    assert sum(said[-3 if name == "new" else -2]["served"] for said in accounts) > 0


def test_the_manifest_says_how_many_wrote_and_what_each_did(runs):
    folder, _, _, _ = runs
    first, second = open_store(folder / "new").manifest["runs"]
    for run in (first, second):
        assert run["ranks"] == 2 and run["processes"].keys() == {"1"}
        assert "ended" in run and "ended" in run["processes"]["1"]
    assert first["records"] + first["processes"]["1"]["records"] == 7 + 7 * 11 + 7


def test_what_is_refused_is_refused_everywhere(runs):
    _, _, accounts, _ = runs
    assert all("store_mode=resume" in said[-1]["refused"] for said in accounts)


def test_only_the_first_process_speaks(runs):
    said = runs[3]
    assert said.count("hf-store: recording into") == 3
    assert "records of 2 processes in" in said
    assert "process 1" not in said


def test_a_process_that_outlived_its_first_keeps_the_next_run_out(make_lm, tmp_path):
    make_lm(store=tmp_path / "s").recorder.close()
    held = Lock(tmp_path / "s" / "lock-r1")
    with pytest.raises(BlockingIOError, match="is being written by process"):
        make_lm(store=tmp_path / "s", store_mode="resume")
    held.release()
    make_lm(store=tmp_path / "s", store_mode="resume")


def test_processes_on_several_machines_are_refused(make_lm, monkeypatch):
    lm = make_lm()
    lm.pretrained = "a model by name"
    lm.accelerator = SimpleNamespace(num_processes=4, process_index=2, local_process_index=0)
    monkeypatch.setattr(ranks, "shared", lambda mine, count: [[(0, 0)], [(1, 1)], mine, [(3, 1)]])
    with pytest.raises(ValueError, match=r"4 processes on several machines.*give each machine its own tasks"):
        ranks.settle(lm)


def test_a_problem_of_a_later_process_is_everybodys(make_lm, tmp_path, monkeypatch):
    """As when only that one may not write: the first hears of it and says it."""
    lm = make_lm(store=tmp_path / "other")
    lm._world_size = 2
    problem = PermissionError(13, "Permission denied")
    answers = iter([["run", "run"], [None, None], [None, problem]])
    monkeypatch.setattr(ranks, "shared", lambda mine, count: next(answers))
    monkeypatch.setattr(opening, "shared", lambda mine, count: next(answers))
    with pytest.raises(PermissionError):
        opening.open_together(lm, replace(lm._options, store=tmp_path / "s"), {})
    lm._world_size = 1


@pytest.mark.slow
def test_the_stock_command_in_two_processes(demo_model, tmp_path):
    command = (
        "-m",
        "lm_eval",
        "run",
        "--model",
        "hf-store",
        "--include_path",
        str(SUPPORT.parents[2] / "tasks/lm_eval"),
    )
    args = f"pretrained={demo_model},store={tmp_path / 's'}"
    done = launch(*command, "--model_args", args, "--tasks", "counting_gen", "--limit", "5",
                  "--output_path", str(tmp_path / "out"), "--log_samples", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    store = open_store(tmp_path / "s")
    assert len(store) == 5
    assert store.scores("mean_entropy", labels=tmp_path / "out").filter(like="label:").notna().all().all()
    again = launch(*command, "--model_args", args, "--tasks", "counting_gen", "--limit", "5", cwd=tmp_path)
    assert again.returncode != 0
    assert again.stderr.count("hf-store: ") == 1
