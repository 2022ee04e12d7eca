"""Probes as folders: saved is loaded to the bit, and what is damaged or of another model is refused."""

import json

import numpy as np
import pytest

from metrics.fitted.estimators import Params, estimators
from metrics.fitted.inputs import Inputs
from metrics.fitted.probe import Probe, differs, digests, load_probe, overlap, save_probe
from metrics.stats import FITS

STORE = {"model": "m", "revision": "main", "weights": "w0", "dtype": "float32", "architecture": "A", "layers": [0, 2]}


def draw(seed=0, n=80):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 6))
    return x, x[:, 1] + rng.normal(size=n) > 0


def made(name, calibration=""):
    x, y = draw()
    target = np.random.default_rng(1).normal(size=(80, 4, 5)) if name == "aseu" else y
    params = estimators()[name].fit(x, target, {}, 0)
    raw = estimators()[name].apply(params, x)
    return Probe(
        f"{name}_probe",
        name,
        Inputs("state_last", (2,), (), ("mean_nll",)),
        2,
        "answer",
        "none",
        STORE,
        False,
        6,
        params,
        digests(["a", "b", "a"]),
        calibration,
        FITS[calibration](raw, y) if calibration else None,
        {"n": 80, "seed": 0},
        "strict-match",
    )


@pytest.mark.parametrize("name", sorted(estimators()))
@pytest.mark.parametrize("calibration", ["", "isotonic", "platt"])
def test_loaded_scores_are_those_saved(tmp_path, name, calibration):
    probe = made(name, calibration)
    save_probe(probe, tmp_path / "p")
    loaded = load_probe(tmp_path / "p")
    new = draw(1)[0]
    np.testing.assert_array_equal(loaded.scores(new), probe.scores(new))
    assert loaded.filter == "strict-match"
    assert (loaded.inputs, loaded.layer, loaded.facts, loaded.store) == (probe.inputs, 2, probe.facts, STORE)
    assert sorted(p.name for p in (tmp_path / "p").iterdir()) == ["model.json", "model.safetensors"]


def test_undefined_inputs_have_no_score():
    probe, new = made("logistic"), draw(1)[0]
    new[0, 3], new[1, 0] = np.nan, np.inf
    scores = probe.scores(new)
    assert np.isnan(scores[:2]).all() and not np.isnan(scores[2:]).any()
    with pytest.raises(ValueError, match="inputs have 5 numbers and the probe learnt from 6"):
        probe.scores(new[:, :5])


def test_two_saves_are_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        save_probe(made("network"), tmp_path / name)
    for file in ("model.json", "model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_damage_is_named(tmp_path):
    save_probe(made("logistic"), tmp_path / "p")
    facts, arrays = tmp_path / "p" / "model.json", tmp_path / "p" / "model.safetensors"
    whole, data = facts.read_text(), arrays.read_bytes()
    arrays.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"model.safetensors differs from its checksum in model.json"):
        load_probe(tmp_path / "p")
    arrays.unlink()
    with pytest.raises(FileNotFoundError, match="copy the whole folder"):
        load_probe(tmp_path / "p")
    facts.write_text(whole.replace('"layer": 2', '"layer": 3'))
    with pytest.raises(ValueError, match="was edited or damaged"):
        load_probe(tmp_path / "p")
    facts.write_text(json.dumps({"schema": 99}))
    with pytest.raises(ValueError, match="schema 99; this version reads up to 1"):
        load_probe(tmp_path / "p")
    facts.write_text("{")
    with pytest.raises(ValueError, match="is not a JSON file"):
        load_probe(tmp_path / "p")
    facts.write_text("[]")
    with pytest.raises(ValueError, match="does not describe a probe"):
        load_probe(tmp_path / "p")
    with pytest.raises(FileNotFoundError, match="is not a probe"):
        load_probe(tmp_path)


def test_a_probe_is_not_written_over(tmp_path):
    save_probe(made("logistic"), tmp_path / "p")
    with pytest.raises(FileExistsError, match="holds a probe already"):
        save_probe(made("logistic"), tmp_path / "p")


def test_which_model_it_is_of():
    probe = made("logistic")
    assert differs(probe, {**STORE, "model": "/elsewhere/m"}) == ""  # equal weights
    assert differs(probe, {**STORE, "weights": "w1"}) == "of m (main, weights w1), the probe of m (main, weights w0)"
    assert differs(probe, {**STORE, "weights": None}) == ""
    assert differs(probe, {"model": "n"}) == "of n, the probe of m (main, weights w0)"


def test_overlap_counts_documents_fitted_on():
    assert overlap(made("logistic"), ["a", "c", "b", "b"]) == 3


def test_an_unknown_estimator_is_named(tmp_path):
    probe = made("logistic")
    save_probe(Probe(**{**vars(probe), "estimator": "later", "params": Params({})}), tmp_path / "p")
    with pytest.raises(ValueError, match="unknown estimator later; upgrade"):
        load_probe(tmp_path / "p")
