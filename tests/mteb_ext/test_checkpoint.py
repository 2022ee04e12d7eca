"""What a checkpoint says of itself, read from folders built by hand."""

import json
import os
import re
import shutil

import pytest

from mteb_ext.checkpoint import _filed, look

CODE = "from transformers import PretrainedConfig\nclass Own(PretrainedConfig):\n    model_type = 'own'\n"


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def copied(tiny, tmp_path):
    """A function (kind) -> a copy of a tiny model's folder that may be changed."""
    return lambda kind="bert": shutil.copytree(tiny(kind), tmp_path / f"my-{kind}")


def change(path, **changes):
    known = (json.loads(path.read_text()) if path.exists() else {}) | changes
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({k: v for k, v in known.items() if v is not None}))


def sentence(folder, pooling=None, *, modules=("Transformer", "Pooling"), prefix="sentence_transformers.models."):
    """Make a sentence-transformers folder of one; `pooling` is what its Pooling module says."""
    paths = {"Transformer": "", **{kind: f"{i}_{kind}" for i, kind in enumerate(modules) if i}}
    listed = [{"idx": i, "name": str(i), "path": paths[m], "type": f"{prefix}{m}"} for i, m in enumerate(modules)]
    (folder / "modules.json").write_text(json.dumps(listed))
    for kind in modules[1:]:
        change(folder / paths[kind] / "config.json", **(pooling or {} if kind == "Pooling" else {}))
    return folder


def refused(model, reason, **options):
    with pytest.raises(ValueError, match=reason) as refusal:
        look(str(model), **options)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("kind", "limit", "known"),
    [("bert", 32, 32), ("roberta", 32, 32), ("llama", 32, 32), ("gpt2", 32, 32), ("t5", 2048, None)],
)
def test_what_a_folder_says(kind, limit, known, copied):
    folder = copied(kind)
    held = look(str(folder))
    assert (held.blocks, held.width, held.vocabulary, held.dtype) == (3, 16, 64, "float32")
    assert (held.limit, held.positions) == (limit, known)
    assert (held.name, held.source, held.asked, held.subfolder) == (folder.name, str(folder), None, "")
    assert held.sentence is None and re.fullmatch("[0-9a-f]{16}", held.revision)
    assert look(f"{folder}/") == look(os.path.relpath(folder)) == held


@pytest.mark.parametrize(("kind", "padding", "limit"), [("roberta", 1, 32), ("roberta", 0, 33), ("bert", 1, 34)])
def test_positions_behind_the_pad_token(kind, padding, limit, copied):
    folder = copied(kind)
    change(folder / "config.json", max_position_embeddings=34, pad_token_id=padding)
    assert look(str(folder)).limit == limit


def test_the_tokenizers_limit_counts(copied):
    folder = copied()
    change(folder / "tokenizer_config.json", model_max_length=20)
    assert look(str(folder)).limit == 20
    change(folder / "tokenizer_config.json", model_max_length=int(1e30))
    assert look(str(folder)).limit == 32


def test_half_precision_is_read(save, tmp_path):
    import torch

    assert look(str(save("bert", tmp_path / "m", dtype=torch.bfloat16))).dtype == "bfloat16"


def test_models_that_cannot_be_found(tmp_path, tiny):
    refused("./nothing", r"^model folder \./nothing does not exist$")
    refused(tmp_path / "nothing", "does not exist")
    refused("~/no such model", "does not exist")
    refused("org/model", "^model org/model cannot be read: ")
    refused("org/model", "^model org/model@step7 cannot be read: ", revision="step7")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "cannot be read")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_hidden_layers": 0}, "names no num_hidden_layers"),
        ({"model_type": None, "architectures": None}, "cannot be read: .*model_type"),
        ({"model_type": "weird"}, "cannot be read: .*weird"),
        ({"hidden_size": "wide"}, "cannot be read: .*hidden_size"),
    ],
)
def test_configurations_that_cannot_be_used(changes, reason, copied):
    folder = copied()
    change(folder / "config.json", **changes)
    refused(folder, reason)


def test_a_configuration_without_depth(copied):
    folder = copied()
    (folder / "config.json").write_text('{"model_type": "resnet"}')
    refused(folder, r"\(ResNetConfig\) names no num_hidden_layers")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "modules.json"])
