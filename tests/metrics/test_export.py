"""Exported folders, read back with NumPy alone, equal the store value by value."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import stores
import torch

from metrics import export as export_
from metrics.export import export
from metrics.frame import find_labels
from metrics.slices import cut
from metrics.store import open_store

READER = """
import json, sys

class Barred:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "safetensors", "pandas", "metrics", "ml_dtypes"):
            raise ImportError(name)

sys.meta_path.insert(0, Barred())
import numpy as np
from pathlib import Path

entries = [json.loads(line) for line in open("index.jsonl", encoding="utf-8").read().split("\\n") if line]
found = []
for i, entry in enumerate(entries):
    values = {}
    for path in Path("signals").glob("*.npy"):
        if path.name.count(".") == 1:
            name = path.stem
            flat = np.load(path, mmap_mode="r", allow_pickle=False)
            offsets = np.load(f"signals/{name}.offsets.npy", allow_pickle=False)
            shape = np.load(f"signals/{name}.shape.npy", allow_pickle=False)
            assert len(offsets) == len(entries) + 1 and len(shape) == len(entries) and offsets[-1] == len(flat)
            if (shape[i] >= 0).all():
                value = flat[offsets[i]:offsets[i + 1]].reshape(shape[i])
                values[name] = [str(value.dtype), list(value.shape), value.tolist()]
    found.append([entry, values])
