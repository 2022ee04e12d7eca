"""`eval-ext judge` as a user calls it, against a real server on this machine."""

import json

import pytest
from commands import ok, refused
from judging import Judge, error, logged, serving, write_log

from metrics.frame import score_frame
from metrics.store import open_store

pytest.importorskip("openai", reason="the client openai is not installed (extra judge)")

N = 12


@pytest.fixture
def out(tmp_path):
    """lm-eval's output: 12 documents, 11 questions, answers 0, 1, 2 ... of which 4 is right, and an empty one."""
    lines = [line for i in range(N) for line in logged(i, str(i % 11), question=f"q{i % 11}")]
    lines += logged(N, " ")
    write_log(tmp_path / "out" / "model", lines)
    return tmp_path / "out"


def judges(prompt, _):
    return "Yes." if "Proposed answer: 4\n" in prompt else "no"


def run(judge, out, *options, how=ok, **expected):
    with serving(judge) as url:
        given = (
            "judge",
            out,
            "--endpoint",
            url,
            "--model",
            "m",
            "--out",
            out / "labels.jsonl",
            "--yes",
            "--retries",
            0,
        )
        return how(*given, *options, **expected)


def labels(out):
    return [json.loads(line) for line in (out / "labels.jsonl").read_text().splitlines()]


def test_labels_and_agreement(out):
    judge = Judge(judges)
    result = run(judge, out)
    assert len(judge.seen) == 11
    assert judge.seen[0]["temperature"] == 0
    assert judge.seen[0]["max_tokens"] == 16
    assert judge.seen[0]["seed"] == 0
    rows = labels(out)
    assert [r["correct"] for r in rows] == [int(i % 11 == 4) for i in range(N)] + [0]
    assert [r["by"] for r in rows] == ["judge"] * N + ["empty"]
    assert "13 documents (1 with an empty answer" in result.stderr
    assert "11 calls: about" in result.stderr
    assert "sums: the question is the field question" in result.stderr
    assert "| sums | exact_match@none | 13 |" in result.stdout


def test_a_second_run_asks_nothing(out):
    run(Judge(judges), out)
    before = (out / "labels.jsonl").read_text()
    (out / "labels.jsonl").unlink()
    again = Judge(judges)
    result = run(again, out)
    assert again.seen == []
    assert "0 calls" in result.stderr
    assert (out / "labels.jsonl").read_text() == before


def test_another_model_prompt_or_setting_is_asked(out):
    run(Judge(judges), out)
    other = Judge(judges)
    run(other, out, "--body", '{"temperature": null, "top_p": 0.5}')
    assert len(other.seen) == 11
    assert "temperature" not in other.seen[0]
    assert other.seen[0]["top_p"] == 0.5


def test_the_endpoint_fails_half_way(out):
    failing = Judge(lambda prompt, number: judges(prompt, 0) if number <= 5 else (500, error("gone")))
    result = run(failing, out, "--workers", 1, how=refused, says="failed after 5 of 11 calls: ")
    assert "; what it answered is kept in " in result.stderr
    assert "Run the same command again to go on" in result.stderr
    assert not (out / "labels.jsonl").exists()
    well = Judge(judges)
    run(well, out)
    assert len(well.seen) == 6
    asked = [body["messages"][0]["content"] for body in [*failing.seen[:5], *well.seen]]
    assert len(set(asked)) == 11
    assert [r["correct"] for r in labels(out)] == [int(i % 11 == 4) for i in range(N)] + [0]


def test_nobody_there(out):
    with serving(Judge(judges)) as url:
        pass
    given = ("judge", out, "--endpoint", url, "--model", "m", "--out", out / "l.jsonl", "--yes", "--retries", 0)
    told = refused(*given, says=f"{url} failed after 0 of 11 calls: APIConnectionError")
    assert "is kept" not in told.stderr
    assert told.stderr.endswith("; no labels are written. Run the same command again when it answers\n")


def test_no_such_model(out):
    missing = Judge(lambda *_: (404, error("no model m")))
    told = run(missing, out, how=refused, says="failed after 0 of 11 calls: NotFoundError")
    assert "is there such a model? no labels are written" in told.stderr


