"""Replay of real runs: a trained model on LAMBADA, PIQA and StrategyQA, against what hf-store records of the same."""

import json
import sys
from pathlib import Path

import pytest
import torch
from commands import ok
from lm_eval.tasks import TaskManager

from metrics.store import open_store

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
TASKS = ["lambada", "lambada_rolling", "piqa", "strategyqa", "strategyqa_generated", "gsm8k_sampled"]
SIGNALS = ("logprob", "entropy", "varentropy", "top_logprobs")
TOLERANCE = 1e-4

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (SHARED / "models" / "stories260k").is_dir(), reason=f"no real data in {SHARED}"),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The benchmark's own tasks by hf and by hf-store, sixteen documents each."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import parity

    sys.path.remove(str(ROOT / "benchmarks"))
    out = tmp_path_factory.mktemp("real")
    parity.tasks(SHARED, out)
    manager = TaskManager(include_path=str(out), include_defaults=False)
    for model in ("hf", "hf-store"):
        parity.run(model, str(SHARED / "models" / "stories260k"), TASKS, manager, out, 16)
    return out


@pytest.mark.parametrize("source", ["hf", "store"])
def test_signals_are_those_of_the_record(source, runs, tmp_path):
    model = SHARED / "models" / "stories260k"
    result = ok("replay", runs / source, "--model", model, "--out", tmp_path / "x", "--format", "json")
    rows = {row["task"]: row for row in json.loads(result.stdout)}
    names = [*SIGNALS, "tokens", "prompt_tokens"]
    before = {r.key: r for r in open_store(runs / "store").records(names)}
    now = {r.key: r for r in open_store(tmp_path / "x").records(names)}
    assert before.keys() >= now.keys()
    assert sum(row["records"] for row in rows.values()) == len(now)
    assert sum(row["left out"] for row in rows.values()) == len(before) - len(now)
    same = compared = 0
    for key, record in now.items():
        if source == "hf" and key.task == "gsm8k_sampled" and record.answer != before[key].answer:
            continue  # drawn again
        old, n = before[key].signals, record.token_count
        equal = old["tokens"][:n].tolist() == record.signals["tokens"].tolist()
        compared, same = compared + 1, same + equal
        for name in SIGNALS if equal else ():
            torch.testing.assert_close(record.signals[name], old[name][:n], atol=TOLERANCE, rtol=0)
        assert old.get("prompt_tokens", torch.empty(0)).equal(record.signals.get("prompt_tokens", torch.empty(0)))
    assert compared >= len(before) - 48
    assert same >= 0.97 * compared if source == "hf" else same == compared
    for task in ("lambada", "lambada_rolling", "piqa", "strategyqa"):
        assert rows[task]["records"] == rows[task]["requests"]
        assert rows[task]["largest difference"] < (0.01 if source == "hf" else TOLERANCE)
    assert rows["strategyqa_generated"]["records"] == 16
