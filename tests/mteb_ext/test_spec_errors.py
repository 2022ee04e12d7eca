"""What a bad name says: the name, the part, what is allowed; always on one line."""

import pickle

import pytest

from mteb_ext.spec import BadName, parse


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.json").write_text("{}")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "latin.txt").write_bytes(b"\xe4")
    return tmp_path


def message(name, environ=None):
    with pytest.raises(BadName) as caught:
        parse(name, environ or {})
    text = str(caught.value)
    assert text.startswith(f"model name '{name}': ")
    assert len(text.splitlines()) == 1
    return text.removeprefix(f"model name '{name}': ")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        # the shape of a name
        ("", ["the model is missing", "for example layer-wrapper/"]),
        (":layer=3", ["the model is missing"]),
        ("@main", ["the model is missing"]),
        ("@main:layer=3", ["the model is missing"]),
        ("'':layer=3", ["the model is missing"]),
        ("m@", ["part 'm@'", "the revision after '@' is missing"]),
        ("m@:layer=3", ["part 'm@'", "the revision after '@' is missing"]),
        ("'m'@", ["the revision after '@' is missing"]),
        ("m@a:revision=b", ["'@a'", "'revision=b'", "given twice", "keep one"]),
        ("m@a:revision=a", ["given twice"]),
        (
            "org/model@refs/pr/1:layer=3",
            ["'org/model@refs/pr/1' is no folder", "org/model:revision=refs/pr/1", "layer-wrapper.toml"],
        ),
        ("'m'x", ["after the quoted model", "'x'"]),
        ("'m:layer=3", ["part ''m:layer=3'", "the quote is not closed"]),
        ("~nosuchuser-x/m", ["'~nosuchuser-x/m'", "no known user"]),
        # entries
        ("m:lyer=3", ["part 'lyer=3'", "key 'lyer' is not known", "did you mean 'layer'?", "keys are layer, layers,"]),
        ("m:Layer=3", ["did you mean 'layer'?"]),
        ("m@v:lyer=3", ["key 'lyer' is not known"]),
        ("'m'@v:lyer=3", ["key 'lyer' is not known"]),
        ("'m':lyer=3", ["key 'lyer' is not known"]),
        ("m:promt=@q.txt", ["key 'promt' is not known", "did you mean 'prompt'?"]),
        ("m:lyer=3,prompt='x:layer=3'", ["key 'lyer' is not known"]),
        ("m:layer=3,promt='x:layer=3'", ["part 'promt='x:layer=3''", "key 'promt' is not known"]),
        ("m:pooling=mean,zzz=1", ["part 'zzz=1'", "key 'zzz' is not known; keys are layer,"]),
        ("m:layer=3,model=x", ["key 'model' is not known"]),
        ("m:layer", ["part 'layer'", "after ':' comes key=value"]),
        ("m:", ["after ':' comes key=value"]),
        ("m:3", ["part '3'", "after ':' comes key=value"]),
        ("https://huggingface.co/org/m", ["after ':' comes key=value"]),
        ("m:layer=3,pooling", ["part 'pooling'", "'=' is missing", "key=value"]),
        ("m:layers=3,4", ["part '4'", "'=' is missing", "layers=3+4"]),
        ("m:layer=3,", ["an entry is empty"]),
        ("m:layer=3,,pooling=cls", ["an entry is empty"]),
        ("m:layer=", ["part 'layer='", "the value is missing", "an index such as 17"]),
        ("m:prompt=''", ["part 'prompt=''", "the value is missing"]),
        ("m:pooling=,layer=3", ["part 'pooling='", "the value is missing"]),
        ("m:layer=3,layer=4", ["'layer=3'", "'layer=4'", "given twice"]),
        ("m:layer=3=4", ["part 'layer=3=4'", "holds '='", "quote it"]),
        ("m:layer=3;pooling=cls", ["holds '='", "join two entries by ','"]),
        ("m:prompt=a:layer=3", ["part 'prompt=a'", "quote a value or folder"]),
        ('m:layer=2,prompt="a:layer=3', ["""part '"a:layer=3'""", "the quote is not closed"]),
        (r'm:weights="C:\x\"', ["the quote is not closed; a backslash right before the closing quote is doubled"]),
        ("m:prompt='a'b,layer=3", ["part 'prompt='a''", "after the closing quote", "not 'b'"]),
        # values
        ("m:layer=1.5", ["part 'layer=1.5'", "layer 1.5 is neither an index nor a depth in [0, 1]"]),
        ("m:layer=-0.5", ["layer -0.5 is neither an index nor a depth in [0, 1]"]),
        ("m:layer=abc", ["part 'layer=abc'", "layer 'abc' is not a number", "give indices"]),
        ("m:layer=1 7", ["layer '1 7' is not a number"]),
        ("m:layers=3+1 7", ["layer '1 7' is not a number"]),
        ("m:layer=nan", ["is not a number"]),
        ("m:layer=all", ["part 'layer=all'", "one index or depth", "layers=all"]),
        ("m:layer=last:2", ["layers=last:2"]),
        ("m:layer=3+4", ["layers=3+4"]),
        ("m:layers=3+x", ["part 'layers=3+x'", "layer 'x' is not a number"]),
        ("m:layers=0.5+1.5", ["layer 1.5 is neither"]),
        ("m:layers=3++4", ["layer '' is not a number"]),
        ("m:layers=last:0", ["part 'layers=last:0'", "a number from 1 on"]),
        ("m:layers=last:x", ["a number from 1 on"]),
        ("m:layers=3+last:4", ["layer 'last:4' is not a number"]),
        ("m:layer=3,layers=4", ["'layer=3' and 'layers=4' exclude each other"]),
        ("m:layer=3,aggregate=mean", ["'layer=3' and 'aggregate=mean' exclude each other", "layers=3+4"]),
        ("m:aggregate=median", ["'median' is not known; choose mean, concat, weighted"]),
        ("m:aggregate=weighted", ["'aggregate=weighted' needs weights=FILE"]),
        ("m:aggregate=mean,weights=w.json", ["'weights=w.json' is for aggregate=weighted only"]),
        ("m:layers=all,weights=w.json", ["'weights=w.json' is for aggregate=weighted only"]),
        ("m:weights=w.json", ["'weights=w.json' is for aggregate=weighted only"]),
        ("m:aggregate=weighted,weights=no.json", ["part 'weights=no.json'", "there is no file 'no.json'"]),
        ("m:aggregate=weighted,weights=" + "w" * 300, ["there is no file"]),
        ("m:pooling=avg", ["part 'pooling=avg'", "'avg' is not known; choose auto, mean, cls, last, max, weighted"]),
        ("m:norm=rms", ["part 'norm=rms'", "'rms' is not known; choose auto, raw, final"]),
        ("m:dtype=int8", ["part 'dtype=int8'", "'int8' is not known; choose auto, float32, float16, bfloat16"]),
        *(
            (f"m:max_length={bad}", [f"part 'max_length={bad}'", "not a whole number"])
            for bad in ("0", "-1", "2.5", "x")
        ),
        ("m:normalize=maybe", ["part 'normalize=maybe'", "choose false, no, 0, true, yes, 1"]),
        ("m:trust_remote_code=si", ["part 'trust_remote_code=si'", "choose false, no, 0, true, yes, 1"]),
        # prompt files
        ("m:prompt=@no.txt", ["part 'prompt=@no.txt'", "cannot be read: No such file"]),
        ("m:prompt=@", ["part 'prompt=@'", "cannot be read"]),
        ("m:prompt=@empty.txt", ["part 'prompt=@empty.txt'", "is empty"]),
        ("m:prompt=@latin.txt", ["part 'prompt=@latin.txt'", "not UTF-8"]),
    ],
)
def test_a_bad_name_says(body, says):
    text = message(f"layer-wrapper/{body}")
    for piece in says:
        assert piece in text


