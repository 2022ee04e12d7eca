"""A source of rows: one pass a distinct text while it is held, right rows under every limit, errors of one line."""

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mteb_ext import bank as bank_module
from mteb_ext import forward
from mteb_ext import source as source_module
from mteb_ext.bank import Bank, BankError
from mteb_ext.checkpoint import look
from mteb_ext.shards import View
from mteb_ext.source import NotHeld, Request, Source, bank_folder, default_root, devices_of, shared_source

MEAN, LAST = View("mean", "raw"), View("last", "final")
TEXTS = [f"w{i} w{i % 7}" for i in range(20)]


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    for name in (*source_module.LIMITS, "EVAL_EXT_BANK"):
        monkeypatch.delenv(name, raising=False)
    shared_source.cache_clear()
    yield
    shared_source.cache_clear()


@pytest.fixture(scope="module")
def request_of(tiny):
    return Request(look(str(tiny("bert"))), "float32", 16)


@pytest.fixture
def passed(monkeypatch):
    """The texts that really went through the model, in the order in which they were handed over."""
    seen = []

    def counted(runner, texts, views, *, prompt="", **options):
        seen.extend(prompt + text for text in texts)
        yield from forward.embed(runner, texts, views, prompt=prompt, **options)

    monkeypatch.setattr(source_module, "embed", counted)
    return seen


def all_layers(rows):
    return rows.transpose(1, 0, 2).reshape(rows.shape[1], -1)


def ask(source, texts, view=MEAN, layers=(0, 1, 2, 3), **options):
    return source.rows(texts, view, layers, all_layers, progress=False, **options)


def counts(source):
    return source.counters.passes, source.counters.again


def test_duplicates_cost_one_pass_within_a_call_and_across_calls(request_of, passed):
    source = Source(request_of, Bank(), ("cpu",))
    found = ask(source, ["w1 w2", "", "w3", "w1 w2", ""])
    assert counts(source) == (3, 0)
    np.testing.assert_array_equal(found[[0, 1]], found[[3, 4]])
    again = ask(source, ["w3", "w4", ""])
    np.testing.assert_array_equal(again[[0, 2]], found[[2, 1]])
    assert counts(source) == (4, 0)
    assert sorted(passed) == ["", "w1 w2", "w3", "w4"]
    assert source.counters.asked == 8
    assert source.counters.loads == 1
    assert source.counters.seconds > 0


def test_rows_are_those_of_each_text_alone_in_their_order(request_of):
    source = Source(request_of, Bank(), ("cpu",))
    texts = ["w1", "w1 w2 w3 w4 w5", "", "  ", "w2 語 🙂", "w5 w4", "w1"]
    found = ask(source, texts, batch_size=3)
    for text, row in zip(texts, found):
        alone = ask(Source(request_of, Bank(), ("cpu",)), [text])[0]
        np.testing.assert_allclose(row, alone, atol=1e-6)


def test_a_text_under_two_prompts_is_two(request_of, passed):
    source = Source(request_of, Bank(), ("cpu",))
    bare, told = ask(source, ["w1"]), ask(source, ["w1"], prompt="query: ")
    assert passed == ["w1", "query: w1"]
    assert np.abs(bare - told).max() > 1e-3
    np.testing.assert_array_equal(ask(source, ["w1"], prompt="query: "), told)
    assert counts(source) == (2, 0)


def test_no_text_gives_no_row_and_loads_nothing(request_of):
    source = Source(request_of, Bank(), ("cpu",))
    assert len(ask(source, [])) == 0
    assert source.counters.loads == 0


def test_all_views_known_beforehand_come_from_one_pass(request_of, passed):
    source = Source(request_of, Bank(), ("cpu",), {MEAN: None, LAST: None, View("max", "final"): None})
    for view in source.views:
        ask(source, TEXTS, view)
    assert counts(source) == (len(TEXTS), 0)
    assert len(passed) == len(TEXTS)


def test_a_view_added_later_costs_each_text_one_pass_more_and_changes_no_row(request_of, passed):
    source = Source(request_of, Bank(), ("cpu",))
    before, single = ask(source, TEXTS), source.bank.bytes
    source.views[LAST] = None
    np.testing.assert_array_equal(ask(source, TEXTS[::-1]), before[::-1])
    assert len(passed) == len(TEXTS)  # what is held is served, whatever else was announced
    last = ask(source, TEXTS, LAST)
    assert counts(source) == (len(TEXTS), len(TEXTS))
    assert source.bank.bytes == 2 * single  # what was held is not stored again
    np.testing.assert_array_equal(ask(source, TEXTS), before)
    np.testing.assert_array_equal(ask(source, TEXTS, LAST), last)
    ask(source, ["w9 w9"])
    ask(source, ["w9 w9"], LAST)
    assert counts(source) == (len(TEXTS) + 1, len(TEXTS))


