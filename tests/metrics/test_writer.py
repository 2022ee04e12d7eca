"""When shards are written, who has which share of the budget, and what another run may not mix in."""

import pytest
import torch

from metrics import writer as writers
from metrics.record import Key, Record, Span
from metrics.store import open_store
from metrics.writer import Writer, differing

FACTS = {"run_id": "r", "model": "m", "signals": {}}


def record(doc, tokens=4):
    span = Span(0, tokens)
    return Record(
        Key("t", doc, 0, 0), "generate_until", 1, tokens, {"answer": span, "generation": span}, "x", "p", "d", "h",
        signals={"logprob": torch.zeros(tokens)},
    )  # fmt: skip


@pytest.fixture
def clock(monkeypatch):
    """Seconds that stand still until they are set."""
    now = [100.0]
    monkeypatch.setattr(writers.time, "monotonic", lambda: now[0])
    return now


def test_a_batch_that_took_long_is_written_whole_at_its_end(tmp_path, clock):
    made = Writer(tmp_path / "s", FACTS)
    for batch in range(3):
        clock[0] += 300
        for row in range(8):
            made.add(record(8 * batch + row))
        made.end_batch()
        assert len(open_store(tmp_path / "s")) == 8 * (batch + 1)
    made.close()


def test_short_batches_share_a_shard(tmp_path, clock):
    made = Writer(tmp_path / "s", FACTS)
    for batch in range(5):
        clock[0] += 3
        made.add(record(batch))
        made.end_batch()
    assert len(open_store(tmp_path / "s")) == 4  # at 12 seconds
    made.close()
    assert len(open_store(tmp_path / "s")) == 5


def test_processes_share_what_the_budget_leaves(tmp_path):
    first = Writer(tmp_path / "s", FACTS, ranks=2, max_bytes=20_000)
    second = Writer(tmp_path / "s", FACTS, mode="join", rank=1, ranks=2, max_bytes=20_000)
    taken = [0, 0]
    for which, one in enumerate((first, second)):
        while one.add(record(100 * which + taken[which])):
            taken[which] += 1
        one.close()
    assert taken[0] == taken[1] == 10_000 // 616
    size = sum(p.stat().st_size for p in (tmp_path / "s" / "shards").iterdir())
    assert size < 25_000


def test_only_a_run_that_was_begun_can_be_joined(tmp_path):
    Writer(tmp_path / "s", FACTS).close()
    with pytest.raises(ValueError, match="no run other to join"):
        Writer(tmp_path / "s", {**FACTS, "run_id": "other"}, mode="join", rank=1)


def test_two_of_one_rank_are_refused(tmp_path):
    first = Writer(tmp_path / "s", FACTS, ranks=2)
    second = Writer(tmp_path / "s", FACTS, mode="join", rank=1, ranks=2)
    with pytest.raises(BlockingIOError, match="is being written by process"):
        Writer(tmp_path / "s", FACTS, mode="join", rank=1, ranks=2)
    first.close(), second.close()


def test_what_older_stores_do_not_note_is_not_compared():
    assert differing({"model": "m"}, {"model": "m", "weights": "a"}) == []
    assert differing({"model": "m", "weights": "b"}, {"model": "m", "weights": "a"}) == ["weights"]
    assert differing({"model": "m"}, {"model": "m", "layers": [1]}) == ["layers"]