def test_damaged_files_are_named(name, copied):
    folder = copied()
    (folder / name).write_text("{")
    refused(folder, "JSON|json|Expecting")


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama", "t5"])
def test_a_missing_tokenizer_is_not_made_up(kind, copied):
    folder = copied(kind)
    for path in folder.glob("tokenizer*"):
        path.unlink()
    refused(folder, "tokenizer|cannot be read")


def test_code_of_its_own_is_refused_with_the_remedy(copied):
    folder = copied()
    change(folder / "config.json", model_type="own", auto_map={"AutoConfig": "own.Own"})
    (folder / "own.py").write_text(CODE)
    refused(folder, r"needs code of its own; read that code, then add trust_remote_code=true$")
    held = look(str(folder), trust_remote_code=True)
    assert held.trust_remote_code and held.blocks == 3
    (folder / "own.py").write_text(CODE + "    x = 1\n")
    assert look(str(folder), trust_remote_code=True).revision != held.revision
    (folder / "own.py").write_text("raise ValueError('trust_remote_code is set and it still fails')")
    refused(folder, "it still fails", trust_remote_code=True)


def test_the_revision_of_a_folder_is_its_content(copied, tmp_path):
    folder = copied()
    held = look(str(folder))
    (folder / "README.md").write_text("changed")
    moved = shutil.move(folder, tmp_path / "moved")
    again = look(str(moved), held.revision[:6])
    assert (again.revision, again.digest, again.name, again.asked) == (held.revision, held.digest, "moved", None)
    refused(moved, "leave the revision out to take the folder as it is", revision="main")
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        with (moved / name).open("ab") as file:
            file.write(b" ")
        assert look(str(moved)).revision not in (held.revision, again.revision)
        again = look(str(moved))


def test_the_digest_follows_configuration_and_settings_only(copied):
    folder = copied()
    digests = [look(str(folder)).digest]
    (folder / "model.safetensors").write_bytes(b"")
    assert look(str(folder)).digest == digests[0]
    change(folder / "config.json", transformers_version="4.0.0")
    assert look(str(folder)).digest == digests[0]
    change(folder / "config.json", layer_norm_eps=1e-5)
    digests.append(look(str(folder)).digest)
    sentence(folder, {"pooling_mode": "cls"})
    digests.append(look(str(folder)).digest)
    change(folder / "config_sentence_transformers.json", prompts={"query": "q: "})
    digests.append(look(str(folder)).digest)
    assert len(set(digests)) == 4


FLAGS = {"mean_tokens": "mean", "cls_token": "cls", "max_tokens": "max", "lasttoken": "last"}
FLAGS |= {"weightedmean_tokens": "weighted", "mean_sqrt_len_tokens": None}
NAMES = {"mean": "mean", "cls": "cls", "max": "max", "lasttoken": "last", "weightedmean": "weighted"}


@pytest.mark.parametrize(
    ("described", "pooling"),
    [({f"pooling_mode_{g}": g == f for g in FLAGS}, name) for f, name in FLAGS.items()]
    + [({"pooling_mode": theirs}, ours) for theirs, ours in NAMES.items()]
    + [({"pooling_mode": [theirs]}, ours) for theirs, ours in NAMES.items()]
    + [({"pooling_mode": "mean_sqrt_len_tokens"}, None), ({}, "mean"), ({"pooling_mode_mean_tokens": False}, "mean")]
    + [({"pooling_mode": "cls", "pooling_mode_mean_tokens": True}, "cls")],
)
def test_pooling_in_all_spellings(described, pooling, copied):
    said = look(str(sentence(copied(), {"word_embedding_dimension": 16, **described}))).sentence
    assert said.pooling == pooling and bool(said.why_not) == (pooling is None) and said.include_prompt


def test_a_pooling_module_without_its_file_is_refused(copied):
    folder = sentence(copied(), {"pooling_mode": "cls"})
    (folder / "1_Pooling/config.json").unlink()
    refused(folder, "names the Pooling module 1_Pooling, and there is no 1_Pooling/config.json .*; complete the copy$")