@pytest.mark.parametrize(
    "limits", [{}, {"memory": 1}, {"memory": 0, "disk": 1}, {"folder": True}, {"folder": True, "disk": 1}]
)
def test_rows_read_again_are_those_computed(request_of, tmp_path, monkeypatch, limits, passed):
    monkeypatch.setattr(forward, "PIECE", 4 * 4 * 16 * 5)
    limits = {**limits, "folder": tmp_path / "bank"} if "folder" in limits else limits
    source = Source(request_of, Bank(**limits), ("cpu",))
    computed = ask(source, TEXTS, batch_size=4)
    assert counts(source) == (len(TEXTS), 0)
    again = ask(source, TEXTS, batch_size=4)
    if "disk" not in limits:
        np.testing.assert_array_equal(again, computed)
        assert counts(source) == (len(TEXTS), 0)
        return
    np.testing.assert_allclose(again, computed, atol=1e-6)
    passes, repeated = counts(source)
    assert passes == len(TEXTS)
    assert 0 < repeated < len(TEXTS)  # the newest shard was still there
    assert passes + repeated == len(passed)


def test_another_source_is_served_from_the_folder_without_weights(request_of, tmp_path, passed, monkeypatch):
    first = Source(request_of, Bank(bank_folder(tmp_path, request_of)), ("cpu",))
    computed = ask(first, TEXTS)
    monkeypatch.setattr(source_module, "load", None)
    for devices in (("cpu",), ()):
        second = Source(request_of, Bank(bank_folder(tmp_path, request_of)), devices)
        np.testing.assert_array_equal(ask(second, TEXTS[::-1]), computed[::-1])
        assert (*counts(second), second.counters.loads) == (0, 0, 0)
    with pytest.raises(NotHeld, match="tiny-bert are not in the bank"):
        ask(second, ["w1 w1 w1"])


def test_damaged_rows_are_encoded_again(request_of, tmp_path, passed):
    computed = ask(Source(request_of, Bank(tmp_path), ("cpu",)), TEXTS)
    (path,) = tmp_path.glob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    source = Source(request_of, Bank(tmp_path), ("cpu",))
    with pytest.warns(UserWarning, match="is damaged; its 20 texts are encoded again"):
        found = ask(source, TEXTS)
    np.testing.assert_array_equal(found, computed)
    assert counts(source) == (0, len(TEXTS))


def test_what_was_stored_before_the_disk_was_full_is_kept(request_of, tmp_path, monkeypatch, passed):
    monkeypatch.setattr(forward, "PIECE", 1)
    replaced, calls = Path.replace, []

    def filling(self, target):
        calls.append(target)
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return replaced(self, target)

    monkeypatch.setattr(Path, "replace", filling)
    source = Source(request_of, Bank(tmp_path / "bank"), ("cpu",))
    with pytest.raises(BankError, match="nothing finished is lost"):
        ask(source, TEXTS, batch_size=4)
    monkeypatch.setattr(Path, "replace", replaced)
    passed.clear()
    ask(Source(request_of, Bank(tmp_path / "bank"), ("cpu",)), TEXTS, batch_size=4)
    assert len(passed) == len(TEXTS) - 2 * 4


def test_seven_layers_and_four_tasks_cost_one_pass_a_distinct_text(save, tmp_path, passed):
    checkpoint = look(str(save("bert", tmp_path / "six", num_hidden_layers=6)))
    asked = Request(checkpoint, "float32", 16)
    tasks = {f"task{i}": [f"w{j}" for j in range(5 * i, 5 * i + 12)] for i in range(4)}
    made = {}
    for layer in range(7):
        for task, texts in tasks.items():
            source = shared_source(replace(asked), ("cpu",), None)  # as every encoder asks for it
            made[layer, task] = ask(source, texts, layers=(layer,), task=task)
    distinct = {text for texts in tasks.values() for text in texts}
    assert sorted(passed) == sorted(distinct)
    assert counts(source) == (len(distinct), 0)
    assert source.counters.loads == 1
    assert source.counters.asked == 7 * 4 * 12
    np.testing.assert_array_equal(made[3, "task0"][5:], made[3, "task1"][:7])
    assert np.abs(made[3, "task0"] - made[4, "task0"]).max() > 1e-3


def with_prompts(request):
    """The request of a sentence-transformers model, whose prompts are a dictionary."""
    from mteb_ext.checkpoint import Sentence

    return replace(request, checkpoint=replace(request.checkpoint, sentence=Sentence(prompts={"query": "q: "})))


def test_requests_that_are_equal_share_a_source_whatever_the_model_is(request_of):
    first, second = with_prompts(request_of), with_prompts(request_of)
    assert shared_source(first, ("cpu",), None) is shared_source(second, ("cpu",), None)
    assert shared_source(first, ("cpu",), None) is not shared_source(replace(first, max_length=8), ("cpu",), None)


def variants(request):
    held = request.checkpoint
    yield replace(request, dtype="bfloat16")
    yield replace(request, max_length=15)
    for changed in (
        {"name": "other"},
        {"revision": "r2"},
        {"digest": "0" * 12},
        {"name": "a/b"},
        {"name": "a_b"},
        {"trust_remote_code": True},
    ):
        yield replace(request, checkpoint=replace(held, **changed))


