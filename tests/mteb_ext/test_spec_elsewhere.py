"""Bare `layer-wrapper`: from the environment, from TOML, and with keys of its own on top."""

import pytest

from mteb_ext.spec import BadName, Spec, parse


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LAYER_WRAPPER", raising=False)
    (tmp_path / "w.json").write_text("{}")
    return tmp_path


def from_environment(value, name="layer-wrapper"):
    return parse(name, {"LAYER_WRAPPER": value})


def from_toml(folder, text, name="layer-wrapper"):
    (folder / "layer-wrapper.toml").write_text(text, encoding="utf-8")
    return parse(name, {})


@pytest.mark.parametrize("prefix", ["", "layer-wrapper/"])
def test_the_environment(prefix):
    assert from_environment(f"{prefix}org/m@v1:layer=3") == Spec("org/m", "v1", layer="3")


def test_the_process_environment_is_the_default(monkeypatch):
    monkeypatch.setenv("LAYER_WRAPPER", "org/m:layer=3")
    assert parse("layer-wrapper") == Spec("org/m", layer="3")
    assert parse("layer-wrapper/other") == Spec("other", layer="-1")


def test_the_environment_comes_before_the_file(working_folder):
    (working_folder / "layer-wrapper.toml").write_text("model = 'b'\nlayer = 3\n")
    assert from_environment("a") == Spec("a", layer="-1")
    assert from_environment("  ") == Spec("b", layer="3")


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("m:layer=1.5", "model name 'layer-wrapper': LAYER_WRAPPER='m:layer=1.5': 'layer=1.5'"),
        ("m:lyer=1", "LAYER_WRAPPER='m:lyer=1': part 'lyer=1': key 'lyer' is not known; did you mean 'layer'?"),
        ("layer-wrapper", "LAYER_WRAPPER='layer-wrapper': the model is missing"),
        ("layer-wrapper:layer=3", "LAYER_WRAPPER='layer-wrapper:layer=3': the model is missing"),
        ("layer-wrapper/", "the model is missing"),
    ],
)
def test_a_bad_environment_is_named(value, says):
    with pytest.raises(BadName) as caught:
        from_environment(value)
    assert says in str(caught.value).replace("part LAYER_WRAPPER", "LAYER_WRAPPER")


def test_the_file_has_every_key(working_folder):
    text = """
        model = "org/m"
        revision = "refs/pr/1"
        layers = [3, -1, 0.5]
        aggregate = "weighted"
        weights = "w.json"
        pooling = "cls"
        norm = "raw"
        max_length = 128
        dtype = "fp16"
        prompt = "a:layer=3, 'b'\\n"
        normalize = true
        trust_remote_code = false
    """
    wanted = Spec(
        "org/m",
        "refs/pr/1",
        None,
        "3+-1+0.5",
        "weighted",
        "w.json",
        "cls",
        "raw",
        128,
        "float16",
        "a:layer=3, 'b'\n",
        True,
    )
    assert from_toml(working_folder, text) == wanted


@pytest.mark.parametrize(
    ("line", "spec"),
    [
        ("", Spec("m", layer="-1")),
        ("layer = -1", Spec("m", layer="-1")),
        ("layer = 0.7", Spec("m", layer="0.7")),
        ('layer = "0.7"', Spec("m", layer="0.7")),
        ('layers = "last:4"', Spec("m", layers="last:4", aggregate="mean")),
        ("layers = 4", Spec("m", layers="4", aggregate="mean")),
        ('layers = ["3", 4]', Spec("m", layers="3+4", aggregate="mean")),
        ('aggregate = "concat"', Spec("m", layers="all", aggregate="concat")),
        ('prompt = "@w.json"', Spec("m", layer="-1", prompt="{}")),
    ],
)
def test_values_in_the_file(working_folder, line, spec):
    assert from_toml(working_folder, f'model = "layer-wrapper/m"\n{line}\n') == spec
    assert from_toml(working_folder, f'\ufeffmodel = "m"\n{line}\n') == spec


