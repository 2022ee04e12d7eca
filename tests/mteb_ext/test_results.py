"""Reading scores, against MTEB's own writer and reader and against plain pandas."""

import json
import math
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import mteb
import pandas as pd
import pytest
from mteb.models import ModelMeta
from mteb.results import TaskResult

from mteb_ext import results
from mteb_ext.long_table import COLUMNS

pytestmark = pytest.mark.filterwarnings("ignore:several splits")

PUBLISHED = Path(__file__).parents[3] / "shared/data/layer_by_layer/pythia_layer_scores.csv"
KWARGS = {"pooling": "mean", "norm": "raw", "max_length": 256, "dtype": "float32", "config": "0123456789ab"}


def meta(name="layer-wrapper/org/model", revision="r1", blocks=6, **kwargs):
    known = {"name": name, "revision": revision, "loader_kwargs": {"blocks": blocks} if blocks else {}}
    return ModelMeta.create_empty(overwrites={**known, "experiment_kwargs": kwargs or None})


def save(out, model, task, scores):
    """Write a result as MTEB does; `scores` is {split: {subset: score}}."""
    flat = {split: {s: {"main_score": v, "f1": 0.1} for s, v in of.items()} for split, of in scores.items()}
    result = TaskResult.from_task_results(mteb.get_task(task), flat, evaluation_time=12.5)
    mteb.ResultCache(out).save_to_cache(result, model)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    for layer in (0, 3, 6):
        save(out, meta(layer=layer, **KWARGS), "STSBenchmark", {"test": {"default": 0.4 + layer / 100}})
        save(out, meta(layer=layer, **KWARGS), "STS17", {"test": {"en-en": 0.7, "ko-ko": 0.2 + layer / 10}})
        save(
            out,
            meta(layer=layer, **KWARGS),
            "AmazonCounterfactualClassification",
            {"validation": {"en": 0.1}, "test": {"en": 0.5, "en-ext": 0.7}},
        )
    save(out, meta(aggregate="mean", layers="3-4-5-6", **KWARGS), "STSBenchmark", {"test": {"default": 0.55}})
    save(out, meta(layer=6, **KWARGS | {"pooling": "cls"}), "STSBenchmark", {"test": {"default": 0.3}})
    save(out, meta("org/plain", "r9", None), "STSBenchmark", {"test": {"default": 0.8}})
    (out / "sweep.json").write_text('{"runs": []}')
    (out / "predictions/gold").mkdir(parents=True)
    (out / "predictions/gold/STSBenchmark.json").write_text("[1]")
    return out


@pytest.fixture
def copy(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "out"))


def read(path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="several splits")
        return results.read(path)


def test_every_result_equals_mtebs_own(made):
    frame = read(made)
    loaded = mteb.ResultCache(made).load_results(load_experiments="match_name", include_remote=False)
    count = 0
    for model in loaded.model_results:
        for result in model.task_results:
            splits = ["test"] if "test" in result.scores else None
            row = frame[(frame["variant"] == (model.experiment_name or "")) & (frame["task"] == result.task_name)]
            assert len(row) == 1
            assert row["main_score"].item() == pytest.approx(result.get_score(splits=splits), abs=1e-12)
            assert (row["model"].item(), row["revision"].item()) == (model.model_name, model.model_revision)
            assert row["mteb_version"].item() == result.mteb_version
            count += 1
    assert count == len(frame) == 12


