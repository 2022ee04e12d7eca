"""What a sweep makes of the models it is given."""

import shutil
from pathlib import Path

import pytest

from mteb_ext.meta import model_meta
from mteb_ext.spec import BadName
from mteb_ext.sweep_config import from_mapping
from mteb_ext.sweep_plan import subjects


def test_a_checkpoint_that_is_named_twice_is_planned_once(tiny):
    folder = str(tiny("bert"))
    ((once,), _) = subjects(from_mapping({"models": [folder], "tasks": ["STS12"]}))
    named = [folder, f"{folder}@{once.checkpoint.revision[:6]}", str(Path(folder) / ".." / Path(folder).name)]
    found, refused = subjects(from_mapping({"models": named, "tasks": ["STS12"]}))
    assert [one.name for one in found] == [once.name] and not refused


def test_a_length_beyond_the_positions_is_refused_at_once(tiny, tmp_path):
    folder = shutil.copytree(tiny("bert"), tmp_path / "sentence")
    (folder / "modules.json").write_text('[{"type": "sentence_transformers.models.Transformer", "path": ""}]')
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 8}')
    assert model_meta(f"layer-wrapper/{folder}:max_length=32,pooling=mean").max_tokens == 32
    with pytest.raises(BadName, match=r"max_length=33 is beyond the 32 tokens that sentence takes"):
        model_meta(f"layer-wrapper/{folder}:max_length=33,pooling=mean")
