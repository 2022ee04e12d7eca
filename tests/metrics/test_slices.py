"""Which records and signals a slice holds, and what its manifest says of them."""

import pytest
import stores
import torch

from lm_eval_ext import recorder
from metrics import slices
from metrics.slices import cut, recorded_signals, sizes
from metrics.store import open_store


@pytest.fixture
def store(tmp_path):
    records = [*map(stores.record, range(5)), *(stores.record(i, "u", tokens=2) for i in range(3))]
    manifest = stores.facts(metrics=["mean_entropy", "sequence_nll", "random"])
    return open_store(stores.write(tmp_path / "s", records, manifest))


def test_all_of_it(store):
    part = cut(store)
    assert len(part.keys) == 8 and list(part.signals) == sorted([*stores.AXES, "tokens", "prompt_tokens"])
    made = part.manifest()
    assert made == {k: v for k, v in store.manifest.items() if k not in ("schema", "run_id", "runs")}


def test_tasks_and_signals(store):
    part = cut(store, tasks="u", signals="entropy+scalar")
    assert {key.task for key in part.keys} == {"u"} and part.signals == ("entropy", "scalar")
    made = part.manifest()
    assert list(made["signals"]) == ["entropy", "scalar"] and made["layers"] == []
    assert made["metrics"] == ["mean_entropy", "random"]  # sequence_nll needs logprob
    assert [sorted(r.signals) for r in part.records()] == [["entropy", "scalar"]] * 3
    assert "entropy" not in cut(store, drop=["entropy"]).signals
    assert cut(store, drop="entropy").manifest()["layers"] == [0, 1]


def test_without_text(store):
    part = cut(store, text=False)
    assert not {"tokens", "prompt_tokens", "top_tokens"} & set(part.signals)
    assert part.manifest()["store_text"] is False
    assert [r.answer for r in part.records()] == [None] * 8
    assert slices.PRIVATE == recorder.PRIVATE


def test_numbers_are_no_text(tmp_path):
    scored = stores.record(0, answer=[-1.5, True], kind="loglikelihood")
    part = cut(open_store(stores.write(tmp_path / "s", [scored])), text=False)
    assert [r.answer for r in part.records()] == [[-1.5, True]]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"tasks": "tt"}, "unknown task 'tt'. Did you mean"),
        ({"signals": "entrpy"}, "unknown signal 'entrpy'. Did you mean 'entropy'"),
        ({"drop": "nothing"}, "unknown signal 'nothing'"),
        ({"signals": "entropy", "drop": "scalar"}, "give one of the two"),
        ({"signals": "top_tokens", "text": False}, "top_tokens holds text"),
    ],
)
def test_bad_names_are_refused(store, asked, says):
    with pytest.raises(ValueError, match=says):
        cut(store, **asked)


def test_sizes_count_bytes_and_each_prompt_once(tmp_path):
    same = [stores.record(i, tokens=5) for i in range(4)]
    for one in same:
        one.signals["prompt_tokens"] = torch.arange(3, dtype=torch.int32)
    found = sizes(cut(open_store(stores.write(tmp_path / "s", same))))
    assert found["entropy"] == 4 * 5 * 4 and found["lens_entropy"] == 4 * 2 * 6 * 4 and found["scalar"] == 16
    assert found["prompt_tokens"] == 12 and found["tokens"] == 80


def test_headers_pass_over_a_damaged_shard(store):
    index = next((store.path / "shards").glob("*.jsonl"))
    index.write_text("{")
    assert recorded_signals(open_store(store.path)) == sorted([*stores.AXES, "tokens", "prompt_tokens"])
