"""Models of the hub, from a cache built by hand: absent files against unknown ones, one commit for all."""

import contextlib
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RemoteEntryNotFoundError

from mteb_ext import repository
from mteb_ext.checkpoint import look
from mteb_ext.forward import embed, load
from mteb_ext.sentence import SETTINGS
from mteb_ext.shards import View

OLD, NEW = "a" * 40, "b" * 40
PATHS = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
MODULES = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in PATHS.items()]


@pytest.fixture
def hub(tiny, tmp_path, monkeypatch):
    """The cache of one model at a commit, offline; what was never asked for is neither there nor known to be absent."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = tmp_path / "models--org--name"
    shutil.copytree(tiny("bert"), folder / "snapshots" / OLD)
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text(OLD)
    return folder


def held(hub, name, content, commit=OLD):
    path = hub / "snapshots" / commit / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


def absent(hub, *names, commit=OLD):
    for name in names:
        path = hub / ".no_exist" / commit / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def unknown(name, revision=None):
    with pytest.raises(ValueError, match="the hub cannot be reached, and its cache does not say") as refusal:
        look("org/name", revision)
    assert f" whether there is a {name}, which decides the embedding; connect once" in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("revision", [None, "main", OLD])
def test_a_model_known_to_have_no_modules_is_plain_and_of_one_unknown_that_is_said(hub, revision):
    with pytest.warns(
        UserWarning, match="does not say whether this is a sentence-transformers model; it is taken for none"
    ):
        assert look("org/name", revision).sentence is None
    absent(hub, "modules.json")
    found = look("org/name", revision)
    assert (found.sentence, found.asked, found.revision) == (None, OLD, revision or OLD)


def test_a_whole_download_says_what_is_absent(hub):
    (hub / "snapshots" / OLD / ".gitattributes").write_text("")
    assert look("org/name").sentence is None
    held(hub, "modules.json", MODULES)
    with pytest.raises(ValueError, match=r"names the Pooling module 1_Pooling, and there is no 1_Pooling/config\.json"):
        look("org/name")


def test_no_setting_of_a_sentence_transformer_is_guessed(hub):
    held(hub, "modules.json", MODULES)
    for name in SETTINGS:
        unknown(name)
        absent(hub, name)
    unknown("config_sentence_transformers.json")
    held(hub, "config_sentence_transformers.json", {"prompts": {"query": "q: "}})
    unknown("1_Pooling/config.json")
    absent(hub, "1_Pooling/config.json")
    with pytest.raises(ValueError, match=r"^model org/name: its modules\.json names the Pooling module 1_Pooling"):
        look("org/name")
    (hub / ".no_exist" / OLD / "1_Pooling/config.json").unlink()
    held(hub, "1_Pooling/config.json", {"pooling_mode_cls_token": True})
    said = look("org/name").sentence
    assert (said.pooling, said.normalize, said.prompts) == ("cls", True, {"query": "q: "})


def answer(status):
    return SimpleNamespace(status_code=status, headers={}, request=None)


@pytest.mark.parametrize(
    ("problem", "found"),
    [
        (RemoteEntryNotFoundError("none", response=answer(404)), True),
        (LocalEntryNotFoundError("no connection"), False),
        (HfHubHTTPError("forbidden", response=answer(403)), False),
        (ConnectionError("reset"), False),
    ],
)
def test_what_the_hub_says_decides(hub, monkeypatch, problem, found):
    def asked(source, name, *, revision):
        assert (source, revision) == ("org/name", OLD)
        raise problem

    monkeypatch.setattr(repository, "hf_hub_download", asked)
    with contextlib.nullcontext() if found else pytest.warns(UserWarning, match="taken for none"):
        assert look("org/name").sentence is None


def test_a_revision_that_is_not_in_the_cache_is_named(hub):
    with pytest.raises(ValueError, match=r"^model org/name@step7 cannot be read: "):
        look("org/name", "step7")


def rows(checkpoint):
    runner = load(checkpoint, "float32", 16, ("cpu",))
    ((_, found),) = embed(runner, ["w1 w2 w3"], [View("mean", "raw")], progress=False)
    return found[View("mean", "raw")]


@pytest.mark.parametrize("revision", [None, "main"])
def test_weights_and_tokenizer_are_of_the_commit_that_was_looked_at(hub, save, tmp_path, revision):
    save("bert", hub / "snapshots" / NEW, num_hidden_layers=3, layer_norm_eps=0.5, dtype=torch.float32)
    for commit in (OLD, NEW):
        absent(hub, "modules.json", commit=commit)
    before = look("org/name", revision)
    want = rows(before)
    (hub / "refs/main").write_text(NEW)  # somebody has pushed to the branch
    np.testing.assert_array_equal(rows(before), want)
    after = look("org/name", revision)
    assert (after.asked, after.digest == before.digest) == (NEW, False)
    assert np.abs(rows(after) - want).max() > 1e-3


def test_a_transformer_in_a_subfolder_is_found(hub, tiny):
    snapshot = hub / "snapshots" / OLD
    shutil.rmtree(snapshot)
    shutil.copytree(tiny("bert"), snapshot / "0_Transformer")
    (snapshot / ".gitattributes").write_text("")
    held(hub, "modules.json", [{**MODULES[0], "path": "0_Transformer"}, MODULES[1]])
    held(hub, "1_Pooling/config.json", {"pooling_mode": "cls"})
    found = look("org/name")
    assert (found.asked, found.subfolder, found.sentence.pooling) == (OLD, "0_Transformer", "cls")
    assert rows(found).shape == (4, 1, 16)