def test_what_a_row_holds(made):
    frame = read(made)
    row = frame[(frame["task"] == "STS17") & (frame["layer"] == 3)].iloc[0]
    assert (row["blocks"], row["depth"], row["type"], row["split"]) == (6, 0.5, "STS", "test")
    assert row["subset"] == "en-en+ko-ko"
    assert row["main_score"] == pytest.approx((0.7 + 0.5) / 2)
    assert (row["pooling"], row["norm"], row["seconds"]) == ("mean", "raw", 12.5)
    assert row["settings"] == "config=0123456789ab, dtype=float32, max_length=256, norm=raw, pooling=mean"
    aggregate = frame[frame["aggregate"] != ""].iloc[0]
    assert (aggregate["aggregate"], aggregate["layers"]) == ("mean", "3-4-5-6")
    assert pd.isna(aggregate["layer"])
    assert aggregate["settings"] == row["settings"]
    plain = frame[frame["model"] == "org/plain"].iloc[0]
    assert (plain["variant"], plain["settings"]) == ("", "")
    assert pd.isna(plain["layer"])
    assert list(frame.columns) == list(COLUMNS)
    assert frame.attrs["guessed_blocks"] == []


def test_test_is_preferred_and_said(made):
    with pytest.warns(UserWarning, match="several splits of AmazonCounterfactualClassification: test is used"):
        frame = results.read(made)
    rows = frame[frame["task"] == "AmazonCounterfactualClassification"]
    assert set(rows["split"]) == {"test"}
    assert rows["main_score"].tolist() == pytest.approx([0.6] * 3)


def test_any_height_gives_the_same(made):
    assert read(made / "results").drop(columns="file").equals(read(made).drop(columns="file"))
    assert len(read(made / "results" / "layer-wrapper__org__model")) == 11


def test_a_truncated_file_is_named_and_the_rest_read(copy):
    victim = next(copy.rglob("STS17.json"))
    victim.write_text(victim.read_text()[:80])
    with pytest.warns(UserWarning, match=rf"{victim} is damaged and is left out"):
        assert len(results.read(copy)) == 11


def test_a_damaged_model_meta_is_named(copy):
    victim = next(copy.glob("results/layer-wrapper*/*/experiments/*layer_3*")) / "model_meta.json"
    victim.write_text("{")
    with pytest.warns(UserWarning, match="its layer is unknown"):
        frame = results.read(copy)
    assert sorted(frame.loc[frame["task"] == "STS17", "layer"].dropna()) == [0, 6]


def test_a_file_that_is_no_result_is_named(copy):
    (copy / "results/notes.json").write_text('{"a": 1}')
    with pytest.warns(UserWarning, match=r"notes.json is not a result of MTEB"):
        assert len(results.read(copy)) == 12


def test_a_missing_score_is_nan(copy):
    file = next(f for f in copy.rglob("STSBenchmark.json") if "plain" in str(f))
    content = json.loads(file.read_text())
    content["scores"]["test"][0]["main_score"] = None
    file.write_text(json.dumps(content))
    frame = read(copy)
    assert frame.loc[frame["main_score"].isna(), ["model", "task"]].values.tolist() == [["org/plain", "STSBenchmark"]]


def test_results_from_before_mteb_1_11(tmp_path):
    folder = tmp_path / "org__old/abc"
    folder.mkdir(parents=True)
    scores = {"cos_sim": {"pearson": 0.1, "spearman": 0.25}, "evaluation_time": 3.0}
    old = {"dataset_revision": "x", "mteb_dataset_name": "STSBenchmark", "mteb_version": "1.1.0", "test": scores}
    (folder / "STSBenchmark.json").write_text(json.dumps(old))
    row = read(tmp_path).iloc[0]
    assert (row["model"], row["revision"], row["main_score"]) == ("org/old", "abc", 0.25)


def test_one_result_twice(copy):
    shutil.copytree(copy / "results", copy / "again")
    with pytest.warns(UserWarning, match="12 scores stand there more than once, equal"):
        assert len(results.read(copy)) == 12
    file = next(f for f in (copy / "again").rglob("STSBenchmark.json") if "plain" in str(f))
    file.write_text(file.read_text().replace("0.8", "0.9"))
    with pytest.raises(ValueError, match=r"STSBenchmark of org/plain@r9 has unequal scores, 0\.\d and 0\.\d .*plain"):
        results.read(copy)


