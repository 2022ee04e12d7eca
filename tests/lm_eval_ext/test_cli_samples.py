"""`eval-ext samples` as a user calls it: what it says, what it keeps, and one line for what cannot be done."""

import shutil
from dataclasses import replace

import pytest
from annexes import FakeEncoder, answered, bert, letters, sampled
from click.testing import CliRunner
from stores import write

from lm_eval_ext import cli_samples, recipes
from metrics.annex import parts_of
from metrics.cli import main
from metrics.manifest import update_run
from metrics.store import open_store

ANSWERS = [["yes", "no", " yes"], ["1", "2", "3"]]
NLI = "discrete_semantic_entropy(clusters=nli)"
EMBEDDING = "discrete_semantic_entropy(clusters=embedding)"


def call(*arguments):
    """The command in the root, wherever the package is installed from."""
    main.add_command(cli_samples.samples)
    try:
        return CliRunner().invoke(main, ["samples", *map(str, arguments)], prog_name="eval-ext")
    finally:
        del main.commands["samples"]


def done(*arguments):
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    return result.stderr


def refusal(*arguments):
    result = call(*arguments)
    assert isinstance(result.exception, SystemExit) and result.exit_code == 1, repr(result.exception)
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error:")]
    assert len(errors) == 1 and result.stderr.splitlines()[-1] == errors[0]
    return errors[0]


@pytest.fixture
def path(tmp_path):
    return sampled(tmp_path, ANSWERS, tokens=True)


@pytest.fixture(scope="module")
def nli(tmp_path_factory):
    return bert(tmp_path_factory.mktemp("nli"))


@pytest.fixture(scope="module")
def cross(tmp_path_factory):
    return bert(tmp_path_factory.mktemp("sts"), ["LABEL_0"], seed=1)


@pytest.fixture
def encoder(monkeypatch):
    made = FakeEncoder()
    monkeypatch.setattr(recipes, "load", lambda name: lambda model, **_: made)
    return made


def test_made_once_and_scored_without_a_model(path, nli, cross, encoder, tmp_path):
    letters().save(str(tmp_path / "tokenizer.json"))
    asks = ("--nli", nli, "--bertscore", nli, "--relevance", cross, "--encoder", "x", "--tokenizer", tmp_path)
    said = done(tmp_path / "out", *asks)
    assert "questions: field question of 2 documents" in said
    assert f"nli by {nli.name}: 2 documents, 18 pairs, 13 of them different" in said
    assert f"bertscore by {nli.name}: 2 documents, 5 pairs, 4 of them different" in said
    assert "embedding by fake: 2 documents, 6 texts, 5 of them different" in said
    assert "clusters by embedding: threshold 0.9, rule components" in said
    assert all(len(parts_of(path, kind)) == 1 for kind in ("nli", "bertscore", "relevance", "embedding"))
    encoder.asked.clear()
    again = done(path, *asks)
    assert again.count("nothing to do, 2 are done") == 4 and not encoder.asked
    shutil.rmtree(tmp_path / "out")
    frame = open_store(path).scores([NLI, EMBEDDING])
    assert frame[[NLI, EMBEDDING]].notna().all().all()


def test_a_dry_run_makes_nothing(path, nli):
    assert "2 documents, 18 pairs, 13 of them different" in done(path, "--nli", nli, "--dry-run")
    assert not parts_of(path, "nli")


def test_clusters_change_without_a_model(path, encoder):
    done(path, "--encoder", "x", "--threshold", "1")
    apart = open_store(path).scores([EMBEDDING])[EMBEDDING]
    encoder.asked.clear()
    assert "clusters by embedding: threshold -1.0, rule first" in done(path, "--threshold", "-1", "--rule", "first")
    assert not encoder.asked
    together = open_store(path).scores([EMBEDDING])[EMBEDDING]
    assert (together == 0).all() and (apart > 0).all()


def test_redo_makes_anew(path, encoder):
    done(path, "--encoder", "x")
    assert "--redo" in refusal(path, "--encoder", "x", "--embed", "both")
    assert "2 documents" in done(path, "--encoder", "x", "--embed", "both", "--redo")
    assert any(text.startswith("q 0? ") for text in encoder.asked)


def test_no_question(path, nli):
    said = done(path, "--nli", nli, "--question", "none", "--dry-run")
    assert "questions" not in said
    assert "18 pairs, 13 of them different" in said


@pytest.mark.parametrize(
    ("documents", "greedy", "arguments", "says"),
    [
        ([["a"]], False, ["--encoder", "x"], "t has one sample a document; record with repeats"),
        ([["a", "a"]], True, ["--encoder", "x"], "t was generated greedily"),
        ([[None, None]], False, ["--encoder", "x"], "keeps no texts (store_text=no)"),
        ([["a", "b"]], False, [], "nothing is asked for; give --encoder, --nli, --bertscore or --relevance NAME"),
        ([["a", "b"]], False, ["--threshold", ".5"], "holds nothing to cluster; give --encoder or --nli NAME"),
        ([["a", "b"]], False, ["--nli", "/no/where"], "--nli /no/where cannot be loaded"),
        ([["a", "b"]], False, ["--nli", "x", "--question", "goal"], "goal"),
        ([["a", "b"]], False, ["--encoder", "x", "--threshold", "2"], "2.0 is not in the range"),
    ],
)
def test_one_line_for_what_cannot_be_done(tmp_path, encoder, documents, greedy, arguments, says):
    path = sampled(tmp_path, documents)
    if greedy:
        update_run(path, "one", generation=[{"tasks": ["t"], "repeats": 2, "settings": {"do_sample": False}}])
    assert says in refusal(path, *arguments)


def test_relevance_takes_one_sample(tmp_path, cross):
    path = sampled(tmp_path, [["ab"]], tokens=True)
    letters().save(str(tmp_path / "tokenizer.json"))
    assert "1 documents, 2 pairs" in done(path, "--relevance", cross, "--tokenizer", tmp_path)


def test_without_a_log_the_questions_are_not_known(tmp_path, nli):
    path = sampled(tmp_path, ANSWERS, linked=False)
    assert "--question none" in refusal(path, "--nli", nli)
    assert "2 documents" in done(path, "--nli", nli, "--samples", tmp_path / "out")


def test_models_of_another_kind(path, nli, cross, tmp_path):
    assert "has the labels LABEL_0" in refusal(path, "--nli", cross)
    letters().save(str(tmp_path / "tokenizer.json"))
    assert "has 3 outputs" in refusal(path, "--relevance", nli, "--tokenizer", tmp_path)


def test_what_is_no_store(tmp_path):
    assert "does not exist" in refusal(tmp_path / "x", "--encoder", "x")


def test_help_has_an_example():
    assert "Example: eval-ext samples OUT" in call("--help").output


def test_ids_that_do_not_spell_the_answers(tmp_path, cross):
    path = sampled(tmp_path, [["ab", "cd"]], tokens=True)
    letters().save(str(tmp_path / "tokenizer.json"))
    changed = [replace(r, answer="zz") for r in answered(["ab", "cd"], tokens=True)]
    manifest = open_store(path).manifest
    write(path, changed[:1], {**manifest, "run_id": "two"}, mode="resume")
    asks = (path, "--relevance", cross, "--tokenizer", tmp_path)
    assert "1 of 2 answers are not what their ids spell" in done(*asks)
    write(path, changed[1:], {**manifest, "run_id": "three"}, mode="resume")
    assert "pass --tokenizer of the evaluated model" in refusal(*asks)
