"""The result file that is meant, what belongs to it, and what it says of its tasks."""

import json

import pytest

from metrics.results import find_results, samples_of, settings_in, store_of


def test_the_newest_result_or_the_one_of_the_run(tmp_path):
    for stamp, run in (("2026-01-01T00-00-00", "a"), ("2026-01-02T00-00-00", "b")):
        content = {"config": {"hf_store": {"store": "s", "run_id": run}}}
        (tmp_path / f"results_{stamp}.json").write_text(json.dumps(content))
    (tmp_path / "results_2025-01-01T00-00-00.json").write_text("{trunc")
    assert find_results(tmp_path).stem == "results_2026-01-02T00-00-00"
    assert find_results(tmp_path, "a").stem == "results_2026-01-01T00-00-00"
    assert store_of(find_results(tmp_path, "a")) == {"store": "s", "run_id": "a"}
    with pytest.raises(FileNotFoundError, match="--output_path"):
        find_results(tmp_path, "c")


@pytest.mark.parametrize("readable", [True, False])
def test_the_last_run_is_the_stores_last_not_the_clocks(readable, tmp_path):
    """The clock went back a day between two runs of one store; another store's result is of that day too."""
    store = tmp_path / "store"
    (store / "shards").mkdir(parents=True)
    runs = [{"run_id": name, "started": "x"} for name in ("first", "second")]
    manifest = {"schema": 1, "model": "m", "signals": {}, "runs": runs}
    (store / "manifest.json").write_text(json.dumps(manifest) if readable else "{trunc")
    for stamp, run, of in (
        ("2026-01-03T00-00-00", "first", store),
        ("2026-01-02T00-00-00", "second", store),
        ("2026-01-02T12-00-00", "other", tmp_path / "elsewhere"),
    ):
        content = {"config": {"hf_store": {"store": str(of), "run_id": run}}}
        (tmp_path / f"results_{stamp}.json").write_text(json.dumps(content))
    assert find_results(tmp_path).stem == f"results_2026-01-0{2 if readable else 3}T00-00-00"


def test_a_result_without_samples_says_what_to_do(tmp_path):
    (tmp_path / "results_1.json").write_text("{}")
    (tmp_path / "samples_t_2.jsonl").write_text("")
    with pytest.raises(ValueError, match="--log_samples, or pass --labels FILE"):
        samples_of(tmp_path / "results_1.json")


def test_directions_and_delimiters_come_from_the_results():
    found = settings_in(
        {
            "higher_is_better": {"a": {"error": False, "acc": True}, "b": {"perplexity": False}},
            "configs": {"a": {"target_delimiter": ""}, "b": {}},
        }
    )
    assert found.lower_is_better == {("a", "error")}  # a document's "perplexity" is logged as a log-likelihood
    assert found.delimiters == {"a": "", "b": " "}
