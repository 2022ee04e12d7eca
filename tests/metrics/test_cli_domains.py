"""`eval-ext domains` as a user calls it, on a small store and log written here."""

import csv
import io
import json

import numpy as np
import pytest
from commands import ok, refused
from judging import logged, write_log
from stores import record, write

from metrics import providers

TOPICS = ("apple pear plum", "hammer saw drill", "trumpet cello tuba", "tram ship bus")
SIZE = 25
ALL = SIZE * len(TOPICS)


def lines_of(task, right, extra=None):
    found = []
    for i in range(ALL):
        topic = TOPICS[i % len(TOPICS)]
        fields = {"question": f"Which of {topic} is it? {i}", "other": topic.split()[i % 3], **(extra or {})}
        found += logged(i, "x", right=right[i], doc=fields, doc_hash=f"{task}{i}")
    return found


@pytest.fixture
def out(tmp_path):
    """lm-eval's output of a store with four topics, in which the later topics are more often wrong."""
    rng = np.random.default_rng(0)
    right = [float(rng.random() > 0.1 + 0.2 * (i % 4)) for i in range(ALL)]
    store = write(tmp_path / "store", [record(i, "t", doc_hash=f"t{i}") for i in range(ALL)], shard_records=50)
    content = {"config": {"hf_store": {"store": str(store)}}}
    write_log(tmp_path / "out" / "m", lines_of("t", right), "t", content)
    return tmp_path / "out"


def run(out, *options):
    """The command with the few numbers of clusters that are worth the time of a test."""
    return ok("domains", out, *(() if "--clusters" in options else ("--clusters", "3-5")), *options)


def rows(result):
    return list(csv.DictReader(io.StringIO(result.stdout)))


def test_topics_are_found_and_judged(out):
    result = run(out)
    assert "100 questions in 4 clusters by their words" in result.stdout
    assert "Predicted error: Platt scaling, fitted on the labelled answers of the other clusters." in result.stdout
    assert "Against labels: true error from" in result.stdout
    assert "Spearman" in result.stdout
    assert "t: clustered by question" in result.stderr
    for topic in TOPICS:
        assert all(word in result.stdout for word in topic.split())
    made = rows(run(out, "--format", "csv"))
    assert [row["n"] for row in made] == ["25"] * 4
    uncertainty = [float(row["uncertainty"]) for row in made]
    assert uncertainty == sorted(uncertainty, reverse=True)


def test_without_labels(out):
    result = run(out, "--no-labels")
    assert "No labels: whether the uncertain clusters are the weak ones is not known here." in result.stdout
    assert "No predicted error: mean_entropy is no probability and only ranks" in result.stdout
    assert "true error" not in result.stdout
    assert "Likely weak by mean_entropy: " in result.stdout


def test_a_curve_of_another_run(out, tmp_path):
    store = tmp_path / "other"
    write(store, [record(i, "u", seed=5, doc_hash=f"u{i}") for i in range(ALL)], shard_records=50)
    log = write_log(tmp_path / "elsewhere", lines_of("u", [float(i % 3 > 0) for i in range(ALL)]), "u")
    results = {"config": {"hf_store": {"store": str(store)}}}
    log.write_text(json.dumps(results))
    result = run(out, "--calibrate-on", tmp_path / "elsewhere", "--no-labels")
    assert "Predicted error: Platt scaling, fitted on 100 labelled answers of" in result.stdout
    assert "predicted error [95 % CI]" in result.stdout
    assert "true error [95" not in result.stdout


def test_labels_of_a_file_and_a_given_number(out, tmp_path):
    labels = tmp_path / "labels.csv"
    labels.write_text("doc_id,correct\n" + "".join(f"{i},{int(i % 4 != 2)}\n" for i in range(ALL)))
    result = run(out, "--labels", labels, "--clusters", 2, "--min-size", 60)
    assert "The number of clusters was given; " in result.stdout
    assert "2 clusters are too few to tell whether uncertainty orders them by error." in result.stdout


