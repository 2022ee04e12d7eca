"""Providers: found by name, imported when asked for, and one line where there is none."""

from importlib.metadata import EntryPoint

import pytest

from metrics import providers
from metrics.providers import GROUP, MissingProvider, load


@pytest.fixture
def offered(monkeypatch):
    def offer(*values):
        points = [EntryPoint("encoder", value, GROUP) for value in values]
        monkeypatch.setattr(providers, "entry_points", lambda *, group, name: [p for p in points if p.name == name])

    return offer


def test_what_is_offered_is_returned(offered):
    offered("json:loads", "json:loads")  # an installation of two records of itself
    assert load("encoder")("[1]") == [1]


def test_nothing_offered(offered):
    offered("json:loads")
    with pytest.raises(MissingProvider, match=r"no installed package offers 'answers' .*pip install 'eval-ext'$"):
        load("answers")


def test_two_offers(offered):
    offered("json:loads", "json:dumps")
    with pytest.raises(MissingProvider, match="offered by json:dumps and by json:loads; uninstall all but one"):
        load("encoder")


@pytest.mark.parametrize("value", ["no_such_module:encoder"])
def test_what_it_needs_is_missing(offered, value):
    offered(value)
    with pytest.raises(MissingProvider, match=r"No module named 'no_such_module'; pip install 'eval-ext\[mteb\]'$"):
        load("encoder")
