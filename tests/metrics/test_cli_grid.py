"""`eval-ext grid`: what it combines, what it leaves out, and whole tables."""

import csv
import io
import json

import pytest
from commands import ok, refused
from stores import judged, sampled


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    store, path = judged(tmp_path_factory.mktemp("grid"), [float(i % 3 > 0) for i in range(30)])
    return store, "--samples", path.parent, "--repeats", "2"


def test_it_says_what_is_missing(made):
    done = ok("grid", *made, "--metrics", "entropy+margin", "--poolings", "mean")
    assert "not recorded, so 3 combinations are left out: top_logprobs; record with signals=top_logprobs" in done.stderr
    refused("grid", *made, "--metrics", "margin", "--poolings", "mean",
            says="nothing to combine: it lacks top_logprobs; record again with signals=top_logprobs")  # fmt: skip
    refused("grid", *made, "--metrics", "entropi", says="Did you mean 'entropy'?")
    refused("grid", *made, "--metrics", "", says="nothing to combine")


def test_samples_stand_beside_what_is_recorded(tmp_path):
    """What is gathered from samples, or read from texts, is nothing that a store holds by that name."""
    store, samples = sampled(tmp_path, [float(i % 3 > 0) for i in range(30)])
    asked = ("--samples", samples, "--metrics", "entropy", "--poolings", "mean", "--weightings", "uniform")
    against = "discrete_semantic_entropy"
    done = ok("grid", store, *asked, "--repeats", "2", "--against", against, "--format", "json")
    assert "left out" not in done.stderr
    assert against in done.stdout


@pytest.mark.parametrize("layers", ["all", "0+1"])
def test_a_metric_of_layers_that_was_not_recorded_is_named(made, layers):
    asked = ("--poolings", "mean", "--weightings", "uniform", "--layers", layers)
    done = ok("grid", *made, "--metrics", "lens_entropy+entropy", *asked)
    assert "left out: lens_entropy; record with signals=lens_entropy" in done.stderr
    refused("grid", *made, "--metrics", "lens_entropy", *asked,
            says="nothing to combine: it lacks lens_entropy; record again with signals=lens_entropy")  # fmt: skip


GRID = ("--metrics", "entropy+nll", "--poolings", "mean+max+top_share", "--weightings", "uniform")


@pytest.mark.parametrize("format_", ["csv", "json"])
def test_all_configurations_in_whole_formats(made, format_):
    text = ok("grid", *made, *GRID, "--top", "0", "--format", format_).stdout
    rows = json.loads(text) if format_ == "json" else list(csv.DictReader(io.StringIO(text)))
    orders = {row["metric"]: row["first_of_order"] for row in rows if row.get("first_of_order")}
    assert set(orders) == {f"{token}:{pool}" for token in ("entropy", "nll") for pool in ("mean", "max", "top_share")}
    assert orders["nll:top_share"] == orders["nll:max"] == "nll:max"  # of so few tokens the share is one
    assert all(orders[first] == first for first in orders.values())


@pytest.mark.slow
def test_two_processes_say_what_one_says(made):
    one, two = (ok("grid", *made, *GRID, "--format", "json", "--jobs", jobs) for jobs in (1, 2))
    assert "2 processes" in two.stderr and one.stdout == two.stdout
