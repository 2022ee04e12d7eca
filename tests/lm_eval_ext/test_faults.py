"""A disk that fails, a budget that ends, text that must not be kept: the evaluation goes on, and one line says so."""

import errno
import gc
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from lm_eval_ext.model import HFStoreLM
from metrics import shard
from metrics.store import open_store
from metrics.writer import Writer

GREEDY = {"until": ["w7"], "max_gen_toks": 6, "do_sample": False}


@pytest.fixture
def requests(instance, words_of):
    return [instance("generate_until", (words_of(3 + i % 5, i), dict(GREEDY)), i) for i in range(12)]


@pytest.fixture
def small_shards(monkeypatch):
    """Every third record makes a shard."""
    monkeypatch.setattr(
        "lm_eval_ext.opening.Writer", lambda *a, **k: Writer(*a, **{**k, "shard_records": 3, "shard_seconds": 1e9})
    )


def lines(capsys, what):
    return [line for line in capsys.readouterr().err.splitlines() if what in line]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("where", ["fsync", "open"])
def test_a_disk_that_fails_in_the_middle(
    where, code, make_lm, make_hf, requests, small_shards, tmp_path, monkeypatch, capsys
):
    lm = make_lm(store=tmp_path / "s")
    fsync, opening, count = os.fsync, Path.open, []

    def broken(*_a, **_k):
        raise OSError(code, os.strerror(code))

    def failing_fsync(descriptor):
        count.append(1)
        return fsync(descriptor) if len(count) <= 4 else broken()

    def failing_open(self, mode="r", *a, **k):
        if "w" in mode and "s/shards" in str(self):
            count.append(1)
            if len(count) > 4:
                broken()
        return opening(self, mode, *a, **k)

    if where == "fsync":
        monkeypatch.setattr(os, "fsync", failing_fsync)
    else:
        monkeypatch.setattr(Path, "open", failing_open)
    answers = lm.generate_until(requests, disable_tqdm=True)
    assert answers == make_hf().generate_until(requests, disable_tqdm=True)
    lm.get_model_info()
    lm.recorder.close()
    said = [line for line in capsys.readouterr().err.splitlines() if os.strerror(code) in line]
    assert len(said) == 1
    assert "recording stops here, the evaluation goes on; 6 records are kept" in said[0]
    remedy = {errno.ENOSPC: "Make room", errno.EROFS: "Make it writable", errno.EIO: "Mend that"}[code]
    assert f"{remedy} and run again with store_mode=resume" in said[0]
    monkeypatch.undo()
    store = open_store(tmp_path / "s")
    assert len(store) == 6
    assert store.problems == store.damaged() == []
    assert not list((tmp_path / "s" / "shards").glob(".*.tmp"))
    again = make_lm(store=tmp_path / "s", store_mode="resume")
    assert again.generate_until(requests, disable_tqdm=True) == answers
    assert again.recorder.served == 6