def test_negative_layers_of_other_wrappers(tmp_path):
    save(tmp_path, meta("a/b", "r", 12, layer=-1), "STSBenchmark", {"test": {"default": 0.5}})
    assert read(tmp_path)["layer"].tolist() == [12]


@pytest.mark.parametrize(
    "text, match",
    [
        ("model,layer,main_score\na,0,.5\n", "lacks the column task; it has model, layer, main_score"),
        ("model,layer,task,main_score\n", "no rows"),
        ("", "is not a table"),
        ("model,layer,task,main_score\na,0,t,51.2\n", "lie beyond 1, as 51.2; divide percentages by 100"),
        ("model,layer,task,main_score\na,x,t,.5\n", r"column layer: 'x' is not a whole number \(row 2\)"),
        ("model,layer,task,main_score\na,1.5,t,.5\n", r"'1.5' is not a whole number"),
        ("model,layer,task,main_score\na,-1,t,.5\n", "layer -1 is negative"),
        ("model,layer,task,main_score\na,0,t,nan\n", "no score is a finite number"),
        ("model,layer,task,main_score\na,0,t,.5\na,0,t,.6\n", "t of a layer 0 has unequal scores, 0.5 and 0.6"),
        ("model,layer,blocks,task,main_score\na,7,6,t,.5\n", "lies above the model's 6 blocks"),
    ],
)
def test_bad_tables_are_refused_in_one_line(tmp_path, text, match):
    file = tmp_path / "scores.csv"
    file.write_text(text)
    with pytest.raises(ValueError, match=match) as problem:
        results.read(file)
    assert "\n" not in str(problem.value)


def test_infinite_scores_are_undefined(tmp_path):
    file = tmp_path / "scores.csv"
    file.write_text("model,layer,task,main_score,type\na,0,t,inf,X\na,1,t,,X\na,2,t,.5,X\n")
    assert results.read(file)["main_score"].isna().tolist() == [True, True, False]


def test_missing_paths_and_empty_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        results.read(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no MTEB result"):
        results.read(tmp_path)
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(ValueError, match=r"must be \.csv or \.parquet"):
        results.read(tmp_path / "a.txt")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_what_is_written_is_read_alike(made, tmp_path, suffix):
    frame = read(made)
    file = tmp_path / f"scores.{suffix}"
    frame.to_csv(file, index=False) if suffix == "csv" else frame.to_parquet(file)
    again = read(file)
    pd.testing.assert_frame_equal(again, frame)


def test_types_of_tasks():
    found = results.task_types(["STSBenchmark", "BUCC", "nobody knows"])
    assert found == {"STSBenchmark": "STS", "BUCC": mteb.get_task("BUCC").metadata.type, "nobody knows": "other"}


@pytest.mark.skipif(not PUBLISHED.is_file(), reason="the published scores lie beside the project, not in it")
def test_the_published_table_needs_no_mteb():
    code = (
        "import sys; from mteb_ext import results; f = results.read(sys.argv[1]);"
        "assert 'mteb' not in sys.modules; print(len(f), sorted(f['type'].unique()), f['blocks'].max())"
    )
    done = subprocess.run([sys.executable, "-c", code, str(PUBLISHED)], capture_output=True, text=True)
    types = "['Classification', 'Clustering', 'PairClassification', 'Reranking', 'STS']"
    assert done.stdout.strip() == f"6032 {types} 24", done.stderr


@pytest.mark.skipif(not PUBLISHED.is_file(), reason="the published scores lie beside the project, not in it")
def test_the_published_table_is_read_whole():
    frame = read(PUBLISHED)
    plain = pd.read_csv(PUBLISHED)
    assert frame["main_score"].sum() == pytest.approx(plain["main_score"].sum())
    assert frame.attrs["guessed_blocks"] == ["14m", "160m", "410m", "70m"]
    assert not any(math.isnan(v) for v in frame["depth"])
