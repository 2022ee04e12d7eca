"""Features: declared beside metrics, read from a store as arrays whose rows are those of the scores."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from stores import record, write

from metrics import core, open_store
from metrics.choosing import choose_features
from metrics.cli import main
from metrics.score import FeatureArrays, features, units


@pytest.fixture
def registry(monkeypatch):
    """A feature of the entropies' extremes, gone after the test."""
    monkeypatch.setattr(core, "_features", dict(core.features()))

    @core.feature(unit="nat", source="a test")
    def extremes(entropy: torch.Tensor, *, times: int = 1) -> torch.Tensor:
        """Least and largest entropy."""
        return torch.stack([entropy.min(), entropy.max()]).repeat(times)

    return extremes


@pytest.fixture
def store(tmp_path):
    values = [record(i) for i in (2, 0, 1)]
    values[0].signals["entropy"][1] = torch.nan
    write(tmp_path / "s", [*values, record(3, tokens=1)])  # the last one's answer is empty
    return open_store(tmp_path / "s")


def test_rows_are_those_of_the_scores(registry, store):
    found = store.features("extremes")
    frame = store.scores("mean_entropy")
    assert frame["doc_id"].tolist() == [0, 1, 2, 3]
    assert found["extremes"].shape == (4, 2)
    assert found["extremes"].dtype == np.float64
    for row in range(2):
        entropy = record(row).signals["entropy"][:3]
        np.testing.assert_array_equal(found["extremes"][row], [entropy.min().item(), entropy.max().item()])


def test_rows_without_features_are_nan_with_a_reason(registry, store):
    found = store.features("extremes")
    assert np.isnan(found["extremes"][2:]).all()
    assert found.unscored == {"extremes": {"signal holds NaN": 1, "empty answer": 1}}
    assert not np.isnan(store.features("extremes", span="generation")["extremes"][3]).any()


def test_a_signal_that_was_not_recorded_leaves_no_columns(registry, tmp_path):
    write(tmp_path / "s", [record(0, names=("logprob",))])
    found = open_store(tmp_path / "s").features("extremes")
    assert found["extremes"].shape == (1, 0)
    assert found.unscored == {"extremes": {"signal 'entropy' was not recorded": 1}}


def test_options_stand_in_the_id(registry, store):
    assert list(store.features("extremes(times=3)+extremes")) == ["extremes(times=3)", "extremes"]
    assert store.features("extremes(times=3)")["extremes(times=3)"].shape == (4, 6)
    with pytest.raises(ValueError, match="feature 'extremes': option 'times' takes a value of type int, not 'x'"):
        store.features("extremes(times=x)")
    with pytest.raises(ValueError, match=r"unknown feature 'extreme'. Did you mean 'extremes'"):
        store.features("extreme")
    assert "extremes" in {c.id for c in choose_features("all")}


def test_unequal_widths_are_refused(registry):
    @core.feature(unit="nat", source="a test")
    def ragged(entropy: torch.Tensor) -> torch.Tensor:
        """As long as the answer."""
        return entropy

    records = {r.key: r for r in (record(0, tokens=4), record(1, tokens=5))}
    entries = {key: {"kind": r.kind, "prompt_hash": r.prompt_hash} for key, r in records.items()}
    with pytest.raises(ValueError, match="feature 'ragged' has 3 and 4 entries"):
        features(units(entries), choose_features("ragged"), lambda _, keys: (records[k] for k in keys))


def test_an_intermediate_is_refused(registry):
    @core.feature(unit="1", source="a test")
    def whole(log_probabilities: torch.Tensor) -> torch.Tensor:
        """Something never stored."""
        return log_probabilities.flatten()

    with pytest.raises(ValueError, match="feature 'whole' needs 'log_probabilities', an intermediate"):
        core.load()


def test_features_are_listed(registry):
    shown = CliRunner().invoke(main, ["list", "features", "--format", "csv"], catch_exceptions=False).output
    assert "extremes,times=1," in shown


def test_reasons_of_nothing_are_not_kept():
    assert FeatureArrays({"a": np.zeros((1, 1))}, {"a": {}}).unscored == {}
