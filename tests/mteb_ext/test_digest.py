"""Content hashes: what changes them, what does not, and what is remembered of large files."""

import hashlib
import json
import os
import shutil
import subprocess
import sys

import pytest

from mteb_ext import digest
from mteb_ext.digest import folder_digest, model_files, short, text_digest, text_digests


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "model"
    for name, content in {
        "config.json": "{}",
        "tokenizer.json": "{1}",
        "vocab.txt": "a",
        "qwen.tiktoken": "YQ== 0",
        "model.safetensors": "weights",
        "pytorch_model.bin": "the same weights",
        "code.py": "x = 1",
        "README.md": "about",
        "README.txt": "about",
        "trainer_state.json": "{}",
        "training_args.bin": "args",
        "optimizer.bin": "moments",
        "onnx/model.onnx": "weights",
        "results/org__model/r1/Task.json": "{}",
        "checkpoint-500/model.safetensors": "older",
        ".git/config.json": "{}",
        "1_Pooling/config.json": "{}",
        "2_Dense/pytorch_model.bin": "dense",
        "modules.json": json.dumps([{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Dense"}, {"path": "../up"}, 3]),
    }.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(content)
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/eval-ext/hashes.json"


COUNT = ["config.json", "tokenizer.json", "vocab.txt", "model.safetensors", "code.py", "modules.json"]
COUNT += ["qwen.tiktoken", "1_Pooling/config.json", "2_Dense/pytorch_model.bin"]


def test_what_counts(folder):
    assert {p.relative_to(folder).as_posix() for p in model_files(folder)} == set(COUNT)


@pytest.mark.parametrize("name", COUNT)
def test_a_change_of_what_counts_changes_the_hash(name, folder):
    before = folder_digest(folder)
    (folder / name).write_text((folder / name).read_text() + " ")
    assert folder_digest(folder) != before


def test_what_does_not_count_does_not_change_the_hash(folder):
    before = folder_digest(folder)
    for path in [p for p in folder.rglob("*") if p.is_file() and p.relative_to(folder).as_posix() not in COUNT]:
        path.write_text("changed")
    (folder / "results/more").mkdir()
    (folder / "results/more/Other.json").write_text("{}")
    assert folder_digest(folder) == before


def test_pytorch_weights_count_where_there_are_no_others(folder):
    (folder / "model.safetensors").unlink()
    before = folder_digest(folder)
    (folder / "pytorch_model.bin").write_text("changed")
    assert folder_digest(folder) != before


@pytest.mark.parametrize("beside", ["value_head.safetensors", "adapter_model.safetensors", "model-extra.safetensors"])
def test_other_tensors_do_not_hide_pytorch_weights(folder, beside):
    (folder / "model.safetensors").rename(folder / beside)
    digests = {folder_digest(folder)}
    for name in ("pytorch_model.bin", beside):
        (folder / name).write_text("changed")
        digests.add(folder_digest(folder))
    assert len(digests) == 3


def test_pytorch_weights_do_not_count_beside_an_index_of_safetensors(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text("{}")
    before = folder_digest(folder)
    (folder / "pytorch_model.bin").write_text("changed")
    assert folder_digest(folder) == before
    (folder / "model-00001-of-00001.safetensors").write_text("changed")
    assert folder_digest(folder) != before


def test_a_moved_or_linked_folder_keeps_its_hash(folder, tmp_path):
    before = folder_digest(folder)
    moved = tmp_path / "elsewhere/with another name"
    shutil.copytree(folder, moved)
    blobs = tmp_path / "blobs"
    shutil.move(folder, blobs)
    folder.mkdir()
    for path in blobs.iterdir():
        (folder / path.name).symlink_to(path)
    assert folder_digest(moved) == folder_digest(blobs) == folder_digest(folder) == before


def test_names_and_contents_cannot_be_confused(tmp_path):
    for name, files in {
        "a": {"x.txt": "1", "y.txt": "2"},
        "b": {"x.txt": "2", "y.txt": "1"},
        "c": {"z.txt": "1"},
    }.items():
        (tmp_path / name).mkdir()
        for file, content in files.items():
            (tmp_path / name / file).write_text(content)
    assert len({folder_digest(tmp_path / name) for name in "abc"}) == 3


@pytest.fixture
def hashed(monkeypatch):
    """Every file is large; the names of those that are read."""
    names, plain = [], digest._sha256
    monkeypatch.setattr(digest, "LARGE", 0)
    monkeypatch.setattr(digest, "_sha256", lambda path: names.append(path.name) or plain(path))
    return names


def test_large_files_are_read_once(folder, hashed, cache):
    before = folder_digest(folder)
    assert sorted(hashed) == sorted(name.rsplit("/", 1)[-1] for name in COUNT)
    hashed.clear()
    assert folder_digest(folder) == before and not hashed
    cache.write_text("[1")
    assert folder_digest(folder) == before and len(hashed) == len(COUNT)
    cache.write_text("[1]")
    assert folder_digest(folder) == before


def test_remembering_changes_no_hash(folder, monkeypatch):
    small = folder_digest(folder)
    monkeypatch.setattr(digest, "LARGE", 0)
    assert folder_digest(folder) == small


def in_place(path):
    path.write_text("WEIGHTS")


def replaced_with_the_old_time(path):
    times = path.stat()
    path.with_suffix(".new").write_text("WEIGHTS")
    path.with_suffix(".new").replace(path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def in_place_with_the_old_time(path):
    times = path.stat()
    path.write_text("WEIGHTS")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize("change", [in_place, replaced_with_the_old_time, in_place_with_the_old_time])
def test_a_changed_large_file_is_read_again(change, folder, hashed):
    weights = folder / "model.safetensors"
    os.utime(weights, ns=(10**18, 10**18))
    before = folder_digest(folder)
    hashed.clear()
    change(weights)
    assert folder_digest(folder) != before and hashed == ["model.safetensors"]


def test_a_home_that_cannot_be_written_only_costs_time(folder, hashed, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert folder_digest(folder) == folder_digest(folder) and len(hashed) == 2 * len(COUNT)


def test_short_is_canonical():
    assert short({"b": 1, "a": [1, None]}) == short({"a": [1, None], "b": 1}) != short({"a": [None, 1], "b": 1})
    assert short("text") == hashlib.sha256(b"text").hexdigest()[:12]
    assert len({short(x) for x in ("", "\ud800", "é", "e\u0301", {}, [], None, 0, False, 0.0)}) == 10


def test_short_of_a_set_is_the_same_in_every_process():
    code = "from mteb_ext.digest import short; print(short({'keys': {'a', 'b', 'c', 'd'}}))"
    found = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True
        ).stdout
        for seed in "123"
    }
    assert len(found) == 1 and len(found.pop().strip()) == 12


def test_digests_of_texts():
    texts = ["", "a", "b", "\ud800", "é", "e\u0301", "a\0"]
    assert len(set(text_digests(texts) + text_digests(texts, "a"))) == 2 * len(texts)
    assert text_digest("b", "a") != text_digest("ab") and text_digest("1:", "") != text_digest("", "1:")
    assert text_digests(texts, "p") == [text_digest(text, "p") for text in texts]
    assert {len(d) for d in text_digests(texts)} == {16}
