"""Greedy repeats are refused where samples are compared, and said elsewhere; what a run notes of its generations."""

from pathlib import Path

import pytest

from lm_eval_ext.repeats import check_repeats, generations
from metrics.sampled import generation, greedy
from metrics.store import open_store

COLD = {"until": ["w7"], "max_gen_toks": 4, "do_sample": False}
WARM = {**COLD, "do_sample": True, "temperature": 1.0}
WHY = "generated greedily, so all samples of a document are one answer; record with --gen_kwargs do_sample=True"


@pytest.fixture
def asked(instance, words_of):
    """Requests as the harness hands them over: each as often as it is repeated."""

    def make(settings, *, task="toy", repeats=3, documents=2):
        found = [
            instance("generate_until", (words_of(4, i), dict(settings)), i, task=task, repeats=repeats)
            for i in range(documents)
        ]
        return [request for request in found for _ in range(repeats)]

    return make


def heard(capsys, what):
    return [line for line in capsys.readouterr().err.splitlines() if what in line]


def test_greedy_repeats_are_refused_before_the_first_generation(make_lm, asked):
    lm = make_lm(metrics="standard+sampling")
    calls = []
    lm.model.register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(ValueError, match=f"toy: repeats=3, but {WHY}.*, or leave out the metrics of samples") as caught:
        lm.generate_until(asked(COLD), disable_tqdm=True)
    assert "\n" not in str(caught.value)
    assert calls == []
    assert not Path(lm.store_path).exists()  # so that the same command may run again with the settings advised


def test_what_was_recorded_before_a_refusal_is_kept(make_lm, asked, tmp_path):
    lm = make_lm(metrics="standard+sampling", store=tmp_path / "s")
    lm.generate_until(asked(WARM), disable_tqdm=True)
    with pytest.raises(ValueError, match="toy2: repeats=3"):
        lm.generate_until(asked(COLD, task="toy2"), disable_tqdm=True)
    assert len(open_store(tmp_path / "s")) == 6
    again = make_lm(metrics="standard+sampling", store=tmp_path / "s", store_mode="resume")
    with pytest.raises(ValueError, match="toy: repeats=3"):
        again.generate_until(asked(COLD), disable_tqdm=True)
    assert len(open_store(tmp_path / "s")) == 6


def test_greedy_repeats_are_said_and_evaluated_where_no_samples_are_compared(make_lm, make_hf, asked, capsys, reopened):
    lm = make_lm()
    assert lm.generate_until(asked(COLD), disable_tqdm=True) == make_hf().generate_until(asked(COLD), disable_tqdm=True)
    (line,) = heard(capsys, "greedily")
    assert line.startswith(f"hf-store: toy: repeats=3, but {WHY}")
    assert greedy(reopened(lm).manifest, "toy")


@pytest.mark.parametrize("settings", [WARM, {**COLD, "do_sample": None, "temperature": 0.7}])
def test_draws_pass(settings, make_lm, asked, capsys):
    lm = make_lm(metrics="standard+sampling")
    assert len(lm.generate_until(asked(settings), disable_tqdm=True)) == 6
    assert heard(capsys, "sampl") == heard(capsys, "greedily") == []


def test_one_sample_a_document_is_said(make_lm, asked, capsys):
    lm = make_lm(metrics="sampling")
    lm.generate_until(asked(COLD, repeats=1), disable_tqdm=True)
    (line,) = heard(capsys, "repeats")
    assert "toy: one answer a document (repeats: 1), so metrics of samples will be unscored; set repeats" in line


def test_one_greedy_task_among_others_is_named(asked):
    asked_for = generations([*asked(COLD, task="a"), *asked(WARM, task="b"), *asked(COLD, task="c", repeats=1)])
    with pytest.raises(ValueError, match=r"^a: repeats=3, but"):
        check_repeats(asked_for, {}, samples=True, tell=pytest.fail)
    check_repeats(asked_for[1:], {"top_k": None}, samples=True, tell=pytest.fail)
    with pytest.raises(ValueError, match=r"^b: repeats=3, but"):
        check_repeats(asked_for[1:], {"top_k": 1}, samples=True, tell=pytest.fail)  # the model's own


def test_generations_by_setting(asked):
    found = generations([*asked(COLD, task="a"), *asked(WARM, task="b"), *asked(COLD, task="c"), *asked(COLD)])
    assert [(entry["tasks"], entry["repeats"]) for entry in found] == [(["a", "c", "toy"], 3), (["b"], 3)]
    assert [entry["settings"] for entry in found] == [COLD, WARM]


def test_the_manifest_tells_each_tasks_settings_through_calls_and_runs(make_lm, asked, tmp_path):
    first = make_lm(store=tmp_path / "s")
    first.generate_until([*asked(WARM, task="a"), *asked(COLD, task="b", repeats=1)], disable_tqdm=True)
    first.generate_until(asked({**WARM, "temperature": 0.5}, task="c"), disable_tqdm=True)
    first.recorder.close()
    again = make_lm(store=tmp_path / "s", store_mode="resume")
    again.generate_until(asked(WARM, task="a"), disable_tqdm=True)  # all of it from the store
    assert again.recorder.served == 6
    again.recorder.close()
    manifest = open_store(tmp_path / "s").manifest
    assert [entry["tasks"] for entry in manifest["runs"][0]["generation"]] == [["a"], ["b"], ["c"]]
    assert [entry["tasks"] for entry in manifest["runs"][1]["generation"]] == [["a"]]
    assert generation(manifest, "a") == WARM
    assert generation(manifest, "c")["temperature"] == 0.5
    assert greedy(manifest, "b") and not greedy(manifest, "a")


def test_greedy_repeats_of_a_store_are_unscored_with_the_reason(make_lm, asked, reopened):
    lm = make_lm()
    lm.generate_until(asked(COLD), disable_tqdm=True)
    frame = reopened(lm).scores("discrete_semantic_entropy")
    assert frame["discrete_semantic_entropy"].isna().all()
    ((reason, count),) = frame.attrs["unscored"]["discrete_semantic_entropy"].items()
    assert reason.startswith("generated greedily") and count == len(frame)
