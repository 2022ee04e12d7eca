"""Ways to load and place a model: adapters, quantised and half-precision weights, parts on other devices, compilers."""

import pytest
import torch
from transformers import AutoModelForCausalLM, CompileConfig

from lm_eval_ext.arguments import TRANSFORMERS
from lm_eval_ext.forced import ForcedPass
from lm_eval_ext.model import HFStoreLM
from metrics.store import open_store

TAKES_THEM = pytest.mark.skipif(TRANSFORMERS < 5, reason="transformers 4 takes load_in_4bit and load_in_8bit")
GREEDY = {"until": ["w7"], "max_gen_toks": 6, "do_sample": False}


@pytest.fixture
def asked(instance, words_of):
    """A function () -> fresh requests of the three kinds."""

    def make():
        prompts = [words_of(3 + 4 * (i % 4), i) for i in range(6)]
        return {
            "generate_until": [instance("generate_until", (p, dict(GREEDY)), i) for i, p in enumerate(prompts)],
            "loglikelihood": [instance("loglikelihood", (p, " " + words_of(1 + i % 3, 60 + i)), i)
                              for i, p in enumerate(prompts)],
            "loglikelihood_rolling": [instance("loglikelihood_rolling", (p,), i) for i, p in enumerate(prompts)],
        }  # fmt: skip

    return make


@pytest.fixture
def saved(tiny_model, tokenizer, tmp_path):
    """A folder with a tiny Llama and its tokenizer."""
    tiny_model("llama").save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.fixture
def recorded(make_lm, asked, reopened):
    """A function (model, **arguments) -> answers by kind, records by key, and the model."""

    def run(model, **arguments):
        arguments = {"signals": "all", "batch_size": 2, **arguments}
        lm = make_lm(model=model, **arguments)
        answers = {kind: getattr(lm, kind)(requests, disable_tqdm=True) for kind, requests in asked().items()}
        store = reopened(lm)
        names = [*store.manifest["signals"], "tokens"]
        return answers, {r.key: r for r in store.records(names)}, store

    return run


def alike(a, b, tolerance=2e-4):
    assert a.keys() == b.keys() and len(a) == 18
    for key, one in a.items():
        other = b[key]
        assert set(one.signals) == set(other.signals) >= {"entropy", "hidden_norm", "attention_diagonal"}
        for name, value in one.signals.items():
            close = max(tolerance, 1e-3) if value.dtype == torch.float16 else tolerance  # one step of half precision
            torch.testing.assert_close(
                value, other.signals[name], rtol=close, atol=close, equal_nan=True, msg=f"{key} {name}"
            )


# ---------------------------------------------------------------- adapters


@pytest.fixture
def adapter(tiny_model, tmp_path):
    """A function (configuration) -> the folder of an adapter whose weights are not zero."""
    peft = pytest.importorskip("peft")

    def make(configuration):
        torch.manual_seed(3)
        model = peft.get_peft_model(tiny_model("llama"), configuration)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_" in name:
                    weight.normal_(std=0.3)
        model.save_pretrained(tmp_path / "adapter")
        return str(tmp_path / "adapter")

    return make


def test_an_adapter_is_recorded_as_the_merged_model_is(adapter, saved, recorded, make_hf, asked):
    peft = pytest.importorskip("peft")
    folder = adapter(peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj", "up_proj"]))
    answers, found, store = recorded(saved, peft=folder)
    hf = make_hf(model=saved, peft=folder, batch_size=2)
    for kind, requests in asked().items():
        assert answers[kind] == getattr(hf, kind)(requests, disable_tqdm=True), kind
    whole = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(saved), folder).merge_and_unload()
    _, merged, _ = recorded(whole)
    _, plain, _ = recorded(saved)
    alike(found, merged)
    key = next(iter(found))
    assert not torch.allclose(found[key].signals["hidden_norm"], plain[key].signals["hidden_norm"], rtol=1e-2)
    assert store.manifest["peft"] == folder