@pytest.mark.parametrize("name", ["layer-wrapper@main", "layer-wrapperx", "gpt2", "", " layer-wrapper/m", "layer-wrap"])
def test_a_name_of_another_shape(name):
    assert "it is layer-wrapper, layer-wrapper/<model> or layer-wrapper:key=value" in message(name)


@pytest.mark.parametrize("mark", ["\n", "\r", "\u2028", "\x85", "\x00", "\x1b"])
@pytest.mark.parametrize(
    "body",
    [
        "m:layer=3{}4",
        "m:layers=3+{}x",
        "m:po{}oling=x",
        "a{}b:c=d",
        "m:pooling=a{}b",
        "m:prompt=@{}x",
        "m:prompt='a{}",
        "a@b{}/c",
    ],
)
def test_an_error_stays_on_one_line(mark, body):
    with pytest.raises(BadName) as caught:
        parse("layer-wrapper/" + body.format(mark) + ",norm=bad", {})
    assert str(caught.value).isprintable()


def test_text_that_is_not_unicode():
    with pytest.raises(BadName, match="not UTF-8 text"):
        parse("layer-wrapper/m:prompt=\udcff", {})


def test_a_bad_name_is_a_value_error_that_crosses_processes():
    error = BadName("model name 'x': bad")
    assert isinstance(error, ValueError)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