def test_a_field_and_embeddings(out, tmp_path):
    assert "clustered by other" in run(out, "--question", "other", "--clusters", "3").stderr
    vectors = np.eye(4, 8)[np.arange(ALL) % 4] + 0.01 * np.random.default_rng(0).standard_normal((ALL, 8))
    file = tmp_path / "vectors.npz"
    np.savez(file, embeddings=vectors, doc_id=np.arange(ALL))
    assert "in 4 clusters by the vectors of vectors.npz" in run(out, "--embeddings", file).stdout
    np.savez(file, embeddings=vectors[1:], doc_id=np.arange(1, ALL))
    refused("domains", out, "--embeddings", file, says="lacks 1 of 100 documents, the first t 0")
    np.savez(file, embeddings=vectors, doc_id=np.arange(3))
    refused("domains", out, "--embeddings", file, says="embeddings (100, 8) and doc_id (3,); give (n, d)")
    np.savez(file, vectors=vectors)
    refused("domains", out, "--embeddings", file, says="lacks doc_id and embeddings; it has vectors")


def test_an_encoder(out, monkeypatch):
    class Toy:
        name, revision = "toy", "0123456789abcdef"

        def encode(self, texts):
            return np.array([[t in text for t in ("apple", "saw", "tuba", "tram")] for text in texts], np.float32)

    given = {}

    def load(name):
        assert name == "encoder"
        return lambda model, **options: (given.update(options, model=model), Toy())[1]

    monkeypatch.setattr(providers, "load", load)
    result = run(out, "--encoder", "some/model", "--device", "cpu", "--batch-size", 7)
    assert "100 questions in 4 clusters by embeddings of toy, revision 0123456789ab;" in result.stdout
    assert given == {"model": "some/model", "batch_size": 7, "device": "cpu"}


def test_figure(out, tmp_path):
    pytest.importorskip("matplotlib")
    run(out, "--plot", tmp_path / "figures")
    names = sorted(p.name for p in (tmp_path / "figures").iterdir())
    assert [name.rsplit(".", 1)[1] for name in names] == ["csv", "png"]
    drawn = list(csv.DictReader((tmp_path / "figures" / names[0]).open()))
    assert len(drawn) == 4
    assert set(drawn[0]) >= {"cluster", "uncertainty_lower", "predicted", "true_upper"}
    run(out, "--no-labels", "--plot", tmp_path / "bare")


def test_documents_that_the_log_lacks(out):
    (samples,) = out.rglob("samples_*")
    samples.write_text("".join(line + "\n" for line in samples.read_text().splitlines()[:90]))
    result = run(out)
    assert "10 of 100 answers are left out, their questions are not in the samples" in result.stderr
    assert "90 questions in 4 clusters" in result.stdout
    samples.write_text(samples.read_text().replace('"t', '"v'))
    refused("domains", out, "--no-labels", says="no question belongs to a record of")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--clusters", "1"), "--clusters 1: give a number from 2 on"),
        (("--clusters", "5-3"), "--clusters 5-3: give a number"),
        (("--clusters", "five"), "--clusters five: give a number"),
        (("--clusters", "2-4", "--min-size", "90"), "none of 2, 3, 4 clusters leaves at least 90 in each"),
        (("--metric", "standard"), "name one"),
        (("--metric", "option_kl"), "option_kl"),
        (("--question", "none"), "t: document 0 has no field 'none'; it has question, other"),
        (("--task", "none"), "--task none: "),
        (("--embeddings", "nowhere.npz"), "nowhere.npz"),
    ],
)
def test_wrong_options(out, options, says):
    refused("domains", out, *options, says=says)


def test_graded_and_several_verdicts(out):
    (samples,) = out.rglob("samples_*")
    whole = samples.read_text()
    samples.write_text(whole.replace('"exact_match": 1.0', '"exact_match": 0.7'))
    refused("domains", out, says="t: exact_match@none is graded, so no answer is wrong; pass --threshold or")
    run(out, "--threshold", 0.5)
    samples.write_text(whole + whole.replace('"filter": "none"', '"filter": "strict"'))
    refused("domains", out, says="t has several verdicts, exact_match@none, exact_match@strict; name one by --label")
    run(out, "--filter", "strict")