columns = {p.stem: np.load(p, allow_pickle=False).tolist() for p in Path("columns").glob("*.npy")}
print(json.dumps([found, columns]))
"""


def read(folder):
    done = subprocess.run(
        [sys.executable, "-c", READER], cwd=folder, capture_output=True, text=True, timeout=120, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def store(tmp_path):
    """Records of 0 to 5 tokens, some without some signals, one in bfloat16, several types of answer."""
    records = [stores.record(i, tokens=i) for i in range(5)]
    for i, r in ((0, 0), (0, 1), (1, 0), (1, 1)):
        scored = {"kind": "loglikelihood", "answer": [-i - r / 4, bool(r)]}
        records.append(stores.record(i, "u", request=r, names=("logprob", "scalar"), **scored))
    for one in records[1:4]:
        one.signals["hidden"] = torch.randn(2, one.token_count + 1, 3).to(torch.bfloat16)
        one.signals["half"] = torch.randn(one.token_count).to(torch.float16)
    return open_store(stores.write(tmp_path / "s", records))


def expected(store):
    for key, (entry, values) in stores.contents(store).items():
        made = {
            n: [str(dtype).removeprefix("torch.").replace("bfloat16", "float32"), list(shape), value]
            for n, (dtype, shape, value) in values.items()
        }
        yield key, json.loads(json.dumps(entry)), made


def test_numpy_alone_reads_every_value(store, tmp_path):
    assert export(cut(store), tmp_path / "x") == 9
    found, columns = read(tmp_path / "x")
    wanted = list(expected(store))
    assert len(found) == 9 and [e for e, _ in found] == [e for _, e, _ in wanted]
    for (_, values), (_, _, made) in zip(found, wanted):
        assert values == made
    assert columns["task"] == [key.task for key, _, _ in wanted]
    assert columns["doc_id"] == [key.doc_id for key, _, _ in wanted]
    assert columns["kind"] == [key.kind for key, _, _ in wanted]
    assert columns["token_count"] == [e["token_count"] for _, e, _ in wanted]
    assert columns["generation_stop"] == [e["spans"]["generation"][1] for _, e, _ in wanted]
    for value, (_, entry, _) in zip(columns["loglikelihood"], wanted):
        assert np.isnan(value) if isinstance(entry["answer"], str) else value == entry["answer"][0]


def test_the_readme_says_what_works(store, tmp_path):
    export(cut(store), tmp_path / "x")
    text = (tmp_path / "x" / "README.txt").read_text(encoding="utf-8")
    assert "Widened from bfloat16 to float32, without loss: hidden." in text
    code = "\n".join(line[4:] for line in text.splitlines() if re.match(r" {4}\S", line))
    assert len(code.splitlines()) <= 10
    shown = code + "\nprint(json.dumps([name, value.tolist(), entry, start, stop]))"
    done = subprocess.run([sys.executable, "-c", shown], cwd=tmp_path / "x", capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    name, value, entry, start, stop = json.loads(done.stdout)
    _, first, values = next(expected(store))
    assert entry == first and value == values[name][2] and [start, stop] == first["spans"]["answer"]
    described = json.loads((tmp_path / "x" / "signals.json").read_text())
    assert described["lens_entropy"] == {"axes": ["layer", "step"], "unit": "nat", "dtype": "float32"}
    assert described["half"]["dtype"] == "float16"
    for named in re.findall(r"^([a-z]+\.[a-z]+)", text, flags=re.M):
        assert (tmp_path / "x" / named).exists()


def test_slices(store, tmp_path):
    export(cut(store, tasks="u", signals="logprob"), tmp_path / "x")
    found, columns = read(tmp_path / "x")
    assert [list(values) for _, values in found] == [["logprob"]] * 4 and columns["task"] == ["u"] * 4


def test_labels_stand_with_the_first_sample(tmp_path):
    records = [stores.record(i) for i in range(3)]
    again = [stores.record(i, key=records[i].key._replace(occurrence=1)) for i in range(3)]
    store = open_store(stores.write(tmp_path / "s", [*records, *again]))
    labels = tmp_path / "right.csv"
    labels.write_text("doc_id,correct\n0,1\n2,0\n")
    export(cut(store), tmp_path / "x", find_labels(store, labels))
    values = np.load(tmp_path / "x" / "columns" / "label_correct@right.csv.npy", allow_pickle=False)
    assert values.tolist()[0] == 1 and values.tolist()[2] == 0 and np.isnan(values[[1, 3, 4, 5]]).all()


def test_types_that_differ_or_that_numpy_lacks_are_refused(tmp_path):
    one, two = stores.record(0), stores.record(1)
    two.signals["entropy"] = two.signals["entropy"].double()
    mixed = open_store(stores.write(tmp_path / "s", [one, two], shard_records=1))
    with pytest.raises(ValueError, match="entropy is float64 with 1 axes in one record and float32"):
        export(cut(mixed), tmp_path / "x")
    odd = stores.record(0)
    odd.signals["logprob"] = odd.signals["logprob"].to(torch.float8_e4m3fn)
    eighth = open_store(stores.write(tmp_path / "e", [odd]))
    with pytest.raises(ValueError, match=r"logprob has type torch.float8_e4m3fn, which NumPy lacks"):
        export(cut(eighth), tmp_path / "x")
    assert not list(tmp_path.glob("*x*"))


def test_damage_and_an_existing_folder_are_refused(store, tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "thesis.tex").write_text("")
    with pytest.raises(FileExistsError, match="give another --out"):
        export(cut(store), tmp_path / "x")
    data = next((store.path / "shards").glob("*.safetensors"))
    data.write_bytes(data.read_bytes()[:-1] + b"\x07")
    with pytest.raises(ValueError, match="s is damaged"):
        export(cut(store), tmp_path / "y")
    assert not (tmp_path / "y").exists()


def test_an_array_of_many_values_keeps_its_place_for_the_header(tmp_path):
    """The header is written first for 0 values, and again for all of them: it must not grow."""
    file = (tmp_path / "a.npy").open("w+b")
    column = export_._Column(file, np.dtype("float32"), 1, False)
    export_._header(column)
    before = file.tell()
    column.count = 10**15
    file.seek(0)
    export_._header(column)
    assert file.tell() == before
    file.close()


def test_an_empty_slice_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no record to export"):
        export(cut(open_store(stores.write(tmp_path / "s", []))), tmp_path / "x")
