import sys
from itertools import pairwise

import numpy as np
import pytest

from mteb_ext import layer_plot
from mteb_ext.layer_plot import draw
from mteb_ext.ranking import Options
from mteb_ext.series import Series

FAST = Options(draws=200)


def made(label="m", blocks=4, tasks=4, types=("STS", "STS", "Clustering", "Clustering"), layers=None):
    layers = np.arange(blocks + 1) if layers is None else np.array(layers)
    scores = np.random.default_rng(blocks).random((len(layers), tasks)) / 10 + 0.4
    names = tuple(f"t{i}" for i in range(tasks))
    keys = tuple((label, "", "") for _ in layers)
    return Series(label, label, "", blocks, layers, names, types[:tasks], (("test", ""),) * tasks, scores, keys, {}, ())


@pytest.fixture
def axes(monkeypatch):
    """The panels that are drawn, as data: title and labels, and the lines and bands in it."""
    seen = []
    original = layer_plot._panel

    def spy(axis, *rest):
        original(axis, *rest)
        seen.append(axis)

    monkeypatch.setattr(layer_plot, "_panel", spy)
    return seen


@pytest.mark.parametrize("suffix, start", [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_the_ending_is_the_format_and_files_repeat(tmp_path, suffix, start):
    one, two = tmp_path / f"new/one.{suffix}", tmp_path / f"two.{suffix}"
    assert draw([made()], one, FAST) == one
    draw([made()], two, FAST)
    assert one.read_bytes().startswith(start)
    assert one.read_bytes() == two.read_bytes()


def test_best_and_last_are_marked_where_they_are(tmp_path, axes):
    s = made()
    draw([s], tmp_path / "a.png", FAST)
    curve, best, last = axes[0].lines
    means = s.scores.mean(axis=1)
    np.testing.assert_allclose(curve.get_ydata(), means)
    assert (best.get_xdata()[0], best.get_ydata()[0]) == (means.argmax(), means.max())
    assert (last.get_xdata()[0], last.get_ydata()[0]) == (4, means[4])
    assert (best.get_marker(), last.get_marker()) == ("*", "s")
    assert axes[0].get_xlabel() == "layer (0 = embeddings)"


def test_the_band_has_no_width_at_the_best_layer_and_holds_the_line(tmp_path, axes):
    s = made()
    draw([s], tmp_path / "a.png", FAST)
    (band,) = axes[0].collections
    corners = band.get_paths()[0].vertices
    means = s.scores.mean(axis=1)
    for k, mean in enumerate(means):
        at = corners[corners[:, 0] == k, 1]
        assert at.min() - 1e-9 <= mean <= at.max() + 1e-9
        assert (np.ptp(at) < 1e-9) == (k == means.argmax())


def test_models_of_different_depth_share_a_percent_axis(tmp_path, axes):
    draw([made("a", 4), made("b", 12)], tmp_path / "a.png", FAST)
    assert axes[0].get_xlabel() == "depth, % of the blocks"
    assert [line.get_xdata()[-1] for line in axes[0].lines if len(line.get_xdata()) > 1] == [100, 100]


def test_only_shared_tasks_are_drawn(tmp_path, axes):
    wide, narrow = made("a"), made("b", 6, tasks=2)
    draw([wide, narrow], tmp_path / "a.png", FAST)
    assert axes[0].get_title() == "mean over 2 tasks"
    np.testing.assert_allclose(axes[0].lines[0].get_ydata(), wide.scores[:, :2].mean(axis=1))


def test_fourteen_lines_differ_in_colour_and_have_no_bands(tmp_path, axes):
    draw([made(f"step{i}$") for i in range(14)], tmp_path / "a.png", FAST)
    lines = [line for line in axes[0].lines if len(line.get_xdata()) > 1]
    assert len({line.get_color() for line in lines}) == 14
    assert all(a.get_linestyle() != b.get_linestyle() for a, b in pairwise(lines))
    assert not axes[0].collections


def test_a_panel_per_type(tmp_path, axes):
    s = made()
    draw([s], tmp_path / "a.png", FAST, per_type=True)
    assert [axis.get_title() for axis in axes] == ["mean over 4 tasks", "Clustering (2)", "STS (2)"]
    np.testing.assert_allclose(axes[2].lines[0].get_ydata(), s.scores[:, :2].mean(axis=1))


def test_a_last_layer_that_was_not_evaluated_has_no_mark(tmp_path, axes):
    draw([made(layers=[0, 2])], tmp_path / "a.png", FAST)
    assert len(axes[0].lines) == 2


def test_one_task_has_no_band(tmp_path, axes):
    draw([made(tasks=1)], tmp_path / "a.png", FAST)
    assert axes[0].get_title() == "mean over 1 task"
    assert not axes[0].collections


def test_without_matplotlib_the_remedy_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"needs matplotlib: pip install 'eval-ext\[plots\]'"):
        draw([made()], tmp_path / "a.png", FAST)
