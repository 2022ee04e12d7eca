"""The options of hf-store as lm-eval hands them over: numbers where the user wrote text, lists split at commas."""

import json
from pathlib import Path

import pytest
from lm_eval.utils import simple_parse_args_string

from lm_eval_ext import arguments
from lm_eval_ext.model import HFStoreLM
from metrics.layers import select
from metrics.plan import make_plan

DEFAULTS = {
    "pretrained": "org/model",
    "store": None,
    "store_mode": "new",
    "metrics": "standard",
    "signals": None,
    "raw": None,
    "layers": "all",
    "raw_dtype": None,
    "store_text": True,
    "max_store_gb": None,
}


def read(text="", **given):
    return arguments.read(**{**DEFAULTS, **simple_parse_args_string(text), **given})


def test_defaults():
    options = read()
    assert options.store.parts[:2] == ("hf-store", "org__model")
    assert options.store_mode == "new"
    assert options.plan == make_plan("standard")
    assert not options.plan.extra_pass
    assert options.store_text
    assert options.max_store_gb is options.raw_dtype is None


@pytest.mark.parametrize(
    ("text", "path"),
    [("store=2026", "2026"), ("store=a/b c", "a/b c"), ("store=True", "True"), ("store=x=y", "x=y")],
)
def test_a_store_that_looks_like_a_number_is_a_name(text, path):
    assert read(text).store == Path(path)


@pytest.mark.parametrize(
    ("given", "layers"),
    [
        ("layers=1", (1,)),
        ("layers=-1", (12,)),
        ("layers=0.5", (6,)),
        ("layers=0+4+-1", (0, 4, 12)),
        ("layers=last:2", (11, 12)),
        ("layers=all", tuple(range(13))),
        ({"layers": [0, 4, -1]}, (0, 4, 12)),
        ({"layers": "[0, 4, -1]"}, (0, 4, 12)),
        ({"layers": 0.5}, (6,)),
        ({"layers": -1.0}, (12,)),
        ({"layers": 1}, (1,)),
    ],
)
def test_layers_survive_the_harness(given, layers):
    options = read(given) if isinstance(given, str) else read(**given)
    assert select(options.layers, 12) == layers


@pytest.mark.parametrize(
    ("given", "plan"),
    [
        ("metrics=mean_nll+margin", make_plan("mean_nll+margin")),
        ("metrics=min_k(share=0.1)", make_plan("min_k(share=0.1)")),
        ({"metrics": ["mean_nll", "margin"]}, make_plan("mean_nll+margin")),
        ({"metrics": json.dumps(["mean_nll", "margin"])}, make_plan("mean_nll+margin")),
        ("signals=all,raw=logits+hidden+attention", make_plan("standard", "all", "logits+hidden+attention")),
        ("raw=none", make_plan("standard")),
        ({"metrics": "mean_nll", "signals": "entropy+rank"}, make_plan("mean_nll", "entropy+rank")),
    ],
)
def test_names_become_a_plan(given, plan):
    options = read(given) if isinstance(given, str) else read(**given)
    assert options.plan == plan


@pytest.mark.parametrize(
    ("text", "value"),
    [("store_text=no", False), ("store_text=False", False), ("store_text=0", False), ("store_text=yes", True)],
)
def test_yes_and_no(text, value):
    assert read(text).store_text is value


@pytest.mark.parametrize(("text", "value"), [("max_store_gb=2", 2.0), ("max_store_gb=1e-3", 0.001)])
def test_sizes(text, value):
    assert read(text).max_store_gb == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("store_mode=append", "store_mode=append.*new, resume, overwrite"),
        ("metrics=mean_nl", "mean_nl.*Did you mean 'mean_nll'"),
        ("signals=entrop", "entrop.*Did you mean 'entropy'"),
        ("raw=logit", "logit.*Did you mean 'logits'"),
        ("raw_dtype=float8", "raw_dtype=float8.*float16"),
        ("store_text=perhaps", "store_text=perhaps"),
        ("max_store_gb=0", "max_store_gb=0 must be a positive"),
        ("max_store_gb=much", "max_store_gb=much must be a positive"),
        ("max_store_gb=nan", "max_store_gb=nan must be a positive"),
        ("metrics=[mean_nll", r"\[mean_nll is not a JSON list"),
    ],
)
def test_a_bad_value_is_named(text, said):
    with pytest.raises(ValueError, match=said) as caught:
        read(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["stores", "metric", "layer", "max_store", "storetext", "store_modes", "signal"])
def test_a_misspelt_option_is_refused(name):
    with pytest.raises(ValueError, match=f"'{name}' is not known; did you mean"):
        arguments.refuse_misspelt([name], HFStoreLM.__init__)


def test_what_the_host_passes_on_is_let_through():
    theirs = ["attn_implementation", "torch_dtype", "device_map", "low_cpu_mem_usage", "max_memory", "load_in_8bit"]
    theirs += ["rope_scaling", "use_safetensors", "variant", "token", "cache_dir", "enable_thinking", "max_length"]
    assert arguments.refuse_misspelt(theirs, HFStoreLM.__init__) is None


def test_the_default_store_of_a_folder_is_its_name(tmp_path):
    assert arguments.default_store(str(tmp_path / "..")).parts[0] == "hf-store"
    (tmp_path / "my model").mkdir()
    assert arguments.default_store(str(tmp_path / "my model")).parts[1] == "my__model"


def test_options_are_refused_before_the_model_is_loaded(monkeypatch):
    monkeypatch.setattr("lm_eval.models.huggingface.HFLM.__init__", lambda *a, **k: pytest.fail("the model was loaded"))
    with pytest.raises(ValueError, match="unknown metric"):
        HFStoreLM("no/model", metrics="nonsense")


def test_layers_outside_the_model_are_refused(make_lm):
    with pytest.raises(ValueError, match=r"layer 9 is outside 0\.\.3"):
        make_lm(signals="hidden_norm", layers="9")


def test_one_line_and_status_2_on_the_command_line(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["/usr/bin/lm_eval", "--model", "hf-store"])
    with pytest.raises(SystemExit) as caught:
        HFStoreLM("no/model", raw="logit")
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "Did you mean 'logits'" in said


@pytest.mark.parametrize("raw", ["logits", "hidden", "logits+attention"])
def test_whole_tensors_are_refused_where_no_text_is_kept(raw):
    with pytest.raises(ValueError, match=r"store_text=no, but the text can be read back from whole"):
        arguments.read("m", None, "new", "standard", None, raw, "all", None, "no", None)