def test_unclear_and_refused(out):
    def reply(prompt, _):
        if "Proposed answer: 4\n" in prompt:
            return "That depends"
        return (400, error("content filter")) if "Proposed answer: 5\n" in prompt else "no"

    result = run(Judge(reply), out)
    assert "1 documents without a label, refused: BadRequestError" in result.stderr
    assert "1 documents without a label, the reply says neither yes nor no: 'That depends'" in result.stderr
    assert {4, 5}.isdisjoint(r["doc_id"] for r in labels(out))
    assert len(labels(out)) == N + 1 - 2


def test_dry_run(out):
    judge = Judge(judges)
    result = run(judge, out, "--dry-run", "--price-in", 1, "--price-out", 2)
    assert judge.seen == []
    assert "in the currency of the prices" in result.stderr
    assert "Question: q0" in result.stderr
    assert sorted(p.name for p in out.iterdir()) == ["model"]


def test_nothing_is_asked_without_consent(out):
    given = ("judge", out, "--endpoint", "http://127.0.0.1:9/v1", "--model", "m", "--out", out / "l.jsonl")
    refused(*given, says="11 calls are to be made; pass --yes")
    refused(*given, "--yes", "--price-in", 1e6, "--max-cost", 1, says="is above --max-cost 1; nothing is asked")
    refused(*given, "--max-cost", 1, says="--max-cost needs --price-in")


def test_skip_exact_and_an_own_prompt(out, tmp_path):
    template = tmp_path / "prompt.txt"
    template.write_text("{gold}? {answer}!")
    judge = Judge(lambda *_: "no")
    run(judge, out, "--skip-exact", "--prompt", template)
    assert len(judge.seen) == 10
    assert judge.seen[0]["messages"][0]["content"].startswith("4? ")
    assert [r["doc_id"] for r in labels(out) if r["correct"]] == [4]
    assert [r["by"] for r in labels(out)][4] == "exact"


def test_a_tokenizer_counts(out, tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    template = tmp_path / "prompt.txt"
    template.write_text("{gold} {answer}")
    result = run(Judge(judges), out, "--dry-run", "--tokenizer", tmp_path, "--prompt", template)
    assert f"about {11 * (2 + 8)} prompt tokens (counted by the tokenizer given)" in result.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--out", "labels.csv"), "--out labels.csv: labels are written as .jsonl"),
        (("--task", "none"), "--task none: there is no such task; the samples have sums"),
        (("--filter", "loose"), "no task has the filter 'loose'"),
        (("--question", "q"), "sums: document 0 has no field 'q'; it has question, answer"),
        (("--body", "{"), "--body {: not JSON"),
        (("--body", '{"model": "x"}'), "other than model, messages and stream"),
        (("--tokenizer", "nowhere"), "nowhere does not exist"),
        (("--prompt", "nowhere"), "--prompt nowhere: No such file or directory; give a text with {gold} and {answer}"),
    ],
)
def test_wrong_options(out, options, says):
    run(Judge(judges), out, *options, how=refused, says=says)


def test_auroc_takes_the_labels(out):
    from stores import record, write

    hashes = {i: {"doc_hash": f"h{i}" if i != 3 else "another"} for i in range(N)}
    store = write(out / "store", [record(i, "sums", **hashes[i]) for i in range(N)])
    run(Judge(judges), out)
    result = ok("auroc", store, "--labels", out / "labels.jsonl", "--metrics", "mean_entropy")
    assert "n = 11, 10 wrong" in result.stdout
    assert "sums: another document was recorded under that number" in result.stderr
    frame = score_frame(open_store(store), "mean_entropy", labels=out / "labels.jsonl")
    assert frame["label:correct@labels.jsonl"].sum() == 1


def test_the_key_is_written_nowhere(out, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "s3cret")
    result = run(Judge(judges), out)
    assert "s3cret" not in result.output + result.stderr
    assert not any("s3cret" in p.read_text() for p in out.rglob("*") if p.is_file())