def test_the_file_of_another_folder(working_folder):
    (working_folder / "sub").mkdir()
    (working_folder / "sub" / "layer-wrapper.toml").write_text("model = 'there'")
    assert parse("layer-wrapper", {}, working_folder / "sub").model == "there"
    with pytest.raises(BadName, match="there is no file"):
        parse("layer-wrapper", {})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model = 'm'\nlayer = true", ["'layer = true'", "'layer' is to be a number or a string, not bool"]),
        ("model = 'm'\nlayer = [3]", ["'layer' is to be a number or a string, not"]),
        ("model = 'm'\nlayers = [3, true]", ["a string or a list of numbers, not bool"]),
        ("model = 'm'\nlayers = [[3]]", ["a string or a list of numbers, not list"]),
        ("model = 'm'\nlayers = []", ["'layers = []'", "the value is missing"]),
        ("model = 'm'\nmax_length = 'x'", ["'max_length' is to be a whole number, not str"]),
        ("model = 'm'\nmax_length = true", ["'max_length' is to be a whole number, not bool"]),
        ("model = 'm'\nmax_length = -5", ["'max_length = -5'", "not a whole number from 1"]),
        ("model = 'm'\nnormalize = 1", ["'normalize' is to be true or false, not int"]),
        ("model = 'm'\nprompt = 3", ["'prompt' is to be a string, not int"]),
        ("model = 'm'\nprompt = ''", ["the value is missing"]),
        ("model = 'm'\ndtype = 2020-01-01", ["'dtype' is to be a string, not date"]),
        ("model = 3", ["'model' is to be a string, not int"]),
        ("model = ''", ["the value is missing; model is the model"]),
        ("model = 'm'\nlayer = 1.5", ["'layer = 1.5'", "neither an index nor a depth"]),
        ("model = 'm'\nlayer = inf", ["is not a number"]),
        ("model = 'm'\nlyer = 3", ["key 'lyer' is not known; did you mean 'layer'? keys are model, layer,"]),
        ("model = 'm'\n[layer]\nx = 1", ["'layer' is to be a number or a string, not dict"]),
        ("layer = 3", ["the key 'model' is missing"]),
        ("", ["the key 'model' is missing"]),
        ("model = 'm@v'", ["key 'model' also holds '@v'", "write revision as"]),
        ("model = 'm@v:layer=3'", ["key 'model' also holds", "write layer, revision as"]),
        ("model = 'm'\nlayer = 3\nlayers = 4", ["'layer = 3'", "'layers = 4'", "exclude each other"]),
        ("model = 'm'\naggregate = 'weighted'", ["needs weights=FILE"]),
        ("model = 'm'\nprompt = '@no.txt'", ["cannot be read: No such file"]),
        ("model = ", ["is not TOML"]),
        ("model = 'm'\nmodel = 'm'", ["is not TOML"]),
    ],
)
def test_a_bad_file_is_named_with_its_key(working_folder, text, says):
    with pytest.raises(BadName) as caught:
        from_toml(working_folder, text)
    found = str(caught.value)
    assert found.startswith("model name 'layer-wrapper': ")
    assert "layer-wrapper.toml" in found
    assert len(found.splitlines()) == 1
    for piece in says:
        assert piece in found


def test_a_file_that_is_not_utf8(working_folder):
    (working_folder / "layer-wrapper.toml").write_bytes(b"model = '\xe4'")
    with pytest.raises(BadName, match=r"layer-wrapper\.toml': is not TOML"):
        parse("layer-wrapper", {})


def test_with_neither_the_grammar_is_shown_by_example(working_folder):
    with pytest.raises(BadName) as caught:
        parse("layer-wrapper", {})
    text = str(caught.value)
    assert text.startswith("model name 'layer-wrapper': it names no model")
    assert len(text.splitlines()) == 1
    for piece in [
        "LAYER_WRAPPER is not set",
        str(working_folder / "layer-wrapper.toml"),
        "layer-wrapper/<model>[@revision][:key=value,...]",
        "layer-wrapper/EleutherAI/pythia-410m@main:layer=17,pooling=mean",
    ]:
        assert piece in text


@pytest.mark.parametrize(
    ("base", "own", "spec"),
    [
        ("m@v:layer=3,pooling=cls", "layer=5", Spec("m", "v", layer="5", pooling="cls")),
        ("m@v:layer=3", "revision=refs/pr/1", Spec("m", "refs/pr/1", layer="3")),
        ("m:layers=3+4,aggregate=concat", "layer=5", Spec("m", layer="5")),
        ("m:aggregate=weighted,weights=w.json", "layer=5", Spec("m", layer="5")),
        ("m:layer=3", "layers=all", Spec("m", layers="all", aggregate="mean")),
        ("m:layer=3", "aggregate=concat", Spec("m", layers="all", aggregate="concat")),
        ("m:aggregate=weighted,weights=w.json", "aggregate=mean", Spec("m", layers="all", aggregate="mean")),
        ("m:layers=3+4,aggregate=concat", "layers=5+6", Spec("m", layers="5+6", aggregate="concat")),
        ("m:layer=3", "prompt='a:layer=9'", Spec("m", layer="3", prompt="a:layer=9")),
    ],
)
def test_keys_of_the_name_win(working_folder, base, own, spec):
    assert from_environment(base, f"layer-wrapper:{own}") == spec


def test_keys_of_the_name_win_over_the_file(working_folder):
    text = "model = 'm'\nlayers = [3, 4]\nnormalize = true\n"
    assert from_toml(working_folder, text, "layer-wrapper:layer=5,normalize=no") == Spec(
        "m", layer="5", normalize=False
    )


@pytest.mark.parametrize(
    ("own", "says"),
    [
        ("lyer=3", "did you mean 'layer'"),
        ("layer=3,layers=4", "exclude each other"),
        ("weights=w.json", "for aggregate=weighted only"),
        ("", "an entry is empty"),
    ],
)
def test_bad_keys_of_a_bare_name(own, says):
    with pytest.raises(BadName, match=says) as caught:
        from_environment("m:layer=3", f"layer-wrapper:{own}")
    assert str(caught.value).startswith(f"model name 'layer-wrapper:{own}': ")
