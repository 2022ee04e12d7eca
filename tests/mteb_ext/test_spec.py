"""What every kind of name means, and that a canonical name is read back."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metrics.layers import select
from mteb_ext.grammar import quoted, unquote
from mteb_ext.spec import EXAMPLE, GRAMMAR, KEYS, Spec, parse, to_name


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LAYER_WRAPPER", raising=False)
    return tmp_path


def read(body):
    return parse(f"layer-wrapper/{body}", {})


@pytest.mark.parametrize(
    ("body", "spec"),
    [
        ("gpt2", Spec("gpt2", layer="-1")),
        ("org/model", Spec("org/model", layer="-1")),
        ("org/model@main", Spec("org/model", "main", layer="-1")),
        ("org/model@step1000:layer=17", Spec("org/model", "step1000", layer="17")),
        ("org/model:layer=-1", Spec("org/model", layer="-1")),
        ("org/model:layer=0.7", Spec("org/model", layer="0.7")),
        ("org/model:layer='17'", Spec("org/model", layer="17")),
        ("org/model:layers=last:4", Spec("org/model", layers="last:4", aggregate="mean")),
        ("org/model:layers=all", Spec("org/model", layers="all", aggregate="mean")),
        ("org/model:layers=5", Spec("org/model", layers="5", aggregate="mean")),
        ("org/model:layers=3+4,aggregate=concat", Spec("org/model", layers="3+4", aggregate="concat")),
        ('org/model:layers="3, 4",aggregate=concat', Spec("org/model", layers="3+4", aggregate="concat")),
        ("org/model:layers=0.25+0.5+-1", Spec("org/model", layers="0.25+0.5+-1", aggregate="mean")),
        ("org/model:aggregate=concat", Spec("org/model", layers="all", aggregate="concat")),
        ("m:pooling=cls,norm=raw", Spec("m", layer="-1", pooling="cls", norm="raw")),
        ("m: layer = 3 , pooling = Max", Spec("m", layer="3", pooling="max")),
        ("m:max_length=256,dtype=bfloat16", Spec("m", layer="-1", max_length=256, dtype="bfloat16")),
        ("m:normalize=true,trust_remote_code=1", Spec("m", layer="-1", normalize=True, trust_remote_code=True)),
        ("m:revision=refs/pr/1", Spec("m", "refs/pr/1", layer="-1")),
        ("m:revision='a:layer=3'", Spec("m", "a:layer=3", layer="-1")),
        ("m:prompt=query", Spec("m", layer="-1", prompt="query")),
        ("m:prompt=it's", Spec("m", layer="-1", prompt="it's")),
        ('m:prompt="query: "', Spec("m", layer="-1", prompt="query: ")),
    ],
)
def test_a_name_means(body, spec):
    assert read(body) == spec


@pytest.mark.parametrize(
    ("body", "model", "revision", "layer"),
    [
        ("a:layer=3/b:layer=4", None, None, None),
        ('"a:layer=3":layer=4', "a:layer=3", None, "4"),
        ('"a@b"@c:layer=4', "a@b", "c", "4"),
        ('"a@b"', "a@b", None, "-1"),
        ('"m"@refs/pr/1:layer=4', "m", "refs/pr/1", "4"),
        (r"C:\models\x:layer=2", r"C:\models\x", None, "2"),
        (r"C:\models\x@abc:layer=2", r"C:\models\x", "abc", "2"),
        (r"C:\mo@dels\x:layer=2", r"C:\mo@dels\x", None, "2"),
        (r"\\?\C:\models\x:layer=2", r"\\?\C:\models\x", None, "2"),
        ("C:/models/x", "C:/models/x", None, "-1"),
        ("/data/@home/model", "/data/@home/model", None, "-1"),
        ("/data/@home/model@v1:layer=5", "/data/@home/model", "v1", "5"),
        ("/data/me@home/model@v1", "/data/me@home/model", "v1", "-1"),
        ("./a@b/model", "./a@b/model", None, "-1"),
        ("org/a@b@c", "org/a@b", "c", "-1"),
        ("/data/it's/model:layer=5,prompt='a:layer=3'", "/data/it's/model", None, "5"),
        ('/data/a"b/model:layer=5', '/data/a"b/model', None, "5"),
    ],
)
def test_where_a_name_is_split(body, model, revision, layer):
    if model is None:
        with pytest.raises(ValueError, match=r"is quoted|quote a value or folder"):
            read(body)
        return
    spec = read(body)
    assert (spec.model, spec.revision, spec.layer) == (model, revision, layer)


def test_the_last_colon_before_a_known_key_starts_the_spec_of_a_folder_that_exists(working_folder):
    (working_folder / "a:layer=3").mkdir()
    assert read("a:layer=3:layer=4") == Spec("a:layer=3", layer="4")


@pytest.mark.parametrize(
    ("written", "prompt"),
    [
        ('"a:layer=3"', "a:layer=3"),
        ("'a, b=c: d'", "a, b=c: d"),
        ('"say ""hi"", x"', 'say "hi", x'),
        (r'"say \"hi\""', 'say "hi"'),
        ("'it''s'", "it's"),
        (r"'it\'s'", "it's"),
        ('"it\'s"', "it's"),
        (r'"C:\new\\x"', r"C:\new\\x"),
        ('"ends in \\\\"', "ends in \\"),
        (r'"\\\""', '\\"'),
        ('"""a"""', '"a"'),
        ('"@file"', "@file"),
        ('" "', " "),
        ('"two\nlines\n"', "two\nlines\n"),
    ],
)
def test_quoted_values(written, prompt):
    assert read(f"m:prompt={written},layer=2") == Spec("m", layer="2", prompt=prompt)
    assert read(f"m:layer=2, prompt = {written} ") == Spec("m", layer="2", prompt=prompt)


@pytest.mark.parametrize("folder", ["org/model@refs/pr/1", "gpt2@abc", "runs at 12:30/model"])
def test_an_existing_folder_of_the_full_name_wins(working_folder, folder):
    (working_folder / folder).mkdir(parents=True)
    assert read(f"{folder}:layer=2") == Spec(folder, layer="2")
    assert read(folder) == Spec(folder, layer="-1")


def test_an_existing_folder_keeps_its_colon_before_a_revision(working_folder):
    (working_folder / "a:b").mkdir()
    assert read("a:b@rev") == Spec("a:b", "rev", layer="-1")


def test_the_home_folder(working_folder, monkeypatch):
    monkeypatch.setenv("HOME", str(working_folder))
    monkeypatch.setenv("USERPROFILE", str(working_folder))
    (working_folder / "w.json").write_text("{}")
    (working_folder / "p.txt").write_text("query")
    spec = read("~/models/x:aggregate=weighted,weights=~/w.json,prompt=@~/p.txt")
    assert spec.model == str(working_folder / "models" / "x")
    assert spec.weights == str(working_folder / "w.json")
    assert spec.prompt == "query"
    assert read("'~/x'").model == "~/x"
    assert read("./x//y/").model == "./x//y/"


def test_a_prompt_file_is_read_exactly(working_folder):
    (working_folder / "a, b.txt").write_bytes("\ufeff frage: \u00e4\r\n\r\n".encode())
    assert read('m:prompt=@"a, b.txt"').prompt == "\ufeff frage: \u00e4\r\n\r\n"
    assert read(f"m:prompt=@'{working_folder}/a, b.txt',layer=2").prompt == "\ufeff frage: \u00e4\r\n\r\n"


def test_weights(working_folder):
    (working_folder / "w=1.json").write_text("{}")
    spec = read('m:layers=last:2,aggregate=weighted,weights="w=1.json"')
    assert spec == Spec("m", layers="last:2", aggregate="weighted", weights="w=1.json")
    assert read('m:aggregate=weighted,weights="w=1.json"').layers == "all"


@pytest.mark.parametrize(
    ("written", "dtype"),
    [
        ("fp32", "float32"),
        ("float", "float32"),
        ("float32", "float32"),
        ("fp16", "float16"),
        ("half", "float16"),
        ("bf16", "bfloat16"),
        ("BF16", "bfloat16"),
        ("auto", "auto"),
    ],
)
def test_dtype_synonyms(written, dtype):
    assert read(f"m:dtype={written}").dtype == dtype


@pytest.mark.parametrize(
    ("written", "value"),
    [("true", True), ("yes", True), ("1", True), ("True", True), ("false", False), ("no", False), ("0", False)],
)
@pytest.mark.parametrize("key", ["normalize", "trust_remote_code"])
def test_truths(key, written, value):
    assert getattr(read(f"m:{key}={written}"), key) is value


@pytest.mark.parametrize("layer", ["17", "-1", "0.7", "0.0", "1.0", "-1.0", "0", "1"])
def test_a_layer_that_is_allowed_can_be_selected(layer):
    assert select(read(f"m:layer={layer}").layer, 20) == select(layer, 20)


def test_the_grammar_by_example_is_true(working_folder):
    (working_folder / "w.json").write_text("{}")
    (working_folder / "query.txt").write_text("query")
    lines = GRAMMAR.splitlines()[2:]
    names = [re.split(" {2,}", line)[0] for line in lines]
    assert len(names) == len(lines) == 11
    environ = {"LAYER_WRAPPER": "org/model"}
    specs = [parse(name, environ) for name in names]
    assert specs[1] == Spec("EleutherAI/pythia-410m", "step1000", layer="17")
    assert specs[8] == Spec("/data/a:b=c@d/model", layer="3")
    assert "\n" not in EXAMPLE
    assert parse(EXAMPLE.split()[-1]) == Spec("EleutherAI/pythia-410m", "main", layer="17", pooling="mean")


def test_keys_are_the_fields_of_a_spec_with_one_line_each():
    assert set(KEYS) == set(Spec.__dataclass_fields__) - {"model"}
    assert all(meaning and "\n" not in meaning for meaning in KEYS.values())


def test_names_are_read_without_hosts_or_models():
    code = (
        "import sys, mteb_ext.spec; print([m for m in ('torch', 'mteb', 'transformers', 'numpy') if m in sys.modules])"
    )
    root = Path(__file__).parents[2]
    found = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


NASTY = st.text(st.sampled_from("""ab0/\\@:,='"~ .-_\n\t\u2028é漢""") | st.characters(codec="utf-8"), min_size=1)
PIECES = st.sampled_from([":layer=3", ",pooling=", '"', "'", "\\", "@", "layer-wrapper/", ":", "C:\\", "x", "~", " "])
TEXT = NASTY | st.lists(PIECES, min_size=1).map("".join)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TEXT)
def test_unquote_undoes_quoted(text):
    assert unquote(f"x={quoted(text)},y", 2) == (text, len(quoted(text)) + 2)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    model=TEXT,
    revision=st.none() | TEXT,
    layer=st.sampled_from(["17", "-1", "0.7", "1.0"]),
    layers=st.none() | st.sampled_from(["all", "last:4", "3+4", "0.25+0.5", "7"]),
    aggregate=st.sampled_from(["mean", "concat", "weighted"]),
    pooling=st.sampled_from(["auto", "mean", "cls", "last", "max", "weighted"]),
    norm=st.sampled_from(["auto", "raw", "final"]),
    max_length=st.none() | st.integers(1, 10**9 - 1),
    dtype=st.sampled_from(["auto", "float32", "float16", "bfloat16"]),
    prompt=st.none() | TEXT | st.just("auto"),
    flags=st.tuples(st.booleans(), st.booleans()),
)
def test_a_canonical_name_is_read_back(
    model, revision, layer, layers, aggregate, pooling, norm, max_length, dtype, prompt, flags
):
    spec = Spec(
        model,
        revision,
        layer=None if layers else layer,
        layers=layers,
        aggregate=aggregate if layers else None,
        weights=__file__ if layers and aggregate == "weighted" else None,
        pooling=pooling,
        norm=norm,
        max_length=max_length,
        dtype=dtype,
        prompt=prompt,
        normalize=flags[0],
        trust_remote_code=flags[1],
    )
    name = to_name(spec)
    assert parse(name, {}) == spec
    assert to_name(parse(name, {})) == name


def test_weights_of_a_nasty_name_are_read_back(working_folder):
    for name in ["~a", "@b", 'c"d,e=f', "g'h", " i ", "auto"]:
        (working_folder / name).write_text("{}")
        spec = Spec("m", layers="all", aggregate="weighted", weights=name)
        assert parse(to_name(spec), {}) == spec


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        (Spec("org/m", layer="-1"), "layer-wrapper/org/m:layer=-1"),
        (Spec("org/m", "main", layer="3", prompt="q: "), 'layer-wrapper/org/m@main:layer=3,prompt="q: "'),
        (Spec("m", "refs/pr/1", layer="3"), 'layer-wrapper/m:layer=3,revision="refs/pr/1"'),
        (Spec("a:b", layer="3", normalize=True), 'layer-wrapper/"a:b":layer=3,normalize=true'),
        (Spec(r"C:\a b", layers="3+4", aggregate="mean"), r"layer-wrapper/C:\a b:layers=3+4,aggregate=mean"),
    ],
)
def test_canonical_names(spec, name):
    assert to_name(spec) == name
