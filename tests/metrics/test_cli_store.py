"""`show` and `score` as a user meets them: on a small store, with lm-eval's files beside it."""

import io
import json

import numpy as np
import pandas as pd
import pytest
from commands import call, ok, refused
from judged_run import GEN, MC, write_run

from metrics import open_store
from metrics.writer import Writer


@pytest.fixture
def out(tmp_path):
    return write_run(tmp_path)


def test_show_counts_what_is_there(out):
    text = ok("show", out / "store").stdout
    assert "toy (Toy, float32, cpu)" in text and f"{GEN + 3 * MC} records" in text and "ended" in text
    rows = json.loads(ok("show", out / "store", "--format", "json").stdout)
    assert [(r["task"], r["records"]) for r in rows] == [("gen", GEN), ("mc", 3 * MC)]


def test_show_verify_tells_whole_from_damaged(out):
    store = out / "store"
    assert "agrees with its checksum" in ok("show", store, "--verify").stderr
    (data,) = (store / "shards").glob("*.safetensors")
    content = bytearray(data.read_bytes())
    content[-1] ^= 1
    data.write_bytes(content)
    result = call("show", store, "--verify")
    assert result.exit_code == 1
    assert f"Damaged: {data}" in result.stderr and "damaged shards: 1" in result.stderr.splitlines()[-1]


def test_show_an_empty_store(tmp_path):
    manifest = {"run_id": "r", "model": "m", "architecture": "A", "dtype": "d", "device": "cpu", "signals": {}}
    Writer(tmp_path / "s", manifest).close()
    assert "0 records" in ok("show", tmp_path / "s").stdout
    assert json.loads(ok("show", tmp_path / "s", "--format", "json").stdout) == []
    refused("auroc", tmp_path / "s", says="names no result file")


@pytest.mark.parametrize("command", ["show", "score"])
def test_what_is_no_store_is_named(tmp_path, command):
    refused(command, tmp_path / "nothing", says=f"{tmp_path / 'nothing'} is not a store")


def test_score_writes_the_frame_in_every_form(out):
    store = out / "store"
    chosen = ("score", store, "--metrics", "mean_nll+answer_length+choice_entropy")
    frame = open_store(store).scores("mean_nll+answer_length+choice_entropy")
    printed = ok(*chosen)
    tables = {"stdout": pd.read_csv(io.StringIO(printed.stdout))}
    assert f"{GEN} of {GEN + MC} unscored, not multiple choice: choice_entropy" in printed.stderr
    for ending, read in {
        "csv": pd.read_csv,
        "jsonl": lambda p: pd.read_json(p, lines=True),
        "parquet": pd.read_parquet,
    }.items():
        file = out / "new folder" / f"scores.{ending}"
        result = ok(*chosen, "--out", file)
        assert result.stdout == "" and f"wrote {file}" in result.stderr
        tables[ending] = read(file)
    for table in tables.values():
        assert list(table.columns) == list(frame.columns)
        assert np.allclose(table["mean_nll"], frame["mean_nll"], rtol=1e-12)
        assert np.array_equal(table["label:acc@none"], frame["label:acc@none"], equal_nan=True)


def test_score_takes_labels_from_a_file(out):
    (out / "l.csv").write_text("task,doc_id,correct\ngen,0,1\ngen,1,0\n")
    text = ok("score", out / "store", "--metrics", "mean_nll", "--labels", out / "l.csv").stdout
    assert pd.read_csv(io.StringIO(text))["label:correct@l.csv"].notna().sum() == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--out", "x.xlsx"), "--out x.xlsx: the ending must be .csv, .jsonl or .parquet"),
        (("--out", "/proc/none/x.csv"), "/proc/none"),
        (("--out", "."), "'.'"),
        (("--metrics", "perplexitty"), "Did you mean 'perplexity'?"),
        (("--labels", "no-labels.csv"), "no-labels.csv does not exist"),
        (("--span", "prompt"), "'prompt'"),
    ],
)
def test_score_refuses(out, arguments, says):
    refused("score", out / "store", *arguments, says=says)


def test_score_without_pyarrow_is_one_line(out, monkeypatch):
    def missing(*_, **__):
        raise ImportError("no pyarrow")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", missing)
    refused("score", out / "store", "--metrics", "mean_nll", "--out", out / "x.parquet", says="needs pyarrow")