def test_room_that_was_made_in_time_keeps_what_was_waiting(make_lm, requests, small_shards, tmp_path, monkeypatch):
    lm = make_lm(store=tmp_path / "s")
    fsync, broken = os.fsync, [True]

    def failing(descriptor):
        if broken[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        return fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    lm.generate_until(requests, disable_tqdm=True)
    broken[0] = False
    lm.recorder.close()
    assert len(open_store(tmp_path / "s")) == 3


def test_a_failing_manifest_stops_no_evaluation(make_lm, requests, tmp_path, monkeypatch, capsys):
    lm = make_lm(store=tmp_path / "s")

    def failing(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(shard, "write_json", failing)
    assert len(lm.generate_until(requests, disable_tqdm=True)) == 12
    lm.recorder.close()
    assert len(lines(capsys, "Read-only file system")) == 1
    monkeypatch.undo()
    assert len(open_store(tmp_path / "s")) == 12


@pytest.mark.parametrize("below", ["file/store", "file"])
def test_a_folder_that_cannot_be_made_is_named_with_a_remedy(below, make_lm, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot make the store .*file.*give another folder as store=DIR") as caught:
        make_lm(store=tmp_path / below)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_read_only_folder_is_named_with_a_remedy(code, make_lm, tmp_path, monkeypatch):
    def failing(self, *a, **k):
        raise OSError(code, os.strerror(code), str(self))

    monkeypatch.setattr(Path, "mkdir", failing)
    with pytest.raises(OSError, match=f"cannot make the store .*: {os.strerror(code)}; give another folder"):
        make_lm(store=tmp_path / "s")


def test_a_folder_with_other_things_is_refused(make_lm, tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "thesis.tex").write_text("")
    for mode in ("new", "resume", "overwrite"):
        with pytest.raises(FileExistsError, match="is not empty and not a store"):
            make_lm(store=tmp_path / "s", store_mode=mode)
    assert (tmp_path / "s" / "thesis.tex").exists()


def test_the_budget_ends_the_recording_and_not_the_evaluation(make_lm, make_hf, requests, tmp_path, capsys):
    lm = make_lm(store=tmp_path / "s", max_store_gb=8e-6)
    answers = lm.generate_until(requests, disable_tqdm=True)
    assert answers == make_hf().generate_until(requests, disable_tqdm=True)
    info = lm.get_model_info()
    said = capsys.readouterr().err.splitlines()
    assert sum("has reached max_store_gb; recording stops here" in line for line in said) == 1
    store = open_store(info["hf_store"]["store"])  # before the writer is closed
    assert 0 < len(store) < 12
    assert f"hf-store: {len(store)} records" in said[-1]
    size = sum(p.stat().st_size for p in (tmp_path / "s" / "shards").iterdir())
    assert size < 2e4


def test_the_budget_counts_what_is_there_already(make_lm, requests, tmp_path):
    first = make_lm(store=tmp_path / "s", max_store_gb=8e-6)
    first.generate_until(requests, disable_tqdm=True)
    first.recorder.close()
    kept = len(open_store(tmp_path / "s"))
    again = make_lm(store=tmp_path / "s", max_store_gb=8e-6, store_mode="resume")
    again.generate_until(requests, disable_tqdm=True)
    again.recorder.close()
    assert len(open_store(tmp_path / "s")) <= kept + 2


def test_an_evaluation_that_fails_keeps_its_finished_batches(make_lm, requests, tmp_path):
    lm = make_lm(store=tmp_path / "s", batch_size=4)
    calls = []

    def failing(_module, _args):
        calls.append(1)
        if len(calls) == 14:
            raise KeyboardInterrupt

    lm.model.register_forward_pre_hook(failing)
    with pytest.raises(KeyboardInterrupt):
        lm.generate_until(requests, disable_tqdm=True)
    assert len(open_store(tmp_path / "s")) >= 4
    assert lm._session is None


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        not shutil.which("mount")
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("mounting a file system is not permitted here")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_disk_that_is_really_full(small_disk, make_lm, make_hf, requests, small_shards, capsys):
    (small_disk / "other").write_bytes(bytes(200 << 10))
    lm = make_lm(store=small_disk / "s", signals="hidden", raw="hidden")
    answers = lm.generate_until(requests, disable_tqdm=True)
    assert answers == make_hf().generate_until(requests, disable_tqdm=True)
    lm.recorder.close()
    (said,) = lines(capsys, "No space left on device")
    assert "recording stops here, the evaluation goes on" in said and "Make room and run again" in said
    store = open_store(small_disk / "s")
    kept = len(store)
    assert 0 < kept < 12 and f"; {kept} records are kept" in said
    assert store.problems == store.damaged() == []
    (small_disk / "other").unlink()
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    again = make_lm(store=small_disk / "s", store_mode="resume", signals="hidden", raw="hidden")
    assert again.generate_until(requests, disable_tqdm=True) == answers
    assert again.recorder.served == kept
    again.recorder.close()
    assert len(open_store(small_disk / "s")) == 12


def test_a_store_deleted_while_recording(make_lm, make_hf, requests, small_shards, tmp_path, monkeypatch, capsys):
    lm = make_lm(store=tmp_path / "s")
    write, count = shard.write, []

    def deleting(*arguments):
        count.append(1)
        if len(count) == 3:
            shutil.rmtree(tmp_path / "s")
        return write(*arguments)

    monkeypatch.setattr(shard, "write", deleting)
    answers = lm.generate_until(requests, disable_tqdm=True)
    assert answers == make_hf().generate_until(requests, disable_tqdm=True)
    lm.get_model_info()
    lm.recorder.close()
    (said,) = lines(capsys, "No such file")
    assert "the folder is gone, and what it held with it. Record again into another store=DIR" in said
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("name", ["with space", "café 数 😀"])
def test_any_name_of_a_store(name, make_lm, requests, tmp_path, reopened):
    lm = make_lm(store=tmp_path / name / "s")
    lm.generate_until(requests[:2], disable_tqdm=True)
    assert len(reopened(lm)) == 2


def test_a_name_too_long_is_named(make_lm, tmp_path):
    with pytest.raises(OSError, match=r"cannot make the store .*: File name too long; give another folder"):
        make_lm(store=tmp_path / ("n" * 300))


def test_a_newer_store_is_refused_before_anything_is_changed(make_lm, requests, tmp_path, reopened):
    lm = make_lm(store=tmp_path / "s")
    lm.generate_until(requests[:2], disable_tqdm=True)
    manifest = reopened(lm).manifest
    shard.write_json(tmp_path / "s" / "manifest.json", {**manifest, "schema": 99})
    before = (tmp_path / "s" / "manifest.json").read_bytes()
    with pytest.raises(ValueError, match="has schema 99; this version reads up to 1: upgrade eval-ext") as caught:
        make_lm(store=tmp_path / "s", store_mode="resume")
    assert "\n" not in str(caught.value)
    assert (tmp_path / "s" / "manifest.json").read_bytes() == before


# ---------------------------------------------------------------- privacy


def test_without_text_neither_words_nor_ids_are_kept(make_lm, instance, words_of, tmp_path):
    lm = make_lm(store=tmp_path / "s", store_text="no", signals="all")
    secret = words_of(9, 5)
    lm.generate_until([instance("generate_until", (secret, dict(GREEDY)), doc={"q": secret})], disable_tqdm=True)
    lm.loglikelihood([instance("loglikelihood", (secret, " " + words_of(4, 8)), task="ll")], disable_tqdm=True)
    lm.loglikelihood_rolling([instance("loglikelihood_rolling", (secret,), task="roll")], disable_tqdm=True)
    lm.recorder.close()
    store = open_store(tmp_path / "s")
    assert len(store) == 3
    assert store.entries()["toy", 0, 0, 0, "generate_until"]["answer"] is None
    private = ("tokens", "prompt_tokens", "top_tokens")
    for record in store.records([*private, "logprob"]):
        assert set(record.signals) == {"logprob"}
    ids = lm.tok_encode(secret)
    patterns = [torch.tensor(ids[:3], dtype=t).numpy().tobytes() for t in (torch.int32, torch.int64)]
    for path in (tmp_path / "s").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            for private_bytes in [*patterns, *(f" {w} ".encode() for w in secret.split())]:
                assert private_bytes not in content, path


def test_with_text_both_are_kept(make_lm, instance, words_of, tmp_path):
    """So that the test above can fail."""
    lm = make_lm(store=tmp_path / "s")
    secret = words_of(9, 5)
    (answer,) = lm.generate_until([instance("generate_until", (secret, dict(GREEDY)))], disable_tqdm=True)
    lm.recorder.close()
    (record,) = open_store(tmp_path / "s").records(["tokens", "prompt_tokens", "top_tokens"])
    assert record.answer == answer
    assert record.signals["prompt_tokens"].tolist() == lm.tok_encode(secret)
    assert "tokens" in record.signals


@pytest.mark.parametrize("kind", ["generate_until", "loglikelihood"])
@pytest.mark.parametrize("problem", [torch.OutOfMemoryError("no memory\nleft"), ValueError("odd"), IndexError("row")])
def test_what_fails_in_looking_ends_the_recording_alone(
    kind, problem, make_lm, make_hf, requests, instance, words_of, monkeypatch, capsys, reopened
):
    if kind == "loglikelihood":
        requests = [instance(kind, (words_of(4, i), " " + words_of(2, i)), i) for i in range(12)]
    lm, count = make_lm(), []
    whole = lm.recorder.writer.add

    def failing(record):
        count.append(1)
        if len(count) == 5:
            raise problem
        return whole(record)

    monkeypatch.setattr(lm.recorder.writer, "add", failing)
    answers = getattr(lm, kind)(requests, disable_tqdm=True)
    assert answers == getattr(make_hf(), kind)(requests, disable_tqdm=True)
    assert len(lines(capsys, "recording stops here")) == 1
    monkeypatch.undo()
    store = reopened(lm)
    assert len(store) == 4
    assert "recording stops here" in store.manifest["runs"][0]["stopped"]


def test_memory_that_runs_out_in_a_step_leaves_the_generation_alone(make_lm, make_hf, requests, monkeypatch):
    def failing(*_a, **_k):
        raise torch.OutOfMemoryError("no memory left")

    lm = make_lm()
    monkeypatch.setattr("lm_eval_ext.capture._reduce", failing)
    answers = lm.generate_until(requests, disable_tqdm=True)
    assert answers == make_hf().generate_until(requests, disable_tqdm=True)


def test_rows_that_are_not_the_answers_rows_are_noticed(make_lm, instance, words_of, monkeypatch, capsys, reopened):
    """As when a later lm-eval calls the seams in another order."""
    lm = make_lm(batch_size=1)
    requests = [instance("loglikelihood", (words_of(6, i), " " + words_of(3, i)), i) for i in range(4)]
    monkeypatch.setattr("lm_eval_ext.scoring.ScoringSession.row", lambda self, stop: setattr(self, "_stop", stop - 2))
    monkeypatch.setattr("lm_eval_ext.scoring.ScoringSession._row", 0, raising=False)
    lm.loglikelihood(requests, disable_tqdm=True)
    said = lines(capsys, "recording stops here")
    assert len(said) == 1 and "batches otherwise" in said[0]
    assert len(reopened(lm)) < 4


@pytest.mark.parametrize("problem", [ValueError("odd shape"), IndexError("row 7"), RuntimeError("strange")])
def test_an_error_in_a_step_ends_the_recording_alone_and_is_named(
    problem, make_lm, make_hf, requests, monkeypatch, capsys
):
    def failing(*_a, **_k):
        raise problem

    lm = make_lm()
    monkeypatch.setattr("lm_eval_ext.capture._reduce", failing)
    answers = lm.generate_until(requests, disable_tqdm=True)
    assert answers == make_hf().generate_until(requests, disable_tqdm=True)
    said = lines(capsys, str(problem))
    assert len(said) == 1 and "recording stops here" in said[0] and type(problem).__name__ in said[0]


def test_a_model_that_is_let_go_closes_its_store(tiny_model, tokenizer, requests, tmp_path):
    lm = HFStoreLM(tiny_model("llama"), tokenizer=tokenizer, device="cpu", store=tmp_path / "s", signals="all")
    lm.generate_until(requests[:2], disable_tqdm=True)
    gc.collect()
    gc.disable()
    try:
        del lm
        assert "ended" in open_store(tmp_path / "s").manifest["runs"][0]
    finally:
        gc.enable()