def test_every_request_has_a_folder_of_its_own_that_says_whose_it_is(request_of, tmp_path):
    requests = [request_of, *variants(request_of)]
    folders = [bank_folder(tmp_path, one) for one in requests]
    assert len(set(folders)) == len(requests)
    for one, folder in zip(requests, folders):
        assert json.loads((folder / "key.json").read_text()) == one.key()
        assert [path.name for path in folder.iterdir()] == ["key.json"]
        assert bank_folder(tmp_path, one) == folder
        assert folder.parent == tmp_path
    elsewhere = replace(request_of, checkpoint=replace(request_of.checkpoint, source="/another/copy"))
    assert bank_folder(tmp_path, elsewhere) == folders[0]
    long = replace(request_of, checkpoint=replace(request_of.checkpoint, name="x" * 255))
    assert len(bank_folder(tmp_path, long).name) < 100


@pytest.mark.parametrize("package", ["torch", "transformers"])
def test_rows_of_other_versions_are_not_served(request_of, tmp_path, monkeypatch, package):
    before = bank_folder(tmp_path, request_of)
    assert request_of.key()[package] == str(getattr(source_module, package).__version__)
    monkeypatch.setattr(getattr(source_module, package), "__version__", "0.1")
    assert bank_folder(tmp_path, request_of) != before


OWN = """
from transformers import BertModel

class OwnBert(BertModel):
    def __init__(self, config, **options):
        config.hidden_act = "relu"
        super().__init__(config, **options)
"""


def test_rows_of_native_code_are_not_served_for_the_models_own(save, tmp_path, passed):
    folder = save("bert", tmp_path / "own-bert")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "own_bert.OwnBert"}}))
    (folder / "own_bert.py").write_text(OWN)
    found = []
    for trusted in (False, True):
        asked = Request(look(str(folder), trust_remote_code=trusted), "float32", 16)
        source = Source(asked, Bank(bank_folder(tmp_path / "bank", asked)), ("cpu",))
        found.append(ask(source, TEXTS))
        assert counts(source) == (len(TEXTS), 0)
        assert type(source.runner().replicas[0].model).__name__ == ("OwnBert" if trusted else "BertModel")
    np.testing.assert_array_equal(found[0][:, :16], found[1][:, :16])
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_the_folder_of_banks_keeps_to_the_limit_as_a_whole(request_of, tmp_path, monkeypatch):
    monkeypatch.setattr(forward, "PIECE", 1)
    first = shared_source(request_of, ("cpu",), tmp_path)
    ask(first, TEXTS, batch_size=4)
    limit = int(1.5 * first.bank.bytes)
    monkeypatch.setenv("EVAL_EXT_BANK_DISK", str(limit))
    second = shared_source(replace(request_of, max_length=12), ("cpu",), tmp_path)
    ask(second, TEXTS, batch_size=4)
    held = [sum(p.stat().st_size for p in s.bank.folder.glob("*.safetensors")) for s in (first, second)]
    assert 0 < held[0] < held[1] == second.bank.bytes
    assert sum(held) <= limit


def test_a_root_that_cannot_be_one_is_one_line(request_of, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    with pytest.raises(BankError, match=r"EVAL_EXT_BANK=FOLDER"):
        shared_source(request_of, ("cpu",), tmp_path / "file")

    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(BankError, match=r"cannot be written: Read-only file system; give it another folder"):
        bank_folder(tmp_path, request_of)


def test_limits_and_the_folder_come_from_the_environment(request_of, tmp_path, monkeypatch):
    monkeypatch.setenv("EVAL_EXT_BANK_MEMORY", "123")
    monkeypatch.setenv("EVAL_EXT_BANK_DISK", "0")
    assert default_root() is None
    bank = shared_source(request_of, ("cpu",), None).bank
    assert (bank.memory, bank.disk, bank.folder) == (123, 0, None)
    shared_source.cache_clear()
    monkeypatch.setenv("EVAL_EXT_BANK", str(tmp_path))
    assert shared_source(request_of, (), default_root()).bank.folder.parent == tmp_path
    for value in ("2GB", "-1", "", "1e9", "²"):
        shared_source.cache_clear()
        monkeypatch.setenv("EVAL_EXT_BANK_MEMORY", value)
        with pytest.raises(ValueError, match=rf"EVAL_EXT_BANK_MEMORY={value} is not a number of bytes, such as 2147"):
            shared_source(request_of, ("cpu",), None)


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices_of(None) == devices_of("cpu") == devices_of(["cpu"]) == ("cpu",)
    for device in ("cuda", "cuda:1", 0, ["cuda:0", "cuda:1"]):
        with pytest.raises(ValueError, match=r"this machine has no CUDA GPU; leave the device out, or take cpu"):
            devices_of(device)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices_of(None) == devices_of("cuda") == devices_of("cuda:0,cuda:1") == ("cuda:0", "cuda:1")
    assert devices_of(1) == ("cuda:1",)


def test_pieces_of_the_bank_do_not_change_what_an_aggregate_gives(request_of, monkeypatch):
    source = Source(request_of, Bank(), ("cpu",))
    computed = ask(source, TEXTS)
    monkeypatch.setattr(bank_module, "PIECE", 1)
    np.testing.assert_array_equal(ask(source, TEXTS), computed)
