"""What goes wrong in a sweep: what the user reads, and that nothing finished is lost."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from mteb.results import TaskResult
from sweeping import mains, named, run

from mteb_ext import shards, sweep_results

ROOT = Path(__file__).parents[2]


def journal(out):
    return [json.loads(line) for line in (out / "sweep.jsonl").read_text().splitlines()]


def last(said):
    return said.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def model(tiny):
    return tiny("bert")


@pytest.fixture
def sweep(model, tmp_path):
    """A function (tasks, further options) that sweeps into tmp_path / "out"."""

    def swept(*tasks, workers=0, options=()):
        named_ = ("--model", model, "--tasks", named(*tasks), "--out", tmp_path / "out", "--workers", workers)
        return run(*named_, *options)

    return swept


@pytest.fixture(scope="module")
def undisturbed(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert run("--model", model, "--tasks", named("Sts", "Pairs", "Slow"), "--out", out, "--workers", 0)[0] == 0
    return mains(out)


def test_data_that_cannot_be_loaded_and_an_evaluator_that_fails(sweep, tmp_path):
    for workers in (0, 1):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the ranking says that a task lacks layer 1
            status, table, said = sweep("NoData", "Odd", "Sts", workers=workers)
        assert status == 1
        assert "of 3 is best" in table
        assert "NoData: the data cannot be loaded: ConnectionError: no route to the data set\n" in said
        assert "Odd: RuntimeError: the evaluator does not like layer 1\n" in said
        assert "2 failures; the same command tries again:" in said
        assert len(mains(tmp_path / "out")) == 7
    failed = [line for line in journal(tmp_path / "out") if line["status"] == "failed"]
    assert [line["task"] for line in failed] == ["NoData", "Odd"] * 2
    assert "Traceback" not in said


def test_a_layer_of_nan_fails_alone(save, tmp_path):
    model = save("gpt2", tmp_path / "nan")
    from transformers import AutoModel

    broken = AutoModel.from_pretrained(model)
    with torch.no_grad():
        broken.h[2].mlp.c_proj.bias.fill_(float("nan"))
    broken.save_pretrained(model)
    for workers in (0, 1):
        out = tmp_path / f"out{workers}"
        args = ("--model", model, "--tasks", named("Sts"), "--out", out, "--workers", workers, "--norm", "raw")
        status, _, said = run(*args)
        assert status == 1
        assert said.count("FAILED") == 1
        assert "are not finite, the first of the text" in said
        assert len(mains(out)) == 3


def test_weights_that_cannot_be_loaded_end_that_model_only(model, save, tmp_path):
    bad = save("gpt2", tmp_path / "cut")
    weights = bad / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    args = ("--model", bad, "--model", model, "--tasks", named("Sts", "Pairs"), "--out", tmp_path / "out")
    status, _, said = run(*args, "--workers", 1)
    assert status == 1
    assert said.count("FAILED") == 1
    assert len(mains(tmp_path / "out")) == 8


def test_a_scoring_process_that_dies_is_said_once_and_its_units_are_done(sweep, tmp_path):
    status, _, said = sweep("Dies", "Sts", "Pairs", workers=2)
    assert status == 0
    assert said.count("a scoring process died") == 1
    assert "Traceback" not in said
    assert len(mains(tmp_path / "out")) == 12


class Failing:
    """A function that meets a full disk after so many calls."""

    def __init__(self, original, after):
        self.original, self.left = original, after

    def __call__(self, *args, **kwargs):
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.original(*args, **kwargs)


@pytest.mark.parametrize(
    ("module", "name", "after"),
    [(sweep_results, "TemporaryDirectory", 3), (shards, "write", 1), (TaskResult, "to_disk", 2)],
)
def test_a_full_disk_is_said_in_one_line(sweep, tmp_path, monkeypatch, module, name, after):
    failing = Failing(getattr(module, name), after)
    monkeypatch.setattr(module, name, lambda *args, **kwargs: failing(*args, **kwargs))
    status, _, said = sweep("Sts", "Pairs")
    kept = mains(tmp_path / "out")
    monkeypatch.undo()
    assert status == 1
    assert last(said).startswith(f"Error: the bank {tmp_path}" if module is shards else f"Error: {tmp_path}")
    assert "No space left on device; free space" in last(said)
    assert "nothing finished is lost" in last(said)
    assert "FAILED" not in said
    assert kept or module is shards
    assert sweep("Sts", "Pairs")[0] == 0
    assert len(mains(tmp_path / "out")) == 8
    assert kept.items() <= mains(tmp_path / "out").items()


def test_a_full_disk_met_by_a_scoring_process(sweep, tmp_path):
    status, _, said = sweep("Full", "Sts", workers=1)
    assert status == 1
    assert last(said) == (
        "Error: predictions.json: No space left on device; free space and run the same command again: nothing finished "
        "is lost"
    )
    assert ("Full" in {task for _, task in mains(tmp_path / "out")}) and "FAILED" not in said


def test_a_full_disk_while_a_thread_saves_what_a_process_scored(sweep, tmp_path, monkeypatch):
    from mteb_ext.sweep_results import Results, Unwritable

    saved = []
    original = Results.save

    def save(self, *args):
        saved.append(args)
        if len(saved) == 3:
            raise Unwritable("out cannot be written: No space left on device")
        original(self, *args)

    monkeypatch.setattr(Results, "save", save)
    status, _, said = sweep("Sts", "Pairs", workers=1)
    assert status == 1
    assert last(said) == "Error: out cannot be written: No space left on device"
    assert "Traceback" not in said


def test_folders_that_cannot_be_written(model, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    args = ("--model", model, "--tasks", named("Sts"), "--workers", 0)
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        status, _, said = run(*args, "--out", out)
        assert status == 1
        assert last(said).startswith(f"Error: {out} cannot be written:")
        assert "give another --out DIR" in last(said)

    make = Path.mkdir

    def refuse(self, *args, **kwargs):
        if self.name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        make(self, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", refuse)
    status, _, said = run(*args, "--out", tmp_path / "closed")
    assert (status, last(said).split(";")[0]) == (1, f"Error: {tmp_path}/closed cannot be written: Permission denied")


def start(model, out, *tasks, workers=1, trace=None):
    """The command as a process in a group of its own, as a shell starts it."""
    command = [Path(sys.executable).with_name("eval-ext"), "sweep", "--model", model, "--tasks", named(*tasks)]
    environ = {**os.environ, "SWEEP_TASKS": str(trace), "SWEEP_SLOW": "1"} if trace else os.environ
    return subprocess.Popen(
        [*map(str, command), "--out", str(out), "--workers", str(workers)],
        cwd=ROOT,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )


def until(found, seconds=90):
    """Wait for a condition, and return what it gave."""
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)
    return value


def child_at_work(folder, parent):
    """The process id of a process that has begun to score the slow task."""

    def found():
        lines = (folder / "trace").read_text().split("\n") if (folder / "trace").exists() else []
        pids = [int(line.split()[1]) for line in lines if line.startswith("slow")]
        return next((pid for pid in pids if pid != parent), None)

    return until(found)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes under /proc")
@pytest.mark.parametrize("how", ["kill", pytest.param("interrupt", marks=pytest.mark.slow)])
def test_a_sweep_that_is_ended_from_outside(model, undisturbed, sweep, tmp_path, how):
    process = start(model, tmp_path / "out", "Sts", "Pairs", "Slow", trace=tmp_path)
    child = child_at_work(tmp_path, process.pid)
    kept = mains(tmp_path / "out")
    assert len(kept) == 9  # all of two tasks, and the first layer of the third
    if how == "interrupt":
        status, _, said = sweep("Sts")
        assert (status, len(said.strip().splitlines())) == (1, 2)
        assert f"{tmp_path}/out is being written by process {process.pid} of " in last(said)
        os.killpg(process.pid, signal.SIGINT)
        output, said = process.communicate(timeout=20)
        assert process.returncode == 130
        assert (
            last(said) == "Stopped. 9 of 12 pending units are evaluated and kept; the same command goes on from there."
        )
        assert "Traceback" not in said
        assert output == ""
    else:
        process.kill()
        process.communicate()
    until(lambda: not alive(child), 10)
    assert mains(tmp_path / "out") == kept
    status, _, said = sweep("Sts", "Pairs", "Slow")
    assert status == 0
    assert "3 units evaluated" in said
    assert mains(tmp_path / "out") == undisturbed
    assert len(journal(tmp_path / "out")) == 12


@pytest.mark.slow
def test_kills_at_any_moment(model, undisturbed, sweep, tmp_path):
    random.seed(0)
    out = tmp_path / "out"
    for _ in range(8):
        process = start(model, out, "Sts", "Pairs", "Slow", workers=2)
        until((out / ".sweep.lock").exists)
        time.sleep(random.uniform(0, 6))
        before = mains(out)
        process.kill()
        process.communicate()
        assert before.items() <= mains(out).items()
    assert sweep("Sts", "Pairs", "Slow")[0] == 0
    assert mains(out) == undisturbed
    assert not list(out.rglob("*.damaged")) and not list(out.glob(".saving*"))
