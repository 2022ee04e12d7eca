"""The data of the two embedding tasks: exact labels, balance, shipped bytes; what the demo model's layers hold."""

import re
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from datasets import load_dataset
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import v_measure_score
from transformers import AutoModel, AutoTokenizer

import tasks.embedding
from tasks.counting import demo_model_folder
from tasks.counting.words import CATEGORIES
from tasks.embedding import FOLDERS, REVISION, data_folder
from tasks.embedding.generator import count_rows, main, word_rows
from tasks.presets import SHIPPED

HOME = {word: category for category, words in CATEGORIES.items() for word in words}
WORDS, COUNTS = "WordCategoryClustering", "ListCountClassification"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    cache = str(tmp_path_factory.mktemp("datasets"))
    return {name: load_dataset(str(data_folder(name)), revision=REVISION, cache_dir=cache) for name in FOLDERS}


@pytest.fixture(scope="module")
def layers(data):
    """Masked means of the demo model's raw layers: task and split to (layer, text, width)."""
    tokenizer = AutoTokenizer.from_pretrained(demo_model_folder())
    model = AutoModel.from_pretrained(demo_model_folder()).eval()

    @torch.no_grad()
    def embed(texts):
        batch = tokenizer(list(texts), return_tensors="pt", padding=True)
        kept = batch["attention_mask"][..., None]
        states = model(
            batch["input_ids"], attention_mask=batch["attention_mask"], output_hidden_states=True
        ).hidden_states
        return np.stack([((state * kept).sum(1) / kept.sum(1)).numpy() for state in states])

    return {
        WORDS: embed(data[WORDS]["test"]["sentences"]),
        "train": embed(data[COUNTS]["train"]["text"]),
        "test": embed(data[COUNTS]["test"]["text"]),
    }


def test_the_shipped_files_are_what_the_generator_writes(tmp_path):
    result = CliRunner().invoke(main, ["--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    made = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*.jsonl")}
    root = Path(tasks.embedding.__file__).parent
    assert made == {path.relative_to(root): path.read_bytes() for path in root.rglob("*.jsonl")}
    assert len(made) == 3
    assert sum(map(len, made.values())) < 120_000


def test_another_seed_gives_other_data():
    assert word_rows(0) == word_rows(0) != word_rows(1)
    assert count_rows(0) == count_rows(0) != count_rows(1)


def test_datasets_reads_the_folders_with_the_splits_mteb_asks_for(data):
    assert {name: set(splits) for name, splits in data.items()} == {WORDS: {"test"}, COUNTS: {"train", "test"}}
    assert set(FOLDERS) == set(SHIPPED)


def test_every_word_is_there_once_with_its_category(data):
    rows = data[WORDS]["test"]
    found = {
        text.removeprefix("List: [").removesuffix("]"): label for text, label in zip(rows["sentences"], rows["labels"])
    }
    assert found == HOME
    assert len(rows) == len(HOME) == 200


def test_labels_are_counts_that_a_second_reading_finds_too(data):
    for split in data[COUNTS].values():
        for text, label in zip(split["text"], split["label"]):
            asked, words = re.fullmatch(r"Type: (\w+)\nList: \[([\w ]+)\]\nAnswer: \(", text).groups()
            assert len(words.split()) == 5
            assert label == sum(HOME[word] == asked for word in words.split())


def test_splits_are_balanced_and_share_no_text(data):
    for split, times in {"train": 4, "test": 10}.items():
        rows = data[COUNTS][split]
        pairs = Counter((text.split()[1], label) for text, label in zip(rows["text"], rows["label"]))
        assert set(pairs.values()) == {times}
        assert len(pairs) == 60
    texts = [*data[COUNTS]["train"]["text"], *data[COUNTS]["test"]["text"]]
    assert len(set(texts)) == len(texts) == 840


def test_categories_are_clearest_at_the_embeddings(layers, data):
    labels = data[WORDS]["test"]["labels"]
    scores = [v_measure_score(labels, KMeans(10, n_init=10, random_state=0).fit_predict(x)) for x in layers[WORDS]]
    assert np.argmax(scores) == 0
    assert scores[0] > 0.8
    assert min(scores) > 0.4  # ten random groups of these words score about .1


def test_the_count_is_not_in_the_embeddings_and_is_in_the_last_layer(layers, data):
    train, test = (data[COUNTS][split]["label"] for split in ("train", "test"))
    scores = [
        LogisticRegression(max_iter=100).fit(x, train).score(y, test) for x, y in zip(layers["train"], layers["test"])
    ]
    assert scores[0] < 0.3  # six answers, equally frequent: chance is 1/6
    assert scores[-1] > 0.8
    assert scores[1] > scores[0] + 0.3


def test_the_readme_names_the_tasks_and_the_folders():
    readme = (Path(tasks.embedding.__file__).parent / "README.md").read_text(encoding="utf-8")
    assert all(name in readme and folder in readme for name, folder in FOLDERS.items())


@pytest.mark.slow
def test_the_wheel_holds_the_data(tmp_path):
    import subprocess
    import sys

    root = Path(tasks.embedding.__file__).parents[2]
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(root)]
    subprocess.run(command, check=True, capture_output=True)
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    shipped = {str(p.relative_to(root)) for p in Path(tasks.embedding.__file__).parent.rglob("*.jsonl")}
    assert shipped <= set(names)