def test_virtual_tokens_are_refused_by_name(adapter, saved, tmp_path):
    peft = pytest.importorskip("peft")
    folder = adapter(peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    with pytest.raises(ValueError, match=r"PROMPT_TUNING.*virtual tokens"):
        HFStoreLM(saved, peft=folder, device="cpu", store=tmp_path / "s")
    assert not (tmp_path / "s").exists()


# ---------------------------------------------------------------- placement


@pytest.mark.parametrize(
    "placement",
    [
        {"device_map": "auto"},
        pytest.param(
            {"parallelize": True},
            marks=pytest.mark.skipif(
                TRANSFORMERS < 5, reason="without a GPU it puts the model on the disk, where transformers 4 reads none"
            ),
        ),
        {"device_map": {"": "cpu", "model.layers.1": "disk", "lm_head": "disk", "model.norm": "disk"}},
    ],
    ids=["auto", "parallelize", "disk"],
)
def test_parts_elsewhere_make_no_difference(placement, saved, recorded, tmp_path):
    if isinstance(placement.get("device_map"), dict):
        placement = {**placement, "offload_folder": str(tmp_path / "offload")}
    answers, found, _ = recorded(saved, **placement)
    expected, plain, _ = recorded(saved)
    assert answers["generate_until"] == expected["generate_until"]
    alike(found, plain, 1e-5)


OTHERS = ("neox", "gpt2", "opt", "mistral", "phi3", "qwen3", "qwen3_moe", "gemma2", "gpt_oss", "mamba")
QUICK = ("neox", "gpt_oss")


@pytest.mark.parametrize("launch", ["device_map", "bfloat16", "torch.compile"])
@pytest.mark.parametrize("family", [f if f in QUICK else pytest.param(f, marks=pytest.mark.slow) for f in OTHERS])
def test_other_architectures_launched_otherwise(
    family, launch, tiny_model, tokenizer, tmp_path, recorded, make_hf, asked
):
    """Answers are hf's in the same launch; in single precision signals are those of the plain launch."""
    signals = "hidden_norm+hidden_mean" if family == "mamba" else "all"
    tiny_model(family).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    model, more = str(tmp_path / "model"), {}
    if launch == "device_map":
        more = {"device_map": "auto"}
    elif launch == "bfloat16":
        more = {"dtype": "bfloat16"}
    else:
        torch._dynamo.reset()
        model = torch.compile(tiny_model(family), backend="eager")
    answers, found, _ = recorded(model, signals=signals, **more)
    hf = make_hf(model=model, batch_size=2, **more)
    for kind, requests in asked().items():
        assert answers[kind] == getattr(hf, kind)(requests, disable_tqdm=True), kind
    _, plain, _ = recorded(str(tmp_path / "model"), signals=signals)
    assert found.keys() == plain.keys()
    for key, one in found.items():
        other = plain[key].signals
        assert set(one.signals) == set(other)
        if launch == "bfloat16":
            assert all(one.signals[name].isfinite().all() for name in ("entropy", "hidden_norm"))
        elif one.signals["tokens"].tolist() == other["tokens"].tolist():
            for name in set(other) - {"top_tokens"}:  # ties
                torch.testing.assert_close(
                    one.signals[name], other[name], rtol=5e-4, atol=5e-4, equal_nan=True, msg=name
                )


# ---------------------------------------------------------------- precision


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_reduced_in_single(dtype, saved, recorded, make_hf, asked):
    """Answers are hf's; signals come from the half-precision logits in float32; they differ by its rounding alone."""
    answers, found, store = recorded(saved, dtype=dtype)
    hf = make_hf(model=saved, dtype=dtype, batch_size=2)
    for kind, requests in asked().items():
        assert answers[kind] == getattr(hf, kind)(requests, disable_tqdm=True), kind
    assert store.manifest["dtype"] == dtype
    _, single, _ = recorded(saved)
    for key, one in found.items():
        other = single[key]
        same = min(len(one.signals["tokens"]), len(other.signals["tokens"]))
        if one.signals["tokens"][:same].tolist() != other.signals["tokens"][:same].tolist():
            continue  # another greedy path
        for name in ("entropy", "logprob"):
            assert one.signals[name].dtype == torch.float32
            torch.testing.assert_close(one.signals[name][:same], other.signals[name][:same], rtol=0.1, atol=0.15)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_in_batches(dtype, saved, recorded):
    """A batch rounds otherwise than a single row: by a few units of the last of 8 (or 11) bits, and no more."""
    (answers, many, _), (alone, single, _) = (recorded(saved, dtype=dtype, batch_size=n) for n in (4, 1))
    assert answers["generate_until"] == alone["generate_until"]
    for key, one in many.items():
        for name in ("entropy", "logprob", "hidden_norm"):
            torch.testing.assert_close(one.signals[name], single[key].signals[name], rtol=0.05, atol=0.1)


def test_the_batch_size_is_found_by_itself(saved, recorded, monkeypatch):
    """The probe's passes are not recorded; the sizes stand in the manifest."""
    monkeypatch.setattr(HFStoreLM, "_detect_batch_size", _as_if_four_fit(HFStoreLM._detect_batch_size))
    answers, found, store = recorded(saved, batch_size="auto")
    expected, plain, _ = recorded(saved)
    assert answers["generate_until"] == expected["generate_until"]
    alike(found, plain)
    assert set(store.manifest["runs"][0]["batch_sizes"]) == {4}


def _as_if_four_fit(original):
    def detect(self, *args, **kwargs):
        self.max_batch_size = 4
        return original(self, *args, **kwargs)

    return detect


# ---------------------------------------------------------------- torch.compile


def _compiled(model, how):
    if how == "torch.compile(model)":
        return torch.compile(model, backend="eager")
    if how == "model.compile()":
        model.compile(backend="eager")
    elif how == "static cache":  # which `generate` compiles by itself
        model.generation_config.cache_implementation = "static"
        model.generation_config.compile_config = CompileConfig(backend="eager", mode=None, fullgraph=False)
        model.generation_config.compile_config._compile_all_devices = True
    else:
        model.forward = torch.compile(model.forward, backend="eager")
    return model


@pytest.mark.parametrize(
    "how",
    [
        "torch.compile(model)",
        pytest.param("model.compile()", marks=pytest.mark.slow),
        pytest.param("model.forward", marks=pytest.mark.slow),
        "static cache",
    ],
)
def test_a_compiled_model_is_recorded_as_it_is(how, tiny_model, recorded):
    torch._dynamo.reset()
    answers, found, store = recorded(_compiled(tiny_model("llama"), how))
    expected, plain, _ = recorded(tiny_model("llama"))
    assert answers["generate_until"] == expected["generate_until"]
    alike(found, plain)
    assert "stopped" not in store.manifest["runs"][0]
    torch._dynamo.reset()


# ---------------------------------------------------------------- lack of memory


def test_memory_that_runs_out_in_the_pass_for_signals_is_said_once(saved, recorded, monkeypatch, capsys):
    _, plain, _ = recorded(saved, batch_size=4)
    whole, failed = ForcedPass._passes, []

    def scarce(self, sequences, logits):
        if len(sequences) > 2:
            failed.append(len(sequences))
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return whole(self, sequences, logits)

    monkeypatch.setattr(ForcedPass, "_passes", scarce)
    capsys.readouterr()
    _, found, store = recorded(saved, batch_size=4)
    alike(found, plain)
    said = [line for line in capsys.readouterr().err.splitlines() if "memory ran out" in line]
    assert said == ["hf-store: memory ran out in the pass for signals; it goes on with smaller batches"]
    assert failed == [4]
    assert "stopped" not in store.manifest["runs"][0]


# ---------------------------------------------------------------- what cannot be recorded


@pytest.mark.parametrize(
    ("argument", "remedy"),
    [
        ({"autogptq": True}, "autogptq=True.*leave it out"),
        ({"gptqmodel": True}, "gptqmodel=True.*leave it out"),
        ({"tp_plan": "auto"}, "tp_plan=auto.*parallelize=True"),
        pytest.param({"load_in_4bit": True}, "load_in_4bit=True.*save the model quantised", marks=TAKES_THEM),
        pytest.param({"load_in_8bit": True}, "load_in_8bit=True.*save the model quantised", marks=TAKES_THEM),
    ],
)
def test_what_cannot_be_recorded_is_refused_before_any_work(argument, remedy, tmp_path, monkeypatch):
    monkeypatch.setattr("lm_eval_ext.model.HFLM.__init__", lambda *a, **k: pytest.fail("the model was loaded"))
    with pytest.raises(ValueError, match=remedy) as caught:
        HFStoreLM("nowhere", store=tmp_path / "s", **argument)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "s").exists()


def test_an_argument_that_is_off_is_not_refused(saved, make_lm):
    make_lm(model=saved, autogptq=False, gptqmodel=False)


@pytest.mark.parametrize(("bits", "layer"), [(8, "Linear8bitLt"), (4, "Linear4bit")])
def test_a_quantised_checkpoint_is_recorded(bits, layer, saved, tmp_path, recorded, make_hf, asked, tokenizer):
    """As bitsandbytes saves it; without bitsandbytes this is not tested."""
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    model = AutoModelForCausalLM.from_pretrained(
        saved, quantization_config=BitsAndBytesConfig(**{f"load_in_{bits}bit": True})
    )
    folder = tmp_path / "quantised"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    answers, found, store = recorded(str(folder))
    assert layer in {type(m).__name__ for m in model.modules()}
    hf = make_hf(model=str(folder), batch_size=2)
    for kind, requests in asked().items():
        assert answers[kind] == getattr(hf, kind)(requests, disable_tqdm=True), kind
    assert len(found) == 18
    assert store.manifest["quantization"]["quant_method"] == "bitsandbytes"
    assert len(open_store(store.path)) == 18