@pytest.mark.parametrize(
    "described",
    [
        {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
        {"pooling_mode": ["mean", "cls"]},
        {"pooling_mode": "mean+cls"},
    ],
)
def test_two_modes_at_once_are_none(described, copied):
    said = look(str(sentence(copied(), described))).sentence
    assert said.pooling is None and re.fullmatch(r"its Pooling module asks for mean\S* and cls\S*", said.why_not)


def test_other_modules_are_noted(copied):
    modules = ("Transformer", "Pooling", "Dense", "Normalize", "LayerNorm")
    said = look(str(sentence(copied(), modules=modules, prefix="sentence_transformers.base.modules.x."))).sentence
    assert said.extra == ("Dense", "LayerNorm") and said.pooling == "mean"
    (folder := copied("gpt2"), sentence(folder, modules=("Transformer",)))
    assert look(str(folder)).sentence.why_not == "its modules.json names no Pooling module"


@pytest.mark.parametrize("name", ["sentence_bert_config.json", "sentence_roberta_config.json"])
def test_settings_prompts_and_similarity(name, copied):
    folder = sentence(copied(), {"pooling_mode": "cls", "include_prompt": False})
    change(folder / name, max_seq_length=12, do_lower_case=True)
    prompts = {"query": "q: ", "document": "", "none": None}
    (folder / "config_sentence_transformers.json").write_text(
        json.dumps({"prompts": prompts, "default_prompt_name": "query", "similarity_fn_name": "dot"})
    )
    held = look(str(folder))
    said = held.sentence
    assert (held.limit, said.max_length, said.lower_case, said.include_prompt) == (12, 12, True, False)
    assert (said.prompts, said.default_prompt, said.similarity) == ({"query": "q: ", "document": ""}, "query", "dot")
    change(folder / "tokenizer_config.json", model_max_length=8)  # sentence-transformers puts its own over it
    assert look(str(folder)).limit == 12
    change(folder / name, max_seq_length=100)  # but there are no more positions than there are
    assert look(str(folder)).limit == 32


def test_a_transformer_in_a_subfolder(tiny, tmp_path):
    from mteb_ext.forward import load

    folder = tmp_path / "st"
    shutil.copytree(tiny("bert"), folder / "0_Transformer")
    sentence(folder, {"pooling_mode": "cls"})
    listed = json.loads((folder / "modules.json").read_text())
    listed[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(listed))
    change(folder / "0_Transformer/sentence_bert_config.json", max_seq_length=9)
    held = look(str(folder))
    assert (held.subfolder, held.blocks, held.limit, held.sentence.pooling) == ("0_Transformer", 3, 9, "cls")
    assert load(held, "float32", 9, ("cpu",)).limit == 9
    with (folder / "0_Transformer/model.safetensors").open("ab") as file:
        file.write(b" ")
    assert look(str(folder)).revision != held.revision


@pytest.mark.parametrize("listed", [{}, [], [{"idx": 0}], [3], [{"type": None, "path": None}]])
def test_modules_that_name_nothing(listed, copied):
    folder = copied()
    (folder / "modules.json").write_text(json.dumps(listed))
    said = look(str(folder)).sentence
    assert said is None or said.pooling is None


REVISIONS = [
    "main",
    "step1000",
    "v1.0",
    "a/b",
    "a_b",
    "a:b",
    "refs/pr/1",
    "..",
    ".",
    "con",
    "CON",
    "con.txt",
    "Com1",
    "x.",
]
REVISIONS += ["x", "x ", "é", "½", 'a<b>|?*"\\', "com10", "nul.", "r" * 300, "r" * 301, "r" * 80]


def test_revisions_as_folder_names_of_any_system():
    names = [_filed(revision) for revision in REVISIONS]
    assert len({name.lower() for name in names}) == len(REVISIONS)
    for name in names:
        assert re.fullmatch(r"[A-Za-z0-9._-]{1,100}", name) and name[-1] != "." and name not in (".", "..")
        assert not re.match(r"(?i)(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)", name)
    for plain in ("main", "step1000", "v1.0", "0123456789abcdef0123456789abcdef01234567", "a_b", "r" * 80):
        assert _filed(plain) == plain
